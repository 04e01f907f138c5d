"""The dashboards of a mixture's parts, from Python: every control to its ends, hostile titles, empty selections."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from workbench import anatomy
from workbench.anatomy import ModelView
from workbench.data import Sequences
from workbench.encoders import SASRecConfig
from workbench.explore import anatomy as drawn
from workbench.explore import anatomy_widgets, component_figures
from workbench.explore.anatomy_widgets import (
    ComponentMap,
    ComponentUsage,
    ScoreAnatomy,
    SideBySide,
)
from workbench.explore.template import plain
from workbench.explore.widgets import HEADLESS, Dashboard
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import DotConfig, MoLConfig, SimilarityConfig

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
ESCAPED = "&lt;script&gt;"


@pytest.fixture(scope="module")
def world(cycles: Callable[..., Sequences]) -> Sequences:
    """30 items with two genres, of which one has markup for a title and a genre, and two share a title."""
    sequences = cycles()
    titles = ["The Twin", "The Twin", HOSTILE, *(f"item {i}" for i in range(3, 30))]
    genres = ["even" if i % 2 == 0 else "odd|late" for i in range(30)]
    genres[2] = HOSTILE
    return replace(sequences, items=sequences.items.assign(title=titles, genres=genres))


def subject(world: Sequences, similarity: SimilarityConfig, name: str) -> ModelView:
    retriever = Retriever(RetrieverConfig(SASRecConfig(1, 1, 8, 0.0), similarity, 8, 12), world.num_items)
    with torch.no_grad():
        retriever.item_table.weight.mul_(40)
    return ModelView.of(name, retriever.eval(), world)


@pytest.fixture(scope="module")
def mol(world: Sequences) -> ModelView:
    return subject(
        world,
        MoLConfig(3, 2, 4, query_hidden=8, gate_query=6, gate_item=6, gate_pair=6),
        "SASRec + MoL",
    )


@pytest.fixture(scope="module")
def dot(world: Sequences) -> ModelView:
    return subject(world, DotConfig(), "SASRec + dot")


@pytest.fixture
def score(mol: ModelView) -> ScoreAnatomy:
    return ScoreAnatomy(mol, 3)


def shown(dashboard: Dashboard) -> str:
    assert "Error" not in dashboard.status.value, dashboard.status.value
    return str(dashboard.figure.layout.title.text)


def grid(dashboard: Dashboard, place: int) -> np.ndarray[Any, Any]:
    """The values of a heatmap: 0 component scores, 1 weights, 2 products."""
    heatmaps = [trace for trace in dashboard.figure.data if trace.type == "heatmap"]
    return np.array(heatmaps[place].z)


def test_the_first_view_is_the_item_that_came_next(score: ScoreAnatomy, mol: ModelView) -> None:
    item = mol.target(3)
    expected = mol.scores(np.array([3]))[0, item - 1]
    assert score.values["item"] == f"came next: item {item - 1}"
    assert f"φ(user 3, item {item - 1}) = {expected:.2f}, rank" in shown(score)
    np.testing.assert_allclose(grid(score, 0) * grid(score, 1), grid(score, 2), rtol=1e-5)
    assert grid(score, 2).sum() == pytest.approx(expected, rel=1e-4)
    table = next(trace for trace in score.figure.data if trace.type == "table")
    assert table.cells.values[0][0] == f"★\N{NO-BREAK SPACE}item\N{NO-BREAK SPACE}{item - 1}"


@pytest.mark.parametrize("user", [0, 39])
def test_another_user_brings_other_items_and_is_drawn_once(
    score: ScoreAnatomy, user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn_for: list[int] = []
    draw = ScoreAnatomy.draw
    monkeypatch.setattr(
        ScoreAnatomy, "draw", lambda self, values: (drawn_for.append(values["user"]), draw(self, values))[1]
    )
    score.controls["user"].value = user
    assert f"user {user}" in shown(score)
    assert drawn_for == [user]
    assert len(score.controls["item"].options) == 11


@pytest.mark.parametrize("end", ["min", "max"])
@pytest.mark.parametrize("name", ["τ", "T"])
def test_temperatures_to_their_ends(score: ScoreAnatomy, name: str, end: str) -> None:
    before = shown(score)
    slider = score.controls[name]
    slider.value = 10 ** getattr(slider, end)
    assert shown(score) != before
    np.testing.assert_allclose(grid(score, 1).sum(), 1, rtol=1e-4)


def test_components_are_switched_off_to_the_last_but_one_and_not_further(score: ScoreAnatomy) -> None:
    names = score.controls["off"].options
    score.controls["off"].value = names[1:]
    shown(score)
    np.testing.assert_allclose(grid(score, 1), [[1, 0], [0, 0], [0, 0]], atol=1e-6)
    score.controls["off"].value = names
    assert "leave at least one on" in score.status.value
    assert grid(score, 1)[0, 0] == pytest.approx(1)
    score.controls["off"].value = ()
    assert grid(score, 1)[0, 0] < 1


def test_items_are_found_by_a_part_of_their_title(score: ScoreAnatomy) -> None:
    score.controls["find"].value = "TWIN"
    assert set(score.controls["item"].options) == {"The Twin (item 1)", "The Twin (item 2)"}
    assert "The Twin (item" in shown(score)
    before = shown(score)
    score.controls["find"].value = "no such film"
    assert "no title contains &#x27;no such film&#x27;" in score.status.value
    assert score.figure.layout.title.text == before
    score.controls["find"].value = ""
    assert score.values["item"].startswith("came next")
    score.controls["find"].value = "twin"
    score.controls["user"].value = 5
    assert score.values["find"] == "" and "user 5" in shown(score)


def test_every_offered_item_can_be_chosen(score: ScoreAnatomy) -> None:
    for label in score.controls["item"].options:
        score.controls["item"].value = label
        assert plain(label.partition(" ")[2].removeprefix("next: ")) in shown(score)


def test_an_item_may_be_given(mol: ModelView) -> None:
    assert "user 3, item 20)" in shown(ScoreAnatomy(mol, 3, item=21))


def test_an_item_of_the_history_has_no_rank(score: ScoreAnatomy) -> None:
    score.controls["find"].value = "item 9"
    assert "in the history" in shown(score)


def test_a_hostile_title_stays_text(mol: ModelView, dot: ModelView) -> None:
    score = ScoreAnatomy(mol, 3, item=3)
    lists = SideBySide([dot, mol], 12)
    lists.controls["k"].value = 15
    plane = ComponentMap(mol)
    plane.select([2])
    for dashboard in (score, lists, plane):
        page = go.Figure(dashboard.figure).to_json() + str(dashboard.status.value)
        assert "<script>" not in page and "<img" not in page
    assert ESCAPED in shown(score)
    assert ESCAPED in plane.listing.value and "<script>" not in plane.listing.value
    plane.controls["find"].value = HOSTILE
    assert "<b>1 selected</b>" in plane.listing.value and "<img" not in plane.listing.value


def test_lists_side_by_side(mol: ModelView, dot: ModelView) -> None:
    lists = SideBySide([dot, mol], 3)
    assert shown(lists).startswith("User 3, the item that came next: rank ")
    for name, values in {"k": (1, 15), "parts": (1, 6), "user": (0, 39)}.items():
        for value in values:
            lists.controls[name].value = value
            shown(lists)
    kinds = {trace.xaxis for trace in lists.figure.data}
    assert kinds == {"x", "x2"}
    lists.controls["k"].value = 2
    entries = anatomy.side_by_side([dot, mol], 39, 2)
    first = entries[entries["method"] == "SASRec + dot"]
    assert list(lists.figure.data[0].x) == pytest.approx(list(first["product"]), rel=1e-5)


def test_use_by_group(mol: ModelView) -> None:
    pairs = anatomy.held_out_pairs(mol)
    use = ComponentUsage({"one": (mol, pairs), "two": (mol, pairs)})
    use.controls["pairs ≥"].value = 1
    for name in ("measure", "group by", "model"):
        for option in use.controls[name].options:
            use.controls[name].value = option
            shown(use)
    use.controls["less mean"].value = True
    assert "minus the mean" in shown(use)
    np.testing.assert_allclose(grid(use, 0).mean(0), 0, atol=1e-9)
    use.controls["pairs ≥"].value = 10**6
    assert "no group has 1,000,000 pairs" in use.status.value
    with pytest.raises(ValueError, match="no mixture"):
        ComponentUsage({})


def test_the_map_lists_what_the_lasso_holds(mol: ModelView) -> None:
    plane = ComponentMap(mol)
    assert "Nothing is selected" in plane.listing.value
    assert plane.figure.data[0].type == "scattergl" and len(plane.figure.data[0].x) == 30
    plane._lassoed(None, SimpleNamespace(point_inds=[4, 7]), None)
    assert "2 selected" in plane.listing.value and "item 7" in plane.listing.value
    plane.controls["colour"].value = "popularity decile"
    assert list(plane.figure.data[0].selectedpoints) == [4, 7]
    plane._lassoed(None, SimpleNamespace(point_inds=[]), None)
    assert "Nothing is selected" in plane.listing.value
    for name in ("colour", "vectors"):
        for option in plane.controls[name].options:
            plane.controls[name].value = option
            shown(plane)
    plane.controls["find"].value = "ITEM"
    assert "27 selected" in plane.listing.value
    assert len(plane.figure.data[0].selectedpoints) == 27
    plane.controls["find"].value = ""
    assert plane.figure.data[0].selectedpoints is None


def test_the_callback_of_the_lasso_is_the_first_traces(mol: ModelView) -> None:
    plane = ComponentMap(mol)
    plane.controls["colour"].value = "dominant component"
    plane.figure.data[0]._dispatch_on_selection(SimpleNamespace(point_inds=[1]), None)
    assert "1 selected" in plane.listing.value
    plane.figure.data[0]._dispatch_on_deselect(None)
    assert "Nothing is selected" in plane.listing.value


def test_headless_each_shows_its_twin(
    mol: ModelView, dot: ModelView, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.explore import stored_states, widgets

    monkeypatch.setenv(HEADLESS, "1")
    monkeypatch.setattr(stored_states, "MOST_STATES", 12)
    pairs = anatomy.held_out_pairs(mol)
    for dashboard in (
        ScoreAnatomy(mol, 3),
        SideBySide([dot, mol], 3),
        ComponentUsage({"m": (mol, pairs)}),
        ComponentMap(mol),
    ):
        out: list[Any] = []
        monkeypatch.setattr(widgets, "display", lambda bundle, raw, out=out: out.append(bundle))
        dashboard._ipython_display_()
        titles = {
            state["layout"]["title"]["text"]
            for state in stored_states.unpack(out[0][stored_states.MIME]["states"])
        }
        assert go.Figure(dashboard.figure).layout.title.text in titles


def test_a_page_shows_the_next_item_of_another_user(mol: ModelView, monkeypatch: pytest.MonkeyPatch) -> None:
    anatomy_of_3 = ScoreAnatomy(mol, 3)
    other = next(user for user in anatomy_of_3.page_values()["user"] if user != 3)
    shown = anatomy_of_3.draw(anatomy_of_3.page_state({**anatomy_of_3.values, "user": other, "T": 4.0}))
    there = ScoreAnatomy(mol, other)
    there.controls["T"].value = 4.0
    assert shown.layout.title.text == there.figure.layout.title.text
    assert shown.layout.title.text != anatomy_of_3.figure.layout.title.text


def test_a_dot_product_is_not_taken_apart(dot: ModelView) -> None:
    for dashboard in (lambda: ScoreAnatomy(dot, 0), lambda: ComponentMap(dot)):
        with pytest.raises(ValueError, match="no Mixture-of-Logits"):
            dashboard()


def test_a_large_mixture_is_drawn_with_what_gives_most() -> None:
    p = 64
    i, j = np.divmod(np.arange(p), 8)
    parts = pd.DataFrame(
        {
            "component": [f"f{a + 1}·g{b + 1}" for a, b in zip(i, j, strict=True)],
            "query_group": i + 1,
            "item_group": j + 1,
        }
    ).assign(
        score=1.0, weight=1 / p, product=np.arange(p) / p, off=False, score_without=1.0, rank_without=np.nan
    )
    curve = pd.DataFrame(
        {"temperature": [0.01, 0.1], "score": [2.0, 1.0], "rank": [1, 1], "mean": [0.0, 0.0]}
    )
    history = pd.DataFrame({"title": ["x"], "held_out": [True]})
    figure = drawn.score_parts(parts, curve, history, "t", 0.05)
    bars = next(trace for trace in figure.data if trace.type == "waterfall")
    assert len(bars.x) == drawn.MOST_BARS + 2 and bars.x[-2] == "52 more"
    assert sum(bars.y[:-1]) == pytest.approx(bars.y[-1])
    with pytest.raises(ValueError, match="empty"):
        drawn.score_parts(parts.iloc[:0], curve, history, "t", 0.05)


def test_bars_of_balance_and_of_what_is_switched_off(mol: ModelView) -> None:
    parts, _ = anatomy.balance({"m": (mol, anatomy.held_out_pairs(mol))})
    balance = component_figures.balance_bars(pd.concat([parts, parts.assign(model="other")]))
    assert balance.layout.shapes[0].line.color not in {bars.marker.color for bars in balance.data}
    shares = balance.data[0].y
    assert list(shares) == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    worth = anatomy.ablate_components(mol, np.arange(10))
    assert list(component_figures.switched_off_bars(worth).data[0].x) == anatomy.component_names(
        mol.retriever.similarity
    )
    with pytest.raises(ValueError, match="empty"):
        component_figures.switched_off_bars(worth.iloc[:1])


def test_examples_hold() -> None:
    import doctest

    assert doctest.testmod(drawn).failed == doctest.testmod(anatomy_widgets).failed == 0
