"""Figures of what a bound proves: one query's items and lists, shares of queries by gate, from tables of `bench.proofs`."""

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.explore.figures import finished, need, translucent
from workbench.explore.template import GREEN, GREY, PALETTE, SKY, VERMILLION, plain

OUTCOMES = {
    "ruled out": (GREY, "circle", 5, 0.75),
    "survives": (SKY, "diamond", 7, 1),
    "top k": (VERMILLION, "star", 9, 1),
}
"""Colour, mark, size and opacity of the items with each outcome."""


def bound_and_score(items: pd.DataFrame, s_k: float, titles: pd.Series | None = None) -> go.Figure:
    """Every item of one query: its bound (x) against its score (y), which never lies above; S_K rules out all on its left.

    `items` has `item`, `score`, `bound`, `outcome`; `titles` are shown on hovering, by item id.
    """
    need(items, "item", "score", "bound", "outcome")
    figure = go.Figure()
    low, high = float(items["score"].min()), float(items["bound"].max())
    figure.add_scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        line={"color": GREY, "width": 1, "dash": "dot"},
        hoverinfo="skip",
        name="score = bound",
    )
    for outcome in OUTCOMES:
        figure.add_trace(_outcome(items, outcome, titles))
    figure.add_vline(x=s_k, line={"color": GREEN, "width": 2, "dash": "dash"})
    figure.add_annotation(
        x=s_k, y=1, yref="paper", yanchor="bottom", text=f"S<sub>K</sub> = {s_k:.2f}", showarrow=False
    )
    figure.update_xaxes(title_text="bound: the largest component score max<sub>p</sub> s<sub>p</sub>")
    figure.update_yaxes(title_text="score φ")
    figure.update_layout(height=480, legend={"orientation": "h", "y": -0.2, "yanchor": "top"})
    return finished(figure, "What the bound rules out, for one query")


def _outcome(items: pd.DataFrame, outcome: str, titles: pd.Series | None) -> go.Scattergl:
    color, symbol, size, opacity = OUTCOMES[outcome]
    rows = items[items["outcome"] == outcome]
    names = rows["item"].map(titles) if titles is not None else rows["item"]
    return go.Scattergl(
        x=rows["bound"] if len(rows) else [None],  # an empty trace would leave the legend, and all would move
        y=rows["score"] if len(rows) else [None],
        mode="markers",
        name=f"{outcome}: {len(rows):,}",
        marker={"color": color, "symbol": symbol, "size": size, "opacity": opacity},
        text=[plain(name) for name in names],
        hovertemplate="%{text}<br>bound %{x:.2f}, score %{y:.2f}<extra></extra>",
    )


def component_lists(lists: pd.DataFrame, s_k: float, outside: float, shown: int = 2000) -> go.Figure:
    """Component scores of one query in descending order, a line for each component; the listed places are drawn thickly.

    `lists` has `component`, `place`, `score`, `listed`; the two levels are S_K and what an unlisted item can score at most.
    """
    need(lists, "component", "place", "score", "listed")
    figure = go.Figure()
    places = lists[lists["place"] <= shown].sort_values(["component", "place"])
    count = int(lists.loc[lists["listed"], "place"].max())
    for part, opacity, width, name in (
        (places, 0.6, 1.3, "all places, a line for each component"),
        (places[places["listed"]], 1, 3, f"its list: the first {count:,} places"),
    ):
        line = _apart(part.pivot(index="component", columns="place", values="score"))
        figure.add_trace(line.update(name=name, line={"color": translucent(SKY, opacity), "width": width}))
    for level, color, name in (
        (s_k, GREEN, "S<sub>K</sub>, the k-th best score among the candidates"),
        (outside, VERMILLION, "the most that an item in no list can score"),
    ):
        if level > float("-inf"):
            figure.add_scatter(
                x=[1, min(shown, int(lists["place"].max()))],
                y=[level, level],
                mode="lines",
                line={"color": color, "width": 2, "dash": "dash"},
                name=f"{name}: {level:.2f}",
                hoverinfo="skip",
            )
    figure.update_xaxes(title_text="place in the component's list", type="log", dtick=1)
    figure.update_yaxes(title_text="component score s<sub>p</sub>")
    figure.update_layout(height=460, legend={"orientation": "h", "y": -0.2, "yanchor": "top"})
    return finished(figure, "One list per component, for one query")


