"""What candidates from an engine that answers by item ids have in common: how many to fetch, what to leave out."""

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from workbench.contracts import NO_ITEM
from workbench.search.candidates import CandidateSource, Lists
from workbench.search.corpus_manifest import CorpusManifest, only
from workbench.search.topk import NO_SCORE

FETCHED_MORE = 4
"""If too few of what an engine lists may be found, this many times as much is fetched."""


class Hits(NamedTuple):
    """Inner products (Q, F), descending, and item ids (Q, F); −inf and −1 past the end of a list."""

    scores: NDArray[np.float32]
    ids: NDArray[np.int64]


class EngineLists(CandidateSource):
    """Candidates from an engine that is given queries and a length: what is left out or not allowed is fetched, and dropped.

    Its scores are taken as an order and nothing more: they prove nothing (`outside_bound` +inf, `error` None).
    """

    def __init__(self, manifest: CorpusManifest) -> None:
        self._manifest = manifest

    @abstractmethod
    def _hits(self, vectors: NDArray[np.float32], fetched: int) -> Hits:
        """The `fetched` ≥ 1 items with the largest inner product for each of at least one vector."""

    def lists(
        self,
        vectors: Float[Tensor, "Q d"],
        count: int,
        exclude: Int[Tensor, "Q H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
        ordered: bool = True,
    ) -> Lists:
        """See `CandidateSource.lists`."""
        self._manifest.check_width(vectors)
        if exclude is None:
            exclude = torch.empty(len(vectors), 0, dtype=torch.int64, device=vectors.device)
        fetched = min(self._manifest.held, count + exclude.shape[1])
        while True:
            found = self._fetched(vectors, fetched)
            if allowed is None:
                break
            found = only(found, allowed)
            if fetched == self._manifest.held or bool((found.rows >= 0).sum(1).min() >= count):
                break
            fetched = min(self._manifest.held, FETCHED_MORE * fetched)
        return self._manifest.lists(found, vectors, count, exclude, looked_at_all=False)._replace(error=None)

    def _fetched(self, vectors: Float[Tensor, "Q d"], fetched: int) -> Lists:
        size, device = len(vectors), vectors.device
        if size == 0 or fetched == 0:
            scores = torch.empty(size, fetched, device=device)
            return Lists(scores, scores.long(), torch.full((size,), NO_SCORE, device=device))
        hits = self._hits(np.ascontiguousarray(vectors.detach().float().cpu().numpy()), fetched)
        rows = self._manifest.rows.of(torch.from_numpy(hits.ids).to(device))
        scores = torch.from_numpy(hits.scores).to(device).masked_fill(rows == NO_ITEM, NO_SCORE)
        return Lists(scores, rows, torch.full((size,), NO_SCORE, device=device))


def padded(scores: list[NDArray[np.float32]], ids: list[NDArray[np.int64]], width: int) -> Hits:
    """Lists of different lengths as one table.

    >>> padded([np.array([2.0], dtype=np.float32)], [np.array([7])], 2).ids.tolist()
    [[7, -1]]
    """
    table = Hits(
        np.full((len(scores), width), NO_SCORE, dtype=np.float32),
        np.full((len(ids), width), NO_ITEM, dtype=np.int64),
    )
    for row, (own_scores, own_ids) in enumerate(zip(scores, ids, strict=True)):
        table.scores[row, : len(own_scores)] = own_scores
        table.ids[row, : len(own_ids)] = own_ids
    return table
