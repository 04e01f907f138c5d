"""Deep Retrieval's search: a beam of paths for each query, the items on them, and the reranker's order."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from workbench import files
from workbench.contracts import ItemState, QueryState, Similarity
from workbench.kernels import path_walk
from workbench.loading import one_line, reading
from workbench.search import trace
from workbench.search.candidates import listed_among
from workbench.search.certificates import Answer, CorpusSearcher
from workbench.search.tiles import DEFAULT_BUDGET
from workbench.search.topk import NO_SCORE, best, count_open
from workbench.similarities.deep_retrieval.similarity import DeepRetrieval, DeepRetrievalItems
from workbench.similarities.deep_retrieval.structure import NO_PATH, PathWalker, Prefixes
from workbench.similarities.rounding import UNKNOWN

ITEMS, DESCRIPTION = "items.safetensors", "index.json"
FORMAT = 1
_KIND = files.Kind(
    "path index", (ITEMS, DESCRIPTION), lambda folder: {} if (folder / DESCRIPTION).is_file() else None
)
CANDIDATE_BYTES = 160
"""Bytes per (query, path, item) while the items of a beam are merged and ranked, but for what scoring them takes."""


class PathLists(NamedTuple):
    """The items of each path, stored end to end: path `codes[i]` (ascending) holds `rows[offsets[i]:offsets[i + 1]]`."""

    codes: Int[Tensor, "M"]
    offsets: Int[Tensor, "M1"]
    rows: Int[Tensor, "E"]

    @classmethod
    def of(cls, paths: Int[Tensor, "N J"]) -> Self:
        """The lists of items on `paths`, which are −1 if an item has fewer than J."""
        on = paths != NO_PATH
        rows = torch.arange(len(paths), device=paths.device)[:, None].expand_as(paths)[on]
        order = paths[on].argsort(stable=True)
        codes, sizes = paths[on].unique(return_counts=True)
        return cls(codes, torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]), rows[order])

    def nbytes(self) -> int:
        """Bytes that the lists hold."""
        return sum(t.numel() * t.element_size() for t in self)


class PathBeam(CorpusSearcher):
    """The best k of the items on a query's `beam` most probable paths.

    The beam is searched among the paths that hold an item (`occupied_only`; otherwise among all K^D, as in the paper). The
    lists of its paths are merged without duplicates, and what they hold is scored by `similarity`, the reranker.
    `num_scored` counts these items. `exact` is True if every item that may be found was scored: the beam reached all of
    them. Otherwise `gap` is +inf, since a path's probability does not bound the scores on it.

    Where the paths of a beam hold fewer than k items that may be found, the list ends with id −1 and score −inf, and
    `TopK.shortfall` counts the missing ones: a wider beam reaches more.

    Memory beyond the item state and the result stays under about `memory_budget` bytes (one query is the least).
    Raises ValueError if an item has no path: it could never be found.
    """

    def __init__(
        self,
        similarity: Similarity,
        items: ItemState,
        walker: PathWalker,
        beam: int = 25,
        occupied_only: bool = True,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        if beam < 1:
            raise ValueError(f"a beam needs room for at least 1 path, not {beam}")
        super().__init__(similarity, items, memory_budget)
        self.walker, self.beam, self.occupied_only = walker, beam, occupied_only
        self._list(items)

    @classmethod
    def of(cls, model: DeepRetrieval, items: DeepRetrievalItems, beam: int | None = None) -> Self:
        """The index of a trained model: it walks the paths, and its reranker scores; `beam` as in training by default."""
        return cls(model, items, model, model.config.beam if beam is None else beam)

    def _list(self, items: ItemState) -> None:
        """Derive the lists of paths."""
        paths = self.walker.paths_of(items)
        lost = (paths == NO_PATH).all(1) if paths.shape[1] else torch.ones(len(items), dtype=torch.bool)
        if bool(lost.any()):
            item = int(items.ids[lost.nonzero()[0, 0]])
            raise ValueError(
                f"item {item} has no path, and {int(lost.sum()) - 1} others: no beam would ever reach them;"
                " give them paths (`DeepRetrieval.place`) or leave them out of the corpus"
            )
        lists = PathLists.of(paths)
        depth, width = self.walker.shape
        if int(lists.codes[0]) < 0 or int(lists.codes[-1]) >= width**depth:
            raise ValueError(
                f"paths run from {int(lists.codes[0])} to {int(lists.codes[-1])}, but {depth} layers of {width} nodes"
                f" number them 0..{width**depth - 1}: these are another model's items"
            )
        self.within = Prefixes(lists.codes, depth, width) if self.occupied_only else None
        self.lists = lists
        sizes = lists.offsets.diff().sort(descending=True).values
        self._longest = min(int(sizes[: self.beam].sum()), paths.numel())

    def _upsert(self, items: ItemState, corpus: ItemState) -> None:
        """Items bring their paths with them, and the lists are sorted again."""
        self._list(corpus)

    def _remove(self, ids: Int[Tensor, "M"], corpus: ItemState) -> None:
        self._list(corpus)

    def nbytes(self) -> int:
        """Bytes of the index: item vectors and paths, and the lists."""
        return self.items.nbytes() + self.lists.nbytes()

    def reached(self, queries: QueryState, beam: int | None = None) -> tuple[Tensor, Tensor]:
        """The distinct items on each query's beam: `rows` int64 (B, C), ascending, 0 past the end, and their `counts` (B,)."""
        with torch.no_grad():
            walked = self.walker.beam(queries, beam or self.beam, self.within).paths.contiguous()  # (B, W)
        places = torch.searchsorted(self.lists.codes, walked).clamp(max=len(self.lists.codes) - 1)
        held = self.lists.codes[places] == walked  # a path without items, or none, holds nothing
        first = self.lists.offsets[places]
        sizes = torch.where(held, self.lists.offsets[places + 1] - first, 0)  # (B, W)
        if not trace.listening() and path_walk.serves(first, self.lists.rows):
            return path_walk.merge_lists(first, sizes, self.lists.rows, len(self.items))
        sizes = sizes.flatten()
        # Entry e of the concatenated lists is at position `within` of its list, at offsets[list] + within.
        total = sizes.cumsum(0)
        entry = torch.arange(int(total[-1]) if len(total) else 0, device=walked.device)
        which = torch.repeat_interleave(torch.arange(len(sizes), device=walked.device), sizes)
        rows = self.lists.rows[first.flatten()[which] + entry - (total - sizes)[which]]
        if trace.listening():
            for number, on in enumerate(rows.split(sizes.tolist()), 1):
                trace.listed(f"the items on path {number} of the beam", on.expand(len(walked), -1))
        keys = (which // max(walked.shape[1], 1) * len(self.items) + rows).unique()
        query, row = keys // len(self.items), keys % len(self.items)
        counts = torch.bincount(query, minlength=len(walked))
        place = torch.arange(len(query), device=row.device) - (counts.cumsum(0) - counts)[query]
        widest = int(counts.max()) if len(counts) else 0
        return row.new_zeros(len(walked), widest).index_put((query, place), row), counts

    def _batch(self, queries: QueryState, k: int, excluded: int) -> int:
        """For the longest lists that a beam could meet."""
        width = self.walker.shape[1]
        per_query = self._longest * (CANDIDATE_BYTES + self.similarity.pair_bytes) + 16 * self.beam * width
        return max(1, self.memory_budget // per_query)

    def _search(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        rows, work = self.reached(queries)
        rows = F.pad(rows, (0, max(0, 1 - rows.shape[1])))
        # A query with fewer candidates repeats row 0, which is scored and then masked.
        real = torch.arange(rows.shape[1], device=rows.device) < work[:, None]  # (B, C)
        scores = self.similarity.score_candidates(queries, self.items, rows)
        scores = scores.masked_fill(~real, NO_SCORE)
        trace.scored("the items on the paths are scored", rows, scores)
        eligible = real if allowed is None else real & allowed[rows]
        if excluded is not None:
            eligible = eligible & ~listed_among(rows, excluded)
        # The lower of the score and ±inf, so that a NaN stays and is reported.
        scores = torch.minimum(scores, torch.where(eligible, -NO_SCORE, NO_SCORE).to(scores.dtype))
        found = best(scores, min(k, scores.shape[1]))
        missing = (0, k - found.scores.shape[1])
        everything = eligible.sum(1) == count_open(len(self.items), excluded, allowed)
        return Answer(
            F.pad(found.scores, missing, value=NO_SCORE),
            F.pad(rows.gather(1, found.rows), missing),
            torch.where(everything, NO_SCORE, UNKNOWN),
            work,
        )

    # Keeping.

    def save(self, folder: Path) -> None:
        """Write the index: item vectors and paths as safetensors, and what they belong to as JSON; whole or not at all.

        Raises ValueError if the walker is no trained model, and OSError if the folder cannot be written.
        """
        if not isinstance(self.walker, DeepRetrieval):
            raise ValueError(
                "only the index of a DeepRetrieval model is saved: another walker could not be identified"
            )
        with files.new_folder(folder, _KIND, {}) as temporary:
            self.items.save(temporary / ITEMS)
            described = {
                "format": FORMAT,
                "model": fingerprint(self.walker),
                "corpus": corpus_fingerprint(self.items.ids),
                "items": len(self.items),
                "beam": self.beam,
                "occupied_only": self.occupied_only,
            }
            described["digest"] = _digest(described)
            (temporary / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")

    @classmethod
    def load(
        cls, folder: Path, model: DeepRetrieval, ids: Int[Tensor, "N"] | None = None, beam: int | None = None
    ) -> Self:
        """The index that `save` wrote, for the model it was built with, and, if `ids` are given, for that corpus.

        Raises FileNotFoundError if there is none; ValueError if it is damaged, of another version, of another model or
        of another corpus.
        """
        path = folder / DESCRIPTION
        if not path.is_file():
            raise FileNotFoundError(f"there is no path index at {folder}: it holds no {DESCRIPTION}")
        with reading(path, "rebuild the index"):
            metadata = json.loads(path.read_text())
            written = metadata.pop("digest", None)  # earlier versions wrote none
            if written is not None and written != _digest(metadata):
                raise ValueError("its content is not what was written")
            found, corpus = one_line(str(metadata["model"])), metadata["corpus"]
            version, occupied = one_line(repr(metadata["format"])), bool(metadata["occupied_only"])
            width = int(metadata["beam"])
            if width < 1:
                raise ValueError(f"a beam of {width} paths")
        if version != repr(FORMAT):
            raise ValueError(f"{path} has format {version}; this version reads format {FORMAT}")
        if found != fingerprint(model):
            raise ValueError(
                f"{folder} is the index of another model (fingerprint {found}, this model has {fingerprint(model)});"
                " build one for this model"
            )
        items = DeepRetrievalItems.load(folder / ITEMS).to(model.paths.device)
        if ids is not None and corpus != corpus_fingerprint(ids):
            raise ValueError(
                f"{folder} is the index of another corpus of {len(items)} items; build one for this corpus"
            )
        if corpus != corpus_fingerprint(items.ids):
            raise ValueError(f"{folder / ITEMS} does not hold the items of {DESCRIPTION}; rebuild the index")
        return cls(model, items, model, width if beam is None else beam, occupied)


def fingerprint(model: DeepRetrieval) -> str:
    """16 hex digits by which an index recognises its model: the weights that walk and rerank, and the configuration.

    The paths are not part of it: items may be put in, moved and taken out of an index.
    """
    digest = hashlib.sha256(repr((model.config, model.num_items)).encode())
    for name, value in model.named_parameters():
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _digest(description: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:16]


def corpus_fingerprint(ids: Int[Tensor, "N"]) -> str:
    """16 hex digits of the item ids of a corpus, in their order."""
    return hashlib.sha256(ids.cpu().numpy().tobytes()).hexdigest()[:16]
