"""Heads for text retrieval: a learned similarity on the frozen vectors of a text encoder, trained in minutes.

Every head starts from the encoder: the first group of each side projects by the identity, the others by the identity plus
noise. At step 0 the first component score is the cosine of the two vectors, the others are near it, and so is any mixture.
Projections that start at random throw the pretrained geometry away.

A token-aware head reads the states of the tokens instead of their mean: each group attends over them with a vector of its own,
which is 0 at the start, so that every token weighs the same and step 0 does not change (for an encoder that pools by the mean).
A head of all tokens takes each of them as a component of its own: MaxSim as in ColBERT. Its documents are too large to be held
for a whole corpus, so it ranks candidates again (`models.text_reranking`).
"""

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from workbench import runtime
from workbench.contracts import ItemState, QueryState, Similarity
from workbench.similarities import (
    DotConfig,
    HypencoderConfig,
    LITEConfig,
    MaxSimConfig,
    MoLConfig,
    SimilarityConfig,
    build,
)
from workbench.similarities.dot import unit
from workbench.similarities.maxsim import MaxSimItems, MaxSimQueries
from workbench.similarities.projections import Projection
from workbench.text_encoders import EncodedTexts, PaddedTokens

NOISE = 0.5
"""What is added to the identity in every group but the first, as a share of a vector's length: it makes the groups differ."""
State = TypeVar("State", QueryState, ItemState)
LITE_HIDDEN = 8
"""Units of each layer of LITE's network: it holds their square for every pair."""
AT_ONCE = 4096
"""Texts whose token states are read together."""


_KINDS = ("zero-shot", "dot", "maxsim", "mol", "lite", "hypencoder")
_TOKENS = {"none": [], "query": ["tokens"], "both": ["tokens", "both"], "all": ["all", "tokens"]}
"""What each choice of tokens adds to a head's name."""


@dataclass(frozen=True)
class HeadConfig:
    """`kind`: "zero-shot" (the cosine, no weights), "dot", "maxsim", "mol", "lite" or "hypencoder". `groups` g: component
    groups of a side, each of the encoder's width; a dot product has one component of g times that width and a Hypencoder 2 g
    hidden units, so that all heads of one g have 2 g D² weights, MoL's gate (`gate_hidden` units) and LITE's network aside.
    `start`: projections begin as the "identity", or at "random" as published. `gate`: what MoL's weights depend on: "full"
    (query, document and their dot products), the dot products alone ("pair", as published for text), or nothing ("uniform":
    the mean of the components). `tokens`: the sides whose groups attend over token states, g D weights each, or "all": every
    token of both sides is a component, projected by one matrix per side (MaxSim), or as it is (zero-shot).
    """

    kind: Literal["zero-shot", "dot", "maxsim", "mol", "lite", "hypencoder"] = "mol"
    groups: int = 2
    temperature: float = 0.05
    gate_hidden: int = 32
    start: Literal["identity", "random"] = "identity"
    gate: Literal["full", "pair", "uniform"] = "full"
    tokens: Literal["none", "query", "both", "all"] = "none"

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"a head is {', '.join(_KINDS)}, not {self.kind!r}")
        if self.groups < 1 or not self.temperature > 0:
            raise ValueError(f"groups must be at least 1 and temperature positive: {self}")
        if self.start not in ("identity", "random"):
            raise ValueError(f"start must be identity or random, not {self.start!r}")
        if self.gate not in ("full", "pair", "uniform"):
            raise ValueError(f"gate must be full, pair or uniform, not {self.gate!r}")
        if self.tokens not in _TOKENS:
            raise ValueError(f"tokens must be {', '.join(_TOKENS)}, not {self.tokens!r}")
        if self.tokens == "all":
            if self.kind not in ("zero-shot", "maxsim") or self.groups != 1:
                raise ValueError(
                    f"all tokens are the components of a zero-shot or maxsim head of one group: {self}"
                )
        elif self.kind in ("zero-shot", "hypencoder") and self.tokens != "none":
            raise ValueError(f"a {self.kind} head has no groups that could attend over tokens")

    @property
    def name(self) -> str:
        """Its name in folders: "mol-2-pair-tokens"."""
        parts = [self.kind] + ([] if self.kind == "zero-shot" else [str(self.groups)])
        parts += ["random"] * (self.start == "random") + [self.gate] * (self.gate != "full")
        return "-".join(parts + _TOKENS[self.tokens])


class GroupAttention(nn.Module):
    """(B, L, D) to (B, g, D): group i is Σ_t softmax_t(⟨a_i, h_t⟩) h_t over the tokens of a text, of unit length."""

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(groups, dim))

    def weights(self, tokens: PaddedTokens) -> Float[Tensor, "B L g"]:
        """How much each group looks at each token; they add up to 1 over a text."""
        logits = tokens.states @ self.weight.T
        return logits.masked_fill(~tokens.present[..., None], -torch.inf).softmax(1)

    def forward(self, tokens: PaddedTokens) -> Float[Tensor, "B g D"]:
        """One unit vector per group."""
        return F.normalize(self.weights(tokens).transpose(1, 2) @ tokens.states, dim=-1)


