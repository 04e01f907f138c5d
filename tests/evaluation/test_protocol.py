"""Protocols as values, summaries with intervals, and comparisons of two models on the same users."""

import dataclasses
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.contracts import SequenceBatch
from workbench.data import load
from workbench.evaluation import (
    RAILS,
    STRICT,
    STRICT_VALIDATION,
    Protocol,
    bootstrap,
    compare,
    summarize,
)
from workbench.evaluation.bootstrap import intervals, resampled_means
from workbench.evaluation.protocol import EXCLUDED_TARGETS, effective_ranks


def table(
    ranks: list[int], excluded: list[bool] | None = None, users: list[int] | None = None
) -> pd.DataFrame:
    count = len(ranks)
    return pd.DataFrame(
        {
            "user_id": users if users is not None else list(range(count)),
            "target_id": [1] * count,
            "rank": np.array(ranks, dtype=np.int64),
            "candidates": 100,
            "target_excluded": excluded if excluded is not None else [False] * count,
            "target_score": 0.0,
            "history_length": 5,
        }
    ).astype({"target_excluded": bool})


def test_named_protocols_say_what_they_are():
    assert (STRICT.history_mask, STRICT.request_time, STRICT.model_choice, STRICT.part) == (
        "all",
        False,
        "validation",
        "test",
    )
    assert (RAILS.history_mask, RAILS.request_time, RAILS.model_choice, RAILS.corpus) == (
        "window",
        True,
        "test",
        "catalogue",
    )
    assert dataclasses.replace(STRICT_VALIDATION, name="strict", part="test") == STRICT


@pytest.mark.parametrize("protocol", [STRICT, STRICT_VALIDATION, RAILS], ids=lambda p: p.name)
def test_a_card_explains_every_setting(protocol):
    card = protocol.card()
    assert card["setting"].tolist() == [
        "split",
        "part",
        "history mask",
        "corpus",
        "request time",
        "model choice",
        "ties",
    ]
    assert card["meaning"].str.len().min() > 20
    assert protocol.name in str(protocol)
    assert f"history mask {protocol.history_mask}" in str(protocol)


def test_a_protocol_says_where_the_epoch_was_chosen_if_elsewhere():
    assert STRICT.chosen_on("validation") is STRICT and RAILS.chosen_on("test") is RAILS
    assert str(STRICT.chosen_on("test")).startswith("strict but for the choice of the epoch: leave-one-out")
    assert str(STRICT.chosen_on("test")).endswith("model chosen on test")
    assert "model chosen on validation" in str(RAILS.chosen_on("validation"))


def test_cards_differ_where_protocols_differ():
    ours, theirs = STRICT.card(), RAILS.card()
    differing = ours.loc[ours["value"] != theirs["value"], "setting"].tolist()
    assert differing == ["history mask", "request time", "model choice"]
    assert RAILS.card().set_index("setting").at["request time", "value"] == "visible"


@pytest.mark.parametrize(
    "setting", ["split", "part", "history_mask", "corpus", "model_choice", "request_time"]
)
def test_unknown_settings_are_refused(setting):
    # Past the annotations, as a configuration read from a file would come.
    protocol = object.__new__(Protocol)
    for field in dataclasses.fields(Protocol):
        object.__setattr__(protocol, field.name, getattr(STRICT, field.name))
    object.__setattr__(protocol, setting, "sometimes")
    with pytest.raises(
        ValueError, match=rf"{setting} of protocol 'strict' must be one of .*, not 'sometimes'"
    ):
        protocol.__post_init__()


def test_masks_leave_out_what_they_say():
    ids = torch.tensor([[4, 2, 0]])
    one = SequenceBatch(
        item_ids=ids,
        timestamps=ids,
        ratings=torch.zeros(1, 3),
        lengths=torch.tensor([2]),
        user_ids=torch.tensor([0]),
        target_ids=torch.tensor([1]),
        target_timestamps=torch.tensor([9]),
    )

    def whole_history(batch: SequenceBatch) -> torch.Tensor:
        return torch.tensor([[7, 8, 4, 2]])

    masks = {"none": None, "window": [[4, 2, 0]], "all": [[7, 8, 4, 2]]}
    for mask, expected in masks.items():
        left_out = Protocol("p", history_mask=mask).exclude(whole_history)(one)
        assert (left_out if left_out is None else left_out.tolist()) == expected


def test_an_excluded_target_counts_as_a_miss_even_past_the_corpus():
    ranks = table([1, 101], excluded=[False, True])
    assert effective_ranks(ranks).tolist() == [1.0, np.inf]
    summary = summarize(ranks, STRICT, ks=(1000,)).set_index("metric")["value"]
    assert summary["HR@1000"] == 0.5
    assert summary["MRR"] == 0.5
    assert summary["MRR (cut at 2500)"] == pytest.approx((1 + 1 / 2501) / 2)
    assert summary[EXCLUDED_TARGETS] == 0.5


