"""Memory, roofline and growth against numbers worked out by hand."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.bench.growth import exponents, needed, per_item, readme_books, state_sizes
from workbench.bench.memory import measured
from workbench.bench.roofline import Ceilings, Shape, ceilings, roofline, shape
from workbench.bench.workloads import RandomWeights, build

CPU = torch.device("cpu")


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process can be reset on Linux alone")
def test_peak_memory_sees_what_was_freed_again():
    size = 64 * 2**20

    def call() -> torch.Tensor:
        held = torch.ones(size // 4)
        return (held + 1)[:10].clone()

    result, used = measured(call, CPU)
    assert result.tolist() == [2] * 10
    assert 1.9 * size < used.peak < 2.6 * size
    assert used.kept < size / 4


def test_memory_that_cannot_be_measured_is_not_a_number(monkeypatch):
    monkeypatch.setattr("workbench.bench.memory._reset_peak", lambda: False)
    result, used = measured(lambda: 5, CPU)
    assert result == 5 and np.isnan(used.peak) and np.isnan(used.kept)


def test_operations_of_a_pair_are_counted_as_stated():
    form = Shape(1000, 2, 3, 10, gate_pair=7, item_bytes=100.0)
    assert form.pair_operations == 2 * 6 * 10 + 4 * 6 * 7 + 4 * 7 + 12 * 6
    assert Shape(1, 1, 1, 10, gate_pair=0, item_bytes=1.0).pair_operations == 20  # a plain inner product


def test_the_shape_of_a_workload_is_read_from_it():
    form = shape(build(RandomWeights("ml-1m"), 2, 0, CPU))
    assert (form.items, form.query_groups, form.item_groups, form.width, form.gate_pair) == (
        3883,
        8,
        4,
        64,
        128,
    )
    assert form.item_bytes == 8 + 4 * (4 * 64 + 32)


def test_the_roofline_takes_the_lower_ceiling():
    form = Shape(1000, 2, 3, 10, gate_pair=0, item_bytes=100.0)
    shapes = pd.DataFrame([{"workload": "w", **form.__dict__, "pair_operations": 200}])
    table = pd.DataFrame(
        {
            "workload": "w",
            "scan": ["pairs", "components", "average", "unknown", "int8"],
            "batch_size": 4,
            "num_scored": [1000.0, 5.0, 5.0, 5.0, 5.0],
            "p50_ms": 10.0,
        }
    )
    found = roofline(table, shapes, Ceilings(operations=1e9, bytes=1e9))
    assert found["operations"].tolist()[:3] == [
        4 * 1000 * 200,
        4 * (1000 * 120 + 1000),
        4 * (1000 * 20 + 1000),
    ]
    assert found["bytes"].tolist()[:3] == [1000 * 100, 1000 * 120 + 2000, 1000 * 40 + 2000]
    assert found["roofline_ms"].tolist()[:3] == pytest.approx([0.8, 0.484, 0.084])
    assert found["of_roofline"].tolist()[0] == pytest.approx(0.08)
    assert found["operations"].isna().tolist() == [False, False, False, True, False]
    assert found["operations"].tolist()[4] == 4 * (1000 * 128 + 1000) and found["bytes"].tolist()[4] == 66000
    slow = roofline(table, shapes, Ceilings(operations=1e9, bytes=1e6))
    assert slow["roofline_ms"].tolist()[0] == pytest.approx(100)


def test_ceilings_are_measured():
    found = ceilings(CPU, repeats=1)
    assert found.operations > 1e8 and found.bytes > 1e7


def line(label: str, exponent: float, items: list[int], noise: float = 0.0) -> pd.DataFrame:
    signs = np.where(np.arange(len(items)) % 2, 1, -1)
    times = 3.0 * np.array(items, float) ** exponent * np.exp(noise * signs)
    return pd.DataFrame({"label": label, "batch_size": 8, "items": items, "p50_ms": times})


def test_exponents_are_recovered_with_an_interval_that_knows_the_noise():
    corpora = [10**p for p in range(3, 8)]
    table = pd.concat([line("linear", 1.0, corpora), line("root", 0.5, corpora, noise=0.1)])
    found = exponents(table).set_index("label")
    assert found.loc["linear", ["exponent", "low", "high", "coefficient"]].tolist() == pytest.approx(
        [1, 1, 1, 3]
    )
    root = found.loc["root"]
    assert root["low"] < 0.5 < root["high"] and root["high"] - root["low"] > 0.01
    assert found["points"].tolist() == [5, 5]


def test_the_interval_is_the_textbook_one():
    x, y = np.array([0.0, 1, 2, 3]), np.array([0.1, 0.9, 2.2, 2.8])
    table = pd.DataFrame({"label": "a", "batch_size": 1, "items": np.exp(x), "p50_ms": np.exp(y)})
    found = exponents(table).iloc[0]
    # slope .94; residual sum of squares .082; s = sqrt(.041); spread 5; t(2) = 4.303
    assert found["exponent"] == pytest.approx(0.94)
    assert found["high"] - found["exponent"] == pytest.approx(4.303 * np.sqrt(0.082 / 2 / 5), rel=1e-3)


def test_small_corpora_can_be_left_out_and_too_few_points_give_no_line():
    table = pd.concat([line("a", 1.0, [10, 100, 1000]), line("b", 1.0, [10])])
    assert exponents(table)["label"].tolist() == ["a"]
    assert exponents(table, at_least=100)["points"].tolist() == [2]
    assert np.isnan(exponents(table, at_least=100)["low"][0])
    assert exponents(table, at_least=1000).empty


def test_needs_are_a_fixed_part_and_one_that_grows():
    table = line("a", 1.0, [10, 1000]).assign(item_bytes=50.0, index_mb=2.0)
    table["p50_ms"] = 3.0 + 2.0 * table["items"]
    row = needed(table, 10**9).iloc[0]
    assert (row["largest"], row["state_gb"], row["index_gb"]) == (1000, 50.0, pytest.approx(2000))
    assert (row["fixed_ms"], row["ns_per_item"]) == (pytest.approx(3), pytest.approx(2e6 / 8))
    assert row["seconds_per_query"] == pytest.approx(2e9 / 1e3 / 8)


def test_a_line_through_nothing_but_growth_has_no_fixed_part():
    table = line("a", 1.0, [10, 100, 1000]).assign(item_bytes=50.0, index_mb=2.0, p50_ms=[1.0, 11.0, 110.0])
    row = needed(table, 10**9).iloc[0]
    assert row["fixed_ms"] == 0 and row["ns_per_item"] == pytest.approx(1e6 * 0.1069 / 8, rel=0.03)


@pytest.mark.parametrize("times", [[5.0, 5.0, 4.9], [5.0, 5.1, 6.0]])
def test_where_fixed_costs_rule_an_item_has_no_price(times):
    table = line("a", 1.0, [10, 100, 1000]).assign(item_bytes=50.0, index_mb=2.0, p50_ms=times)
    row = needed(table, 10**9).iloc[0]
    assert np.isnan(row["ns_per_item"]) and np.isnan(row["seconds_per_query"])
    assert row["fixed_ms"] == pytest.approx(5, rel=0.05)


def test_the_bytes_of_an_item_are_split_into_parts():
    table = line("a", 1.0, [10, 1000]).assign(workload=["small", "large"], index_mb=2.0)
    shapes = pd.DataFrame(
        {
            "workload": ["small", "large"],
            "items": [10, 1000],
            "item_groups": 4,
            "width": 8,
            "item_bytes": 200.0,
        }
    )
    found = per_item(table, shapes).set_index("part")["bytes"]
    assert found.to_dict() == {"components": 128, "gate and id": 72, "index": 2000}


def test_fewer_bits_shrink_the_components_alone():
    shapes = pd.DataFrame({"item_groups": [4], "width": [8], "item_bytes": [200.0]})
    found = state_sizes(shapes, 10**9).set_index("components stored as")
    assert found["total_gb"].to_dict() == {"fp32": 200, "bf16": 136, "int8": 104}
    assert (found["gate_and_id_gb"] == 72).all()


def test_scored_items_have_an_exponent_of_their_own_and_missing_ones_none():
    corpora = [1_000, 10_000, 100_000]
    walk = line("walk", 0.2, corpora).assign(num_scored=[30.0, 60.0, 120.0], recall=0.99)
    plain = line("reference", 1.0, corpora).assign(num_scored=np.nan, recall=np.nan)
    table = pd.concat([plain, walk]).assign(speed_up=[1.0, 1.0, 1.0, 2.0, 20.0, 200.0], memory_mb=3.0)
    shown = readme_books(table).set_index("method")
    assert shown.loc["walk", ["speed-up", "items scored"]].tolist() == ["200", "0.12 %"]
    assert shown.loc["walk", ["exponent of ms", "exponent of scored"]].tolist() == ["0.20", "0.30"]
    assert shown.loc["reference", ["recall", "items scored", "exponent of scored"]].tolist() == ["", "", ""]
    level = line("list", -0.001, corpora).assign(num_scored=9.0, recall=0.9, speed_up=1.0, memory_mb=0.0)
    assert readme_books(level)["exponent of ms"].tolist() == ["0.00"]
