"""Ways of searching by name: the parameters of each and what they mean, how it is built, and how it is written in a command.

`SearcherSpec` is a method with its parameters: what the explorer's sliders and the command line both make.
"""

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Self

import torch
from jaxtyping import Int
from torch import Tensor

from workbench import runtime
from workbench.bench.baseline import Baseline
from workbench.bench.roofline import FIRST_STAGE_WIDTH
from workbench.bench.workloads import Asked, Workload
from workbench.contracts import QueryState, Searcher, TopK
from workbench.models.model_store import folder_of
from workbench.retriever import described
from workbench.search import Average, BruteForce, Combined, Exact, FittedScores, HIndexer, PerComponent
from workbench.search.candidates import CandidateSource
from workbench.search.engines.faiss import FaissLists
from workbench.search.indexes import HNSW, IVF, IndexKind
from workbench.search.inverted_index import InvertedIndex
from workbench.search.path_beam import PathBeam
from workbench.similarities.deep_retrieval.similarity import DeepRetrieval, DeepRetrievalItems
from workbench.similarities.sparcode.similarity import SparCode, SparCodeItems, SparCodeQueries

Search = Callable[[QueryState, int, "Int[Tensor, 'B H'] | None"], TopK]
Scan = Literal["pairs", "components", "average", "int8", "unknown"]
"""What the first stage computes for every item: the whole φ, its P inner products, one inner product of their width, one of
`FIRST_STAGE_WIDTH` in int8, or who knows."""

BASELINE, REFERENCE = "baseline", "brute force"
SPARCODE, PATHS = "SparCode", "Deep Retrieval"
OWN_SCORE = {"sparcode": SPARCODE, "deep_retrieval": PATHS}
"""Methods that search under the score of a checkpoint of their own, by the kind of its similarity."""


@dataclass(frozen=True)
class Built:
    """A searcher ready to be asked; `fraction` of the corpus is what it searches."""

    search: Search
    fraction: float = 1.0


@dataclass(frozen=True)
class Index:
    """What takes long to build, and is the same for several settings of a method: `key` tells it from others."""

    key: str
    build: Callable[[Any], Any]


@dataclass(frozen=True)
class BenchmarkEntry:
    """A searcher with its parameters. `build` takes the workload, the batch size that it will be asked with, and its index.

    `per_batch_size`: it is built anew for each batch size. `typical`: one of the few that stand for their method where the
    whole grid would take too long. `checkpoint`: it searches under the score of this one, and is asked its queries, and
    its recall is against the entry labelled `reference`.
    """

    method: str
    build: Callable[[Any, int, Any], Built]
    parameters: Mapping[str, int | float | str] = field(default_factory=dict)
    scan: Scan = "pairs"
    per_batch_size: bool = False
    typical: bool = True
    index: Index | None = None
    checkpoint: str = ""
    reference: str = REFERENCE

    @property
    def setting(self) -> str:
        """The parameters as text, "" without any."""
        return ", ".join(f"{name}={value}" for name, value in self.parameters.items())

    @property
    def label(self) -> str:
        """Method and setting: a name of its own in every table."""
        return f"{self.method} ({self.setting})" if self.setting else self.method


@dataclass(frozen=True)
class Parameter:
    """A number that a method is set by: `low` to `high`, whole where `default` is; `steps` are those that a slider offers.

    `counts_items`: it cannot exceed the corpus.
    """

    name: str
    default: int | float
    low: int | float
    high: int | float
    steps: tuple[int | float, ...]
    meaning: str
    counts_items: bool = False

    def check(self, value: object) -> None:
        """ValueError where `value` is of another type or out of range."""
        whole = isinstance(self.default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"{self.name} must be {kind}, not {value!r}")
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.name} must lie in {self.low:,} to {self.high:,}, not {value:,}")

    def read(self, text: str) -> int | float:
        """The value that a text gives; ValueError where it is none."""
        if re.fullmatch(r"[+-]?\d+", text):
            return int(text)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{self.name} must be a number, not {text!r}")
        return value


MOST = 10**9
COUNTS = (5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000)


def _count(name: str, default: int, meaning: str) -> Parameter:
    return Parameter(name, default, 1, MOST, COUNTS, meaning, counts_items=True)