def test_a_summary_carries_its_protocol_and_holds_its_values():
    generator = np.random.default_rng(0)
    summary = summarize(table(generator.integers(1, 101, 400).tolist()), RAILS, ks=(10, 50))
    assert summary["metric"].tolist() == [
        "HR@10",
        "HR@50",
        "NDCG@10",
        "NDCG@50",
        "MRR",
        "MRR (cut at 2500)",
        EXCLUDED_TARGETS,
    ]
    assert (summary["low"] <= summary["value"]).all()
    assert (summary["value"] <= summary["high"]).all()
    assert summary["users"].unique().tolist() == [400]
    assert summary["protocol"].unique().tolist() == [RAILS.name]
    assert Protocol(**summary.attrs["protocol"]) == RAILS


def test_a_summary_of_no_users_is_undefined():
    summary = summarize(table([]), STRICT, ks=(10,))
    assert summary[["value", "low", "high"]].isna().all(axis=None)
    assert summary["users"].tolist() == [0] * len(summary)


def test_summaries_depend_on_nothing_but_the_seed():
    ranks = table(np.random.default_rng(1).integers(1, 50, 200).tolist())
    pd.testing.assert_frame_equal(summarize(ranks, STRICT, seed=3), summarize(ranks, STRICT, seed=3))
    assert not summarize(ranks, STRICT, seed=3)["low"].equals(summarize(ranks, STRICT, seed=4)["low"])


def test_intervals_have_the_width_that_theory_gives():
    # The mean of U coin flips: the percentile interval approaches ± 1.96 · sqrt(p (1 − p) / U).
    low, high = intervals(np.array([[0.0], [1.0]]), np.array([3750, 1250]), resamples=4000, seed=5)
    half = 1.96 * np.sqrt(0.25 * 0.75 / 5000)
    np.testing.assert_allclose([low[0], high[0]], [0.25 - half, 0.25 + half], atol=0.08 * half)


def test_kinds_of_users_are_resampled_as_users_are():
    # Drawing users one by one, the plain way, must give the same distribution of means.
    values = np.array([1.0, 0.5, 0.2])
    users = np.repeat(values, [5, 3, 2])
    drawn = np.random.default_rng(6).choice(users, size=(40_000, 10)).mean(1)
    means = resampled_means(values[:, None], np.array([5, 3, 2]), resamples=40_000)[:, 0]
    levels = [0.025, 0.25, 0.5, 0.75, 0.975]
    np.testing.assert_allclose(np.quantile(means, levels), np.quantile(drawn, levels), atol=0.011)
    assert means.mean() == pytest.approx(users.mean(), abs=0.005)
    assert means.std() == pytest.approx(users.std() / np.sqrt(10), rel=0.02)


def test_columns_are_resampled_together():
    values = np.random.default_rng(2).random((50, 1))
    means = resampled_means(np.hstack([values, 1 - values]), np.ones(50, dtype=np.int64), resamples=20)
    np.testing.assert_allclose(means.sum(1), 1)
    assert means[:, 0].std() > 0


def test_chunks_of_resamples_are_resamples_of_all_users(monkeypatch):
    values, counts = np.ones((30, 1)), np.full(30, 7)
    monkeypatch.setattr(bootstrap, "CHUNK", 60)  # two resamples at a time
    means = resampled_means(values, counts, resamples=5)
    assert means.shape == (5, 1)
    np.testing.assert_allclose(means, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"resamples": 0}, "resamples must be at least 1"), ({"level": 1.0}, "level must lie between 0 and 1")],
)
def test_impossible_intervals_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        intervals(np.ones((3, 1)), np.ones(3, dtype=np.int64), **arguments)


def test_paired_differences_are_narrower_than_two_intervals():
    base = np.random.default_rng(3).integers(1, 200, 1000)
    first, second = table(base.tolist()), table(np.maximum(base - 1, 1).tolist())
    difference = compare(first, second, ks=(10,)).set_index("metric").loc["HR@10"]
    alone = summarize(first, STRICT, ks=(10,)).set_index("metric").loc["HR@10"]
    assert difference["difference"] == pytest.approx(difference["second"] - difference["first"])
    assert 0 <= difference["low"] < difference["difference"] < difference["high"]
    assert difference["high"] - difference["low"] < (alone["high"] - alone["low"]) / 2


def test_comparison_matches_users_and_not_rows():
    first = table([1, 5, 9], users=[0, 1, 2])
    result = compare(first, first.iloc[::-1].reset_index(drop=True), ks=(1, 5))
    assert (result["difference"] == 0).all()
    assert (result[["low", "high"]] == 0).all(axis=None)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (table([1, 2], users=[0, 7]), "2 and 2 users and share 1 users"),
        (table([1, 2, 3]), "2 and 3 users and share 2 users"),
        (table([1, 2]).assign(target_id=5), "share 0 users with the same target"),
        (table([1, 2], users=[0, 0]), "two rows of one user"),
    ],
)
def test_only_tables_of_the_same_users_are_compared(second, message):
    with pytest.raises(ValueError, match=message):
        compare(table([1, 2]), second)


def test_a_card_names_the_order_of_ties_of_the_data():
    sequences = load("embedded-small")
    assert STRICT.on(sequences) == STRICT and "ties" not in str(STRICT)
    protocol = RAILS.on(replace(sequences, ties="pandas"))
    assert protocol == replace(RAILS, ties="pandas")
    row = protocol.card().set_index("setting").loc["ties"]
    assert row["value"] == "pandas" and "not stable" in row["meaning"]
    assert str(protocol).endswith("ties as pandas sorts them")
