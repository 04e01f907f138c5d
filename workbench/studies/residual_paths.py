"""Paths that are learned by no gradient: residual k-means as a structure model, the null model of Deep Retrieval's index."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.similarities.deep_retrieval.structure import StructureModel
from workbench.similarities.sparcode.quantizer import QuantizerConfig, VectorQuantizer, nearest


@torch.no_grad()
def fit_residual(structure: StructureModel, users: Float[Tensor, "T D"], generator: torch.Generator) -> None:
    """Make `structure` the posterior of residual k-means of `users`: p(c_d | x, c_<d) ∝ exp(−|x − Σ_<d e − e_{c_d}|² / 2 s²).

    e are the K centres of each layer's k-means, of what earlier layers left, and s² is the mean squared entry of what this
    layer leaves. A structure model with 2 D hidden units and nodes of width D is that exactly: ReLU(r) − ReLU(−r) = r.
    Raises ValueError if its widths are others.
    """
    dim = users.shape[1]
    hidden = structure.user_parts[0].out_features
    if hidden != 2 * dim or (structure.depth > 1 and structure.nodes[0].shape[1] != dim):
        raise ValueError(f"residual k-means of width {dim} needs hidden = {2 * dim} and node_dim = {dim}")
    codes = VectorQuantizer(QuantizerConfig(structure.depth, structure.width, residual=True), dim)
    codes.fit(users, generator)
    both = torch.cat([torch.eye(dim), -torch.eye(dim)])
    left = users
    for level, centres in enumerate(codes.codewords):
        left = left - centres[nearest(left, centres)]
        precision = 1 / float(left.square().mean().clamp(min=1e-12))
        user, output = structure.user_parts[level], structure.outputs[level]
        assert isinstance(user, nn.Linear) and isinstance(output, nn.Linear)
        user.weight.copy_(both)
        user.bias.zero_()
        for part in structure.parts_of(level):
            part.weight.copy_(-both)
        if level + 1 < structure.depth:
            structure.nodes[level].copy_(centres)
        output.weight.copy_(precision * torch.cat([centres, -centres], dim=1))
        output.bias.copy_(-precision / 2 * centres.square().sum(1))
