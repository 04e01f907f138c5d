"""Who is measured: each searcher over a grid of its parameters. A new searcher joins by a line in `contenders`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from jaxtyping import Int
from torch import Tensor

from workbench import runtime
from workbench.bench.baseline import Baseline
from workbench.bench.roofline import FIRST_STAGE_WIDTH
from workbench.bench.workloads import Workload
from workbench.contracts import QueryState, Searcher, TopK
from workbench.search import Average, BruteForce, Combined, Exact, FittedScores, HIndexer, PerComponent
from workbench.search.faiss_lists import faiss_lists
from workbench.search.indexes import HNSW, IVF

Search = Callable[[QueryState, int, "Int[Tensor, 'B H'] | None"], TopK]
Scan = Literal["pairs", "components", "average", "int8", "unknown"]
"""What the first stage computes for every item: the whole φ, its P inner products, one inner product of their width, one of
`FIRST_STAGE_WIDTH` in int8, or who knows."""

BASELINE, REFERENCE = "baseline", "brute force"


@dataclass(frozen=True)
class Built:
    """A searcher ready to be asked; `fraction` of the corpus is what it searches."""

    search: Search
    fraction: float = 1.0


@dataclass(frozen=True)
class Contender:
    """A searcher with its parameters. `build` takes the workload and the batch size that it will be asked with.

    `per_batch_size`: it is built anew for each batch size. `typical`: one of the few that stand for their method where the
    whole grid would take too long.
    """

    method: str
    build: Callable[[Workload, int], Built]
    parameters: Mapping[str, int | float | str] = field(default_factory=dict)
    scan: Scan = "pairs"
    per_batch_size: bool = False
    typical: bool = True

    @property
    def setting(self) -> str:
        """The parameters as text, "" without any."""
        return ", ".join(f"{name}={value}" for name, value in self.parameters.items())

    @property
    def label(self) -> str:
        """Method and setting: a name of its own in every table."""
        return f"{self.method} ({self.setting})" if self.setting else self.method


LISTED = (5, 50, 200)
"""Items of each component's list."""

AVERAGED = (200, 1_000, 4_000, 8_000, 16_000)
"""Items of the list by the average component."""

KEPT = (1_000, 4_000, 16_000)
"""Items that the first stage of the h-indexer is to keep."""

BOTH = ((5, 200), (50, 1_000), (200, 4_000))
"""Items of each component's list and of the average's, together."""

SMALLEST_INDEXED, LARGEST_GRAPH = 1_000, 200_000
"""Corpora below the first are not worth an index; above the second, building a graph takes longer than measuring it, and so
does fitting the h-indexer's first stage for each setting."""


def contenders(items: int) -> list[Contender]:
    """Every searcher over its grid, for a corpus of so many items; settings that exceed it are left out."""
    found = [
        Contender(BASELINE, _baseline, per_batch_size=True),
        Contender(REFERENCE, _searcher(BruteForce)),
        Contender("exact with a bound", _searcher(Exact), scan="components"),
    ]
    for n in _fitting(LISTED, items):
        build = _searcher(partial(PerComponent, count=n))
        found.append(Contender("per component", build, {"n1": n}, "components", typical=n == 50))
    for n in _fitting(AVERAGED, items):
        build = _searcher(partial(Average, count=n))
        found.append(Contender("average", build, {"n2": n}, "average", typical=n == 1_000))
    for n, m in BOTH:
        if max(n, m) <= items:
            build = _searcher(partial(Combined, per_component=n, average=m))
            parameters = {"n1": n, "n2": m}
            found.append(Contender("combined", build, parameters, "components", typical=n == 50))
    for n in _fitting(KEPT if items <= LARGEST_GRAPH else KEPT[:2], items):
        found.append(
            Contender("h-indexer", partial(_h_indexer, keep=n), {"keep": n}, "int8", typical=n == 1_000)
        )
    if runtime.optional("faiss") is not None and items >= SMALLEST_INDEXED:
        found += _indexed(items)
    return found


def _fitting(counts: tuple[int, ...], items: int) -> list[int]:
    return [n for n in counts if n <= items]


def _indexed(items: int) -> list[Contender]:
    """The list by the average from an approximate index: cells of about 4·√N items, a graph, product codes."""
    cells = max(1, min(int(4 * items**0.5), items // 40))
    count = min(1_000, items)
    found = []
    for part in (32, 8):
        build = _searcher(
            partial(Average, count=count, source=faiss_lists(IVF(cells, max(1, cells // part))))
        )
        parameters: dict[str, int | float | str] = {"n2": count, "cells looked at": f"1/{part}"}
        found.append(Contender("average, FAISS IVF", build, parameters, "unknown", typical=part == 8))
    if items <= LARGEST_GRAPH:
        build = _searcher(partial(Average, count=count, source=faiss_lists(HNSW())))
        found.append(Contender("average, FAISS HNSW", build, {"n2": count}, "unknown", typical=False))
    return found


def chosen(items: int, methods: tuple[str, ...], typical: bool = False) -> list[Contender]:
    """The contenders of some methods, all of them where none is named; brute force, the reference, is always among them.

    `typical` leaves out settings that are not.

    Raises ValueError where a method is not known.
    """
    every = contenders(items)
    known = list(dict.fromkeys(c.method for c in every))
    if wrong := [m for m in methods if m not in known]:
        raise ValueError(f"no method {wrong[0]!r}; there are {', '.join(known)}")
    wanted = [c for c in every if not methods or c.method in (*methods, REFERENCE)]
    return [c for c in wanted if c.typical or not typical]


def _baseline(workload: Workload, batch_size: int) -> Built:
    baseline = Baseline(workload, batch_size)
    return Built(baseline.search, baseline.fraction)


def _searcher(make: Callable[..., Searcher]) -> Callable[[Workload, int], Built]:
    """Builds a searcher from a similarity and an item state."""
    return lambda workload, batch_size: Built(make(workload.similarity, workload.items).search)


def _h_indexer(workload: Workload, batch_size: int, keep: int) -> Built:
    """With a first stage that is fitted to the scores of the sample."""
    stage = FittedScores(workload.similarity, workload.items, workload.sample, FIRST_STAGE_WIDTH)
    draws = runtime.generator(0)
    return Built(HIndexer(workload.similarity, workload.items, stage, keep, draws).search)
