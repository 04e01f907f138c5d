"""Runs are stored whole, go on where they were stopped, and measure nothing twice."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from holder import held

from workbench.bench import run as module
from workbench.bench.entries import BenchmarkEntry, chosen
from workbench.bench.plans import Plan, named
from workbench.bench.roofline import Ceilings
from workbench.bench.run import Raw, run
from workbench.bench.workloads import Inflated, RandomWeights, Trained
from workbench.retriever import Retriever

pytestmark = pytest.mark.usefixtures("ceilings_at_once")
KEYS = ["workload", "label", "batch_size", "k", "round", "call"]


@pytest.fixture
def ceilings_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring the machine takes a second, and is tested elsewhere."""
    monkeypatch.setattr(module, "ceilings", lambda device: Ceilings(1e9, 1e9))


def quiet(plan: Plan, folder: Path, **more: bool) -> Raw:
    return run(plan, folder, device="cpu", progress=False, **more)


def test_every_call_and_every_answer_is_a_row(plan: Plan, tmp_path: Path) -> None:
    raw = quiet(plan, tmp_path)
    # 2 workloads · 2 batch sizes · 2 entries · 2 rounds · 2 calls
    assert len(raw.calls) == 32 and not raw.calls[KEYS].duplicated().any()
    assert (raw.calls["seconds"] > 0).all() and (raw.calls["fraction"] == 1).all()
    assert len(raw.answers) == 16 * 1 + 16 * 4
    assert raw.answers["ids"].map(len).eq(5).all() and raw.answers["scores"].map(len).eq(5).all()
    assert raw.answers["target"].between(1, 30).all()
    assert raw.memory["peak_bytes"].ge(0).all() and len(raw.memory) == 8
    assert raw.shapes["items"].tolist() == [30, 60]
    assert raw.metadata["finished"] and raw.metadata["threads"] == 1 and len(raw.metadata["commits"]) == 1
    assert raw.metadata["plan"]["workloads"][0]["entries"] == ["reference implementation", "brute force"]


def test_turns_move_on_from_round_to_round(plan: Plan, tmp_path: Path) -> None:
    calls = quiet(replace(plan, batch_sizes=(1,)), tmp_path).calls
    first = calls[calls["turn"] == 0].groupby("round")["label"].unique().map(list).to_dict()
    assert first == {0: ["reference implementation"], 1: ["brute force"]}


def test_contenders_are_asked_the_same_queries(plan: Plan, tmp_path: Path) -> None:
    answers = quiet(plan, tmp_path).answers
    asked = answers.groupby(["workload", "batch_size", "label"])["query"].apply(list)
    assert (
        asked.xs("reference implementation", level="label") == asked.xs("brute force", level="label")
    ).all()


def test_a_stopped_run_goes_on_where_it_was(plan: Plan, tmp_path: Path, monkeypatch) -> None:
    real, written = module._write, []

    def stops(frame: pd.DataFrame, path: Path) -> None:
        if path.name == "round-001.calls.parquet" and path.parent.name.startswith("b4-"):
            raise KeyboardInterrupt
        written.append(path)
        real(frame, path)

    monkeypatch.setattr(module, "_write", stops)
    with pytest.raises(KeyboardInterrupt):
        quiet(plan, tmp_path)
    (folder,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match="was stopped"):
        Raw.load(folder)
    kept = {p: p.read_bytes() for p in written if p.name.endswith("calls.parquet")}
    assert len(kept) == 3
    monkeypatch.setattr(module, "_write", real)
    raw = quiet(plan, tmp_path)
    assert {p: p.read_bytes() for p in kept} == kept
    assert len(raw.calls) == 32 and not raw.calls[KEYS].duplicated().any()
    assert len(raw.entries) == 2 and len(raw.shapes) == 2
    assert not list(folder.rglob("*.partial"))


def test_a_finished_run_is_read_and_a_fresh_one_measures_again(plan: Plan, tmp_path: Path) -> None:
    first = quiet(plan, tmp_path)
    pd.testing.assert_frame_equal(quiet(plan, tmp_path).calls, first.calls)
    assert not quiet(plan, tmp_path, fresh=True).calls["seconds"].equals(first.calls["seconds"])
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("lost", ["shape", "entries", "builds"])
def test_a_run_stopped_after_its_last_round_is_finished(
    plan: Plan, tmp_path: Path, monkeypatch, lost
) -> None:
    small = replace(plan, workloads=plan.workloads[:1], batch_sizes=(1,))
    real = module._write

    def stops(frame: pd.DataFrame, path: Path) -> None:
        if path.name == f"{lost}.parquet":
            raise KeyboardInterrupt
        real(frame, path)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", stops)
        with pytest.raises(KeyboardInterrupt):
            quiet(small, tmp_path)
    raw = quiet(small, tmp_path)
    assert len(raw.calls) == 8 and not raw.calls[KEYS].duplicated().any()
    assert len(raw.entries) == len(raw.builds) == 2 and len(raw.shapes) == 1


