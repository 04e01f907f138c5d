"""How many documents free embeddings tell apart: the task, the construction, and what descent finds."""

import pytest
import torch

from workbench.theory.limit import (
    Descent,
    FreeEmbeddings,
    critical_size,
    critical_sizes,
    fits,
    moment_curve,
    pairs,
    solved,
)


def test_the_moment_curve_solves_the_task_with_four_floats() -> None:
    queries, documents = moment_curve(40)
    assert queries.shape == (780, 4) and documents.shape == (40, 4)
    assert solved(queries @ documents.T, pairs(40))
    assert not solved(queries @ documents.flip(0).T, pairs(40))


def test_a_query_must_rank_both_answers_first() -> None:
    answers = pairs(3)
    assert solved(torch.tensor([[2.0, 1, 0], [2, 0, 1], [0, 2, 1]]), answers)
    assert not solved(torch.tensor([[2.0, 1, 1], [2, 0, 1], [0, 2, 1]]), answers)  # a tie is no answer
    assert not solved(torch.tensor([[2.0, 0, 1], [2, 0, 1], [0, 2, 1]]), answers)


def test_two_floats_tell_four_documents_apart_and_not_five() -> None:
    """A triangle and its centre: towards a corner it and the centre come first, away from it the two others."""
    corners = torch.tensor([[0.0, 1.0], [-0.9, -0.5], [0.9, -0.5]])
    documents = torch.cat([corners, torch.zeros(1, 2)])
    towards = {(0, 3): corners[0], (1, 3): corners[1], (2, 3): corners[2]}
    away = {(1, 2): -corners[0], (0, 2): -corners[1], (0, 1): -corners[2]}
    queries = torch.stack([(towards | away)[tuple(pair)] for pair in pairs(4).tolist()])
    assert solved(queries @ documents.T, pairs(4))
    quick = Descent(steps=100)
    found = critical_size("dot", 2, quick, largest=6)
    assert found in (3, 4)  # of the ten pairs of five points in a plane, not all can come first
    assert not fits("dot", 1, 3, quick)
    table = critical_sizes((2,), ("dot",), (quick, Descent(steps=100, seed=1)), largest=3)
    assert table["documents"].eq(3).all() and table["seed"].tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["dot", "maxsim", "mol"])
def test_free_embeddings_have_the_floats_that_they_are_given(kind: str) -> None:
    free = FreeEmbeddings(kind, 4, queries=6, documents=4)
    assert free.scores().shape == (6, 4)
    assert free.query_vectors.numel() == 24 and free.document_vectors.numel() == 16
    free.scores().sum().backward()
    assert all(weight.grad is not None for weight in free.trained())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="no similarity 'cosine'"):
        FreeEmbeddings("cosine", 2, 3, 3)
    with pytest.raises(ValueError, match="3 floats cannot be 2 vectors"):
        FreeEmbeddings("mol", 3, 3, 3)
    with pytest.raises(ValueError, match="steps and tries must be 1 or more"):
        Descent(steps=0)
