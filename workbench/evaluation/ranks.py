"""The rank of every user's target among all candidates: the raw table that metrics are derived from."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm import tqdm

from workbench.contracts import ItemState, QueryState, Searcher, SequenceBatch, Similarity
from workbench.search.brute_force import MASKED_BYTES
from workbench.search.tiles import DEFAULT_BUDGET, score_block, tiling
from workbench.search.topk import NO_SCORE, Best, CorpusRows, check_defined, mask_rows

COLUMNS = {
    "user_id": "int64",
    "target_id": "int64",
    "rank": "int64",
    "candidates": "int64",
    "target_excluded": "bool",
    "target_score": "float64",
    "history_length": "int64",
}
"""The columns of a rank table and their types."""


class TargetRanks(NamedTuple):
    """The rank of each query's target: tensors of one value per query.

    `ranks` int64: 1 for the best; N + 1 if the target itself is excluded. `scores`: the target's score. `candidates` int64:
    items that were not excluded. `excluded` bool: the target was among the excluded, so that no searcher could return it.
    """

    ranks: Int[Tensor, "B"]
    scores: Float[Tensor, "B"]
    candidates: Int[Tensor, "B"]
    excluded: Bool[Tensor, "B"]


def target_ranks(
    similarity: Similarity,
    queries: QueryState,
    items: ItemState,
    target_ids: Int[Tensor, "B"],
    exclude: Int[Tensor, "Q H"] | None = None,
    memory_budget: int = DEFAULT_BUDGET,
) -> TargetRanks:
    """The exact rank of each query's target among the items of the corpus that are not excluded.

    rank = 1 + items that score higher + items that score the same and have a lower row: the place at which brute force would
    return the target. All scores of a query are held together, so that equal items compare as equal; memory beyond the item
    state stays under `memory_budget` bytes, or that of one query's scores if that is more.

    Raises ValueError if a target is not in the corpus, `exclude` or `target_ids` has another batch size, the
    similarity is in training mode, or a score is NaN.
    """
    if len(target_ids) != len(queries):
        raise ValueError(f"{len(target_ids)} targets for {len(queries)} queries; each query needs one")
    if exclude is not None and len(exclude) != len(queries):
        raise ValueError(f"exclude has {len(exclude)} rows for {len(queries)} queries; it needs one each")
    corpus = CorpusRows(items.ids)
    targets = corpus.of(target_ids)
    if bool((targets < 0).any()):
        strangers = target_ids[targets < 0].unique()[:5].tolist()
        raise ValueError(f"targets {strangers} are not among the {len(items)} items of the corpus")
    cut = tiling(
        similarity.pair_bytes,
        len(queries),
        len(items),
        items.ids.device,
        memory_budget,
        query_bytes=0 if exclude is None else MASKED_BYTES * exclude.shape[1],
        whole_rows=True,
    )
    every_row = torch.arange(len(items), device=items.ids.device)
    parts = []
    for start in range(0, max(len(queries), 1), cut.queries):
        rows = slice(start, start + cut.queries)
        with torch.no_grad():
            scores = score_block(similarity, queries[rows], items, cut.tile)
        check_defined(Best(scores, every_row.expand_as(scores)), items.ids, first_query=start)
        masked = None if exclude is None else corpus.of(exclude[rows])
        parts.append(ranks_of_scores(scores, targets[rows], masked))
    return TargetRanks(*(torch.cat(values) for values in zip(*parts, strict=True)))


def ranks_of_scores(
    scores: Float[Tensor, "B N"], targets: Int[Tensor, "B"], excluded_rows: Int[Tensor, "B H"] | None
) -> TargetRanks:
    """The rank of each query's target row in its scores, by the rule of `target_ranks`; the scores are masked in place."""
    size = scores.shape[1]
    own = targets[:, None]
    target_scores = scores.gather(1, own)  # (B, 1)
    excluded = torch.zeros_like(targets, dtype=torch.bool)
    if excluded_rows is not None:
        excluded = (excluded_rows == own).any(1)
        mask_rows(scores, excluded_rows)
    higher = (scores > target_scores).sum(1)
    earlier = torch.arange(size, device=scores.device) < own
    level = ((scores == target_scores) & earlier).sum(1)
    return TargetRanks(
        ranks=torch.where(excluded, size + 1, 1 + higher + level),
        scores=target_scores.squeeze(1),
        candidates=(scores > NO_SCORE).sum(1),
        excluded=excluded,
    )


def found_ranks(
    searcher: Searcher,
    size: int,
    queries: QueryState,
    target_ids: Int[Tensor, "B"],
    exclude: Int[Tensor, "B H"] | None = None,
    allowed: Bool[Tensor, "N"] | None = None,
) -> TargetRanks:
    """The rank of each query's target in everything that `searcher` returns from its corpus of `size` items.

    A target that it does not return has rank `size` + 1, a miss at every cut-off, and score −inf. What an index leaves out is
    so counted against it, whereas `target_ranks` considers its score alone.
    """
    with torch.no_grad():
        found = searcher.search(queries, size, exclude, allowed)
    at = found.ids == target_ids[:, None]  # (B, size)
    there = at.any(1)
    places = at.int().argmax(1)
    excluded = torch.zeros_like(there) if exclude is None else (exclude == target_ids[:, None]).any(1)
    return TargetRanks(
        ranks=torch.where(there, places + 1, size + 1),
        scores=torch.where(there, found.scores.gather(1, places[:, None])[:, 0], NO_SCORE),
        candidates=size - found.shortfall,
        excluded=excluded,
    )


def rank_table(
    batches: Iterable[SequenceBatch],
    encode: Callable[[SequenceBatch], QueryState],
    similarity: Similarity,
    items: ItemState,
    exclude: Callable[[SequenceBatch], Tensor | None],
    memory_budget: int = DEFAULT_BUDGET,
    progress: bool = False,
    searcher: Searcher | None = None,
) -> pd.DataFrame:
    """One row per user, with the columns `COLUMNS`, in the order of `batches`.

    Ranks are those by score among all items (`target_ranks`), or, with a `searcher` over `items`, the places in what it
    finds (`found_ranks`).

    `encode` gives the query states of a batch, `exclude` the item ids to leave out (B, H) or None, both on the device of
    `items`; `history_length` is the number of interactions in the batch. `progress` draws a bar. Without any user the
    table is empty. Raises ValueError as `target_ranks` does.
    """
    frames = []
    for batch in tqdm(batches, desc="ranking targets", unit="batch", disable=None if progress else True):
        with torch.no_grad():
            queries = encode(batch)
        targets = batch.need("target_ids").to(items.ids.device)
        if searcher is None:
            found = target_ranks(similarity, queries, items, targets, exclude(batch), memory_budget)
        else:
            found = found_ranks(searcher, len(items), queries, targets, exclude(batch))
        frames.append(table_of(batch, found))
    return joined(frames)


def table_of(batch: SequenceBatch, found: TargetRanks) -> pd.DataFrame:
    """The rows of a rank table for the users of a batch."""
    return pd.DataFrame(
        {
            "user_id": batch.need("user_ids").cpu().numpy(),
            "target_id": batch.need("target_ids").cpu().numpy(),
            "rank": found.ranks.cpu().numpy(),
            "candidates": found.candidates.cpu().numpy(),
            "target_excluded": found.excluded.cpu().numpy(),
            "target_score": found.scores.double().cpu().numpy(),
            "history_length": batch.lengths.cpu().numpy(),
        }
    )


def joined(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """Parts of a rank table as one; an empty table if there are none."""
    if not frames:
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})
    return pd.concat(frames, ignore_index=True)
