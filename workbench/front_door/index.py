"""A searcher over a model's items: built once, saved, loaded, searched by histories in the user's own ids."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench import files
from workbench.contracts import ItemState, QueryState, Searcher, TopK
from workbench.front_door.saved_index import (
    KIND,
    MANIFEST,
    STATE,
    Contents,
    Manifest,
    contents,
    described_index,
    footprint,
)
from workbench.models.catalogue import Catalogue
from workbench.models.query_table import as_vectors
from workbench.registry import Settings
from workbench.search import changes, registry, stages
from workbench.search.engines.catalog import check_made_by, made_by
from workbench.search.memory import held_bytes

if TYPE_CHECKING:
    from workbench.front_door.recommender import Recommender


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
    """`searcher`, built with `settings` over the items of `model` that are in `corpus`: all, unless some were removed.

    Raises ValueError if the model needs the user's id: a search takes histories or embeddings alone.
    """

    model: "Recommender"
    settings: Settings
    searcher: Searcher
    corpus: ItemState

    def __post_init__(self) -> None:
        check_searchable(self.model)

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
        target, model = Path(folder), self.model
        described = _contents(model, self.settings, self.corpus)
        with files.new_folder(target, KIND, asdict(described), replace=replace) as temporary:
            model.save(temporary)
            self.corpus.save(temporary / STATE)
            changes.write(self.searcher, self.settings, model.retriever.similarity, self.corpus, temporary)
            Manifest.of(described, temporary, _held(model, self.searcher, self.corpus)).save(temporary)
        return target

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> "Index":
        """The index that `save` wrote; its items are read from the disk as they are needed, so the folder must stay there.

        Every file is compared with the digest that `save` noted; all are read once for that, the items' state too.
        Raises FileNotFoundError if there is none, ImportError if its engine is not installed, ValueError if a file is damaged
        or another than the one that was saved, or the engine or the machine is of another kind, and MemoryError if what has to
        be held is more than is free.
        """
        from workbench.front_door.recommender import Recommender

        source, manifest = Path(folder), described_index(folder)
        settings = manifest.settings
        check_made_by(settings.kind, manifest.made_by, str(source))
        footprint(source).check()
        manifest.check_files(source)
        # The name is that of the model, not of this folder.
        model = replace(Recommender.load(source, device=device), name=manifest.model)
        one = torch.ones(1, dtype=torch.int64, device=model.retriever.device)
        with torch.no_grad():
            state = type(model.retriever.item_state(one)).load(source / STATE).to(device)
        return cls(
            model, settings, registry.build(settings, model.retriever.similarity, state, source), state
        )


def build(model: "Recommender", settings: Settings, folder: Path | str, *, replace: bool = False) -> Path:
    """Build an index in a folder, without holding it: nothing is there until all of it is.

    What is built lies in `.NAME.building` next to it until then. The same call continues a build that was interrupted, or
    killed: engines from the last vectors that they noted, a graph from its last finished stage. A folder of another build is
    cleared. Raises what `Index` and `Index.save` raise, ValueError if the searcher does not suit the model, and ImportError if
    its engine is not installed.
    """
    check_searchable(model)
    target = Path(folder)
    similarity, corpus = model.retriever.similarity, model.item_state
    described = _contents(model, settings, corpus)
    as_json = asdict(described)
    files.check_folder(target, KIND, as_json, replace=replace)
    with files.lock(target):
        building = target.with_name(f".{target.name}.building")
        if _begun(building) != as_json:
            files.remove(building)
            files.write_text(json.dumps(as_json, indent=2) + "\n", building / MANIFEST)
        pieces = building / "pieces"
        pieces.mkdir(exist_ok=True)
        with stages.kept_in(building / "stages"):
            # The searcher is let go of at once: engines close their files.
            held = _held(model, registry.build(settings, similarity, corpus, pieces), corpus)
        with files.new_folder(target, KIND, as_json, replace=replace) as temporary:
            model.save(temporary)
            corpus.save(temporary / STATE)
            for piece in pieces.iterdir():
                files.move_into(piece, temporary)
            Manifest.of(described, temporary, held).save(temporary)
        files.remove(building)
    return target


def check_searchable(model: "Recommender") -> None:
    """Raise ValueError if the queries of a model need more than an embedding: the user's id, which no search is given."""
    try:
        model.embedded(torch.zeros(1, model.retriever.config.dim))
    except ValueError as error:
        raise ValueError(
            f"{model.name} cannot be searched through an index, which takes histories and no users ({error}); without an"
            " index it recommends to a user: `recommend` with --user, in Python with user="
        ) from None


def _begun(building: Path) -> Mapping[str, Any] | None:
    """What a build that was begun in a folder is of; None if there is none, or its description is damaged."""
    try:
        return contents(building)
    except ValueError:
        return None


def _contents(model: "Recommender", settings: Settings, corpus: ItemState) -> Contents:
    return Contents(
        searcher=registry.SEARCHERS.to_dict(settings),
        model=model.name,
        weights=model.fingerprint(),
        items=len(corpus),
        # The items and their order; what is stored of them follows from these and the weights.
        corpus=hashlib.sha256(corpus.ids.cpu().numpy().tobytes()).hexdigest()[:16],
        made_by=made_by(settings.kind),
    )


def _held(model: "Recommender", searcher: Searcher, corpus: ItemState) -> int:
    """Bytes that are in memory while the index is open, besides the weights and what an engine allocates."""
    return (
        held_bytes(searcher, corpus, model.retriever) + model.catalogue.held_bytes() + held_bytes(model.data)
    )
