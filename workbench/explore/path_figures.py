"""Figures of learned paths: their training, their sizes, recall by beam width. May import evaluation.

As in `figures`: each is a function from a table to a plotly Figure, and raises ValueError if the table is empty or lacks
a column.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.explore.figures import finished, need
from workbench.explore.template import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION

ROOM = 0.3
"""The share of the axis that a label takes on a phone."""


def path_learning(history: pd.DataFrame) -> go.Figure:
    """The two alternating steps by epoch: the structure's loss (gradient), the share of (item, path) pairs that stayed
    (assignment), and how many paths are in use.

    `history` has `epoch`, `structure`, `stability`, `paths in use`; epochs without them (the reranker alone) are left out.
    """
    need(history, "epoch", "structure", "stability", "paths in use")
    rows = history.dropna(subset=["structure", "stability"])
    if rows.empty:
        raise ValueError("no epoch of the table assigned paths: there is nothing to draw")
    panels = [
        ("structure", "−log p of the item's paths (nats)", PURPLE, None),
        ("stability", "share of unchanged pairs", GREEN, [0, 1.02]),
        ("paths in use", "paths that hold items", BLUE, None),
    ]
    figure = make_subplots(1, 3, subplot_titles=[title for _, title, _, _ in panels], horizontal_spacing=0.09)
    for place, (column, title, color, limits) in enumerate(panels, start=1):
        figure.add_scatter(
            x=rows["epoch"],
            y=rows[column],
            mode="lines+markers",
            line={"color": color},
            marker={"size": 6},
            showlegend=False,
            hovertemplate=f"epoch %{{x}}: %{{y:.4g}}<extra>{title}</extra>",
            row=1,
            col=place,
        )
        figure.update_yaxes(range=limits, rangemode="tozero", row=1, col=place)
        figure.update_xaxes(title_text="epoch", rangemode="tozero", row=1, col=place)
    figure.update_annotations(font_size=13)
    figure.update_layout(height=360, margin={"t": 90})
    return finished(figure, "Alternating training")


def path_fill(sizes: pd.DataFrame) -> go.Figure:
    """The sizes of paths, a line for each `variant` if the table has that column.

    `sizes` has the columns `items` and `paths`.
    """
    need(sizes, "items", "paths")
    groups = sizes.groupby("variant", sort=False) if "variant" in sizes else [("", sizes)]
    figure = go.Figure()
    for color, (name, rows) in zip((GREY, VERMILLION, ORANGE, BLUE, PURPLE), groups, strict=False):
        ordered = rows.sort_values("items", ascending=False)
        # The size of the path of each rank: the same information as a histogram, and the largest can be read off.
        values = np.repeat(ordered["items"].to_numpy(), ordered["paths"].to_numpy())
        figure.add_scatter(
            x=np.arange(1, len(values) + 1),
            y=values,
            mode="lines",
            name=str(name),
            showlegend=bool(name),
            line={"color": color if name else PURPLE, "shape": "hv"},
            hovertemplate="path %{x:,} by size: %{y:,} items<extra>" + str(name) + "</extra>",
        )
    figure.update_xaxes(title_text="path, largest first", type="log", dtick=1, tickformat=",")
    figure.update_yaxes(title_text="items on the path", type="log", dtick=1, tickformat=",")
    return finished(figure, "Sizes of paths")


def beam_curve(table: pd.DataFrame, k: int = 10) -> go.Figure:
    """Recall against the share of the corpus that is scored, a mark for each width of the beam.

    `table` has `beam`, `recall`, `scored`, and optionally `of_brute_force`, the share of brute force's hits, as a second line,
    and `popular_of_brute_force`, that share for as many of the most popular items, as a third.
    """
    need(table, "beam", "recall", "scored")
    rows = table.sort_values("scored")
    figure = go.Figure()
    lines = [("recall", f"of brute force's best {k}", BLUE, "circle", "solid")]
    if "of_brute_force" in rows:
        lines.append(("of_brute_force", "of brute force's hits", VERMILLION, "diamond", "dash"))
    if "popular_of_brute_force" in rows:
        name = "hits among as many of the most popular items"
        lines.append(("popular_of_brute_force", name, GREY, "x", "dot"))
    labels = _with_room(rows["scored"].tolist(), [f"beam {beam}" for beam in rows["beam"]])
    for place, (column, name, color, symbol, dash) in enumerate(lines):
        figure.add_scatter(
            x=rows["scored"],
            y=rows[column],
            mode="lines+markers" if place else "lines+markers+text",
            text=labels,
            customdata=rows["beam"],
            textposition=["bottom right" if x < 0.75 else "bottom left" for x in rows["scored"]],
            name=name,
            line={"color": color, "dash": dash},
            marker={"symbol": symbol},
            hovertemplate="beam %{customdata}: %{y:.1%} with %{x:.1%} scored<extra></extra>",
        )
    highest = float(max(rows[column].max() for column, *_ in lines))
    figure.update_xaxes(title_text="share of the corpus that is scored", tickformat=".0%", range=[0, 1.08])
    figure.update_yaxes(title_text="share found", tickformat=".0%", range=[0, max(1.05, highest * 1.05)])
    figure.update_layout(legend={"x": 0.98, "y": 0.05, "xanchor": "right", "yanchor": "bottom"})
    return finished(figure, "What a wider beam finds")


def _with_room(places: Sequence[float], labels: Sequence[str]) -> list[str]:
    """The labels that leave `ROOM` to the one before them; the others are empty, and shown on hovering alone.

    >>> _with_room([0.02, 0.1, 0.5, 1.0], ["beam 1", "beam 2", "beam 8", "beam 64"])
    ['beam 1', '', 'beam 8', 'beam 64']
    """
    shown, last = [], -math.inf
    for place, label in zip(places, labels, strict=True):
        fits = place - last >= ROOM
        last = place if fits else last
        shown.append(label if fits else "")
    return shown
