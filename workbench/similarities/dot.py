"""The dot product: the baseline that every learned similarity is measured against."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.contracts import ComponentSimilarity, ItemState, QueryState
from workbench.kernels import mixture_loss
from workbench.kernels.mixture import MixtureGate
from workbench.kernels.products import gathered_product
from workbench.similarities.registry import register
from workbench.similarities.rounding import norms, product_error

NORM_EPS = 1e-6
DENSE_RATIO = 64
"""Candidates are gathered from the full score matrix if the corpus is at most this many times larger than the list."""

ONE_COMPONENT = MixtureGate((), "sum")


@dataclass(frozen=True)
class DotConfig:
    """`normalize`: cosine instead of a plain inner product; the score is divided by `temperature`."""

    kind: ClassVar[str] = "dot"
    normalize: bool = True
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")


@dataclass(frozen=True)
class DotQueries(QueryState):
    """`vectors` (B, D), already divided by the temperature."""

    vectors: Float[Tensor, "B D"]


@dataclass(frozen=True)
class DotItems(ItemState):
    """`vectors` (N, D)."""

    vectors: Float[Tensor, "N D"]


def unit(x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
    """x / max(|x|, 1e-6).

    >>> unit(torch.tensor([3.0, 4.0])).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    return F.normalize(x, dim=-1, eps=NORM_EPS)


@register(DotConfig, title="a dot product", label="dot", color="#0072B2")
class DotProduct(ComponentSimilarity[DotQueries, DotItems]):
    """φ(q, x) = ⟨q, x⟩ / τ, with q and x of unit length if `normalize` is set."""

    def __init__(self, config: DotConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def pair_bytes(self) -> int:
        """Bytes of temporaries per (query, item) pair in `score`: the score itself."""
        return 4

    def queries(
        self, embeddings: Float[Tensor, "B D"], user_ids: Int[Tensor, "B"] | None = None
    ) -> DotQueries:
        """Query vectors (B, D); users are not looked at."""
        vectors = unit(embeddings) if self.config.normalize else embeddings
        return DotQueries(vectors / self.config.temperature)

    def items(self, embeddings: Float[Tensor, "N D"], ids: Int[Tensor, "N"]) -> DotItems:
        """Item vectors (N, D)."""
        return DotItems(ids, unit(embeddings) if self.config.normalize else embeddings)

    def query_components(self, queries: DotQueries) -> Float[Tensor, "B Pq D"]:
        """The one component of a query, the query vector itself (B, 1, D)."""
        return queries.vectors[:, None]

    def item_components(self, items: DotItems) -> Float[Tensor, "N Px D"]:
        """The one component of an item (N, 1, D)."""
        return items.vectors[:, None]

    def upper_bound(self, component_logits: Float[Tensor, "*S P"]) -> Float[Tensor, "*S"]:
        """The one component score: the score itself."""
        return component_logits[..., 0]

    def score_error(
        self, queries: DotQueries, item_norm: Float[Tensor, ""], dtype: torch.dtype
    ) -> Float[Tensor, "B"]:
        """The error of one inner product."""
        return product_error(norms(queries.vectors), item_norm, queries.vectors.shape[1], dtype)

    def score(self, queries: DotQueries, items: DotItems) -> Float[Tensor, "B N"]:
        """One matrix product (B, N)."""
        return queries.vectors @ items.vectors.T

    def score_candidates(
        self, queries: DotQueries, items: DotItems, rows: Int[Tensor, "B C"]
    ) -> Float[Tensor, "B C"]:
        """Scores of chosen rows (B, C): one matrix product and a gather if the corpus is small, else a gather first."""
        if len(items) <= DENSE_RATIO * rows.shape[1]:
            return gathered_product(queries.vectors, items.vectors, rows)
        return torch.einsum("bd,bcd->bc", queries.vectors, F.embedding(rows, items.vectors))

    def sampled_softmax(
        self, queries: DotQueries, items: DotItems, rows: Int[Tensor, "B C"]
    ) -> Float[Tensor, ""]:
        """See `Similarity.sampled_softmax`; on a CPU by the kernel of Mixture-of-Logits, of which this is the one component."""
        if mixture_loss.serves(queries.vectors, items.vectors):
            return mixture_loss.mixture_loss(
                *(queries.vectors[:, None], None, items.vectors[:, None], None, ONE_COMPONENT),
                *(rows, mixture_loss.GateDropout()),
            )
        return super().sampled_softmax(queries, items, rows)

    def regularizers(self, queries: DotQueries, items: DotItems, rows: Int[Tensor, "B"]) -> dict[str, Tensor]:
        """None."""
        return {}
