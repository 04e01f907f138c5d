"""What a model must predict for a batch: the next item at every position, or the masked items."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import PADDING_ID, SequenceBatch


@dataclass(frozen=True)
class TrainingTargets:
    """The T (position, item) pairs that a batch trains on, all users together, in the order of the batch.

    `positions` int64 (T,): b · L + i for position i of row b, an index into outputs (B, L, D) flattened to
    (B · L, D); `target_ids` int64 (T,): the item to predict there; `user_ids` int64 (T,): whose it is.
    """

    positions: Int[Tensor, "T"]
    target_ids: Int[Tensor, "T"]
    user_ids: Int[Tensor, "T"]

    def __len__(self) -> int:
        return self.positions.shape[0]


def _targets(
    chosen: Bool[Tensor, "B L"], items: Int[Tensor, "B L"], users: Int[Tensor, "B"]
) -> TrainingTargets:
    positions = chosen.flatten().nonzero().squeeze(1)  # (T,)
    return TrainingTargets(positions, items.flatten()[positions], users[positions // chosen.shape[1]])


def next_item(batch: SequenceBatch) -> TrainingTargets:
    """The successor of every interaction: position i predicts item i + 1, the last one `batch.target_ids`.

    The encoder's input is the batch itself, and every valid position is a query: T = Σ_b `batch.lengths[b]`.

    >>> history, length, user = torch.tensor([[5, 6, 0]]), torch.tensor([2]), torch.tensor([9])
    >>> target = torch.tensor([7])
    >>> batch = SequenceBatch(history, history * 0, history * 0.0, length, user, target, target * 0)
    >>> next_item(batch).positions.tolist(), next_item(batch).target_ids.tolist()
    ([0, 1], [6, 7])
    """
    successors = torch.cat([batch.item_ids[:, 1:], torch.full_like(batch.item_ids[:, :1], PADDING_ID)], dim=1)
    successors = successors.scatter(1, (batch.lengths - 1)[:, None], batch.need("target_ids")[:, None])
    return _targets(batch.valid, successors, batch.need("user_ids"))


def later_item(batch: SequenceBatch, generator: torch.Generator) -> TrainingTargets:
    """Any item after each interaction: position i predicts item j, j uniform in i + 1..last, `batch.target_ids` the last one.

    The same positions as `next_item`; for protocols that evaluate not the next item but all of a user's future. The same
    generator state draws the same items, whatever the batch's device.
    """
    width = batch.item_ids.shape[1]
    draws = torch.rand(batch.item_ids.shape, generator=generator, device=generator.device)
    draws = draws.to(batch.lengths.device)
    positions = torch.arange(width, device=batch.lengths.device)
    ahead = batch.lengths[:, None] - positions  # items after position i, the target included
    places = positions + 1 + (draws * ahead).long().clamp(max=(ahead - 1).clamp(min=0))
    sequence = torch.cat([batch.item_ids, torch.full_like(batch.item_ids[:, :1], PADDING_ID)], dim=1)
    sequence = sequence.scatter(1, batch.lengths[:, None], batch.need("target_ids")[:, None])  # (B, L + 1)
    return _targets(batch.valid, sequence.gather(1, places.clamp(max=width)), batch.need("user_ids"))


def masked_item(
    batch: SequenceBatch,
    probability: float,
    generator: torch.Generator,
    max_length: int,
    last_only: float = 0.0,
) -> tuple[SequenceBatch, TrainingTargets]:
    """The training sequence with items hidden at random, and those items as targets (the cloze task).

    The training sequence is the history with its target appended, so that the last item is trained on too; of
    a sequence longer than `max_length` the last `max_length` items are kept. Each item is hidden with
    `probability`, independently, and at least one of each row; with probability `last_only` a row hides its
    last item alone, which is the task that the encoder meets in retrieval. The appended rating is NaN: a
    batch does not hold it. The same generator state hides the same positions, whatever the batch's device.

    Raises ValueError if `probability` lies outside [0, 1) (1 would leave nothing to read), `last_only`
    outside [0, 1], or `max_length` is less than 2.

    Source: BERT4Rec (Sun et al., 2019), section 3.6: the cloze task, and samples that hide the last item
    alone. What differs: those are extra samples there; here they take a share of the rows, so that an
    epoch is one pass over the users.
    """
    if not 0 <= probability < 1 or not 0 <= last_only <= 1:
        raise ValueError(
            f"probability must lie in [0, 1) and last_only in [0, 1], not {probability} and {last_only}"
        )
    if max_length < 2:
        raise ValueError(f"a masked sequence needs room for 2 items or more, not max_length {max_length}")
    sequence = _with_target(batch, max_length)
    draws = torch.rand(sequence.item_ids.shape, generator=generator, device=generator.device)
    row_draws = torch.rand(len(sequence), 1, generator=generator, device=generator.device)
    draws, row_draws = draws.to(batch.lengths.device), row_draws.to(batch.lengths.device)
    valid = sequence.valid
    # The smallest draw of a row never exceeds the threshold: at least one item is hidden, any as likely.
    smallest = draws.masked_fill(~valid, 1.0).amin(dim=1, keepdim=True)
    hidden = valid & (draws <= smallest.clamp(min=probability))
    last = torch.zeros_like(valid).scatter(1, (sequence.lengths - 1)[:, None], True)
    hidden = torch.where(row_draws < last_only, last, hidden)
    sequence = replace(sequence, masked=hidden)
    return sequence, _targets(hidden, sequence.item_ids, sequence.need("user_ids"))


def _with_target(batch: SequenceBatch, max_length: int) -> SequenceBatch:
    """The batch with each target appended to its history, cut to the last `max_length` items."""
    lengths = (batch.lengths + 1).clamp(max=max_length)
    width = min(batch.item_ids.shape[1] + 1, max_length)
    dropped = batch.lengths + 1 - lengths  # (B,)
    sources = torch.arange(width, device=lengths.device) + dropped[:, None]  # (B, width)
    sources = sources.clamp(max=batch.item_ids.shape[1] - 1)
    last = (lengths - 1)[:, None]
    positions = torch.arange(width, device=lengths.device)
    padding = positions >= lengths[:, None]

    def appended(values: Tensor, target: Int[Tensor, "B"] | Float[Tensor, "B"]) -> Tensor:
        return values.gather(1, sources).masked_fill(padding, 0).scatter(1, last, target[:, None])

    return replace(
        batch,
        item_ids=appended(batch.item_ids, batch.need("target_ids")),
        timestamps=appended(batch.timestamps, batch.need("target_timestamps")),
        ratings=appended(batch.ratings, torch.full_like(batch.ratings[:, 0], float("nan"))),
        lengths=lengths,
    )
