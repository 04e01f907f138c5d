"""Curves that a slider reads off, and their dashboard."""

import pandas as pd
import plotly.graph_objects as go
import pytest

from workbench.explore.curve_explorer import Axes, curve_explorer
from workbench.explore.curve_explorer_widget import CurveExplorer
from workbench.explore.template import method_style

HOSTILE = "<img src=x onerror=alert(1)>"
CURVES = pd.DataFrame(
    {"curve": ["HSTU + dot"] * 3 + [HOSTILE] * 3, "x": [1, 10, 100] * 2, "y": [0.1, 0.5, 1.0, 0.2, 0.3, 0.4]}
)
SEARCHERS = ["reference implementation", "brute force", "brute force, int16", "per component (n1=50)", "average (n2=1000)",
             "average, FAISS IVF (n2=1000)", "cascade (n2=8000, keep=400)", "graph (ef=400, degree=24)"]  # fmt: skip
AXES = Axes("items <b>", "share", unit="items", share=True)


def test_each_curve_shows_its_value_where_the_mark_stands() -> None:
    figure = curve_explorer(CURVES, 10, AXES)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert [mark.y[0] for mark in marks] == [0.5, 0.3]
    assert lines[0].name == "HSTU + dot: <b>50.0%</b>" and lines[0].line.color == method_style("dot").color
    assert figure.layout.title.text == "items = 10"
    assert "<img" not in figure.to_json() and "items &lt;b" in figure.layout.xaxis.title.text


def test_a_curve_may_end_before_the_others() -> None:
    figure = curve_explorer(CURVES.iloc[:-1], 100, AXES)
    assert [len(trace.y) for trace in figure.data if trace.mode == "markers"] == [1, 0]
    assert figure.data[2].name.endswith("<b>none</b>")


@pytest.mark.parametrize(
    ("table", "at", "message"),
    [
        (CURVES, 7, "no curve has a value at 7"),
        (CURVES.iloc[:0], 1, "empty"),
        (CURVES[["x", "y"]], 1, "curve"),
    ],
)
def test_what_cannot_be_read_off_is_refused(table: pd.DataFrame, at: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        curve_explorer(table, at, AXES)


def test_axes_for_amounts() -> None:
    figure = curve_explorer(CURVES.assign(y=CURVES["y"] * 1e4), 100, Axes("items", "GB", log_y=True))
    assert figure.layout.yaxis.type == "log"
    assert figure.data[0].name == "HSTU + dot: <b>10,000</b>"
    assert curve_explorer(CURVES, 1, Axes("items", "GB")).layout.yaxis.range[0] == 0
    assert (
        curve_explorer(CURVES, 1, Axes("items", "GB", y_unit="GB")).data[0].name
        == "HSTU + dot: <b>0.1 GB</b>"
    )


def test_powers_of_ten_have_room_next_to_each_other() -> None:
    far = pd.DataFrame({"curve": "kept", "x": [10**power for power in range(2, 11)], "y": 1.0})
    assert list(curve_explorer(far, 1000, AXES).layout.xaxis.ticktext)[-2:] == ["1 G", "10 G"]


def test_a_logarithmic_axis_of_two_decades_has_more_ticks_than_their_ends() -> None:
    ticks = curve_explorer(
        CURVES.assign(y=[0.8, 5, 37] * 2), 1, Axes("k", "ms", log_y=True)
    ).layout.yaxis.tickvals
    assert sum(0.8 <= tick <= 37 for tick in ticks) == 5


def test_the_slider_moves_the_mark_to_both_ends_and_the_plot_keeps_its_size() -> None:
    dashboard = CurveExplorer("Read", CURVES, AXES, "items", "how many", start=10)
    heights = set()
    for x in (1, 100):
        dashboard.controls["items"].value = x
        assert "Error" not in dashboard.status.value
        assert dashboard.figure.data[1].x[0] == x
        heights.add(dashboard.figure.layout.height)
    assert len(heights) == 1
    settings, figure = dashboard.static()
    assert settings.to_dict("records") == [{"setting": "items", "value": "100"}]
    assert type(figure) is go.Figure


def test_a_choice_between_tables() -> None:
    other = CURVES.assign(y=0.0)
    dashboard = CurveExplorer(
        "Read", {"one": CURVES, "two": other}, AXES, "items", "how many", 1, choice="of"
    )
    dashboard.controls["of"].value = "two"
    assert list(dashboard.figure.data[0].y) == [0, 0, 0]


def test_an_error_shows_in_the_status_line() -> None:
    dashboard = CurveExplorer("Read", CURVES, AXES, "items", "how many", start=10)
    dashboard.tables[""] = CURVES.iloc[:0]
    dashboard.controls["items"].value = 1
    assert "the table is empty" in dashboard.status.value
    assert len(dashboard.figure.data) == 4


@pytest.mark.parametrize(("start", "stands"), [(10, 10), (7, 1), (1000, 100), (0, 1)])
def test_the_slider_starts_where_there_is_a_value(start: float, stands: int) -> None:
    dashboard = CurveExplorer("Read", CURVES, AXES, "items", "how many", start)
    assert dashboard.controls["items"].value == stands


@pytest.mark.parametrize(
    ("tables", "start", "message"),
    [
        (CURVES[["curve", "x"]], 1, "lacks y"),
        ({"a": CURVES, "b": CURVES.iloc[:2]}, 1, "share their values of x"),
        ({"a": CURVES.iloc[:0]}, 1, "have some"),
    ],
)
def test_tables_that_no_slider_fits_are_refused(tables: object, start: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CurveExplorer("Read", tables, AXES, "items", "how many", start)  # type: ignore[arg-type]


def test_lists_of_no_items_have_a_value_but_no_place_on_the_axis():
    curves = pd.DataFrame({"curve": ["HR@10"] * 3, "x": [0, 2, 20], "y": [0.1, 0.5, 0.9]})
    figure = curve_explorer(curves, 0, Axes("items", "share", share=True))
    assert "10.0%" in figure.data[0].name and not figure.layout.shapes
    assert all(tick > 0 for tick in figure.layout.xaxis.tickvals)
    assert curve_explorer(curves[curves["x"] == 0], 0, Axes("items", "share")).layout.xaxis.type == "linear"


def test_long_names_take_lines_of_the_legend_not_of_the_plot() -> None:
    heights = [
        curve_explorer(CURVES.replace({"curve": {HOSTILE: name}}), 1, AXES).layout.height
        for name in ("short", 60 * "long ")
    ]
    assert heights[1] > heights[0] == 400


@pytest.mark.parametrize("names", [[f"curve {place}" for place in range(25)], SEARCHERS])
def test_no_two_curves_look_the_same(names: list[str]) -> None:
    table = pd.DataFrame([(name, x, x + place) for place, name in enumerate(names) for x in (1, 2)])
    figure = curve_explorer(table.set_axis(["curve", "x", "y"], axis=1), 1, Axes("k", "ms"))
    lines = [trace.line for trace in figure.data if trace.mode == "lines"]
    assert len({(line.color, line.dash) for line in lines}) == len(names)
