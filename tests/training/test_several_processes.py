"""Two processes train one retriever: each takes its share of the batches, and both end with the same weights."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from worlds import KINDS

WORKER = Path(__file__).parents[1] / "training_worker.py"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds a run of each kind, one trained for an epoch and then for another, and each rank's weights."""
    folder: Path = tmp_path_factory.mktemp("together")
    jobs = [{"kind": kind, "folder": str(folder / kind), "epochs": [2]} for kind in KINDS]
    jobs.append({"kind": "hstu-mol", "folder": str(folder / "prolonged"), "epochs": [1, 2]})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, "together", folder / "jobs.json"],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        logs = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()  # where one failed the other waits for it
    assert [process.returncode for process in processes] == [0, 0], "\n".join(logs)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_both_end_with_the_same_weights(folder, kind):
    first, second = (
        safetensors.torch.load_file(folder / f"{kind}-rank{rank}.safetensors") for rank in range(2)
    )
    saved = safetensors.torch.load_file(folder / kind / "epoch-0002" / "model.safetensors")
    assert first.keys() == second.keys() == saved.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        assert torch.equal(tensor, saved[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_each_takes_half_of_the_steps(folder, kind):
    state = json.loads((folder / kind / "epoch-0002" / "state.json").read_text())
    assert (state["epoch"], state["step"]) == (2, 4)  # four batches an epoch, two processes
    assert [row["epoch"] for row in state["history"]] == [1, 2]


def test_they_go_on_together_with_a_run(folder):
    names = ("model.safetensors", "epoch-0002/model.safetensors", "epoch-0002/optimizer.safetensors")
    for name in names:
        assert (folder / "prolonged" / name).read_bytes() == (folder / "hstu-mol" / name).read_bytes(), name
