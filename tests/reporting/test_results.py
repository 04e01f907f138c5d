"""`results.json`, and the rule of what is up to date."""

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.reporting.records import Record
from workbench.reporting.results import FILE, Entry, Report

INPUTS = {"data/ml": "1", "ckpts/shipped": "2"}


def entry(**changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "name": "01_x",
        "title": "X",
        "status": "ok",
        "seconds": 1.5,
        "started": "2026-01-01T00:00:00+00:00",
        "error": "",
        "parameters": {"seed": 0, "ks": [1, 2]},
        "key": "key",
        "inputs": INPUTS,
        "records": (
            Record("HR@10", 0.5),
            Record("t", {"columns": ["a"], "rows": [[None]]}, is_table=True),
            Record("n", None),
        ),
        "provenance": {"commit": None, "versions": {"python": "3"}},
    }
    return Entry(**{**fields, **changes})


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = Report("quick", "ml", {"01_x": entry()}, {"ckpts/runs/a"}, "pages", ["data/ml"])
    report.save(tmp_path)
    assert Report.load(tmp_path) == report
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_headlines_are_the_single_values() -> None:
    assert [record.name for record in entry().headlines] == ["HR@10"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1, "notebooks": {"a": {}}}', "null"]
)
def test_what_is_no_report_is_none(tmp_path: Path, content: str) -> None:
    assert Report.load(tmp_path) is None
    (tmp_path / FILE).write_text(content)
    assert Report.load(tmp_path) is None


def test_results_are_strict_json(tmp_path: Path) -> None:
    report = Report("quick", "ml", {"01_x": entry(records=(Record("x", float("nan")),))})
    with pytest.raises(ValueError, match="JSON"):
        report.save(tmp_path)
    assert not (tmp_path / FILE).exists()
    Report("quick", "ml", {"01_x": entry()}).save(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["notebooks"]["01_x"]["records"][1]["is_table"] is True


@pytest.mark.parametrize(
    ("change", "key", "inputs", "expected"),
    [
        ({}, "key", INPUTS, True),
        ({}, "other key", INPUTS, False),
        ({"status": "failed"}, "key", INPUTS, False),
        ({}, "key", {**INPUTS, "data/ml": "changed"}, False),
        ({}, "key", {"data/ml": "1"}, False),
        ({}, "key", {**INPUTS, "ckpts/new": "3"}, False),
        ({}, "key", {**INPUTS, "ckpts/runs/made": "3"}, True),
        ({"inputs": {**INPUTS, "ckpts/runs/made": "3"}}, "key", {**INPUTS, "ckpts/runs/made": "4"}, False),
    ],
    ids=["same", "key", "failed", "changed", "gone", "new", "made later by this report", "made and changed"],
)
def test_up_to_date(change: dict[str, Any], key: str, inputs: dict[str, str], expected: bool) -> None:
    report = Report("quick", "ml", {"01_x": entry(**change)}, made={"ckpts/runs/made"})
    assert report.up_to_date("01_x", key, inputs) is expected
    assert not report.up_to_date("02_y", key, inputs)
