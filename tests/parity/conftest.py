"""The published code's checkpoints and outputs, and both ways through jagged tensors."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
from torch import Tensor

from workbench import runtime
from workbench.contracts import SequenceBatch

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = ("hstu_dot", "hstu_mol", "sasrec_dot", "sasrec_mol")


@dataclass(frozen=True)
class Reference:
    """One fixture: where its checkpoint is, its batch, and what the published code computed for it."""

    name: str
    checkpoint: Path
    batch: SequenceBatch
    out: dict[str, Tensor]


@pytest.fixture(scope="session", params=NAMES)
def reference(request: pytest.FixtureRequest) -> Reference:
    name: str = request.param
    tensors = safetensors.torch.load_file(FIXTURES / f"{name}.safetensors")
    batch = SequenceBatch(
        item_ids=tensors["in.historical_ids"],
        timestamps=tensors["in.historical_timestamps"],
        ratings=tensors["in.historical_ratings"].float(),
        lengths=tensors["in.history_lengths"],
        user_ids=tensors["in.user_id"],
        target_ids=tensors["in.target_ids"],
        target_timestamps=tensors["in.target_timestamps"],
    )
    out = {key.removeprefix("out."): t for key, t in tensors.items() if key.startswith("out.")}
    return Reference(name, FIXTURES / f"{name}.pt", batch, out)


@pytest.fixture(params=["fbgemm", "plain torch"])
def jagged_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Jagged operations through fbgemm, where it is installed, and through plain torch."""
    wanted: str = request.param
    if wanted == "fbgemm" and runtime.optional("fbgemm_gpu") is None:
        pytest.skip("fbgemm_gpu is not installed")
    monkeypatch.setattr("workbench.encoders.jagged._FBGEMM", wanted == "fbgemm")
    return wanted
