import datetime

import numpy as np
import pyarrow as pa
import pytest

from workbench.data.errors import DataError
from workbench.data.times import PER_SECOND, moments

NOON = 1_700_049_600  # 2023-11-15 12:00 UTC


def seconds(values, unit=None):
    found = moments(pa.chunked_array([pa.array(values)]), unit)
    assert not found.missing.any()
    assert not any(wrong.any() for wrong, _ in found.wrong)
    return np.floor_divide(found.values, PER_SECOND[found.unit]).tolist(), found.kind


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([NOON], "seconds"),
        ([NOON * 10**3, 0], "milliseconds"),
        ([NOON * 10**6], "microseconds"),
        ([NOON * 10**9], "nanoseconds"),
        ([NOON + 0.5], "seconds"),
        ([NOON * 1e3], "milliseconds"),
        ([str(NOON)], "seconds"),
        ([f"{NOON}.25"], "seconds"),
        ([f" {NOON * 10**3} "], "milliseconds"),
        (["1.7000496e9"], "seconds"),
        (["2023-11-15T12:00:00Z"], "dates"),
        (["2023-11-15 14:00:00+02:00"], "dates"),
        (["2023-11-15 12:00:00.123456"], "dates"),
        ([datetime.datetime(2023, 11, 15, 12)], "dates"),
        ([datetime.datetime(2023, 11, 15, 12, tzinfo=datetime.UTC)], "dates"),
    ],
)
def test_each_way_to_write_noon(values, kind):
    found, said = seconds(values)
    assert found[0] == NOON
    assert kind in said


@pytest.mark.parametrize("values", [["2023-11-15"], [datetime.date(2023, 11, 15)], [20231115], ["20231115"]])
def test_days(values):
    assert seconds(values)[0] == [NOON - NOON % 86_400]


def test_a_unit_that_is_named_counts():
    assert seconds([20231115], "s")[0] == [20231115]
    assert seconds([5, 1_700_000_000_000], "ms")[0] == [0, 1_700_000_000]


def wrong_rows(values):
    found = moments(pa.chunked_array([pa.array(values)]))
    rows = {what: np.flatnonzero(wrong).tolist() for wrong, what in found.wrong if wrong.any()}
    return np.flatnonzero(found.missing).tolist(), rows


@pytest.mark.parametrize(
    ("values", "missing", "message", "rows"),
    [
        ([5, None, 7], [1], None, None),
        (["5", "", "late", "6"], [1], "must be a date", [2]),
        (["2020-01-01", "31.12.2020", " "], [2], "must be a date", [1]),
        (["2020-01-01", "2020-01-02", "7"], [], "must be a date", [2]),
        ([5, -1], [], "is negative or before 1970", [1]),
        (["1969-12-31", "1970-01-02"], [], "is negative or before 1970", [0]),
        ([5.0, float("inf"), float("nan")], [2], "must be a date", [1]),
        ([0, NOON, NOON * 1000], [], "must be of one unit, and the largest seems to be milliseconds", [1]),
        ([1, 1e300], [], "must be a date", [1]),
        (np.array([2**64 - 1, 1], np.uint64), [], "must be a date", [0]),
    ],
)
def test_problems_of_times(values, missing, message, rows):
    found_missing, found = wrong_rows(values)
    assert found_missing == missing
    assert len(found) == (message is not None)
    for what, where in found.items():
        assert what.startswith(message)
        assert where == rows


def test_a_type_that_is_no_time():
    with pytest.raises(DataError, match="must hold dates or numbers, but its type is bool"):
        moments(pa.chunked_array([pa.array([True])]))
