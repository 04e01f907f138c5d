"""Raw times and what is derived from them."""

import pandas as pd
import pytest
import torch

from workbench.evaluation import measure, percentiles

CPU = torch.device("cpu")


def test_every_timed_call_is_a_row_and_warm_up_is_not():
    calls = []
    times = measure(lambda: calls.append(None), CPU, warmup=2, repeats=5)
    assert len(calls) == 7
    assert times["repeat"].tolist() == [0, 1, 2, 3, 4]
    assert (times["seconds"] > 0).all()


def test_the_first_timed_call_follows_the_warm_up():
    log: list[int] = []
    measure(lambda: log.append(len(log)), CPU, warmup=0, repeats=1)
    assert log == [0]


@pytest.mark.parametrize(("warmup", "repeats"), [(0, 0), (-1, 3)])
def test_impossible_counts_are_refused(warmup, repeats):
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        measure(lambda: None, CPU, warmup, repeats)


def test_percentiles_of_one_group():
    times = pd.DataFrame({"seconds": [i / 1000 for i in range(1, 102)]})
    row = percentiles(times, queries=4).iloc[0]
    assert row["calls"] == 101
    assert row[["p50_ms", "p95_ms", "p99_ms"]].tolist() == pytest.approx([51, 96, 100])
    assert row["qps"] == pytest.approx(4 * 101 / times["seconds"].sum())


def test_groups_keep_their_names_and_order():
    times = pd.DataFrame({"searcher": ["b", "b", "a"], "batch": [1, 1, 8], "seconds": [1.0, 3.0, 2.0]})
    rows = percentiles(times, queries=1, by=["searcher", "batch"])
    assert rows["searcher"].tolist() == ["b", "a"]
    assert rows["batch"].tolist() == [1, 8]
    assert rows["p50_ms"].tolist() == [2000, 2000]
    assert percentiles(times, queries=1, by=["searcher"])["calls"].tolist() == [2, 1]


@pytest.mark.parametrize(
    ("times", "queries", "message"),
    [([], 1, "no times to summarize"), ([1.0], 0, "queries must be at least 1")],
)
def test_nothing_to_summarize_is_an_error(times, queries, message):
    with pytest.raises(ValueError, match=message):
        percentiles(pd.DataFrame({"seconds": pd.Series(times, dtype=float)}), queries)
