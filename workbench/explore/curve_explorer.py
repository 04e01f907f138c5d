"""Curves from a table, with their values at a chosen x. May import nothing of ours but the template.

As in `figures`, a ValueError if the table is empty or lacks a column; texts are shown literally.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.explore.figures import finished, need
from workbench.explore.search_figures import STYLES, decades, searcher_style
from workbench.explore.template import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    method_style,
    plain,
    registered,
)

_COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE)
LEGEND = 600
"""Pixels across the legend, about. A name takes 7 for each letter, its line and its value 110."""
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


@dataclass(frozen=True)
class Axes:
    """Titles of the axes, `x` and `y`; `unit` names x in the heading ("items"), `y_unit` follows y in the legend ("ms");
    `share`: y is a share, drawn from 0 to 100 %; `log_y`: its axis is logarithmic."""

    x: str
    y: str
    unit: str = "x"
    share: bool = False
    log_y: bool = False
    y_unit: str = ""


def curve_explorer(curves: pd.DataFrame, at: float, axes: Axes) -> go.Figure:
    """Curves over a logarithmic x; `at` is marked, and the legend shows each curve's value there.

    `curves` has `curve`, `x` and `y`; `at` must be one of the values of x. A curve that is named after a method or a
    searcher has its colour. ValueError if no curve has a value at `at`.
    """
    need(curves, "curve", "x", "y")
    here = curves[curves["x"] == at]
    if here.empty:
        raise ValueError(f"no curve has a value at {at:g}")
    figure = go.Figure()
    values = {}
    for number, (name, rows) in enumerate(curves.groupby("curve", sort=False)):
        color, dash = _look(str(name), number)
        chosen = here.loc[here["curve"] == name, "y"]
        values[number] = _formatted(float(chosen.iloc[0]), axes) if len(chosen) else "none"
        figure.add_scatter(
            x=rows["x"],
            y=rows["y"],
            name=f"{plain(name)}: <b>{values[number]}</b>",
            mode="lines",
            line={"color": color, "dash": dash},
            legendgroup=str(number),
            hovertemplate=f"%{{x:,}}: %{{y:{'.1%' if axes.share else '.4g'}}}<extra>{plain(name)}</extra>",
        )
        figure.add_scatter(
            x=[at] if len(chosen) else [],
            y=list(chosen),
            mode="markers",
            marker={"color": color, "size": 12, "line": {"color": "white", "width": 1.5}},
            legendgroup=str(number),
            showlegend=False,
            hoverinfo="skip",
        )
    if at > 0:
        figure.add_vline(x=at, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_xaxes(title_text=plain(axes.x), **_ticks(curves["x"]))
    figure.update_yaxes(title_text=plain(axes.y))
    if axes.share:
        figure.update_yaxes(tickformat=".0%", range=[-0.02, max(1.03, 1.05 * float(curves["y"].max()))])
    elif axes.log_y:
        figure.update_yaxes(**decades(curves["y"]))
    else:
        figure.update_yaxes(range=[0, 1.08 * float(curves["y"].max())])
    # Lines of the legend, about: it would rise over the axis's title if the curves had to make room for it.
    lines = -(-sum(110 + 7 * len(str(name)) for name in curves["curve"].unique()) // LEGEND)
    figure.update_layout(
        height=400 + 31 * (lines - 1), legend={"orientation": "h", "y": -0.27, "yanchor": "top"}
    )
    return finished(figure, f"{plain(axes.unit)} = {at:,}")


def _look(name: str, number: int) -> tuple[str, str]:
    """Colour and dash: a method's or a searcher's own, others in turn, each pair once."""
    encoder, _, similarity = name.rpartition(" + ")
    if registered().keys() >= {encoder, similarity}:
        style = method_style(name)
        return style.color, style.dash
    searcher = name.partition(" (")[0]
    if searcher.partition(", ")[0] in STYLES:
        style = searcher_style(searcher)
        return style.color, style.dash
    turn = number + number // len(_COLORS)
    return _COLORS[number % len(_COLORS)], _DASHES[turn % len(_DASHES)]


def _formatted(value: float, axes: Axes) -> str:
    if axes.share:
        return f"{value:.1%}"
    number = f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{number} {plain(axes.y_unit)}".rstrip()


def _ticks(values: pd.Series) -> dict[str, object]:
    """A logarithmic axis with ticks at its values, if they are few and apart, else at powers of ten; 0 has no place on it."""
    positive = values[values > 0].drop_duplicates().sort_values()
    if positive.empty:
        return {"type": "linear"}
    low, high = np.log10(positive.min()), np.log10(positive.max())
    parts = (1,) if high - low > 4 else (1, 2, 5)
    ticks = [part * 10**power for power in range(int(low), int(high) + 1) for part in parts]
    if 1 < len(positive) <= 8 and np.diff(np.log10(positive)).min() > 0.1 * (high - low):
        ticks = positive.tolist()
    return {
        "type": "log",
        "tickvals": ticks,
        "ticktext": [_short(tick) if high >= 6 else f"{tick:,}" for tick in ticks],
        "range": [low - 0.03 * (high - low), high + 0.03 * (high - low)],
    }


def _short(number: int) -> str:
    """
    >>> [_short(number) for number in (100, 1_000, 50_000_000, 10**10)]
    ['100', '1 k', '50 M', '10 G']
    """
    size = min(3, (len(str(number)) - 1) // 3)
    return f"{number // 1000**size} {('', 'k', 'M', 'G')[size]}".rstrip()
