"""Heads for text retrieval: a learned similarity on the frozen vectors of a text encoder, trained in minutes.

Every head starts from the encoder: the first group of each side projects by the identity, the others by the identity plus
noise. At step 0 the first component score is the cosine of the two vectors, the others are near it, and so is any mixture.
Projections that start at random throw the pretrained geometry away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from workbench import runtime
from workbench.contracts import ItemState, QueryState, Similarity
from workbench.similarities import DotConfig, MaxSimConfig, MoLConfig, build
from workbench.similarities.projections import Projection

NOISE = 0.5
"""What is added to the identity in every group but the first, as a share of a vector's length: it tells the groups apart."""


@dataclass(frozen=True)
class HeadConfig:
    """`kind`: "zero-shot" (the cosine, no weights), "dot", "maxsim" or "mol". `groups` g: component groups of a side, each of
    the encoder's width; a dot product has one component of g times that width, so that all heads of one g have 2 g D² weights,
    MoL's gate (`gate_hidden` units) aside. `start`: projections begin as the "identity", or at "random" as published.
    """

    kind: Literal["zero-shot", "dot", "maxsim", "mol"] = "mol"
    groups: int = 2
    temperature: float = 0.05
    gate_hidden: int = 32
    start: Literal["identity", "random"] = "identity"

    def __post_init__(self) -> None:
        if self.kind not in ("zero-shot", "dot", "maxsim", "mol"):
            raise ValueError(f"a head is zero-shot, dot, maxsim or mol, not {self.kind!r}")
        if self.groups < 1 or not self.temperature > 0:
            raise ValueError(f"groups must be at least 1 and temperature positive: {self}")
        if self.start not in ("identity", "random"):
            raise ValueError(f"start must be identity or random, not {self.start!r}")

    @property
    def label(self) -> str:
        """Its name in tables: "MoL 2×2"."""
        g = self.groups
        name = {
            "zero-shot": "zero-shot cosine",
            "dot": f"dot ×{g}",
            "maxsim": f"MaxSim {g}×{g}",
            "mol": f"MoL {g}×{g}",
        }
        return name[self.kind] + (", random start" if self.start == "random" else "")


