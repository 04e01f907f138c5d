"""A run of the bench over the tiny checkpoint."""

from pathlib import Path

import pytest

from workbench.bench.plans import Plan
from workbench.bench.run import Raw, run
from workbench.bench.workloads import Inflated, Trained


@pytest.fixture(autouse=True)
def root(workbench_root: Path) -> Path:
    """The workbench's folders are those of the tiny checkpoint."""
    return workbench_root


@pytest.fixture
def plan(checkpoint: str) -> Plan:
    """Two workloads, two batch sizes, two rounds of brute force and the reference implementation."""
    return Plan(
        "tiny", (Trained(checkpoint), Inflated(checkpoint, 60)), batch_sizes=(1, 4), ks=(5,), rounds=2, calls=2, warmup=1,
        queries=12, methods=("reference implementation",), threads=1,
    )  # fmt: skip


@pytest.fixture(scope="session")
def finished(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Raw:
    """What one run of a plan stored."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_ROOT", str(Path(checkpoint).parents[1]))
        workloads = (Trained(checkpoint), Inflated(checkpoint, 60))
        plan = Plan("all", workloads, (1, 4), (5,), rounds=2, calls=1, warmup=0, queries=12, threads=1)
        return run(plan, tmp_path_factory.mktemp("runs"), device="cpu", progress=False)
