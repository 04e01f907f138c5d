"""Exact ranks of targets: their definition, the searcher they must agree with, and the table they are kept in."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.contracts import SequenceBatch
from workbench.evaluation.ranks import COLUMNS, rank_table, target_ranks
from workbench.search import BruteForce
from workbench.similarities.dot import DotConfig, DotProduct


def dot() -> DotProduct:
    return DotProduct(DotConfig(normalize=False, temperature=1.0)).eval()


def queries_of(vectors: torch.Tensor):
    return dot().queries(vectors, torch.arange(len(vectors)))


LINE = dot().items(torch.tensor([[1.0], [4.0], [2.0], [3.0], [2.0]]), torch.tensor([10, 40, 20, 30, 21]))


def test_ranks_count_better_items_and_equal_ones_before():
    found = target_ranks(dot(), queries_of(torch.ones(5, 1)), LINE, torch.tensor([10, 40, 20, 30, 21]))
    assert found.ranks.tolist() == [5, 1, 3, 2, 4]
    assert found.scores.tolist() == [1.0, 4.0, 2.0, 3.0, 2.0]
    assert found.candidates.tolist() == [5] * 5
    assert not found.excluded.any()


def test_excluded_items_are_no_competitors():
    exclude = torch.tensor([[40, 20, 99, 0], [0, 0, 0, 0]])
    found = target_ranks(dot(), queries_of(torch.ones(2, 1)), LINE, torch.tensor([21, 21]), exclude)
    assert found.ranks.tolist() == [2, 4]
    assert found.candidates.tolist() == [3, 5]


def test_an_excluded_target_has_no_rank():
    found = target_ranks(
        dot(), queries_of(torch.ones(2, 1)), LINE, torch.tensor([40, 40]), torch.tensor([[40], [10]])
    )
    assert found.ranks.tolist() == [6, 1]
    assert found.excluded.tolist() == [True, False]
    assert found.scores.tolist() == [4.0, 4.0]


def test_a_constant_model_ranks_by_row_and_not_by_luck():
    found = target_ranks(dot(), queries_of(torch.zeros(3, 1)), LINE, torch.tensor([10, 20, 21]))
    assert found.ranks.tolist() == [1, 3, 5]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), b=st.integers(1, 6), n=st.integers(1, 90), budget=st.sampled_from([1, 4000, 2**28]))
def test_ranks_are_places_in_the_searchers_list(data, b, n, budget):
    small = st.integers(-2, 2)
    vectors = torch.tensor(data.draw(st.lists(small, min_size=n, max_size=n)), dtype=torch.float32)[:, None]
    ids = torch.randperm(2 * n, generator=torch.Generator().manual_seed(n))[:n] + 1
    targets = ids[torch.tensor(data.draw(st.lists(st.integers(0, n - 1), min_size=b, max_size=b)))]
    exclude = torch.tensor(
        data.draw(st.lists(st.sampled_from([0, *ids.tolist()]), min_size=3 * b, max_size=3 * b))
    )
    exclude = exclude.reshape(b, 3)
    queries = queries_of(
        torch.tensor(data.draw(st.lists(small, min_size=b, max_size=b)), dtype=torch.float32)[:, None]
    )
    items = dot().items(vectors, ids)
    found = target_ranks(dot(), queries, items, targets, exclude, memory_budget=budget)
    ranked = BruteForce(dot(), items).search(queries, n, exclude)
    for i in range(b):
        place = (ranked.ids[i] == targets[i]).nonzero().flatten().tolist()
        assert found.excluded[i] == (not place)
        assert found.ranks[i] == (place[0] + 1 if place else n + 1)
        assert found.candidates[i] == (ranked.ids[i] != -1).sum()


def test_targets_outside_the_corpus_are_named():
    with pytest.raises(ValueError, match=r"targets \[7, 77\] are not among the 5 items"):
        target_ranks(dot(), queries_of(torch.ones(3, 1)), LINE, torch.tensor([77, 10, 7]))


@pytest.mark.parametrize(
    ("targets", "exclude", "message"),
    [
        (torch.tensor([10]), None, "1 targets for 2 queries"),
        (torch.tensor([10, 10]), torch.zeros(3, 1, dtype=torch.int64), "exclude has 3 rows for 2 queries"),
    ],
)
def test_every_query_needs_its_target_and_history(targets, exclude, message):
    with pytest.raises(ValueError, match=message):
        target_ranks(dot(), queries_of(torch.ones(2, 1)), LINE, targets, exclude)


def test_nan_scores_name_query_and_item():
    items = dot().items(torch.tensor([[1.0], [float("nan")]]), torch.tensor([5, 6]))
    with pytest.raises(ValueError, match="query 0 and item 6 is NaN"):
        target_ranks(dot(), queries_of(torch.ones(2, 1)), items, torch.tensor([5, 5]))


def test_dropout_left_on_is_an_error():
    with pytest.raises(ValueError, match="training mode"):
        target_ranks(dot().train(), queries_of(torch.ones(1, 1)), LINE, torch.tensor([10]))


def batch(users: list[int], targets: list[int], histories: list[list[int]]) -> SequenceBatch:
    width = max(map(len, histories))
    ids = torch.tensor([h + [0] * (width - len(h)) for h in histories])
    return SequenceBatch(
        item_ids=ids,
        timestamps=torch.zeros_like(ids),
        ratings=torch.zeros(ids.shape),
        lengths=torch.tensor([len(h) for h in histories]),
        user_ids=torch.tensor(users),
        target_ids=torch.tensor(targets),
        target_timestamps=torch.zeros(len(users), dtype=torch.int64),
    )


def encode(one: SequenceBatch):
    return queries_of(torch.ones(len(one), 1, requires_grad=True))


def test_the_table_has_one_row_per_user_in_order():
    batches = [batch([3, 1], [40, 21], [[10, 20], [20]]), batch([2], [10], [[10, 30, 40]])]
    table = rank_table(batches, encode, dot(), LINE, exclude=lambda one: one.item_ids)
    assert table.dtypes.astype(str).to_dict() == COLUMNS
    assert table.to_dict("list") == {
        "user_id": [3, 1, 2],
        "target_id": [40, 21, 10],
        "rank": [1, 3, 6],
        "candidates": [3, 4, 2],
        "target_excluded": [False, False, True],
        "target_score": [4.0, 2.0, 1.0],
        "history_length": [2, 1, 3],
    }


def test_without_a_mask_every_item_competes():
    table = rank_table([batch([1], [21], [[20, 40]])], encode, dot(), LINE, exclude=lambda one: None)
    assert table["rank"].tolist() == [4]


def test_no_batches_give_an_empty_table_of_the_same_columns():
    table = rank_table([], encode, dot(), LINE, exclude=lambda one: None)
    assert table.empty
    assert table.dtypes.astype(str).to_dict() == COLUMNS


def test_batches_do_not_change_ranks():
    rows = [([i], [int(LINE.ids[i])], [[10]]) for i in range(5)]
    one_by_one = rank_table([batch(*row) for row in rows], encode, dot(), LINE, exclude=lambda one: None)
    whole = batch(list(range(5)), LINE.ids.tolist(), [[10]] * 5)
    together = rank_table([whole], encode, dot(), LINE, exclude=lambda one: None)
    pd.testing.assert_frame_equal(one_by_one, together)


def test_the_bar_is_drawn_on_terminals_and_only_when_asked_for(capsys, monkeypatch):
    rank_table([batch([1], [21], [[20]])], encode, dot(), LINE, lambda one: None, progress=True)
    assert capsys.readouterr().err == ""  # no terminal
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    rank_table([batch([1], [21], [[20]])], encode, dot(), LINE, lambda one: None, progress=True)
    assert "ranking targets" in capsys.readouterr().err
    rank_table([batch([1], [21], [[20]])], encode, dot(), LINE, lambda one: None)
    assert capsys.readouterr().err == ""


@pytest.mark.movielens
def test_popularity_on_real_data_is_ranked_as_counting_says(movielens_1m: Path):
    columns = ["user", "item", "rating", "time"]
    ratings = pd.read_csv(
        movielens_1m / "ratings.dat", sep=":", usecols=[0, 2, 4, 6], names=range(7), header=None
    )
    ratings = ratings.set_axis(columns, axis=1).sort_values(["user", "time"], kind="stable")
    counts = ratings["item"].value_counts()
    items = dot().items(
        torch.tensor(counts.to_numpy(), dtype=torch.float32)[:, None], torch.tensor(counts.index)
    )
    last = ratings.groupby("user")["item"].last().iloc[:500]
    found = target_ranks(
        dot(), queries_of(torch.ones(500, 1)), items, torch.tensor(last.to_numpy()), memory_budget=2**20
    )
    expected = counts.rank(method="first", ascending=False)[last.to_numpy()]
    np.testing.assert_array_equal(found.ranks.numpy(), expected.to_numpy())
