"""Heads on frozen vectors: where they start, what they learn, what is no negative."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from workbench.text_encoders import EncodedTexts, TokenStates
from workbench.training.text_heads import HeadConfig, TextHead
from workbench.training.text_training import (
    Examples,
    HeadTraining,
    _hardest,
    are_answers,
    contrastive_loss,
    train_head,
)

DIM = 16


def vectors(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


def scores(config: HeadConfig, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    head = TextHead(config, DIM).eval()
    with torch.no_grad():
        return head.similarity.score(head.queries(queries), head.documents(documents))


@pytest.mark.parametrize("kind", ["dot", "maxsim", "mol", "lite"])
def test_with_one_group_step_0_is_the_cosine(kind: str) -> None:
    queries, documents = vectors(5, 0), vectors(30, 1)
    cosines = queries @ documents.T / 0.05
    torch.testing.assert_close(scores(HeadConfig(kind="zero-shot"), queries, documents), cosines)
    torch.testing.assert_close(
        scores(HeadConfig(kind=kind, groups=1), queries, documents), cosines, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["dot", "maxsim", "mol", "lite"])
def test_with_more_groups_the_first_component_is_the_cosine_and_a_random_start_is_not(kind: str) -> None:
    queries, documents = vectors(5, 0), vectors(30, 1)
    cosines = (queries @ documents.T).flatten()
    near = torch.corrcoef(torch.stack([scores(HeadConfig(kind=kind), queries, documents).flatten(), cosines]))
    far = torch.corrcoef(
        torch.stack([scores(HeadConfig(kind=kind, start="random"), queries, documents).flatten(), cosines])
    )
    assert near[0, 1] > 0.8 and far[0, 1] < 0.6
    if kind == "mol":
        head = TextHead(HeadConfig(kind=kind), DIM).eval()
        logits = head.similarity.component_logits(head.queries(queries), head.documents(documents))
        torch.testing.assert_close(logits[..., 0].flatten(), cosines / 0.05, rtol=1e-4, atol=1e-4)


def test_a_hypencoder_starts_near_the_cosine_and_far_from_it_at_random() -> None:
    queries, documents = vectors(5, 0), vectors(300, 1)
    cosines = queries @ documents.T
    places = cosines > 0  # its units are rectified
    near, far = (
        torch.corrcoef(
            torch.stack(
                [
                    scores(HeadConfig(kind="hypencoder", start=start), queries, documents)[places],
                    cosines[places],
                ]
            )
        )[0, 1]
        for start in ("identity", "random")
    )
    assert near > 0.7 and far < 0.5


def test_heads_of_as_many_groups_have_as_many_projected_weights() -> None:
    count = {
        kind: TextHead(HeadConfig(kind=kind), DIM).count_parameters() for kind in ("dot", "maxsim", "mol")
    }
    assert count["dot"] == count["maxsim"]
    gate = sum(p.numel() for n, p in TextHead(HeadConfig(), DIM).named_parameters() if "gate" in n)
    assert count["mol"] - gate == count["dot"]
    hypencoder = TextHead(HeadConfig(kind="hypencoder"), DIM)
    assert hypencoder.similarity.weight_network.weight.numel() == 4 * DIM**2  # 2 g D² with g = 2


def token_states(counts: list[int], seed: int) -> TokenStates:
    states = torch.randn(sum(counts), DIM, generator=torch.Generator().manual_seed(seed))
    return TokenStates(states.numpy().astype(np.float16), np.concatenate([[0], np.cumsum(counts)]))


def test_padding_keeps_the_states_of_each_text() -> None:
    tokens = token_states([2, 1, 3], 0)
    padded = tokens.padded(np.array([2, 1]))
    assert padded.present.tolist() == [[True, True, True], [True, False, False]]
    np.testing.assert_array_equal(padded.states[0].numpy(), tokens.states[3:6].astype(np.float32))
    np.testing.assert_array_equal(padded.states[1, 0].numpy(), tokens.states[2].astype(np.float32))
    with pytest.raises(ValueError, match="2 vectors and token states of 3 texts"):
        EncodedTexts(vectors(2, 0), tokens)


@pytest.mark.parametrize("kind", ["dot", "maxsim", "mol", "lite"])
def test_a_token_aware_head_starts_at_the_mean_and_then_looks_where_its_groups_look(kind: str) -> None:
    counts = [3, 1, 5, 2]
    tokens = token_states(counts, 0)
    padded = tokens.padded(np.arange(4))
    mean = F.normalize(padded.states.sum(1) / torch.tensor(counts)[:, None], dim=-1)
    documents = EncodedTexts(vectors(9, 1), token_states([2] * 9, 2))
    pooled = TextHead(HeadConfig(kind=kind), DIM).eval()
    aware = TextHead(HeadConfig(kind=kind, tokens="query"), DIM).eval()
    with torch.no_grad():
        expected = pooled.similarity.score(pooled.queries(mean), pooled.corpus_state(documents))
        state = aware.corpus_state(documents)
        torch.testing.assert_close(aware.similarity.score(aware.queries(mean, padded), state), expected)
        aware.query_attention.weight[1] = 100 * padded.states[0, 2]  # group 2 sees the third token of text 0
        weights = aware.query_attention.weights(padded)
    torch.testing.assert_close(weights.sum(1), torch.ones(4, 2))
    assert weights[0, 2, 1] > 0.99 and weights[0, :, 0].max() < 0.34 and (weights[1, 1:] == 0).all()


@pytest.mark.parametrize("kind", ["zero-shot", "maxsim"])
def test_every_token_scores_as_padded_states_do(kind: str) -> None:
    head = TextHead(HeadConfig(kind=kind, groups=1, tokens="all"), DIM, seed=1)
    queries, documents = (
        token_states([3, 1, 5, 2], 0).padded(np.arange(4)),
        token_states([2, 6, 1], 1).padded(np.arange(3)),
    )
    found = head.every_token_scores(queries, documents)
    state = head.documents(vectors(3, 0), documents), head.queries(vectors(4, 0), queries)
    expected = head.similarity.score(state[1], state[0])
    torch.testing.assert_close(found, expected)
    weights = list(head.parameters())
    if weights:
        seed = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
        for ours, padded in zip(
            torch.autograd.grad((found * seed).sum(), weights),
            torch.autograd.grad((expected * seed).sum(), weights),
            strict=True,
        ):
            torch.testing.assert_close(ours, padded, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="dot-2 does not score every token"):
        TextHead(HeadConfig(kind="dot"), DIM).every_token_scores(queries, documents)


def test_a_head_that_looks_at_tokens_refuses_texts_without_them() -> None:
    head = TextHead(HeadConfig(tokens="both"), DIM)
    with pytest.raises(ValueError, match="looks at the tokens of each query"):
        head.queries(vectors(2, 0))
    with pytest.raises(ValueError, match="looks at the tokens of each document"):
        head.corpus_state(EncodedTexts(vectors(2, 0)))


def examples(seed: int = 0) -> tuple[Examples, EncodedTexts]:
    """Each query is a document seen through a fixed rotation, so the cosine is useless and a linear map is perfect."""
    documents = vectors(60, seed)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(9)))[0]
    rows = np.arange(60)
    hard = np.stack([(rows + 1) % 60, (rows + 2) % 60], axis=1)
    return Examples(EncodedTexts(documents @ rotation), np.arange(61), rows, hard), EncodedTexts(documents)


@pytest.mark.parametrize("kind", ["dot", "maxsim", "mol", "lite", "hypencoder"])
def test_a_head_learns_and_a_seed_repeats(kind: str) -> None:
    made, documents = examples()
    runs: list[list[float]] = []
    found = []
    for _ in range(2):
        losses: list[float] = []
        head = TextHead(HeadConfig(kind=kind), DIM, seed=3)
        training = HeadTraining(epochs=15, batch_size=20, learning_rate=4e-2, refresh=5)
        train_head(
            head, made, documents, training, seed=3, on_epoch=lambda _, loss, into=losses: into.append(loss)
        )
        with torch.no_grad():
            scores = head.similarity.score(head.query_state(made.queries), head.corpus_state(documents))
        found.append((scores.argmax(1).numpy() == made.rows).mean())
        runs.append(losses)
    assert runs[0] == runs[1] and len(runs[0]) == 15
    assert runs[0][-1] < runs[0][0] / 2 and found[0] > (0.7 if kind in ("lite", "hypencoder") else 0.9)


def test_attention_finds_the_token_that_answers() -> None:
    """Each query is five tokens of noise and a marked one with the document's vector: their mean is a poor query."""
    documents, trained = vectors(300, 0), np.arange(240)
    mark = 2 * F.normalize(torch.ones(DIM), dim=0)
    states = torch.randn(300, 6, DIM, generator=torch.Generator().manual_seed(5)) / 3
    states[:, 3] = documents + mark
    tokens = TokenStates(states.flatten(0, 1).numpy().astype(np.float16), np.arange(301) * 6)
    queries = EncodedTexts(F.normalize(states.mean(1), dim=-1), tokens)
    first = EncodedTexts(queries.vectors[:240], TokenStates(tokens.states[: 240 * 6], tokens.offsets[:241]))
    made = Examples(first, np.arange(241), trained, np.empty((240, 0), dtype=np.int64))
    found = {}
    for which in ("none", "query"):
        head = TextHead(HeadConfig(kind="mol", tokens=which), DIM, seed=1)
        train_head(
            head, made, EncodedTexts(documents), HeadTraining(epochs=15, batch_size=60, learning_rate=3e-2)
        )
        with torch.no_grad():
            scores = head.similarity.score(head.query_state(queries), head.documents(documents))
        found[which] = (scores.argmax(1).numpy() == np.arange(300))[240:].mean()
    assert found["query"] > found["none"] + 0.2


