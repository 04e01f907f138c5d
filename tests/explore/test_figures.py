"""Figures say what their tables say."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.explore import figures
from workbench.explore.template import TEMPLATE

EVIL = "<b onclick='x'>Heat & Dust</b>"
SAFE = "&lt;b onclick='x'&gt;Heat &amp; Dust&lt;/b&gt;"

HISTORY = pd.DataFrame(
    {
        "run": ["HSTU + dot"] * 3 + [EVIL] * 3,
        "epoch": [1, 2, 3] * 2,
        "loss": [3, 2, 1.5] * 2,
        "NDCG@10": [0.1, np.nan, 0.2] * 2,
    }
)
RESULTS = pd.DataFrame(
    [("HSTU + dot", f"{family}@{k}", k / 100, k / 200, k / 50) for family in ("HR", "NDCG") for k in (10, 1)]
    + [(EVIL, "HR@1", 0.5, 0.4, 0.6), (EVIL, "MRR", 0.3, 0.2, 0.4)],
    columns=["method", "metric", "value", "low", "high"],
)
LENGTHS = pd.DataFrame({"length": [1, 2, 3, 50, 400], "users": [5, 4, 3, 2, 1]})
POPULARITY = pd.DataFrame({"rank": [1, 2, 3], "interactions": [9, 3, 0], "title": [EVIL, "b", "c"]})
PERIODS = pd.DataFrame(
    {
        "start": pd.date_range("2000-01-01", periods=3, freq="MS"),
        "interactions": [1, 2, 3],
        "new_users": [1, 0, 1],
        "new_items": [3, 0, 0],
    }
)
SCORES = pd.DataFrame([[0.5, -1.0], [2.0, 0.0]], index=["user 1", "user 2"], columns=[EVIL, "x" * 60])
RANKS = pd.DataFrame({"method": ["a"] * 4 + [EVIL] * 2, "rank": [1, 1, 10, np.nan, 3, 7]})

EVERY: list[tuple[Callable[[pd.DataFrame], go.Figure], pd.DataFrame]] = [
    (figures.training_curves, HISTORY),
    (figures.metric_bars, RESULTS),
    (figures.metric_by_k, RESULTS),
    (figures.sequence_lengths, LENGTHS),
    (figures.popularity_curve, POPULARITY),
    (figures.activity, PERIODS),
    (figures.score_heatmap, SCORES),
    (figures.rank_distribution, RANKS),
]
each = pytest.mark.parametrize(("draw", "table"), EVERY, ids=[draw.__name__ for draw, _ in EVERY])


@each
def test_a_figure_has_our_look_a_title_and_named_axes(
    draw: Callable[[pd.DataFrame], go.Figure], table: pd.DataFrame
) -> None:
    figure = draw(table)
    assert figure.layout.template == TEMPLATE
    assert figure.layout.title.text
    titles = [axis.title.text for axis in figure.select_yaxes()]
    assert all(titles) or draw is figures.metric_bars
    assert any(axis.title.text for axis in figure.select_xaxes()) or draw is figures.metric_bars
    assert len(figure.to_json()) < 100_000


@each
def test_text_from_data_is_never_markup(
    draw: Callable[[pd.DataFrame], go.Figure], table: pd.DataFrame
) -> None:
    text = str(draw(table).to_plotly_json())
    assert "<b onclick" not in text


@each
def test_an_empty_table_or_a_missing_column_is_named(
    draw: Callable[[pd.DataFrame], go.Figure], table: pd.DataFrame
) -> None:
    with pytest.raises(ValueError, match="empty"):
        draw(table.iloc[:0])
    if draw is not figures.score_heatmap:
        with pytest.raises(ValueError, match="lacks the column"):
            draw(table.drop(columns=table.columns[0]))


@each
def test_a_table_is_not_changed(draw: Callable[[pd.DataFrame], go.Figure], table: pd.DataFrame) -> None:
    before = table.copy(deep=True)
    draw(table)
    pd.testing.assert_frame_equal(table, before)


def test_training_curves_leave_out_what_was_not_measured() -> None:
    loss, metric = figures.training_curves(HISTORY).data[:2]
    assert list(loss.y) == [3, 2, 1.5]
    assert (list(metric.x), list(metric.y)) == ([1, 3], [0.1, 0.2])
    assert (loss.showlegend, metric.showlegend) == (True, False)


def test_bars_keep_the_order_asked_for_and_show_intervals() -> None:
    first, second = figures.metric_bars(RESULTS, ["MRR", "HR@10"]).data
    assert list(first.x) == ["MRR", "HR@10"]
    assert np.isnan(first.y[0])
    assert first.y[1] == pytest.approx(0.1)
    assert first.error_y.array[1] == pytest.approx(0.1)
    assert first.error_y.arrayminus[1] == pytest.approx(0.05)
    assert second.name == SAFE
    assert figures.metric_bars(RESULTS.drop(columns="low")).data[0].error_y.array is None


def test_lines_over_k_are_in_order_of_k_and_bands_around_them() -> None:
    figure = figures.metric_by_k(RESULTS, "HR")
    band, line = figure.data[:2]
    assert (list(line.x), list(line.y)) == ([1, 10], [0.01, 0.1])
    assert list(band.x) == [1, 10, 10, 1]
    assert list(band.y) == [0.02, 0.2, 0.05, 0.005]
    assert list(figure.layout.xaxis.ticktext) == ["1", "10"]
    with pytest.raises(ValueError, match=r"no metric of the form MAP@k in the table; it has: HR, NDCG"):
        figures.metric_by_k(RESULTS, "MAP")


def test_the_histogram_counts_every_user_once() -> None:
    figure = figures.sequence_lengths(LENGTHS, longest=3)
    (steps,) = figure.data
    assert sum(steps.y[:-1] * np.diff(steps.x)) == 15
    assert "20% of users have more" in figure.layout.annotations[0].text
    assert figure.layout.annotations[0].x == pytest.approx(np.log10(3))


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.integers(1, 100_000), st.integers(1, 1000), min_size=1, max_size=50))
def test_the_histogram_counts_every_user_once_whatever_the_lengths(counts: dict[int, int]) -> None:
    table = pd.DataFrame({"length": list(counts), "users": list(counts.values())}).sort_values("length")
    (steps,) = figures.sequence_lengths(table).data
    assert sum(steps.y[:-1] * np.diff(steps.x)) == pytest.approx(sum(counts.values()))
    assert (np.diff(steps.x) > 0).all()


def test_the_histogram_of_a_flat_distribution_is_flat() -> None:
    """Bins that hold one length and bins that hold two stand next to each other on a logarithmic axis."""
    flat = pd.DataFrame({"length": range(20, 61), "users": 61})
    (steps,) = figures.sequence_lengths(flat).data
    assert (
        set(np.diff(steps.x)) == {1.0, 2.0} and np.ptp(steps.y[:-1]) <= 61 / 2
    )  # the last bin ends past the longest


def test_the_popularity_curve_leaves_out_items_without_interactions() -> None:
    (line,) = figures.popularity_curve(POPULARITY).data
    assert (list(line.x), list(line.y), line.customdata[0]) == ([1, 2], [9, 3], SAFE)


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    ranks = np.arange(1, 200_001)
    (line,) = figures.popularity_curve(pd.DataFrame({"rank": ranks, "interactions": ranks[::-1]})).data
    assert len(line.x) <= figures.MOST_POINTS
    assert (line.x[0], line.x[-1]) == (1, 200_000)


def test_activity_puts_newcomers_below() -> None:
    figure = figures.activity(PERIODS)
    assert [(trace.name, trace.yaxis) for trace in figure.data] == [
        ("interactions", "y"),
        ("new users", "y2"),
        ("new items", "y2"),
    ]
    assert [trace.name for trace in figures.activity(PERIODS[["start", "interactions"]]).data] == [
        "interactions"
    ]


def test_a_heatmap_has_two_ends_only_where_scores_have() -> None:
    assert figures.score_heatmap(SCORES).data[0].zmid == 0
    assert figures.score_heatmap(SCORES.abs()).data[0].zmid is None
    ticks = figures.score_heatmap(SCORES).layout.xaxis.ticktext
    assert ticks[0].startswith("&lt;b")
    assert ticks[1] == "x" * 23 + "…"


def test_the_distribution_of_ranks_is_the_hit_rate_at_every_cut_off() -> None:
    first, second = figures.rank_distribution(RANKS).data
    assert (list(first.x), list(first.y)) == ([1, 10], [0.5, 0.75])
    assert (list(second.x), list(second.y)) == ([3, 7], [0.5, 1.0])


def test_axes_of_numbers_are_linear_and_others_stay_as_they_are() -> None:
    figure = go.Figure(
        [go.Scatter(x=np.arange(3.0), y=np.arange(3)), go.Bar(x=["7", "8"], y=[1, 2], xaxis="x2")]
    )
    figure.add_scatter(x=np.arange(1, 3), y=np.array(["a", "b"]), xaxis="x3", yaxis="y3")
    figure.update_layout(xaxis2={}, yaxis3={}, xaxis3={"type": "log"})
    layout = figures.finished(figure, "").to_dict()["layout"]
    types = {name: axis["type"] for name, axis in layout.items() if "axis" in name and "type" in axis}
    assert types == {"xaxis": "linear", "yaxis": "linear", "xaxis3": "log"}
