"""Jagged batches: the valid positions of all users end to end, without padding."""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from workbench.contracts import SequenceBatch


def jagged(batch: SequenceBatch) -> tuple[Int[Tensor, "T"], Int[Tensor, "_"]]:
    """The item ids of a batch end to end (T,), and the offsets (B + 1,) between histories; both int64.

    Row b is values[offsets[b] : offsets[b + 1]], and T = Σ lengths. `flatten` brings another field of the batch
    into the same order.
    """
    starts = batch.lengths.new_zeros(1)
    return flatten(batch.item_ids, batch.lengths), torch.cat([starts, batch.lengths.cumsum(0)])


def flatten(padded: Shaped[Tensor, "B L *W"], lengths: Int[Tensor, "B"]) -> Shaped[Tensor, "T *W"]:
    """The valid positions of a right-padded tensor, row after row.

    >>> flatten(torch.tensor([[5, 6, 0], [7, 0, 0]]), torch.tensor([2, 1])).tolist()
    [5, 6, 7]
    """
    return padded[_valid(lengths, padded.shape[1])]


def unflatten(
    values: Shaped[Tensor, "T *W"], lengths: Int[Tensor, "B"], length: int
) -> Shaped[Tensor, "B L *W"]:
    """The right-padded tensor of which `flatten` took the valid positions; 0 elsewhere.

    `length` is L.
    Raises ValueError if `lengths` do not add up to T, or one exceeds L.

    >>> unflatten(torch.tensor([5, 6, 7]), torch.tensor([2, 1]), 3).tolist()
    [[5, 6, 0], [7, 0, 0]]
    """
    if int(lengths.sum()) != len(values) or (len(lengths) and int(lengths.max()) > length):
        raise ValueError(
            f"lengths {lengths.tolist()} do not describe {len(values)} values in rows of {length}"
        )
    padded = values.new_zeros(len(lengths), length, *values.shape[1:])
    padded[_valid(lengths, length)] = values
    return padded


def _valid(lengths: Int[Tensor, "B"], length: int) -> Tensor:
    return torch.arange(length, device=lengths.device) < lengths[:, None]  # (B, L)
