"""Ranking candidates by all their tokens: the scores of MaxSim, taken by hand, and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from workbench.models.text_reranking import rerank
from workbench.text_encoders import EncodedTexts, TokenStates
from workbench.training.text_heads import HeadConfig, TextHead
from workbench.training.text_training import Examples, HeadTraining, train_head

DIM = 16


def texts(counts: list[int], seed: int) -> EncodedTexts:
    """Texts of `counts` tokens, drawn at random; their vectors are the means."""
    states = torch.randn(sum(counts), DIM, generator=torch.Generator().manual_seed(seed))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    means = torch.stack([part.mean(0) for part in states.split(counts)])
    return EncodedTexts(F.normalize(means, dim=-1), TokenStates(states.numpy().astype(np.float16), offsets))


def by_hand(queries: EncodedTexts, documents: EncodedTexts) -> np.ndarray:
    """1/L Σ_i max_j cos(q_i, d_j) / 0.05 for every pair."""
    tokens = []
    for side in (queries, documents):
        states = F.normalize(torch.from_numpy(side.tokens.states.astype(np.float32)), dim=-1)
        tokens.append(states.split(np.diff(side.tokens.offsets).tolist()))
    return np.array([[float((q @ d.T).amax(1).mean()) / 0.05 for d in tokens[1]] for q in tokens[0]])


@pytest.mark.parametrize("kind", ["zero-shot", "maxsim"])
def test_it_starts_as_the_mean_of_the_best_cosine_of_each_token(kind: str) -> None:
    queries, documents = texts([3, 1, 6], 0), texts([2, 5, 1, 4, 7, 3], 1)
    head = TextHead(HeadConfig(kind=kind, groups=1, tokens="all"), DIM).eval()
    expected = by_hand(queries, documents)
    with torch.no_grad():
        state = head.documents(*documents.batch(np.arange(6)))
        scores = head.similarity.score(head.queries(*queries.batch(np.arange(3))), state)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-3, atol=2e-2)
    found = rerank(head, queries, documents, k=8)
    np.testing.assert_array_equal(found[:, :6], np.argsort(-expected, axis=1))
    assert (found[:, 6:] == -1).all()


def test_only_the_candidates_of_the_cosine_are_ranked() -> None:
    queries, documents = texts([4, 2], 2), texts([3] * 30, 3)
    head = TextHead(HeadConfig(kind="zero-shot", groups=1, tokens="all"), DIM).eval()
    first = (queries.vectors @ documents.vectors.T).topk(5, dim=1).indices.numpy()
    found = rerank(head, queries, documents, k=5, candidates=5)
    expected = by_hand(queries, documents)
    for query in range(2):
        best = sorted(first[query], key=lambda row: -expected[query, row])
        assert found[query].tolist() == best


def test_it_learns_which_token_matters() -> None:
    """Each query shares one token with its document, seen through a rotation, among noise."""
    documents, queries = texts([2] * 80, 4), texts([3] * 80, 5)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(9)))[0]
    states = queries.tokens.states.copy()
    states[2::3] = documents.tokens.states[1::2] @ rotation.numpy().astype(np.float16)
    queries = EncodedTexts(queries.vectors, TokenStates(states, queries.tokens.offsets))
    made = Examples(queries, np.arange(81), np.arange(80), np.empty((80, 0), dtype=np.int64))
    head = TextHead(HeadConfig(kind="maxsim", groups=1, tokens="all"), DIM, seed=1)

    def first() -> float:
        return (rerank(head.eval(), queries, documents, k=1)[:, 0] == np.arange(80)).mean()

    before = first()
    train_head(head, made, documents, HeadTraining(epochs=50, batch_size=40, learning_rate=3e-2))
    assert before < 0.2 and first() > 0.5


def test_what_makes_no_sense_is_refused() -> None:
    head = TextHead(HeadConfig(kind="maxsim", groups=1, tokens="all"), DIM)
    documents = texts([2, 2], 0)
    with pytest.raises(ValueError, match="give the states of both sides"):
        rerank(head, documents.pooled(), documents)
    with pytest.raises(ValueError, match="rank candidates by"):
        head.corpus_state(documents)
    with pytest.raises(ValueError, match="zero-shot or maxsim head of one group"):
        HeadConfig(tokens="all")