class TextHead(nn.Module):
    """φ(query text, document text) over frozen vectors of width `dim`, or over the states of tokens."""

    def __init__(self, config: HeadConfig, dim: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        g = config.groups
        self.query_tower: nn.Module = nn.Identity()
        self.document_tower: nn.Module = nn.Identity()
        if config.kind == "dot":
            self.query_tower = Projection("linear", dim, 0, g * dim, 0.0)
            self.document_tower = Projection("linear", dim, 0, g * dim, 0.0)
        self.similarity = _similarity(config, dim)
        self.query_attention = GroupAttention(dim, g) if config.tokens in ("query", "both") else None
        self.document_attention = GroupAttention(dim, g) if config.tokens == "both" else None
        self._start(dim, runtime.generator(seed))

    @torch.no_grad()
    def _start(self, dim: int, generator: torch.Generator) -> None:
        """Draw every weight from `generator`; unless the start is random, projections are the identity plus noise."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and "attention" not in name:
                std = (2 / sum(parameter.shape)) ** 0.5
                rows, columns = parameter.shape
                projects = columns == dim and rows % dim == 0 and "gate" not in name
                if self.config.start == "identity" and projects:
                    noise = NOISE / dim**0.5 * torch.randn(parameter.shape, generator=generator)
                    noise[:dim] = 0
                    parameter.copy_(torch.eye(dim).repeat(parameter.shape[0] // dim, 1) + noise)
                else:
                    parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.zero_()

    @property
    def reads_tokens(self) -> tuple[bool, bool]:
        """Whether it looks at the tokens of queries, and of documents."""
        every = self.config.tokens == "all"
        return every or self.query_attention is not None, every or self.document_attention is not None

    def queries(self, vectors: Float[Tensor, "B D"], tokens: PaddedTokens | None = None) -> QueryState:
        """What depends on the query alone. Raises ValueError if the head looks at tokens and there are none."""
        if self.config.tokens == "all":
            return self._every_query_token(_given(tokens, "query"))
        users = torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
        if self.query_attention is None:
            return self.similarity.queries(self.query_tower(vectors), users)
        pooled = self.query_attention(_given(tokens, "query"))  # (B, g, D)
        if isinstance(self.query_tower, Projection):
            return self.similarity.queries(_grouped(self.query_tower, pooled).flatten(1), users)
        components = unit(_grouped(self.similarity.query_network, pooled))  # type: ignore[arg-type]
        scale = {
            "maxsim": self.config.temperature * self.config.groups,
            "mol": self.config.temperature,
            "lite": 1.0,
        }[self.config.kind]
        return replace(self.similarity.queries(vectors, users), components=components / scale)

    def documents(
        self,
        vectors: Float[Tensor, "N D"],
        tokens: PaddedTokens | None = None,
        ids: Int[Tensor, "N"] | None = None,
    ) -> ItemState:
        """What depends on the document alone; ids are 1..N unless given. Raises as `queries`."""
        if ids is None:
            ids = torch.arange(1, len(vectors) + 1, device=vectors.device)
        if self.config.tokens == "all":
            return self._every_document_token(_given(tokens, "document"), ids)
        if self.document_attention is None:
            return self.similarity.items(self.document_tower(vectors), ids)
        pooled = self.document_attention(_given(tokens, "document"))  # (N, g, D)
        if isinstance(self.document_tower, Projection):
            return self.similarity.items(_grouped(self.document_tower, pooled).flatten(1), ids)
        components = unit(_grouped(self.similarity.item_network, pooled))  # type: ignore[arg-type]
        return replace(self.similarity.items(vectors, ids), components=components)

    def document_tokens(self, states: Float[Tensor, "*S D"]) -> Float[Tensor, "*S D"]:
        """The component of each token of a document, of unit length: for a head of all tokens."""
        return unit(self.similarity.item_network(states))  # type: ignore[operator]

    def _every_query_token(self, tokens: PaddedTokens) -> MaxSimQueries:
        """A component per token, divided by τ and their number; 0 past the end, which adds nothing to a sum of maxima."""
        states = self.similarity.query_network(tokens.states)  # type: ignore[operator]
        share = tokens.present / (self.config.temperature * tokens.present.sum(1, keepdim=True))  # (B, L)
        return MaxSimQueries(unit(states) * share[..., None])

    def _every_document_token(self, tokens: PaddedTokens, ids: Int[Tensor, "N"]) -> MaxSimItems:
        """A component per token; past the end the first one again, which changes no maximum."""
        components = self.document_tokens(tokens.states)
        return MaxSimItems(ids, torch.where(tokens.present[..., None], components, components[:, :1]))

    def every_token_scores(self, queries: PaddedTokens, documents: PaddedTokens) -> Float[Tensor, "B N"]:
        """φ of each query with each document for a head of all tokens, without what their states are padded with.

        As much arithmetic as there are pairs of tokens: of states padded to the longest text it would be some ten times that.
        Raises ValueError for another head.
        """
        if self.config.tokens != "all":
            raise ValueError(f"{self.config.name} does not score every token")
        of_query, of_document = queries.present.sum(1), documents.present.sum(1)
        tokens = unit(self.similarity.query_network(queries.states[queries.present]))  # type: ignore[operator]
        others = self.document_tokens(documents.states[documents.present])
        best = torch.segment_reduce(
            others @ tokens.T, "max", lengths=of_document
        )  # (N, tokens of the queries)
        rows = torch.arange(len(of_query), device=best.device).repeat_interleave(of_query)
        share = 1 / (self.config.temperature * of_query[rows])
        return best.new_zeros(len(of_query), len(best)).index_add(0, rows, (best * share).T)

    @torch.inference_mode()
    def query_state(self, texts: EncodedTexts) -> QueryState:
        """`queries` of all texts, their token states read in parts."""
        if not self.reads_tokens[0]:
            return self.queries(texts.vectors)
        return _joined([self.queries(*texts.batch(rows)) for rows in _parts(len(texts))])

    @torch.inference_mode()
    def corpus_state(self, texts: EncodedTexts) -> ItemState:
        """`documents` of all texts, their token states read in parts.

        Raises ValueError for a head of all tokens, whose documents are of different lengths.
        """
        if self.config.tokens == "all":
            raise ValueError(
                f"{self.config.name} holds every token: rank candidates by models.text_reranking"
            )
        if self.document_attention is None:
            return self.documents(texts.vectors)
        parts = [
            self.documents(*texts.batch(rows), ids=torch.from_numpy(rows + 1)) for rows in _parts(len(texts))
        ]
        return _joined(parts)

    def count_parameters(self) -> int:
        """Trained weights."""
        return sum(parameter.numel() for parameter in self.parameters())


def _similarity(config: HeadConfig, dim: int) -> Similarity:
    g, temperature = config.groups, config.temperature
    shape = {"query_groups": g, "item_groups": g, "component_dim": dim, "temperature": temperature}
    linear = {
        "query_projection": "linear",
        "item_projection": "linear",
        "query_layer_norm": False,
        "item_dropout": 0.0,
    }
    if config.kind == "mol":
        hidden = config.gate_hidden
        gate = {
            "gate_query": hidden if config.gate == "full" else None,
            "gate_item": hidden if config.gate == "full" else None,
            "gate_pair": None if config.gate == "uniform" else hidden,
        }
        return build(MoLConfig(**shape, **linear, **gate, gate_dropout=0.1), dim)  # type: ignore[arg-type]
    if config.kind == "zero-shot" and config.tokens == "all":
        raw = build(MaxSimConfig(**shape, **linear), dim)  # type: ignore[arg-type]
        raw.query_network, raw.item_network = nn.Identity(), nn.Identity()
        return raw
    others: dict[str, SimilarityConfig] = {
        "maxsim": MaxSimConfig(**shape, **linear),  # type: ignore[arg-type]
        "lite": LITEConfig(**shape, **linear, hidden=LITE_HIDDEN),  # type: ignore[arg-type]
        "hypencoder": HypencoderConfig(hidden=2 * g, temperature=temperature),
    }
    return build(others.get(config.kind, DotConfig(temperature=temperature)), dim)


def _given(tokens: PaddedTokens | None, side: str) -> PaddedTokens:
    if tokens is None:
        raise ValueError(f"this head looks at the tokens of each {side}: give their states")
    return tokens


def _grouped(projection: Projection, pooled: Float[Tensor, "B g D"]) -> Float[Tensor, "B g d"]:
    """A linear projection whose group i sees the vector of group i."""
    groups = pooled.shape[1]
    weight = projection.linear.weight.unflatten(0, (groups, -1))  # (g, d, D)
    return torch.einsum("bgD,gdD->bgd", pooled, weight) + projection.linear.bias.unflatten(0, (groups, -1))


def _parts(size: int) -> list[NDArray[np.int64]]:
    return [np.arange(start, min(start + AT_ONCE, size)) for start in range(0, size, AT_ONCE)]


def _joined(parts: list[State]) -> State:
    """The rows of several states as one."""
    fields: dict[str, Any] = {
        name: None if value is None else torch.cat([getattr(part, name) for part in parts])
        for name, value in vars(parts[0]).items()
    }
    return type(parts[0])(**fields)
