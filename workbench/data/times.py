"""Times in common formats: dates, or numbers whose unit is inferred from their size."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from workbench.data.errors import DataError
from workbench.data.values import empty_of, integers_of, is_text, numbers_of

TimeUnit = Literal["s", "ms", "us", "ns"]
PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NAMES: dict[TimeUnit, str] = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}
_LEAST: dict[TimeUnit, float] = {"s": 0, "ms": 1e11, "us": 1e14, "ns": 1e17}
"""What numbers of a unit reach: a moment of 1973 in this unit, and of the year 5138 in the next coarser one."""
_FORMS = "a date like 2024-01-31 or 2024-01-31T18:30:00Z, or a number of seconds, ms, us or ns since 1970"


@dataclass(frozen=True)
class Moments:
    """`values` (rows,) since 1970 in `unit`, 0 for those that are `missing` or `wrong`; `kind` describes what was found.

    `wrong` are pairs of marks (rows,) and what these rows should contain.
    """

    values: NDArray[Any]
    unit: TimeUnit
    kind: str
    missing: NDArray[np.bool_]
    wrong: tuple[tuple[NDArray[np.bool_], str], ...]


def moments(column: pa.ChunkedArray, unit: TimeUnit | None = None) -> Moments:
    """The times of a column, of type date, number or text; text is read as numbers if half of it is, and else as ISO 8601.

    Dates without a time zone are UTC. Numbers are of `unit`; if it is None, of the coarsest unit in which the largest one lies
    before the year 5138, or days if all are written YYYYMMDD. Wrong are values of another form, before 1970, and, if `unit`
    is None, numbers too small for it (other than 0).

    Raises DataError if the column's type is no time.
    """
    missing = empty_of(column)
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if pa.types.is_date(kind):
            column = column.cast(pa.timestamp("s" if kind == pa.date32() else "ms"))
        values = column.cast(pa.int64()).fill_null(0).to_numpy()
        return _positive(values, column.type.unit, "dates", missing, ~missing)
    if is_text(column) and numbers_of(column)[1].sum() * 2 < (~missing).sum():
        dates = pd.to_datetime(column.to_pandas().str.strip(), format="ISO8601", utc=True, errors="coerce")
        parsed = dates.notna().to_numpy()
        values = np.where(parsed, dates.to_numpy(np.dtype("datetime64[us]")).astype(np.int64), 0)
        return _positive(values, "us", "dates", missing, parsed)
    if not (
        is_text(column)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    ):
        raise DataError(f"must hold dates or numbers, but its type is {kind}")
    return _numbers(column, unit, missing)


def _numbers(column: pa.ChunkedArray, unit: TimeUnit | None, missing: NDArray[np.bool_]) -> Moments:
    values: NDArray[Any]
    values, right = integers_of(column)
    if not right.all():
        fractions, right = numbers_of(column)
        right &= np.abs(fractions) < 2**63
        if not (fractions[right] == np.trunc(fractions[right])).all():
            values = np.where(right, fractions, 0)
        else:
            values = np.where(right, fractions, 0).astype(np.int64)
    if unit is None and (days := _days(values, right)) is not None:
        return _positive(days, "s", "days written YYYYMMDD", missing, right)
    if unit is not None:
        return _positive(values, unit, f"{_NAMES[unit]} since 1970", missing, right)
    largest = np.abs(values).max(initial=0)
    unit_found = next(name for name, least in reversed(_LEAST.items()) if largest >= least)
    found = _positive(values, unit_found, f"{_NAMES[unit_found]} since 1970", missing, right)
    small = right & (values != 0) & (np.abs(values) < _LEAST[unit_found])
    mixed = (
        f"must be of one unit, and the largest seems to be {_NAMES[unit_found]} (--time-unit names the unit)"
    )
    return Moments(values, unit_found, found.kind, missing, (*found.wrong, (small, mixed)))


def _positive(
    values: NDArray[Any], unit: TimeUnit, kind: str, missing: NDArray[np.bool_], right: NDArray[np.bool_]
) -> Moments:
    wrong = (~right & ~missing, f"must be {_FORMS}"), (values < 0, "is negative or before 1970")
    return Moments(values, unit, kind, missing, wrong)


def _days(values: NDArray[Any], right: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Seconds since 1970 if all values are days written YYYYMMDD, of the years 1970 to 2100; else None."""
    written = values[right]
    if (
        not len(written)
        or written.dtype.kind != "i"
        or not ((written > 19700000) & (written < 21010000)).all()
    ):
        return None
    distinct, codes = np.unique(written, return_inverse=True)
    days = pd.to_datetime(pd.Series(distinct).astype("str"), format="%Y%m%d", errors="coerce")
    if days.isna().any():
        return None
    seconds = np.zeros(len(values), dtype=np.int64)
    seconds[right] = days.to_numpy(np.dtype("datetime64[s]")).astype(np.int64)[codes]
    return seconds
