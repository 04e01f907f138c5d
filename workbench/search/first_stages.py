"""Vectors whose inner product ranks items for a query roughly as a similarity does, given or learned, the similarity untouched.

A list of candidates by them is `generators.VectorList`, a filter in int8 `h_indexer.FirstStageFilter`.
Source of the learned ones: LEMUR (2026), which fits a vector per document to the MaxSim of a sample of queries. Here the score
is any of components, and the query's side is linear.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState
from workbench.search.bounds import not_finite
from workbench.search.tiles import DEFAULT_BUDGET, score_block, tiling
from workbench.search.topk import CorpusRows
from workbench.similarities.rounding import AT_ONCE

RIDGE = 1e-3
"""Of the fit of item vectors: a share of the mean squared query feature."""

LEVEL_ITEMS = 65_536
"""Items, evenly spaced, whose scores give a query's mean score; in a smaller corpus all of them."""


class FirstStage(ABC):
    """Vectors of width w whose inner product ranks items for a query roughly as the similarity does."""

    @abstractmethod
    def query_vectors(self, queries: QueryState) -> Float[Tensor, "B w"]:
        """One vector per query."""

    @abstractmethod
    def item_vectors(self, items: ItemState) -> Float[Tensor, "N w"]:
        """One vector per item."""


class AverageComponent(FirstStage):
    """Σ_i f_i and mean_j g_j, of the components' width: the score under equal weights, times Pq."""

    def __init__(self, similarity: ComponentSimilarity) -> None:
        self.similarity = similarity

    def query_vectors(self, queries: QueryState) -> Float[Tensor, "B w"]:
        """Σ_i f_i."""
        return self.similarity.query_components(queries).sum(1)

    def item_vectors(self, items: ItemState) -> Float[Tensor, "N w"]:
        """mean_j g_j."""
        return self.similarity.item_components(items).mean(1)


class AveragedComponents(FirstStage):
    """Σ_i f_i and mean_j g_j, projected on the `width` principal directions of the items' averages: needs the corpus alone.

    With `width` at least d this is the score of `AverageComponent`, up to a factor for each query.
    """

    def __init__(self, similarity: ComponentSimilarity, items: ItemState, width: int) -> None:
        check_width(width)
        self.similarity = similarity
        CorpusRows(items.ids)  # an empty corpus has no directions
        # In units in which no product overflows: neither directions nor an order depend on them.
        peaks = [part.nan_to_num_(0.0, 0.0, 0.0).abs().amax() for _, part in self._averages(items)]
        self._unit = torch.stack(peaks).amax().clamp(min=torch.finfo(torch.float64).tiny)
        gram = torch.zeros((), dtype=torch.float64, device=self._unit.device)
        for _, averages in self._averages(items):
            averages = averages.nan_to_num_(0.0, 0.0, 0.0) / self._unit  # such items are never ranked by it
            gram = gram + averages.T @ averages
        _, _, directions = torch.linalg.svd(gram)
        self._directions = directions[:width].T  # (d, w)

    def _averages(self, items: ItemState) -> Iterator[tuple[slice, Float[Tensor, "M d"]]]:
        """mean_j g_j in double precision of a part of the items at a time, after their rows: of all it would be twice what
        they hold."""
        components = self.similarity.item_components(items)
        rows = max(1, AT_ONCE // components.shape[1:].numel())
        for start in range(0, len(components), rows):
            part = slice(start, start + rows)
            yield part, components[part].double().mean(1)

    @torch.no_grad()
    def query_vectors(self, queries: QueryState) -> Float[Tensor, "B w"]:
        """Σ_i f_i, projected, up to a factor for each query."""
        sums = self.similarity.query_components(queries).double().sum(1)
        peaks = sums.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        return ((sums / peaks) @ self._directions).float()

    @torch.no_grad()
    def item_vectors(self, items: ItemState) -> Float[Tensor, "N w"]:
        """mean_j g_j, projected, up to a factor for the corpus."""
        vectors = torch.empty(len(items), self._directions.shape[1], device=self._unit.device)
        for part, averages in self._averages(items):
            vectors[part] = (averages / self._unit) @ self._directions
        return vectors


class FittedScores(FirstStage):
    """Item vectors fitted by least squares to the scores of a sample of queries.

    A query's vector u(q) is its components, all in one row, on the width − 1 principal directions of the `sample`'s, and a 1.
    An item's vector is the ridge solution b of u(q) · b ≈ φ(q, x) − mean_x φ(q, ·) over the sample: what follows of the gate is
    in it, so that it ranks better than the average of the same width. Costs len(sample) scores per item, once. (The mean is
    that of `LEVEL_ITEMS` items.)
    Raises ValueError if the sample has fewer than two queries, or a value that is not finite.
    """

    def __init__(
        self, similarity: ComponentSimilarity, items: ItemState, sample: QueryState, width: int
    ) -> None:
        check_width(width)
        if len(sample) < 2:
            raise ValueError(f"a fit needs a sample of 2 queries or more, not {len(sample)}")
        self.similarity, self._sample = similarity, sample
        if bool(not_finite(sample).any()):
            raise ValueError("the sample of queries holds values that are not finite")
        rows = self._rows(sample)
        self._mean = rows.mean(0)
        _, _, directions = torch.linalg.svd(rows - self._mean, full_matrices=False)
        self._directions = directions[: width - 1].T
        u = self.query_vectors(sample)
        ridge = RIDGE * len(u) * u[:, :-1].square().mean() if u.shape[1] > 1 else torch.tensor(RIDGE)
        gram = u.T @ u + ridge * torch.eye(u.shape[1], device=u.device)
        self._solve = torch.linalg.solve(gram, u.T)  # (w, m)
        self._level = torch.zeros(len(sample), 1, device=u.device)
        self._level = self._scores(items[:: -(-len(items) // LEVEL_ITEMS)]).mean(1, keepdim=True)

    def _rows(self, queries: QueryState) -> Float[Tensor, "B F"]:
        return self.similarity.query_components(queries).flatten(1).float()

    @torch.no_grad()
    def query_vectors(self, queries: QueryState) -> Float[Tensor, "B w"]:
        """u(q)."""
        projected = (self._rows(queries) - self._mean) @ self._directions
        return torch.cat([projected, torch.ones_like(projected[:, :1])], dim=1)

    @torch.no_grad()
    def _scores(self, items: ItemState) -> Float[Tensor, "M N"]:
        cut = tiling(self.similarity.pair_bytes, len(self._sample), len(items), items.ids.device)
        scores = torch.empty(len(self._sample), len(items), device=items.ids.device)
        for start in range(0, len(self._sample), cut.queries):
            queries = slice(start, start + cut.queries)
            for first in range(0, len(items), cut.tile):
                part = slice(first, first + cut.tile)
                scores[queries, part] = score_block(
                    self.similarity, self._sample[queries], items[part], cut.tile
                )
        return scores.sub_(self._level).nan_to_num_(0.0, 0.0, 0.0)

    @torch.no_grad()
    def item_vectors(self, items: ItemState) -> Float[Tensor, "N w"]:
        """b, for as many items at a time as their scores fit the memory budget."""
        block = max(1, DEFAULT_BUDGET // (8 * len(self._sample)))
        vectors = torch.empty(len(items), len(self._solve), device=items.ids.device)
        for start in range(0, len(items), block):
            part = slice(start, start + block)
            vectors[part] = (self._solve @ self._scores(items[part])).T
        return vectors


def check_width(width: int) -> None:
    """ValueError if a first stage would have no width."""
    if width < 1:
        raise ValueError(f"width must be at least 1, not {width}")
