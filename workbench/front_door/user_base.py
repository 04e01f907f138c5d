"""The best items of every user over a corpus in partitions: in this process, or by the workers of a Ray cluster.

Each partition holds consecutive items with a copy of the model. It encodes its share of the batches of users, finds the exact
best of its items for all of them, and merges what all partitions found for its share. One loop drives both: on Ray its calls
are remote, and return at once.
"""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench import runtime
from workbench.contracts import ItemState, QueryState, SequenceBatch, TopK
from workbench.evaluation.retrievers import own_index
from workbench.retriever import Retriever
from workbench.search import BruteForce, split
from workbench.search.certificates import stated_precision
from workbench.search.sharded import Found, Shard, answer, merged

On = Literal["here", "ray"]

STARTS = 3
"""Times that a cluster is started, if the first does not come up."""

ROUNDS_AHEAD = 2
"""Batches that are under way for each partition, while the first of them is waited for."""


@dataclass(frozen=True)
class Request:
    """A batch of B users: their histories, or `vectors` (B, D) of a table of queries; `exclude`: dense ids (B, H) or none."""

    batch: SequenceBatch | None
    vectors: Float[Tensor, "B D"] | None
    exclude: Int[Tensor, "B H"] | None


class Partition:
    """A part of the corpus, whose first item is at `place`, with the model that searches it by its own index, or whole."""

    def __init__(self, retriever: Retriever, part: ItemState, place: int) -> None:
        self._retriever = retriever.eval()
        searcher = own_index(retriever.similarity, part) or BruteForce(retriever.similarity, part)
        places = torch.arange(place, place + len(part), device=part.ids.device)
        self._shard = Shard(searcher, part.ids, places)

    @torch.no_grad()
    def encode(self, request: Request) -> QueryState:
        """The query side of a request."""
        if request.vectors is not None:
            return self._retriever.similarity.queries(request.vectors)
        assert request.batch is not None
        return self._retriever.query_state(request.batch)

    @stated_precision()
    def best(self, queries: QueryState, request: Request, k: int) -> Found:
        """The best `k` of this part, or all of it if it has fewer items."""
        return self._shard.search(queries, k, request.exclude, None)

    def merge(self, k: int, *found: Found) -> TopK:
        """The best `k` of what all partitions found for a request."""
        return answer(merged(found, k))


class Partitions(ABC):
    """`count` partitions, wherever they are."""

    count: int

    @abstractmethod
    def call(self, partition: int, method: str, *given: Any) -> Any:
        """Begin a method of `Partition`: its result, or what `value` and other calls take for it."""

    @abstractmethod
    def shared(self, request: Request) -> Any:
        """What several calls take for a request."""

    @abstractmethod
    def value(self, result: Any) -> Any:
        """The result of a call, waited for."""


class Here(Partitions):
    """Partitions in this process, called one after the other."""

    def __init__(self, partitions: list[Partition]) -> None:
        self._partitions = partitions
        self.count = len(partitions)

    def call(self, partition: int, method: str, *given: Any) -> Any:
        """See `Partitions.call`."""
        return getattr(self._partitions[partition], method)(*given)

    def shared(self, request: Request) -> Any:
        """See `Partitions.shared`."""
        return request

    def value(self, result: Any) -> Any:
        """See `Partitions.value`."""
        return result


class OnRay(Partitions):
    """Partitions as Ray's actors, each with one thread, spread over the machines of the cluster."""

    def __init__(self, ray: Any, parts: list[tuple[ItemState, int]], retriever: Retriever) -> None:
        self._ray = ray
        actor = ray.remote(Partition).options(scheduling_strategy="SPREAD")
        model = ray.put(retriever)
        self._actors = [actor.remote(model, *one) for one in parts]
        self.count = len(parts)

    def call(self, partition: int, method: str, *given: Any) -> Any:
        """See `Partitions.call`."""
        return getattr(self._actors[partition], method).remote(*given)

    def shared(self, request: Request) -> Any:
        """See `Partitions.shared`."""
        return self._ray.put(request)

    def value(self, result: Any) -> Any:
        """See `Partitions.value`; RuntimeError if a worker or its machine stopped."""
        try:
            return self._ray.get(result)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            raise RuntimeError(
                f"a worker of Ray stopped ({type(error).__name__}), and nothing is written: run it again, with more"
                " partitions if memory was short"
            ) from error


