"""The searchers by name, with their parameters: `register` adds one, yours too.

What is registered is a class or a function `(settings, similarity, items)`; one that keeps files of its own also takes the
`folder` for them (None: nothing is kept).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from workbench import runtime
from workbench.contracts import ComponentSimilarity, ItemState, Searcher, Similarity
from workbench.registry import Registry, Settings
from workbench.search.approximate import Approximate
from workbench.search.brute_force import BruteForce
from workbench.search.candidates import SourceBuilder
from workbench.search.engines.faiss import faiss_lists
from workbench.search.engines.lancedb import lance_lists
from workbench.search.engines.milvus import TOKEN, milvus_lists
from workbench.search.engines.tantivy import TantivySearch
from workbench.search.engines.usearch import usearch_lists
from workbench.search.exact import Exact
from workbench.search.first_stages import AveragedComponents
from workbench.search.graph_search import GraphSearch
from workbench.search.h_indexer import FirstStageFilter
from workbench.search.indexes import HNSW, IVF, Flat
from workbench.search.int16 import Int16BruteForce
from workbench.search.parameters import COUNTS, fixed, number
from workbench.search.path_beam import PathBeam
from workbench.similarities.deep_retrieval.similarity import DeepRetrieval, DeepRetrievalItems
from workbench.similarities.mol_linear import with_linear_gate
from workbench.similarities.sparcode.similarity import SparCode, SparCodeItems

EFFORT = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""Steps of what an index looks at."""

SEARCHERS = Registry("searcher", Searcher, ("similarity", "items", "folder"))
register = SEARCHERS.register


def build(
    settings: Settings, similarity: Similarity, items: ItemState, folder: Path | None = None
) -> Searcher:
    """The searcher that `settings` describe, over `items`; ValueError if it does not suit the similarity."""
    searcher: Searcher = SEARCHERS.build(settings, similarity=similarity, items=items, folder=folder)
    return searcher


def default(similarity: Similarity) -> Settings:
    """The searcher to take unless another is named: the index that a similarity learned, else one with a proof."""
    if isinstance(similarity, DeepRetrieval):
        return PathBeamSettings()
    return ExactSettings() if isinstance(similarity, ComponentSimilarity) else BruteForceSettings()


@dataclass(frozen=True)
class BruteForceSettings:
    """Every item is scored."""

    kind: ClassVar[str] = "brute-force"


@register(BruteForceSettings, title="brute force")
def _brute_force(settings: BruteForceSettings, similarity: Similarity, items: ItemState) -> Searcher:
    return BruteForce(similarity, items)


@dataclass(frozen=True)
class Int16Settings:
    """Every item is scored in int16 with a proved error, and those that may be among the best again in float32."""

    kind: ClassVar[str] = "brute-force-int16"


@register(Int16Settings, title="brute force in int16, to the bit that of float32", label="brute force, int16")
def _int16(settings: Int16Settings, similarity: Similarity, items: ItemState) -> Searcher:
    return Int16BruteForce(similarity, items)


@dataclass(frozen=True)
class ExactSettings:
    """Only items are scored whose bound reaches the k-th best score."""

    kind: ClassVar[str] = "exact"


@register(ExactSettings, title="exact with a bound")
def _exact(settings: ExactSettings, similarity: Similarity, items: ItemState) -> Searcher:
    return Exact(_components(similarity), items)


@dataclass(frozen=True)
class PerComponentSettings:
    """`n1` items of each component's list are scored; the answer carries a proof if there is one."""

    kind: ClassVar[str] = "per-component"
    n1: int = number(50, "items of each component's list", counts_items=True)


@register(PerComponentSettings, title="a list per component, with a proof", label="per component")
def _per_component(settings: PerComponentSettings, similarity: Similarity, items: ItemState) -> Searcher:
    return Approximate.of(_components(similarity), items, n1=settings.n1)


@dataclass(frozen=True)
class AverageSettings:
    """The `n2` items with the largest average component score are scored."""

    kind: ClassVar[str] = "average"
    n2: int = number(1000, "items of the list by the average component", counts_items=True)


@register(AverageSettings, title="one list by the average component", label="average")
def _average(settings: AverageSettings, similarity: Similarity, items: ItemState) -> Searcher:
    return Approximate.of(_components(similarity), items, n2=settings.n2)


@dataclass(frozen=True)
class CascadeSettings:
    """Of the `n2` items with the largest average component score, the `keep` best under a linear pair gate are scored."""

    kind: ClassVar[str] = "cascade"
    n2: int = number(8000, "items of the list by the average component", counts_items=True)
    keep: int = number(
        400, "items of the list that are scored, the best under a linear gate", counts_items=True
    )


