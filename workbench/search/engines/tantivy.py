"""SparCode's posting lists in tantivy, a search engine of Lucene's kind: the same scores from mature index tooling."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from workbench import files, runtime, tensor_files
from workbench.contracts import NO_ITEM, ItemState, QueryState, TopK
from workbench.search.certificates import Answer, CorpusSearcher
from workbench.search.indexes import digests, fingerprint
from workbench.search.inverted_index import InvertedIndex
from workbench.search.ranking import best_of_pairs, ordered, score_pairs
from workbench.search.tiles import DEFAULT_BUDGET
from workbench.search.topk import NO_SCORE, check_request
from workbench.similarities.rounding import UNKNOWN
from workbench.similarities.sparcode.similarity import SparCode, SparCodeItems, SparCodeQueries

CANDIDATE_BYTES = 96
"""Bytes per candidate while candidates are scored and ranked."""

BITS = 16
"""Bits of a score: it is rounded to a 2¹⁶th of the largest."""

WRITER_BYTES = 64 * 2**20


class TantivyIndex:
    """Posting lists exported to tantivy: `search` gives the k best as `InvertedIndex` does, with scores rounded to `step`.

    An engine of this kind adds up weights per *term*, not per term and document. So a score is written in binary: an item is
    a document, and where bit j of its rounded score with code c is set it has the term "c.j", whose weight in a query is
    2^j · step, a constant. A document's score is then Σ_k Σ_j 2^j · step over its terms: the sum of its rounded sparse
    scores. Per posting the engine keeps 8 short postings on average, which it compresses.

    `step`: the rounding unit, max score / (2^16 − 1); a score of K codes is off by at most K · step / 2.
    """

    def __init__(self, index: Any, ids: Int[Tensor, "N"], step: float) -> None:
        self._tantivy = runtime.require("tantivy")
        self._index = index
        self._searcher = index.searcher()
        self.ids, self.step = ids, step

    @classmethod
    def export(cls, source: InvertedIndex, folder: Path | None = None) -> "TantivyIndex":
        """The lists of `source` at its threshold as an index in memory, or in the new or empty `folder`.

        Raises ImportError if tantivy is not installed, and FileExistsError if `folder` holds something.
        """
        tantivy = runtime.require("tantivy")
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field("item", stored=True, indexed=True, fast=True)
        builder.add_text_field("codes", tokenizer_name="whitespace", index_option="basic")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise FileExistsError(f"{folder} is not empty; give a new folder for the index")
        index = tantivy.Index(builder.build(), path=None if folder is None else str(folder))
        lists = source.postings.cut(-source.threshold)
        scores = lists.values.double() + source.threshold
        step = float(scores.max()) / (2**BITS - 1) if len(scores) else 1.0
        writer = index.writer(WRITER_BYTES, 1)
        for row, terms in _documents(lists.codes, lists.offsets, lists.rows, (scores / step).round().long()):
            document = tantivy.Document()
            document.add_unsigned("item", int(source.items.ids[row]))
            document.add_text("codes", " ".join(terms))
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        return cls(index, source.items.ids, step)

    def search(self, queries: QueryState, k: int, exclude: Int[Tensor, "B H"] | None = None) -> TopK:
        """The best `k` of each query (B, K), one request each; ties are in the engine's order.

        `exact` is False and `gap` +inf: the engine's scores are rounded, and it does not say which codes it lacks.
        Raises ValueError if the queries have no codes.
        """
        if not isinstance(queries, SparCodeQueries) or queries.codes is None:
            raise ValueError("tantivy holds codes: it takes SparCodeQueries that have them")
        check_request(queries, len(self.ids), queries.codes.device, k, exclude)
        scores = torch.full((len(queries), k), NO_SCORE)
        ids = torch.full((len(queries), k), NO_ITEM)
        work = torch.zeros(len(queries), dtype=torch.int64)
        for b, codes in enumerate(queries.codes.tolist()):
            left_out = [] if exclude is None else [item for item in exclude[b].tolist() if item > 0]
            result = self._searcher.search(self._query(codes, left_out), k)
            for place, (score, address) in enumerate(result.hits):
                scores[b, place] = score
                ids[b, place] = self._searcher.doc(address)["item"][0]
            work[b] = result.count or 0
        unknown = torch.zeros(len(queries), dtype=torch.bool)
        return TopK(scores, ids, unknown, torch.full((len(queries),), float("inf")), work)

    def _query(self, codes: list[int], left_out: list[int]) -> Any:
        tantivy = self._tantivy
        schema = self._index.schema
        clauses = []
        for code in codes:  # a code that two tokens share counts twice
            for bit in range(BITS):
                term = tantivy.Query.term_query(schema, "codes", f"{code}.{bit}", "basic")
                weighted = tantivy.Query.const_score_query(term, 2.0**bit * self.step)
                clauses.append((tantivy.Occur.Should, weighted))
        if left_out:
            clauses.append((tantivy.Occur.MustNot, tantivy.Query.term_set_query(schema, "item", left_out)))
        return tantivy.Query.boolean_query(clauses)


class TantivySearch(CorpusSearcher):
    """The best k by SparCode's own score of the `n2` items that tantivy ranks highest by their posting lists of all codes.

    `sparsity`: the share of the (code, item) scores that the lists leave out. Proves nothing. With a `folder` the lists are
    opened from there, or built and written. They can only be built again if the corpus changes.
    Raises ValueError if `n2` is below 1, `sparsity` not in [0, 1), or the lists in `folder` are of other items or another
    sparsity.
    """

    def __init__(
        self,
        similarity: SparCode,
        items: SparCodeItems,
        n2: int,
        sparsity: float,
        folder: Path | None = None,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        if n2 < 1 or not 0 <= sparsity < 1:
            raise ValueError(f"n2 must be at least 1 and sparsity lie in [0, 1), not {n2} and {sparsity}")
        super().__init__(similarity, items, memory_budget)
        self.n2 = n2
        tantivy = runtime.require("tantivy")
        place, described = (
            (None, None) if folder is None else (folder / "tantivy", folder / "tantivy.safetensors")
        )
        made_of = {
            "sparsity": repr(sparsity),
            "items": fingerprint(items.ids, digests(items.parts), items.parts.shape[1]),
        }
        if place is not None and described is not None and described.is_file():
            tensors, found = tensor_files.load(described, "delete it and build it again")
            if {name: found.get(name) for name in made_of} != made_of:
                raise ValueError(
                    f"{described} was built of other items, or with another sparsity; delete it and build it again"
                )
            self._index = TantivyIndex(tantivy.Index.open(str(place)), items.ids, float(tensors["step"]))
            return
        if place is not None:
            files.remove(place)  # what an interrupted build left
        lists = InvertedIndex.build(similarity, items, loosest=float("inf"))
        self._index = TantivyIndex.export(lists.at(lists.threshold_for(sparsity)), place)
        if described is not None:
            step = torch.tensor(self._index.step, dtype=torch.float64)
            tensor_files.save({"step": step}, described, made_of)

    def _batch(self, queries: QueryState, k: int, excluded: int) -> int:
        return max(1, self.memory_budget // (CANDIDATE_BYTES * (max(k, self.n2) + excluded)))

    def _upsert(self, items: ItemState, corpus: ItemState) -> None:
        raise NotImplementedError("posting lists in tantivy cannot take new items; build the index again")

    def _remove(self, ids: Int[Tensor, "M"], corpus: ItemState) -> None:
        raise NotImplementedError("posting lists in tantivy cannot lose items; build the index again")

    def _search(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        total = len(self.items)
        left_out = (
            None if excluded is None else self.items.ids[excluded.clamp(min=0)].masked_fill(excluded < 0, 0)
        )
        fetched = total if allowed is not None else min(total, max(k, self.n2))
        rows = self._rows.of(self._index.search(queries, fetched, left_out).ids)
        if allowed is not None:
            rows = rows.masked_fill(~allowed[rows.clamp(min=0)], NO_ITEM)
        pairs = ordered(rows)
        scores = score_pairs(self.similarity, queries, self.items, pairs)
        found = best_of_pairs(pairs, scores, len(queries), k)
        bound = torch.full((len(queries),), UNKNOWN, dtype=found.scores.dtype)
        return Answer(found.scores, found.rows, bound, pairs.queries.bincount(minlength=len(queries)))


def _documents(
    codes: Int[Tensor, "U"], offsets: Int[Tensor, "U1"], rows: Int[Tensor, "E"], levels: Int[Tensor, "E"]
) -> Iterator[tuple[int, list[str]]]:
    """Each item that some list holds, with its terms."""
    of = torch.repeat_interleave(codes, offsets.diff())
    order = rows.argsort(stable=True)
    items, counts = rows[order].unique_consecutive(return_counts=True)
    start = 0
    for row, count in zip(items.tolist(), counts.tolist(), strict=True):
        here = order[start : start + count]
        start += count
        pairs = zip(of[here].tolist(), levels[here].tolist(), strict=True)
        yield row, [f"{code}.{bit}" for code, level in pairs for bit in range(BITS) if level >> bit & 1]