@contextmanager
def partitions(
    retriever: Retriever, items: ItemState, count: int | None, on: On = "here"
) -> Iterator[Partitions]:
    """The corpus in `count` partitions (at most one per item), ready to be searched; by default 1, on Ray one per core.

    On Ray the cluster of the environment variable `RAY_ADDRESS` is taken, or one that runs on this machine, else one is started
    and stopped again. All machines need this package. Raises ValueError if there is no such place, `count` is below 1, the
    model's own index cannot be cut, or the model is on a GPU and is to go to Ray; ImportError without ray; ConnectionError if
    no cluster answers.
    """
    if on not in get_args(On):
        raise ValueError(f"recommendations are computed on {' or '.join(get_args(On))}, not on {on!r}")
    if count is not None and count < 1:
        raise ValueError(f"a corpus is cut into at least 1 partition, not {count}")
    learned = own_index(retriever.similarity, items) is not None
    if learned and (on != "here" or (count or 1) > 1):
        raise ValueError(
            "this model searches an index that it learned, which cannot be cut: leave out partitions and Ray"
        )
    if on == "here":
        yield Here([Partition(retriever, *one) for one in _parts(items, count or 1)])
        return
    if retriever.device.type != "cpu":
        raise ValueError(
            f"partitions on Ray are searched by CPUs, and the model is on {retriever.device}: load it on cpu"
        )
    with _ray() as ray:
        cores = int(ray.cluster_resources().get("CPU", 1))
        yield OnRay(ray, _parts(items, count or max(1, cores)), retriever)


def _parts(items: ItemState, count: int) -> list[tuple[ItemState, int]]:
    parts = split(items, count)
    ends = torch.tensor([0, *map(len, parts)]).cumsum(0).tolist()
    return [(part, start) for part, (start, _) in zip(parts, pairwise(ends), strict=True)]


@contextmanager
def _ray() -> Iterator[Any]:
    """Ray, connected to a cluster; one that was started for this is stopped at the end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    ray = runtime.require("ray")
    mine = not ray.is_initialized()
    if mine:
        _connect(ray)
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _connect(ray: Any) -> None:
    """Connect to a cluster, or start one here: again if a busy machine took longer than the half minute that Ray waits."""
    for left in reversed(range(STARTS)):
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
            return
        except Exception as error:  # which Ray raises, and nothing more special
            ray.shutdown()
            if not left:
                first = (str(error).splitlines() or [type(error).__name__])[0]
                raise ConnectionError(
                    f"no cluster of Ray answers, and none could be started here: {first} RAY_ADDRESS says which to take"
                ) from error


def answers(found: Partitions, requests: Iterable[Request], k: int) -> Iterator[TopK]:
    """The best `k` of the whole corpus for each request, in order: what one searcher over all items finds, to the bit."""
    waiting, asked_for = deque[Any](), iter(requests)
    while shared := [found.shared(request) for request in islice(asked_for, found.count)]:
        queries = [found.call(owner, "encode", request) for owner, request in enumerate(shared)]
        for owner, (asked, request) in enumerate(zip(queries, shared, strict=True)):
            best = [found.call(part, "best", asked, request, k) for part in range(found.count)]
            waiting.append(found.call(owner, "merge", k, *best))
        while len(waiting) > (ROUNDS_AHEAD - 1) * found.count:
            yield found.value(waiting.popleft())
    while waiting:
        yield found.value(waiting.popleft())
