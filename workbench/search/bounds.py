"""What a score can be at most, from its component scores alone, rounding included.

In exact arithmetic φ ≤ u(s), u the similarity's `upper_bound` and s its component scores. What is computed differs: s by
the rounding of an inner product (and of the stored components, if these are kept in less memory), φ by its own. A bound
here is u(s̃ + δ) + ε with both errors added, so that it holds for the scores that a search compares: an item whose
bound is below the k-th best score is not among the best k, however near the two are.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench import runtime
from workbench.contracts import ComponentSimilarity, ItemState, QueryState
from workbench.kernels.mixture import component_maxima
from workbench.search.cells import cells
from workbench.search.quantized_vectors import Precision, QuantizedVectors
from workbench.search.topk import all_finite
from workbench.similarities.mol import MixtureOfLogits
from workbench.similarities.rounding import UNKNOWN, largest_norm, norms, product_error

ROWS_TOGETHER = 65_536
"""Items whose distances from the centres of their cells are computed together."""


class QueryVectors(NamedTuple):
    """Components of B queries as the bounds use them: `components` (B, Pq, d), and what to add to a component score and to a
    bound so that it holds as computed: `inner` and `outer`, both float64 (B,), +inf for a query without bounds."""

    components: Float[Tensor, "B Pq d"]
    inner: Float[Tensor, "B"]
    outer: Float[Tensor, "B"]


class ComponentBounds:
    """Upper bounds of the scores of a corpus, from item components kept in `precision`.

    They hold for finite states only: see `not_finite`.
    """

    def __init__(
        self, similarity: ComponentSimilarity, items: ItemState, precision: Precision = "full"
    ) -> None:
        self.similarity = similarity
        components = similarity.item_components(items)
        self._state_dtype = components.dtype
        self._compressed = precision != "full"
        self._stored = QuantizedVectors.of(components, precision)

    def nbytes(self) -> int:
        """Bytes held in addition to the item state."""
        return self._stored.nbytes() if self._compressed else 0

    def pair_bytes(self, queries: QueryState) -> int:
        """Bytes of temporaries per pair in `of`, its result included."""
        groups = self.similarity.query_components(queries).shape[1]
        fused = isinstance(self.similarity, MixtureOfLogits)
        return 8 if fused else 8 + 12 * groups * self._stored.values.shape[1]

    def query_vectors(self, queries: QueryState) -> QueryVectors:
        """What `of` needs of the queries, computed once."""
        f, stored = self.similarity.query_components(queries), self._stored
        lengths = norms(f).amax(1)  # (B,)
        inner = product_error(lengths, stored.norm + stored.error, f.shape[2], stored.dtype)
        inner = inner + lengths * stored.error
        dtype = torch.promote_types(f.dtype, self._state_dtype)
        outer = self.similarity.score_error(queries, stored.norm, dtype)
        return QueryVectors(
            f.to(stored.dtype),
            inner.nan_to_num(nan=UNKNOWN, posinf=UNKNOWN),
            outer.nan_to_num(nan=UNKNOWN, posinf=UNKNOWN),
        )

    def of(self, queries: QueryVectors, start: int, stop: int, tile: int) -> Float[Tensor, "B M"]:
        """Bounds of the scores of rows start..stop (B, M), computed `tile` rows at a time; +inf if nothing is known."""
        tiles = range(start, stop, tile)
        bounds = torch.cat([self._tile(queries, first, min(first + tile, stop)) for first in tiles], dim=1)
        bounds += queries.outer.to(bounds.dtype)[:, None]
        return bounds.nan_to_num_(nan=UNKNOWN, posinf=UNKNOWN, neginf=-UNKNOWN)

    def _tile(self, queries: QueryVectors, start: int, stop: int) -> Float[Tensor, "B M"]:
        f, inner = queries.components, queries.inner.to(queries.components.dtype)
        if isinstance(self.similarity, MixtureOfLogits):
            # Its bound is the largest component score, for which there is a kernel.
            return component_maxima(f, self._stored.part(start, stop)) + inner[:, None]
        g = self._stored.part(start, stop)
        flat = f.flatten(0, 1) @ g.flatten(0, 1).T  # (B·Pq, M·Px)
        grid = flat.view(f.shape[0], f.shape[1], g.shape[0], g.shape[1])  # (B, Pq, M, Px)
        logits = grid.transpose(1, 2).flatten(2)
        return self.similarity.upper_bound(logits + inner[:, None, None])


class CellBounds:
    """Upper bounds of the scores of all items of a cell together, from its centre c and how far its items are from it.

    ⟨f_i, g_j⟩ ≤ ⟨f_i, c_j⟩ + |f_i| max |g_j − c_j|, in float64 with rounding added, and that of a score. The cells are those of
    k-means over all components of an item, end to end. They hold for finite states only.
    """

    def __init__(self, similarity: ComponentSimilarity, items: ItemState, count: int) -> None:
        self.similarity = similarity
        components = similarity.item_components(items)  # (N, Px, d)
        found = cells(components.flatten(1).float().nan_to_num(), count, runtime.generator(0))
        self.member = found.member
        self._centres = found.centres.unflatten(1, components.shape[1:]).double()  # (C, Px, d)
        self._radii = self._centres.new_zeros(self._centres.shape[:2])
        for part in torch.arange(len(components), device=self.member.device).split(ROWS_TOGETHER):
            away = norms(components[part].double() - self._centres[self.member[part]])
            index = self.member[part][:, None].expand_as(away)
            self._radii.scatter_reduce_(0, index, away, "amax")
        self._norm, self._dtype = largest_norm(components), components.dtype
        self.sizes = self.member.bincount(minlength=len(self._centres))

    def of(self, queries: QueryState) -> Float[Tensor, "B C"]:
        """What no item of each cell scores above; float64, +inf if nothing is known."""
        f = self.similarity.query_components(queries)
        lengths = norms(f)  # (B, Pq)
        products = torch.einsum("bid,cjd->bcij", f.double(), self._centres)
        furthest = norms(self._centres).amax()
        rounding = product_error(lengths.amax(1), furthest, f.shape[2], torch.float64)
        away = lengths[:, None, :, None] * self._radii[None, :, None, :]
        # Twice the error of an inner product, for the sums here; the norms are above their values by far more than that.
        component = (products + away + 2 * rounding[:, None, None, None]).flatten(2)
        dtype = torch.promote_types(f.dtype, self._dtype)
        outer = self.similarity.score_error(queries, self._norm, dtype)
        bound = self.similarity.upper_bound(component) + outer[:, None]
        return bound.nan_to_num(nan=UNKNOWN, posinf=UNKNOWN, neginf=-UNKNOWN)


def not_finite(state: QueryState | ItemState) -> Bool[Tensor, "R"]:
    """The rows with a value that is not finite, in any tensor of the state."""
    rows = [values.reshape(len(state), -1) for values in floating(state) if values.numel()]
    if not rows:
        return torch.zeros(len(state), dtype=torch.bool)
    # The ends of a row tell, without a copy of what may be gigabytes: with a NaN both are NaN.
    return torch.stack([~(row.amax(1).isfinite() & row.amin(1).isfinite()) for row in rows]).any(0)


def finite(state: QueryState | ItemState) -> bool:
    """Whether all values are finite, in every tensor of the state."""
    return all(map(all_finite, floating(state)))


def floating(state: QueryState | ItemState) -> list[Tensor]:
    """The tensors of the state that hold floating-point numbers."""
    return [v for v in state.tensors().values() if v is not None and v.is_floating_point()]
