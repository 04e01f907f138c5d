"""The tour's small experiments, against what can be counted by hand, and at their ends, where they must be exact."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.bench.workloads import Trained, Workload, build
from workbench.data import Sequences, load
from workbench.retriever import Retriever
from workbench.studies import tour_experiments

CPU = torch.device("cpu")


@pytest.fixture
def workload(checkpoint: str) -> Workload:
    return build(Trained(checkpoint), 8, 0, CPU)


@pytest.fixture
def sequences(root: Path) -> Sequences:
    return load("cycles")


def curve(table: pd.DataFrame, name: str) -> pd.Series:
    return table[table["curve"] == name].set_index("x")["y"]


def test_the_same_list_for_everybody_is_counted_by_hand() -> None:
    # Training items: 1, 1 | 1 | 2, of users 0, 1, 2; tests: 3 | 2 | 1, the last of whom met it before.
    items = [1, 1, 2, 3, 1, 3, 2, 2, 1, 1]
    sequences = Sequences(
        name="few",
        offsets=np.array([0, 4, 7, 10]),
        item_ids=np.array(items),
        timestamps=np.arange(10),
        ratings=np.full(10, np.nan, dtype=np.float32),
        items=pd.DataFrame({"item_id": [1, 2, 3], "title": ["a", "b", "c"]}),
        users=pd.DataFrame({"user_id": [1, 2, 3]}),
    )
    table = tour_experiments.popular_first(sequences)
    assert curve(table, "of all interactions").tolist() == [0.75, 1.0, 1.0]
    assert curve(table, "of the users' next items").tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3])


def test_a_target_beats_so_many_draws() -> None:
    ranks = pd.DataFrame(
        {"rank": [1, 6, 11, 1], "candidates": [11] * 4, "target_excluded": [False, False, False, True]}
    )
    beats = curve(tour_experiments.against_negatives({"m": ranks}), "m")
    assert list(beats.index) == [1, 2, 3, 5, 7, 10, 11]
    assert beats.loc[1] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert beats.loc[3] == pytest.approx((1 + 0.125) / 4)


def test_first_stages_of_everything_find_and_prove_everything(workload: Workload) -> None:
    table = tour_experiments.first_stages(workload, 3)
    assert (table.groupby("curve")["y"].last() == 1).all()
    for _, rows in table.groupby("curve"):
        assert rows["y"].is_monotonic_increasing
    assert (curve(table, "proved by the lists") <= curve(table, "lists per component")).all()
    with pytest.raises(ValueError, match="k must lie in 1 to"):
        tour_experiments.first_stages(workload, 30)


def test_as_many_codewords_as_users_lose_nothing(checkpoint: str, sequences: Sequences) -> None:
    table = tour_experiments.rounded_queries(Retriever.load(Path(checkpoint)), sequences)
    rounded, whole = curve(table, "query rounded to a codeword"), curve(table, "query as it is")
    assert list(rounded.index) == [1, 2, 4, 8, 16, 32, 40]
    assert rounded.iloc[-1] == whole.iloc[-1] and whole.nunique() == 1


def test_walking_to_every_group_finds_everything(workload: Workload) -> None:
    table = tour_experiments.walked_groups(workload, k=5)
    found, scored = curve(table, "of the best 5 found"), curve(table, "of the catalogue scored")
    assert found.iloc[-1] == scored.iloc[-1] == 1
    assert found.is_monotonic_increasing and scored.is_monotonic_increasing
    assert 0 < scored.iloc[0] < 1


def test_what_is_kept_grows_with_items_and_shrinks_with_bits(workload: Workload) -> None:
    table = tour_experiments.kept(workload, largest=10_000)
    per_item = workload.items.nbytes() / len(workload.items)
    assert curve(table, "fp32").loc[10_000] == pytest.approx(per_item * 10_000 / 1e9)
    assert (curve(table, "int8") < curve(table, "bf16")).all()
    assert (curve(table, "bf16") < curve(table, "fp32")).all()


@pytest.mark.parametrize(
    "draw", [lambda w: tour_experiments.walked_groups(w), lambda w: tour_experiments.first_stages(w, 3)]
)
def test_a_draw_is_the_same_twice(workload: Workload, draw: Callable[[Workload], pd.DataFrame]) -> None:
    pd.testing.assert_frame_equal(draw(workload), draw(workload))


def test_columns_become_curves() -> None:
    table = pd.DataFrame({"beam": [4, 1], "recall": [0.8, 0.2], "hits": [0.5, 0.25]})
    curves = tour_experiments.curves_of(
        table, "beam", {"recall": "found", "hits": "hit"}, {"recall": 1, "hits": 0.5}
    )
    assert curve(curves, "found").to_dict() == {1: 0.2, 4: 0.8}
    assert curve(curves, "hit").to_dict() == {1: 0.5, 4: 1.0}
