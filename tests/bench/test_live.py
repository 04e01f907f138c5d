"""Measuring here and now: step by step, stopped at any of them, and the same quality as a stored run."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from workbench.bench import run as run_module
from workbench.bench.live import LiveBench
from workbench.bench.methods import SearcherSpec
from workbench.bench.plans import Plan, chosen_points, command
from workbench.bench.roofline import Ceilings
from workbench.bench.tables import quality, summary
from workbench.bench.workloads import Inflated, Trained

POINTS = tuple(map(SearcherSpec.read, ("average n2=8", "per component n1=4", "h-indexer width=4,keep=8")))
QUALITY = [
    "label",
    "recall",
    "relative_hr",
    "hit_rate",
    "certified",
    "matches_brute_force",
    "num_scored",
    "queries",
]


def small(checkpoint: str, points: tuple[SearcherSpec, ...] = POINTS, **more) -> Plan:
    return chosen_points(Trained(checkpoint), points, batch_size=4, k=5, rounds=2, queries=12, seed=1, **more)


def measured(bench: LiveBench, plan: Plan) -> pd.DataFrame:
    for _ in bench.measure(plan):
        pass
    return bench.table[bench.table["run"] == bench.runs]


def test_steps_show_what_comes_and_the_table_grows_with_each_round(checkpoint: str) -> None:
    bench = LiveBench("cpu")
    plan = small(checkpoint)
    assert not bench.built(plan) and not bench.ready(plan, POINTS[0])
    steps, rows = [], []
    for step in bench.measure(plan):
        steps.append(step)
        if step.fresh:
            rows.append(bench.table["calls"].tolist())
    assert steps[0].text == "building the corpus: cycles-sasrec-mol"
    assert "building the index of h-indexer (width=4, keep=8)" in [s.text for s in steps]
    shares = [s.share for s in steps]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert rows == [[2] * 4, [4] * 4]
    assert bench.table["label"].tolist()[0] == "brute force"
    assert bench.built(plan) and all(bench.ready(plan, p) for p in POINTS)
    again = [s.text for s in bench.measure(plan)]
    assert not [text for text in again if "building" in text]


def test_a_stopped_measurement_keeps_its_whole_rounds(checkpoint: str) -> None:
    bench = LiveBench("cpu")
    for step in bench.measure(small(checkpoint)):
        if step.fresh:
            break
    assert (bench.table["calls"] == 2).all() and len(bench.table) == 4
    bench = LiveBench("cpu")
    for step in bench.measure(small(checkpoint)):
        if step.text.startswith("round 1"):
            break
    assert bench.table.empty


def test_measured_again_a_row_takes_the_place_of_the_old_one(checkpoint: str) -> None:
    bench = LiveBench("cpu")
    measured(bench, small(checkpoint))
    measured(bench, small(checkpoint, POINTS[:1]))
    runs = bench.table.set_index("label")["run"].to_dict()
    assert runs == {
        "per component (n1=4)": 1,
        "h-indexer (width=4, keep=8)": 1,
        "brute force": 2,
        "average (n2=8)": 2,
    }
    measured(bench, replace(small(checkpoint), ks=(3,)))
    assert len(bench.table) == 8 and bench.runs == 3


def test_quality_is_that_of_a_stored_run(checkpoint: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run_module, "ceilings", lambda device: Ceilings(1e9, 1e9))
    plan = small(checkpoint)
    live = measured(LiveBench("cpu"), plan)
    stored = summary(run_module.run(plan, tmp_path, device="cpu", progress=False))
    pd.testing.assert_frame_equal(live[QUALITY].reset_index(drop=True), stored[QUALITY])
    assert (live["false_certificates"] == 0).all()


def test_own_scores_are_measured_against_their_own_brute_force(checkpoint: str, root: Path) -> None:
    points = tuple(
        map(SearcherSpec.read, ("SparCode sparsity=0", "SparCode sparsity=0.9", "Deep Retrieval beam=16"))
    )
    own = ("cycles-sasrec-sparcode", "cycles-sasrec-paths")
    table = measured(LiveBench("cpu"), small(checkpoint, points, own=own)).set_index("label")
    assert table["recall"][["brute force, SparCode", "brute force, Deep Retrieval"]].tolist() == [1, 1]
    assert (
        table["recall"]["Deep Retrieval (beam=16)"] == 1
        and table["certified"]["Deep Retrieval (beam=16)"] == 1
    )
    assert table["recall"]["SparCode (sparsity=0.9)"] < table["recall"]["SparCode (sparsity=0.0)"]
    assert table["certified"]["SparCode (sparsity=0.0)"] == 0
    assert (table["false_certificates"] == 0).all()
    # Label hits are everybody's over those of the first brute force.
    hits = table["hit_rate"] / table["hit_rate"]["brute force"]
    pd.testing.assert_series_equal(table["relative_hr"], hits, check_names=False)


def test_references_are_distinguished() -> None:
    rows = [("brute force", [1, 2]), ("brute force, X", [3, 4]), ("X", [3, 1])]
    answers = pd.DataFrame(
        [
            {"workload": "w", "label": label, "k": 2, "query": 0, "target": 3, "ids": ids, "scores": [9.0, 1.0 + i],
             "exact": False, "gap": 0.0, "num_scored": 2}
            for i, (label, ids) in enumerate(rows)
        ]
    )  # fmt: skip
    table = quality(answers, {"X": "brute force, X", "brute force, X": "brute force, X"}).set_index("label")
    assert table["recall"].to_dict() == {"brute force": 1.0, "brute force, X": 1.0, "X": 0.5}
    assert table["hit_rate"].to_dict() == {"brute force": 0.0, "brute force, X": 1.0, "X": 1.0}


def test_one_workload_batch_size_and_k_at_a_time(checkpoint: str, plan: Plan) -> None:
    with pytest.raises(ValueError, match="at a time"):
        next(LiveBench("cpu").measure(plan))
    with pytest.raises(ValueError, match="the catalogue alone"):
        chosen_points(
            Inflated(checkpoint, 60), (SearcherSpec("SparCode"),), own=("cycles-sasrec-sparcode",), k=5
        )
    with pytest.raises(ValueError, match="not both"):
        replace(small(checkpoint), methods=("average",))


def test_a_command_names_a_stored_checkpoint_and_shows_what_it_cannot_write(
    checkpoint: str, plan: Plan
) -> None:
    line = command(small(checkpoint))
    assert line == (
        "workbench bench search --checkpoint cycles-sasrec-mol --batch 4 --k 5 --rounds 2 --queries 12 --seed 1"
        " --searcher 'average n2=8' --searcher 'per component n1=4' --searcher 'h-indexer width=4,keep=8'"
    )
    assert "--items 60" in command(chosen_points(Inflated(checkpoint, 60), POINTS, k=5))
    with pytest.raises(ValueError, match="no such command"):
        command(plan)
    with pytest.raises(ValueError, match="no such command"):
        command(replace(small(checkpoint), warmup=7))


def test_a_plan_without_points_is_described_as_before(plan: Plan) -> None:
    assert not {"points", "own"} & set(plan.to_dict())
