"""A run of the bench on a GPU, or on tensors that say they are on one."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from pretended_gpu import pretended_gpu

from workbench.bench import run as runs
from workbench.bench.lens import Seen, seen
from workbench.bench.methods import METHODS, SearcherSpec
from workbench.bench.roofline import Ceilings
from workbench.bench.searcher_pool import SearcherPool
from workbench.bench.tables import summary
from workbench.bench.workloads import Trained, build
from workbench.kernels import mixture
from workbench.studies.proofs import proof_shares


def test_every_searcher_is_measured(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "ceilings", lambda device: Ceilings(1e12, 1e12))
    monkeypatch.setattr(mixture, "_triton_version", lambda: None)
    workloads = (plan.workloads[0], replace(plan.workloads[1], items=1_200))
    plan = replace(plan, workloads=workloads, batch_sizes=(4,), methods=(), rounds=1, calls=1, warmup=0)
    with pretended_gpu():
        raw = runs.run(plan, tmp_path, device="cuda:0", progress=False)
    assert raw.metadata["device"] == "cuda:0"
    table = summary(raw)
    expected = {m.name for m in METHODS.values() if not m.own_score and m.installed}
    chosen = {"cascade", "surrogate"}  # by name alone, or from 4,000 items on
    assert set(table["method"]) == expected - chosen
    whole = table["method"].isin(["reference implementation", "brute force", "exact with a bound"])
    assert table.loc[whole, "recall"].dropna().tolist() == 6 * [1.0]


@pytest.mark.parametrize(
    "text", ["exact with a bound", "per component n1=3", "average n2=7", "h-indexer width=4,keep=8"]
)
def test_one_query_under_the_lens(text, checkpoint, monkeypatch):
    monkeypatch.setattr(mixture, "_triton_version", lambda: None)
    point = SearcherSpec.read(text)

    def look(device: torch.device) -> Seen:
        workload = build(Trained(checkpoint), 8, 0, device)
        return seen(workload, SearcherPool(workload).get(point.entry(), 1), point, 3, 5)

    here = look(torch.device("cpu"))
    with pretended_gpu() as device:
        there = look(device)
    pd.testing.assert_frame_equal(here.places, there.places)
    pd.testing.assert_frame_equal(here.items, there.items, rtol=1e-4)


def test_proofs_are_those_of_the_cpu(checkpoint, monkeypatch):
    monkeypatch.setattr(mixture, "_triton_version", lambda: None)

    def shares(device: torch.device) -> pd.DataFrame:
        workload = build(Trained(checkpoint), 8, 0, device)
        return proof_shares(workload, n1=(2, 8), factors=(1.0, 4.0), k=5)

    here = shares(torch.device("cpu"))
    with pretended_gpu() as device:
        pd.testing.assert_frame_equal(here, shares(device), rtol=1e-4)