def test_other_weights_under_the_same_name_are_measured_again(
    plan: Plan, tmp_path: Path, checkpoint: str
) -> None:
    small = replace(plan, workloads=plan.workloads[:1], batch_sizes=(1,), rounds=1)
    first = quiet(small, tmp_path)
    weights = Path(checkpoint) / "model.safetensors"
    before = weights.read_bytes()
    model = Retriever.load(Path(checkpoint))
    with torch.no_grad():
        model.item_table.weight.mul_(-1)
    try:
        safetensors.torch.save_file(model.state_dict(), weights)
        second = quiet(small, tmp_path)
    finally:
        weights.write_bytes(before)
    assert len(list(tmp_path.iterdir())) == 2
    assert first.metadata["checkpoints"] != second.metadata["checkpoints"]


def test_what_other_code_measured_is_not_taken_for_its_own(plan: Plan, tmp_path: Path, monkeypatch) -> None:
    small = replace(plan, workloads=plan.workloads[:1], batch_sizes=(1,), rounds=1)
    first = quiet(small, tmp_path)
    monkeypatch.setattr(module.source, "digest", lambda *_: "00000000")
    second = quiet(small, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert second.metadata["code"] == "00000000" != first.metadata["code"]


def test_two_benches_do_not_share_a_folder(plan: Plan, tmp_path: Path) -> None:
    small = replace(plan, workloads=plan.workloads[:1], batch_sizes=(1,), rounds=1)
    quiet(small, tmp_path)
    (folder,) = tmp_path.iterdir()
    with held(folder), pytest.raises(BlockingIOError, match="is in use by process"):
        quiet(small, tmp_path)


def test_another_plan_has_another_folder(plan: Plan, tmp_path: Path) -> None:
    small = replace(plan, workloads=plan.workloads[:1], batch_sizes=(1,), rounds=1)
    quiet(small, tmp_path)
    quiet(replace(small, seed=1), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_no_run_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="not a run"):
        Raw.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workloads": ()}, "at least one workload"),
        ({"batch_sizes": ()}, "one batch size"),
        ({"batch_sizes": (0,)}, "batch_sizes"),
        ({"ks": (5, 5)}, "distinct"),
        ({"ks": (31,)}, "exceeds the 30 items"),
        ({"rounds": 0}, "rounds"),
        ({"warmup": -1}, "warmup"),
        ({"methods": ("guessing",)}, "no method 'guessing'; there are reference implementation, brute force"),
    ],
)
def test_impossible_plans_are_refused(plan: Plan, changes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(plan, **changes)


def test_a_workload_is_measured_once(plan: Plan, checkpoint: str) -> None:
    with pytest.raises(ValueError, match="twice"):
        replace(plan, workloads=(Trained(checkpoint), Trained(checkpoint)))


def test_plans_have_names(checkpoint: str) -> None:
    assert named("sizes", checkpoint).workloads[2] == RandomWeights("amazon-books")
    assert named("growth", checkpoint).workloads[0] == Inflated(checkpoint, 1000)
    assert named("books", checkpoint).workloads[-1] == Inflated(checkpoint, 695_762)
    assert named("books").workloads[0].checkpoint == "ml-1m-fair-hstu-mol"  # type: ignore[union-attr]
    assert named("quick", checkpoint).name == "quick"
    with pytest.raises(ValueError, match="no preset 'slow'"):
        named("slow", checkpoint)


def test_labels_name_contenders_apart() -> None:
    for items in (1_000, 1_000_000):
        labels = [c.label for c in chosen(items, ())]
        assert len(set(labels)) == len(labels) and labels[:2] == ["reference implementation", "brute force"]
    assert BenchmarkEntry("m", lambda w, b: None, {"n": 3, "p": "x"}).label == "m (n=3, p=x)"  # type: ignore[arg-type, return-value]
