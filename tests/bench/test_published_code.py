"""The published code as an implementation of a training step: what is no checkout of it, and, where there is one, a step."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from workbench.bench import published_code
from workbench.bench.published_code import FILES, check_checkout
from workbench.bench.training import compare, measure, summary

CHECKOUT = os.environ.get("WORKBENCH_REFERENCE")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that passes for a checkout, of files that say nothing."""
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    config = tmp_path / "configs" / "ml-1m" / f"{published_code.CONFIGS['ml-1m/hstu-dot']}.gin"
    config.parent.mkdir(parents=True)
    config.write_text("")
    monkeypatch.setattr(published_code, "FILES", {n: hashlib.sha256(n.encode()).hexdigest() for n in FILES})
    monkeypatch.setattr(published_code.runtime, "require", lambda name: None)
    return tmp_path


def test_a_checkout_that_is_whole_is_accepted(checkout):
    check_checkout(checkout, ["ml-1m/hstu-dot"])


def test_what_is_no_checkout_of_this_version_is_refused(checkout):
    with pytest.raises(ValueError, match=r"timed for ml-1m/sasrec-dot.*, not cpu/hstu-dot"):
        check_checkout(checkout, ["cpu/hstu-dot"])
    with pytest.raises(FileNotFoundError, match=r"no .*sasrec-sampled.*gin: the checkout is not whole"):
        check_checkout(checkout, ["ml-1m/sasrec-dot"])
    (checkout / "train.py").write_text("another version")
    with pytest.raises(ValueError, match=r"train\.py is not that of commit [0-9a-f]{7}"):
        check_checkout(checkout, ["ml-1m/hstu-dot"])
    (checkout / "train.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no train\.py: give a checkout"):
        compare(["ml-1m/hstu-dot"], 1, 1, checkout)
    with pytest.raises(ValueError, match="give its folder"):
        measure("ml-1m/hstu-dot", "published code", 1, 1)


def test_a_package_that_it_needs_is_named(checkout, monkeypatch):
    def missing(name):
        raise ImportError(f"{name} is not installed")

    monkeypatch.setattr(published_code.runtime, "require", missing)
    with pytest.raises(ImportError, match="gin is not installed"):
        check_checkout(checkout, ["ml-1m/hstu-dot"])


@pytest.mark.skipif(CHECKOUT is None, reason="WORKBENCH_REFERENCE names no checkout of the published code")
def test_a_step_of_the_published_code():
    command = [
        sys.executable,
        "-m",
        "workbench.bench.training",
        "ml-1m/sasrec-dot",
        "published code",
        "1",
        "1",
    ]
    done = subprocess.run([*command, CHECKOUT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert '"seconds"' in done.stdout.splitlines()[-1]


def test_the_ratio_is_to_the_reference_implementation():
    rows = [("workbench", 1.0), ("reference implementation", 4.0), ("published code", 5.0)]
    raw = pd.DataFrame(
        [{"preset": "a", "implementation": i, "seconds": s, "memory_gib": 1.0} for i, s in rows]
    )
    table = summary(raw).set_index("implementation")
    assert table["speed-up"].to_dict() == {
        "workbench": 4.0, "reference implementation": 1.0, "published code": 0.8,
    }  # fmt: skip
