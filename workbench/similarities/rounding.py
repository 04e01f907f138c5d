"""How far computed numbers can be from exact ones: what a bound needs so that it holds for scores as they are computed.

All errors are float64: a norm squared in float32 vanishes below 1e-23, and an error of 0 is a false one.
"""

from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SPARE_TERMS = 8
"""Roundings besides the sum itself that a bound leaves room for: of norms, of the result, of the bound."""

ABOVE = 1 + 1e-6
"""What norms are multiplied by, so that they stay upper bounds when they are rounded."""

UNKNOWN = float("inf")

AT_ONCE = 1 << 18
"""Numbers that are held in double precision together."""


def peak(values: Float[Tensor, "*S"] | None) -> float:
    """The largest absolute value, without a copy; 0 of nothing, NaN if a value is.

    >>> peak(torch.tensor([1.0, -3.0])), peak(None), peak(torch.ones(0))
    (3.0, 0.0, 0.0)
    """
    if values is None or not values.numel():
        return 0.0
    return max(abs(float(end)) for end in values.aminmax())


def norms(vectors: Float[Tensor, "*S d"]) -> Float[Tensor, "*S"]:
    """At least the norm of each vector, float64; +inf if a value is not finite.

    Double precision is taken of a part of the vectors at a time: of all it would be twice what they hold.

    >>> norms(torch.tensor([3e-30, 4e-30])) / 5e-30
    tensor(1.0000, dtype=torch.float64)
    >>> bool((norms(torch.ones(AT_ONCE + 1, 2, 1)) >= 1).all())
    True
    """
    if vectors.numel() <= AT_ONCE:  # queries, on every search
        return _norms(vectors)
    parts = _parts(vectors)
    # Written in place: small results kept from between large temporaries would leave gaps that these do not fit into again.
    found = parts[0].new_empty(vectors.shape[:-1].numel(), dtype=torch.float64)
    for place, part in zip(found.split(len(parts[0])), parts, strict=True):
        place.copy_(_norms(part))
    return found.view(vectors.shape[:-1])


def _parts(vectors: Float[Tensor, "*S d"]) -> Sequence[Float[Tensor, "M d"]]:
    """All vectors, in parts of about `AT_ONCE` numbers."""
    width = vectors.shape[-1]
    return vectors.reshape(-1, width).split(max(1, AT_ONCE // width))


def _norms(vectors: Float[Tensor, "*S d"]) -> Float[Tensor, "*S"]:
    if vectors.dtype == torch.float64:  # whose squares underflow too
        scale = vectors.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        lengths = torch.linalg.vector_norm(vectors / scale, dim=-1) * scale[..., 0]
    else:
        lengths = torch.linalg.vector_norm(vectors, dim=-1, dtype=torch.float64)
    return (lengths * ABOVE).nan_to_num_(nan=UNKNOWN, posinf=UNKNOWN)


def largest_norm(vectors: Float[Tensor, "*S d"]) -> Float[Tensor, ""]:
    """At least the largest norm, float64; 0 without vectors, +inf if a value is not finite."""
    largest = torch.zeros((), dtype=torch.float64, device=vectors.device)
    for part in _parts(vectors) if vectors.numel() else ():
        largest = torch.maximum(largest, _norms(part).amax())
    return largest


@cache
def sum_error(terms: int, dtype: torch.dtype) -> float:
    """γ: a sum of `terms` products, in whatever order, is off by at most γ Σ |x_i y_i|.

    γ = n u / (1 − n u), u the unit roundoff of `dtype`, n `terms` and a few to spare; +inf if n u ≥ 1.
    Source: Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 3.1.

    >>> sum_error(56, torch.float32) < 4e-6
    True
    """
    total = (terms + SPARE_TERMS) * torch.finfo(dtype).eps / 2
    return total / (1 - total) if total < 1 else UNKNOWN


def overflows(
    query_norms: Float[Tensor, "*S"], item_norm: Float[Tensor, ""] | float, dtype: torch.dtype
) -> Bool[Tensor, "*S"]:
    """Whether an inner product of vectors no longer than these may overflow in `dtype`."""
    return ~(query_norms.double() * float(item_norm) < torch.finfo(dtype).max / 4)


def products_fit(query_norm: float, item_norm: float, dtype: torch.dtype) -> bool:
    """Whether no inner product of vectors no longer than these overflows in `dtype`; False if a norm is NaN or infinite.

    >>> products_fit(1e19, 1e18, torch.float32), products_fit(1e19, 1e20, torch.float32)
    (True, False)
    """
    return query_norm * item_norm < torch.finfo(dtype).max / 4


def product_error(
    query_norms: Float[Tensor, "*S"], item_norm: Float[Tensor, ""] | float, width: int, dtype: torch.dtype
) -> Float[Tensor, "*S"]:
    """How far an inner product of `width` terms, computed in `dtype`, can be from the exact one: γ |q| |x|, and underflow.

    `item_norm` is the largest |x|. Never 0, so that a score within a bound is below it and ties are not cut off. +inf if the
    product may overflow. Underflow counts for the terms of the sum, and for values so small that the processor takes them
    for 0. Half precision is taken at its word, though most hardware sums in float32.
    """
    norm, tiny = float(item_norm), max(torch.finfo(dtype).tiny, torch.finfo(torch.float32).tiny)
    underflow = (width + 1) * tiny
    # γ |q| |x| + underflow · (1 + |q| + |x|), in few operations: they are small, and of every search.
    error = query_norms.double() * (sum_error(width, dtype) * norm + underflow) + underflow * (1 + norm)
    return error.masked_fill(overflows(query_norms, norm, dtype), UNKNOWN)


def combination_error(
    query_norms: Float[Tensor, "*S"],
    item_norm: Float[Tensor, ""],
    width: int,
    terms: int,
    weight: float,
    dtype: torch.dtype,
) -> Float[Tensor, "*S"]:
    """How far a combination of inner products of `width` terms, computed in `dtype`, can be from the exact one.

    The combination has `terms` terms, with weights of at least 0 that sum to `weight` (and are computed themselves, as a
    softmax is). No inner product is larger than |q| |x|: the error is that of `weight` products, and of adding up.
    """
    norm = float(item_norm)
    inner = product_error(query_norms, norm, width, dtype)
    # weight · (inner + γ (|q| |x| + inner))
    share = weight * sum_error(2 * terms + 2 * SPARE_TERMS, dtype)
    return inner * (weight + share) + query_norms.double() * (share * norm)
