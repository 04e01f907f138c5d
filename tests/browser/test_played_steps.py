"""A slider that is played on a report's page, in Chromium: buttons, keys, and where it ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import plotly.graph_objects as go
import pytest
from dashboard_page import dashboard_page

from workbench.explore.widgets import Dashboard

pytestmark = pytest.mark.browser
ENDS = {"short": 2, "long": 5}


class Steps(Dashboard):
    """Two searches, one of two steps and one of five, in two panels that may be stacked."""

    plays = "step"

    def __init__(self) -> None:
        step = ipywidgets.IntSlider(value=0, min=0, max=5)
        search = ipywidgets.Dropdown(options=list(ENDS))
        super().__init__("Steps", {"Search": {"search": search}, "Step": {"step": step}})

    def page_values(self) -> Mapping[str, Sequence[Any]]:
        return {"search": list(ENDS), "step": range(6)}

    def page_state(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**values, "step": min(values["step"], ENDS[values["search"]])}

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        text = f"{values['search']} {values['step']}, {'drawn ' * 10}"
        figure = go.Figure([go.Scatter(y=[1]), go.Scatter(y=[2], xaxis="x2", yaxis="y2")])
        return figure.update_layout(
            title=text, height=300, xaxis={"domain": [0, 0.45]},
            xaxis2={"domain": [0.55, 1], "anchor": "y2"}, yaxis2={"anchor": "x2"},
        )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return dashboard_page(tmp_path_factory.mktemp("reports"), "03_steps", Steps()).as_uri()


def title(page: Any, text: str) -> None:
    page.wait_for_function(
        "text => document.querySelector('.gtitle')?.textContent.startsWith(text)", arg=text
    )


def test_steps_are_played_to_their_end_and_moved_one_by_one(visit: Any, page: str) -> None:
    visit.page.goto(page)
    title(visit.page, "short 0,")
    slider = visit.page.locator("input[type=range]")
    visit.page.get_by_role("button", name="next").click()
    title(visit.page, "short 1,")
    slider.focus()
    visit.page.keyboard.press("ArrowLeft")
    title(visit.page, "short 0,")
    visit.page.get_by_role("button", name="play").click()
    visit.page.get_by_role("button", name="pause").wait_for()
    title(visit.page, "short 2,")
    visit.page.get_by_role(
        "button", name="play"
    ).wait_for()  # nothing changes after the second step: it has stopped
    assert slider.input_value() == "2"
    visit.page.select_option("select", "1")
    title(visit.page, "long 2,")
    visit.page.get_by_role("button", name="play").click()
    title(visit.page, "long 5,")
    visit.page.get_by_role("button", name="back").click()
    title(visit.page, "long 4,")
    visit.page.wait_for_function("location.hash.includes('step=4')")  # written once the controls rest
    assert "step=4" in visit.page.url
    assert (visit.errors, visit.outside) == ([], [])


def test_two_panels_are_stacked_on_a_phone(visit: Any, page: str) -> None:
    domains = "() => { const l = document.querySelector('.js-plotly-plot').layout; return [l.xaxis.domain, l.yaxis2.domain] }"
    visit.page.goto(page)
    title(visit.page, "short 0,")
    assert visit.page.evaluate(domains)[0] == [0, 0.45]
    visit.page.set_viewport_size({"width": 390, "height": 844})
    visit.page.reload()
    title(visit.page, "short 0,")
    wide, below = visit.page.evaluate(domains)
    assert wide == [0, 1] and below[1] < 0.5
    assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= 390
    assert visit.errors == []


class Marks(Dashboard):
    """Marks of WebGL whose states are numbers on a scale of steps, next to one whose numbers are measured."""

    colors, codes, sizes = (
        ("#ff0000", "#00ff00", "#0000ff"),
        np.array([2, 0, 2, 0], dtype=np.uint8),
        (3, 5, 8),
    )

    def __init__(self) -> None:
        super().__init__("Marks", {"Step": {"step": ipywidgets.IntSlider(value=0, min=0, max=1)}})

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        scale = [[(code + end) / 3, color] for code, color in enumerate(self.colors) for end in (0, 1)]
        sizes = np.array(self.sizes)[self.codes]
        states = {"color": self.codes, "size": sizes, "colorscale": scale, "cmin": 0, "cmax": 3}
        measured = {"color": np.linspace(0, 1, 9, dtype=np.float32), "colorscale": scale}
        return go.Figure([
            go.Scattergl(x=np.arange(4.0), y=[1, 2, 3, 4], text=list("abcd"), mode="markers", marker=states),
            go.Scattergl(y=np.arange(9.0), mode="markers", marker=measured),
            go.Scattergl(y=[0, 1], mode="markers", marker={"color": [0, 1], "colorscale": "Viridis"}),
        ])  # fmt: skip


def test_marks_of_few_colours_are_drawn_as_a_trace_of_each(visit: Any, tmp_path: Path) -> None:
    visit.page.goto(dashboard_page(tmp_path, "03_marks", Marks()).as_uri())
    visit.page.wait_for_selector(".js-plotly-plot canvas")
    first, last, measured, smooth = visit.page.evaluate(
        "() => document.querySelector('.js-plotly-plot').data.map("
        "({x, y, text, marker}) => ({x, y, text, color: marker.color, size: marker.size}))"
    )
    assert first == {"x": [1, 3], "y": [2, 4], "text": ["b", "d"], "color": "#ff0000", "size": 3}
    assert last == {"x": [0, 2], "y": [1, 3], "text": ["a", "c"], "color": "#0000ff", "size": 8}
    assert len(measured["color"]) > 1 and smooth["color"] == [0, 1]
    legends = "() => document.querySelector('.js-plotly-plot').data.map(({showlegend}) => showlegend ?? true)"
    assert visit.page.evaluate(legends) == [True, False, True, True]
    assert visit.errors == []
