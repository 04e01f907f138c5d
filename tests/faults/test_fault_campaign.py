"""The short form of the fault suite loses nothing; `make faults` runs the long one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CAMPAIGN = Path(__file__).with_name("campaign.py")
LEAST = {
    "killed": 5,
    "full or read-only disk": 5,
    "two processes": 5,
    "missing tools": 1,
    "hostile text": 1,
    "mutated": 16,
}
"""Kinds of each sort that are tried."""


@pytest.fixture(scope="module")
def tallies(tmp_path_factory) -> list[dict[str, Any]]:
    out = tmp_path_factory.mktemp("faults") / "tallies.json"
    done = subprocess.run(
        [sys.executable, CAMPAIGN, "--json", out],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert out.is_file(), done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(out.read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("sort", LEAST)
def test_nothing_is_lost(tallies, sort):
    of_sort = [tally for tally in tallies if tally["kind"].startswith(sort)]
    assert len(of_sort) >= LEAST[sort]
    assert {t["kind"]: t["lost"] for t in of_sort if t["lost"]} == {}
    assert all(t["tried"] or any(note.startswith("not tried") for note in t["notes"]) for t in of_sort)
