"""Training of heads for text retrieval: in-batch and hard negatives, several answers per query."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from workbench.text_encoders import EncodedTexts, PaddedTokens
from workbench.training.text_heads import TextHead

HARDEST = 30
"""Mined documents of a query that hard negatives are drawn from."""
AT_ONCE = 512
"""Queries whose mined documents are scored together."""


@dataclass(frozen=True)
class HeadTraining:
    """`positives`: answers that are drawn per query and epoch. `negatives`: hard ones per query, drawn from the hardest mined
    ones; every document of a batch is a negative of all its queries. `refresh`: epochs between two rankings of the mined
    documents by the head itself (0: they stay in the encoder's order). The learning rate falls linearly to 0.
    """

    epochs: int = 3
    batch_size: int = 256
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    positives: int = 1
    negatives: int = 1
    refresh: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.negatives, self.refresh) < 0:
            raise ValueError(f"epochs, negatives and refresh must be 0 or more: {self}")
        if self.batch_size < 2 or self.positives < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"batch_size must be 2 or more, positives 1 or more and learning_rate positive: {self}"
            )


@dataclass(frozen=True)
class Examples:
    """Q training queries, the rows of their answers (query i: `rows[offsets[i]:offsets[i + 1]]`) and, per query, rows of mined
    documents (Q, M), hardest first. An answer among those is never a negative."""

    queries: EncodedTexts
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    hard: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.queries) < 2:
            raise ValueError(f"in-batch negatives need at least 2 training queries, not {len(self.queries)}")


def train_head(
    head: TextHead,
    examples: Examples,
    documents: EncodedTexts,
    training: HeadTraining,
    seed: int = 0,
    on_epoch: Callable[[int, float], None] | None = None,
) -> None:
    """Train `head` in place: softmax over the documents of the batch, answers and hard negatives of all its queries.

    L = −log exp φ(q, x⁺) / Σ_x exp φ(q, x), x over x⁺ and the batch's documents that are no answer of q; the mean over the
    answers x⁺ that were drawn for q. `on_epoch` takes the epoch (from 1) and its mean loss.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the gate's dropout
        _train(head, examples, documents, training, np.random.default_rng(seed), on_epoch)
    head.eval()


def _train(
    head: TextHead,
    examples: Examples,
    documents: EncodedTexts,
    training: HeadTraining,
    random: np.random.Generator,
    on_epoch: Callable[[int, float], None] | None,
) -> None:
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    counts = np.diff(examples.offsets)
    steps = training.epochs * -(-len(counts) // training.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, steps))
    keys = answer_keys(examples, len(documents))
    hard = examples.hard[:, :HARDEST]
    for epoch in range(1, training.epochs + 1):
        if training.refresh and epoch > 1 and (epoch - 1) % training.refresh == 0:
            hard = _hardest(head, examples, documents)
        head.train()
        order = random.permutation(len(counts))
        total = 0.0
        for start in range(0, len(order), training.batch_size):
            batch = order[start : start + training.batch_size]
            rows, positives = draw_documents(
                examples, hard, batch, training.positives, training.negatives, random
            )
            answers = torch.from_numpy(are_answers(keys, batch, rows, len(documents)))
            scores, terms = _scores(
                head, examples.queries.batch(batch), documents.batch(rows), positives[:, 0]
            )
            loss = contrastive_loss(scores, positives, answers)
            for term in terms:
                loss = loss + term
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        if on_epoch is not None:
            on_epoch(epoch, total / len(order))


def _scores(
    head: TextHead,
    queries: tuple[Float[Tensor, "B D"], PaddedTokens | None],
    documents: tuple[Float[Tensor, "C D"], PaddedTokens | None],
    positives: Int[Tensor, "B"],
) -> tuple[Float[Tensor, "B C"], list[Float[Tensor, ""]]]:
    """Every query of a batch with every document of it, and what the similarity adds to the loss."""
    if head.config.tokens == "all":
        read, written = queries[1], documents[1]
        assert read is not None and written is not None
        return head.every_token_scores(read, written), []
    state, asked = head.documents(*documents), head.queries(*queries)
    terms = head.similarity.regularizers(asked, state, positives)
    return head.similarity.score(asked, state), list(terms.values())


def contrastive_loss(
    scores: Float[Tensor, "B C"], positives: Int[Tensor, "B P"], answers: Bool[Tensor, "B C"]
) -> Float[Tensor, ""]:
    """Mean of −log exp s⁺ / (exp s⁺ + Σ exp s) over the `positives` of each query, s over documents that are no `answers`.

    >>> loss = contrastive_loss(torch.zeros(1, 3), torch.tensor([[0]]), torch.tensor([[True, True, False]]))
    >>> round(float(loss), 4)
    0.6931
    """
    against = scores.masked_fill(answers, -torch.inf).logsumexp(1, keepdim=True)  # (B, 1)
    return F.softplus(against - scores.gather(1, positives)).mean()


def draw_documents(
    examples: Examples,
    hard: NDArray[np.int64],
    batch: NDArray[np.int64],
    positives: int,
    negatives: int,
    random: np.random.Generator,
) -> tuple[NDArray[np.int64], Int[Tensor, "B P"]]:
    """The rows (C,) of the documents of a batch of queries, and where in them the answers of each are.

    They are `positives` of its answers and `negatives` of its `hard` documents (Q, M), drawn at random.
    """
    counts = np.diff(examples.offsets)
    drawn = random.integers(0, counts[batch, None], (len(batch), positives))
    chosen = examples.rows[examples.offsets[batch, None] + drawn]  # (B, P)
    places = random.integers(0, max(1, hard.shape[1]), (len(batch), negatives))
    against = np.take_along_axis(hard[batch], places, axis=1) if hard.shape[1] else places[:, :0]
    rows, columns = np.unique(np.concatenate([chosen.ravel(), against.ravel()]), return_inverse=True)
    return rows, torch.from_numpy(columns[: chosen.size].reshape(chosen.shape))


def answer_keys(examples: Examples, size: int) -> NDArray[np.int64]:
    """Query · size + row of each of its answers among `size` documents, in order: what `are_answers` looks pairs up in."""
    counts = np.diff(examples.offsets)
    keys: NDArray[np.int64] = np.sort(np.repeat(np.arange(len(counts)), counts) * size + examples.rows)
    return keys


def are_answers(
    keys: NDArray[np.int64], batch: NDArray[np.int64], rows: NDArray[np.int64], size: int
) -> NDArray[np.bool_]:
    """Which documents (B, C) answer which query of the batch."""
    wanted = batch[:, None] * size + rows
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    found: NDArray[np.bool_] = keys[place] == wanted
    return found


@torch.inference_mode()
def _hardest(head: TextHead, examples: Examples, documents: EncodedTexts) -> NDArray[np.int64]:
    """The HARDEST of each query's mined documents by the head as it is now, hardest first."""
    head.eval()
    state = head.corpus_state(documents)
    hard = np.empty((len(examples.hard), min(HARDEST, examples.hard.shape[1])), dtype=np.int64)
    for start in range(0, len(hard), AT_ONCE):
        batch = np.arange(start, min(start + AT_ONCE, len(hard)))
        mined = torch.from_numpy(examples.hard[batch])
        scores = head.similarity.score_candidates(head.queries(*examples.queries.batch(batch)), state, mined)
        hard[batch] = mined.gather(1, scores.topk(hard.shape[1], dim=1).indices).numpy()
    return hard
