"""What the rooms hand to each other: the shape alphabet, batches, states, results, interfaces. Imports tensor_files alone.

The shape alphabet, used in every annotation and comment of the package:

- B: queries in a batch
- L: sequence length (positions of a padded history)
- N: items of the corpus
- C: candidates of one query
- M: pairs of a query and an item, in any number per query
- D: embedding width
- Pq, Px: query and item component groups; P = Pq · Px
- d: width of one component
- K: requested results
- H: excluded items of one query
- T: valid positions of a batch, all users together

Item ids are dense: 1..N, with 0 for padding. The ids of the source (MovieLens' movieId, say) live in the item table only.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, Generic, Literal, NamedTuple, Self, final, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import TypeVar

from workbench import tensor_files

PADDING_ID = 0
NO_ITEM = -1
STRIP = 192
"""Candidates of a query that `Similarity.score_pairs` scores as one row: pairs are ragged, rows of equal length."""

MISSING = {
    "user_ids": "the ids of the users",
    "target_ids": "the items to predict",
    "target_timestamps": "the time of the request",
}
"""What the optional fields of a batch are, in messages."""


@dataclass(frozen=True)
class _TensorRecord:
    """A frozen dataclass of tensors (or None) that moves between devices and is saved without pickle."""

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same record on `device`; floating-point fields also take `dtype` if one is given."""

        def move(value: Tensor | None) -> Tensor | None:
            if value is None:
                return None
            return value.to(device=device, dtype=dtype if value.is_floating_point() else None)

        return replace(self, **{name: move(value) for name, value in self.tensors().items()})

    def __getitem__(self, rows: slice | Tensor) -> Self:
        """The record of some rows: every field holds one row per query (or item) in its first dimension.

        All rows in a slice are the record itself.
        """
        if isinstance(rows, slice):
            total = max(v.shape[0] for v in self.tensors().values() if v is not None)
            if rows.indices(total) == (0, total, 1):
                return self
        return type(self)(**{name: v if v is None else v[rows] for name, v in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor | None]:
        """The fields by name, in their order: `dataclasses.fields` takes longer than a search should."""
        return dict(vars(self))

    def nbytes(self) -> int:
        """Bytes that the tensors of this record hold."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values() if t is not None)

    def save(self, path: Path) -> None:
        """Write the record as safetensors with a digest of its content, whole or not at all.

        Raises OSError that names the file if it cannot be written (a full disk, say).
        """
        present = {name: tensor for name, tensor in self.tensors().items() if tensor is not None}
        tensor_files.save(present, path, {"record": type(self).__name__})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record written by `save`.

        Raises FileNotFoundError if there is no file, and ValueError that names the file if it is cut short or damaged, holds
        another kind of record, or lacks a field that the record needs.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no {cls.__name__} at {path}")
        tensors, metadata = tensor_files.load(path, "write it again")
        kind = metadata.get("record")
        if kind != cls.__name__:
            raise ValueError(f"{path} holds a {kind or 'file without a record name'}, not a {cls.__name__}")
        optional = {f.name for f in fields(cls) if NoneType in get_args(f.type)}
        names = {f.name for f in fields(cls)}
        if wrong := (names - optional - tensors.keys()) | (tensors.keys() - names):
            raise ValueError(f"{path} and {cls.__name__} differ in their fields: {', '.join(sorted(wrong))}")
        return cls(**{name: tensors.get(name) for name in names})


@dataclass(frozen=True)
class SequenceBatch(_TensorRecord):
    """Histories of B users, oldest first and right-padded with 0, and for each, if it is known, the item to predict.

    `item_ids` int64 (B, L), dense ids; `timestamps` int64 (B, L), seconds; `ratings` float32 (B, L); `lengths` int64 (B,),
    each at least 1 and at most L; `user_ids` int64 (B,), dense 0..U−1; `target_ids`, `target_timestamps` int64 (B,), the item
    that came next and when (the time of the request). The last three are None if unknown: what needs one takes it by `need`,
    which is recorded. `masked` bool (B, L) or None: positions whose item the encoder must not see (masked-item training,
    BERT4Rec).
    """

    item_ids: Int[Tensor, "B L"]
    timestamps: Int[Tensor, "B L"]
    ratings: Float[Tensor, "B L"]
    lengths: Int[Tensor, "B"]
    user_ids: Int[Tensor, "B"] | None = None
    target_ids: Int[Tensor, "B"] | None = None
    target_timestamps: Int[Tensor, "B"] | None = None
    masked: Bool[Tensor, "B L"] | None = None

    def __len__(self) -> int:
        return self.item_ids.shape[0]

    @property
    def valid(self) -> Bool[Tensor, "B L"]:
        """True for positions with an interaction, False for padding."""
        positions = torch.arange(self.item_ids.shape[1], device=self.lengths.device)
        return positions[None, :] < self.lengths[:, None]

    def need(self, field: Literal["user_ids", "target_ids", "target_timestamps"]) -> Int[Tensor, "B"]:
        """The attribute `name`; ValueError if this batch does not have it."""
        value: Tensor | None = getattr(self, field)
        if value is None:
            raise ValueError(f"{MISSING[field]} must be given here: the batch has no {field}")
        return value

    @classmethod
    def of_histories(
        cls,
        histories: Sequence[Sequence[int]],
        max_length: int,
        *,
        timestamps: Sequence[Sequence[int]] | None = None,
        user_ids: Sequence[int] | None = None,
    ) -> Self:
        """A batch (B, L) without targets: the last `max_length` items of each history (dense ids, oldest first).

        `timestamps` in seconds, one per item; without them all interactions count as simultaneous. Raises ValueError if
        a history is empty, or its timestamps differ from it in number.

        >>> SequenceBatch.of_histories([[3, 1, 2], [5]], max_length=2).item_ids.tolist()
        [[1, 2], [5, 0]]
        """
        if not all(len(history) for history in histories):
            raise ValueError("a history must hold at least one item")
        times = [[0] * len(history) for history in histories] if timestamps is None else timestamps
        if [len(history) for history in histories] != [len(seconds) for seconds in times]:
            raise ValueError("timestamps must hold one time for each item of each history")

        def padded(rows: Sequence[Sequence[int]]) -> Tensor:
            kept = [torch.as_tensor(row[-max_length:], dtype=torch.int64) for row in rows]
            return nn.utils.rnn.pad_sequence(kept, batch_first=True)

        ids = padded(histories)
        return cls(
            item_ids=ids,
            timestamps=padded(times),
            ratings=torch.full(ids.shape, torch.nan),
            lengths=torch.tensor([min(len(history), max_length) for history in histories]),
            user_ids=None if user_ids is None else torch.as_tensor(user_ids, dtype=torch.int64),
        )

    def at_last_interaction(self) -> Self:
        """The same batch, as if each user made the request right after the last interaction: hides the target's time."""
        last = self.timestamps.gather(1, self.lengths[:, None] - 1)[:, 0]
        return replace(self, target_timestamps=last)


@dataclass(frozen=True)
class QueryState(_TensorRecord):
    """All that a similarity needs of B queries, computed once per query. Leaves add their own tensors."""

    def __len__(self) -> int:
        first: Tensor = next(iter(vars(self).values()))
        return first.shape[0]


@dataclass(frozen=True)
class ItemState(_TensorRecord):
    """All that a similarity needs of N items, computed once per corpus. `ids` int64 (N,): the item id of each row."""

    ids: Int[Tensor, "N"]

    def __len__(self) -> int:
        return self.ids.shape[0]

    def upsert(self, items: Self) -> Self:
        """This corpus with `items` in it: a known id keeps its row and gets the new values, new ones are appended in order.

        Raises ValueError if `items` repeats an id, or comes from a similarity of other shapes, dtypes or parts.
        """
        self._check_kin(items)
        mine = {item: row for row, item in enumerate(self.ids.tolist())}
        rows = [mine.get(item, NO_ITEM) for item in items.ids.tolist()]
        put = Upsert(torch.tensor(rows, dtype=torch.int64, device=self.ids.device))
        merged: dict[str, Any] = self.tensors()
        for name, old in merged.items():
            merged[name] = old if old is None else put(old, getattr(items, name))
        return replace(self, **merged)

    def without(self, ids: Int[Tensor, "M"]) -> Self:
        """This corpus less the items `ids`, the others in their order; ValueError if an id is not in it."""
        if len(strangers := ids[~torch.isin(ids, self.ids)]):
            raise ValueError(f"item {int(strangers[0])} is not in this corpus of {len(self)} items")
        return self[~torch.isin(self.ids, ids)]

    def _check_kin(self, items: Self) -> None:
        if type(items) is not type(self):
            raise ValueError(f"the corpus is made of {type(self).__name__}, not of {type(items).__name__}")
        if len(items.ids.unique()) != len(items):
            raise ValueError("the items to put in repeat an id; give each once")
        for f in fields(self):
            old, new = (
                None if t is None else (t.shape[1:], t.dtype, t.device)
                for t in (getattr(self, f.name), getattr(items, f.name))
            )
            if old != new:
                raise ValueError(
                    f"{f.name} of the corpus is {old}, of the items to put in {new}: another model's?"
                )


@dataclass(frozen=True)
class Upsert:
    """Rows of new items put into a tensor of a corpus: `rows` int64 (M,), the row that each replaces, −1 to append it.

    >>> Upsert(torch.tensor([1, -1]))(torch.tensor([10, 20]), torch.tensor([7, 8])).tolist()
    [10, 7, 8]
    """

    rows: Int[Tensor, "M"]

    def __call__(self, old: Tensor, new: Tensor) -> Tensor:
        """`old` (N, …) with the rows of `new` (M, …) in it: a copy."""
        known = self.rows >= 0
        return torch.cat([old.index_copy(0, self.rows[known], new[known]), new[~known]])


@dataclass(frozen=True)
class TopK(_TensorRecord):
    """The best K items of B queries.

    `scores` float (B, K), descending; `ids` int64 (B, K), unique per row, ties in the order of the corpus; past the end of
    what could be found the id is −1 and the score −inf. `exact` bool (B,): proof that no other item belongs in the top K.
    `gap` float (B,): how far an item that is not in the list, and so the true K-th score too, can lie above the last score
    here; 0 if `exact`, +inf if unknown. `num_scored` int64 (B,): pairs whose full similarity was computed.
    """

    scores: Float[Tensor, "B K"]
    ids: Int[Tensor, "B K"]
    exact: Bool[Tensor, "B"]
    gap: Float[Tensor, "B"]
    num_scored: Int[Tensor, "B"]

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def shortfall(self) -> Int[Tensor, "B"]:
        """The number of empty places of each list, if more was requested than could be found."""
        return (self.ids == NO_ITEM).sum(1)


Queries = TypeVar("Queries", bound=QueryState, default=Any)
Items = TypeVar("Items", bound=ItemState, default=Any)
"""The states of one similarity; a bare `Similarity` is one of any states."""


class Encoder(nn.Module, ABC):
    """From a history to a query embedding of width D."""

    objective: Literal["next item", "masked item"]
    uses_order: bool = True
    """Whether the order of a history changes its query embedding; such an encoder needs data that has an order."""

    @abstractmethod
    def forward(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B L D"]:
        """One embedding per position; the values at padding are unspecified (and must be finite).

        Causal encoders ("next item"): the output at position i sees positions 0..i only. "masked item" encoders see both
        sides, except items marked in `batch.masked`.
        """

    @abstractmethod
    def encode(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B D"]:
        """The query embedding of each whole history: what is likely to come after its last position."""


def have_equal_counts(counts: Int[Tensor, "B"]) -> bool:
    """Whether every query has as many pairs as any other, and some.

    >>> have_equal_counts(torch.tensor([2, 2])), have_equal_counts(torch.tensor([0, 0]))
    (True, False)
    """
    return len(counts) > 0 and int(counts[0]) > 0 and bool((counts == counts[0]).all())


def sampled_softmax(scores: Float[Tensor, "T C"], rows: Int[Tensor, "T C"]) -> Float[Tensor, ""]:
    """mean_t (log Σ_c exp scores_tc − scores_t0): the first candidate is the positive, others equal to it count for nothing.

    >>> sampled_softmax(torch.tensor([[1.0, 1.0, 5.0]]), torch.tensor([[3, 7, 3]]))
    tensor(0.6931)
    """
    again = rows == rows[:, :1]
    again[:, 0] = False
    return (scores.masked_fill(again, float("-inf")).logsumexp(1) - scores[:, 0]).mean()


class Similarity(nn.Module, ABC, Generic[Queries, Items]):
    """φ(query, item), from states that it makes itself. Scores only: it never searches."""

    @property
    @abstractmethod
    def pair_bytes(self) -> int:
        """Bytes that `score` holds at its peak per (query, item) pair, its result included; sizes tiles."""

    @abstractmethod
    def queries(self, embeddings: Float[Tensor, "B D"], user_ids: Int[Tensor, "B"] | None = None) -> Queries:
        """What depends on the query alone. ValueError if it depends on users and there are no `user_ids`."""

    @abstractmethod
    def items(self, embeddings: Float[Tensor, "N D"], ids: Int[Tensor, "N"]) -> Items:
        """What depends on the item alone."""

    @abstractmethod
    def score(self, queries: Queries, items: Items) -> Float[Tensor, "B N"]:
        """Every query against every item."""

    @abstractmethod
    def score_candidates(
        self, queries: Queries, items: Items, rows: Int[Tensor, "B C"]
    ) -> Float[Tensor, "B C"]:
        """Each query against its own candidates, given as rows of `items`: the same arithmetic on a gather."""

    def score_pairs(
        self, queries: Queries, items: Items, owners: Int[Tensor, "M"], rows: Int[Tensor, "M"]
    ) -> Float[Tensor, "M"]:
        """Pairs of a query and an item, in any number per query: `owners` are rows of `queries`, ascending.

        Here the pairs of a query are laid out in strips of equal length for `score_candidates`; a similarity overrides it if
        it takes pairs as they are.
        """
        counts = owners.bincount(minlength=len(queries))
        if have_equal_counts(counts):
            return self.score_candidates(queries, items, rows.view(len(queries), -1)).flatten()
        width = max(1, min(STRIP, int(counts.max()))) if len(counts) else 1
        strips = (counts + width - 1) // width
        first = counts.cumsum(0) - counts
        place = torch.arange(len(rows), device=rows.device) - first[owners]
        cell = (strips.cumsum(0) - strips)[owners] * width + place
        of_strip = torch.arange(len(queries), device=strips.device).repeat_interleave(strips)
        # A strip that is not full ends with rows of its own query, so that nothing new is read.
        laid = rows[first[of_strip]][:, None].repeat(1, width).flatten()
        laid[cell] = rows
        scores = self.score_candidates(queries[of_strip], items, laid.view(-1, width))
        return scores.flatten()[cell]

    def sampled_softmax(self, queries: Queries, items: Items, rows: Int[Tensor, "B C"]) -> Float[Tensor, ""]:
        """The loss of the function of this name for the scores of candidates; the first one is the positive.

        A similarity overrides it if there is a faster way than through all scores.
        """
        return sampled_softmax(self.score_candidates(queries, items, rows), rows)

    @abstractmethod
    def regularizers(self, queries: Queries, items: Items, rows: Int[Tensor, "B"]) -> dict[str, Tensor]:
        """Weighted auxiliary losses on the positive pairs (query b, items row b); empty if there are none."""


class AlternatingSimilarity(Similarity[Queries, Items], ABC):
    """A similarity with a part that no gradient reaches: training takes turns between it and the weights.

    All that it learns is kept in parameters and buffers, so that a run resumes from a checkpoint.
    """

    @abstractmethod
    def on_epoch_start(self, epoch: int) -> None:
        """Before epoch `epoch` (from 1): decide what it trains."""

    @abstractmethod
    def on_batch(self, embeddings: Float[Tensor, "T D"], target_ids: Int[Tensor, "T"]) -> None:
        """The queries of one step of training, and the items they chose."""

    @abstractmethod
    def on_epoch_end(self, rows: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """After an epoch: learn that part from all training rows, given as (queries (T, D), item ids (T,)).

        Gives figures by name for the history of the run, the same names after each epoch that has any.
        """


class Reach(NamedTuple):
    """How large what a score has besides its components can be: of an `item` alone, and of a `pair`, for each unit of length of
    the longest query component."""

    item: float
    pair: float


class ComponentSimilarity(Similarity[Queries, Items], ABC):
    """A similarity of P = Pq · Px inner products per pair, from which alone its value can be bounded: MoL, MaxSim, dot."""

    @abstractmethod
    def query_components(self, queries: Queries) -> Float[Tensor, "B Pq d"]:
        """The vectors f_i(q), with the temperature and all else that belongs into s."""

    @abstractmethod
    def item_components(self, items: Items) -> Float[Tensor, "N Px d"]:
        """The vectors g_j(x)."""

    @abstractmethod
    def upper_bound(self, component_logits: Float[Tensor, "*S P"]) -> Float[Tensor, "*S"]:
        """What the score of a pair with these component scores never exceeds, in exact arithmetic.

        Never decreases if a component score grows: of the largest scores per component it bounds a whole set of items.
        """

    @abstractmethod
    def score_error(
        self, queries: Queries, item_norm: Float[Tensor, ""], dtype: torch.dtype
    ) -> Float[Tensor, "B"]:
        """How far a score computed in `dtype` can lie above the `upper_bound` of its exact component scores, float64 (B,).

        `item_norm` float64 is at least the largest |g_j(x)| of the corpus. +inf for a query whose scores may overflow.
        Certificates rest on it: `similarities.rounding` has the errors of inner products and of weighted sums.
        """

    def reach(self, items: Items) -> Reach:
        """Of what a score has besides its components: nothing, unless a similarity overrides this and `parts_fit`."""
        return Reach(0.0, 0.0)

    def parts_fit(self, queries: Queries, longest: float, reach: Reach, dtype: torch.dtype) -> bool:
        """Whether what a score has besides its components cannot overflow in `dtype`, with items of this reach.

        `longest` is at least the largest |f_i(q)|. If it may, a score may be NaN, and nothing is certain of its item.
        """
        return True

    @final
    def component_logits(self, queries: Queries, items: Items) -> Float[Tensor, "B N P"]:
        """The component scores s_p(q, x) = ⟨f_i(q), g_j(x)⟩, p = i · Px + j for query group i and item group j."""
        f, g = self.query_components(queries), self.item_components(items)
        flat = f.flatten(0, 1) @ g.flatten(0, 1).T  # (B·Pq, N·Px)
        grid = flat.view(f.shape[0], f.shape[1], g.shape[0], g.shape[1])  # (B, Pq, N, Px)
        return grid.transpose(1, 2).flatten(2)


class Searcher(ABC):
    """Finds the best K of a corpus it was built for."""

    @abstractmethod
    def search(
        self,
        queries: QueryState,
        k: int,
        exclude: Int[Tensor, "B H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
    ) -> TopK:
        """The best `k` items of each query.

        `exclude` holds item ids to leave out of each query's list, padded with 0. `allowed` holds for each row of the corpus
        whether it may be found at all.

        Raises ValueError if k < 1, k exceeds the corpus, `exclude` or `allowed` has another size or device, or a score
        is NaN.
        """

    @abstractmethod
    def upsert(self, items: ItemState) -> None:
        """Put `items` into the corpus: replace those whose ids are known, append the others.

        Raises ValueError if they come from another model, and NotImplementedError, which names what to do instead, if the
        index can only be rebuilt.
        """

    @abstractmethod
    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """Take items out of the corpus; ValueError if an id is not in it. NotImplementedError as for `upsert`."""
