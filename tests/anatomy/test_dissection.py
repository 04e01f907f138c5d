"""Parts add up to the score; what is changed is what was asked for."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.anatomy import (
    AS_TRAINED,
    Change,
    ModelView,
    component_names,
    dissect,
    dissect_pairs,
    dissection,
)

USERS = np.arange(5)


def test_examples_hold() -> None:
    assert doctest.testmod(dissection).failed == 0


def test_parts_add_up_to_the_score(mol: ModelView) -> None:
    whole = dissect(mol.retriever.similarity, mol.queries(USERS), mol.items)
    assert whole.weights.shape == (5, 30, 6)
    torch.testing.assert_close(whole.weights.sum(-1), torch.ones(5, 30))
    np.testing.assert_allclose(whole.scores, mol.scores(USERS), rtol=1e-4, atol=1e-4)


def test_pairs_are_rows_of_the_whole(mol: ModelView) -> None:
    rows = torch.tensor([3, 3, 0, 29, 7])
    whole = dissect(mol.retriever.similarity, mol.queries(USERS), mol.items, Change(0.1, 2.0, (1,)))
    pairs = dissect_pairs(
        mol.retriever.similarity, mol.queries(USERS), mol.items[rows], Change(0.1, 2.0, (1,))
    )
    torch.testing.assert_close(pairs.weights, whole.weights[torch.arange(5), rows], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pairs.scores, whole.scores[torch.arange(5), rows], rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(off=st.sets(st.integers(0, 5), max_size=5), gate=st.floats(0.05, 20))
def test_weights_are_shares_whatever_is_changed(mol: ModelView, off: set[int], gate: float) -> None:
    change = Change(gate_temperature=gate, off=tuple(off))
    whole = dissect(mol.retriever.similarity, mol.queries(USERS), mol.items, change)
    assert bool((whole.weights >= 0).all())
    torch.testing.assert_close(whole.weights.sum(-1), torch.ones(5, 30), rtol=1e-4, atol=1e-5)
    assert bool((whole.weights[..., sorted(off)] == 0).all())


def test_what_is_switched_off_is_shared_out_in_proportion(mol: ModelView) -> None:
    query = mol.queries(USERS)
    before = dissect(mol.retriever.similarity, query, mol.items)
    after = dissect(mol.retriever.similarity, query, mol.items, Change(off=(2,)))
    expected = before.weights[..., 3] / (1 - before.weights[..., 2])
    torch.testing.assert_close(after.weights[..., 3], expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(after.scores, before.without()[..., 2], rtol=1e-3, atol=1e-3)


def test_the_temperature_divides_every_component(mol: ModelView) -> None:
    trained = mol.retriever.similarity.config.temperature
    at = {t: mol.dissect(0, Change(temperature=t)).logits for t in (trained, 2 * trained)}
    torch.testing.assert_close(at[trained], mol.dissect(0).logits)
    torch.testing.assert_close(2 * at[2 * trained], at[trained])


def test_the_gate_decides_when_cold_and_averages_when_hot(mol: ModelView) -> None:
    cold, hot = (mol.dissect(0, Change(gate_temperature=t)).weights for t in (1e-3, 1e6))
    assert float(cold.amax(-1).mean()) > 0.99
    torch.testing.assert_close(hot, torch.full_like(hot, 1 / 6), rtol=1e-3, atol=1e-4)
    assert bool((cold.argmax(-1) == mol.dissect(0).weights.argmax(-1)).all())


def test_the_last_component_has_no_score_without_itself(mol: ModelView) -> None:
    alone = mol.dissect(0, Change(off=(0, 1, 2, 3, 4)))
    torch.testing.assert_close(alone.scores, alone.logits[:, 5])
    assert bool(alone.without()[:, 5].isnan().all())


def test_components_are_named_as_in_print(mol: ModelView) -> None:
    assert component_names(mol.retriever.similarity) == ["f1·g1", "f1·g2", "f2·g1", "f2·g2", "f3·g1", "f3·g2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: Change(temperature=0.0), "temperature must be a positive"),
        (lambda: Change(gate_temperature=float("nan")), "gate_temperature must be a positive"),
    ],
)
def test_a_change_without_meaning_is_refused(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change()


def test_what_cannot_be_taken_apart_is_refused(mol: ModelView, dot: ModelView) -> None:
    with pytest.raises(ValueError, match="leave at least one on"):
        mol.dissect(0, Change(off=tuple(range(6))))
    with pytest.raises(ValueError, match=r"components 0\.\.5, and not \[6\]"):
        mol.dissect(0, Change(off=(6,)))
    with pytest.raises(ValueError, match="DotProduct is no Mixture-of-Logits"):
        dot.dissect(0)
    with pytest.raises(ValueError, match="must come from the mixture"):
        dissect(mol.retriever.similarity, dot.queries(USERS), mol.items, AS_TRAINED)