@register(CascadeSettings, title="the average's list, cut by a linear gate", label="cascade")
def _cascade(settings: CascadeSettings, similarity: Similarity, items: ItemState) -> Searcher:
    known = _components(similarity)
    cheaper = with_linear_gate(known, items)
    return Approximate.of(known, items, n2=settings.n2, cheaper=cheaper, keep=settings.keep)


@dataclass(frozen=True)
class CombinedSettings:
    """`n1` items of each component's list and `n2` by the average are scored."""

    kind: ClassVar[str] = "combined"
    n1: int = number(50, "items of each component's list", counts_items=True)
    n2: int = number(1000, "items of the list by the average component", counts_items=True)


@register(CombinedSettings, title="lists per component and by the average", label="combined")
def _combined(settings: CombinedSettings, similarity: Similarity, items: ItemState) -> Searcher:
    return Approximate.of(_components(similarity), items, n1=settings.n1, n2=settings.n2)


@dataclass(frozen=True)
class HIndexerSettings:
    """A first stage of `width` numbers in int8 keeps `keep` items, which are scored. `seed` draws its sample."""

    kind: ClassVar[str] = "h-indexer"
    width: int = number(64, "numbers of the first stage's vectors", (8, 16, 32, 64, 128))
    keep: int = number(4000, "items that the first stage is to keep", counts_items=True)
    seed: int = fixed(0)


@register(HIndexerSettings, title="a narrow first stage in int8", label="h-indexer")
def _h_indexer(settings: HIndexerSettings, similarity: Similarity, items: ItemState) -> Searcher:
    known = _components(similarity)
    stage = AveragedComponents(known, items, settings.width)
    return Approximate(
        known, items, [FirstStageFilter(items, stage, settings.keep, runtime.generator(settings.seed))]
    )


@dataclass(frozen=True)
class ListSettings:
    """The `n2` items with the largest average component score, from an engine that holds the averages, are scored."""

    n2: int = number(1000, "items of the list by the average component", counts_items=True)


@dataclass(frozen=True)
class IVFSettings(ListSettings):
    """The average's list of `n2` items from the `nprobe` nearest of `nlist` cells of a FAISS index."""

    kind: ClassVar[str] = "faiss-ivf"
    nlist: int = number(128, "cells of the index", (16, 32, 64, 128, 256, 512, 1024))
    nprobe: int = number(16, "cells that are looked at", EFFORT)


@dataclass(frozen=True)
class HNSWSettings(ListSettings):
    """The average's list of `n2` items from a FAISS graph, with `ef_search` items kept while it is walked."""

    kind: ClassVar[str] = "faiss-hnsw"
    ef_search: int = number(128, "list kept while the graph is walked", EFFORT[3:])


@dataclass(frozen=True)
class FlatFaissSettings(ListSettings):
    """The average's list of `n2` items from FAISS, which looks at every vector."""

    kind: ClassVar[str] = "faiss-flat"


@dataclass(frozen=True)
class UsearchSettings(ListSettings):
    """The average's list of `n2` items from a graph of usearch, with `ef_search` items kept while it is walked."""

    kind: ClassVar[str] = "usearch"
    ef_search: int = number(128, "list kept while the graph is walked", EFFORT[3:])


