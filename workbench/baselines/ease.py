"""EASE^R: a linear item-to-item model with a closed form, often hard to beat on small catalogues."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.baselines.baseline import Baseline
from workbench.data import Sequences
from workbench.data.popularity import training_part
from workbench.data.sequences import Part

BLOCK = 1024
"""Items whose co-occurrences with all others are counted at once."""

MOST_ITEMS = 40_000
"""The largest catalogue that is inverted: it takes 8 N² bytes twice."""


def interaction_matrix(sequences: Sequences, part: Part | None) -> Float[Tensor, "U N"]:
    """A sparse 0/1 matrix of users and the items that `part` learns from, each pair once."""
    learned = training_part(sequences, part)
    users = np.repeat(np.arange(sequences.num_users), sequences.lengths)[learned]
    items = sequences.item_ids[learned] - 1
    pairs = np.unique(users * sequences.num_items + items)
    where = torch.from_numpy(np.stack([pairs // sequences.num_items, pairs % sequences.num_items]))
    shape = (sequences.num_users, sequences.num_items)
    return torch.sparse_coo_tensor(where, torch.ones(len(pairs)), shape, check_invariants=False).coalesce()


class EASE(Baseline):
    """score(u, x) = Σ_{i in history of u} B_ix,  B = I − P diag(P)⁻¹,  P = (XᵀX + λ I)⁻¹, X the users × items matrix.

    B minimises |X − X B|² + λ |B|² under a diagonal of zeros. λ is `regularization`; X holds the interactions that
    `part` learns from (None: all). All of the history counts, in any order.
    Raises ValueError if λ is not positive, or the catalogue is larger than `MOST_ITEMS`.
    Source: "Embarrassingly Shallow Autoencoders for Sparse Data" (Steck, WWW 2019), equations 5 to 8.
    """

    def __init__(
        self, sequences: Sequences, regularization: float = 500.0, part: Part | None = "train"
    ) -> None:
        if not regularization > 0:
            raise ValueError(f"regularization must be positive, not {regularization}")
        if sequences.num_items > MOST_ITEMS:
            raise ValueError(
                f"EASE inverts an items × items matrix: {sequences.name} has {sequences.num_items:,} items, more than"
                f" {MOST_ITEMS:,}; leave it out, or keep fewer items (a k-core)"
            )
        met = interaction_matrix(sequences, part)
        few_users = sequences.num_users < sequences.num_items
        inverse = (_inverse_by_users if few_users else _inverse_by_items)(met, regularization)
        weights = inverse / -inverse.diagonal()
        self.weights = weights.fill_diagonal_(0.0).float()

    def scores(
        self, histories: Int[Tensor, "B H"], users: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B N"]:
        """Sums of the rows of B; an item counts once, however often it is in the history."""
        met = torch.zeros(len(histories), len(self.weights) + 1).scatter(1, histories, 1.0)[:, 1:]
        return met @ self.weights


def _inverse_by_items(met: Float[Tensor, "U N"], regularization: float) -> Float[Tensor, "N N"]:
    """(XᵀX + λ I)⁻¹ in float64, from the items' co-occurrences."""
    gram = torch.empty(met.shape[1], met.shape[1], dtype=torch.float64)
    for start in range(0, met.shape[1], BLOCK):
        rows = torch.arange(start, min(start + BLOCK, met.shape[1]))
        gram[:, rows] = torch.sparse.mm(met.T, met.index_select(1, rows).to_dense()).double()
    gram.diagonal().add_(regularization)
    return torch.linalg.inv(gram)


def _inverse_by_users(met: Float[Tensor, "U N"], regularization: float) -> Float[Tensor, "N N"]:
    """The same by Woodbury's identity, (I − Xᵀ (λ I + X Xᵀ)⁻¹ X) / λ: the matrix to invert has a row per user."""
    dense = met.to_dense().double()
    between = dense @ dense.T
    between.diagonal().add_(regularization)
    inverse = dense.T @ torch.linalg.solve(between, dense) / -regularization
    inverse.diagonal().add_(1 / regularization)
    return inverse
