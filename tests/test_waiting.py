"""How torch's threads wait for each other: for a short while, unless the user sets otherwise."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("own", "seen"),
    [
        ({}, "1000 None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "active"}, "None active"),
    ],
)
def test_the_wait_is_short_before_torch_is_loaded_and_the_users_choice_is_left(
    own: dict[str, str], seen: str
) -> None:
    program = (
        "import os, sys, workbench; assert 'torch' not in sys.modules;"
        "print(*map(os.environ.get, ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')))"
    )
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    finished = subprocess.run(
        [sys.executable, "-c", program], env=clean | own, capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == seen
