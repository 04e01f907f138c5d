"""The smallest error of any dot product of a width: Eckart and Young's theorem, from singular values."""

import torch
from jaxtyping import Float
from torch import Tensor


def relative_error(scores: Float[Tensor, "B N"], target: Float[Tensor, "B N"]) -> float:
    """‖scores − A‖ / ‖A‖ in the Frobenius norm: 0 is exact, 1 is the error of predicting 0 everywhere.

    >>> relative_error(torch.tensor([[3.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    0.8
    """
    target = target.double()
    return float((scores.double() - target).norm() / target.norm())


def sign_agreement(scores: Float[Tensor, "B N"], target: Float[Tensor, "B N"]) -> float:
    """The share of entries whose sign is that of the target.

    >>> sign_agreement(torch.tensor([[0.1, 0.2]]), torch.tensor([[-1.0, 1.0]]))
    0.5
    """
    return float((scores.sign() == target.sign()).double().mean())


def spectrum(scores: Float[Tensor, "B N"]) -> Float[Tensor, "S"]:
    """Singular values σ_1 ≥ σ_2 ≥ … of a score matrix, float64."""
    return torch.linalg.svdvals(scores.double())


def rank(scores: Float[Tensor, "B N"]) -> int:
    """The number of singular values above rounding: σ_i > max(B, N) · ε · σ_1, ε of float64.

    Scores must have been computed in float64 for this to say anything: float32 arithmetic alone makes any matrix full rank.
    """
    return int(torch.linalg.matrix_rank(scores.double()))


def floor_curve(target: Float[Tensor, "B N"]) -> Float[Tensor, "W"]:
    """The floor for every width: entry d is √(Σ_{i>d} σ_i² / Σ σ_i²), for d = 0 … min(B, N).

    No matrix of rank d is nearer to the target in the Frobenius norm (Eckart & Young 1936), and a dot product of width d gives
    a matrix of rank d at most.
    """
    power = spectrum(target).square()
    left = power.flip(0).cumsum(0).flip(0)  # Σ_{i>d} σ_i², small ones first
    return (torch.cat([left, left.new_zeros(1)]) / power.sum()).sqrt()


def floor(target: Float[Tensor, "B N"], width: int) -> float:
    """The smallest relative error of a dot product of `width` on this target; ValueError if width < 0.

    >>> round(floor(torch.eye(4), 3), 3)
    0.5
    """
    if width < 0:
        raise ValueError(f"a dot product has a width of 0 or more, not {width}")
    curve = floor_curve(target)
    return float(curve[min(width, len(curve) - 1)])


def best_factors(
    target: Float[Tensor, "B N"], width: int
) -> tuple[Float[Tensor, "B D"], Float[Tensor, "N D"]]:
    """Query and item vectors (B, D), (N, D) of the dot product that reaches the floor: U√Σ and V√Σ, cut at `width`.

    Widths beyond min(B, N) are filled with 0.
    """
    u, s, vh = torch.linalg.svd(target.double(), full_matrices=False)
    kept = min(width, len(s))
    roots = s[:kept].sqrt()
    pad = (0, width - kept)
    query, item = u[:, :kept] * roots, vh[:kept].T * roots
    return torch.nn.functional.pad(query, pad), torch.nn.functional.pad(item, pad)


def width_of_floats(floats: int, queries: int, items: int) -> int:
    """The width at which a dot product of free vectors has the same number of parameters, rounded: floats / (B + N).

    >>> width_of_floats(2 * 128 * 4 + 4976, 128, 128)
    23
    """
    return max(1, round(floats / (queries + items)))