@dataclass(frozen=True)
class MilvusSettings(ListSettings):
    """The average's list of `n2` items from Milvus, embedded or a cluster at `uri`, which looks at every vector.

    Raises ValueError if `uri` is no http address, or one with credentials.
    """

    kind: ClassVar[str] = "milvus"
    uri: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(https?://[^\s@]+)?", self.uri):
            raise ValueError(
                f"uri must be like http://host:19530, without credentials: a token goes into {TOKEN}"
            )


@dataclass(frozen=True)
class LanceSettings(ListSettings):
    """The average's list of `n2` items from a table of LanceDB, scanned on the disk."""

    kind: ClassVar[str] = "lancedb"


def _listed_by(engine: Callable[[Any, Path | None], SourceBuilder]) -> Callable[..., Searcher]:
    """Builds searchers whose list by the average comes from an engine; `engine` takes their settings and a folder."""

    def build(
        settings: ListSettings, similarity: Similarity, items: ItemState, folder: Path | None = None
    ) -> Searcher:
        source = engine(settings, folder)
        return Approximate.of(_components(similarity), items, n2=settings.n2, source=source)

    return build


for _settings, _title, _label, _engine in (
    (
        IVFSettings,
        "the average's list from the nearest cells",
        "FAISS IVF",
        lambda chosen, folder: faiss_lists(IVF(chosen.nlist, chosen.nprobe), folder),
    ),
    (
        HNSWSettings,
        "the average's list from a graph",
        "FAISS HNSW",
        lambda chosen, folder: faiss_lists(HNSW(ef_search=chosen.ef_search), folder),
    ),
    (
        FlatFaissSettings,
        "the average's list from FAISS",
        "FAISS flat",
        lambda chosen, folder: faiss_lists(Flat(), folder),
    ),
    (
        UsearchSettings,
        "the average's list from a graph of usearch",
        "usearch",
        lambda chosen, folder: usearch_lists(HNSW(ef_search=chosen.ef_search), folder),
    ),
    (
        MilvusSettings,
        "the average's list from Milvus",
        "Milvus",
        lambda chosen, folder: milvus_lists(folder, chosen.uri),
    ),
    (LanceSettings, "the average's list from LanceDB", "LanceDB", lambda chosen, folder: lance_lists(folder)),
):
    register(_settings, title=_title, label=f"average, {_label}")(_listed_by(_engine))


@dataclass(frozen=True)
class TantivySettings:
    """The `n2` items with the largest sum of SparCode's posting lists, from tantivy, are scored.

    `sparsity`: share of the (code, item) scores that the lists leave out.
    """

    kind: ClassVar[str] = "tantivy"
    n2: int = number(1000, "items of the list by the posting lists", counts_items=True)
    sparsity: float = 0.95


@register(TantivySettings, title="SparCode's posting lists in tantivy", label="SparCode, tantivy")
def _tantivy(
    settings: TantivySettings, similarity: Similarity, items: ItemState, folder: Path | None = None
) -> Searcher:
    if not isinstance(similarity, SparCode) or not isinstance(items, SparCodeItems):
        raise ValueError(
            f"the engine tantivy holds SparCode's codes, which {type(similarity).__name__} does not have"
        )
    return TantivySearch(similarity, items, settings.n2, settings.sparsity, folder)


@dataclass(frozen=True)
class GraphSettings:
    """A graph of items is walked by the score itself, with a list of `ef` items; each has up to `degree` neighbours."""

    kind: ClassVar[str] = "graph"
    ef: int = number(200, "list kept while the graph is walked", COUNTS[3:13])
    degree: int = number(24, "neighbours of an item", (8, 12, 16, 24, 32, 48, 64))


@register(GraphSettings, title="a walk over a graph, by the score itself", label="graph")
def _graph(
    settings: GraphSettings, similarity: Similarity, items: ItemState, folder: Path | None = None
) -> Searcher:
    return GraphSearch(_components(similarity), items, settings.ef, settings.degree, folder=folder)


@dataclass(frozen=True)
class CertifiedGraphSettings(GraphSettings):
    """As `GraphSettings`, and then the items of all cells whose bound reaches the k-th best score."""

    kind: ClassVar[str] = "graph-certified"


@register(CertifiedGraphSettings, title="a walk over a graph, with a proof", label="graph, certified")
def _certified_graph(
    settings: CertifiedGraphSettings, similarity: Similarity, items: ItemState, folder: Path | None = None
) -> Searcher:
    known = _components(similarity)
    return GraphSearch(known, items, settings.ef, settings.degree, folder=folder, certified=True)


@dataclass(frozen=True)
class PathBeamSettings:
    """Deep Retrieval's own index: the `beam` best paths are walked to the end (None: as it was trained)."""

    kind: ClassVar[str] = "paths"
    beam: int | None = None


@register(PathBeamSettings, title="a beam of learned paths, under its own score", label="Deep Retrieval")
def _paths(settings: PathBeamSettings, similarity: Similarity, items: ItemState) -> Searcher:
    if not isinstance(similarity, DeepRetrieval) or not isinstance(items, DeepRetrievalItems):
        raise ValueError(f"the searcher 'paths' is Deep Retrieval's own, not for {type(similarity).__name__}")
    return PathBeam.of(similarity, items, settings.beam)


def _components(similarity: Similarity) -> ComponentSimilarity:
    if not isinstance(similarity, ComponentSimilarity):
        raise ValueError(
            f"this searcher needs component scores, which {type(similarity).__name__} does not have:"
            f" take {BruteForceSettings.kind!r}"
        )
    return similarity
