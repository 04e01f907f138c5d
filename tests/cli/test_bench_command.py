"""`workbench bench search`, run as a user runs it."""

import shlex
from pathlib import Path

import pandas as pd
import pytest

from workbench.bench import plans
from workbench.bench import run as run_module
from workbench.bench.live import LiveBench
from workbench.bench.methods import SearcherSpec
from workbench.bench.roofline import Ceilings
from workbench.bench.workloads import Trained
from workbench.cli import main


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["bench", "search", *arguments])
    return int(end.value.code or 0)


def test_it_measures_stores_and_prints(tmp_path: Path, capsys) -> None:
    out, runs = tmp_path / "tables" / "x.csv", tmp_path / "runs"
    arguments = ("--size", "ml-1m", "--method", "reference implementation", "--batch-size", "2", "-k", "10", "--rounds", "1",
                 "--queries", "6", "--threads", "1", "--runs", str(runs), "--out", str(out))  # fmt: skip
    assert call(*arguments) == 0
    table = pd.read_csv(out)
    assert table["label"].tolist() == ["reference implementation", "brute force"]
    assert {"p50_ms", "speed_up", "recall", "of_roofline", "machine", "commit"} <= set(table.columns)
    assert table["recall"].tolist() == [1.0, 1.0]
    printed = capsys.readouterr().out
    assert "ml-1m, random weights, 2 queries per call, k = 10" in printed
    assert "GFLOP/s" in printed and str(out) in printed
    (folder,) = runs.iterdir()
    assert folder.name.startswith("custom-") and len(list(folder.rglob("*.parquet"))) == 6
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert call(*arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_chosen_searchers_are_measured_as_the_explorer_measures_them(
    checkpoint: str, workbench_root: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(run_module, "ceilings", lambda device: Ceilings(1e9, 1e9))
    points = tuple(map(SearcherSpec.read, ("average n2=8", "SparCode sparsity=0.5", "Deep Retrieval beam=2")))
    own = ("cycles-sasrec-sparcode", "cycles-sasrec-paths")
    plan = plans.chosen_points(
        Trained(checkpoint), points, batch_size=4, k=5, rounds=2, queries=12, seed=1, own=own
    )
    bench = LiveBench("cpu")
    for _ in bench.measure(plan):
        pass
    out = tmp_path / "view.csv"
    given = [
        *shlex.split(plans.command(plan))[3:],
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--figure",
        str(tmp_path / "view.html"),
    ]
    assert call(*given) == 0
    assert "median latency of a call" in (tmp_path / "view.html").read_text(encoding="utf-8")
    table = pd.read_csv(out)
    columns = ["label", "recall", "relative_hr", "hit_rate", "certified", "matches_brute_force", "num_scored"]
    pd.testing.assert_frame_equal(table[columns], bench.table[columns], check_dtype=False, rtol=1e-5)
    assert len(table) == 6 and "SparCode (sparsity=0.5)" in capsys.readouterr().out


def test_a_figure_is_drawn_for_each_k_and_refused_before_the_work(
    checkpoint: str, workbench_root: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(run_module, "ceilings", lambda device: Ceilings(1e9, 1e9))
    few = ("--checkpoint", checkpoint, "--preset", "trained", "--rounds", "1", "--queries", "8", "--method", "average",
           "-k", "3", "-k", "5", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "x.csv"))  # fmt: skip
    assert call(*few, "--figure", str(tmp_path / "x.jpg")) == 1
    assert "saved as .html, .pdf, .svg or .png, not as x.jpg" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert call(*few, "--figure", str(tmp_path / "view.html")) == 0
    assert len(list(tmp_path.glob("view-*-k-[35].html"))) == 2
    assert set(pd.read_csv(tmp_path / "x.csv")["items"]) == {
        plans.trained(checkpoint).workloads[0].num_items()
    }


def test_chosen_searchers_may_be_asked_in_several_ways(
    checkpoint: str, workbench_root: Path, monkeypatch
) -> None:
    seen: list[plans.Plan] = []

    def catches(plan: plans.Plan, *_: object, **__: object) -> None:
        seen.append(plan)
        raise OSError("enough")

    monkeypatch.setattr(run_module, "run", catches)
    call("--checkpoint", checkpoint, "--searcher", "average n2=8", "--items", "50", "--items", "60", "-k", "3", "--k", "5",
         "--batch", "2", "--batch-size", "4", "--rounds", "1")  # fmt: skip
    (plan,) = seen
    assert [w.num_items() for w in plan.workloads] == [50, 60]
    assert (plan.ks, plan.batch_sizes, plan.rounds) == ((3, 5), (2, 4), 1)
    assert [p.text for p in plan.points] == ["average n2=8"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--searcher", "magic"), "no searcher 'magic'; there are reference implementation"),
        (("--searcher", "average n3=5"), "average has no parameter 'n3'; it has n2"),
        (("--searcher", "average n2=five"), "n2 must be a number, not 'five'"),
        (("--searcher", "average n2=31"), "n2 is 31, but the corpus has 30 items"),
        (("--searcher", "SparCode"), "SparCode needs a checkpoint of its own"),
        (("--searcher", "average n2=5", "--preset", "quick"), "give --preset or --searcher"),
        (("--searcher", "average n2=5", "--method", "average"), "not both"),
        (
            ("--searcher", "SparCode", "--scorer", "cycles-sasrec-sparcode", "--items", "60"),
            "the catalogue alone",
        ),
        (("--scorer", "cycles-sasrec-sparcode"), "named with --searcher"),
        (("--searcher", "average n2=5", "-k", "31"), "k = 31 exceeds the 30 items"),
    ],
)
def test_a_mistake_in_a_searcher_is_one_clear_line(
    checkpoint: str, workbench_root: Path, capsys, arguments: tuple[str, ...], said: str
) -> None:
    given = ("--checkpoint", checkpoint, *arguments, *(() if "-k" in arguments else ("-k", "5")))
    assert call(*given) == 1
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--preset", "nothing"), "no preset 'nothing'"),
        (("--size", "huge"), "no published size 'huge'"),
        (("--size", "ml-1m", "--method", "magic"), "no method 'magic'"),
        (("--size", "ml-1m", "-k", "0"), "ks must be"),
        (("--checkpoint", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_one_clear_line(capsys, arguments: tuple[str, ...], said: str) -> None:
    assert call(*arguments) == 1
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
