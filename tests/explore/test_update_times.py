"""Changes of a dashboard's controls, timed one by one and summed up."""

import time
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
import pytest

from workbench.explore.update_times import answers, update_times
from workbench.explore.widgets import Dashboard


class Sleeping(Dashboard):
    """It sleeps for a hundredth of a second at every change."""

    def __init__(self) -> None:
        super().__init__("asleep", {"a group": {"k": widgets.IntSlider(value=1)}})

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        time.sleep(0.01)
        return go.Figure(layout_title_text=str(values["k"]))


@pytest.fixture
def dashboard() -> Dashboard:
    return Sleeping()


def test_only_real_changes_are_timed(dashboard: Dashboard) -> None:
    times = update_times(dashboard, [("k", 2), ("k", 2), ("k", 3)])
    assert list(times["control"]) == ["k", "k"]
    assert (times["seconds"] >= 0.01).all()


def test_answers_are_milliseconds_by_dashboard_in_the_order_given(dashboard: Dashboard) -> None:
    found = answers({"z": (dashboard, [("k", 2), ("k", 3)]), "a": (dashboard, [("k", 4)])})
    assert list(found.columns) == ["dashboard", "p50", "p95", "computing, p50", "computing, p95"]
    assert list(found["dashboard"]) == ["z", "a"]
    assert (found["p50"] >= 10).all()
    assert (found["p95"] >= found["p50"]).all()
    assert (found["computing, p50"] < found["p50"]).all()
