"""Values and tables that notebooks hand to their report."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.reporting import record
from workbench.reporting.records import MOST_ROWS, RECORDS_FILE, Record, read_records


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "records.jsonl"
    monkeypatch.setenv(RECORDS_FILE, str(path))
    return path


def test_outside_a_report_a_value_is_checked_and_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(RECORDS_FILE, raising=False)
    record("HR@10", 0.1)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match="cannot record 'model'"):
        record("model", torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (0.25, 0.25),
        (3, 3),
        (True, True),
        ("text", "text"),
        (None, None),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array(2.5), 2.5),
        (torch.tensor(4), 4),
        (float("nan"), None),
        (torch.tensor(float("inf")), None),
        (pd.NA, None),
        (pd.NaT, None),
        (date(2020, 1, 31), "2020-01-31"),
        ([1, (2.5, None)], [1, [2.5, None]]),
        ({"a": np.int8(1), 2: "b"}, {"a": 1, "2": "b"}),
    ],
)
def test_values_become_json(file: Path, value: object, stored: object) -> None:
    record("x", value, unit="s")
    (entry,) = read_records(file)
    assert entry == Record("x", stored, "s", is_table=False)  # type: ignore[arg-type]
    assert type(entry.value) is type(stored)


def test_a_table_keeps_columns_rows_and_missing_values(file: Path) -> None:
    table = pd.DataFrame({"method": ["dot", "<b>MoL</b>"], "k": [1, 10], "HR": [0.5, np.nan]})
    record("results", table)
    (entry,) = read_records(file)
    assert entry.is_table
    assert entry.value == {
        "columns": ["method", "k", "HR"],
        "rows": [["dot", 1, 0.5], ["<b>MoL</b>", 10, None]],
    }


def test_a_table_that_is_too_long_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match="10,001 rows"):
        record("long", pd.DataFrame({"x": range(MOST_ROWS + 1)}))
    assert read_records(file) == []


@pytest.mark.parametrize("name", ["", "  "])
def test_a_name_is_needed(file: Path, name: str) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        record(name, 1)


def test_a_second_value_replaces_the_first_in_its_place(file: Path) -> None:
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        record(name, value)
    assert [(entry.name, entry.value) for entry in read_records(file)] == [("a", 3), ("b", 2)]


@settings(deadline=None)
@given(cut=st.integers(min_value=1, max_value=40))
def test_a_line_that_was_cut_off_is_left_out(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "records.jsonl"
    lines = [
        json.dumps({"name": name, "value": 1, "unit": "", "is_table": False}) for name in ("whole", "broken")
    ]
    path.write_text(("\n".join(lines))[:-cut], encoding="utf-8")
    assert [entry.name for entry in read_records(path)] == ["whole"]


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert read_records(tmp_path / "missing.jsonl") == []