def _number(name: str, default: int, steps: tuple[int, ...], meaning: str) -> Parameter:
    return Parameter(name, default, 1, MOST, steps, meaning)


@dataclass(frozen=True)
class Method:
    """A way of searching: its parameters, what it does in a line, and how a entry is made of their values."""

    name: str
    meaning: str
    make: Callable[..., BenchmarkEntry]
    parameters: tuple[Parameter, ...] = ()
    needs_faiss: bool = False

    @property
    def own_score(self) -> bool:
        """Whether it searches under the score of a checkpoint of its own."""
        return self.name in OWN_SCORE.values()

    @property
    def installed(self) -> bool:
        """Whether what it needs is installed."""
        return not self.needs_faiss or runtime.optional("faiss") is not None


@dataclass(frozen=True)
class SearcherSpec:
    """A method with a value for each of its parameters; those that are not given are at their defaults.

    Raises ValueError where there is no such method or parameter, or a value is of another type or out of range.

    >>> SearcherSpec.read("h-indexer keep=500").text
    'h-indexer width=64,keep=500'
    """

    method: str
    given: tuple[tuple[str, int | float], ...] = ()

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"no searcher {self.method!r}; there are {', '.join(METHODS)}")
        known = {p.name: p for p in METHODS[self.method].parameters}
        values = {name: p.default for name, p in known.items()}
        for name, value in self.given:
            if name not in known:
                raise ValueError(
                    f"{self.method} has no parameter {name!r}; it has {', '.join(known) or 'none'}"
                )
            try:
                known[name].check(value)
            except ValueError as error:
                raise ValueError(f"{self.method}: {error}") from None
            values[name] = float(value) if isinstance(known[name].default, float) else value
        object.__setattr__(self, "given", tuple(values.items()))
        if values.get("nprobe", 0) > values.get("nlist", MOST):
            raise ValueError(
                f"{self.method}: nprobe is {values['nprobe']:,}, but there are only nlist = {values['nlist']:,} cells"
            )

    @classmethod
    def of(cls, method: str, **values: int | float) -> Self:
        """The point of a method with these values."""
        return cls(method, tuple(values.items()))

    @classmethod
    def read(cls, text: str) -> Self:
        """The point that a text names, as `text` writes it: the method, then name=value, separated by commas.

        Raises ValueError that says what is wrong.
        """
        head, _, tail = text.strip().partition("=")
        method, _, first = head.rstrip().rpartition(" ") if "=" in text else (head, "", "")
        method = method.strip()
        if method not in METHODS:
            raise ValueError(f"no searcher {method or text!r}; there are {', '.join(METHODS)}")
        known = {p.name: p for p in METHODS[method].parameters}
        given: dict[str, int | float] = {}
        for part in f"{first}={tail}".split(",") if "=" in text else []:
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not name or not value:
                raise ValueError(f"{text!r}: parameters are written name=value, with commas between them")
            if name in given:
                raise ValueError(f"{text!r} gives {name} twice")
            if name not in known:
                raise ValueError(f"{method} has no parameter {name!r}; it has {', '.join(known) or 'none'}")
            given[name] = known[name].read(value)
        return cls(method, tuple(given.items()))

    @property
    def values(self) -> dict[str, int | float]:
        """The parameters by name, all of them."""
        return dict(self.given)

    @property
    def text(self) -> str:
        """As `read` reads it, and as a command gives it."""
        settings = ",".join(f"{name}={value}" for name, value in self.given)
        return f"{self.method} {settings}" if settings else self.method

    def check(self, items: int) -> None:
        """ValueError where a list would be longer than a corpus of so many `items`, or have more cells than it has items."""
        for parameter in METHODS[self.method].parameters:
            value = self.values[parameter.name]
            if (parameter.counts_items or parameter.name == "nlist") and value > items:
                raise ValueError(
                    f"{self.method}: {parameter.name} is {value:,}, but the corpus has {items:,} items"
                )

    def entry(self, checkpoint: str = "") -> BenchmarkEntry:
        """What is measured; `checkpoint` is the one whose score it searches under, where the method has a score of its own.

        Raises ValueError where such a method is given none, ImportError where it needs a package that is not installed.
        """
        method = METHODS[self.method]
        if method.needs_faiss:
            runtime.require("faiss")
        if not method.own_score:
            return method.make(**self.values)
        if not checkpoint:
            raise ValueError(f"{self.method} needs a checkpoint of its own, trained on the same data")
        return method.make(checkpoint=checkpoint, **self.values)


