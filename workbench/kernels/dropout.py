"""Dropout that does not wait for the random generator."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """x with elements zeroed with `probability` and the others divided by the share that stays; x itself in evaluation.

    On a CPU torch draws one 64-bit Bernoulli variate after the other, and that dominates small models; here each draw
    serves four elements with 16 bits each, so that the probability is met to within 2⁻¹⁷ (and the scale is that of the
    probability actually used). Elsewhere torch's own.
    """
    if not training or probability == 0:
        return x
    threshold = round(probability * 65536)
    if x.device.type != "cpu" or threshold in (0, 65536):
        return F.dropout(x, probability)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = bits.view(torch.int16)[: x.numel()].view(x.shape) >= threshold - 32768
    return x * (kept.to(x.dtype) * (65536 / (65536 - threshold)))


class Dropout(nn.Module):
    """`dropout` as a module."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"a dropout probability must lie in [0, 1), not {probability}")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return dropout(x, self.probability, self.training)
