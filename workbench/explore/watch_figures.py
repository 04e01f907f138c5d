"""The figure of a search that is watched: the item map, and the proof next to it. May import bench."""

import math
from textwrap import wrap

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from workbench.bench.watching import Moment, Watched
from workbench.explore.figures import finished, translucent
from workbench.explore.template import BLUE, GREEN, GREY, ORANGE, SKY, VERMILLION, item_name, plain

STATES = {
    "in the history": (translucent(GREY, 0.25), 3),
    "ruled out by its bound": (translucent(GREY, 0.55), 4),
    "not ruled out": (translucent(ORANGE, 0.75), 5),
    "looked at": (SKY, 7),
    "scored": (BLUE, 6),
    "in this step": (VERMILLION, 8),
}
"""How an item is drawn after a step: colour and size. The best so far are stars on top. What is in the user's history may
not be found."""

HEIGHT = 480
LONGEST, LINE = 20, 40
"""Letters of a title in the proof, and of a line above a panel."""


def states(watched: Watched, moment: Moment) -> NDArray[np.uint8]:
    """For each item, the number of its state in `STATES`: the last of those that are true of it."""
    left = (~moment.scored).numpy() & ~watched.hidden
    here = moment.here.numpy()
    known = (
        left & ~moment.could_enter.numpy(),
        moment.could_enter.numpy(),
        moment.listed.numpy(),
        moment.scored.numpy(),
        here,
    )
    found = np.zeros(len(watched.ids), dtype=np.uint8)
    for number, mask in enumerate(known, 1):
        found[mask] = number
    return found


def proof(watched: Watched, moment: Moment, titles: pd.Series | None = None) -> tuple[str, str]:
    """What can still enter the list after a step, and why it can or cannot."""
    count = int(moment.could_enter.sum())
    can = (
        f"{count:,} item{'s' if count > 1 else ''} can still enter." if count else "Nothing can still enter."
    )
    if moment.next < 0:
        return can, "Every item that may be found was scored."
    if moment.s_k == -math.inf:
        return can, "Fewer than k are scored."
    if not watched.has_bounds:
        return can, "This score has no bound that could rule them out."
    bound, name = (
        float(watched.bounds[moment.next]),
        item_name(int(watched.ids[moment.next]), titles, LONGEST),
    )
    verdict = "is not above it." if count else "is above it."
    return can, f"Largest bound left: {bound:.2f}, {name}.<br>S<sub>K</sub> = {moment.s_k:.2f} {verdict}"


