"""What a notebook hands to its report: named values and small tables."""

import json
import math
import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

RECORDS_FILE = "WORKBENCH_RECORDS"
MOST_ROWS = 10_000

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None


@dataclass(frozen=True)
class Record:
    """One recorded value: `value` is JSON, for a table `{"columns": […], "rows": [[…]]}`; `unit` may be empty."""

    name: str
    value: Any
    unit: str = ""
    is_table: bool = False


def record(name: str, value: object, unit: str = "") -> None:
    """Pass a value or a table to the report that runs this notebook; does nothing outside a report.

    `value` is a number, a string, a boolean, None, a list or dictionary of these, a zero-dimensional array or tensor, or a
    DataFrame of at most 10,000 rows (its index is dropped: call `reset_index` first if you need it). Numbers, strings and
    booleans become the headline figures of the index page. NaN and infinities are stored as null. A second value under the
    same name replaces the first.

    Raises TypeError for any other kind of value, ValueError for an empty name and for a longer table: in a report or not,
    so that a notebook that works by hand works in a report too.

    The value is appended, as one line of JSON, to the file that `WORKBENCH_RECORDS` names, and reaches the disk before
    the call returns: what was recorded before a kernel died is kept.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"a recorded value needs a name, got {name!r}")
    is_table = isinstance(value, pd.DataFrame)
    plain = _table(name, value) if isinstance(value, pd.DataFrame) else _plain(name, value)
    line = json.dumps({"name": name, "value": plain, "unit": unit, "is_table": is_table}, allow_nan=False)
    if path := os.environ.get(RECORDS_FILE):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_records(path: Path) -> list[Record]:
    """What a notebook recorded, in the order of first mention; empty if the file is missing.

    A last line that was cut off, by a kernel that died while it wrote, is left out.
    """
    if not path.is_file():
        return []
    records: dict[str, Record] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = Record(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue
        records[entry.name] = entry
    return list(records.values())


def _table(name: str, table: pd.DataFrame) -> Json:
    if len(table) > MOST_ROWS:
        raise ValueError(
            f"the table {name!r} has {len(table):,} rows; a report keeps at most {MOST_ROWS:,}: record a summary of it"
        )
    columns: list[Json] = [str(column) for column in table.columns]
    rows: list[Json] = [
        [_plain(name, cell) for cell in row] for row in table.itertuples(index=False, name=None)
    ]
    return {"columns": columns, "rows": rows}


def _plain(name: str, value: Any) -> Json:
    """`value` as JSON."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, date):
        return value.isoformat()
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return _plain(name, value.item())
    if isinstance(value, dict):
        return {str(key): _plain(name, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    raise TypeError(
        f"cannot record {name!r}: {type(value).__name__} is neither a number, a string, a boolean, a list or "
        "dictionary of these, nor a DataFrame"
    )
