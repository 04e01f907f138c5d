"""The switchboard of protocols: bars follow the switches, the strict protocol stays marked."""

from itertools import product

import pandas as pd
import pytest

from workbench.evaluation.switchboard import SHOWN, SWITCHES
from workbench.explore.protocol_figures import protocol_bars
from workbench.explore.protocol_widget import ProtocolSwitchboard

ROWS = [
    dict(zip(SWITCHES, values, strict=True))
    | {"method": method, "value": place + 100 * (method == "HSTU + MoL")}
    for method in ("HSTU + dot", "HSTU + MoL")
    for place, values in enumerate(product(*SWITCHES.values()))
]
TABLE = pd.DataFrame(ROWS)
for name in SHOWN:
    TABLE[name] = TABLE["value"] / 1000


def value(method: str, **changed: object) -> float:
    rows = TABLE[TABLE["method"] == method]
    strict = {"part": "test", "request_time": False, "history_mask": "all", "corpus": "catalogue"}
    for name, wanted in (strict | changed).items():
        rows = rows[rows[name] == wanted]
    return float(rows["MRR"].iloc[0])


def test_bars_stand_at_the_chosen_protocol_and_marks_at_the_strict_one():
    board = ProtocolSwitchboard(TABLE)
    board.controls["metric"].value = "MRR"
    board.controls["history mask"].value = "none"
    board.controls["target time"].value = "visible"
    first, second, marks = board.figure.data
    changed = {"history_mask": "none", "request_time": True}
    assert first.x[0] == value("HSTU + dot", **changed) and second.x[0] == value("HSTU + MoL", **changed)
    assert list(marks.x) == [value("HSTU + dot"), value("HSTU + MoL")]
    assert f"({first.x[0] - marks.x[0]:+.4f})" in first.text


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="lacks corpus"):
        ProtocolSwitchboard(TABLE.drop(columns="corpus"))
    with pytest.raises(ValueError, match="no rows"):
        protocol_bars(TABLE[TABLE["history_mask"] == "all"], {"history_mask": "none"})
