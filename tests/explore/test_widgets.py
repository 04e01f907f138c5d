"""Dashboards, driven from Python: a control is set, the figure follows."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from comm import DummyComm

from workbench.explore import live_figure_widget, stored_states, widgets
from workbench.explore.widgets import Dashboard, MetricExplorer
from workbench.reporting import execute, outputs

RESULTS = pd.DataFrame(
    [
        (method, f"{family}@{k}", scale * k / 1000)
        for method, scale in (("SASRec + dot", 1), ("HSTU + MoL", 2))
        for family in ("HR", "NDCG")
        for k in (1, 10, 100)
    ]
    + [("HSTU + MoL", "MRR", 0.25)],
    columns=["method", "metric", "value"],
)


class Bars(Dashboard):
    """As many bars as a slider sets, and a line above three."""

    def __init__(self) -> None:
        count = ipywidgets.IntSlider(value=2, min=0, max=9, continuous_update=False)
        super().__init__("Bars & <b>lines</b>", {"How many": {"count": count}})

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        count = values["count"]
        if count == 0:
            raise ValueError("no <bars>")
        figure = go.Figure([go.Bar(y=[1] * count)], {"title": {"text": f"{count} bars"}})
        if count > 3:
            figure.add_scatter(y=[2] * count)
        if count == 2:
            figure.update_layout(xaxis_title_text="only here")
        return figure


def kinds(dashboard: Dashboard) -> list[str]:
    return [trace.type for trace in dashboard.figure.data]


def test_the_figure_follows_the_controls() -> None:
    bars = Bars()
    assert (kinds(bars), len(bars.figure.data[0].y)) == (["bar"], 2)
    assert bars.figure.layout.xaxis.title.text == "only here"
    bars.controls["count"].value = 5
    assert (kinds(bars), len(bars.figure.data[0].y), len(bars.figure.data[1].y)) == (["bar", "scatter"], 5, 5)
    assert bars.figure.layout.title.text == "5 bars"
    assert bars.figure.layout.xaxis.title.text is None
    bars.controls["count"].value = 3
    assert kinds(bars) == ["bar"]
    assert "drawn in" in bars.status.value


def test_live_figures_have_a_width_and_their_twins_take_the_pages() -> None:
    bars = Bars()
    assert (bars.figure.layout.width, bars.figure.layout.height) == (None, 420)
    assert bars.figure._config["responsive"] is True
    assert bars.static()[1].layout.width is None


@pytest.mark.browser
def test_a_dashboard_is_saved_as_it_stands(tmp_path: Path) -> None:
    bars = Bars()
    bars.controls["count"].value = 5
    assert "5 bars" in bars.save(tmp_path / "bars.svg").read_text()
    assert bars.save(tmp_path / "bars.pdf").read_bytes().startswith(b"%PDF")


def test_traces_are_changed_and_not_replaced() -> None:
    bars = Bars()
    trace = bars.figure.data[0].uid
    bars.controls["count"].value = 7
    assert bars.figure.data[0].uid == trace


def test_an_update_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = Bars()
    sent: list[str] = []
    for name in (
        "_send_update_msg",
        "_send_restyle_msg",
        "_send_relayout_msg",
        "_send_addTraces_msg",
        "_send_deleteTraces_msg",
    ):
        monkeypatch.setattr(type(bars.figure), name, lambda *_, name=name, **__: sent.append(name))
    bars.controls["count"].value = 3
    assert sent == ["_send_update_msg"]


def test_an_error_shows_in_the_status_line_and_the_figure_stays() -> None:
    bars = Bars()
    bars.controls["count"].value = 0
    assert "ValueError: no &lt;bars&gt;" in bars.status.value
    assert bars.figure.layout.title.text == "2 bars"
    bars.controls["count"].value = 1
    assert "ValueError" not in bars.status.value


class Shy(Dashboard):
    """Two controls of which the first sets the second, before a figure is drawn and while one is."""

    def __init__(self, meanwhile: bool) -> None:
        self.drawn: list[tuple[int, int]] = []
        self.meanwhile = meanwhile
        first, second = ipywidgets.IntSlider(), ipywidgets.IntSlider()
        first.observe(lambda change: second.set_trait("value", 10 * change["new"]), names="value")
        super().__init__("Shy", {"Numbers": {"first": first, "second": second}})

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        self.drawn.append((values["first"], values["second"]))
        if self.meanwhile and values["first"] == 3:
            self.controls["first"].value = 4
        return go.Figure(layout_title_text=f"{values['first']}, {values['second']}")


def test_controls_that_move_together_are_drawn_once() -> None:
    shy = Shy(meanwhile=False)
    shy.controls["first"].value = 3
    assert shy.drawn == [(0, 0), (3, 30)]
    assert shy.figure.layout.title.text == "3, 30"


def test_a_second_change_while_the_first_is_drawn_wins() -> None:
    shy = Shy(meanwhile=True)
    shy.controls["first"].value = 3
    assert shy.drawn == [(0, 0), (3, 30), (4, 40)]
    assert shy.figure.layout.title.text == "4, 40"


def test_names_of_controls_are_unique_and_titles_are_text() -> None:
    class Twice(Dashboard):
        def __init__(self) -> None:
            super().__init__("Twice", {"a": {"x": ipywidgets.IntText()}, "b": {"x": ipywidgets.IntText()}})

        def draw(self, values: Mapping[str, Any]) -> go.Figure:
            return go.Figure()

    with pytest.raises(ValueError, match="'Twice' have the same name"):
        Twice()
    assert Bars().widget.children[0].value == "<b>Bars &amp; &lt;b&gt;lines&lt;/b&gt;</b>"


def test_the_static_twin_is_what_the_controls_say_now() -> None:
    bars = Bars()
    bars.controls["count"].value = 6
    settings, figure = bars.static()
    assert settings.to_dict("records") == [{"setting": "count", "value": "6"}]
    assert type(figure) is go.Figure
    assert len(figure.data[0].y) == 6


def test_headless_the_twin_is_shown_and_otherwise_the_live_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    shown: list[Any] = []
    monkeypatch.setattr(widgets, "display", lambda what, raw=False: shown.append(what))
    monkeypatch.setenv(widgets.HEADLESS, "1")
    bars = Bars()
    bars._ipython_display_()
    assert "<td>count</td>" in shown[0]["text/html"]
    assert shown[0]["application/vnd.plotly.v1+json"]["layout"]["title"]["text"] == "2 bars"
    assert shown[0][stored_states.MIME]["title"] == "Bars & <b>lines</b>"
    monkeypatch.delenv(widgets.HEADLESS)
    bars._ipython_display_()
    assert shown[1] is bars.widget
    assert (
        "workbench-still" in shown[2].data and "2 bars" in shown[2].data
    )  # for a notebook opened without a kernel


def test_the_runner_sets_what_dashboards_ask_for() -> None:
    assert widgets.HEADLESS == execute.HEADLESS
    assert stored_states.MIME == outputs.DASHBOARD


def test_a_view_sets_the_controls_that_it_names() -> None:
    explorer = MetricExplorer(RESULTS).at("#k=100&compare-methods.metric=NDCG&other.view=every+k&user=3")
    assert explorer.values["k"] == 100
    assert (explorer.values["metric"], explorer.values["view"]) == ("NDCG", "one k")
    assert MetricExplorer(RESULTS).at("methods=HSTU+%2B+MoL").values["methods"] == ("HSTU + MoL",)
    with pytest.raises(ValueError, match="the control k cannot be set to '7'; it takes 1, 10, 100"):
        MetricExplorer(RESULTS).at("k=7")


def test_a_figure_whose_browser_lost_an_update_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widgets, "PATIENCE", 0.0)
    bars = Bars()
    first = bars.figure
    bars.controls["count"].value = 5
    assert bars.figure is first  # no browser has opened it
    opened = threading.Event()
    bars.widget.observe(lambda _: opened.set(), names="children")
    first._shown = 0  # what a browser sends that has opened the figure and received no change
    assert opened.wait(20)
    with bars.lock:
        assert bars.figure is not first and bars.figure in bars.widget.children
        assert len(bars.figure.data[0].y) == 5
        assert bars.status.value == widgets.LOST
        assert first.comm is not None  # a slow browser may have yet to make the box that first held it


def test_a_figure_that_hears_nothing_any_more_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widgets, "PATIENCE", 0.0)
    bars = Bars()
    first = bars.figure
    first._shown = 0  # opened, and silent from then on
    opened = threading.Event()
    bars.widget.observe(lambda _: opened.set(), names="children")
    bars.controls["count"].value = 5
    assert opened.wait(20)
    with bars.lock:
        assert bars.figure is not first
        assert len(bars.figure.data[0].y) == 5
        assert bars.status.value == widgets.LOST


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Any, Any]]:
    """Timers that were started, as (seconds, function, its arguments); none ends by itself."""
    started: list[tuple[float, Any, Any]] = []

    class Timer:
        daemon = False

        def __init__(self, seconds: float, call: Any, given: Any) -> None:
            started.append((seconds, call, given))

        def start(self) -> None: ...

    monkeypatch.setattr(widgets.threading, "Timer", Timer)
    return started


def test_a_slow_browser_gets_more_time_after_each_figure_opened_again(waiting: list[Any]) -> None:
    bars = Bars()
    for count in (3, 4, 5):
        bars.figure._shown = bars.figure.version
        bars.controls["count"].value = count
        _, call, given = waiting[-1]
        call(*given)
        assert bars.status.value == widgets.LOST
    assert [seconds / widgets.PATIENCE for seconds, *_ in waiting] == [1, 2, 4]


def test_a_figure_that_shows_its_version_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, waiting: list[Any]
) -> None:
    monkeypatch.setattr(widgets, "display", lambda *_: None)
    bars = Bars()
    bars.controls["count"].value = 3
    assert waiting == []  # nobody displayed it
    bars._ipython_display_()
    bars.controls["count"].value = 4
    bars.figure._shown = 2
    bars.controls["count"].value = 5
    assert [seconds for seconds, *_ in waiting] == [widgets.FIRST_PATIENCE, widgets.PATIENCE]
    figure = bars.figure
    figure._shown = figure.version
    for _, call, given in waiting:
        call(*given)
    assert bars.figure is figure and "drawn in" in bars.status.value


def test_methods_are_compared_at_one_k() -> None:
    explorer = MetricExplorer(RESULTS)
    assert explorer.values == {
        "metric": "HR",
        "view": "one k",
        "k": 10,
        "methods": ("SASRec + dot", "HSTU + MoL"),
    }
    assert [trace.y[0] for trace in explorer.figure.data] == [0.01, 0.02]
    explorer.controls["k"].value = 100
    explorer.controls["metric"].value = "NDCG"
    assert [trace.y[0] for trace in explorer.figure.data] == [0.1, 0.2]
    assert list(explorer.figure.data[0].x) == ["NDCG@100"]


def test_methods_are_compared_over_every_k() -> None:
    explorer = MetricExplorer(RESULTS)
    explorer.controls["view"].value = "every k"
    assert kinds(explorer) == ["scatter", "scatter"]
    explorer.controls["methods"].value = ["HSTU + MoL"]
    (line,) = explorer.figure.data
    assert list(line.y) == [0.002, 0.02, 0.2]


def test_a_metric_without_a_cut_off_is_shown_as_it_is() -> None:
    explorer = MetricExplorer(RESULTS)
    explorer.controls["metric"].value = "MRR"
    explorer.controls["view"].value = "every k"
    assert [list(trace.x) for trace in explorer.figure.data] == [["MRR"]]


def test_no_method_chosen_is_reported() -> None:
    explorer = MetricExplorer(RESULTS)
    explorer.controls["methods"].value = ()
    assert "choose at least one of the methods" in explorer.status.value
    assert len(explorer.figure.data) == 2


@pytest.mark.parametrize(
    ("table", "message"), [(RESULTS.iloc[:0], "rows"), (RESULTS[["method", "value"]], "metric")]
)
def test_a_table_that_cannot_be_shown_is_refused(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(ValueError, match=f"lacks {message}"):
        MetricExplorer(table)


def test_no_button_sends_a_figure_to_another_machine() -> None:
    assert MetricExplorer(RESULTS).figure._config["showSendToCloud"] is False
    shown = pio.renderers["plotly_mimetype"].to_mimebundle(go.Figure().to_dict())
    assert shown["application/vnd.plotly.v1+json"]["config"]["showSendToCloud"] is False


def test_a_live_figure_is_opened_once_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[dict[str, Any]] = []
    monkeypatch.setattr(
        ipywidgets.widgets.widget.comm,
        "create_comm",
        lambda **opening: opened.append(opening["data"]["state"]) or DummyComm(),
    )
    MetricExplorer(RESULTS)
    figures = [state for state in opened if "_widget_data" in state]
    assert len(figures) == 1
    assert [trace["type"] for trace in figures[0]["_widget_data"]] == ["bar", "bar"]
    assert figures[0]["_widget_layout"]["height"] == 420
    assert figures[0]["_config"]["showSendToCloud"] is False


def test_a_change_of_a_live_figure_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(DummyComm, "send", lambda self, data=None, **_: sent.append(data))
    monkeypatch.setattr(ipywidgets.widgets.widget.comm, "create_comm", lambda **kw: DummyComm(**kw))
    figure = live_figure_widget.LiveFigure(go.Figure(go.Scatter(y=[1, 2])))
    sent.clear()
    with figure.batch_update():
        figure.data[0].y, figure.layout.title.text = [3, 4], "changed"
    assert [list(message["state"]) for message in sent] == [["_py2js_update"]]
    sent.clear()
    figure.add_scatter(y=[5])
    figure.data = figure.data[:1]
    assert [list(message["state"]) for message in sent] == [["_py2js_addTraces"], ["_py2js_deleteTraces"]]


def test_the_code_of_live_figures_is_reported_once() -> None:
    first, second = (MetricExplorer(RESULTS).figure for _ in range(2))
    assert first._library == second._library != ""
    assert len(str(first._esm)) < 10_000 < len(str(go.FigureWidget._esm))
    live_figure_widget._libraries[0].close()
    third = MetricExplorer(RESULTS).figure
    assert third._library not in ("", first._library)