class TextHead(nn.Module):
    """φ(query text, document text) over two frozen vectors of width `dim`."""

    def __init__(self, config: HeadConfig, dim: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        g, temperature = config.groups, config.temperature
        self.query_tower: nn.Module = nn.Identity()
        self.document_tower: nn.Module = nn.Identity()
        if config.kind == "dot":
            self.query_tower = Projection("linear", dim, 0, g * dim, 0.0)
            self.document_tower = Projection("linear", dim, 0, g * dim, 0.0)
        shape = {"query_groups": g, "item_groups": g, "component_dim": dim, "temperature": temperature}
        linear = {
            "query_projection": "linear",
            "item_projection": "linear",
            "query_layer_norm": False,
            "item_dropout": 0.0,
        }
        if config.kind == "mol":
            gate = {
                "gate_query": config.gate_hidden,
                "gate_item": config.gate_hidden,
                "gate_pair": config.gate_hidden,
            }
            of_mol = MoLConfig(**shape, **linear, **gate, gate_dropout=0.1)  # type: ignore[arg-type]
            self.similarity: Similarity = build(of_mol, dim)
        elif config.kind == "maxsim":
            self.similarity = build(MaxSimConfig(**shape, **linear), dim)  # type: ignore[arg-type]
        else:
            self.similarity = build(DotConfig(temperature=temperature), dim)
        self._start(dim, runtime.generator(seed))

    @torch.no_grad()
    def _start(self, dim: int, generator: torch.Generator) -> None:
        """Draw every weight from `generator`; unless the start is random, projections are the identity plus noise."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                std = (2 / sum(parameter.shape)) ** 0.5
                if self.config.start == "identity" and "gate" not in name:
                    noise = NOISE / dim**0.5 * torch.randn(parameter.shape, generator=generator)
                    noise[:dim] = 0
                    parameter.copy_(torch.eye(dim).repeat(parameter.shape[0] // dim, 1) + noise)
                else:
                    parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.zero_()

    def queries(self, vectors: Float[Tensor, "B D"]) -> QueryState:
        """What depends on the query alone."""
        users = torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
        return self.similarity.queries(self.query_tower(vectors), users)

    def documents(self, vectors: Float[Tensor, "N D"], ids: Int[Tensor, "N"] | None = None) -> ItemState:
        """What depends on the document alone; ids are 1..N unless given."""
        if ids is None:
            ids = torch.arange(1, len(vectors) + 1, device=vectors.device)
        return self.similarity.items(self.document_tower(vectors), ids)

    def count_parameters(self) -> int:
        """Trained weights."""
        return sum(parameter.numel() for parameter in self.parameters())


@dataclass(frozen=True)
class HeadTraining:
    """`negatives`: hard ones per query, drawn from those mined; every document of a batch is a negative of all its queries."""

    epochs: int = 3
    batch_size: int = 256
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    negatives: int = 1

    def __post_init__(self) -> None:
        if min(self.epochs, self.negatives) < 0 or self.batch_size < 2 or not self.learning_rate > 0:
            raise ValueError(f"epochs and negatives must be 0 or more, batch_size 2 or more: {self}")


@dataclass(frozen=True)
class Examples:
    """Training queries (Q, D), the rows of their answers (query i: `rows[offsets[i]:offsets[i + 1]]`) and, per query, rows of
    hard negatives (Q, M), none of which is an answer."""

    queries: Float[Tensor, "Q D"]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    hard: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.queries) < 2:
            raise ValueError(f"in-batch negatives need at least 2 training queries, not {len(self.queries)}")


def train_head(
    head: TextHead,
    examples: Examples,
    documents: Float[Tensor, "N D"],
    training: HeadTraining,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Train `head` in place: softmax over the documents of the batch, answers and hard negatives of all its queries.

    L = −log exp φ(q, x⁺) / Σ_x exp φ(q, x), x over the batch's documents less the other answers of q. Each epoch draws one
    answer and `negatives` hard negatives per query. `on_epoch` takes the epoch (from 1) and its mean loss.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the gate's dropout
        _train(head, examples, documents, training, np.random.default_rng(seed), on_epoch)
    head.eval()


def _train(
    head: TextHead,
    examples: Examples,
    documents: Float[Tensor, "N D"],
    training: HeadTraining,
    random: np.random.Generator,
    on_epoch: Callable[[int, float], None] | None,
) -> None:
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    counts = np.diff(examples.offsets)
    keys = np.repeat(np.arange(len(counts)), counts) * len(documents) + examples.rows
    keys.sort()
    for epoch in range(1, training.epochs + 1):
        head.train()
        order = random.permutation(len(counts))
        total = 0.0
        batches = [
            order[start : start + training.batch_size] for start in range(0, len(order), training.batch_size)
        ]
        for batch in batches:
            chosen = examples.rows[examples.offsets[batch] + random.integers(0, counts[batch])]
            places = random.integers(0, max(1, examples.hard.shape[1]), (len(batch), training.negatives))
            hard = (
                np.take_along_axis(examples.hard[batch], places, axis=1).ravel()
                if places.size
                else chosen[:0]
            )
            candidates, columns = np.unique(np.concatenate([chosen, hard]), return_inverse=True)
            targets = torch.from_numpy(columns[: len(batch)])
            state = head.documents(documents[torch.from_numpy(candidates)])
            queries = head.queries(examples.queries[torch.from_numpy(batch)])
            scores = head.similarity.score(queries, state)  # (B, C)
            scores = scores.masked_fill(
                _other_answers(keys, batch, candidates, columns, len(documents)), -torch.inf
            )
            loss = F.cross_entropy(scores, targets)
            for term in head.similarity.regularizers(queries, state, targets).values():
                loss = loss + term
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        if on_epoch is not None:
            on_epoch(epoch, total / len(order))


def _other_answers(
    keys: NDArray[np.int64],
    batch: NDArray[np.int64],
    candidates: NDArray[np.int64],
    columns: NDArray[np.int64],
    size: int,
) -> Bool[Tensor, "B C"]:
    """Which candidates answer a query of the batch without being its chosen answer."""
    wanted = batch[:, None] * size + candidates
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    answers = keys[place] == wanted
    answers[np.arange(len(batch)), columns[: len(batch)]] = False
    return torch.from_numpy(answers)
