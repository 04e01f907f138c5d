"""Builds that are interrupted: what was finished is not computed again, and the result is that of a build in one go."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from workbench import runtime
from workbench.search import proximity_graph, stages
from workbench.search.cells import nearest
from workbench.search.proximity_graph import ProximityGraph

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from workbench import runtime
from workbench.search import stages
from workbench.search.proximity_graph import ProximityGraph

finished = stages.stage

def dying(name, of, compute):
    found = finished(name, of, compute)
    if name == "nearest-16":
        os.kill(os.getpid(), signal.SIGKILL)
    return found

stages.stage = dying
with stages.kept_in(Path(sys.argv[1])):
    ProximityGraph.build(torch.randn(400, 8, generator=runtime.generator(0)), 6, 10)
"""


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.randn(400, 8, generator=runtime.generator(0))


def test_a_build_that_was_killed_goes_on_from_its_last_stage(vectors, tmp_path, monkeypatch):
    folder = tmp_path / "building"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {file.stem for file in folder.iterdir()} == {"nearest-1", "nearest-16"}
    looked: list[int] = []

    def counting(unit, base, count):
        looked.append(len(base))
        return nearest(unit, base, count)

    monkeypatch.setattr(proximity_graph, "nearest", counting)
    with stages.kept_in(folder):
        resumed = ProximityGraph.build(vectors, 6, 10)
    assert looked == [] and not folder.exists()
    assert torch.equal(resumed.neighbours, ProximityGraph.build(vectors, 6, 10).neighbours)
    assert looked == [400, 25]


def test_stages_of_other_vectors_or_damaged_ones_are_computed_again(vectors, tmp_path):
    expected = ProximityGraph.build(vectors, 6, 10).neighbours
    for spoil in (lambda file: file.write_bytes(b"nothing"), None):
        with pytest.raises(KeyboardInterrupt), stages.kept_in(tmp_path):
            ProximityGraph.build(vectors if spoil else -2 * vectors.flip(0), 6, 10)
            raise KeyboardInterrupt
        for file in list(Path(tmp_path).iterdir()) if spoil else []:
            spoil(file)
        with pytest.raises(KeyboardInterrupt), stages.kept_in(tmp_path):
            assert torch.equal(ProximityGraph.build(vectors, 6, 10).neighbours, expected)
            raise KeyboardInterrupt
    assert len(list(tmp_path.iterdir())) == 3
