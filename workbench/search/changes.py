"""A searcher after a change of its corpus, next to the one before it: nothing that is searched or stored is touched."""

import copy
from collections.abc import Callable
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from workbench.contracts import ItemState, Searcher, Similarity
from workbench.registry import Settings
from workbench.search import registry
from workbench.search.approximate import Approximate
from workbench.search.candidates import CandidateSource, Stored
from workbench.search.generators import CandidateGenerator, VectorList


def upserted(
    searcher: Searcher, settings: Settings, similarity: Similarity, items: ItemState, corpus: ItemState
) -> Searcher:
    """The searcher of `corpus`, which `items` were put into; built again unless its index can take them."""
    return _changed(searcher, lambda twin: twin.upsert(items), settings, similarity, corpus)


def without(
    searcher: Searcher, settings: Settings, similarity: Similarity, ids: Int[Tensor, "M"], corpus: ItemState
) -> Searcher:
    """The searcher of `corpus`, which has lost the items `ids`; built again unless its index can lose them."""
    return _changed(searcher, lambda twin: twin.remove(ids), settings, similarity, corpus)


def write(
    searcher: Searcher, settings: Settings, similarity: Similarity, corpus: ItemState, folder: Path
) -> None:
    """Write the files of a searcher into `folder`: as it is if it can write itself, else built again there."""
    parts = _stored(searcher)
    for part in parts:
        part.save_into(folder)
    if not parts:
        registry.build(settings, similarity, corpus, folder)


def _changed(
    searcher: Searcher,
    change: Callable[[Searcher], None],
    settings: Settings,
    similarity: Similarity,
    corpus: ItemState,
) -> Searcher:
    """A changed copy of the searcher; the searcher of `corpus`, built again, if it holds no index that can change."""
    twin = _twin(searcher)
    if twin is None:
        return registry.build(settings, similarity, corpus)
    try:
        change(twin)
    except NotImplementedError:
        return registry.build(settings, similarity, corpus)
    return twin


def _stored(searcher: Searcher) -> list[Stored]:
    """The parts of a searcher that write themselves, if these are all that it keeps in files."""
    if isinstance(searcher, Stored):
        return [searcher]
    sources = _sources(searcher)
    return (
        [s for s in sources if isinstance(s, Stored)] if all(isinstance(s, Stored) for s in sources) else []
    )


def _sources(searcher: Searcher) -> list[CandidateSource]:
    if not isinstance(searcher, Approximate):
        return []
    return [g.source for g in searcher.generators if isinstance(g, VectorList)]


def _twin(searcher: Searcher) -> Searcher | None:
    """A copy that may change while the searcher stays as it is; None if it holds no index that is worth keeping."""
    if not _stored(searcher):
        return None
    twin = copy.copy(searcher)
    if isinstance(twin, Approximate):
        twin.generators = tuple(_twin_generator(generator) for generator in twin.generators)
    return twin


def _twin_generator(generator: CandidateGenerator) -> CandidateGenerator:
    twin = copy.copy(generator)
    if isinstance(twin, VectorList):
        twin.source = copy.copy(twin.source)
    return twin
