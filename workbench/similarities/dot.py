"""The dot product: the baseline that every learned similarity is measured against."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.contracts import ComponentSimilarity, ItemState, QueryState
from workbench.kernels import mixture_loss
from workbench.kernels.mixture import MixtureGate
from workbench.kernels.products import gathered_product
from workbench.similarities.projections import published_initialization
from workbench.similarities.registry import register
from workbench.similarities.rounding import norms, product_error
from workbench.similarities.users import UserTable

NORM_EPS = 1e-6
DENSE_RATIO = 64
"""Candidates are gathered from the full score matrix if the corpus is at most this many times larger than the list."""

ONE_COMPONENT = MixtureGate((), "sum")


@dataclass(frozen=True)
class DotConfig:
    """`normalize`: cosine instead of a plain inner product; the score is divided by `temperature`.

    `user_rows`: if not 0, a second dot product is added, of an embedding of the user's id, `user_dim` wide and from a table of
    that many rows, with a linear map of the item's embedding. As the user component of a Mixture-of-Logits it is dropped
    with `user_dropout` and pulled to 0 by `user_norm_weight` times its mean squared norm before dropout.
    Raises ValueError if a value is out of its range.
    """

    kind: ClassVar[str] = "dot"
    normalize: bool = True
    temperature: float = 0.05
    user_rows: int = 0
    user_dim: int = 64
    user_dropout: float = 0.5
    user_norm_weight: float = 0.1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        if self.user_rows < 0 or self.user_dim < 1:
            raise ValueError(f"user_rows must be at least 0 and user_dim at least 1: {self}")
        if not 0 <= self.user_dropout < 1:
            raise ValueError(f"user_dropout must lie in [0, 1), not {self.user_dropout}")


@dataclass(frozen=True)
class DotQueries(QueryState):
    """`vectors` (B, D), already divided by the temperature, followed by the user's if there is one; `user_norm` (B,), the
    squared norm of the user's embedding, or None."""

    vectors: Float[Tensor, "B D"]
    user_norm: Float[Tensor, "B"] | None = None


@dataclass(frozen=True)
class DotItems(ItemState):
    """`vectors` (N, D), followed by those that the users' are multiplied with, if there are any."""

    vectors: Float[Tensor, "N D"]


def unit(x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
    """x / max(|x|, 1e-6).

    >>> unit(torch.tensor([3.0, 4.0])).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    return F.normalize(x, dim=-1, eps=NORM_EPS)


@register(DotConfig, title="a dot product", label="dot", color="#0072B2")
class DotProduct(ComponentSimilarity[DotQueries, DotItems]):
    """φ(q, x) = ⟨q, x⟩ / τ, with q and x of unit length if `normalize` is set.

    With users φ(q, u, x) = (⟨q, x⟩ + ⟨u, W x⟩) / τ, u and W x of unit length too: one inner product of the vectors (q, u) and
    (x, W x), which every searcher of dot products finds.
    Raises ValueError if it has users and `dim`, the width of the embeddings, is missing.
    """

    def __init__(self, config: DotConfig, dim: int = 0) -> None:
        super().__init__()
        self.config = config
        self.users: UserTable | None = None
        self.items_for_users: nn.Linear | None = None
        if config.user_rows:
            if dim < 1:
                raise ValueError("a dot product with users needs the width of the embeddings, dim")
            self.users = UserTable(config.user_rows, config.user_dim, config.user_dropout)
            self.items_for_users = nn.Linear(dim, config.user_dim, bias=False)
            published_initialization(self)

    @property
    def pair_bytes(self) -> int:
        """Bytes of temporaries per (query, item) pair in `score`: the score itself."""
        return 4

    def queries(
        self, embeddings: Float[Tensor, "B D"], user_ids: Int[Tensor, "B"] | None = None
    ) -> DotQueries:
        """Query vectors (B, D), with users (B, D + user_dim); ValueError if there is a part of users and no ids."""
        vectors, norm = self._scaled(embeddings), None
        if self.users is not None:
            if user_ids is None:
                raise ValueError(
                    "this dot product has a part of the user's id: give the user, or train one without user_rows"
                )
            of_user, norm = self.users(user_ids)
            vectors = torch.cat([vectors, self._scaled(of_user)], dim=-1)
        return DotQueries(vectors / self.config.temperature, norm)

    def _scaled(self, x: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        return unit(x) if self.config.normalize else x

    def items(self, embeddings: Float[Tensor, "N D"], ids: Int[Tensor, "N"]) -> DotItems:
        """Item vectors (N, D), with users (N, D + user_dim)."""
        vectors = self._scaled(embeddings)
        if self.items_for_users is not None:
            vectors = torch.cat([vectors, self._scaled(self.items_for_users(embeddings))], dim=-1)
        return DotItems(ids, vectors)

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
        """The norm of the user embeddings ("user norm"), if there are any."""
        if queries.user_norm is None or not self.config.user_norm_weight:
            return {}
        return {"user norm": self.config.user_norm_weight * queries.user_norm.mean()}
