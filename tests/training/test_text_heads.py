"""Heads on frozen vectors: where they start, what they learn, what is no negative."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from workbench.training.text_heads import (
    Examples,
    HeadConfig,
    HeadTraining,
    TextHead,
    _other_answers,
    train_head,
)

DIM = 16


def vectors(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


def scores(config: HeadConfig, queries: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
    head = TextHead(config, DIM).eval()
    with torch.no_grad():
        return head.similarity.score(head.queries(queries), head.documents(documents))


@pytest.mark.parametrize("kind", ["dot", "maxsim", "mol"])
def test_with_one_group_step_0_is_the_cosine(kind: str) -> None:
    queries, documents = vectors(5, 0), vectors(30, 1)
    cosines = queries @ documents.T / 0.05
    torch.testing.assert_close(scores(HeadConfig(kind="zero-shot"), queries, documents), cosines)
    torch.testing.assert_close(
        scores(HeadConfig(kind=kind, groups=1), queries, documents), cosines, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["dot", "maxsim", "mol"])
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


def test_heads_of_as_many_groups_have_as_many_projected_weights() -> None:
    count = {
        kind: TextHead(HeadConfig(kind=kind), DIM).count_parameters() for kind in ("dot", "maxsim", "mol")
    }
    assert count["dot"] == count["maxsim"]
    gate = sum(p.numel() for n, p in TextHead(HeadConfig(), DIM).named_parameters() if "gate" in n)
    assert count["mol"] - gate == count["dot"]


def examples(seed: int = 0) -> tuple[Examples, torch.Tensor]:
    """Each query is a document seen through a fixed rotation, so the cosine is useless and a linear map is perfect."""
    documents = vectors(60, seed)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=torch.Generator().manual_seed(9)))[0]
    rows = np.arange(60)
    hard = np.stack([(rows + 1) % 60, (rows + 2) % 60], axis=1)
    return Examples(documents @ rotation, np.arange(61), rows, hard), documents


@pytest.mark.parametrize("kind", ["dot", "maxsim", "mol"])
def test_a_head_learns_and_a_seed_repeats(kind: str) -> None:
    made, documents = examples()
    runs: list[list[float]] = []
    found = []
    for _ in range(2):
        losses: list[float] = []
        head = TextHead(HeadConfig(kind=kind), DIM, seed=3)
        training = HeadTraining(epochs=30, batch_size=20, learning_rate=1e-2)
        train_head(
            head, made, documents, training, seed=3, on_epoch=lambda _, loss, into=losses: into.append(loss)
        )
        with torch.no_grad():
            best = head.similarity.score(head.queries(made.queries), head.documents(documents)).argmax(1)
        found.append((best.numpy() == made.rows).mean())
        runs.append(losses)
    assert runs[0] == runs[1] and len(runs[0]) == 30
    assert runs[0][-1] < runs[0][0] / 2 and found[0] > 0.9


def test_an_other_answer_of_a_query_is_no_negative() -> None:
    """Query 0 is answered by documents 2 and 5, query 1 by 5: in one batch with 2 and 5 chosen, (0, 5) is left out."""
    keys = np.array([0 * 10 + 2, 0 * 10 + 5, 1 * 10 + 5])
    candidates, columns = np.unique([2, 5, 7, 7], return_inverse=True)
    left_out = _other_answers(keys, np.array([0, 1]), candidates, columns, 10)
    assert left_out.tolist() == [[False, True, False], [False, False, False]]


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="groups must be at least 1"):
        HeadConfig(groups=0)
    with pytest.raises(ValueError, match="batch_size 2 or more"):
        HeadTraining(batch_size=1)
    with pytest.raises(ValueError, match="at least 2 training queries"):
        Examples(vectors(1, 0), np.array([0, 1]), np.array([0]), np.empty((1, 0), dtype=np.int64))