def proof_of_one(
    items: pd.DataFrame,
    lists: pd.DataFrame,
    s_k: float,
    outside: float,
    title: str,
    titles: pd.Series | None = None,
) -> go.Figure:
    """One query: what its bound rules out (left), and whether its lists prove that nothing was missed (right).

    `items` and `titles` as for `bound_and_score`, `lists`, `s_k` and `outside` as for `component_lists`. The lists are proved
    if S_K (dashed) is at or above the highest score that an item in no list can have (the line that starts at the end of the
    lists).
    """
    need(items, "item", "score", "bound", "outcome")
    need(lists, "component", "place", "score", "listed")
    ends = [float(items["bound"].min()), float(items["bound"].max())]
    diagonal = go.Scatter(
        x=ends, y=ends, mode="lines", line={"color": GREY, "width": 1, "dash": "dot"},
        hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    traces = [diagonal, *(_outcome(items, outcome, titles) for outcome in OUTCOMES)]
    right = {"xaxis": "x2", "yaxis": "y2", "showlegend": False}
    longest, count = int(lists["place"].max()), int(lists.loc[lists["listed"], "place"].max())
    thin = lists[lists["place"].isin(_log_places(longest))].pivot(
        index="component", columns="place", values="score"
    )
    line = {"color": translucent(SKY, 0.9), "width": 1.3}
    traces.append(_apart(thin).update(right, line=line))
    levels = (
        (s_k, [1, longest], GREEN, "dash", "╌╌ S<sub>K</sub>, k-th best in the lists"),
        (outside, [count, longest], VERMILLION, "solid", "── highest possible outside"),
    )
    shapes = [_upright(count, 2, GREY, "dot")]
    notes = [
        {
            "x": s_k if s_k > float("-inf") else 0, "y": 1, "yref": "y domain", "yanchor": "bottom", "showarrow": False,
            "text": "S<sub>K</sub>" if s_k > float("-inf") else "", "font": {"color": GREEN, "size": 12},
        }
    ]  # fmt: skip
    for place, (level, reach, color, dash, name) in enumerate(levels):
        known = level > float("-inf")  # unless there are fewer candidates than k, or nothing is outside
        traces.append(
            go.Scatter(
                x=reach if known else [None], y=[level, level] if known else [None], mode="lines",
                line={"color": color, "width": 2.3, "dash": dash}, hoverinfo="skip", **right,
            )
        )  # fmt: skip
        notes.append(  # in the corner that falling curves leave free
            {
                "x": 0.02, "xref": "x2 domain", "xanchor": "left", "showarrow": False,
                "y": 0.12 - 0.1 * place, "yref": "y2 domain", "yanchor": "bottom",
                "text": f"{name}: {level:.2f}" if known else "", "font": {"color": color, "size": 12},
            }
        )  # fmt: skip
    if s_k > float("-inf"):
        shapes.append(_upright(s_k, 1, GREEN, "dash"))
    small = {"font": {"size": 13}, "standoff": 6}
    layout = {
        "xaxis": {
            "domain": [0, 0.45], "anchor": "y", "title": {"text": "bound: the largest component score", **small},
        },
        "yaxis": {"domain": [0, 1], "anchor": "x", "title": {"text": "score φ", **small}},
        "xaxis2": {
            "domain": [0.55, 1], "anchor": "y2", "type": "log", "dtick": 1, "range": [0, math.log10(max(2, longest))],
            "title": {"text": "place in a component's list (dotted: N<sub>1</sub>)", **small},
        },
        "yaxis2": {
            "domain": [0, 1], "anchor": "x2", "title": {"text": "component score s<sub>p</sub>", **small},
        },
        "shapes": shapes,
        "annotations": notes,
        "height": 430,
        "margin": {"l": 62, "r": 20, "t": 48, "b": 92, "autoexpand": False},
        "legend": {"orientation": "h", "y": -0.19, "yanchor": "top", "x": 0},
    }  # fmt: skip
    return finished(go.Figure(traces, layout), plain(title))


def _apart(scores: pd.DataFrame) -> go.Scatter:
    """Lines of scores by place (columns), one for each component (row): a trace with gaps, which is drawn faster than many."""
    places = scores.columns.to_numpy()
    places = np.append(places, places[-1] + 1)
    scores = scores.reindex(columns=places)
    return go.Scatter(
        x=np.tile(places, len(scores)),
        y=scores.to_numpy().ravel(),
        mode="lines",
        customdata=np.repeat(scores.index.to_numpy(), scores.shape[1]),
        hovertemplate="component %{customdata}, place %{x:,}: %{y:.2f}<extra></extra>",
    )


def _upright(x: float, panel: int, color: str, dash: str) -> dict[str, object]:
    """A line across a panel from bottom to top."""
    number = "" if panel == 1 else panel
    ends = {"x0": x, "x1": x, "xref": f"x{number}", "y0": 0, "y1": 1, "yref": f"y{number} domain"}
    return {"type": "line", **ends, "line": {"color": color, "width": 1.5, "dash": dash}}


def _log_places(longest: int) -> list[int]:
    """Places of a list to draw: all at its beginning, increasingly sparse further down."""
    return np.unique(np.geomspace(1, longest, 80).round().astype(int)).tolist()


def proofs_by_n1(shares: pd.DataFrame) -> go.Figure:
    """Shares of queries against n1: certified (left) and matching brute force (right), a colour for each sharpness of the gate.

    The gate as trained (`factor` 1) is drawn last, and every line is thinner than those below it: lines that coincide are all
    seen. `shares` has `factor`, `components`, `queries`, `n1`, `certified`, `matches_brute_force`.
    """
    need(shares, "factor", "components", "queries", "n1", "certified", "matches_brute_force")
    columns = {"certified": "certified", "matches_brute_force": "matching brute force"}
    figure = make_subplots(
        1, 2, subplot_titles=list(columns.values()), shared_yaxes=True, horizontal_spacing=0.06
    )
    lines = list(enumerate(shares.groupby("factor", sort=True)))
    lines.sort(key=lambda entry: entry[1][0] == 1)
    for below, (number, (factor, unsorted)) in enumerate(lines):
        line, width = unsorted.sort_values("n1"), 2 + 1.5 * (len(lines) - 1 - below)
        gate = f"× {factor:g}{', as trained' if factor == 1 else ''}: {line['components'].iloc[0]:.1f}"
        for place, (column, name) in enumerate(columns.items(), start=1):
            figure.add_scatter(
                x=line["n1"],
                y=line[column],
                mode="lines+markers",
                name=gate,
                legendgroup=str(factor),
                legendrank=number,
                showlegend=place == 1,
                line={"color": PALETTE[number % len(PALETTE)], "width": width},
                marker={"size": width + 5},
                hovertemplate=f"gate {gate} components in use<br>n1 = %{{x:,}}: %{{y:.1%}} {name}<extra></extra>",
                row=1,
                col=place,
            )
    small = {"font": {"size": 14}}
    figure.update_xaxes(
        title={"text": "N<sub>1</sub>, candidates per component", **small},
        type="log",
        tickvals=sorted(set(shares["n1"])),
    )
    figure.update_yaxes(tickformat=".0%", range=[-0.03, 1.05])
    figure.update_yaxes(title={"text": f"share of {shares['queries'].iloc[0]:,} queries", **small}, col=1)
    figure.update_layout(
        height=440,
        margin_t=84,
        legend={
            "orientation": "h",
            "y": -0.22,
            "yanchor": "top",
            "title": {"text": "gate: components in use", "side": "top"},
        },
    )
    return finished(figure, "Certified, and matching brute force, by the length of the lists")


def survivors_by_sharpness(shares: pd.DataFrame) -> go.Figure:
    """The share of the corpus that exact search must score, a bar for each sharpness of the gate.

    `shares` has `factor`, `components` (in use), `surviving`.
    """
    need(shares, "factor", "components", "surviving")
    bars = shares.drop_duplicates("factor").sort_values("factor")
    figure = go.Figure()
    figure.add_bar(
        x=bars["surviving"],
        y=[
            f"× {factor:g}: {used:.1f}"
            for factor, used in zip(bars["factor"], bars["components"], strict=True)
        ],
        orientation="h",
        text=bars["surviving"].map("{:.1%}".format),
        textposition="outside",
        cliponaxis=False,
        marker={"color": GREEN},
        hovertemplate="gate %{y} components in use, %{x:.1%} of the corpus scored<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(
        title_text="share of the corpus scored",
        tickformat=".0%",
        range=[0, 1.3 * max(float(bars["surviving"].max()), 0.01)],  # room for the number
    )
    figure.update_yaxes(
        title_text="gate: components in use", autorange="reversed", showgrid=False, ticks="", type="category"
    )
    figure.update_layout(height=340)
    return finished(figure, "What exact search must score, by the sharpness of the gate")
