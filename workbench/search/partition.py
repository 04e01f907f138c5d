"""The largest of long rows, quickly.

`torch.topk` looks at every element with a heap, on a CPU at 5 ns each. Here the maxima of groups of columns are ranked
first: the largest k elements lie in the k groups with the largest maxima. Of float32 on a CPU that is done in C++; without
a compiler, and for other dtypes, what is left is partitioned by numpy, which uses the vector instructions that torch does not.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from workbench.kernels import selection

GROUPS_PER_RESULT = 4
"""Columns are grouped only if this many groups remain for each requested element."""


def largest(scores: Float[Tensor, "Q M"], count: int) -> tuple[Float[Tensor, "Q C"], Int[Tensor, "Q C"]]:
    """The largest C = min(count, M) of each row, descending, and their columns; ties in any order, NaN first.

    >>> [t.tolist() for t in largest(torch.tensor([[1.0, 4.0, 2.0]]), 2)]
    [[[4.0, 2.0]], [[1, 2]]]
    """
    width = scores.shape[1]
    count = min(count, width)
    if selection.serves(scores):
        best = selection.largest_columns(scores, count)
        return scores.gather(1, best), best
    group = _group(width, count)
    if group == 1:
        columns = _partition(scores, count)
        return _ordered(scores.gather(1, columns), columns)
    groups = width // group
    # Group m holds columns m, m + groups, m + 2 · groups, …: its maximum is taken over rows of contiguous memory.
    maxima = scores[:, : group * groups].unflatten(1, (group, groups)).amax(1)
    chosen = _partition(maxima, count)
    inside = torch.arange(group, device=scores.device)[:, None] * groups
    columns = (chosen[:, None, :] + inside).flatten(1)  # (Q, group · C)
    rest = torch.arange(group * groups, width, device=scores.device).expand(len(scores), -1)
    columns = torch.cat([columns, rest], dim=1)
    values = scores.gather(1, columns)
    kept = _partition(values, count)
    return _ordered(values.gather(1, kept), columns.gather(1, kept))


def _group(width: int, count: int) -> int:
    """Columns per group: a power of two near √(width / count), where ranking maxima and ranking members cost the same."""
    group = 1
    while 4 * group * group * count <= width and GROUPS_PER_RESULT * 2 * group * count <= width:
        group *= 2
    return group


def _partition(values: Float[Tensor, "Q M"], count: int) -> Int[Tensor, "Q C"]:
    """Columns of the `count` largest of each row, in any order."""
    if values.device.type != "cpu":
        return values.topk(count, dim=1, sorted=False).indices
    if count >= values.shape[1]:
        return torch.arange(values.shape[1]).expand(len(values), -1)
    split = values.shape[1] - count
    return torch.from_numpy(np.argpartition(_array(values), split, axis=1))[:, split:]


def _ordered(
    values: Float[Tensor, "Q C"], columns: Int[Tensor, "Q C"]
) -> tuple[Float[Tensor, "Q C"], Int[Tensor, "Q C"]]:
    if values.device.type == "cpu":  # to numpy NaN is the largest too
        order = torch.from_numpy(np.argsort(_array(values), axis=1)).flip(1)
        return values.gather(1, order), columns.gather(1, order)
    ordered, order = values.sort(dim=1, descending=True)
    return ordered, columns.gather(1, order)


def _array(values: Float[Tensor, "Q M"]) -> NDArray[np.floating]:
    """As numpy has it: without bfloat16."""
    array: NDArray[np.floating] = (
        (values.float() if values.dtype == torch.bfloat16 else values).detach().numpy()
    )
    return array
