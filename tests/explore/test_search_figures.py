"""Figures of the search bench: what stands in them, for small tables."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.bench.methods import OWN_SCORE
from workbench.explore import search_figures as figures
from workbench.explore.figures import translucent
from workbench.explore.template import ORANGE, method_style

TABLE = pd.DataFrame(
    [
        ("reference implementation", "reference implementation", "", 100, 80.0, np.nan, np.nan, np.nan, np.nan, 1000.0, 2.0),
        ("brute force", "brute force", "", 100, 20.0, 1.0, 1.0, 1.0, 1.0, 100.0, 2.0),
        ("average (n2=500)", "average", "n2=500", 100, 4.0, 0.99, 1.0, 0.0, 0.6, 10.0, 0.5),
        ("average (n2=200)", "average", "n2=200", 100, 2.0, 0.95, 0.98, 0.0, 0.3, 10.0, 0.5),
        (
            "average, FAISS IVF (n2=200)",
            "average, FAISS IVF",
            "n2=200",
            100,
            1.0,
            0.9,
            0.95,
            0.0,
            0.1,
            0.0,
            np.nan,
        ),
    ],
    columns=["label", "method", "setting", "k", "p50_ms", "recall", "relative_hr", "certified", "matches_brute_force",
             "memory_mb", "roofline_ms"],
)  # fmt: skip


def named(figure: go.Figure) -> dict[str, object]:
    return {trace.name: trace for trace in figure.data}


def test_the_frontier_joins_the_settings_of_a_method_and_leaves_out_what_has_no_recall():
    figure = figures.frontier(TABLE)
    traces = named(figure)
    assert list(traces) == [figures.FRONT, "brute force", "average", "average, FAISS IVF"]
    assert traces["average"].x.tolist() == pytest.approx([2.0, 1.30103]) and traces["average"].y.tolist() == [
        4.0,
        2.0,
    ]
    assert traces["brute force"].x.tolist() == [figures.NINES_AT_MOST]
    ticks = dict(zip(figure.layout.xaxis.ticktext, figure.layout.xaxis.tickvals, strict=True))
    assert ticks == pytest.approx({"0": 0, "0.9": 1, "0.99": 2, "0.999": 3, "1": 4}, abs=1e-5)
    assert figure.layout.yaxis.type == "log"
    assert "overlap recall@100" in figure.layout.xaxis.title.text


def test_marks_grow_with_memory():
    traces = named(figures.frontier(TABLE))
    open_mark, filled = (traces[n].marker.color for n in ("average, FAISS IVF", "average"))
    assert open_mark == ORANGE and filled == translucent(ORANGE, 0.5)  # marks under a filled one are seen
    sizes = [traces[n].marker.size[0] for n in ("average, FAISS IVF", "average", "brute force")]
    assert sizes[0] == figures.SMALLEST < sizes[1] < sizes[2] == figures.LARGEST
    same = figures.frontier(TABLE.drop(columns="memory_mb"))
    assert {float(s) for trace in same.data[1:] for s in trace.marker.size} == {10.0}


def test_the_other_recall_is_the_same_figure_of_another_column():
    figure = figures.frontier(TABLE, "relative_hr", title="a <b>")
    assert named(figure)["average"].x.tolist() == [1.0, 0.98]
    assert "hit rate@100" in figure.layout.xaxis.title.text and figure.layout.title.text == "a &lt;b&gt;"


def test_methods_keep_their_colour_behind_other_engines():
    own, other = figures.searcher_style("average"), figures.searcher_style("average, FAISS IVF")
    assert own.color == other.color and own.symbol != other.symbol
    variants = (
        "average, FAISS IVF",
        "average, FAISS HNSW",
        "brute force, int16",
        "graph, certified",
        "cascade",
    )
    marks = {(s.color, s.symbol) for s in map(figures.searcher_style, (*figures.STYLES, *variants[:-1]))}
    assert len(marks) == len(figures.STYLES) + len(variants) - 1
    assert len({figures.searcher_style(name).symbol.removesuffix("-open") for name in variants}) == len(
        variants
    )
    lines = [(s.color, s.dash) for name, s in figures.STYLES.items() if name not in OWN_SCORE.values()]
    assert len(set(lines)) == len(lines)
    colors = [s.color for name, s in figures.STYLES.items() if name not in OWN_SCORE.values()]
    assert len(set(colors)) == len(colors)
    assert len({style.symbol for style in figures.STYLES.values()}) == len(figures.STYLES)


@pytest.mark.parametrize("method", OWN_SCORE.values())
def test_a_method_with_a_score_of_its_own_is_drawn_in_its_colour_and_dashed(method):
    style = figures.searcher_style(method)
    assert style.color == method_style(method).color and style.dash != "solid"


def test_proofs_show_both_shares_of_every_contender():
    figure = figures.proofs(TABLE)
    bars = [trace for trace in figure.data if trace.legendgroup]
    assert [bar.name for bar in bars] == ["matches brute force", "certified"] * 3
    assert bars[-1].y == ("brute force",) and [x for bar in bars[::2] for x in bar.x] == [0.1, 0.3, 0.6, 1.0]
    assert {trace.name for trace in figure.data if trace.showlegend is not False} == {
        "certified",
        "matches brute force",
    }


def test_growth_names_the_fitted_exponents():
    table = pd.DataFrame(
        {"label": "brute force", "method": "brute force", "items": [100, 10], "p50_ms": [5.0, 1.0]}
    )
    fits = pd.DataFrame({"label": ["brute force"], "exponent": [0.7], "high": [0.8]})
    (trace,) = figures.growth(table, fits).data
    assert trace.name == "brute force ∝ N^0.70 ± 0.10" and trace.x.tolist() == [10, 100]
    (plain,) = figures.growth(table).data
    assert plain.name == "brute force"


def test_lines_of_growth_look_as_everywhere_else_and_no_two_the_same():
    methods = ["average", "average, FAISS IVF", "cascade", "cascade", "brute force", "brute force, int16"]
    rows = [(f"{m} {n}", m, items, 1.0) for n, m in enumerate(methods) for items in (10, 100)]
    lines = figures.growth(pd.DataFrame(rows, columns=["label", "method", "items", "p50_ms"])).data
    assert len({(line.line.color, line.line.dash) for line in lines}) == len(methods)
    assert lines[1].line.dash == figures.searcher_style("average, FAISS IVF").dash


def test_the_roofline_leaves_out_what_is_not_known():
    figure = figures.roofline_bars(TABLE)
    traces = named(figure)
    assert len(figure.data[-1].x) == 4
    assert traces["measured median"].marker.symbol == "circle"  # no method's own
    assert traces["shortest time by the roofline"].x.tolist() == [0.5, 0.5, 2.0, 2.0]


def test_bytes_of_an_item_are_stacked():
    parts = pd.DataFrame({"label": ["a", "b"] * 2, "part": ["x", "x", "y", "y"], "bytes": [1, 2, 3, 4]})
    figure = figures.memory_per_item(parts)
    assert figure.layout.barmode == "stack"
    assert {name: trace.x.tolist() for name, trace in named(figure).items()} == {"x": [1, 2], "y": [3, 4]}


@pytest.mark.parametrize(
    "draw", [figures.frontier, figures.proofs, figures.growth, figures.roofline_bars, figures.memory_per_item]
)
def test_tables_without_what_is_needed_are_refused(draw):
    with pytest.raises(ValueError, match="lacks the column"):
        draw(pd.DataFrame({"other": [1]}))
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(pd.DataFrame(columns=[*TABLE.columns, "items", "part", "bytes"]))


def test_a_table_without_any_recall_is_refused():
    with pytest.raises(ValueError, match="no row of the table has a recall"):
        figures.frontier(TABLE.assign(recall=np.nan))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_pareto_front_holds_what_nothing_beats(points):
    gain, cost = (pd.Series([p[at] for p in points], dtype=float) for at in (0, 1))
    front = set(figures.pareto(gain, cost))
    for row in range(len(points)):
        better = ((gain >= gain[row]) & (cost <= cost[row]) & ((gain > gain[row]) | (cost < cost[row]))).any()
        equal = any(gain[f] == gain[row] and cost[f] == cost[row] for f in front)
        assert equal != better
    assert gain[list(figures.pareto(gain, cost))].is_monotonic_increasing


@pytest.mark.parametrize("cost", figures.COSTS)
@pytest.mark.parametrize("measure", figures.MEASURES)
def test_every_cost_against_every_measure(measure, cost):
    rows = TABLE.assign(
        batch_size=4, p95_ms=2 * TABLE["p50_ms"], build_s=0.5, num_scored=9.0, memory_mb=3.0, hit_rate=0.2,
        relative_hr=0.9, certified=0.5,
    )  # fmt: skip
    figure = figures.frontier(rows, measure, cost=cost)
    assert figure.layout.yaxis.title.text == figures.COSTS[cost]
    average = named(figure)["average"]
    expected = figures.per_query_costs(rows).set_index("method").loc[["average"], cost]
    assert list(average.y) == pytest.approx(expected.tolist())
    if cost == "p50_query_ms":
        assert expected.tolist() == pytest.approx(
            (rows.set_index("method").loc[["average"], "p50_ms"] / 4).tolist()
        )


def test_failing_queries_are_listed_by_searcher_the_hardest_first():
    queries = pd.DataFrame(
        {
            "label": ["a"] * 3 + ["b"] * 3, "query": [0, 1, 2] * 2, "recall": [1.0, 0.5, 0.9, 1.0, 0.0, 1.0],
            "exact": False, "hit": [1.0, 0.0, float("nan")] * 2,
        }
    )  # fmt: skip
    (cells,) = figures.failing(queries).data
    rows = [row[~np.isnan(row)].tolist() for row in np.array(cells.z, dtype=float)]
    assert rows == [[1.0], [], [0.5, pytest.approx(0.1)], []]  # b, a room for its label, a, another
    assert list(cells.x) == [1, 2] and len(cells.y) == len(cells.z) + 1
    assert list(figures.failing(queries).layout.yaxis.ticktext) == ["b: 1 of 3", "a: 2 of 3"]
    texts = [[text for text in row if text] for row in cells.text]
    assert texts[0] == ["query 1: recall 0.00, label not found"]
    assert texts[2] == ["query 1: recall 0.50, label not found", "query 2: recall 0.90, no label"]
    (none,) = figures.failing(queries.assign(recall=1.0)).data
    assert len(none.x) == 0


def test_a_brush_lists_what_the_chosen_settings_lose():
    losses = {"average (n2=500)": [1.0, 0.9, 1.0], "average (n2=200)": [0.5, 0.8, 1.0]}
    queries = pd.DataFrame(
        [(label, q, recall) for label, values in losses.items() for q, recall in enumerate(values)],
        columns=["label", "query", "recall"],
    )
    figure = figures.brushed(figures.frontier(TABLE), queries)
    labels = [mark[1] for trace in figure.data if trace.customdata is not None for mark in trace.customdata]
    assert set(labels) == set(TABLE["label"]) - {"reference implementation"}
    summary, rows = figures.failing_in(figure.layout.meta, labels)
    assert summary == "2 settings chosen: 2 of 3 queries lose a true item."
    assert rows == [(0, 1, 0.5), (1, 2, pytest.approx(0.15))]
    summary, rows = figures.failing_in(figure.layout.meta, ["average (n2=500)"])
    assert (summary, rows) == ("1 setting chosen: 1 of 3 queries lose a true item.", [(1, 1, 0.1)])
    assert figures.brushed(figures.frontier(TABLE), queries.iloc[:0]).layout.meta is None
