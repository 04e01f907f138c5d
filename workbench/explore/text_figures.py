"""Figures of text retrieval: answers of several heads next to each other, the parts of a mixture, the table with intervals."""

import math
import textwrap

import pandas as pd
import plotly.graph_objects as go

from workbench.explore.figures import finished, need, translucent
from workbench.explore.template import BLUE, GREEN, GREY, TEMPLATE, VERMILLION, on_one_line, plain

WIDTH = 44
TEXT = TEMPLATE.layout.font.color
TICKS = 40
"""Tokens of a text that are written out at most; a mark shows each of the others."""
NARROWEST, LETTER, PADDING, LINE = 680, 6, 8, 15.6
"""Pixels: a table's width at least, a letter's, from a cell's edge to its text, and from a line of it to the next."""


def answer_columns(answers: pd.DataFrame) -> go.Figure:
    """One column of documents per way of searching, best first; `answers` has `way`, `place` and `document`.

    Texts are wrapped for the least width, where plotly would measure each word of them, and the figure is as high as its rows:
    plotly hides those for which there is no room.
    """
    need(answers, "way", "place", "document")
    ways = list(dict.fromkeys(answers["way"]))
    width = max(1, int((8 * (NARROWEST - 20) / (8 * len(ways) + 1) - 2 * PADDING) / LETTER))
    wrapped = answers["document"].map(lambda text: textwrap.wrap(text, width, break_long_words=False))
    texts = wrapped.map(lambda lines: "<br>".join(on_one_line(plain(line)) for line in lines))
    columns = [texts[answers[answers["way"] == way].sort_values("place").index] for way in ways]
    places = sorted(answers["place"].unique())
    figure = go.Figure(
        go.Table(
            columnwidth=[1, *[8] * len(ways)],
            header={
                "values": ["", *(f"<b>{plain(way)}</b>" for way in ways)],
                "align": "left",
                "font": {"size": 13, "color": TEXT},
                "fill": {"color": "rgba(128,136,148,0.16)"},
                "line": {"width": 0},
            },
            cells={
                "values": [places, *map(list, columns)],
                "align": "left",
                "font": {"size": 12, "color": TEXT},
                "fill": {"color": "rgba(0,0,0,0)"},
                "line": {"width": 0},
            },
        ),
        {"template": TEMPLATE},
    )
    height = 2 * PADDING + LINE * wrapped.map(len).groupby(answers["place"]).max()
    return figure.update_layout(
        height=56 + math.ceil(height.sum()), margin={"t": 10, "b": 10, "l": 10, "r": 10}
    )


def component_shares(components: pd.DataFrame) -> go.Figure:
    """The score of each document as the sum of its components' parts π·s; `components` is `TextSearch.components`."""
    need(components, "document", "component", "weight", "cosine", "share")
    figure = go.Figure()
    for component, part in components.groupby("component", sort=True):
        figure.add_bar(
            y=[_wrapped(text) for text in part["document"]],
            x=part["share"],
            customdata=part[["weight", "cosine"]],
            name=str(component),
            orientation="h",
            hovertemplate="weight %{customdata[0]:.2f}, cosine %{customdata[1]:.2f}<extra>%{fullData.name}</extra>",
        )
    figure.update_layout(
        barmode="relative", yaxis={"autorange": "reversed"}, height=420, xaxis_title="part of the score, π·s"
    )
    return finished(figure, "Contributions to the score")


def token_attention(attention: pd.DataFrame) -> go.Figure:
    """How much each query group looks at each token of a text; `attention` is `TextSearch.attention`."""
    need(attention, "place", "token", "group", "weight")
    wide = attention.pivot(index="group", columns="place", values="weight")
    tokens = attention.drop_duplicates("place").sort_values("place")["token"].str.replace("▁", "")
    figure = go.Figure(
        go.Heatmap(
            z=wide.to_numpy(),
            x=list(range(len(tokens))),
            y=list(wide.index),
            colorscale=[[0, translucent(BLUE, 0.05)], [1, translucent(BLUE, 0.95)]],  # on any ground
            zmin=0,
            zmax=float(wide.to_numpy().max()),
            customdata=[[plain(token) for token in tokens]] * len(wide),
            hovertemplate="%{customdata}: %{z:.2f}<extra>%{y}</extra>",
            colorbar={"title": "weight"},
        )
    )
    every = -(-len(tokens) // TICKS)
    figure.update_xaxes(
        tickvals=list(range(0, len(tokens), every)),
        ticktext=[plain(token) for token in tokens[::every]],
        tickangle=-45,
        title="tokens of the query",
    )
    figure.update_yaxes(title="component", autorange="reversed")
    figure.update_layout(height=220 + 40 * len(wide))
    return finished(figure, "What each query component looks at")


def ways_with_intervals(table: pd.DataFrame, metric: str = "Hit@10", subset: str = "all") -> go.Figure:
    """Each way of searching with its interval; `table` is that of the study `text`."""
    need(table, "subset", "way", "metric", "value", "low", "high")
    rows = table[(table["metric"] == metric) & (table["subset"] == subset)].sort_values("value")
    if rows.empty:
        raise ValueError(f"the table has no {metric} of the subset {subset!r}")
    figure = go.Figure(
        go.Scatter(
            x=rows["value"],
            y=[plain(way) for way in rows["way"]],
            mode="markers",
            marker={
                "size": 9,
                "color": [
                    VERMILLION if "mol" in way else BLUE if "dot" in way else GREY for way in rows["way"]
                ],
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": rows["high"] - rows["value"],
                "arrayminus": rows["value"] - rows["low"],
            },
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    figure.update_layout(height=140 + 28 * len(rows), showlegend=False, xaxis_title=metric)
    return finished(figure, f"{metric}, {plain(subset)} ({int(rows['queries'].iloc[0]):,} queries)")


def critical_sizes(table: pd.DataFrame) -> go.Figure:
    """The critical corpus size by floats per document, a line per similarity: mean over seeds, and from least to most.

    `table` is that of the study `limit`.
    """
    need(table, "similarity", "floats", "documents", "largest")
    figure = go.Figure()
    labels = {"dot": "dot product", "maxsim": "MaxSim", "mol": "MoL"}
    colors = {"dot": BLUE, "maxsim": GREEN, "mol": VERMILLION}
    for kind, rows in table.groupby("similarity", sort=False):
        of_width = rows.groupby("floats")["documents"].agg(["mean", "min", "max"])
        figure.add_scatter(
            x=of_width.index,
            y=of_width["mean"],
            name=labels.get(str(kind), plain(kind)),
            mode="lines+markers",
            line={"color": colors.get(str(kind), GREY)},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": of_width["max"] - of_width["mean"],
                "arrayminus": of_width["mean"] - of_width["min"],
            },
            hovertemplate="%{x} floats: %{y:.1f} documents<extra>%{fullData.name}</extra>",
        )
    figure.add_hline(
        y=int(table["largest"].max()),
        line_dash="dot",
        line_color=GREY,
        annotation_text="largest that was tried",
    )
    figure.update_xaxes(title="floats per document", dtick=1)
    figure.update_yaxes(title="documents told apart", rangemode="tozero")
    return finished(figure, "Every pair of documents is an answer: how many documents?")


def _wrapped(text: str) -> str:
    return "<br>".join(map(plain, textwrap.wrap(text, WIDTH, max_lines=2, placeholder=" …")))