def watched_step(
    watched: Watched,
    number: int,
    places: NDArray[np.float32],
    title: str,
    titles: pd.Series | None = None,
    explained: tuple[float, float] = (math.nan, math.nan),
) -> go.Figure:
    """A search after step `number`: left the items at their `places` (N, 2) of the map, right their bounds and scores.

    Right, every item that may be found stands at its place by bound (by score, if nothing is bounded): its bound until it is
    scored, then its score. S_K (dashed) rules out all bounds below it; the bound that the searcher has for the rest is dotted.
    `explained`: the shares of the variance along the map's two directions; `titles` by item id.
    """
    number = min(number, len(watched.moments) - 1)
    moment = watched.moments[number]
    state = states(watched, moment)
    figure = make_subplots(1, 2, horizontal_spacing=0.09, column_widths=[0.48, 0.52])
    names = np.array([item_name(int(item), titles, LONGEST) for item in watched.ids])
    figure.add_scattergl(
        x=places[:, 0], y=places[:, 1], mode="markers", text=names, hovertemplate="%{text}<extra></extra>",
        marker={"color": state, "size": _sizes(state), **_SCALE}, showlegend=False,
    )  # fmt: skip
    best = moment.best.numpy()
    figure.add_scatter(
        x=places[best, 0], y=places[best, 1], mode="markers", text=names[best],
        hovertemplate="%{text}<extra></extra>", name=f"best so far ({len(best)})",
        marker={"color": GREEN, "size": 12, "symbol": "star", "line": {"width": 1, "color": "white"}},
    )  # fmt: skip
    order = np.argsort(-(watched.bounds if watched.has_bounds else watched.scores), kind="stable")
    order = order[~watched.hidden[order]]
    rank = np.arange(1, len(order) + 1, dtype=np.float32)
    scores = watched.scores[order]
    known = np.where(
        moment.scored.numpy()[order], scores, watched.bounds[order] if watched.has_bounds else np.nan
    )
    figure.add_scattergl(
        x=rank, y=known.astype(np.float32), mode="markers", text=names[order], showlegend=False,
        hovertemplate="%{text}: %{y:.2f}<extra></extra>",
        marker={"color": state[order], "size": _sizes(state[order]), **_SCALE},
        xaxis="x2", yaxis="y2",
    )  # fmt: skip
    place = {int(row): at for at, row in enumerate(order, 1)}
    figure.add_scatter(
        x=[place[int(row)] for row in best], y=watched.scores[best], mode="markers", text=names[best],
        hovertemplate="%{text}<br>score %{y:.2f}<extra></extra>", showlegend=False,
        marker={"color": GREEN, "size": 11, "symbol": "star", "line": {"width": 1, "color": "white"}},
        xaxis="x2", yaxis="y2",
    )  # fmt: skip
    ring = moment.next >= 0 and watched.has_bounds
    figure.add_scatter(
        x=[place[moment.next]] if ring else [None], y=[watched.bounds[moment.next]] if ring else [None],
        mode="markers", hoverinfo="skip", name="largest bound left", showlegend=ring, xaxis="x2", yaxis="y2",
        marker={"color": VERMILLION, "size": 15, "symbol": "circle-open", "line": {"width": 2}},
    )  # fmt: skip
    counts = np.bincount(state, minlength=len(STATES))
    for (name, (color, size)), count in zip(list(STATES.items())[::-1], counts[::-1], strict=True):
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=f"{name} ({count:,})", marker={"color": color, "size": size + 3}
        )  # fmt: skip
    certified = moment.s_k >= moment.claimed
    lines = (
        (
            moment.s_k,
            GREEN,
            "dash",
            "S<sub>K</sub>, k-th best score so far",
            "bottom" if certified else "top",
        ),
        (moment.claimed, VERMILLION, "dot", "most that the lists leave", "top" if certified else "bottom"),
    )
    shapes, notes = [], []
    for level, color, dash, name, side in lines:
        if math.isfinite(level):
            ends = {"x0": 0, "x1": 1, "xref": "x2 domain", "y0": level, "y1": level, "yref": "y2"}
            shapes.append({"type": "line", **ends, "line": {"color": color, "width": 2, "dash": dash}})
            notes.append(_note(f"{name}: {level:.2f}", 0.01, level, "x2 domain", "y2", side, color))
    above = (
        ("", f"Step {number} of {len(watched.moments) - 1}", "<br>".join(wrap(_sentence(moment.what), LINE))),
        ("2", *proof(watched, moment, titles)),
    )
    for axis, one, two in above:
        text = f"<b>{one}</b><br>{two}"
        notes.append(_note(text, 0, 1.02, f"x{axis} domain", f"y{axis} domain", "bottom", None))
    figure.update_layout(
        shapes=shapes, annotations=notes, height=HEIGHT, margin={"t": 100, "b": 104, "r": 12},
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "font": {"size": 12}},
    )  # fmt: skip
    shares = [f" ({share:.0%}" if share == share else "" for share in explained]
    figure.update_xaxes(
        title_text=f"first direction of the items{shares[0] and shares[0] + ' of the variance)'}",
        row=1,
        col=1,
    )
    figure.update_yaxes(title_text=f"second direction{shares[1] and shares[1] + ')'}", row=1, col=1)
    by = "bound" if watched.has_bounds else "score"
    figure.update_xaxes(
        title_text=f"place by {by}", type="log", dtick=1, tickformat=",", row=1, col=2,
        range=[-0.05, math.log10(len(order)) + 0.05],
    )  # fmt: skip
    shown = np.concatenate([watched.scores[order], watched.bounds[order][np.isfinite(watched.bounds[order])]])
    low, high = float(shown.min()), float(shown.max())
    figure.update_yaxes(
        title_text="bound, then score" if watched.has_bounds else "score",
        range=[low - 0.05 * (high - low), high + 0.08 * (high - low)], row=1, col=2,
    )  # fmt: skip
    figure.update_xaxes(title_font_size=13)
    figure.update_yaxes(title_font_size=13)
    return finished(figure, plain(title))


_COLORS = [color for color, _ in STATES.values()]
_SCALE = {
    "cmin": 0,
    "cmax": len(STATES),
    "showscale": False,
    "line": {"width": 0},
    "colorscale": [
        [(number + end) / len(STATES), color] for number, color in enumerate(_COLORS) for end in (0, 1)
    ],
}
"""State s has the colour of s to s + 1 on this scale."""


def _sizes(state: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array([size for _, size in STATES.values()], dtype=np.uint8)[state]


def _note(
    text: str, x: float, y: float, xref: str, yref: str, yanchor: str, color: str | None
) -> dict[str, object]:
    font = {"size": 12} if color is None else {"size": 12, "color": color}
    place = {"x": x, "y": y, "xref": xref, "yref": yref, "xanchor": "left", "yanchor": yanchor}
    return {"text": text, "showarrow": False, "align": "left", "font": font, **place}


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
