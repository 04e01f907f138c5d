"""Mixture-of-Logits (RAILS, "Retrieval with Learned Similarities", arXiv 2407.15462): a gated mixture of dot products."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from workbench.contracts import ComponentSimilarity, ItemState, QueryState, Reach, sampled_softmax
from workbench.kernels import mixture
from workbench.kernels.dropout import dropout
from workbench.kernels.mixture import PAIRS_AT_ONCE
from workbench.kernels.mixture_loss import GateDropout, mixture_loss
from workbench.kernels.tiles import gathered_tiles
from workbench.similarities.dot import unit
from workbench.similarities.projections import (
    ComponentsConfig,
    Projection,
    check_probabilities,
    hidden_network,
    published_initialization,
)
from workbench.similarities.registry import register
from workbench.similarities.rounding import combination_error, largest_norm, norms, peak
from workbench.similarities.users import UserTable

DENSE_SHARE = 0.85
"""Share of all pairs beyond which `score_pairs` scores all: items that serve every query are fetched and transposed once.

Measured: both ways cost the same at .65 (27,278 items of 4 x 128 numbers, 8 queries), .82 (3,883 of 4 x 64, 32 queries) and 1
(the same, one query)."""


@dataclass(frozen=True)
class MoLConfig(ComponentsConfig):
    """All options of the published configurations; the defaults are those of ML-1M.

    Components as in `ComponentsConfig`, of unit length if `normalize`. `user_tables`: hash sizes of user-embedding tables;
    each takes the place of one query group, is dropped with `user_dropout` (whole embeddings if `user_dropout_whole`) and is
    pulled to 0 by `user_norm_weight` times its mean squared norm before dropout. `gate_query`, `gate_item`, `gate_pair`:
    hidden units of each part of the gate, 0 for a linear part, None for no such part. `gate_combination`: softmax(w) of
    w = a·σ(a) ("glu_silu") or a·σ(LN(a)) ("glu_silu_ln"), where a = query part ⊙ item part + pair part, or of w = query part +
    item part + pair part ("sum"). `gate_dropout`: of the softmax. `balance_weight`: of the mutual-information load-balancing
    loss. `dropout_per_candidate`: in training, draw the dropouts of the item side for each position and candidate, as the
    published code does, which computes the item side as often; otherwise once for each item of a step.
    Raises ValueError if a value is out of its range, or user tables leave no query group for the history.
    """

    kind: ClassVar[str] = "mol"
    normalize: bool = True
    query_dropout: float = 0.0
    user_tables: tuple[int, ...] = ()
    user_dropout: float = 0.5
    user_dropout_whole: bool = False
    user_norm_weight: float = 0.1
    gate_query: int | None = 128
    gate_item: int | None = 128
    gate_pair: int | None = 128
    gate_input_dropout: float = 0.0
    gate_combination: Literal["glu_silu", "glu_silu_ln", "sum"] = "glu_silu"
    gate_dropout: float = 0.2
    balance_weight: float = 0.001
    dropout_per_candidate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "user_tables", tuple(self.user_tables))
        if len(self.user_tables) >= self.query_groups:
            raise ValueError(
                f"{len(self.user_tables)} user tables leave no query group for the history, of {self.query_groups}"
            )
        check_probabilities(self, "query_dropout", "user_dropout", "gate_input_dropout", "gate_dropout")
        for name in ("gate_query", "gate_item", "gate_pair"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must be at least 0, or None, not {getattr(self, name)}")
        if min(self.user_tables, default=1) < 1:
            raise ValueError(f"a user table needs at least 1 row: user_tables are {self.user_tables}")
        if self.gate_combination not in ("glu_silu", "glu_silu_ln", "sum"):
            raise ValueError(
                f"gate_combination must be glu_silu, glu_silu_ln or sum, not {self.gate_combination!r}"
            )


@dataclass(frozen=True)
class MoLQueries(QueryState):
    """`components` (B, Pq, d), already divided by τ; `gate` (B, P), the query part; `user_norm` (B,), squared norm of the
    user's embeddings, all tables together. The last two are None if the similarity has no such part."""

    components: Float[Tensor, "B Pq d"]
    gate: Float[Tensor, "B P"] | None
    user_norm: Float[Tensor, "B"] | None


@dataclass(frozen=True)
class MoLItems(ItemState):
    """`components` (N, Px, d); `gate` (N, P), the item part, or None if there is none; `embeddings` (N, D) that both are
    computed from for each candidate again, if their dropout is drawn for each."""

    components: Float[Tensor, "N Px d"]
    gate: Float[Tensor, "N P"] | None
    embeddings: Float[Tensor, "N D"] | None = None


