"""Candidates from LanceDB: a columnar table on disk that is scanned, or larger than memory; every change is a version."""

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from workbench.loading import one_line
from workbench.runtime import require
from workbench.search import stages
from workbench.search.candidates import SourceBuilder
from workbench.search.corpus_manifest import CorpusManifest
from workbench.search.engines.stored_lists import EngineLists, Hits, padded

ITEM, VECTOR = "item_id", "vector"
FINGERPRINT = b"workbench.fingerprint"

ROWS_TOGETHER = 65_536
"""Vectors that are written together."""

IDS_TOGETHER = 10_000
"""Items deleted together."""

QUERIES_TOGETHER = 256
"""Queries of one request: it holds all of their results."""


class LanceLists(EngineLists):
    """Candidates from a table of LanceDB, every vector looked at, from the disk: memory holds what is being read.

    Vectors that are not finite stay out. A table that an interrupted build left is filled if its stages are kept
    (`stages.kept_in`), else refused. Raises ImportError without lancedb, ValueError if the table is there and damaged or of
    other vectors.
    """

    def __init__(
        self, database: Path, name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]
    ) -> None:
        super().__init__(CorpusManifest.of(name, ids, vectors))
        os.environ.setdefault("LANCE_LOG", "error")  # it warns that a new table is new
        self._lancedb = require("lancedb")
        self._database = self._lancedb.connect(str(database))
        there = (database / f"{name}.lance").exists()
        try:
            self._table: Any = self._database.open_table(name) if there else self._create(name)
            schema = self._table.schema
            if not there or (stages.keeping() and self._is_of(schema)):
                self._fill(ids, vectors)
            held = self._table.count_rows()
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"{database / name}.lance is damaged, or cannot be written: {one_line(error)}"
            ) from error
        if not self._is_of(schema) or held != self._manifest.held:
            raise ValueError(
                f"{database / name}.lance is of other vectors: of another model or corpus, or changed elsewhere;"
                " delete it and build it again"
            )

    def _create(self, name: str) -> Any:
        width = pa.field(VECTOR, pa.list_(pa.float32(), self._manifest.width))
        schema = pa.schema(
            [pa.field(ITEM, pa.int64()), width], {FINGERPRINT: self._manifest.fingerprint.encode()}
        )
        return self._database.create_table(name, schema=schema)

    def _is_of(self, schema: Any) -> bool:
        """Whether a table was made for these items and vectors."""
        found: bytes = (schema.metadata or {}).get(FINGERPRINT, b"")
        return found.decode() == self._manifest.fingerprint

    def _fill(self, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> None:
        """Write all that the table lacks: rows come in order, so that an interrupted build left the first of them."""
        missing = self._manifest.finite.nonzero()[self._table.count_rows() :, 0]
        for rows in missing.split(ROWS_TOGETHER):
            self._table.add(_rows(ids[rows], vectors[rows]))

    def _hits(self, vectors: NDArray[np.float32], fetched: int) -> Hits:
        scores, ids = [], []
        for start in range(0, len(vectors), QUERIES_TOGETHER):
            part = vectors[start : start + QUERIES_TOGETHER]
            # Two or more at a time: of a single one the answer has no column query_index.
            asked = part if len(part) > 1 else np.concatenate([part, part])
            request = self._table.search(asked).distance_type("dot").select([ITEM, "_distance"])
            answer = request.limit(fetched).to_arrow()
            of = answer["query_index"].to_numpy()
            for query in range(len(part)):
                own = of == query
                scores.append(1 - answer["_distance"].to_numpy()[own])
                ids.append(answer[ITEM].to_numpy()[own])
        return padded(scores, ids, fetched)

    def upsert(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        """See `CandidateSource.upsert`: here it changes the table on disk, but not the stored fingerprint."""
        after = self._manifest.upserted(ids, vectors)
        self._delete(ids)
        if len(rows := _rows(ids, vectors)):
            self._table.add(rows)
        self._manifest = after

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `CandidateSource.remove`; as for `upsert`."""
        after = self._manifest.without(ids)
        self._delete(ids)
        self._manifest = after

    def _delete(self, ids: Int[Tensor, "M"]) -> None:
        for part in ids.split(IDS_TOGETHER):
            self._table.delete(f"{ITEM} IN ({', '.join(map(str, part.tolist()))})")

    def snapshot(self) -> Callable[[], None]:
        """See `CandidateSource.snapshot`: the table goes back to its version."""
        manifest, version = self._manifest, self._table.version

        def restore() -> None:
            if self._table.version != version:
                self._table.restore(version)
            self._manifest = manifest

        return restore


def lance_lists(folder: Path | None = None) -> SourceBuilder:
    """Makes sources of candidates from the database `lancedb` in `folder`, opened or built; None: in a temporary folder."""

    def build(name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> LanceLists:
        if folder is not None:
            return LanceLists(folder / "lancedb", name, ids, vectors)
        place = TemporaryDirectory(prefix="workbench-lancedb-")
        try:
            lists = LanceLists(Path(place.name), name, ids, vectors)
        except BaseException:
            place.cleanup()
            raise
        weakref.finalize(lists, place.cleanup)
        return lists

    return build


def _rows(ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> pa.Table:
    finite = vectors.float().isfinite().all(1)
    flat = vectors[finite].detach().float().cpu().numpy().ravel()
    columns = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), vectors.shape[1])
    return pa.table({ITEM: pa.array(ids[finite].cpu().numpy()), VECTOR: columns})
