"""Jagged histories of all users, and the padded batches that encoders read."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from workbench.contracts import SequenceBatch
from workbench.data.errors import DataError
from workbench.data.ids import SourceIds
from workbench.runtime import derived_seed

Part = Literal["train", "train and validation", "validation", "test"]
"""What is predicted: training positions, with those of the validation targets or without, or one held-out target per user."""
Split = Literal["leave-one-out", "temporal"]
Window = Literal["last", "anywhere"]
Ties = Literal["source", "pandas", "shuffled"]
"""Interactions of one user at the same time stand as in the source ("source"), or as pandas' default sort of all rows by time
leaves them ("pandas"), which is not stable: the published code's order, which depends on numpy's version and the processor;
"shuffled": in a random order of seed 0."""
WINDOWS = 7_654_321
"""The stream of random numbers for windows, separate from that for the order of users."""
HELD_OUT: dict[Part, int] = {"train": 2, "train and validation": 1, "validation": 1, "test": 0}
"""Interactions after the target that a part of the leave-one-out split must not see."""


@dataclass(frozen=True)
class Cuts:
    """A temporal split: targets of validation come at or after the second `validation`, those of test at or after `test`.

    Raises ValueError if `validation` is after `test`.
    """

    validation: int
    test: int

    def __post_init__(self) -> None:
        if self.validation > self.test:
            raise ValueError(f"validation must not begin after test: {self}")


@dataclass(frozen=True)
class Sequences:
    """Every user's interactions in time order, stored end to end.

    User u (dense, 0..U−1) owns `item_ids[offsets[u]:offsets[u + 1]]` and the same slice of `timestamps` (int64 seconds) and
    `ratings` (float32, NaN if the source has none). Item ids are dense, 1..N. `items` is the item table: one row per dense id
    in order (row i is item i + 1) with at least `item_id` (the source's id, int64 or text) and `title`; `users` likewise with
    `user_id`. `name` is the dataset's name. `ordered`: whether the source has an order in time; if not, a user's interactions
    are in the order of the source, which has no meaning. `ties`: the order of a user's interactions at the same time. `cuts`:
    the times of a temporal split; None: leave-one-out.
    Raises ValueError if offsets do not rise from 0 to the number of interactions, columns differ in length, or an item id
    is not in 1..N.
    """

    name: str
    offsets: NDArray[np.int64]
    item_ids: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    ratings: NDArray[np.float32]
    items: pd.DataFrame
    users: pd.DataFrame
    ordered: bool = True
    ties: Ties = "source"
    cuts: Cuts | None = None

    @cached_property
    def item_lookup(self) -> SourceIds:
        """From the source's item ids to dense ones (1..N), and back."""
        return SourceIds("item", self.name, pd.Index(self.items["item_id"]), first=1)

    @cached_property
    def user_lookup(self) -> SourceIds:
        """From the source's user ids to dense ones (0..U−1), and back."""
        return SourceIds("user", self.name, pd.Index(self.users["user_id"]), first=0)

    @property
    def num_users(self) -> int:
        """U."""
        return len(self.offsets) - 1

    @property
    def num_items(self) -> int:
        """N, items without an interaction included."""
        return len(self.items)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Interactions of each user."""
        return np.diff(self.offsets)

    @property
    def split(self) -> Split:
        """How targets are held out: one by one from the end of each user's interactions, or by time."""
        return "leave-one-out" if self.cuts is None else "temporal"

    def after(self, part: Part) -> NDArray[np.int64]:
        """How many interactions follow each user's target of this part: int64 (U,).

        Leave-one-out: none in "test", one in "validation", and two follow the last training position. Temporal: the target
        is a user's first interaction from the cut on, and before the next cut; training ends before the first cut (of "train
        and validation": the second). Who has no interaction there has no target: the number is that of all interactions.
        """
        if self.cuts is None:
            return np.full(self.num_users, HELD_OUT[part])
        late, latest = self._since(self.cuts.validation), self._since(self.cuts.test)
        match part:
            case "train":
                return late
            case "train and validation":
                return latest
            case "validation":
                return np.where(late > latest, late - 1, self.lengths)
            case "test":
                return np.where(latest > 0, latest - 1, self.lengths)

    def _since(self, time: int) -> NDArray[np.int64]:
        """Each user's interactions at or after a time: int64 (U,)."""
        return np.add.reduceat(
            np.append(self.timestamps >= time, False), self.offsets[:-1], dtype=np.int64
        ) * (self.lengths > 0)

    def users_with(self, part: Part) -> NDArray[np.int64]:
        """Users who have, for this part, a target and at least one interaction before it."""
        return np.flatnonzero(self.lengths >= self.after(part) + 2)

    def target_rows(self, users: NDArray[np.int64], part: Part = "test") -> NDArray[np.int64]:
        """Where in `item_ids` the target of each user is: int64, of the shape of `users`.

        Users who have no target have no meaningful row.
        """
        return np.asarray(self.offsets[users + 1] - 1 - self.after(part)[users])

    def targets(self, users: NDArray[np.int64], part: Part = "test") -> NDArray[np.int64]:
        """The target of each user (see `target_rows`), as dense item ids from 1: int64, of the shape of `users`."""
        return np.asarray(self.item_ids[self.target_rows(users, part)])

    def history(self, users: NDArray[np.int64], part: Part = "test") -> NDArray[np.int64]:
        """Every item before each user's target, oldest first and padded with 0: int64 (B, H).

        H is the longest history, whatever an encoder's window.
        Raises ValueError if a user has no target.
        """
        lengths = self.lengths[users] - 1 - self.after(part)[users]
        if (lengths < 0).any():
            raise ValueError(f"users {users[lengths < 0][:3].tolist()} have no {part} target")
        positions = np.arange(lengths.max(initial=0))
        valid = positions < lengths[:, None]
        rows = np.where(valid, self.offsets[users, None] + positions, 0)
        return np.where(valid, self.item_ids[rows], 0)  # (B, H)

    def require_order(self, purpose: str) -> None:
        """Raises DataError if the dataset has no order in time, which `purpose` (begins the message) needs."""
        if not self.ordered:
            raise DataError(
                f"{purpose} needs the order of interactions in time, which {self.name} does not have"
                " (`ordered` is false in its meta.json); use data with timestamps, or a model and protocol without order"
            )

    def fingerprint(self) -> str:
        """16 hex digits by which a checkpoint recognises its training data.

        The start of SHA-256 over offsets, item ids, timestamps, ratings, the source ids of items and users, and the cuts of a
        temporal split; names and titles do not count.
        """
        return self._digest(self.offsets, self.item_ids, self.timestamps, self.ratings)

    def order_fingerprint(self) -> str:
        """16 hex digits that two copies share if times and ratings alone differ.

        Each user has the same items in the same order in both, so that the same ones are targets.
        """
        return self._digest(self.offsets, self.item_ids)

    def id_fingerprint(self) -> str:
        """16 hex digits that two datasets share if their rows are the same items and users, by their source ids."""
        return self._digest()

    def _digest(self, *arrays: NDArray[Any]) -> str:
        """Of the arrays, and of what identifies rows; with arrays also of the cuts, which decide targets."""
        digest = hashlib.sha256()
        for values in (*arrays, *self.item_lookup.arrays(), *self.user_lookup.arrays()):
            digest.update(f"{values.dtype.str}{values.shape}".encode())
            digest.update(np.ascontiguousarray(values).data)
        if arrays and self.cuts is not None:
            digest.update(f"{self.cuts.validation} {self.cuts.test}".encode())
        return digest.hexdigest()[:16]

    def __post_init__(self) -> None:
        if (
            self.offsets[0] != 0
            or self.offsets[-1] != len(self.item_ids)
            or (np.diff(self.offsets) < 0).any()
        ):
            raise ValueError(f"{self.name}: offsets must rise from 0 to {len(self.item_ids)}")
        if not len(self.item_ids) == len(self.timestamps) == len(self.ratings):
            raise ValueError(f"{self.name}: item_ids, timestamps and ratings differ in length")
        if len(self.item_ids) and not 1 <= self.item_ids.min() <= self.item_ids.max() <= len(self.items):
            raise ValueError(f"{self.name}: item ids must lie in 1..{len(self.items)}")


def batch_of(sequences: Sequences, users: NDArray[np.int64], part: Part, max_length: int) -> SequenceBatch:
    """The last `max_length` interactions before each user's target.

    Shapes: B = len(users), L = the longest history among them, at most `max_length`.
    Raises ValueError if a user has no target, or no interaction before it.
    """
    return _before(sequences, users, sequences.target_rows(users, part), max_length)


def _before(
    sequences: Sequences, users: NDArray[np.int64], targets: NDArray[np.int64], max_length: int
) -> SequenceBatch:
    """The last `max_length` interactions before the ones in the rows `targets` (B,)."""
    lengths = np.minimum(targets - sequences.offsets[users], max_length)
    if (lengths < 1).any():
        short = users[lengths < 1][:3].tolist()
        raise ValueError(f"users {short} have no target with an interaction before it")
    positions = np.arange(lengths.max())
    valid = positions < lengths[:, None]
    rows = np.where(valid, (targets - lengths)[:, None] + positions, 0)  # (B, L)

    def padded(values: NDArray[np.int64] | NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(np.where(valid, values[rows], 0).astype(values.dtype))

    return SequenceBatch(
        item_ids=padded(sequences.item_ids),
        timestamps=padded(sequences.timestamps),
        ratings=padded(sequences.ratings),
        lengths=torch.from_numpy(lengths),
        user_ids=torch.from_numpy(users),
        target_ids=torch.from_numpy(sequences.item_ids[targets]),
        target_timestamps=torch.from_numpy(sequences.timestamps[targets]),
    )


@dataclass(frozen=True)
class Batches:
    """The batches of one epoch of a part of the split.

    `part` chooses the target (see `Sequences.after`): the one of "test" or "validation", or the last training position
    ("train", whose batches hold whole training sequences: every position but the last also predicts its successor; "train and
    validation" for protocols that choose no model on validation). With a `seed` the users are
    shuffled, differently in every `epoch`; without one they come in order. `window`: histories end with the part ("last"), or
    each at a position that is drawn again in every epoch ("anywhere": such that `max_length` interactions precede the target,
    if there are that many), so that short histories are learned from all of a user's interactions. `rank` of `world`
    processes takes every world-th batch.

    Raises ValueError if batch_size or max_length is below 1, or a window "anywhere" has no seed to be drawn with.
    """

    sequences: Sequences
    part: Part
    batch_size: int
    max_length: int
    seed: int | None = None
    epoch: int = 0
    rank: int = 0
    world: int = 1
    window: Window = "last"

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_length < 1:
            raise ValueError(
                f"batch_size and max_length must be 1 or more, not {self.batch_size}, {self.max_length}"
            )
        if self.window == "anywhere" and self.seed is None:
            raise ValueError("windows that lie anywhere are drawn: give a seed")

    def _users(self) -> NDArray[np.int64]:
        users = self.sequences.users_with(self.part)
        if self.seed is None:
            return users
        return np.random.default_rng(derived_seed(self.seed, self.epoch)).permutation(users)

    def __len__(self) -> int:
        whole = -(-len(self._users()) // self.batch_size)
        return -(-(whole - self.rank) // self.world)

    def __iter__(self) -> Iterator[SequenceBatch]:
        users = self._users()
        targets = self._targets(users)
        for start in range(self.rank * self.batch_size, len(users), self.batch_size * self.world):
            here = slice(start, start + self.batch_size)
            yield _before(self.sequences, users[here], targets[here], self.max_length)

    def _targets(self, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each user's target."""
        targets = self.sequences.target_rows(users, self.part)
        if self.window == "last" or self.seed is None:
            return targets
        earlier = np.maximum(targets - self.sequences.offsets[users] - self.max_length, 0)
        draws = np.random.default_rng(derived_seed(self.seed, self.epoch, WINDOWS))
        return targets - draws.integers(0, earlier + 1)

    def at(self, epoch: int) -> Self:
        """The same batches in another epoch's order."""
        return replace(self, epoch=epoch)
