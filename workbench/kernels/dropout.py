"""Dropout that does not wait for the random generator."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
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


def kept(
    probability: float, seed: int, rows: Int[Tensor, "t"], shape: tuple[int, ...]
) -> Float[Tensor, "t *S"]:
    """What dropout multiplies each row's elements with: 0 with `probability`, else 1 / (1 − probability), by a hash; float64.

    The same for the same seed, row and number of the element within it, in torch, C++ (`dropout.h`) and Triton.

    >>> kept(0.5, 7, torch.tensor([3]), (1, 4)).tolist()
    [[[2.0, 0.0, 0.0, 0.0]]]
    """
    least = drop_threshold(probability)
    add, flip = row_keys(seed, rows).split(1, dim=1)
    x = torch.arange(math.prod(shape), device=rows.device).to(torch.int32)
    x = x * signed(0x9E3779B1, 32) + add
    x = x ^ _shifted(x, 16, 32)
    x = x * signed(0x7FEB352D, 32) ^ flip
    x = x ^ _shifted(x, 15, 32)
    x = x * signed(0x846CA68B, 32)
    x = x ^ _shifted(x, 16, 32)
    above = (x ^ signed(2**31, 32)) >= least - 2**31  # the order of numbers without a sign
    return above.view(len(rows), *shape).double() * (2**32 / (2**32 - least))


def row_keys(seed: int, rows: Int[Tensor, "t"]) -> Int[Tensor, "t 2"]:
    """What the hash of each row's elements begins with, int32: what is added, and the bits that are flipped."""
    key = _scrambled((rows + 1) * signed(0x9E3779B97F4A7C15, 64) + signed(seed, 64))
    return torch.stack([key.to(torch.int32), (key >> 32).to(torch.int32)], dim=1)


def drop_threshold(probability: float) -> int:
    """The hashes below it are dropped, of 2³²."""
    return round(probability * 2**32)


def signed(value: int, bits: int) -> int:
    """The same bits as a number with a sign."""
    value %= 2**bits
    return value - 2**bits if value >= 2 ** (bits - 1) else value


def _shifted(x: Tensor, by: int, bits: int) -> Tensor:
    """x >> by with zeros from the left."""
    return (x >> by) & (2 ** (bits - by) - 1)


def _scrambled(x: Tensor) -> Tensor:
    """splitmix64."""
    x = (x ^ _shifted(x, 30, 64)) * signed(0xBF58476D1CE4E5B9, 64)
    x = (x ^ _shifted(x, 27, 64)) * signed(0x94D049BB133111EB, 64)
    return x ^ _shifted(x, 31, 64)
