"""Query embeddings by the user's own ids, of a model whose queries come from elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import torch
from jaxtyping import Float
from torch import Tensor

from workbench import files
from workbench.data.ids import SourceIds, source_ids
from workbench.loading import reading

QUERIES = "queries.parquet"
"""The file in a model's folder that holds its query table."""

ID, EMBEDDING = "query_id", "embedding"


@dataclass(frozen=True, eq=False)
class QueryTable:
    """`vectors` float32 (Q, D), and the Q source ids of the queries in the same order.

    Raises ValueError if there is not one id for each embedding, or an id repeats.
    """

    name: str
    ids: pd.Series
    vectors: Float[Tensor, "Q D"]

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.vectors):
            raise ValueError(
                f"{len(self.vectors):,} query embeddings and {len(self.ids):,} query ids: give one of each for each query"
            )
        if (repeated := self.ids.duplicated()).any():
            raise ValueError(f"query ids: {self.ids[int(repeated.argmax())]!r} appears twice")

    @classmethod
    def of(cls, name: str, queries: Any, ids: Sequence[object] | None = None) -> "QueryTable":
        """The table of `queries`: numbers (Q, D) with their `ids` (default 0..Q−1), or a DataFrame of numbers.

        The ids of a DataFrame are its column `query_id`, or else its index. Raises ValueError if there are no numbers, one is
        not finite, or the ids are not Q or repeat.
        """
        if isinstance(queries, pd.DataFrame):
            if ids is not None:
                raise ValueError("a DataFrame of queries has its own ids: leave query_ids out")
            frame = queries.set_index(ID) if ID in queries.columns else queries
            ids, queries = list(frame.index), frame.to_numpy()
        vectors = as_vectors(queries, "query embeddings")
        known = pd.Series(range(len(vectors)) if ids is None else list(ids))
        return cls(name, source_ids(known, "query_ids", ID), vectors)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lookup(self) -> SourceIds:
        """The way from source ids to rows and back."""
        return SourceIds("query", self.name, pd.Index(self.ids), first=0)

    @classmethod
    def load(cls, folder: Path, name: str) -> "QueryTable | None":
        """The table that `save` wrote to `folder`, None if there is none; ValueError if it is damaged."""
        path = folder / QUERIES
        if not path.is_file():
            return None
        with reading(path, "build the index again"):
            table = pyarrow.parquet.read_table(path)
            ids, rows = table[ID].to_pandas(), table[EMBEDDING].to_pylist()
        return cls(name, ids, as_vectors(rows, str(path)))

    def save(self, folder: Path) -> None:
        """Write the table into `folder`."""
        rows = pa.array(list(self.vectors.numpy()), pa.list_(pa.float32()))
        table = pa.table({ID: pa.Array.from_pandas(self.ids), EMBEDDING: rows})
        with files.atomic_write(folder / QUERIES) as temporary:
            pyarrow.parquet.write_table(table, temporary)


def as_vectors(values: Any, what: str) -> Tensor:
    """Rows of numbers as a float32 tensor (n, D); ValueError if they are no matrix or not finite."""
    try:
        vectors = torch.as_tensor(np.asarray(values, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be rows of numbers of one length ({error})") from None
    if vectors.ndim != 2 or not vectors.numel():
        raise ValueError(f"{what} must be a matrix of at least one row, not of shape {tuple(vectors.shape)}")
    if not bool(vectors.isfinite().all()):
        row = int((~vectors.isfinite()).any(1).nonzero()[0, 0])
        raise ValueError(f"{what}: row {row} holds NaN or infinite numbers")
    return vectors
