"""Ways of searching by name: the parameters of each and what they mean, how it is built, and how it is written in a command.

`SearcherSpec` is a method with its parameters: what the explorer's sliders and the command line both make.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Literal, Self

import torch
from jaxtyping import Int
from torch import Tensor

from workbench import runtime
from workbench.bench.reference_implementation import ReferenceImplementation
from workbench.bench.roofline import FIRST_STAGE_WIDTH
from workbench.bench.workloads import Asked, Workload
from workbench.contracts import ComponentSimilarity, QueryState, Searcher, TopK
from workbench.models.model_store import folder_of
from workbench.registry import Part
from workbench.retriever import described
from workbench.search import Approximate, BruteForce, FittedScores, VectorList, registry
from workbench.search.candidates import CandidateSource
from workbench.search.engines.faiss import FaissLists
from workbench.search.graph_search import GraphSearch
from workbench.search.h_indexer import FirstStageFilter
from workbench.search.indexes import HNSW, IVF, IndexKind
from workbench.search.inverted_index import InvertedIndex
from workbench.search.parameters import COUNTS, MOST, Parameter, parameters
from workbench.search.path_beam import PathBeam
from workbench.search.proximity_graph import ProximityGraph
from workbench.similarities.deep_retrieval.similarity import DeepRetrieval, DeepRetrievalItems
from workbench.similarities.mol_linear import with_linear_gate
from workbench.similarities.sparcode.similarity import SparCode, SparCodeItems, SparCodeQueries

Search = Callable[[QueryState, int, "Int[Tensor, 'B H'] | None"], TopK]
Scan = Literal["pairs", "components", "average", "int8", "unknown"]
"""What the first stage computes for every item: the whole φ, its P inner products, one inner product of their width, one of
`FIRST_STAGE_WIDTH` in int8, or unknown."""

PUBLISHED, REFERENCE = "reference implementation", "brute force"
SPARCODE, PATHS = "SparCode", "Deep Retrieval"
SURROGATE = "surrogate"
OWN_SCORE = {"sparcode": SPARCODE, "deep_retrieval": PATHS}
"""Methods that search under the score of a checkpoint of their own, by the kind of its similarity."""


@dataclass(frozen=True)
class Built:
    """A built searcher; it searches `fraction` of the corpus."""

    search: Search
    fraction: float = 1.0


@dataclass(frozen=True)
class Index:
    """What takes long to build, and is the same for several settings of a method: `key` identifies it."""

    key: str
    build: Callable[[Any], Any]


@dataclass(frozen=True)
class BenchmarkEntry:
    """A searcher with its parameters. `build` takes the workload, the batch size of its calls, and its index.

    `per_batch_size`: it is rebuilt for each batch size. `typical`: one of the few that represent their method if the whole
    grid would take too long. `checkpoint`: it searches with the score of this one, with its queries, and its recall is
    against the entry labelled `reference`.
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
class Method:
    """A way of searching: its parameters, what it does in a line, and how an entry is made from their values."""

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

    Raises ValueError if there is no such method or parameter, or a value is of another type or out of range.

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

        Raises ValueError that names what is wrong.
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
        """ValueError if a list would be longer than a corpus of `items` items, or have more cells than it has items."""
        for parameter in METHODS[self.method].parameters:
            value = self.values[parameter.name]
            if (parameter.counts_items or parameter.name == "nlist") and value > items:
                raise ValueError(
                    f"{self.method}: {parameter.name} is {value:,}, but the corpus has {items:,} items"
                )

    def entry(self, checkpoint: str = "") -> BenchmarkEntry:
        """What is measured; `checkpoint` is the one whose score it searches under, if the method has a score of its own.

        Raises ValueError if such a method is given none, ImportError if it needs a package that is not installed.
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
    """The method that searches under the score of this checkpoint; None if its similarity is one of components.

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
    """Builds a searcher from a similarity and an item state; it searches without gradients, also if it is a user's own."""
    return lambda asked, batch_size, index: Built(torch.no_grad()(make(asked.similarity, asked.items).search))


def _published(workload: Workload, batch_size: int, index: None) -> Built:
    published = ReferenceImplementation(workload, batch_size)
    return Built(published.search, published.fraction)


def _registered(part: Part) -> Callable[..., BenchmarkEntry]:
    """Makes entries of a registered searcher, built as an index of it is."""

    def entry(**values: int | float) -> BenchmarkEntry:
        build = _searcher(partial(registry.build, part.settings(**values)))
        return BenchmarkEntry(part.label, build, values, SCANS.get(part.kind, "unknown"))

    return entry


def _h_indexer(width: int, keep: int) -> BenchmarkEntry:
    """Its index, for all that it may keep, has a first stage that is fitted to the scores of the sample."""

    def fit(workload: Workload) -> FirstStageFilter:
        stage = FittedScores(workload.similarity, workload.items, workload.sample, width)
        return FirstStageFilter(workload.items, stage, 1, runtime.generator(0))

    def build(workload: Workload, batch_size: int, index: FirstStageFilter) -> Built:
        return Built(Approximate(workload.similarity, workload.items, [index.keeping(keep)]).search)

    scan: Scan = "int8" if width == FIRST_STAGE_WIDTH else "unknown"
    parameters = {"width": width, "keep": keep}
    return BenchmarkEntry("h-indexer", build, parameters, scan, index=Index(f"h-indexer, width {width}", fit))