def own_method(checkpoint: str) -> str | None:
    """The method that searches under the score of this checkpoint; None where its similarity is one of components.

    Raises as `retriever.read_metadata` does.
    """
    return OWN_SCORE.get(described(folder_of(checkpoint))[0].similarity.kind)


def own_reference(method: str, checkpoint: str) -> BenchmarkEntry:
    """Brute force under the score of a method's own checkpoint."""
    return BenchmarkEntry(
        f"{REFERENCE}, {method}", _searcher(BruteForce), scan="unknown", checkpoint=checkpoint,
        reference=f"{REFERENCE}, {method}",
    )  # fmt: skip


def _searcher(make: Callable[..., Searcher]) -> Callable[[Asked, int, Any], Built]:
    """Builds a searcher from a similarity and an item state."""
    return lambda asked, batch_size, index: Built(make(asked.similarity, asked.items).search)


def _baseline(workload: Workload, batch_size: int, index: None) -> Built:
    baseline = Baseline(workload, batch_size)
    return Built(baseline.search, baseline.fraction)


def _whole(name: str, make: Callable[..., Searcher], scan: Scan) -> Callable[..., BenchmarkEntry]:
    return lambda: BenchmarkEntry(name, _searcher(make), scan=scan)


def _per_component(n1: int) -> BenchmarkEntry:
    build = _searcher(partial(PerComponent, count=n1))
    return BenchmarkEntry("per component", build, {"n1": n1}, "components")


def _average(n2: int) -> BenchmarkEntry:
    return BenchmarkEntry("average", _searcher(partial(Average, count=n2)), {"n2": n2}, "average")


def _combined(n1: int, n2: int) -> BenchmarkEntry:
    build = _searcher(partial(Combined, per_component=n1, average=n2))
    return BenchmarkEntry("combined", build, {"n1": n1, "n2": n2}, "components")


def _h_indexer(width: int, keep: int) -> BenchmarkEntry:
    """Its index, for all that it may keep, has a first stage that is fitted to the scores of the sample."""

    def fit(workload: Workload) -> HIndexer:
        stage = FittedScores(workload.similarity, workload.items, workload.sample, width)
        return HIndexer(workload.similarity, workload.items, stage, 1, runtime.generator(0))

    def build(workload: Workload, batch_size: int, index: HIndexer) -> Built:
        searcher = copy.copy(index)
        searcher.keep = keep
        return Built(searcher.search)

    scan: Scan = "int8" if width == FIRST_STAGE_WIDTH else "unknown"
    parameters = {"width": width, "keep": keep}
    return BenchmarkEntry("h-indexer", build, parameters, scan, index=Index(f"h-indexer, width {width}", fit))


def _from_index(kind: IndexKind, key: str, n2: int) -> tuple[Callable[[Workload, int, Any], Built], Index]:
    """The list by the average from an index of faiss, which searches of other `n2` and other efforts share."""

    def fill(workload: Workload) -> FaissLists:
        vectors = workload.similarity.item_components(workload.items).mean(1)
        return FaissLists(kind, "average", workload.items.ids, vectors)

    def build(workload: Workload, batch_size: int, index: FaissLists) -> Built:
        lists = copy.copy(index)
        lists.tune(kind)

        def held(name: str, ids: Tensor, vectors: Tensor) -> CandidateSource:
            return lists

        return Built(Average(workload.similarity, workload.items, n2, source=held).search)

    return build, Index(key, fill)


def _ivf(n2: int, nlist: int, nprobe: int) -> BenchmarkEntry:
    build, index = _from_index(IVF(nlist, nprobe), f"IVF of {nlist}", n2)
    parameters = {"n2": n2, "nlist": nlist, "nprobe": nprobe}
    return BenchmarkEntry("average, FAISS IVF", build, parameters, "unknown", index=index)


def _hnsw(n2: int, efSearch: int) -> BenchmarkEntry:
    build, index = _from_index(HNSW(ef_search=efSearch), "HNSW", n2)
    parameters = {"n2": n2, "efSearch": efSearch}
    return BenchmarkEntry("average, FAISS HNSW", build, parameters, "unknown", index=index)


