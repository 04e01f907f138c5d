"""A trained-looking checkpoint of a tiny dataset, and a run of the bench over it."""

from pathlib import Path

import pytest

from workbench.bench.plans import Plan
from workbench.bench.run import Raw, run
from workbench.bench.workloads import Inflated, Trained
from workbench.data import storage
from workbench.encoders import SASRecConfig
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import MoLConfig

MOL = MoLConfig(2, 2, 4, query_hidden=8, gate_query=4, gate_item=4, gate_pair=4)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, cycles) -> str:
    """The folder of a checkpoint of untrained weights; its data is prepared in the root that is set here."""
    root = tmp_path_factory.mktemp("root")
    sequences = cycles()
    (root / "data").mkdir()
    storage.save(sequences, root / "data" / "cycles", {})
    folder = root / "ckpts" / "cycles-sasrec-mol"
    retriever = Retriever(RetrieverConfig(SASRecConfig(1, 1, 8, 0.0), MOL, 8, 10), sequences.num_items)
    retriever.save(folder, dataset="cycles", fingerprint=sequences.fingerprint())
    return str(folder)


@pytest.fixture(autouse=True)
def root(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workbench's folders are those of the tiny checkpoint."""
    folder = Path(checkpoint).parents[1]
    monkeypatch.setenv("WORKBENCH_ROOT", str(folder))
    return folder


@pytest.fixture
def plan(checkpoint: str) -> Plan:
    """Two workloads, two batch sizes, two rounds of brute force and baseline."""
    return Plan(
        "tiny", (Trained(checkpoint), Inflated(checkpoint, 60)), batch_sizes=(1, 4), ks=(5,), rounds=2, calls=2, warmup=1,
        queries=12, methods=("baseline",), threads=1,
    )  # fmt: skip


@pytest.fixture(scope="session")
def finished(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Raw:
    """What one run of a plan stored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_ROOT", str(Path(checkpoint).parents[1]))
        workloads = (Trained(checkpoint), Inflated(checkpoint, 60))
        plan = Plan("all", workloads, (1, 4), (5,), rounds=2, calls=1, warmup=0, queries=12, threads=1)
        return run(plan, tmp_path_factory.mktemp("runs"), device="cpu", progress=False)