def _surrogate(width: int, n2: int) -> BenchmarkEntry:
    """One list by vectors that are fitted to the scores of the sample; lists of other `n2` share them."""

    def fit(workload: Workload) -> VectorList:
        stage = FittedScores(workload.similarity, workload.items, workload.sample, width)
        return VectorList(stage, workload.items, 1, name=SURROGATE)

    def build(workload: Workload, batch_size: int, index: VectorList) -> Built:
        return Built(Approximate(workload.similarity, workload.items, [index.listing(n2)]).search)

    parameters = {"width": width, "n2": n2}
    index = Index(f"{SURROGATE}, width {width}", fit)
    return BenchmarkEntry(SURROGATE, build, parameters, "unknown", index=index)


def _cascade(n2: int, keep: int) -> BenchmarkEntry:
    """Its linear gate is fitted to pairs of the sample."""

    def fit(workload: Workload) -> ComponentSimilarity:
        return with_linear_gate(workload.similarity, workload.items, workload.sample)

    def build(workload: Workload, batch_size: int, index: ComponentSimilarity) -> Built:
        searcher = Approximate.of(workload.similarity, workload.items, n2=n2, cheaper=index, keep=keep)
        return Built(searcher.search)

    parameters = {"n2": n2, "keep": keep}
    return BenchmarkEntry("cascade", build, parameters, "unknown", index=Index("linear gate", fit))


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

        return Built(Approximate.of(workload.similarity, workload.items, n2=n2, source=held).search)

    return build, Index(key, fill)


def _ivf(n2: int, nlist: int, nprobe: int) -> BenchmarkEntry:
    build, index = _from_index(IVF(nlist, nprobe), f"IVF of {nlist}", n2)
    parameters = {"n2": n2, "nlist": nlist, "nprobe": nprobe}
    return BenchmarkEntry("average, FAISS IVF", build, parameters, "unknown", index=index)


def _hnsw(n2: int, ef_search: int) -> BenchmarkEntry:
    build, index = _from_index(HNSW(ef_search=ef_search), "HNSW", n2)
    parameters = {"n2": n2, "ef_search": ef_search}
    return BenchmarkEntry("average, FAISS HNSW", build, parameters, "unknown", index=index)


def _graph(ef: int, degree: int, certified: bool = False) -> BenchmarkEntry:
    """A walk over a graph by the score itself; walks of other `ef`, and those that are `certified`, share the graph."""

    def connect(workload: Workload) -> ProximityGraph:
        return GraphSearch(workload.similarity, workload.items, ef, degree).graph

    def build(workload: Workload, batch_size: int, index: ProximityGraph) -> Built:
        walk = GraphSearch(workload.similarity, workload.items, ef, degree, graph=index, certified=certified)
        return Built(walk.search)

    parameters = {"ef": ef, "degree": degree}
    name = "graph, certified" if certified else "graph"
    return BenchmarkEntry(name, build, parameters, "unknown", index=Index(f"graph of {degree}", connect))


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


SCANS: dict[str, Scan] = {
    "brute-force": "pairs", "exact": "components", "per-component": "components", "average": "average",
    "combined": "components",
}  # fmt: skip
"""What the registered searchers compute for every item, by kind."""

SERVED_ELSEWHERE = {"faiss-flat", "usearch", "milvus", "lancedb", "tantivy"}
"""Registered searchers that the study of engines measures, each from its files."""

MAKERS: dict[str, Callable[..., BenchmarkEntry]] = {
    "h-indexer": _h_indexer, "cascade": _cascade, "faiss-ivf": _ivf, "faiss-hnsw": _hnsw, "graph": _graph,
    "graph-certified": partial(_graph, certified=True), "paths": _paths,
}  # fmt: skip
"""Registered searchers, by kind, whose index the bench builds once for several settings, or with queries to learn from."""

BEAM = Parameter("beam", 25, 1, MOST, (1, 2, 5, 10, 25, 50, 100), "paths that are walked to the end")
SPARSITY = Parameter(
    "sparsity", 0.98, 0.0, 1.0, (0.0, 0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999),
    "share of (code, item) scores that is left out",
)  # fmt: skip


WIDTH = Parameter("width", 128, 1, MOST, (16, 32, 64, 128, 256), "numbers of a fitted vector")
N2 = Parameter("n2", 1000, 1, MOST, COUNTS, "items of the list by the fitted vectors", counts_items=True)


@cache
def _of_part(part: Part) -> Method:
    return Method(
        part.label,
        part.title,
        MAKERS.get(part.kind) or _registered(part),
        (BEAM,) if part.label == PATHS else parameters(part.settings),
        needs_faiss=part.kind.startswith("faiss-"),
    )


class _Methods(Mapping[str, Method]):
    """The reference implementation, every registered searcher by its label, a fitted list, SparCode's codes: read when used."""

    def _all(self) -> dict[str, Method]:
        published = Method(
            PUBLISHED,
            "as published: the item side computed on each call",
            lambda: BenchmarkEntry(PUBLISHED, _published, per_batch_size=True),
        )
        codes = Method(SPARCODE, "codes and an inverted index, under its own score", _sparcode, (SPARSITY,))
        learned = Method(SURROGATE, "one list by vectors fitted to sampled scores", _surrogate, (WIDTH, N2))
        parts = (part for part in registry.SEARCHERS.values() if part.kind not in SERVED_ELSEWHERE)
        found = [published, *map(_of_part, parts), learned, codes]
        return {method.name: method for method in found}

    def __getitem__(self, name: str) -> Method:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


METHODS = _Methods()
"""Every way of searching, by name."""
