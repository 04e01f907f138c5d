"""Between padded (B, L, …) and jagged (T, …) tensors: through fbgemm if it is installed, else plain torch."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from workbench import runtime

_FBGEMM = runtime.optional("fbgemm_gpu") is not None
_FBGEMM_TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What fbgemm pads and unpads with a gradient; other types go through torch."""


@dataclass(frozen=True)
class Jagged:
    """The valid positions of a padded (B, L) grid.

    `lengths` (B,), `offsets` (B + 1,) into the jagged rows, `positions` (T,) flat indices b · L + i into the grid, in order.
    """

    lengths: Int[Tensor, "B"]
    offsets: Int[Tensor, "B+1"]
    positions: Int[Tensor, "T"]
    length: int

    def pad(self, values: Tensor) -> Tensor:
        """(T, W) to (B, L, W), zero at padding."""
        if torch.compiler.is_exporting():  # every position counts as valid: see `_whole_grid`
            return values.unflatten(0, (-1, self.length))
        if _FBGEMM and values.dtype in _FBGEMM_TYPES:
            padded: Tensor = torch.ops.fbgemm.jagged_to_padded_dense(
                values, [self.offsets], [self.length], 0.0
            )
            return padded
        grid = values.new_zeros(len(self.lengths) * self.length, values.shape[1])
        return grid.index_copy(0, self.positions, values).unflatten(0, (len(self.lengths), self.length))

    def unpad(self, values: Tensor) -> Tensor:
        """(B, L, W) to (T, W)."""
        if torch.compiler.is_exporting():
            return values.flatten(0, 1)
        if _FBGEMM and values.dtype in _FBGEMM_TYPES:
            jagged: Tensor = torch.ops.fbgemm.dense_to_jagged(values, [self.offsets], len(self.positions))[0]
            return jagged
        return values.flatten(0, 1).index_select(0, self.positions)


def jagged(lengths: Int[Tensor, "B"], length: int) -> Jagged:
    """The layout of B rows with `lengths` valid positions each in a grid of width `length`.

    >>> jagged(torch.tensor([2, 1]), 3).positions.tolist()
    [0, 1, 3]
    """
    valid = torch.arange(length, device=lengths.device) < lengths[:, None]
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return Jagged(lengths, offsets, torch.nonzero(valid.flatten())[:, 0], length)


GROUP_ROWS = 16
"""Histories whose attention is computed together: sorted by length, so that padding is short and maps stay in cache."""


@dataclass(frozen=True)
class Group:
    """Histories of like length: which ones of the order, which jagged rows, and their own layout."""

    histories: slice
    rows: slice
    layout: Jagged


@dataclass(frozen=True)
class ByLength:
    """Histories from the longest to the shortest: their `order` (B,), the jagged layout of all, and groups of like length."""

    order: Int[Tensor, "B"]
    whole: Jagged
    groups: list[Group]

    def flat(self, values: Tensor) -> Tensor:
        """(B, L, W) to (T, W), in this order."""
        return self.whole.unpad(values[self.order])

    def padded(self, values: Tensor) -> Tensor:
        """(T, W) back to (B, L, W), in the order of the batch."""
        return self.whole.pad(values)[torch.argsort(self.order)]


def by_length(lengths: Int[Tensor, "B"], length: int) -> ByLength:
    """The histories of a grid of width `length`, sorted and grouped.

    >>> by_length(torch.tensor([1, 3, 2]), 3).order.tolist()
    [1, 2, 0]
    """
    if torch.compiler.is_exporting():
        return _whole_grid(lengths, length)
    order = torch.argsort(lengths, descending=True, stable=True)
    lengths = lengths[order]
    whole = jagged(lengths, length)
    bounds = whole.offsets.tolist()
    groups = []
    for start in range(0, max(1, len(lengths)), GROUP_ROWS):  # one empty group if there are no histories
        end = min(start + GROUP_ROWS, len(lengths))
        longest = int(lengths[start]) if end else length
        layout = jagged(lengths[start:end], longest)
        groups.append(Group(slice(start, end), slice(bounds[start], bounds[end]), layout))
    return ByLength(order, whole, groups)


def _whole_grid(lengths: Int[Tensor, "B"], length: int) -> ByLength:
    """One group of all positions, in the order of the batch: an exported program has one shape for all lengths.

    Causal encoders give the same outputs at the valid positions: padding comes after them.
    """
    size = lengths.shape[0]
    order, starts, every = (torch.arange(n, device=lengths.device) for n in (size, size + 1, size * length))
    whole = Jagged(torch.full_like(lengths, length), starts * length, every, length)
    return ByLength(order, whole, [Group(slice(None), slice(None), whole)])
