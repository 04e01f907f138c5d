"""The published code's top-k next to ours: what is no checkout of it, the table, and, where there is a checkout, the scores."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from workbench.bench import published_search
from workbench.bench.published_search import FILES, check_checkout, compare, summary
from workbench.cli import app

CHECKOUT = os.environ.get("WORKBENCH_REFERENCE")


def test_what_is_no_checkout_of_this_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    with pytest.raises(ValueError, match=r"mol_top_k\.py is not that of commit [0-9a-f]{7}"):
        check_checkout(tmp_path)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in FILES}
    monkeypatch.setattr(published_search, "FILES", digests)
    check_checkout(tmp_path)
    (tmp_path / "rails/similarities/layers.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no rails/similarities/layers\.py: give a checkout"):
        next(compare(tmp_path, ("ml-1m",), (1,), 1))


def test_ratios_are_those_of_one_round():
    rows = [
        ("published code", 1, 4.0),
        ("brute force", 1, 2.0),
        ("published code", 2, 9.0),
        ("brute force", 2, 3.0),
    ]
    raw = pd.DataFrame(
        [
            {"size": "a", "items": 5, "batch_size": 1, "implementation": i, "round": r, "seconds": s}
            for i, r, s in rows
        ]
    )
    table = summary(raw).set_index("implementation")
    assert table["speed-up"].to_dict() == {"published code": 1.0, "brute force": 2.5}
    assert table.loc["brute force", ["from", "to", "ms"]].tolist() == [2.25, 2.75, 2500.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "quick"], "--reference goes with"),
        (["--size", "ml-2m"], "no published size 'ml-2m'"),
        ([], "has no rails"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, arguments, message):
    result = CliRunner().invoke(app, ["bench", "search", "--reference", str(tmp_path), *arguments])
    assert result.exit_code != 0 and message in f"{result.output} {result.exception}".replace("\n", " ")


@pytest.mark.skipif(CHECKOUT is None, reason="WORKBENCH_REFERENCE names no checkout of the published code")
def test_the_published_code_finds_the_same_scores(tmp_path: Path):
    """In a process of its own: the checkout's modules stay in it, and its warnings are its own."""
    command = [
        "bench",
        "search",
        "--reference",
        str(CHECKOUT),
        "--size",
        "ml-1m",
        "--batch-size",
        "2",
        "-k",
        "9",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "workbench.cli", *command, "--rounds", "1", "--out", str(tmp_path / "table.csv")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert pd.read_csv(tmp_path / "table.csv")["implementation"].tolist() == [
        "published code",
        *published_search.OURS,
    ]
