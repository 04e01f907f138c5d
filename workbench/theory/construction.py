"""Universality in numbers: two components and a free gate give any score matrix; the printed lemma does not.

Claim (RAILS, arXiv 2407.15462, theorem 1): a mixture of logits approximates any score matrix A, whatever the width of its
components. The printed proof factors A, keeps a part of rank d, and lets the gate scale each of its entries to A's. That
needs an entry to scale: if the kept part is 0 and A is not, no gate helps. Two constant components have no such condition.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.theory.floor import best_factors


@dataclass(frozen=True)
class TwoComponents:
    """φ = π ⊙ B₁ + (1 − π) ⊙ B₂ with B₁ = +c, B₂ = −c: components of width 1, the same for every query and item.

    `gate` (B, N) in [0, 1], the weight of the first; `level` c.
    """

    gate: Float[Tensor, "B N"]
    level: float

    def scores(self) -> Float[Tensor, "B N"]:
        """π c − (1 − π) c."""
        return self.gate * self.level + (1 - self.gate) * -self.level


def two_components(target: Float[Tensor, "B N"]) -> TwoComponents:
    """The mixture of two components that equals the target: c = max |A|, π = (1 + A / c) / 2.

    Exact but for rounding, for every matrix. The components have length 1 once divided by c (so they may be normalised, with
    temperature 1 / c). All of the rank is in the gate: the theorem says as much about gates as about mixtures.

    >>> two_components(torch.tensor([[3.0, -1.0]])).scores().tolist()
    [[3.0, -1.0]]
    """
    level = float(target.abs().max()) or 1.0
    return TwoComponents((1 + target / level) / 2, level)


def rescaled_truncation(
    target: Float[Tensor, "B N"],
    width: int,
    factors: tuple[Float[Tensor, "B D"], Float[Tensor, "N D"]] | None = None,
) -> Float[Tensor, "B N"]:
    """The printed lemma's construction: the product of the factors cut at `width`, each entry scaled to the target's.

    `factors` U (B, D), V (N, D) with A = U Vᵀ; those of the singular value decomposition by default. The weight of entry (i, j)
    is the ratio A_ij / ⟨U_i, V_j⟩ over the first `width` dimensions. Where that product is 0, any weight leaves 0: the
    entry stays 0 whatever the target wants. (The ratios may be negative or large, which costs a second component and a
    scale; that part of the proof holds.)
    """
    u, v = best_factors(target, min(target.shape)) if factors is None else factors
    product = u[:, :width] @ v[:, :width].T
    weight = torch.where(product == 0, 0.0, target / product)
    return weight * product


def circle(n: int) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N 2"]]:
    """Query and item vectors of width 2, n points of a circle: ⟨q_i, x_j⟩ = cos(2π(i − j)/n) is largest where i = j.

    A dot product of width 2 that ranks as the identity does, first place for first place, though no matrix of rank 2 is near
    the identity: the floor bounds the values, and a retriever needs only the order.
    """
    angle = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
    points = torch.stack([angle.cos(), angle.sin()], dim=-1)
    return points, points
