"""A searcher over a model's items: built once, saved, loaded, searched by histories in the user's own ids."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench import files
from workbench.contracts import QueryState, Searcher, TopK
from workbench.files import Kind
from workbench.loading import read_json
from workbench.models.catalogue import ITEMS, Catalogue
from workbench.models.query_table import QUERIES, as_vectors
from workbench.registry import Settings
from workbench.retriever import CONFIG, WEIGHTS
from workbench.search import registry

if TYPE_CHECKING:
    from workbench.front_door.recommender import Recommender

MANIFEST, STATE = "index.json", "items.safetensors"


def _made_with(folder: Path) -> Mapping[str, Any] | None:
    path = folder / MANIFEST
    return read_json(path, "build the index again") if path.is_file() else None


KIND = Kind("searchable index", (MANIFEST, STATE, ITEMS, QUERIES, WEIGHTS, CONFIG, "*.faiss"), _made_with)


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
        tables = [self.catalogue.table(self.topk, row).assign(query=row) for row in range(len(self))]
        columns = ["query", "rank", "item_id", "title", "score", "exact"]
        return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


@dataclass(frozen=True, eq=False)
class Index:
    """`searcher`, built with `settings` over all items of `model`."""

    model: "Recommender"
    settings: Settings
    searcher: Searcher

    def search(
        self,
        histories: Sequence[Iterable[object]],
        k: int = 10,
        *,
        timestamps: Sequence[Sequence[int]] | None = None,
        exclude_history: bool = True,
    ) -> Found:
        """The best `k` items after each of B histories of source ids, oldest first.

        `timestamps`: seconds since 1970, one per item, for encoders that read them. Raises ValueError if a history holds no
        known item, or k is below 1 or above the number of items; unknown items are left out with a warning.

        >>> import workbench as wb
        >>> index = wb.from_embeddings([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], ids=["a", "b", "c"]).index()
        >>> index.search([["a"], ["c"]], k=1).to_source()["item_id"].tolist()
        ['b', 'b']
        """
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

    def save(self, folder: Path | str, *, replace: bool = False) -> Path:
        """Write the index with its model into `folder`: a folder that is new, or holds this index already.

        Raises ValueError if the folder holds something else, or another index unless `replace`; OSError if it cannot be
        written.
        """
        target = Path(folder)
        described = _described(self.model, self.settings)
        with files.new_folder(target, KIND, described, replace=replace) as temporary:
            self.model.save(temporary)
            self.model.item_state.save(temporary / STATE)
            registry.build(self.settings, self.model.retriever.similarity, self.model.item_state, temporary)
            (temporary / MANIFEST).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        return target

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> "Index":
        """The index that `save` wrote. Raises FileNotFoundError if there is none, ValueError if a file is damaged."""
        from workbench.front_door.recommender import Recommender

        source = Path(folder)
        described = _made_with(source)
        if described is None:
            raise FileNotFoundError(f"{source} holds no {MANIFEST}: it is no index of this workbench")
        try:
            settings = registry.SEARCHERS.from_dict(described["searcher"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{source / MANIFEST} describes no searcher ({error})") from None
        model = Recommender.load(source, device=device)
        model = replace(
            model, name=str(described.get("model", model.name))
        )  # that of the model, not of this folder
        one = torch.ones(1, dtype=torch.int64, device=model.retriever.device)
        with torch.no_grad():
            state = type(model.retriever.item_state(one)).load(source / STATE).to(device)
        if len(state) != len(model.catalogue):
            raise ValueError(
                f"{source / STATE} holds {len(state)} items and the catalogue {len(model.catalogue)}"
            )
        model.__dict__["item_state"] = state
        return cls(model, settings, registry.build(settings, model.retriever.similarity, state, source))


def check_place(folder: Path, model: "Recommender", settings: Settings, *, replace: bool = False) -> None:
    """Raise what `Index.save` of this index into `folder` would raise: call it before the index is built."""
    files.check_folder(folder, KIND, _described(model, settings), replace=replace)


def _described(model: "Recommender", settings: Settings) -> dict[str, Any]:
    return {
        "searcher": registry.SEARCHERS.to_dict(settings),
        "model": model.name,
        "weights": model.fingerprint(),
    }