@register(MoLConfig, title="Mixture-of-Logits", label="MoL", color="#D55E00")
class MixtureOfLogits(ComponentSimilarity[MoLQueries, MoLItems]):
    """φ(q, x) = Σ_p π_p(q, x) s_p(q, x), s_(i,j) = ⟨f_i(q), g_j(x)⟩ / τ, π ≥ 0, Σ π = 1 (in evaluation).

    The item's components and its part of the gate are computed once per corpus, the query's once per query; per pair only the
    P dot products, the pair part of the gate (a function of these dot products) and the softmax remain.
    """

    def __init__(self, config: MoLConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        c = config
        projected = c.query_groups - len(c.user_tables)
        self.query_network = Projection(
            c.query_projection, dim, c.query_hidden, projected * c.component_dim, c.query_dropout
        )
        self.item_network = Projection(
            c.item_projection, dim, c.item_hidden, c.item_groups * c.component_dim, c.item_dropout
        )
        self.user_tables = nn.ModuleList(
            UserTable(rows, c.component_dim, c.user_dropout, c.user_dropout_whole) for rows in c.user_tables
        )
        p, drop = c.components, c.gate_input_dropout
        self.gate_query = (
            None if c.gate_query is None else hidden_network(dim, c.gate_query, p, 0.0, last_bias=False)
        )
        self.gate_item = (
            None if c.gate_item is None else hidden_network(dim, c.gate_item, p, drop, last_bias=False)
        )
        self.gate_pair = (
            None if c.gate_pair is None else hidden_network(p, c.gate_pair, p, drop, last_bias=True)
        )
        published_initialization(self)

    @property
    def pair_bytes(self) -> int:
        """Bytes of temporaries per pair in `score` without a gradient: see `kernels.mixture.pair_bytes`."""
        weight = self.query_network.linear.weight
        return mixture.pair_bytes(weight.device, weight.dtype, self.config.components, self.config.gate_pair)

    def queries(
        self, embeddings: Float[Tensor, "B D"], user_ids: Int[Tensor, "B"] | None = None
    ) -> MoLQueries:
        """Query components (B, Pq, d) and the query part of the gate (B, P); ValueError if it has user tables and no ids."""
        if user_ids is None and self.user_tables:
            raise ValueError(
                "this Mixture-of-Logits has a component of the user's id: give the user, or train one without user_tables"
            )
        q = (
            F.layer_norm(embeddings, embeddings.shape[-1:], eps=1e-6)
            if self.config.query_layer_norm
            else embeddings
        )
        users = [table(user_ids) for table in self.user_tables]  # each (B, d), (B,)
        parts = [
            self.query_network(q).unflatten(-1, (-1, self.config.component_dim)),
            *(u[:, None] for u, _ in users),
        ]
        components = torch.cat(parts, dim=1) if users else parts[0]  # (B, Pq, d)
        if self.config.normalize:
            components = unit(components)
        norm = torch.stack([n for _, n in users]).sum(0) if users else None
        gate = None if self.gate_query is None else self.gate_query(q)
        return MoLQueries(components / self.config.temperature, gate, norm)

    def items(self, embeddings: Float[Tensor, "N D"], ids: Int[Tensor, "N"]) -> MoLItems:
        """Item components (N, Px, d) and the item part of the gate (N, P)."""
        c = self.config
        again = self.training and c.dropout_per_candidate and max(c.item_dropout, c.gate_input_dropout) > 0
        return MoLItems(ids, *self._item_side(embeddings), embeddings if again else None)

    def _item_side(
        self, embeddings: Float[Tensor, "*S D"]
    ) -> tuple[Float[Tensor, "*S Px d"], Float[Tensor, "*S P"] | None]:
        components = self.item_network(embeddings).unflatten(-1, (-1, self.config.component_dim))
        if self.config.normalize:
            components = unit(components)
        return components, None if self.gate_item is None else self.gate_item(embeddings)

    def query_components(self, queries: MoLQueries) -> Float[Tensor, "B Pq d"]:
        """f_i(q), already divided by τ."""
        return queries.components

    def item_components(self, items: MoLItems) -> Float[Tensor, "N Px d"]:
        """g_j(x)."""
        return items.components

    def upper_bound(self, component_logits: Float[Tensor, "*S P"]) -> Float[Tensor, "*S"]:
        """max_p s_p: a mixture with weights that sum to one never exceeds it."""
        return component_logits.amax(-1)

    def score_error(
        self, queries: MoLQueries, item_norm: Float[Tensor, ""], dtype: torch.dtype
    ) -> Float[Tensor, "B"]:
        """The error of an inner product, and of a mixture with weights that sum to one."""
        lengths, width = norms(queries.components).amax(1), queries.components.shape[2]
        return combination_error(lengths, item_norm, width, self.config.components, 1, dtype)

    def reach(self, items: MoLItems) -> Reach:
        """The largest item part of the gate; √P |g| times the norms of the pair part's layers, whose biases are left out."""
        gate = peak(items.gate)
        pair = self.config.components**0.5 * float(largest_norm(items.components)) if self.gate_pair else 0.0
        for weight, _ in self._gate().layers:
            pair *= float(weight.detach().double().norm())
        return Reach(gate, pair)

    def parts_fit(self, queries: MoLQueries, longest: float, reach: Reach, dtype: torch.dtype) -> bool:
        """Whether the gate is finite, however its parts are combined."""
        gate = peak(queries.gate)
        largest = gate * reach.item + gate + reach.item + longest * reach.pair
        return largest < torch.finfo(dtype).max / 4

    def gates(
        self,
        logits: Float[Tensor, "*S P"],
        query_part: Float[Tensor, "*#S P"] | None,
        item_part: Float[Tensor, "*#S P"] | None,
    ) -> Float[Tensor, "*S P"]:
        """π (…, P): softmax of the combined parts; while training, with dropout and divided by its sum."""
        pair_part = None if self.gate_pair is None else self.gate_pair(logits)
        pi = mixture.gate_weights(pair_part, query_part, item_part, self.config.gate_combination)
        if pi is None:
            return torch.full_like(logits, 1 / logits.shape[-1])
        pi = pi.expand_as(logits)
        if self.training and self.config.gate_dropout:
            pi = dropout(pi, self.config.gate_dropout, self.training)
            pi = pi / pi.sum(-1, keepdim=True).clamp(min=1e-6)
        return pi

    def _mix(
        self,
        query_components: Float[Tensor, "t Pq d"],
        query_part: Float[Tensor, "t P"] | None,
        item_components: Float[Tensor, "t C Px d"],
        item_part: Float[Tensor, "t C P"] | None,
    ) -> tuple[Float[Tensor, "t C P"], Float[Tensor, "t C P"]]:
        """Weights π and component scores s of gathered pairs."""
        flat = torch.bmm(item_components.flatten(1, 2), query_components.transpose(1, 2))  # (t, C·Px, Pq)
        logits = flat.unflatten(1, item_components.shape[1:3]).transpose(2, 3).flatten(2)  # (t, C, P)
        return self.gates(logits, None if query_part is None else query_part[:, None], item_part), logits

    def _learns(self, queries: MoLQueries, items: MoLItems) -> bool:
        """Whether dropout is on, or a gradient is required."""
        if self.training or not torch.is_grad_enabled():
            return self.training
        states = (queries.components, queries.gate, items.components, items.gate)
        weights = () if self.gate_pair is None else self.gate_pair.parameters()
        return any(t is not None and t.requires_grad for t in (*states, *weights))

    def _gate(self) -> mixture.MixtureGate:
        network = self.gate_pair  # each look-up of a part takes a part of a microsecond
        layers = [] if network is None else [m for m in network if isinstance(m, nn.Linear)]
        return mixture.MixtureGate(
            tuple([(layer.weight, layer.bias) for layer in layers]), self.config.gate_combination
        )

    def score(self, queries: MoLQueries, items: MoLItems) -> Float[Tensor, "B N"]:
        """φ for every pair (B, N); without a gradient and in evaluation by `kernels.mixture`, nothing else held."""
        if not self._learns(queries, items):
            return mixture.mixture_scores(
                queries.components, queries.gate, items.components, items.gate, self._gate()
            )
        logits = self.component_logits(queries, items)
        query_part = None if queries.gate is None else queries.gate[:, None]
        return (self.gates(logits, query_part, items.gate) * logits).sum(-1)

    def score_reaching(
        self, queries: MoLQueries, items: MoLItems, floors: Float[Tensor, "B"]
    ) -> Float[Tensor, "B N"]:
        """φ (B, N) of the pairs whose `upper_bound` reaches the query's floor, −inf elsewhere; no gradient."""
        return mixture.reaching_scores(
            *(queries.components, queries.gate, items.components, items.gate), self._gate(), floors
        )

    def score_candidates(
        self, queries: MoLQueries, items: MoLItems, rows: Int[Tensor, "B C"]
    ) -> Float[Tensor, "B C"]:
        """φ for chosen rows (B, C), as in `score`; with a gradient in tiles of queries, whose activations it recomputes."""
        if not self._learns(queries, items):
            return mixture.candidate_scores(
                queries.components, queries.gate, items.components, items.gate, self._gate(), rows
            )

        drawn = items.embeddings is not None  # the dropouts of the item side, for each candidate

        def mixed(of_queries: Sequence[Tensor], of_items: Sequence[Tensor]) -> Float[Tensor, "t C"]:
            item_side = self._item_side(of_items[0]) if drawn else _part(of_items)
            pi, logits = self._mix(*_part(of_queries), *item_side)
            return (pi * logits).sum(-1)

        parts = (items.embeddings,) if drawn else (items.components, items.gate)
        modules = (self.gate_pair, *((self.item_network, self.gate_item) if drawn else ()))
        return gathered_tiles(
            mixed,
            [t for t in (queries.components, queries.gate) if t is not None],
            [t for t in parts if t is not None],
            rows,
            [p for module in modules if module is not None for p in module.parameters()],
            max(1, PAIRS_AT_ONCE // max(1, rows.shape[1])),
        )

    def score_pairs(
        self, queries: MoLQueries, items: MoLItems, owners: Int[Tensor, "M"], rows: Int[Tensor, "M"]
    ) -> Float[Tensor, "M"]:
        """See `Similarity.score_pairs`; the C++ version takes the pairs as they are, or scores all, with the same bits."""
        parts = (queries.components, queries.gate, items.components, items.gate)
        if self._learns(queries, items) or not mixture.scores_pairs(*parts):
            return super().score_pairs(queries, items, owners, rows)
        if len(rows) > DENSE_SHARE * len(queries) * len(items):
            return self.score(queries, items)[owners, rows]
        return mixture.pair_scores(*parts, self._gate(), owners, rows)

    def sampled_softmax(
        self, queries: MoLQueries, items: MoLItems, rows: Int[Tensor, "B C"]
    ) -> Float[Tensor, ""]:
        """See `Similarity.sampled_softmax`; by `kernels.mixture_loss`."""
        if items.embeddings is not None:
            return sampled_softmax(self.score_candidates(queries, items, rows), rows)
        c, drop = self.config, GateDropout()
        if self.training and max(c.gate_dropout, c.gate_input_dropout):
            drop = GateDropout(c.gate_dropout, c.gate_input_dropout, seed=int(torch.randint(2**62, ())))
        return mixture_loss(
            *(queries.components, queries.gate, items.components, items.gate), self._gate(), rows, drop
        )

    def fuses_top_k(self, queries: MoLQueries, items: MoLItems, k: int) -> bool:
        """Whether `top_k` serves these states: on a GPU with triton."""
        return mixture.fuses_top_k(queries.components, items.components, k)

    def top_k(
        self,
        queries: MoLQueries,
        items: MoLItems,
        k: int,
        excluded: Int[Tensor, "B H"] | None = None,
        allowed: Bool[Tensor, "N"] | None = None,
    ) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
        """The best k scores and rows without holding those of all pairs: see `kernels.mixture.top_k`."""
        return mixture.top_k(
            *(queries.components, queries.gate, items.components, items.gate),
            *(self._gate(), k, excluded, allowed),
        )

    def regularizers(self, queries: MoLQueries, items: MoLItems, rows: Int[Tensor, "B"]) -> dict[str, Tensor]:
        """−H(mean_b π) + mean_b H(π) on the positive pairs ("balance"), and the user embeddings' norm ("user norm").

        Like the published code, and unlike the paper's expectation over all pairs, only positive pairs are looked at.
        """
        losses = {}
        if self.config.balance_weight:
            gate = None if items.gate is None else items.gate[rows][:, None]
            pi = self._mix(queries.components, queries.gate, items.components[rows][:, None], gate)[0][:, 0]
            losses["balance"] = self.config.balance_weight * (_entropy(pi).mean() - _entropy(pi.mean(0)))
        if queries.user_norm is not None and self.config.user_norm_weight:
            losses["user norm"] = self.config.user_norm_weight * queries.user_norm.mean()
        return losses


def _part(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
    return tensors[0], tensors[1] if len(tensors) > 1 else None


def _entropy(pi: Float[Tensor, "*S P"]) -> Float[Tensor, "*S"]:
    return -(pi * pi.clamp(min=1e-6).log()).sum(-1)
