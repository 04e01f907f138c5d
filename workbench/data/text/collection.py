"""A text retrieval task: documents, queries, and which documents answer which query."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.data.errors import DataError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Step:
    """Counts after one step of preparing: queries left, and different words (groups) among them."""

    name: str
    queries: int
    groups: int


@dataclass(frozen=True)
class TextCollection:
    """`documents`: `document_id`, `text`. `queries`: `query_id`, `text`, `split` (train, validation, test), `group` (queries of
    one group are not independent: intervals are clustered by it), and further columns. `relevance`: `query_id`, `document_id`.

    Raises DataError that gives the id for an id that repeats, an empty text, an unknown split, a query without an answer, and a
    relevance that names an unknown query or document.
    """

    name: str
    documents: pd.DataFrame
    queries: pd.DataFrame
    relevance: pd.DataFrame
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        for table, key in ((self.documents, "document_id"), (self.queries, "query_id")):
            repeated = table[key][table[key].duplicated()]
            if len(repeated):
                raise DataError(f"{self.name}: {key} {repeated.iloc[0]!r} is given twice")
            blank = table[key][table["text"].str.strip() == ""]
            if len(blank):
                raise DataError(f"{self.name}: the text of {key} {blank.iloc[0]!r} is empty")
            unknown = self.relevance[key][~self.relevance[key].isin(table[key])]
            if len(unknown):
                raise DataError(
                    f"{self.name}: a relevance names {key} {unknown.iloc[0]!r}, which does not exist"
                )
        if len(wrong := self.queries["split"][~self.queries["split"].isin(SPLITS)]):
            raise DataError(f"{self.name}: split {wrong.iloc[0]!r} is none of {', '.join(SPLITS)}")
        lonely = self.queries["query_id"][~self.queries["query_id"].isin(self.relevance["query_id"])]
        if len(lonely):
            raise DataError(f"{self.name}: no document answers query {lonely.iloc[0]!r}")

    def of_split(self, split: str) -> pd.DataFrame:
        """The queries of one split, in order."""
        return self.queries[self.queries["split"] == split].reset_index(drop=True)

    def sampled(self, limits: Mapping[str, int], seed: int = 0) -> Self:
        """This collection with at most `limits[split]` queries of each split, drawn at random; all documents stay."""
        kept = np.ones(len(self.queries), dtype=np.bool_)
        for split, limit in limits.items():
            rows = np.flatnonzero(self.queries["split"] == split)
            draw = np.random.default_rng([seed, SPLITS.index(split)])
            kept[draw.permutation(rows)[limit:]] = False
        queries = self.queries[kept].reset_index(drop=True)
        relevance = self.relevance[self.relevance["query_id"].isin(queries["query_id"])].reset_index(
            drop=True
        )
        return replace(self, queries=queries, relevance=relevance)

    def relevant_rows(self, queries: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`offsets` (Q + 1,) and document rows: query i is answered by `rows[offsets[i]:offsets[i + 1]]`."""
        query = pd.Index(queries["query_id"]).get_indexer(pd.Index(self.relevance["query_id"]))
        document = pd.Index(self.documents["document_id"]).get_indexer(
            pd.Index(self.relevance["document_id"])
        )
        query, document = query[query >= 0], document[query >= 0]
        order = np.lexsort((document, query))
        offsets = np.concatenate([[0], np.bincount(query, minlength=len(queries)).cumsum()])
        return offsets.astype(np.int64), document[order].astype(np.int64)
