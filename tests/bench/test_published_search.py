"""The published code's top-k next to ours: what is no checkout of it, the table, and, where there is a checkout, the scores."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from workbench.bench import published_search
from workbench.bench.published_search import (
    ALL_ITEMS,
    FILES,
    WAYS,
    aims,
    average,
    check_checkout,
    combined,
    compare,
    per_component,
    speed_ups,
    summary,
)
from workbench.bench.roofline import Ceilings
from workbench.cli import app
from workbench.similarities import MoLConfig, build

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
            {
                "size": "a",
                "way": "all items",
                "items": 5,
                "batch_size": 1,
                "implementation": i,
                "round": r,
                "seconds": s,
                "overlap": 1.0,
                "least": 0.5 if i == "brute force" else float("nan"),
            }
            for i, r, s in rows
        ]
    )
    table = summary(raw).set_index("implementation")
    assert table["speed-up"].to_dict() == {"published code": 1.0, "brute force": 2.5}
    assert table.loc["brute force", ["from", "to", "ms", "at most"]].tolist() == [2.25, 2.75, 2500.0, 13.0]
    shown = speed_ups(summary(raw)).iloc[0]
    assert shown["1 at once"] == "2.5 (2.2 to 2.8), at most 13; 2500.00 ms" and shown["overlap"] == "1.000"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "quick"], "--reference goes with"),
        (["--size", "ml-2m"], "no published size 'ml-2m'"),
        ([], "has no rails"),
    ],
)
def test_the_command_shows_what_is_wrong(tmp_path: Path, arguments, message):
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
    table = pd.read_csv(tmp_path / "table.csv")
    for way in WAYS["ml-1m"]:
        rows = table[table["way"] == way.title].set_index("implementation")
        alone = [] if way is ALL_ITEMS else [published_search.ALONE]
        assert list(rows.index) == ["published code", *way.ours, *alone]
        assert (rows["overlap"].drop(alone) > (0.999 if way is ALL_ITEMS else 0.9)).all()
        assert rows.loc[alone, "overlap"].isna().all()


def test_the_least_time_is_that_of_operations_or_of_bytes():
    """Of 10 items, two queries and 2 x 3 components of width 4, with a linear query side and no gate but that of pairs."""
    config = MoLConfig(
        2,
        3,
        4,
        query_projection="linear",
        item_projection="linear",
        gate_query=None,
        gate_item=None,
        gate_pair=5,
    )
    mol = build(config, 7)
    items = mol.items(torch.randn(10, 7), torch.arange(1, 11))
    weights, pair = 7 * 8 + 8, 2 * 6 * 4 + 4 * 6 * 5 + 4 * 5 + 12 * 6
    least = published_search._least_seconds
    scored, quick, wide = torch.tensor([3, 4]), Ceilings(1.0, 1e30), Ceilings(1e30, 1.0)
    assert least(mol, items, ALL_ITEMS, False, scored, quick) == 2 * 2 * weights + 7 * pair
    assert least(mol, items, ALL_ITEMS, True, scored, quick) == 2 * 2 * weights + 7 * pair + 10 * pair
    assert (
        least(mol, items, average(5), False, scored, quick) == 2 * 2 * weights + 7 * pair + 2 * 2 * 4 * 10 / 4
    )
    lists = 2 * 2 * weights + 7 * pair + 2 * 2 * 4 * (6 + 1) * 10 / 4
    assert least(mol, items, combined(2, 5), False, scored, quick) == lists
    state = items.nbytes() / 10
    assert least(mol, items, ALL_ITEMS, False, scored, wide) == 4 * weights + 10 * state
    assert least(mol, items, per_component(2), False, scored, wide) == 4 * weights + 10 * 3 * 4 + 7 * state


def test_how_often_the_aims_are_reached_is_a_sentence():
    rows = [
        ("ml-1m", "all items", 1, 6.5, 7.0),
        ("ml-1m", "all items", 32, 6.5, 7.5),
        ("amazon-books", "all items", 1, 15.5, 31.0),
        ("ml-1m", "average, n2 = 500", 32, 8.0, 12.0),
        ("ml-1m", "average, n2 = 500", 1, 4.0, 12.0),
    ]
    table = pd.DataFrame(rows, columns=["size", "way", "batch_size", "speed-up", "at most"])
    table = table.assign(implementation="own")
    alone = ("ml-1m", "average, n2 = 500", 1, 7.5, float("nan"), published_search.ALONE)
    table.loc[len(table)] = alone
    reached = (
        "The aim is reached with all items in 1 of 3 cases (6.5 to 15.5 times), with lists in 1 of 2 cases (4.0 to 8.0"
        " times)."
    )
    assert aims(table) == (
        f"{reached} Of the 3 cases that miss it, the machine's measured ceilings put it out of reach in 1, in 1 more the"
        " query's side, the lists and the scores take too long by themselves; half of all that miss it take more than 2.0"
        " times the least time."
    )
    assert aims(table[[True, False, False, True, False, False]]).endswith("(8.0 to 8.0 times).")


def test_ways_with_too_few_candidates_are_known():
    assert average(500).candidates(32) == 500 and per_component(5).candidates(32) == 160
    assert combined(5, 200).candidates(32) == 360 and ALL_ITEMS.candidates(32) is None
