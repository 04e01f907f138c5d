"""The temporal split, against a few lines of plain Python."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.data import Batches, DataError, load, split_by_time
from workbench.data.build import build_own
from workbench.data.popularity import popularity, training_part
from workbench.data.prepare import Preparation
from workbench.data.sequences import Cuts, Sequences
from workbench.data.ties import shuffle_ties

PARTS = ("train", "train and validation", "validation", "test")


def made(times):
    """Sequences whose users have interactions at these times; every item is met once."""
    counts = [len(own) for own in times]
    total = sum(counts)
    return Sequences(
        "made",
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.arange(1, total + 1),
        np.array([time for own in times for time in sorted(own)], dtype=np.int64),
        np.full(total, np.nan, np.float32),
        pd.DataFrame({"item_id": np.arange(total), "title": "x"}),
        pd.DataFrame({"user_id": np.arange(len(times))}),
    )


def expected(sequences, cuts, user, part):
    """The items before the target and the target, or None."""
    rows = range(sequences.offsets[user], sequences.offsets[user + 1])
    times, ids = [sequences.timestamps[r] for r in rows], [int(sequences.item_ids[r]) for r in rows]
    if part in ("train", "train and validation"):
        end = cuts.validation if part == "train" else cuts.test
        kept = [i for t, i in zip(times, ids, strict=True) if t < end]
        return (kept[:-1], kept[-1]) if len(kept) >= 2 else None
    start, end = (cuts.validation, cuts.test) if part == "validation" else (cuts.test, np.inf)
    places = [place for place, time in enumerate(times) if start <= time < end]
    return (ids[: places[0]], ids[places[0]]) if places and places[0] > 0 else None


@given(
    st.lists(st.lists(st.integers(0, 20), max_size=8), min_size=1, max_size=8),
    st.integers(0, 21),
    st.integers(0, 21),
)
def test_targets_and_histories_are_those_of_the_periods(times, first, second):
    cuts = Cuts(min(first, second), max(first, second))
    sequences = replace(made(times), cuts=cuts)
    for part in PARTS:
        wanted = {u: found for u in range(len(times)) if (found := expected(sequences, cuts, u, part))}
        assert sequences.users_with(part).tolist() == list(wanted)
        users = np.array(list(wanted), dtype=np.int64)
        assert sequences.targets(users, part).tolist() == [target for _, target in wanted.values()]
        batches = [] if not wanted else list(Batches(sequences, part, 3, 100))
        rows = [row for batch in batches for row in batch.item_ids.tolist()]
        assert [[i for i in row if i] for row in rows] == [history for history, _ in wanted.values()]
        for history, row in zip(sequences.history(users, part) if len(users) else [], rows, strict=True):
            assert [i for i in history.tolist() if i] == [i for i in row if i]


@given(st.lists(st.lists(st.integers(0, 20), max_size=8), min_size=1, max_size=8), st.integers(0, 21))
def test_training_knows_nothing_from_the_first_cut_on(times, cut):
    sequences = replace(made(times), cuts=Cuts(cut, 22))
    assert np.array_equal(training_part(sequences), sequences.timestamps < cut)
    assert popularity(sequences).sum() == (sequences.timestamps < cut).sum()


def test_windows_that_lie_anywhere_end_before_the_cut():
    sequences = replace(made([range(30), range(10, 40)]), cuts=Cuts(20, 25))
    for epoch in range(20):
        for batch in Batches(sequences, "train", 2, 4, seed=0, epoch=epoch, window="anywhere"):
            assert batch.target_timestamps.max() < 20 and batch.lengths.eq(4).all()


def test_the_split_is_part_of_the_fingerprint_and_of_what_is_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    rows = [(f"u{u}", f"i{(u + n) % 7}", 1_600_000_000 + 100 * n + u) for u in range(9) for n in range(10)]
    path = tmp_path / "orders.csv"
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(path, index=False)
    plain = build_own("shop", path, None, Preparation()).sequences
    with pytest.raises(ValueError, match="other"):
        build_own("shop", path, None, Preparation(split="temporal", share=0.2))
    temporal = build_own("shop", path, None, Preparation(split="temporal", share=0.2), replace=True).sequences
    assert temporal.split == "temporal" and temporal.fingerprint() != plain.fingerprint()
    assert temporal.fingerprint() == split_by_time(plain, 0.2).fingerprint() == load("shop").fingerprint()
    assert load("shop").cuts == temporal.cuts
    assert (temporal.timestamps >= temporal.cuts.test).mean() == pytest.approx(0.2, abs=0.02)


def test_data_without_order_or_targets_are_refused():
    with pytest.raises(DataError, match="a temporal split needs the order"):
        split_by_time(replace(made([[1, 2]]), ordered=False))
    with pytest.raises(DataError, match="no user has a validation target"):
        split_by_time(made([[0] * 40, [1] * 40]), 0.1)
    for share in (0.0, 0.5):
        with pytest.raises(ValueError, match=r"more than 0 and less than \.5"):
            split_by_time(made([[1, 2]]), share)
    with pytest.raises(ValueError, match="must not begin after test"):
        Cuts(3, 2)


def test_ties_are_shuffled_by_one_rule(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    path = tmp_path / "orders.csv"
    rows = [(u, 100 * u + n, n // 4) for u in range(5) for n in range(12)]
    pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]).to_csv(path, index=False)
    plain = build_own("shop", path, None, Preparation()).sequences
    shuffled = build_own("mixed", path, None, Preparation(ties="shuffled")).sequences
    wanted = shuffle_ties(plain, np.random.default_rng(0))
    assert shuffled.ties == wanted.ties == load("mixed").ties == "shuffled"
    assert (
        np.array_equal(shuffled.item_ids, wanted.item_ids) and shuffled.fingerprint() != plain.fingerprint()
    )
