"""SparCode: query tokens become codes, and each code has a learned, sparse score with every item (Su et al., SIGIR 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.contracts import ItemState, QueryState, Similarity
from workbench.kernels.dropout import Dropout
from workbench.kernels.tiles import gathered_tiles
from workbench.similarities.registry import register
from workbench.similarities.sparcode.quantizer import QuantizerConfig, VectorQuantizer
from workbench.similarities.sparcode.scorers import INTERACTIONS, InnerPDNN, Interaction, scorer

PAIRS_AT_ONCE = 32768
"""Pairs whose scores are computed together: their activations stay in a processor's cache."""

PRICED = 64
"""Query tokens of a step whose scores are priced by `sparsity`."""

NOISE = 0.5
"""Of aligned tokenizers: the length of what is a token's own in its map of a unit vector, the shared part's being 1."""


@dataclass(frozen=True)
class SparCodeConfig:
    """`query_tokens` K and `item_tokens` Px, of width `token_dim` d, and the `interaction` of one with the others.

    `query_tokenizer`: K linear layers of the encoder's output ("linear"), or one linear layer of K reweighted copies of it
    ("senet"). `token_norm`: tokens of both sides pass a LayerNorm without weights, so that codebooks and scorer meet one
    scale. `hidden`: widths of the scorer's MLP ("dnn", "inner pdnn"); `cross_layers`: of "crossnet". `dropout`: of what
    enters the tokenizers. `threshold`: b in ReLU(f + b) before it is learned. `leak`: slope of that ReLU below 0, in
    training only (0 as published). `aligned`: the tokenizers of both sides start as one orthogonal map, each token's with
    some noise of its own, and the MLP next to inner products ("inner pdnn") at 0, so that scores start as inner products of
    the encoder's output with the item; otherwise (the paper says nothing) all start at random. `sparsity`: the weight λ in
    the loss of the mean sparse score of query tokens and a step's items (None: without, as published). `quantizer`: None
    for All-to-All, the same without codes, which no index serves.
    Raises ValueError if a value is out of its range, or the codebooks do not divide `token_dim`.
    """

    kind: ClassVar[str] = "sparcode"
    query_tokens: int = 4
    item_tokens: int = 4
    token_dim: int = 64
    interaction: Interaction = "inner pdnn"
    query_tokenizer: Literal["linear", "senet"] = "linear"
    token_norm: bool = True
    hidden: tuple[int, ...] = (256, 256, 256)
    cross_layers: int = 3
    dropout: float = 0.1
    threshold: float = 1.0
    leak: float = 0.01
    aligned: bool = False
    sparsity: float | None = None
    quantizer: QuantizerConfig | None = field(default_factory=QuantizerConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if min(self.query_tokens, self.item_tokens, self.token_dim, self.cross_layers) < 1:
            raise ValueError(
                f"query_tokens, item_tokens, token_dim and cross_layers must be at least 1: {self}"
            )
        if self.interaction not in INTERACTIONS:
            raise ValueError(
                f"interaction must be one of {', '.join(INTERACTIONS)}, not {self.interaction!r}"
            )
        if self.query_tokenizer not in ("linear", "senet"):
            raise ValueError(f"query_tokenizer must be linear or senet, not {self.query_tokenizer!r}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden needs at least one width, each 1 or more, not {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")
        if not 0 <= self.leak < 1:
            raise ValueError(f"leak must lie in [0, 1), not {self.leak}")
        if self.sparsity is not None and not self.sparsity > 0:
            raise ValueError(f"sparsity must be above 0, or None, not {self.sparsity}")
        q = self.quantizer
        if q is not None and not q.residual and self.token_dim % q.codebooks:
            raise ValueError(
                f"token_dim {self.token_dim} cannot be cut into {q.codebooks} equal pieces, one per codebook"
            )


@dataclass(frozen=True)
class SparCodeQueries(QueryState):
    """`tokens` (B, K, d), quantised; `codes` int64 (B, K), and `errors` (B,), the mean of |t − t̂|² / d over the tokens.

    The last two are None for All-to-All, whose tokens are not quantised.
    """

    tokens: Float[Tensor, "B K d"]
    codes: Int[Tensor, "B K"] | None
    errors: Float[Tensor, "B"] | None


@dataclass(frozen=True)
class SparCodeItems(ItemState):
    """`parts` (N, W): what the scorer computes of an item alone."""

    parts: Float[Tensor, "N W"]


class _Squeeze(nn.Module):
    """K copies of a vector, each with its channels reweighted by 2 σ(W₂ ReLU(W₁ q)), through one linear layer.

    Source: Hu et al., "Squeeze-and-Excitation Networks" (2018); here the channels are those of the encoder's output.
    """

    def __init__(self, dim: int, tokens: int, width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.squeeze = nn.Linear(dim, max(1, dim // 2))
        self.excite = nn.Linear(max(1, dim // 2), tokens * dim)
        self.project = nn.Linear(dim, width)

    def forward(self, q: Float[Tensor, "B D"]) -> Float[Tensor, "B Kd"]:
        weights = 2 * self.excite(F.relu(self.squeeze(q))).sigmoid().unflatten(-1, (self.tokens, -1))
        tokens: Tensor = self.project(weights * q[:, None])
        return tokens.flatten(1)


@register(SparCodeConfig, title="SparCode", color="#E69F00")
class SparCode(Similarity[SparCodeQueries, SparCodeItems]):
    """φ(q, x) = Σ_k ReLU(f(t̂_k, x) + b), t̂_k the quantised k-th token of the query, f the scorer, b learned.

    No gradient reaches the codebooks: they follow the tokens by moving averages. Since f sees a query only through codes,
    its values can be kept in an inverted index (`search.inverted_index`). Source: "Beyond Two-Tower Matching: Learning Sparse
    Retrievable Cross-Interactions for Recommendation" (2023), equations 3 to 15.

    The gradient of a softmax loss does not reward zeros. With s_k = f(t̂_k, x) + b it is, in b, the expected number of tokens
    with s_k > 0 over the softmax of the candidates, less that number for the positive: 0 while all scores are positive, and
    below 0, which raises b, once the threshold cuts off more of the negatives than of the positive. So a b that is learned by
    gradient prunes nothing, unless it started low; the paper chooses the sparsity afterwards, by b' of the index (equation
    15). `sparsity` adds a price: what is above 0 costs, and zeros are free.

    Not in the paper: LayerNorm of the encoder's output before the tokenizer, `token_norm`, `leak`, `aligned`, `sparsity`,
    the gradients past the quantizer but for "commitment", and β times the mean of a token's squared errors instead of their
    sum, which is d times weaker. Its regularisation of embeddings is left out; and All-to-All keeps the ReLU and its
    threshold here, so that it differs from SparCode in the codes alone.
    """

    def __init__(self, config: SparCodeConfig, dim: int) -> None:
        super().__init__()
        self.config = config
        c = config
        width = c.query_tokens * c.token_dim
        self.query_dropout, self.item_dropout = Dropout(c.dropout), Dropout(c.dropout)
        self.query_tokenizer = (
            nn.Linear(dim, width)
            if c.query_tokenizer == "linear"
            else _Squeeze(dim, c.query_tokens, c.token_dim)
        )
        self.item_tokenizer = nn.Linear(dim, c.item_tokens * c.token_dim)
        self.scorer = scorer(c.interaction, c.token_dim, c.item_tokens, c.hidden, c.cross_layers)
        self.threshold = nn.Parameter(torch.tensor(c.threshold))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
            elif parameter.dim() == 1:
                nn.init.zeros_(parameter)
        if c.aligned:
            self._align(dim)
        self.quantizer = None if c.quantizer is None else VectorQuantizer(c.quantizer, c.token_dim)

    @torch.no_grad()
    def _align(self, dim: int) -> None:
        """Start every token of both sides as W e + noise, W (d, D) orthogonal: ⟨W q, W x⟩ = ⟨q, x⟩ if d ≥ D."""
        shared = nn.init.orthogonal_(torch.empty(self.config.token_dim, dim))
        query = (
            self.query_tokenizer.project
            if isinstance(self.query_tokenizer, _Squeeze)
            else self.query_tokenizer
        )
        for layer in (query, self.item_tokenizer):
            tokens = layer.out_features // self.config.token_dim
            own = torch.randn(tokens, self.config.token_dim, dim) * (NOISE / self.config.token_dim**0.5)
            layer.weight.copy_((shared + own).flatten(0, 1))
        if isinstance(self.scorer, InnerPDNN):
            nn.init.zeros_(self.scorer.output.weight)

    @property
    def pair_bytes(self) -> int:
        """Bytes of temporaries per pair in `score`: the scorer's for every token, their scores, the sum."""
        return self.config.query_tokens * (self.scorer.pair_bytes + 8) + 8

    def queries(
        self, embeddings: Float[Tensor, "B D"], user_ids: Int[Tensor, "B"] | None = None
    ) -> SparCodeQueries:
        """Tokens (B, K, d), quantised if there is a quantizer; in training its codebooks follow. Users are not looked at."""
        tokens = self._tokens(embeddings)
        if self.quantizer is None:
            return SparCodeQueries(tokens, None, None)
        found = self.quantizer(tokens)
        return SparCodeQueries(found.tokens, found.codes, found.errors.mean(1))

    def _tokens(self, embeddings: Float[Tensor, "B D"]) -> Float[Tensor, "B K d"]:
        q = self.query_dropout(F.layer_norm(embeddings, embeddings.shape[-1:], eps=1e-6))
        tokens: Tensor = self.query_tokenizer(q).unflatten(-1, (self.config.query_tokens, -1))
        return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) if self.config.token_norm else tokens

    @torch.no_grad()
    def fit_codebooks(self, embeddings: Float[Tensor, "B D"], generator: torch.Generator) -> None:
        """Make the codebooks the k-means of the query tokens of `embeddings`; nothing if there is no quantizer."""
        if self.quantizer is not None:
            self.quantizer.fit(self._tokens(embeddings).flatten(0, 1), generator)

    def items(self, embeddings: Float[Tensor, "N D"], ids: Int[Tensor, "N"]) -> SparCodeItems:
        """The scorer's part of every item (N, W)."""
        tokens: Tensor = self.item_tokenizer(self.item_dropout(embeddings))
        tokens = tokens.unflatten(-1, (self.config.item_tokens, -1))  # (N, Px, d)
        if self.config.token_norm:
            tokens = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        return SparCodeItems(ids, self.scorer.item_part(tokens))

    def interactions(self, tokens: Float[Tensor, "U d"], items: SparCodeItems) -> Float[Tensor, "U N"]:
        """f of single tokens with every item, before the threshold: what an index keeps."""
        return self.scorer.pairs(self.scorer.code_part(tokens)[None], items.parts[None])[0]

    def _sparse(self, f: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """ReLU(f + b); in training with a leak, since a model whose every score is 0 has no gradient to leave that state."""
        return F.leaky_relu(f + self.threshold, self.config.leak if self.training else 0.0)

    def score(self, queries: SparCodeQueries, items: SparCodeItems) -> Float[Tensor, "B N"]:
        """φ for every pair (B, N); without gradients each code that occurs is scored once."""
        size = queries.tokens.shape[0]  # an exported program keeps it variable, as len() does not
        if size == 0:
            return queries.tokens.new_empty(0, len(items))
        tokens = queries.tokens.flatten(0, 1)  # (B·K, d)
        places = torch.arange(tokens.shape[0], device=tokens.device)
        once = not torch.is_grad_enabled() and not torch.compiler.is_exporting()
        if queries.codes is not None and once:
            codes, places = queries.codes.flatten().unique(return_inverse=True)
            first = places.new_zeros(len(codes)).scatter_(0, places, torch.arange(len(places)).to(places))
            tokens = tokens[first]
        sparse = self._sparse(self.interactions(tokens, items))  # (U, N)
        by_token = places.unflatten(0, (size, -1)).unbind(1)
        total = sparse[by_token[0]]
        for rows in by_token[1:]:  # in the order of tokens, as a search adds up its lists
            total = total + sparse[rows]
        return total

    def score_candidates(
        self, queries: SparCodeQueries, items: SparCodeItems, rows: Int[Tensor, "B C"]
    ) -> Float[Tensor, "B C"]:
        """φ for chosen rows (B, C), in tiles of queries; the gradient recomputes a tile's activations."""

        def added(of_queries: Sequence[Tensor], of_items: Sequence[Tensor]) -> Float[Tensor, "t C"]:
            return self._sparse(self.scorer.pairs(of_queries[0], of_items[0])).sum(1)

        return gathered_tiles(
            added,
            [self.scorer.code_part(queries.tokens)],
            [items.parts],
            rows,
            [*self.scorer.parameters(), self.threshold],
            max(1, PAIRS_AT_ONCE // max(1, rows.shape[1] * self.config.query_tokens)),
        )

    def regularizers(
        self, queries: SparCodeQueries, items: SparCodeItems, rows: Int[Tensor, "B"]
    ) -> dict[str, Tensor]:
        """β · mean |t − sg(t̂)|² / d, if there is a quantizer with such a loss; λ · mean ReLU(f + b), if λ is not 0.

        The latter of the first `PRICED` query tokens with all of these items.
        """
        found = {}
        if (
            queries.errors is not None
            and self.config.quantizer is not None
            and self.config.quantizer.commitment
        ):
            found["commitment"] = self.config.quantizer.commitment * queries.errors.mean()
        if self.config.sparsity and len(queries) and len(items):
            f = self.interactions(queries.tokens.flatten(0, 1)[:PRICED], items)
            found["sparsity"] = self.config.sparsity * F.relu(f + self.threshold).mean()
        return found
