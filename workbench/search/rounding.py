"""How far computed numbers can be from exact ones: what a bound needs so that it holds for scores as they are computed."""

import torch
from jaxtyping import Float
from torch import Tensor

SPARE_TERMS = 8
"""Roundings besides the sum itself that a bound leaves room for: of norms, of the result, of the bound."""


def sum_error(terms: int, dtype: torch.dtype) -> float:
    """γ: a sum of `terms` products, in whatever order, is off by at most γ Σ |x_i y_i|.

    γ = n u / (1 − n u), u the unit roundoff of `dtype`, n `terms` and a few to spare; +inf where n u ≥ 1.
    Source: Higham, "Accuracy and Stability of Numerical Algorithms" (2002), section 3.1.

    >>> sum_error(56, torch.float32) < 4e-6
    True
    """
    total = (terms + SPARE_TERMS) * torch.finfo(dtype).eps / 2
    return total / (1 - total) if total < 1 else float("inf")


def product_error(
    query_norms: Float[Tensor, "*S"], item_norm: Float[Tensor, ""], width: int, dtype: torch.dtype
) -> Float[Tensor, "*S"]:
    """How far an inner product of `width` terms, computed in `dtype`, can be from the exact one: γ |q| |x|, and underflow.

    `item_norm` is the largest |x|. Never 0, so that a score within a bound is below it and ties are not cut off. Half precision
    is taken at its word, though most hardware sums in float32.
    """
    underflow = (width + 1) * max(torch.finfo(dtype).tiny, torch.finfo(torch.float32).tiny)
    return sum_error(width, dtype) * query_norms * item_norm + underflow


def mixture_error(
    query_norms: Float[Tensor, "*S"],
    item_norm: Float[Tensor, ""],
    width: int,
    components: int,
    dtype: torch.dtype,
) -> Float[Tensor, "*S"]:
    """How far a computed score can lie above the bound of its exact component scores.

    A score is made of `components` inner products of `width` terms, none larger than |q| |x|, by weights that sum to one,
    computed as a softmax is: an inner product's error, and that of adding up the weights and the mixture.
    """
    inner = product_error(query_norms, item_norm, width, dtype)
    return inner + sum_error(2 * components + 2 * SPARE_TERMS, dtype) * (query_norms * item_norm + inner)
