"""The run for a GPU: refused without one, complete on a pretended one, written after each step, failures and time kept."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from pretended_gpu import pretended_gpu
from torch import Tensor

from workbench.bench import gpu, published_search, workloads
from workbench.bench.gpu import GPUPlan, run
from workbench.bench.published_search import ALL_ITEMS, Found, TopK, Way, average
from workbench.bench.roofline import Ceilings
from workbench.cli import main
from workbench.kernels import mixture
from workbench.similarities import MoLConfig
from workbench.similarities.mol import MixtureOfLogits

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
    monkeypatch.setattr(gpu, "_losses", lambda device: iter([{"what": "a loss", "note": "agrees"}]))
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
    assert table.loc[table["step"] == "training", "note"].tolist() == ["", "the loss in torch"]
    assert {"a kernel", "a loss"} <= set(table["what"])
    timed = table.dropna(subset="ms")
    assert (timed["ms"] > 0).all() and set(timed["queries"]) == {1, 2, 3, 32}
    assert table["note"].str.contains("roofline").sum() == 4  # two dtypes, two batches
    published = table[table["what"].str.startswith("published arithmetic, tiny, from 100.0%")]
    assert published["queries"].tolist() == [1, 3]
    assert table.loc[table["step"] == "faiss", "note"].str.contains("this build has no GPU").all()


def test_the_published_code_is_timed_on_the_device(monkeypatch, tmp_path) -> None:
    """What stands for the checkout scores all items by plain arithmetic, which brute force must agree with."""

    def plain(
        folder: Path, mol: MixtureOfLogits, embeddings: Tensor, ids: Tensor, k: int, way: Way = ALL_ITEMS
    ) -> TopK:
        items = mol.items(embeddings, ids)

        def top_k(queries: Tensor) -> Found:
            best = mol.score(mol.queries(queries), items).topk(k, dim=1)
            return Found(best.values, ids[best.indices])

        return top_k

    monkeypatch.setattr(published_search, "check_checkout", lambda folder: None)
    monkeypatch.setattr(published_search, "published_top_k", plain)
    monkeypatch.setattr(published_search, "ceilings", lambda device: Ceilings(1e12, 1e12))
    monkeypatch.setattr(published_search, "TURN_SECONDS", 0.0)
    monkeypatch.setitem(published_search.WAYS, "tiny", (ALL_ITEMS, average(100)))
    assert "published code" not in dict(gpu.steps(SMALL, torch.device("cuda:0")))
    # Checks of types hide from the decorator of `compare` that it is a generator, so that gradients are turned off here.
    with pretended_gpu() as device, torch.no_grad():
        step = dict(gpu.steps(replace(SMALL, reference=tmp_path), device))["published code"]
        table = pd.DataFrame(step()).set_index("what")
    for queries in SMALL.batches:
        rows = table[table["queries"] == queries]
        assert (
            "1.0 times the published code's speed; overlap 1.000"
            in rows.loc["published code: all items, tiny", "note"]
        )
        assert rows.loc["brute force: all items, tiny", "note"].endswith("overlap 1.000")
        assert "average: average, n2 = 100, tiny" in rows.index and (rows["ms"] > 0).all()


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
    tried = len(gpu.variants(replace(SMALL, warps=()), torch.float32)) + 1
    rows = pd.DataFrame(gpu._kernels(torch.device("cpu")))
    assert len(rows) == 3 * tried and rows["note"].str.startswith("agrees").all()
    monkeypatch.setattr(gpu, "TOLERANCES", {torch.float32: -1.0})
    assert pd.DataFrame(gpu._kernels(torch.device("cpu")))["note"].str.startswith("DIFFERS").all()


def test_losses_agree_with_float64_on_this_device(monkeypatch) -> None:
    monkeypatch.undo()
    rows = pd.DataFrame(gpu._losses(torch.device("cpu")))
    assert len(rows) == 5 and rows["note"].str.startswith("agrees").all(), rows["note"]
    assert rows["note"].str.endswith("torch").all()  # nothing is fused without a GPU
    monkeypatch.setattr(gpu, "TOLERANCES", dict.fromkeys(gpu.TOLERANCES, -1.0))
    assert pd.DataFrame(gpu._losses(torch.device("cpu")))["note"].str.startswith("DIFFERS").all()


@pytest.mark.parametrize("before", [None, "1"])
def test_the_fused_loss_is_turned_off_for_its_comparison_alone(monkeypatch, before: str | None) -> None:
    if before is None:
        monkeypatch.delenv(gpu.FUSED_SWITCH, raising=False)
    else:
        monkeypatch.setenv(gpu.FUSED_SWITCH, before)
    with gpu._environment(gpu.FUSED_SWITCH, "0"):
        assert os.environ[gpu.FUSED_SWITCH] == "0"
    assert os.environ.get(gpu.FUSED_SWITCH) == before


def test_variants_set_constants_of_the_kernels_and_put_them_back(monkeypatch) -> None:
    kernels = SimpleNamespace(VALUES_OF_A_TILE=1, WARPS=8, FLOAT32_PRODUCTS=0, THREE_TF32=3)
    monkeypatch.setattr(mixture, "_triton_version", lambda: kernels)
    before, plan = vars(kernels).copy(), replace(SMALL, tiles=(64,), warps=(4, 16), three_tf32=True)
    seen = []
    for name, constants in gpu.variants(plan, torch.float32).items():
        with gpu._kernels_with(**constants):
            seen.append((name, kernels.VALUES_OF_A_TILE, kernels.WARPS, kernels.FLOAT32_PRODUCTS))
        assert vars(kernels) == before
    assert seen == [
        ("", 1, 8, 0),
        (", tiles of 64", 64, 8, 0),
        (", 4 warps", 1, 4, 0),
        (", 16 warps", 1, 16, 0),
        (", three TF32 products", 1, 8, 3),
    ]
    assert len(gpu.variants(plan, torch.bfloat16)) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_command_reports_it(capsys, tmp_path) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "gpu", "--out", str(tmp_path / "gpu.csv")])
    error = capsys.readouterr().err
    assert "bench gpu needs a GPU that torch can use" in error and not (tmp_path / "gpu.csv").exists()
