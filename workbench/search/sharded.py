"""A corpus cut into shards, in one process or over several: each shard searched on its own, the answers merged exactly."""

import weakref
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import NO_ITEM, ItemState, QueryState, Searcher, TopK
from workbench.search.certificates import Revertible, all_or_nothing, certificate, stated_precision
from workbench.search.topk import NO_SCORE, CorpusRows, check_request

NOWHERE = torch.iinfo(torch.int64).max
"""The place in the corpus of a result that is none: after all others."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FAILURES: tuple[type[Exception], ...] = (ValueError, NotImplementedError, RuntimeError)
MESSAGE_BYTES = 1024

T = TypeVar("T")


def split(items: ItemState, parts: int) -> list[ItemState]:
    """The corpus in at most `parts` runs of consecutive rows, as even as can be; ValueError if `parts` < 1.

    The part of one process of several is `split(items, dist.get_world_size())[dist.get_rank()]`.
    """
    if parts < 1:
        raise ValueError(f"a corpus is cut into at least 1 part, not {parts}")
    parts = max(1, min(parts, len(items)))
    cuts = [len(items) * part // parts for part in range(parts + 1)]
    return [items[start:end] for start, end in pairwise(cuts)]


class Found(NamedTuple):
    """What some shards hold: their best (B, K), descending, and what is known of the items they did not return.

    `places` int64 (B, K): the rows of the items in the whole corpus. `outside_bound` float64 (B,): no item that was not
    returned scores above this, but those of shards whose answer is exact. `num_scored` int64 (B,).
    """

    scores: Float[Tensor, "B K"]
    ids: Int[Tensor, "B K"]
    places: Int[Tensor, "B K"]
    outside_bound: Float[Tensor, "B"]
    num_scored: Int[Tensor, "B"]


def merged(found: Sequence[Found], k: int) -> Found:
    """The best `k` of several answers, ties in the order of the corpus; −inf and id −1 past the end."""
    scores, ids, places = (torch.cat([one[field] for one in found], dim=1) for field in range(3))
    if (short := k - scores.shape[1]) > 0:
        scores = torch.nn.functional.pad(scores, (0, short), value=NO_SCORE)
        ids = torch.nn.functional.pad(ids, (0, short), value=NO_ITEM)
        places = torch.nn.functional.pad(places, (0, short), value=NOWHERE)
    places, order = places.sort(dim=1)
    scores, best = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    best = best[:, :k]
    return Found(
        scores[:, :k],
        ids.gather(1, order).gather(1, best),
        places.gather(1, best),
        torch.stack([one.outside_bound for one in found]).amax(0),
        torch.stack([one.num_scored for one in found]).sum(0),
    )


def answer(found: Found) -> TopK:
    """What was found in all shards of a corpus as the answer over all of it, with its proof."""
    exact, gap = certificate(found.scores[:, -1], found.outside_bound)
    return TopK(found.scores, found.ids, exact, gap, found.num_scored)


def outside_bound(answer: TopK) -> Float[Tensor, "B"]:
    """What no item outside an inexact answer exceeds, in float64: last score + gap and what rounding took from them.

    −inf if the answer is exact, +inf if nothing is known.
    """
    last, gap = answer.scores[:, -1].double(), answer.gap.double()
    lost = 2 * torch.finfo(answer.scores.dtype).eps * (last.abs() + gap)
    bound = torch.where(last.isfinite() & gap.isfinite(), last + gap + lost, -NO_SCORE)
    return bound.masked_fill(answer.exact, NO_SCORE)


class Processes:
    """The processes of a group, or this one alone, and the exchange of values between them.

    The group is not kept alive: a gloo group ends its threads when the last reference goes, and a thread that is still
    letting go of a tensor while the interpreter shuts down ends the process (`terminate called without an active
    exception`). So `destroy_process_group` is enough, whatever searchers are left.
    """

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = None if group is None else weakref.ref(group)
        self.rank = 0 if group is None else dist.get_rank(group)
        self.count = 1 if group is None else dist.get_world_size(group)
        nccl = group is not None and dist.get_backend(group) == "nccl"
        self._device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")

    @property
    def group(self) -> dist.ProcessGroup | None:
        """The group; None if this process is alone; RuntimeError if it was destroyed."""
        if self._group is None:
            return None
        if (group := self._group()) is None:
            raise RuntimeError("the process group of this searcher was destroyed")
        return group

    def gather(self, mine: Tensor) -> list[Tensor]:
        """The tensor of each process, in order of rank; all must have one shape and dtype."""
        if (group := self.group) is None:
            return [mine]
        here = mine.to(self._device).contiguous()
        all_of_them = [torch.empty_like(here) for _ in range(self.count)]
        dist.all_gather(all_of_them, here, group=group)
        return [theirs.to(mine.device) for theirs in all_of_them]

    def broadcast(self, mine: Tensor, rank: int, length: int) -> Tensor:
        """The 1-d tensor of process `rank`, which has `length` values."""
        if (group := self.group) is None:
            return mine
        shared = mine.to(self._device) if rank == self.rank else mine.new_empty(length, device=self._device)
        dist.broadcast(shared, group=group, group_src=rank)
        return shared.to(mine.device)

    def agreed(self, work: Callable[[], T]) -> T:
        """What `work` gives here, once it is done in every process; what fails in one of them fails in all."""
        if self.group is None:
            return work()
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failure = error
        code = 0
        if failure is not None:
            code = 1 + next((i for i, kind in enumerate(FAILURES) if isinstance(failure, kind)), 2)
        codes = [int(theirs) for theirs in self.gather(torch.tensor(code))]
        if not any(codes):
            return result
        text = str(failure).encode()[:MESSAGE_BYTES].ljust(MESSAGE_BYTES)
        texts = self.gather(torch.tensor(list(text), dtype=torch.uint8))
        if failure is not None:
            try:
                raise failure
            finally:
                failure = None  # its traceback holds this frame: they would keep each other, and more, alive
        rank = next(rank for rank, theirs in enumerate(codes) if theirs)
        message = bytes(texts[rank].tolist()).decode(errors="ignore").strip()
        raise FAILURES[codes[rank] - 1](f"{message} (in process {rank})")


class Shard:
    """`searcher` over the items `ids`, None while there are none; `places` (n,): their rows in the whole corpus."""

    def __init__(self, searcher: Searcher | None, ids: Int[Tensor, "n"], places: Int[Tensor, "n"]) -> None:
        self.searcher = searcher
        self.ids = ids
        self.places = places
        self._rows = CorpusRows(ids) if len(ids) else None

    def places_of(self, ids: Int[Tensor, "*S"]) -> Int[Tensor, "*S"]:
        """Places of items, −1 for those that are not in this shard."""
        if self._rows is None:
            return torch.full_like(ids, NO_ITEM)
        rows = self._rows.of(ids)
        return torch.where(rows >= 0, self.places[rows], NO_ITEM)

    def search(
        self,
        queries: QueryState,
        k: int,
        exclude: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Found:
        """The best `k` of this shard, or all if it has fewer; masks are those of the whole corpus."""
        assert self.searcher is not None
        here = self.ids.device
        answer = self.searcher.search(
            queries.to(here),
            min(k, len(self.ids)),
            None if exclude is None else exclude.to(here),
            None if allowed is None else allowed.to(here)[self.places],
        )
        places = self.places_of(answer.ids).masked_fill(answer.ids == NO_ITEM, NOWHERE)
        return Found(answer.scores, answer.ids, places, outside_bound(answer), answer.num_scored)


class Sharded(Searcher):
    """The best k of a corpus that is cut into shards, by any searchers: what one searcher over the whole would find.

    `parts` are the shards of this process, in corpus order; `build` makes the searcher of each. Without `group` they are
    the corpus. With one (`torch.distributed.group.WORLD`, say, of gloo or nccl) every process of it holds parts of its
    own, the corpus is those of rank 0, then those of rank 1, and so on; every method is called in all processes with
    the same arguments and returns the same in all, and what fails in one fails in all. Only answers travel: 24 bytes per
    query and result from each process.

    Ties are in the order of the corpus wherever its items lie. `exact` holds where no item that a shard did not return
    can score above the merged K-th: every shard is exact, or the bound of those that are not does not reach it. `gap` is
    how far the highest bound lies above it, `num_scored` the sum. New items go to the shard that has the fewest.

    Queries, masks and results are on the device of this process's first part; a part on another device is searched there,
    so that one process may use several GPUs.
    Raises ValueError if a process has no part.
    """

    @stated_precision()
    def __init__(
        self,
        build: Callable[[ItemState], Searcher],
        parts: Sequence[ItemState],
        group: dist.ProcessGroup | None = None,
    ) -> None:
        if not parts:
            raise ValueError("a process needs at least one part of the corpus, if only an empty one")
        self._build = build
        self._processes = Processes(group)
        self._device = parts[0].ids.device
        self._nothing = parts[0][:0]
        self._count([len(part) for part in parts])
        self._check_ids(torch.cat([part.ids.to(self._device) for part in parts]))
        searchers = self._processes.agreed(lambda: [build(part) if len(part) else None for part in parts])
        self._shards = []
        place = sum(map(sum, self._sizes[: self._processes.rank]))
        for part, searcher in zip(parts, searchers, strict=True):
            places = torch.arange(place, place + len(part), device=part.ids.device)
            self._shards.append(Shard(searcher, part.ids, places))
            place += len(part)

    def __len__(self) -> int:
        return sum(map(sum, self._sizes))

    def _count(self, mine: list[int]) -> None:
        """Take down how many items each shard of each process has."""
        shards = max(int(theirs) for theirs in self._processes.gather(torch.tensor(len(mine))))
        padded = torch.tensor(mine + [NO_ITEM] * (shards - len(mine)))
        self._sizes = [theirs[theirs >= 0].tolist() for theirs in self._processes.gather(padded)]

    def _check_ids(self, ids: Int[Tensor, "n"]) -> None:
        """Raise if an id is below 1 or there twice; the ids of one process at a time are sent to all."""
        self._processes.agreed(lambda: CorpusRows(ids) if len(ids) or not len(self) else None)
        shared = [ids[:0]]
        for rank, sizes in enumerate(self._sizes[:-1]):
            theirs = self._processes.broadcast(ids, rank, sum(sizes))
            if rank < self._processes.rank:
                shared.append(theirs[torch.isin(theirs, ids)])

        def refuse() -> None:
            if len(twice := torch.cat(shared)):
                raise ValueError(f"item id {int(twice[0])} is in the parts of two processes; give it to one")

        self._processes.agreed(refuse)

    @stated_precision()
    def search(
        self,
        queries: QueryState,
        k: int,
        exclude: Int[Tensor, "B H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
    ) -> TopK:
        """The best `k` (B, K) of all shards; see `Searcher.search`. `allowed` has a row for each item of the corpus."""

        def search_here() -> Found:
            check_request(queries, len(self), self._device, k, exclude, allowed)
            nothing = Found(
                torch.empty(len(queries), 0, dtype=torch.float64, device=self._device),
                torch.empty(len(queries), 0, dtype=torch.int64, device=self._device),
                torch.empty(len(queries), 0, dtype=torch.int64, device=self._device),
                torch.full((len(queries),), NO_SCORE, dtype=torch.float64, device=self._device),
                torch.zeros(len(queries), dtype=torch.int64, device=self._device),
            )
            filled = [shard for shard in self._shards if shard.searcher is not None]
            answers = [shard.search(queries, k, exclude, allowed) for shard in filled]
            here = [Found(*(tensor.to(self._device) for tensor in answer)) for answer in answers]
            return merged(here or [nothing], k)

        return answer(self._together(self._processes.agreed(search_here), k))

    def _together(self, mine: Found, k: int) -> Found:
        """What all processes found, merged: one exchange, of float64 and int64 as they are."""
        if self._processes.group is None:
            return mine
        # A process without items has no dtype of scores; float64, which it sends, holds all others exactly.
        dtype = DTYPES.index(mine.scores.dtype) if any(self._sizes[self._processes.rank]) else NO_ITEM
        asked = torch.stack(self._processes.gather(torch.tensor([len(mine.scores), k, dtype])))
        if (asked[:, :2] != asked[0, :2]).any():
            raise ValueError(
                f"the processes were asked for different searches, of (queries, k) {asked[:, :2].tolist()}"
            )
        ends = torch.stack([mine.outside_bound.view(torch.int64), mine.num_scored], dim=1)
        packed = torch.cat([mine.scores.double().view(torch.int64), mine.ids, mine.places, ends], dim=1)
        found = []
        for theirs in self._processes.gather(packed):  # (B, 3K + 2)
            scores, ids, places, ends = theirs.split([k, k, k, 2], dim=1)
            bound, work = ends.unbind(1)
            found.append(Found(scores.view(torch.float64), ids, places, bound.view(torch.float64), work))
        best = merged(found, k)
        return best._replace(scores=best.scores.to(DTYPES[int(asked[:, 2].max())]))

    def _places_of(self, ids: Int[Tensor, "M"]) -> Int[Tensor, "M"]:
        """The rows of items in the corpus, −1 for those that are not in it."""
        here = [shard.places_of(ids.to(shard.ids.device)).to(ids.device) for shard in self._shards]
        return torch.stack(self._processes.gather(torch.stack(here).amax(0))).amax(0)

    def _in_place(self) -> list[Revertible]:
        """The searchers that a change of the corpus changes, if they can be brought back."""
        searchers: list[object] = [shard.searcher for shard in self._shards]
        return [searcher for searcher in searchers if isinstance(searcher, Revertible)]

    @stated_precision()
    def upsert(self, items: ItemState) -> None:
        """See `Searcher.upsert`: known items where they are, then the new ones in the shard that has the fewest."""
        self._processes.agreed(lambda: self._nothing.upsert(items))  # of the same model, each once
        known = self._places_of(items.ids) >= 0

        def replace_here() -> None:
            for shard in self._shards:
                mine = items[torch.isin(items.ids, shard.ids.to(items.ids.device))].to(shard.ids.device)
                if len(mine) and shard.searcher is not None:
                    shard.searcher.upsert(mine)

        sizes = [(size, rank, i) for rank, theirs in enumerate(self._sizes) for i, size in enumerate(theirs)]
        _, rank, chosen = min(sizes)

        def append_here() -> Shard | None:
            if rank == self._processes.rank and not known.all():
                return self._longer(self._shards[chosen], items[~known])
            return None

        with all_or_nothing(*self._in_place()):
            self._processes.agreed(replace_here)
            longer = self._processes.agreed(append_here)
        if longer is not None:
            self._shards[chosen] = longer
        self._count([len(shard.ids) for shard in self._shards])

    def _longer(self, shard: Shard, items: ItemState) -> Shard:
        items = items.to(shard.ids.device)
        searcher = shard.searcher
        if searcher is None:
            searcher = self._build(items)
        else:
            searcher.upsert(items)
        places = torch.arange(len(self), len(self) + len(items), device=shard.ids.device)
        return Shard(searcher, torch.cat([shard.ids, items.ids]), torch.cat([shard.places, places]))

    @stated_precision()
    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `Searcher.remove`; ValueError too if nothing would be left."""
        ids = ids.unique()
        places = self._places_of(ids)
        if (places < 0).any():
            stranger = int(ids[places < 0][0])
            raise ValueError(f"item {stranger} is not in this corpus of {len(self)} items")
        if len(ids) == len(self):
            raise ValueError(f"these are all {len(self)} items of the corpus: it would be empty")

        def remove_here() -> list[Shard]:
            return [self._shorter(shard, ids.to(shard.ids.device)) for shard in self._shards]

        gone = places.sort().values
        with all_or_nothing(*self._in_place()):
            self._shards = self._processes.agreed(remove_here)
        for shard in self._shards:  # those behind a gap move up
            shard.places -= torch.searchsorted(gone.to(shard.places.device), shard.places)
        self._count([len(shard.ids) for shard in self._shards])

    def _shorter(self, shard: Shard, ids: Int[Tensor, "M"]) -> Shard:
        kept = ~torch.isin(shard.ids, ids)
        if shard.searcher is None or kept.all():
            return shard
        searcher = shard.searcher if kept.any() else None
        if searcher is not None:
            searcher.remove(shard.ids[~kept])
        return Shard(searcher, shard.ids[kept], shard.places[kept])
