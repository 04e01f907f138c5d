"""Stored states: what a page shows is what the dashboard shows, in every state, within the room that a page has."""

import base64
import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from workbench.explore.stored_states import Choice, only, store, unpack
from workbench.explore.widgets import MetricExplorer

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
NUMBERS = np.random.default_rng(0).normal(size=(20, 500))


def controls(page: Mapping[str, Any]) -> dict[str, Any]:
    return {control["name"]: control for group in page["groups"] for control in group["controls"]}


def bare(figure: dict[str, Any]) -> dict[str, Any]:
    """Plotly's JSON without what a live figure has besides: a width, and numbers of its traces."""
    traces = [{name: part for name, part in trace.items() if name != "uid"} for trace in figure["data"]]
    return {
        "data": traces,
        "layout": {n: p for n, p in figure["layout"].items() if n not in ("width", "height")},
    }


def picture(values: Mapping[str, Any]) -> go.Figure:
    """Two traces, of which one changes with `a` and the other with `b`; 7 and 3 do not go together."""
    if (values["a"], values["b"]) == (7, 3):
        raise ValueError("7 <and> 3")
    return go.Figure([go.Scatter(y=NUMBERS[values["a"]]), go.Scatter(y=NUMBERS[values["b"]])])


def choice(name: str, count: int, start: int, ordered: bool = True) -> Choice:
    return Choice(name, tuple(range(count)), tuple(map(str, range(count))), start, ordered)


def test_every_stored_state_is_what_the_dashboard_shows() -> None:
    explorer = MetricExplorer(RESULTS)
    page = explorer.page()
    states, found = unpack(page["states"]), controls(page)
    assert page["order"] == ["metric", "view", "k"]
    assert len(states) == 3 * 2 * 3
    labels = [found[name]["labels"] for name in page["order"]]
    for state, chosen in zip(states, itertools.product(*labels), strict=True):
        metric, view, k = chosen
        for name, value in (("metric", metric), ("view", view), ("k", int(k))):
            explorer.controls[name].value = value
        assert bare(state) == bare(json.loads(go.Figure(explorer.figure).to_json())), chosen


def test_traces_are_left_out_by_legend_group_or_name() -> None:
    figure = go.Figure([go.Bar(name="a &lt;b&gt;"), go.Bar(name="x", legendgroup="c"), go.Bar(name="d")])
    figure.add_annotation(text="of c", name="c").add_annotation(text="of nobody")
    kept = only(figure, ["a <b>", "c"], ["a <b>"])
    assert [trace.name for trace in kept.data] == ["a &lt;b&gt;", "d"]
    assert [note.text for note in kept.layout.annotations] == ["of nobody"]


def test_an_error_is_a_state_too_and_shared_parts_are_stored_once() -> None:
    kept, text = store(picture, [choice("a", 8, 0), choice("b", 4, 0)], largest=10**6)
    states = unpack(text)
    assert [len(c.values) for c in kept] == [8, 4]
    assert states[-1] == {"error": "ValueError: 7 <and> 3"}
    y = states[4 * 2 + 3]["data"][1]["y"]
    assert y["dtype"] == "f4"
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(y["bdata"]), np.float32), NUMBERS[3], rtol=1e-6)
    once = store(picture, [choice("a", 8, 0)._of([0]), choice("b", 8, 0)], largest=10**6)[1]
    assert len(text) < 1.3 * len(once)  # 32 states of the same eight arrays


def test_states_that_do_not_fit_lose_values_of_sliders_first() -> None:
    both = [choice("kind", 2, 1, ordered=False), choice("place", 17, 5)]

    def draw(values: Mapping[str, Any]) -> go.Figure:
        return go.Figure(go.Scatter(y=NUMBERS[(values["kind"] + values["place"]) % 20] + values["kind"]))

    whole, text = store(draw, both, largest=10**6)
    assert [len(c.values) for c in whole] == [2, 17]
    less, shorter = store(draw, both, largest=len(text) // 2)
    assert [len(c.values) for c in less] == [2, 8]
    assert less[1].values[less[1].start] == 5
    least, _ = store(draw, both, largest=1)
    assert [(len(c.values), c.values[c.start]) for c in least] == [(1, 1), (1, 5)]
    assert len(unpack(shorter)) == 16


@pytest.mark.parametrize("count", [30, 1000])
def test_never_more_states_than_a_report_has_time_for(count: int) -> None:
    drawn: list[object] = []

    def draw(values: Mapping[str, Any]) -> go.Figure:
        drawn.append(values)
        return go.Figure()

    kept, _ = store(draw, [choice("a", count, 0), choice("b", count, 0)])
    assert len(drawn) == len(kept[0].values) * len(kept[1].values) <= 300
