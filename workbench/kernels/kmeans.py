"""Lloyd's algorithm."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def lloyd(
    vectors: Float[Tensor, "N F"],
    centres: Float[Tensor, "C F"],
    steps: int,
    nearest: Callable[[Tensor, Tensor], Int[Tensor, "N"]],
) -> Float[Tensor, "C F"]:
    """The centres after `steps` steps: each the mean of the vectors that it is nearest to; one without any stays.

    `nearest` gives the row of the nearest centre of each vector.

    >>> line = torch.tensor([[0.0], [1.0], [8.0], [10.0]])
    >>> lloyd(line, line[:2], 3, lambda v, c: torch.cdist(v, c).argmin(1)).flatten().tolist()
    [0.5, 9.0]
    """
    for _ in range(steps):
        member = nearest(vectors, centres)
        sums = torch.zeros_like(centres).index_add_(0, member, vectors)
        sizes = member.bincount(minlength=len(centres))[:, None]
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return centres
