"""Candidates from usearch: a navigable graph in one file, which is read from the disk as it is walked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from workbench import tensor_files
from workbench.runtime import require
from workbench.search import stages
from workbench.search.candidates import SourceBuilder
from workbench.search.corpus_manifest import CorpusManifest
from workbench.search.engines.stored_lists import EngineLists, Hits, padded
from workbench.search.indexes import HNSW, built_with

SUFFIX = ".usearch"

ROWS_TOGETHER = 100_000
"""Vectors after which a build that is kept writes what it has."""


class UsearchLists(EngineLists):
    """Candidates from an HNSW graph of usearch with the metric "inner product", on a CPU; items can be replaced and removed.

    Vectors that are not finite stay out. A graph built by several threads is not the same twice.
    Raises ImportError without usearch.
    """

    _content: Tensor | None = None
    """The file that the graph is mapped from."""

    def __init__(self, kind: HNSW, name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> None:
        super().__init__(CorpusManifest.of(name, ids, vectors))
        self.kind = kind
        of = f"{self._manifest.fingerprint}, {built_with(kind)}" if stages.keeping() else ""
        begun = stages.kept(f"usearch-{name}", of)
        self._index = (
            _empty(kind, vectors.shape[1])
            if begun is None
            else _read(kind, vectors.shape[1], begun.numpy(), view=False)
        )
        missing = self._manifest.finite.nonzero()[len(self._index) :, 0]
        for rows in missing.split(ROWS_TOGETHER):
            self._add(self._index, ids[rows], vectors[rows])
            if stages.keeping():
                stages.keep(f"usearch-{name}", of, _content(self._index))

    def _add(self, index: Any, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        finite = vectors.float().isfinite().all(1)
        if bool(finite.any()):
            keys = ids[finite].cpu().numpy().astype(np.uint64)
            index.add(keys, _array(vectors[finite]), threads=torch.get_num_threads())

    def _hits(self, vectors: NDArray[np.float32], fetched: int) -> Hits:
        self._index.expansion_search = max(self.kind.ef_search, fetched)
        threads = torch.get_num_threads()
        # Two or more at a time: of a single one the answer has another form.
        asked = vectors if len(vectors) > 1 else np.concatenate([vectors, vectors])
        found = self._index.search(asked, fetched, threads=threads)
        lists = [
            (1 - distances[:n], keys[:n].astype(np.int64))
            for distances, keys, n in zip(found.distances, found.keys, found.counts, strict=True)
        ][: len(vectors)]
        return padded([scores for scores, _ in lists], [ids for _, ids in lists], fetched)

    def upsert(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        """See `CandidateSource.upsert`."""
        after, changed = self._manifest.upserted(ids, vectors), self._copy()
        known = self._held(ids)
        if len(known):
            changed.remove(known)
        self._add(changed, ids, vectors)
        self._manifest, self._index = after, changed

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `CandidateSource.remove`."""
        after, changed = self._manifest.without(ids), self._copy()
        if len(known := self._held(ids)):
            changed.remove(known)
        self._manifest, self._index = after, changed

    def _held(self, ids: Int[Tensor, "M"]) -> NDArray[np.uint64]:
        """Those of `ids` that the graph holds."""
        rows = self._manifest.rows.of(ids)
        there = (rows >= 0) & self._manifest.finite[rows.clamp(min=0)]
        return ids[there].cpu().numpy().astype(np.uint64)

    def _copy(self) -> Any:
        return _read(self.kind, self._manifest.width, np.frombuffer(self._index.save(), np.uint8), view=False)

    def snapshot(self) -> Callable[[], None]:
        """See `CandidateSource.snapshot`."""
        manifest, index = self._manifest, self._index

        def restore() -> None:
            self._manifest, self._index = manifest, index

        return restore

    def save_into(self, folder: Path) -> None:
        """See `candidates.Stored`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.save(folder / f"{self._manifest.name}{SUFFIX}")

    def save(self, path: Path) -> None:
        """Write the graph, its kind and the fingerprint of its vectors, whole or not at all."""
        described = {
            "record": type(self).__name__,
            "built_with": json.dumps(built_with(self.kind)),
            "fingerprint": self._manifest.fingerprint,
        }
        tensor_files.save({"index": _content(self._index)}, path, described)

    @classmethod
    def load(
        cls, path: Path, kind: HNSW, name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]
    ) -> "UsearchLists":
        """The graph that `save` wrote, mapped from its file; ValueError that names the file if it is another, or damaged."""
        manifest, advice = CorpusManifest.of(name, ids, vectors), "delete it and build it again"
        tensors, described = tensor_files.load(path, advice)
        if described.get("record") != cls.__name__ or "index" not in tensors:
            raise ValueError(f"{path} holds no graph of usearch; {advice}")
        if described.get("built_with") != json.dumps(built_with(kind)):
            raise ValueError(f"{path} was built with {described.get('built_with')}, not as {kind}; {advice}")
        if described.get("fingerprint") != manifest.fingerprint:
            raise ValueError(f"{path} was built of other vectors: of another model or corpus; {advice}")
        lists = cls.__new__(cls)
        EngineLists.__init__(lists, manifest)
        lists.kind, lists._content = kind, tensors["index"]  # the file stays mapped while the graph is walked
        try:
            lists._index = _read(kind, manifest.width, lists._content.numpy(), view=True)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}; {advice}") from error
        return lists


def usearch_lists(kind: HNSW | None = None, folder: Path | None = None) -> SourceBuilder:
    """Makes sources of candidates from usearch; with a `folder`, loads `NAME.usearch` from there, or builds and saves it."""
    chosen = HNSW() if kind is None else kind

    def build(name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> UsearchLists:
        path = None if folder is None else folder / f"{name}{SUFFIX}"
        if path is not None and path.is_file():
            return UsearchLists.load(path, chosen, name, ids, vectors)
        lists = UsearchLists(chosen, name, ids, vectors)
        if folder is not None:
            lists.save_into(folder)
        return lists

    return build


def _array(vectors: Float[Tensor, "M d"]) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors.detach().float().cpu().numpy())


def _empty(kind: HNSW, width: int) -> Any:
    return require("usearch.index").Index(
        ndim=width,
        metric="ip",
        dtype="f32",
        connectivity=kind.m,
        expansion_add=kind.ef_construction,
        expansion_search=kind.ef_search,
    )


def _content(index: Any) -> Tensor:
    """The graph as bytes."""
    return torch.from_numpy(np.frombuffer(index.save(), np.uint8).copy())


def _read(kind: HNSW, width: int, content: NDArray[np.uint8], view: bool) -> Any:
    index = _empty(kind, width)
    (index.view if view else index.load)(content.data)
    return index
