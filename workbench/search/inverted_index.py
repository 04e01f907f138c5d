"""SparCode's inverted index: scores of codes and items computed beforehand, a search that adds up K posting lists."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench import loading
from workbench.contracts import NO_ITEM, ItemState, QueryState
from workbench.search import trace
from workbench.search.certificates import Answer, CorpusSearcher, stated_precision
from workbench.search.postings import Postings, gathered, ragged
from workbench.search.ranking import counted
from workbench.search.tiles import DEFAULT_BUDGET
from workbench.search.topk import NO_SCORE, Best, CorpusRows, best, count_open, forbid, mask_rows
from workbench.similarities.rounding import UNKNOWN
from workbench.similarities.sparcode.similarity import SparCode, SparCodeItems, SparCodeQueries

FORMAT = "sparcode index 1"
BYTE_LIMIT = 4 * 2**30
"""Bytes that posting lists may take by default."""

SPARSE_BELOW = 1 / 16
"""Lists are merged by sorting if they hold fewer items than this share of the corpus, else added up in full rows."""

ROW_BYTES = 32
"""Bytes per query and item while full rows are added up, masked and ranked."""

MERGED_BYTES = 160
"""Bytes per posting while lists are gathered and sorted."""


@dataclass(frozen=True)
class IndexSize:
    """`codes` with a list, `items` of the corpus, `postings` in all lists, and `nbytes` that they take.

    `sparsity` = 1 − postings / (codes · items); `average_items` = postings / codes (SparCode, section 4.4).
    """

    codes: int
    items: int
    postings: int
    nbytes: int

    @property
    def sparsity(self) -> float:
        """The share of (code, item) scores that are not kept; NaN without codes."""
        pairs = self.codes * self.items
        return 1 - self.postings / pairs if pairs else float("nan")

    @property
    def average_items(self) -> float:
        """Items per list; NaN without codes."""
        return self.postings / self.codes if self.codes else float("nan")


class InvertedIndex(CorpusSearcher):
    """The best k by Σ_k ReLU(f(code_k, x) + b'), from lists of the items with f > −b'.

    b' is the serving `threshold`: lists are in descending order of f, so a lower one cuts them shorter (`at`), and nothing is
    scored again. An item that none of a query's lists holds has the score 0 and is not found: if fewer than k are held
    (and not excluded), the rest is id −1 and score −inf, and `TopK.shortfall` counts them. `exact` is with respect to this
    score: True if every code of the query is in the index, and the list is full or holds every item that may be found. Other
    codes count as empty lists, and `gap` is then +inf. `num_scored` is the number of items held by the query's lists; the
    scorer itself never runs.
    Raises ValueError if `threshold` is not finite, or larger than the one that the lists were built for.
    """

    def __init__(
        self,
        similarity: SparCode,
        items: SparCodeItems,
        postings: Postings,
        threshold: float,
        loosest: float,
        memory_budget: int = DEFAULT_BUDGET,
    ) -> None:
        if not math.isfinite(threshold):
            raise ValueError(f"the serving threshold must be a finite number, not {threshold}")
        if threshold > loosest:
            raise ValueError(
                f"this index holds what a threshold of {loosest:.6g} or less keeps, not {threshold:.6g}; build one"
                " with a larger `loosest`"
            )
        super().__init__(similarity, items, memory_budget)
        self.similarity: SparCode = similarity
        self.items: SparCodeItems = items
        self.threshold, self.loosest = threshold, loosest
        self._list(postings)

    @classmethod
    def build(
        cls,
        similarity: SparCode,
        items: SparCodeItems,
        codes: Int[Tensor, "*S"] | None = None,
        *,
        threshold: float | None = None,
        loosest: float | None = None,
        memory_budget: int = DEFAULT_BUDGET,
        byte_limit: int = BYTE_LIMIT,
    ) -> Self:
        """The index of `codes` (those that occur in `SparCodeQueries.codes`; repeats count once), or of all N^M.

        `threshold` b' is by default the one learned in training. `loosest` (default: `threshold`; +inf keeps every score) is
        the largest that `at` may request. Scores are computed in blocks under `memory_budget`.

        Raises ValueError if the similarity has no codes (All-to-All) or is in training mode, the lists would outgrow
        `byte_limit`, or a score is NaN.
        """
        _check_servable(similarity)
        assert similarity.quantizer is not None
        if codes is None:
            count = similarity.quantizer.config.codes
            if count * 16 > byte_limit:
                raise ValueError(
                    f"the codebooks make {count:,} codes: more than {byte_limit / 2**20:,.0f} MiB hold even as empty"
                    " lists; index only the codes that occur"
                )
            codes = torch.arange(count, device=items.ids.device)
        codes = codes.flatten().unique()
        b = float(similarity.threshold.detach()) if threshold is None else threshold
        floor = b if loosest is None else loosest
        with stated_precision():
            blocks = _blocks(similarity, items, codes, memory_budget)
            postings = gathered(codes, blocks, -floor, byte_limit)
        return cls(similarity, items, postings, b, floor, memory_budget)

    def at(self, threshold: float) -> "InvertedIndex":
        """The same lists under another serving threshold; ValueError if it is looser than what is held."""
        return InvertedIndex(
            self.similarity, self.items, self.postings, threshold, self.loosest, self.memory_budget
        )

    def threshold_for(self, sparsity: float) -> float:
        """The serving threshold at which this share of (code, item) scores is left out, to the nearest that ties allow.

        Raises ValueError if `sparsity` lies outside [0, 1], or the index holds too few scores for it.
        """
        if not 0 <= sparsity <= 1:
            raise ValueError(f"sparsity must lie in [0, 1], not {sparsity}")
        kept = round((1 - sparsity) * len(self.postings.codes) * len(self.items))
        if kept > len(self.postings):
            least = 1 - len(self.postings) / max(1, len(self.postings.codes) * len(self.items))
            raise ValueError(f"this index leaves out {least:.4%} already; build one with a larger `loosest`")
        values = self.postings.values
        if kept == len(values):
            return self.loosest if math.isfinite(self.loosest) else _beyond(-float(values.min()))
        return -float(values.kthvalue(len(values) - kept).values)

    def size(self) -> IndexSize:
        """What the lists hold at this threshold."""
        held = int(self._lengths.sum())
        codes = len(self.postings.codes)
        return IndexSize(codes, len(self.items), held, 8 * held + 8 * (2 * codes + 1))

    def _batch(self, queries: QueryState, k: int, excluded: int) -> int:
        longest = int(self._places_and_lengths(queries)[1].sum(1).max())
        return max(1, self.memory_budget // (ROW_BYTES * len(self.items) + MERGED_BYTES * longest))

    def _places_and_lengths(self, queries: QueryState) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        """Where each query's lists are, −1 for none, and how long they are."""
        places = self.postings.find(_codes(queries))
        if not len(self._lengths):
            return places, torch.zeros_like(places)
        return places, torch.where(places >= 0, self._lengths[places], 0)

    def _search(
        self,
        queries: QueryState,
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> Answer:
        places, lengths = self._places_and_lengths(queries)
        starts = self.postings.offsets[places.clamp(min=0)]
        if trace.listening():
            for number in range(starts.shape[1]):
                held = self.postings.rows[ragged(starts[:, number], lengths[:, number])]
                trace.listed(f"the list of code {number + 1}", held.expand(len(queries), -1))
        dense = int(lengths.sum()) >= SPARSE_BELOW * len(self.items) * len(queries)
        find = self._added if dense else self._merged
        found, listed, work = find(starts, lengths, k, excluded, allowed)
        everything = listed == count_open(len(self.items), excluded, allowed)
        # What no list holds has the score 0.
        bound = torch.where(everything, NO_SCORE, 0.0).where((places >= 0).all(1), UNKNOWN)
        return Answer(found.scores, found.rows, bound, work)

    def _added(
        self,
        starts: Int[Tensor, "B T"],
        lengths: Int[Tensor, "B T"],
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> tuple[Best, Int[Tensor, "B"], Int[Tensor, "B"]]:
        """Lists added up in rows as wide as the corpus, one query token after the other; the best, how many items may be
        found in the lists, and how many are in them."""
        count, size = len(starts), len(self.items)
        total = torch.zeros(count, size, device=starts.device)
        flat = total.view(-1)
        queries = torch.arange(count, device=starts.device)
        for begin, length in zip(starts.unbind(1), lengths.unbind(1), strict=True):
            held = ragged(begin, length)
            cells = torch.repeat_interleave(queries * size, length) + self.postings.rows[held]
            flat[cells] += self.postings.values[held] + self.threshold  # a list holds an item once
        total.masked_fill_(total <= 0, NO_SCORE)
        trace.scored("the lists are added up", range(size), total)
        work = counted(total > NO_SCORE)
        if excluded is not None:
            mask_rows(total, excluded)
        if allowed is not None:
            forbid(total, allowed)
        return best(total, k), counted(total > NO_SCORE), work

    def _merged(
        self,
        starts: Int[Tensor, "B T"],
        lengths: Int[Tensor, "B T"],
        k: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> tuple[Best, Int[Tensor, "B"], Int[Tensor, "B"]]:
        """As `_added`, by sorting the items of the lists: nothing as wide as the corpus is touched."""
        count, size = len(starts), len(self.items)
        held = ragged(starts.flatten(), lengths.flatten())
        queries = torch.repeat_interleave(torch.arange(count, device=starts.device), lengths.sum(1))
        keys, order = (queries * size + self.postings.rows[held]).sort(stable=True)
        values = (self.postings.values[held] + self.threshold)[order]
        keys, groups = keys.unique_consecutive(return_inverse=True)
        scores = torch.zeros(len(keys), device=keys.device).index_add_(0, groups, values)
        keys, scores = keys[scores > 0], scores[scores > 0]
        trace.scored("the lists are added up", keys.expand(count, -1), scores.expand(count, -1))
        work = torch.bincount(keys // size, minlength=count)
        if excluded is not None:
            out = torch.arange(count, device=keys.device)[:, None] * size + excluded
            kept = ~torch.isin(keys, out[excluded >= 0])
            keys, scores = keys[kept], scores[kept]
        if allowed is not None:
            kept = allowed[keys % size]
            keys, scores = keys[kept], scores[kept]
        order = scores.argsort(descending=True, stable=True)  # ties stay in the order of the corpus
        order = order[(keys[order] // size).argsort(stable=True)]
        keys, scores = keys[order], scores[order]
        queries = keys // size
        each = torch.bincount(queries, minlength=count)
        ranks = torch.arange(len(keys), device=keys.device) - (each.cumsum(0) - each)[queries]
        first = ranks < k
        found = Best(
            torch.full((count, k), NO_SCORE, device=keys.device),
            torch.zeros((count, k), dtype=torch.int64, device=keys.device),
        )
        found.scores[queries[first], ranks[first]] = scores[first]
        found.rows[queries[first], ranks[first]] = keys[first] % size
        return found, each, work

    def _upsert(self, items: ItemState, corpus: ItemState) -> None:
        """The new items alone are scored, with every code, and sorted into the lists."""
        assert isinstance(items, SparCodeItems)
        rows = CorpusRows(corpus.ids).of(items.ids)
        kept = torch.arange(len(self.items), device=rows.device)
        kept[rows[rows < len(kept)]] = NO_ITEM
        blocks = _blocks(self.similarity, items, self.postings.codes, self.memory_budget)
        scores = torch.cat([*blocks, torch.zeros(0, len(items), device=rows.device)])
        self._list(self.postings.replaced(kept, rows, scores, -self.loosest))

    def _remove(self, ids: Int[Tensor, "M"], corpus: ItemState) -> None:
        kept = CorpusRows(corpus.ids).of(self.items.ids)
        none = torch.zeros(len(self.postings.codes), 0, device=kept.device)
        self._list(self.postings.replaced(kept, kept[:0], none, -self.loosest))

    def _list(self, postings: Postings) -> None:
        self.postings, self._lengths = postings, postings.lengths(-self.threshold)

    def save(self, path: Path) -> None:
        """Write the lists at this threshold, whole or not at all; OSError that names the file if it cannot be."""
        metadata = {
            "record": FORMAT,
            "fingerprint": fingerprint(self.similarity, self.items),
            "threshold": repr(self.threshold),
        }
        self.postings.cut(-self.threshold).save(path, {"ids": self.items.ids}, metadata)

    @classmethod
    def load(
        cls, path: Path, similarity: SparCode, items: SparCodeItems, memory_budget: int = DEFAULT_BUDGET
    ) -> Self:
        """The index saved at `path`, its lists memory-mapped.

        Raises FileNotFoundError; ValueError if the file is cut short or damaged, or is the index of another model or
        corpus.
        """
        _check_servable(similarity)
        postings, _, metadata = Postings.load(path)
        if metadata.get("record") != FORMAT:
            raise ValueError(
                f"{path} holds a {metadata.get('record') or 'file without a name'}, not a {FORMAT}"
            )
        if metadata.get("fingerprint") != fingerprint(similarity, items):
            raise ValueError(
                f"{path} is the index of another model or corpus (fingerprint {metadata.get('fingerprint')}); rebuild it"
            )
        if len(postings) and int(postings.rows.max()) >= len(items):
            raise ValueError(
                f"{path} is damaged: it holds rows beyond the {len(items)} items; build it again"
            )
        with loading.reading(path, "build it again"):
            threshold = float(metadata["threshold"])
        return cls(similarity, items, postings, threshold, threshold, memory_budget)


def fingerprint(similarity: SparCode, items: SparCodeItems) -> str:
    """16 hex digits by which an index recognises its scorer, its codebooks and its corpus."""
    digest = hashlib.sha256()
    weights = {f"scorer.{name}": value for name, value in similarity.scorer.state_dict().items()}
    if similarity.quantizer is not None:
        weights["codewords"] = similarity.quantizer.codewords
    for name, value in sorted({**weights, "ids": items.ids, "parts": items.parts}.items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(array.shape)}{array.dtype}".encode())
        digest.update(array.view(torch.uint8).numpy().data if array.numel() else b"")
    return digest.hexdigest()[:16]


def _check_servable(similarity: SparCode) -> None:
    if similarity.quantizer is None:
        raise ValueError(
            "this SparCode has no quantizer (All-to-All): it has no codes to index; use BruteForce"
        )
    if similarity.training:
        raise ValueError("the similarity is in training mode, where its codebooks move; call .eval() first")


def _codes(queries: QueryState) -> Int[Tensor, "B T"]:
    if not isinstance(queries, SparCodeQueries):
        raise ValueError(f"an inverted index takes SparCodeQueries, not {type(queries).__name__}")
    if queries.codes is None:
        raise ValueError(
            "these queries have no codes: they come from a SparCode without quantizer (All-to-All)"
        )
    return queries.codes


def _blocks(
    similarity: SparCode, items: SparCodeItems, codes: Int[Tensor, "U"], memory_budget: int
) -> Iterator[Float[Tensor, "u N"]]:
    """f of consecutive codes with every item: few enough of both at once for the budget."""
    assert similarity.quantizer is not None
    step = max(1, memory_budget // 2 // (ROW_BYTES * len(items)))
    tile = max(1, memory_budget // 2 // (step * similarity.scorer.pair_bytes))
    for start in range(0, len(codes), step):
        tokens = similarity.quantizer.lookup(codes[start : start + step])
        parts = [similarity.interactions(tokens, items[at : at + tile]) for at in range(0, len(items), tile)]
        yield torch.cat(parts, dim=1)


def _beyond(value: float) -> float:
    """The next float32 above `value`."""
    return float(torch.nextafter(torch.tensor(value), torch.tensor(float("inf"))))
