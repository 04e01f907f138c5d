"""A run that is killed at any time resumes and ends with the weights of one that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

WORKER = Path(__file__).parents[1] / "training_worker.py"
KINDS = ("hstu-mol", "bert4rec-dot", "gru4rec-paths")
MOMENTS = [  # four steps an epoch, four epochs
    *[("step", count) for count in (3, 10, 16)],
    *[("weights", count) for count in (1, 4, 9)],  # two files an epoch, and one at the end
    # A folder is made, its files are named, it gets its name, the one before it is removed; the best is copied.
    *[("file", count) for count in (3, 5, 9, 10, 12, 22, 24, 41, 43)],
    *[("milliseconds", count) for count in (150, 300)],
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[tuple[str, str | None, int], dict[str, Any]]:
    """Every run's job and how its two processes ended; a moment of None stands for the uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = [
        {"kind": kind, "moment": moment, "count": count, "folder": str(folder / f"{kind}-{moment}-{count}")}
        for kind in KINDS
        for moment, count in [(None, 0), *(MOMENTS if kind == KINDS[0] else MOMENTS[:3])]
    ]
    listed = folder / "jobs.json"
    listed.write_text(json.dumps(jobs))
    done = subprocess.run(
        [sys.executable, WORKER, "kills", listed],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout.splitlines()[-1])
    return {
        (j["kind"], j["moment"], j["count"]): j | e | {"log": done.stderr}
        for j, e in zip(jobs, ends, strict=True)
    }


def without_times(state: Path) -> dict[str, Any]:
    progress: dict[str, Any] = json.loads(state.read_text())
    for row in progress["history"]:
        del row["seconds"]
    return progress


@pytest.mark.parametrize(
    ("kind", "moment", "count"),
    [(KINDS[0], *moment) for moment in MOMENTS]
    + [(kind, *moment) for kind in KINDS[1:] for moment in MOMENTS[1:2]],
)
def test_a_killed_run_ends_like_an_uninterrupted_one(runs, kind, moment, count):
    run, reference = runs[kind, moment, count], runs[kind, None, 0]
    if moment == "milliseconds":
        assert run["first"] in (0, -14), run["log"]  # it may have been faster than its killer
    else:
        assert run["first"] == -9, run["log"]
    assert run["second"] == 0 == reference["second"], run["log"]
    folder, whole = Path(run["folder"]), Path(reference["folder"])
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if "tensorboard" not in path.parts}
    assert names == {
        str(path.relative_to(whole)) for path in whole.rglob("*") if "tensorboard" not in path.parts
    }
    assert not any(name.endswith(".partial") for name in names)
    last = Path("epoch-0004")
    for name in (
        "model.safetensors",
        last / "model.safetensors",
        last / "optimizer.safetensors",
        "config.json",
    ):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert without_times(folder / last / "state.json") == without_times(whole / last / "state.json")


@pytest.mark.parametrize(("moment", "count"), [("step", 10), ("file", 10), ("weights", 4)])
def test_the_board_shows_each_epoch_once(runs, moment, count):
    run = runs[KINDS[0], moment, count]
    board = EventAccumulator(str(Path(run["folder"]) / "tensorboard")).Reload()
    assert {"loss", "balance", "user norm", "seconds", "NDCG@10"} <= set(board.Tags()["scalars"])
    assert [event.step for event in board.Scalars("loss")] == [4, 8, 12, 16]
