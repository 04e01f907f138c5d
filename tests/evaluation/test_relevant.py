"""Metrics of several relevant items: the definitions, by a loop."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.evaluation.relevant import Relevant, list_metrics, summarize_lists
from workbench.evaluation.user_split import PAPER, HeldOutUsers


def relevant(sets: list[list[int]]) -> Relevant:
    return Relevant(
        np.concatenate([[0], np.cumsum([len(s) for s in sets])]).astype(np.int64),
        np.array([i for s in sets for i in s], dtype=np.int64),
    )


def literal(found: list[int], wanted: list[int], k: int) -> list[float]:
    hits = [i in wanted and i > 0 for i in found[:k]]
    precision, recall = sum(hits) / k, sum(hits) / len(wanted)
    f1 = 0.0 if not any(hits) else 2 * precision * recall / (precision + recall)
    gain = sum(1 / math.log2(2 + place) for place, hit in enumerate(hits) if hit)
    return [
        precision,
        recall,
        f1,
        gain / sum(1 / math.log2(2 + place) for place in range(min(k, len(wanted)))),
    ]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), k=st.integers(1, 6))
def test_metrics_are_their_definitions(data, k):
    users = data.draw(st.integers(1, 4))
    item = st.integers(1, 12)
    lists, sets = [], []
    for _ in range(users):
        ids = data.draw(st.lists(item, max_size=6, unique=True))
        lists.append(ids + [-1] * (6 - len(ids)))
        sets.append(data.draw(st.lists(item, min_size=1, max_size=8, unique=True)))
    found = list_metrics(np.array(lists), relevant(sets), [k])
    assert list(found.columns) == [f"P@{k}", f"R@{k}", f"F1@{k}", f"NDCG@{k}"]
    expected = [literal(ids, wanted, k) for ids, wanted in zip(lists, sets, strict=True)]
    np.testing.assert_allclose(found.to_numpy(), expected, atol=1e-12)


def test_f1_is_averaged_over_users_and_not_computed_from_averages():
    found = list_metrics(np.array([[1, 2], [3, 4]]), relevant([[1, 2], [9]]), [2])
    table = summarize_lists(found).set_index("metric")
    assert table["value"]["F1@2"] == 0.5
    assert table["low"]["F1@2"] <= 0.5 <= table["high"]["F1@2"] and (table["users"] == 2).all()


@pytest.mark.parametrize(
    ("found", "ks", "message"),
    [
        ([[1, 2]], [1], "1 lists for 2 users"),
        ([[1, 2], [3, 3]], [1], "the list of user 1 names an item twice"),
        ([[1, 2], [3, 4]], [3], r"must lie in 1\.\.2"),
        ([[1, 2], [3, 4]], [0], r"must lie in 1\.\.2"),
    ],
)
def test_lists_that_cannot_be_judged_are_refused(found, ks, message):
    with pytest.raises(ValueError, match=message):
        list_metrics(np.array(found), relevant([[1], [2]]), ks)


def test_a_user_needs_something_relevant():
    with pytest.raises(ValueError, match="user 1 has no relevant item"):
        Relevant(np.array([0, 1, 1]), np.array([5]))
    with pytest.raises(ValueError, match="offsets must rise from 0 to 2"):
        Relevant(np.array([0, 1]), np.array([5, 6]))


def test_the_protocol_shows_what_it_is():
    card = PAPER.card()
    assert list(card.columns) == ["setting", "value", "meaning"] and "test" in card["value"].tolist()
    assert "first half" in str(PAPER)
    for wrong in ({"min_items": 1}, {"test_users": 0}, {"history": 0}):
        with pytest.raises(ValueError, match="at least"):
            HeldOutUsers(**wrong)
