"""Figures of what a bound proves: one query's items and lists, shares of queries by gate, from tables of `bench.proofs`."""

import pandas as pd
import plotly.graph_objects as go

from workbench.explore.figures import finished, need, translucent
from workbench.explore.template import BLUE, GREEN, GREY, PALETTE, VERMILLION, plain

OUTCOMES = {
    "ruled out": (GREY, "circle", 5),
    "survives": (BLUE, "diamond", 6),
    "top k": (VERMILLION, "star", 9),
}


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
    for outcome, (color, symbol, size) in OUTCOMES.items():
        rows = items[items["outcome"] == outcome]
        names = rows["item"].map(titles) if titles is not None else rows["item"]
        figure.add_scattergl(
            x=rows["bound"],
            y=rows["score"],
            mode="markers",
            name=f"{outcome}: {len(rows):,}",
            marker={"color": color, "symbol": symbol, "size": size, "opacity": 0.75},
            text=[plain(name) for name in names],
            hovertemplate="%{text}<br>bound %{x:.2f}, score %{y:.2f}<extra></extra>",
        )
    figure.add_vline(x=s_k, line={"color": GREEN, "width": 2, "dash": "dash"})
    figure.add_annotation(
        x=s_k, y=1, yref="paper", yanchor="bottom", text=f"S<sub>K</sub> = {s_k:.2f}", showarrow=False
    )
    figure.update_xaxes(title_text="bound: the largest component score max<sub>p</sub> s<sub>p</sub>")
    figure.update_yaxes(title_text="score φ")
    figure.update_layout(height=480, legend={"orientation": "h", "y": -0.2, "yanchor": "top"})
    return finished(figure, "What the bound rules out, for one query")


def component_lists(lists: pd.DataFrame, s_k: float, outside: float, shown: int = 2000) -> go.Figure:
    """Component scores of one query in descending order, a line for each component; listed places are drawn strongly.

    `lists` has `component`, `place`, `score`, `listed`; the two levels are S_K and what an unlisted item can score at most.
    """
    need(lists, "component", "place", "score", "listed")
    figure = go.Figure()
    for number, (component, line) in enumerate(lists.groupby("component", sort=True)):
        color = PALETTE[number % len(PALETTE)]
        for listed, width, faint in ((False, 1, True), (True, 2.5, False)):
            part = line[line["listed"] == listed] if listed else line
            part = part[part["place"] <= shown]
            figure.add_scatter(
                x=part["place"],
                y=part["score"],
                mode="lines",
                line={"color": translucent(color, 0.35) if faint else color, "width": width},
                hovertemplate=f"component {component}, place %{{x:,}}: %{{y:.2f}}<extra></extra>",
                showlegend=False,
            )
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


def proofs_by_count(shares: pd.DataFrame) -> go.Figure:
    """Share of queries against N1, proved (solid) and in fact exact (dotted), a colour for each sharpness of the gate.

    `shares` has `factor`, `components`, `count`, `certified`, `in_fact_exact`.
    """
    need(shares, "factor", "components", "count", "certified", "in_fact_exact")
    figure = go.Figure()
    for number, (factor, unsorted) in enumerate(shares.groupby("factor", sort=True)):
        line = unsorted.sort_values("count")
        color = PALETTE[number % len(PALETTE)]
        gate = f"gate × {factor:g} ({line['components'].iloc[0]:.1f} components in use)"
        for column, dash, name in (
            ("certified", "solid", "certified"),
            ("in_fact_exact", "dot", "in fact exact"),
        ):
            figure.add_scatter(
                x=line["count"],
                y=line[column],
                mode="lines+markers",
                name=gate if column == "certified" else "",
                legendgroup=str(factor),
                showlegend=column == "certified",
                line={"color": color, "dash": dash},
                marker={"symbol": "circle" if dash == "solid" else "circle-open"},
                hovertemplate=f"{gate}<br>N1 = %{{x:,}}: %{{y:.1%}} {name}<extra></extra>",
            )
    for dash, name in (("solid", "certified"), ("dot", "in fact exact")):
        figure.add_scatter(x=[None], y=[None], mode="lines", name=name, line={"color": GREY, "dash": dash})
    figure.update_xaxes(title_text="N1, candidates per component", type="log", dtick=1)
    figure.update_yaxes(title_text="share of queries", tickformat=".0%", range=[-0.03, 1.05])
    figure.update_layout(height=480, legend={"orientation": "h", "y": -0.2, "yanchor": "top"})
    return finished(figure, "Proved, and in fact exact, by the length of the lists")


def survivors_by_sharpness(shares: pd.DataFrame) -> go.Figure:
    """The share of the corpus that exact search must score, a bar for each sharpness of the gate.

    `shares` has `factor`, `components` (in use), `surviving`.
    """
    need(shares, "factor", "components", "surviving")
    bars = shares.drop_duplicates("factor").sort_values("factor")
    figure = go.Figure()
    figure.add_bar(
        x=[
            f"gate × {factor:g}<br>{used:.1f} components in use"
            for factor, used in zip(bars["factor"], bars["components"], strict=True)
        ],
        y=bars["surviving"],
        text=bars["surviving"].map("{:.0%}".format),
        textposition="outside",
        cliponaxis=False,
        marker={"color": GREEN},
        hovertemplate="%{x}: %{y:.1%} of the corpus scored<extra></extra>",
        showlegend=False,
    )
    figure.update_yaxes(title_text="share of the corpus scored", tickformat=".0%", range=[0, 1.08])
    figure.update_layout(height=400)
    return finished(figure, "What exact search must score, by the sharpness of the gate")
