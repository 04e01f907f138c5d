"""A run of the bench on a GPU, or on tensors that say they are on one."""

from dataclasses import replace

from pretended_gpu import pretended_gpu

from workbench.bench import run as runs
from workbench.bench.methods import METHODS
from workbench.bench.roofline import Ceilings
from workbench.bench.tables import summary
from workbench.kernels import mixture


def test_every_searcher_is_measured(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ceilings", lambda device: Ceilings(1e12, 1e12))
    monkeypatch.setattr(mixture, "_triton_version", lambda: None)
    workloads = (plan.workloads[0], replace(plan.workloads[1], items=1_200))
    plan = replace(plan, workloads=workloads, batch_sizes=(4,), methods=(), rounds=1, calls=1, warmup=0)
    with pretended_gpu():
        raw = runs.run(plan, tmp_path, device="cuda:0", progress=False)
    assert raw.facts["device"] == "cuda:0"
    table = summary(raw)
    expected = {m.name for m in METHODS.values() if not m.own_score and m.installed}
    assert set(table["method"]) == expected
    whole = table["method"].isin(["baseline", "brute force", "exact with a bound"])
    assert table.loc[whole, "recall"].dropna().tolist() == 6 * [1.0]
