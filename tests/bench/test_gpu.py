"""The run for a GPU: refused without one, complete on a pretended one, written after each step, failures and time kept."""

from collections.abc import Iterator

import pandas as pd
import pytest
import torch
from pretended_gpu import pretended_gpu

from workbench.bench import gpu, workloads
from workbench.bench.gpu import GPUPlan, run
from workbench.bench.roofline import Ceilings
from workbench.cli import main
from workbench.kernels import mixture
from workbench.similarities import MoLConfig

SMALL = GPUPlan(
    sizes=("tiny",),
    batches=(1, 3),
    k=5,
    first_stages=(300,),
    presets=("quick/hstu-mol",),
    training_batch=2,
    tiles=(),
    repeats=1,
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    size = workloads.Size(200, 8, MoLConfig(2, 2, 4, query_hidden=8), 5)
    monkeypatch.setitem(workloads.SIZES, "tiny", size)
    monkeypatch.setattr(gpu, "ceilings", lambda device: Ceilings(1e12, 1e12))
    monkeypatch.setattr(
        gpu, "_kernels", lambda device: iter([{"what": "a kernel", "note": "agrees: off by 0.0e+00"}])
    )
    monkeypatch.setattr(mixture, "_triton_version", lambda: None)


def test_every_step_is_written_as_it_ends(monkeypatch) -> None:
    training = list(gpu._training(SMALL, torch.device("cpu")))  # a pretended GPU has no gradients
    monkeypatch.setattr(gpu, "_training", lambda plan, device: iter(training))
    seen: list[set[str]] = []
    with pretended_gpu() as device:
        table = run(SMALL, device, 5, lambda so_far: seen.append(set(so_far["step"])))
    assert [len(steps) for steps in seen] == [1, 2, 3, 4, 5]
    assert list(table["step"].unique()) == ["kernels", "search", "training", "first stage", "faiss"]
    assert not table["what"].isin(["failed", "left out", "cut short"]).any(), table
    timed = table.dropna(subset="ms")
    assert (timed["ms"] > 0).all() and set(timed["queries"]) == {1, 2, 3, 32}
    assert table["note"].str.contains("roofline").sum() == 4  # two dtypes, two batches
    assert table.loc[table["step"] == "faiss", "note"].str.contains("this build has no GPU").all()


def test_a_step_that_fails_or_comes_too_late_is_said(monkeypatch) -> None:
    def out_of_memory(plan: GPUPlan, device: torch.device) -> Iterator[dict[str, object]]:
        yield {"what": "one", "ms": 1.0}
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    for name in ("_search", "_training", "_first_stages", "_faiss"):
        monkeypatch.setattr(gpu, name, out_of_memory)
    table = run(SMALL, torch.device("cuda:0"), 5, lambda so_far: None)
    assert table.loc[table["what"] == "failed", "note"].tolist() == ["CUDA out of memory."] * 4
    assert (table["what"] == "one").sum() == 4
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(clock))
    late = run(SMALL, torch.device("cuda:0"), 1, lambda so_far: None)
    assert (
        set(late["what"]) >= {"left out", "cut short"}
        and late["note"].str.contains("1 minutes were over").any()
    )


def test_kernels_agree_with_float64_on_this_device(monkeypatch) -> None:
    monkeypatch.undo()
    rows = pd.DataFrame(gpu._kernels(torch.device("cpu")))
    assert len(rows) == 6 and rows["note"].str.startswith("agrees").all()
    monkeypatch.setattr(gpu, "TOLERANCES", {torch.float32: -1.0})
    assert pd.DataFrame(gpu._kernels(torch.device("cpu")))["note"].str.startswith("DIFFERS").all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so(capsys, tmp_path) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "gpu", "--out", str(tmp_path / "gpu.csv")])
    error = capsys.readouterr().err
    assert "bench gpu needs a GPU that torch can use" in error and not (tmp_path / "gpu.csv").exists()
