"""A searcher over a model's items: built once, saved, loaded, searched by histories in the user's own ids."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench import files
from workbench.contracts import ComponentSimilarity, ItemState, QueryState, Searcher, TopK
from workbench.files import Kind
from workbench.loading import read_json
from workbench.models.catalogue import ITEMS, Catalogue
from workbench.models.query_table import QUERIES, as_vectors
from workbench.registry import Settings
from workbench.retriever import CONFIG, WEIGHTS
from workbench.search import changes, registry, stages
from workbench.search.engines.catalog import check_made_by, engine_of, made_by

if TYPE_CHECKING:
    from workbench.front_door.recommender import Recommender

MANIFEST, STATE = "index.json", "items.safetensors"


def _made_with(folder: Path) -> Mapping[str, Any] | None:
    path = folder / MANIFEST
    return read_json(path, "build the index again") if path.is_file() else None


ENGINE_FILES = (
    "*.faiss",
    "*.usearch",
    "graph.safetensors",
    "milvus.db",
    "lancedb",
    "tantivy",
    "tantivy.safetensors",
)
KIND = Kind("searchable index", (MANIFEST, STATE, ITEMS, QUERIES, WEIGHTS, CONFIG, *ENGINE_FILES), _made_with)


@dataclass(frozen=True)
class Found:
    """The answers to B queries: `topk` in dense ids, and the catalogue that gives the user's own."""

    topk: TopK
    catalogue: Catalogue

    def __len__(self) -> int:
        return len(self.topk)

    @property
    def scores(self) -> NDArray[np.float32]:
        """Scores (B, K), descending; −inf past the end of a list."""
        scores: NDArray[np.float32] = self.topk.scores.float().cpu().numpy()
        return scores

    @property
    def exact(self) -> NDArray[np.bool_]:
        """For each query (B,) whether it is proved that no other item belongs in its list."""
        exact: NDArray[np.bool_] = self.topk.exact.cpu().numpy()
        return exact

    def to_source(self) -> pd.DataFrame:
        """All lists in one table: `query` (0..B−1), `rank` (from 1), `item_id`, `title`, `score`, `exact`."""
        return self.catalogue.tables(self.topk)