def _sparcode(sparsity: float, checkpoint: str) -> BenchmarkEntry:
    """The index of the codes that these queries have. Its sparse score is not the learned one, of which it proves nothing."""

    def build(asked: Asked, batch_size: int, index: None) -> Built:
        assert isinstance(asked.similarity, SparCode) and isinstance(asked.items, SparCodeItems)
        assert isinstance(asked.queries, SparCodeQueries)
        whole = InvertedIndex.build(asked.similarity, asked.items, asked.queries.codes, loosest=math.inf)
        threshold = whole.threshold_for(sparsity)
        kept = whole.postings.cut(-threshold)  # and nothing else: its memory is measured
        served = InvertedIndex(asked.similarity, asked.items, kept, threshold, threshold)

        def search(queries: QueryState, k: int, exclude: Tensor | None) -> TopK:
            found = served.search(queries, k, exclude)
            nothing, unknown = torch.zeros_like(found.exact), torch.full_like(found.gap, math.inf)
            return TopK(found.scores, found.ids, nothing, unknown, found.num_scored)

        return Built(search)

    reference = f"{REFERENCE}, {SPARCODE}"
    parameters = {"sparsity": sparsity}
    return BenchmarkEntry(SPARCODE, build, parameters, "unknown", checkpoint=checkpoint, reference=reference)


def _paths(beam: int, checkpoint: str) -> BenchmarkEntry:
    def build(asked: Asked, batch_size: int, index: None) -> Built:
        assert isinstance(asked.similarity, DeepRetrieval) and isinstance(asked.items, DeepRetrievalItems)
        return Built(PathBeam.of(asked.similarity, asked.items, beam).search)

    reference = f"{REFERENCE}, {PATHS}"
    return BenchmarkEntry(PATHS, build, {"beam": beam}, "unknown", checkpoint=checkpoint, reference=reference)


_N1 = _count("n1", 50, "items of each component's list")
_N2 = _count("n2", 1_000, "items of the list by the average component")
_EFFORT = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            BASELINE,
            "as published: the item side anew on each call",
            lambda: BenchmarkEntry(BASELINE, _baseline, per_batch_size=True),
        ),
        Method(REFERENCE, "every item scored: the reference", _whole(REFERENCE, BruteForce, "pairs")),
        Method(
            "exact with a bound",
            "only items whose bound reaches S_K are scored",
            _whole("exact with a bound", Exact, "components"),
        ),
        Method("per component", "a list per component, with a proof", _per_component, (_N1,)),
        Method("average", "one list, by the average", _average, (_N2,)),
        Method("combined", "lists per component and by the average", _combined, (_N1, _N2)),
        Method(
            "h-indexer",
            "a narrow first stage in int8",
            _h_indexer,
            (
                _number("width", FIRST_STAGE_WIDTH, (8, 16, 32, 64, 128), "numbers of the first stage's vectors"),
                _count("keep", 4_000, "items that the first stage is to keep"),
            ),
        ),
        Method(
            "average, FAISS IVF",
            "the average's list from the nearest cells",
            _ivf,
            (
                _N2,
                _number("nlist", 128, (16, 32, 64, 128, 256, 512, 1024), "cells of the index"),
                _number("nprobe", 16, _EFFORT, "cells that are looked at"),
            ),
            needs_faiss=True,
        ),
        Method(
            "average, FAISS HNSW",
            "the average's list from a graph",
            _hnsw,
            (_N2, _number("efSearch", 128, _EFFORT[3:], "list kept while the graph is walked")),
            needs_faiss=True,
        ),
        Method(
            SPARCODE,
            "codes and an inverted index, under its own score",
            _sparcode,
            (
                Parameter(
                    "sparsity", 0.98, 0.0, 1.0, (0.0, 0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999),
                    "share of (code, item) scores that is left out",
                ),
            ),
        ),
        Method(
            PATHS,
            "a beam of learned paths, under its own score",
            _paths,
            (_number("beam", 25, (1, 2, 5, 10, 25, 50, 100), "paths that are walked to the end"),),
        ),
    )
}  # fmt: skip
"""Every way of searching, by name."""