def test_an_other_answer_of_a_query_is_no_negative() -> None:
    """Query 0 is answered by documents 2 and 5, query 1 by 5: in one batch with 2 and 5 chosen, (0, 5) is left out."""
    keys = np.array([0 * 10 + 2, 0 * 10 + 5, 1 * 10 + 5])
    answers = are_answers(keys, np.array([0, 1]), np.array([2, 5, 7]), 10)
    assert answers.tolist() == [[True, True, False], [False, True, False]]
    scores = torch.tensor([[1.0, 9.0, 0.0], [0.5, 2.0, 1.0]])
    positives = torch.tensor([[0, 1], [1, 1]])
    by_hand = [
        -torch.log(
            torch.exp(torch.tensor(s)) / (torch.exp(torch.tensor(s)) + torch.exp(torch.tensor(rest)).sum())
        )
        for s, rest in ((1.0, [0.0]), (9.0, [0.0]), (2.0, [0.5, 1.0]), (2.0, [0.5, 1.0]))
    ]
    torch.testing.assert_close(
        contrastive_loss(scores, positives, torch.from_numpy(answers)), torch.stack(by_hand).mean()
    )


def test_hard_negatives_are_ranked_again_by_the_head() -> None:
    made, documents = examples()
    head = TextHead(HeadConfig(kind="dot", groups=1, start="random"), DIM, seed=4)
    mined = np.stack([(made.rows + shift) % 60 for shift in range(1, 41)], axis=1)
    ranked = _hardest(head, Examples(made.queries, made.offsets, made.rows, mined), documents)
    with torch.no_grad():
        scores = head.similarity.score(head.query_state(made.queries), head.corpus_state(documents)).numpy()
    assert ranked.shape == (60, 30)
    for row in range(60):
        best = mined[row][np.argsort(-scores[row, mined[row]])][:30]
        np.testing.assert_array_equal(ranked[row], best)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="groups must be at least 1"):
        HeadConfig(groups=0)
    with pytest.raises(ValueError, match="batch_size must be 2 or more"):
        HeadTraining(batch_size=1)
    with pytest.raises(ValueError, match="at least 2 training queries"):
        Examples(
            EncodedTexts(vectors(1, 0)), np.array([0, 1]), np.array([0]), np.empty((1, 0), dtype=np.int64)
        )
    with pytest.raises(ValueError, match="positives 1 or more"):
        HeadTraining(positives=0)
    with pytest.raises(ValueError, match="refresh must be 0 or more"):
        HeadTraining(refresh=-1)
    with pytest.raises(ValueError, match="no groups that could attend"):
        HeadConfig(kind="zero-shot", tokens="query")