@dataclass(frozen=True, eq=False)
class Index:
    """`searcher`, built with `settings` over the items of `model` that are in `corpus`: all, unless some were removed."""

    model: "Recommender"
    settings: Settings
    searcher: Searcher
    corpus: ItemState

    def search(
        self,
        histories: Sequence[Iterable[object]],
        k: int = 10,
        *,
        timestamps: Sequence[Sequence[int]] | None = None,
        exclude_history: bool = True,
    ) -> Found:
        """The best `k` items after each of B histories of source ids, oldest first.

        `timestamps`: seconds since 1970, one per item, for encoders that read them. Raises ValueError if there is no history,
        one holds no known item, or k is below 1 or above the number of items; unknown items are left out with a warning.

        >>> import workbench as wb
        >>> index = wb.from_embeddings([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], ids=["a", "b", "c"]).index()
        >>> index.search([["a"], ["c"]], k=1).to_source()["item_id"].tolist()
        ['b', 'b']
        """
        if not len(histories):
            raise ValueError("there is nothing to search for: give at least one history")
        kept, times = self.model.catalogue.histories(histories, timestamps)
        batch = self.model.batch(kept, times)
        exclude = self.model.exclusion(kept) if exclude_history else None
        return self._search(self.model.query_state(batch), k, exclude)

    def search_embeddings(self, embeddings: Any, k: int = 10) -> Found:
        """The best `k` items for B query embeddings (B, D): an array, a tensor or nested lists.

        >>> import workbench as wb
        >>> index = wb.from_embeddings([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"]).index()
        >>> index.search_embeddings([[0.2, 0.9]], k=2).to_source()["item_id"].tolist()
        ['b', 'a']
        """
        return self._search(self.model.embedded(as_vectors(embeddings, "query embeddings")), k, None)

    def _search(self, queries: QueryState, k: int, exclude: Tensor | None) -> Found:
        with torch.no_grad():
            return Found(self.searcher.search(queries, k, exclude), self.model.catalogue)

    def add(self, ids: Sequence[object], embeddings: Any, titles: Sequence[str] | None = None) -> "Index":
        """The index with further items: their `embeddings` (M, D), as wide as the model's own, under source ids.

        A known id gets the new embedding, in the corpus and in histories, and is in the corpus again if it was removed.
        `titles`: of new items, by default their ids. This index stays as it is. Raises ValueError if an id repeats or is of
        another type than the model's, the embeddings are not finite, or the model learned something of every item.

        >>> import workbench as wb
        >>> index = wb.from_embeddings([[1.0, 0.0], [0.0, 1.0]], ids=["a", "b"]).index()
        >>> index.add(["c"], [[0.0, 2.0]]).search_embeddings([[0.2, 0.9]], k=1).to_source()["item_id"].tolist()
        ['c']
        """
        model = self.model.extended(ids, embeddings, titles)
        dense = torch.from_numpy(model.catalogue.lookup.to_dense(list(ids))).to(model.retriever.device)
        similarity = model.retriever.similarity
        with torch.no_grad():
            items = model.retriever.item_state(dense)
        corpus = self.corpus.upsert(items)
        searcher = changes.upserted(self.searcher, self.settings, similarity, items, corpus)
        return Index(model, self.settings, searcher, corpus)

    def remove(self, ids: Sequence[object]) -> "Index":
        """The index without some items, which histories may still hold. This index stays as it is.

        Raises ValueError if an id is unknown or not in the corpus, or nothing would be left.
        """
        dense = torch.from_numpy(self.model.catalogue.lookup.to_dense(list(ids))).to(self.corpus.ids.device)
        for place in (~torch.isin(dense, self.corpus.ids)).nonzero().flatten().tolist()[:1]:
            raise ValueError(f"item {ids[place]!r} was removed from this index before")
        corpus = self.corpus.without(dense.unique())
        if not len(corpus):
            raise ValueError("an index without items cannot be searched: leave at least one")
        similarity = self.model.retriever.similarity
        searcher = changes.without(self.searcher, self.settings, similarity, dense.unique(), corpus)
        return Index(self.model, self.settings, searcher, corpus)

    def save(self, folder: Path | str, *, replace: bool = False) -> Path:
        """Write the index with its model into `folder`: a folder that is new, or holds this index already.

        Raises ValueError if the folder holds something else, or another index unless `replace`; OSError if it cannot be
        written.
        """
        target = Path(folder)
        described = _described(self.model, self.settings, self.corpus)
        with files.new_folder(target, KIND, described, replace=replace) as temporary:
            self.model.save(temporary)
            self.corpus.save(temporary / STATE)
            similarity = self.model.retriever.similarity
            changes.write(self.searcher, self.settings, similarity, self.corpus, temporary)
            (temporary / MANIFEST).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        return target

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> "Index":
        """The index that `save` wrote; its items are read from the disk as they are needed, so the folder must stay there.

        Raises FileNotFoundError if there is none, ImportError if its engine is not installed, ValueError if a file is damaged
        or of another model or corpus, or the engine or the machine is of another kind, and MemoryError if what has to be held
        is more than is free.
        """
        from workbench.front_door.recommender import Recommender

        source, described = Path(folder), described_index(folder)
        try:
            settings = registry.SEARCHERS.from_dict(described["searcher"])
        except ValueError as error:
            raise ValueError(f"{source / MANIFEST} describes no searcher ({error})") from None
        check_made_by(settings.kind, dict(described.get("made_by", {})), str(source))
        footprint(source).check()
        model = Recommender.load(source, device=device)
        # The name is that of the model, not of this folder.
        model = replace(model, name=str(described.get("model", model.name)))
        if described.get("weights", model.fingerprint()) != model.fingerprint():
            raise ValueError(f"{source} was built of another model than the {WEIGHTS} in it; build it again")
        one = torch.ones(1, dtype=torch.int64, device=model.retriever.device)
        with torch.no_grad():
            state = type(model.retriever.item_state(one)).load(source / STATE).to(device)
        if len(state) > len(model.catalogue) or described.get("corpus", _corpus(state)) != _corpus(state):
            raise ValueError(
                f"{source / STATE} holds {len(state)} items that are not those of the index; build it again"
            )
        return cls(
            model, settings, registry.build(settings, model.retriever.similarity, state, source), state
        )


