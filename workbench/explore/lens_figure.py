"""The figure of one query under the lens, from the tables of `bench.lens`. May import nothing of the package but explore."""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.explore.figures import finished, need
from workbench.explore.template import (
    BLUE,
    GREEN,
    GREY,
    SKY,
    TEMPLATE,
    VERMILLION,
    item_name,
    on_one_line,
    plain,
)

OUTCOMES = {
    "ruled out": (GREY, "circle", 4),
    "survives": (SKY, "circle", 5),
    "found": (GREEN, "circle", 8),
    "extra": (VERMILLION, "triangle-up", 9),
    "missed": (BLUE, "x", 9),
}
MEANING = {
    "ruled out": "ruled out: bound below S<sub>K</sub>",
    "survives": "survives: bound reaches S<sub>K</sub>",
    "found": "found, correctly",
    "extra": "extra: found, not in the true top k",
    "missed": "missed: in the true top k, not found",
}
TEXT = TEMPLATE.layout.font.color
EXTRA, MISSED = on_one_line(" · extra"), on_one_line(" · missed")
LONGEST = 27
"""Letters of a title in the table, with the note after it."""


def under_the_lens(
    items: pd.DataFrame,
    places: pd.DataFrame,
    s_k: float,
    outside: float,
    title: str,
    titles: pd.Series | None = None,
) -> go.Figure:
    """Left: every item's bound (x) and score (y), by its outcome. Right: the list next to the true one, by rank.

    `items` has `item`, `score`, `bound`, `outcome`; `places` has `place`, `found`, `true_place`, `true`, `missed`; `titles` by
    item id. `s_k`, the score of the last place, is the dashed line, and `outside` (NaN: unknown), the largest bound of
    an item that was no candidate, the dotted one: right of `s_k`, it is why there is no proof.
    """
    need(items, "item", "score", "bound", "outcome")
    need(places, "place", "found", "true_place", "true", "missed")
    figure = make_subplots(
        1,
        2,
        column_widths=[0.44, 0.56],
        specs=[[{"type": "xy"}, {"type": "table"}]],
        horizontal_spacing=0.03,
    )
    for outcome, (color, symbol, size) in OUTCOMES.items():
        rows = items[items["outcome"] == outcome]
        figure.add_scattergl(
            x=rows["bound"],
            y=rows["score"],
            mode="markers",
            name=f"{MEANING[outcome]} ({len(rows):,})",
            marker={"color": color, "symbol": symbol, "size": size, "opacity": 0.8},
            text=[item_name(item, titles) for item in rows["item"]],
            hovertemplate="%{text}<br>bound %{x:.2f}, score %{y:.2f}<extra></extra>",
            row=1,
            col=1,
        )
    low = float(items["score"].min())
    high = float(items["score"].max()) + 0.05 * (float(items["score"].max()) - low)
    for level, dash, name in ((s_k, "dash", "S<sub>K</sub>"), (outside, "dot", "largest bound outside")):
        drawn = abs(level) < float("inf")  # neither unknown nor infinite
        figure.add_scatter(
            x=[level, level] if drawn else [None],
            y=[low, high] if drawn else [None],
            mode="lines",
            line={"color": GREEN if dash == "dash" else VERMILLION, "dash": dash, "width": 2},
            name=f"{name} = {level:.2f}" if drawn else f"{name}: {_not_drawn(level)}",
            hoverinfo="skip",
            row=1,
            col=1,
        )
    figure.add_trace(_lists(places, titles), row=1, col=2)
    figure.update_xaxes(title_text="bound: largest component score max<sub>p</sub> s<sub>p</sub>")
    figure.update_yaxes(title_text="score φ")
    figure.update_layout(
        height=450,
        margin={"b": 118, "r": 8},
        legend={
            "orientation": "h",
            "y": -0.22,
            "x": 0,
            "yanchor": "top",
            "font": {"size": 12},
            "entrywidth": 250,
        },
    )
    return finished(figure, plain(title))


def _not_drawn(level: float) -> str:
    """Why a level has no line."""
    if level != level:  # NaN
        return "unknown"
    return "nothing was found" if level > 0 else "no such item"


def _lists(places: pd.DataFrame, titles: pd.Series | None) -> go.Table:
    found = [
        "" if item < 0 else _noted(item, titles, "" if place else EXTRA)
        for item, place in zip(places["found"], places["true_place"], strict=True)
    ]
    true = [
        _noted(item, titles, MISSED if missed else "")
        for item, missed in zip(places["true"], places["missed"], strict=True)
    ]
    extra = [VERMILLION if text.endswith(EXTRA) else TEXT for text in found]
    missed = [BLUE if text.endswith(MISSED) else TEXT for text in true]
    ordinary = [TEXT] * len(places)
    return go.Table(
        columnwidth=[1, 5, 5],
        header={
            "values": ["#", on_one_line("this searcher"), on_one_line("exact search")],
            "align": "left",
            "font": {"size": 13, "color": TEXT},
            "fill": {"color": "rgba(128,136,148,0.16)"},
            "line": {"width": 0},
        },
        cells={
            "values": [[f"{place}" for place in places["place"]], found, true],
            "align": "left",
            "font": {"size": 12, "color": [ordinary, extra, missed]},
            "fill": {"color": "rgba(0,0,0,0)"},
            "line": {"width": 0},
            "height": 20,
        },
    )


def _noted(item: int, titles: pd.Series | None, note: str) -> str:
    """A title and a note after it, in a line."""
    return on_one_line(item_name(item, titles, LONGEST - len(note)) + note)