@dataclass(frozen=True)
class Footprint:
    """What an index takes before it is loaded: `held` bytes in memory, about, and `mapped` bytes that are read from disk."""

    held: int
    mapped: int

    def __str__(self) -> str:
        return f"{_shown(self.held)} in memory, {_shown(self.mapped)} read from disk as needed"

    def check(self) -> None:
        """Raise MemoryError if less memory is free than must be held."""
        free = psutil.virtual_memory().available
        if self.held > free:
            raise MemoryError(
                f"this index needs {_shown(self.held)} of memory and {_shown(free)} are free: take an engine"
                " that reads from disk (lancedb, usearch), or a larger machine"
            )


def _shown(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"


def described_index(folder: Path | str) -> Mapping[str, Any]:
    """The metadata of an index on disk: `searcher`, `model`, `weights`, `items`, `corpus`, `made_by`; nothing is loaded.

    Raises FileNotFoundError if there is none, ValueError if its description is damaged.
    """
    source = Path(folder)
    described = _made_with(source)
    if described is None:
        raise FileNotFoundError(f"{source} holds no {MANIFEST}: it is no index of this workbench")
    searcher = described.get("searcher")
    if not isinstance(searcher, dict) or not isinstance(searcher.get("kind"), str):
        raise ValueError(f"{source / MANIFEST} describes no searcher; build the index again")
    return described


def footprint(folder: Path | str) -> Footprint:
    """The memory that the index in `folder` will take, from the sizes of its files alone.

    Held: the weights, what the engine loads, and one averaged vector for each item; mapped: the items' state, and the files of
    engines that read as they search. Raises FileNotFoundError if there is no index.
    """
    source, described = Path(folder), described_index(folder)
    found = engine_of(described["searcher"]["kind"])
    sizes = {path: path.stat().st_size for path in source.rglob("*") if path.is_file()}
    state = sizes.get(source / STATE, 0)
    weights = sum(sizes.get(source / name, 0) for name in (WEIGHTS, CONFIG, ITEMS, QUERIES, MANIFEST))
    engine = sum(sizes.values()) - state - weights
    averaged = int(described.get("averaged_bytes", 0))
    reads = found is not None and found.mapped
    return Footprint(weights + averaged + (0 if reads else engine), state + (engine if reads else 0))


def build(model: "Recommender", settings: Settings, folder: Path | str, *, replace: bool = False) -> Path:
    """Build an index in a folder, without holding it: nothing is there until all of it is.

    What is built lies in `.NAME.building` next to it until then. The same call continues a build that was interrupted, or
    killed: engines from the last vectors that they noted, a graph from its last finished stage. A folder of another build is
    cleared. Raises what `Index.save` raises, ValueError if the searcher does not suit the model, and ImportError if its engine
    is not installed.
    """
    target = Path(folder)
    similarity, corpus = model.retriever.similarity, model.item_state
    described = _described(model, settings, corpus)
    files.check_folder(target, KIND, described, replace=replace)
    with files.lock(target):
        building = target.with_name(f".{target.name}.building")
        if _begun(building) != described:
            files.remove(building)
            files.write_text(json.dumps(described, indent=2) + "\n", building / MANIFEST)
        pieces = building / "pieces"
        pieces.mkdir(exist_ok=True)
        with stages.kept_in(building / "stages"):
            registry.build(
                settings, similarity, corpus, pieces
            )  # which is let go of: engines close their files
        with files.new_folder(target, KIND, described, replace=replace) as temporary:
            model.save(temporary)
            corpus.save(temporary / STATE)
            for piece in [*pieces.iterdir(), building / MANIFEST]:
                files.move_into(piece, temporary)
        files.remove(building)
    return target


def _begun(building: Path) -> Mapping[str, Any] | None:
    """What a build that was begun in a folder is of; None if there is none, or its description is damaged."""
    try:
        return _made_with(building)
    except ValueError:
        return None


def _described(model: "Recommender", settings: Settings, corpus: ItemState) -> dict[str, Any]:
    similarity = model.retriever.similarity
    components = similarity.item_components(corpus) if isinstance(similarity, ComponentSimilarity) else None
    averaged = 0 if components is None else components[:, 0].numel() * components.element_size()
    return {
        "searcher": registry.SEARCHERS.to_dict(settings),
        "model": model.name,
        "weights": model.fingerprint(),
        "items": len(corpus),
        "corpus": _corpus(corpus),
        "averaged_bytes": averaged,
        "made_by": made_by(settings.kind),
    }


def _corpus(state: ItemState) -> str:
    """A digest of the items and their order."""
    return hashlib.sha256(state.ids.cpu().numpy().tobytes()).hexdigest()[:16]
