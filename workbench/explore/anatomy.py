"""Figures of a score and of a user's list, taken apart, from tables of the anatomy. May import nothing else of ours.

As in `figures`, every function raises ValueError if its table is empty or lacks a column, and shows texts literally.
"""

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.explore.figures import finished, need, translucent
from workbench.explore.template import (
    DIVERGING,
    GREY,
    ON_SCALE,
    PURPLE,
    SEQUENTIAL,
    SKY,
    VERMILLION,
    method_style,
    on_one_line,
    plain,
)

MOST_BARS = 12
"""Components that have a bar of their own; those of a larger mixture that contribute least share one."""
MOST_CELLS = 40
"""Cells of a heatmap in which numbers are still readable."""
MOST_ROWS = 8
"""Components that are shown switched off: those that contribute most."""
UPPER, LOWER, WIDTH = [0.59, 1.0], [0.0, 0.36], 0.19
LEFT = (0.37, 0.59, 0.81)
"""Vertical positions of the two rows of a score's parts, and the left edges of the three heatmaps."""
PANELS = {
    "history, latest first": (0.15, 1.0),
    "component scores s": (LEFT[0] + WIDTH / 2, 1.0),
    "gate weights π": (LEFT[1] + WIDTH / 2, 1.0),
    "products π·s": (LEFT[2] + WIDTH / 2, 1.0),
    "the sum: φ = Σ π·s": (0.25, 0.36),
    "with one switched off": (LEFT[1] + WIDTH / 2, 0.36),
    "φ against τ": (LEFT[2] + WIDTH / 2, 0.36),
}
CURVES = (("score", "this item", VERMILLION, "solid"), ("mean", "mean item", GREY, "dash"))
"""What is drawn against the temperature: columns with their names, colours and dashes."""
LEAST_NAMED = 0.1
"""The share of the longest bar from which on a part has room for its name."""
TINTS = (0.0, 0.35, 0.6, 0.75)
"""How much white is mixed into the colours of the largest, second largest, … part of a bar."""


def score_parts(
    parts: pd.DataFrame, temperatures: pd.DataFrame, history: pd.DataFrame, title: str, temperature: float
) -> go.Figure:
    """One score decomposed: the history, s, π and π·s as heatmaps, their sum, each component switched off, the temperature.

    `parts` is a table of `anatomy.components`, `temperatures` one of `anatomy.by_temperature`, `temperature` the τ that the
    parts were computed with. `history` has the columns `title` and `held_out`, oldest first.
    """
    need(
        parts, "component", "query_group", "item_group", "score", "weight", "product", "off", "score_without"
    )
    need(temperatures, "temperature", "score", "rank", "mean")
    need(history, "title", "held_out")
    # Axes are placed in one layout: made by make_subplots and changed step by step they take most of the time of an update.
    traces = [
        _history(history),
        *(_grid(parts, name, place) for place, name in enumerate(("score", "weight", "product"), start=1)),
        _sum(parts),
        _without(parts),
        *_temperature(temperatures, temperature),
    ]
    layout = {
        "height": 430,
        "margin": {"t": 66, "b": 46, "l": 52, "r": 12},
        "showlegend": False,
        "annotations": [
            *(_panel_title(text, *place) for text, place in PANELS.items()),
            *(
                # In the corner that falling curves leave free.
                {
                    "text": name,
                    "x": 1,
                    "y": 1 - 0.16 * line,
                    "xref": "x6 domain",
                    "yref": "y6 domain",
                    "xanchor": "right",
                    "yanchor": "top",
                    "showarrow": False,
                    "font": {"size": 11, "color": color},
                }
                for line, (_, name, color, _) in enumerate(CURVES)
            ),
        ],
    }
    # Nobody zooms into panels this small, and without the places to drag they are drawn faster.
    names = {"title": {"font": {"size": 12}}, "tickfont": {"size": 11}, "fixedrange": True}
    for place, left in enumerate(LEFT, start=1):
        groups = {**names, "showgrid": False, "ticks": ""}
        x_title, y_title = (
            {"text": "item group j", "font": {"size": 12}},
            {"standoff": 4, "font": {"size": 12}},
        )
        if place == 1:
            y_title["text"] = "query group i"
        layout[f"xaxis{place}"] = {
            **groups,
            "domain": [left, left + WIDTH],
            "anchor": f"y{place}",
            "title": x_title,
        }
        layout[f"yaxis{place}"] = {
            **groups,
            "domain": UPPER,
            "anchor": f"x{place}",
            "autorange": "reversed",
            "title": y_title,
        }
    crowded = len(parts) > 5
    layout |= {
        "xaxis4": {**names, "domain": [0, 0.5], "anchor": "y4", "tickangle": -45 if crowded else 0},
        "yaxis4": {
            **names,
            "domain": LOWER,
            "anchor": "x4",
            "title": {"text": "score", "standoff": 4, "font": {"size": 12}},
        },
        "xaxis5": {
            **names,
            "domain": [LEFT[1], LEFT[1] + WIDTH],
            "anchor": "y5",
            "title": {"text": "change of φ", "font": {"size": 12}},
        },
        "yaxis5": {**names, "domain": LOWER, "anchor": "x5", "autorange": "reversed", "showgrid": False},
        "xaxis6": {
            **names,
            "domain": [LEFT[2], 1],
            "anchor": "y6",
            "type": "log",
            "title": {"text": "temperature τ", "font": {"size": 12}},
            "tickvals": [0.01, 0.05, 0.25],
            "tickformat": ".2f",
        },
        "yaxis6": {**names, "domain": LOWER, "anchor": "x6"},
    }
    return finished(go.Figure(traces, layout), plain(title))


def _panel_title(text: str, x: float, y: float) -> dict[str, object]:
    return {
        "text": text,
        "x": x,
        "y": y,
        "xref": "paper",
        "yref": "paper",
        "xanchor": "center",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 13},
    }


def _history(history: pd.DataFrame) -> go.Table:
    rows = history.iloc[::-1]
    clear = "rgba(0,0,0,0)"
    return go.Table(
        domain={"x": [0, 0.31], "y": UPPER},
        header={"values": [""], "height": 0, "fill": {"color": clear}, "line": {"color": clear}},
        cells={
            "values": [
                [
                    on_one_line(f"{'★' if held_out else '   '} {_cut(title, 38)}")
                    for title, held_out in zip(rows["title"], rows["held_out"], strict=True)
                ]
            ],
            "align": "left",
            "height": 18,
            "font": {"size": 12},
            "fill": {"color": clear},
            "line": {"color": clear},
        },
    )


def _grid(parts: pd.DataFrame, name: str, place: int) -> go.Heatmap:
    values = parts.pivot(index="query_group", columns="item_group", values=name)
    off = parts.pivot(index="query_group", columns="item_group", values="off").to_numpy(dtype=bool)
    decimals = 2 if name == "weight" else 1
    texts = [
        ["off" if out else f"{value:.{decimals}f}" for value, out in zip(row, outs, strict=True)]
        for row, outs in zip(values.to_numpy(), off, strict=True)
    ]
    if values.size > MOST_CELLS:
        texts = [["off" if out else "" for out in outs] for outs in off]
    sided = name != "weight"
    largest = float(np.nanmax(np.abs(values.to_numpy()))) or 1.0
    unit = {"score": "s", "weight": "π", "product": "π·s"}[name]
    return go.Heatmap(
        z=values.to_numpy(),
        x=[f"g{j}" for j in values.columns],
        y=[f"f{i}" for i in values.index],
        xaxis=f"x{place}",
        yaxis=f"y{place}",
        colorscale=DIVERGING if sided else SEQUENTIAL,
        zmin=-largest if sided else 0,
        zmax=largest,
        showscale=False,
        text=texts,
        texttemplate="%{text}",
        textfont={"size": 12, "color": ON_SCALE},
        xgap=1,
        ygap=1,
        hovertemplate=f"%{{y}}·%{{x}}: {unit} = %{{z:.4f}}<extra></extra>",
    )


def _by_size(parts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The components with the largest products, largest first, and the others."""
    order = parts["product"].abs().sort_values(ascending=False, kind="stable").index
    return parts.loc[order[:MOST_BARS]], parts.loc[order[MOST_BARS:]]


def _sum(parts: pd.DataFrame) -> go.Waterfall:
    """The products from the largest to the smallest, and their sum."""
    shown, rest = _by_size(parts)
    names, values = list(shown["component"]), list(shown["product"])
    if len(rest):
        names, values = [*names, f"{len(rest)} more"], [*values, rest["product"].sum()]
    return go.Waterfall(
        xaxis="x4",
        yaxis="y4",
        x=[*names, "φ"],
        y=[*values, float(parts["product"].sum())],
        measure=[*["relative"] * len(values), "total"],
        increasing={"marker": {"color": VERMILLION}},
        decreasing={"marker": {"color": SKY}},
        totals={"marker": {"color": GREY}},
        connector={"line": {"color": translucent(GREY, 0.6), "width": 1}},
        hovertemplate="%{x}: %{delta:.4f}<extra></extra>",
    )


def _without(parts: pd.DataFrame) -> go.Bar:
    """How the score changes without each of the largest components."""
    shown = _by_size(parts)[0].head(MOST_ROWS)
    ranks = ["no rank" if math.isnan(rank) else f"rank {int(rank):,}" for rank in shown["rank_without"]]
    return go.Bar(
        xaxis="x5",
        yaxis="y5",
        x=shown["score_without"] - parts["product"].sum(),
        y=list(shown["component"]),
        orientation="h",
        marker={"color": PURPLE},
        customdata=list(zip(shown["score_without"], ranks, strict=True)),
        hovertemplate="without %{y}: φ = %{customdata[0]:.4f} (%{x:+.4f}), %{customdata[1]}<extra></extra>",
    )


def _temperature(temperatures: pd.DataFrame, temperature: float) -> list[go.Scatter]:
    """Lines of the item's score and of an average item's, and a mark at the chosen temperature."""
    traces = []
    for column, name, color, dash in CURVES:
        rank = ", rank %{customdata:,}" if column == "score" else ""
        traces.append(
            go.Scatter(
                xaxis="x6",
                yaxis="y6",
                x=temperatures["temperature"],
                y=temperatures[column],
                mode="lines",
                line={"color": color, "dash": dash},
                customdata=temperatures["rank"],
                hovertemplate=f"τ = %{{x:.3f}}: φ = %{{y:.3f}}{rank}<extra>{name}</extra>",
            )
        )
    logarithms = np.log(temperatures["temperature"].to_numpy())
    here = np.interp(math.log(temperature), logarithms, temperatures["score"].to_numpy())
    chosen = go.Scatter(
        xaxis="x6",
        yaxis="y6",
        x=[temperature],
        y=[here],
        mode="markers",
        marker={"color": VERMILLION, "size": 10, "line": {"color": "white", "width": 1.5}},
        hovertemplate="τ = %{x:.3f}: φ = %{y:.3f}<extra>chosen</extra>",
    )
    return [*traces, chosen]


def recommended(lists: pd.DataFrame, title: str = "The same user, twice", parts: int = 3) -> go.Figure:
    """Two (or more) lists side by side; a bar is a score, split into its `parts` largest components and the rest.

    `lists` is a table of `anatomy.side_by_side`. The held-out item is marked with a star; if it is not in the list, it is
    shown below with its rank.
    """
    need(lists, "method", "place", "title", "held_out", "score", "elsewhere", "component", "product")
    methods = list(dict.fromkeys(lists["method"]))
    # One layout, as in `score_parts`.
    width = (1 - 0.06 * (len(methods) - 1)) / len(methods)
    traces: list[go.Bar] = []
    axes: dict[str, object] = {}
    names = []
    for column, method in enumerate(methods, start=1):
        rows = lists[lists["method"] == method]
        entries = [entry for _, entry in rows.groupby("place", sort=True)]
        number, left = "" if column == 1 else column, (column - 1) * (width + 0.06)
        stacked = _stacked(entries, parts, method_style(method).color)
        traces += [trace.update(xaxis=f"x{number}", yaxis=f"y{number}") for trace in stacked]
        names.append({**_panel_title(plain(method), left + width / 2, 1.0), "font": {"size": 16}})
        outside = 1 < column == len(methods)  # the last list has its titles on the right, clear of the bars
        labels = [_entry_label(entry.iloc[0], outside) for entry in entries]
        axes[f"xaxis{number}"] = {
            "domain": [left, left + width],
            "anchor": f"y{number}",
            "title": {"text": "score φ"},
            "zeroline": True,
        }
        axes[f"yaxis{number}"] = {
            "domain": [0, 1],
            "anchor": f"x{number}",
            "tickvals": list(range(len(entries))),
            "ticktext": labels,
            "range": [len(entries) - 0.45, -0.55],
            "showgrid": False,
            "tickfont": {"size": 12},
            "side": "right" if outside else "left",
        }
    layout = {
        **axes,
        "annotations": names,
        "barmode": "relative",
        "title": {"x": 0.01, "xref": "container"},
        "bargap": 0.22,
        "height": 470,
        "margin": {"t": 84, "b": 50, "l": 40, "r": 16},
        "showlegend": False,
    }
    return finished(go.Figure(traces, layout), plain(title))


def _stacked(entries: list[pd.DataFrame], parts: int, color: str) -> list[go.Bar]:
    """One trace for each place among the largest components, and one for the rest: they stack at every entry."""
    ranked = [
        e.reindex(e["product"].abs().sort_values(ascending=False, kind="stable").index) for e in entries
    ]
    traces = []
    single = all(len(e) == 1 for e in ranked)
    least = LEAST_NAMED * max(e["product"].abs().sum() for e in ranked)
    for place in range(min(parts, max(map(len, ranked)))):
        rows = [e.iloc[place] for e in ranked]
        traces.append(
            go.Bar(
                x=[row["product"] for row in rows],
                y=list(range(len(rows))),
                orientation="h",
                marker={"color": _tint(color, TINTS[min(place, len(TINTS) - 1)])},
                text=["" if single or abs(row["product"]) < least else row["component"] for row in rows],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                constraintext="none",
                textfont={"size": 11},
                customdata=[_entry_hover(row) for row in rows],
                hovertemplate="%{customdata[0]}<br>%{customdata[1]}"
                + ("" if single else "<br>%{customdata[2]}: π·s = %{x:.3f}")
                + "<extra></extra>",
            )
        )
    if any(len(e) > parts for e in ranked):
        traces.append(
            go.Bar(
                x=[e["product"].iloc[parts:].sum() for e in ranked],
                y=list(range(len(ranked))),
                orientation="h",
                marker={"color": _tint(GREY, 0.5)},
                customdata=[_entry_hover(e.iloc[0]) for e in ranked],
                hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>all other components: %{x:.3f}<extra></extra>",
            )
        )
    return traces


def _entry_hover(row: pd.Series) -> list[str]:
    elsewhere = "" if math.isnan(row["elsewhere"]) else f", rank {int(row['elsewhere']):,} in the other list"
    return [plain(row["title"]), f"φ = {row['score']:.3f}{elsewhere}", plain(row["component"])]


def _entry_label(row: pd.Series, place_first: bool) -> str:
    parts = [f"{int(row['place']):,}", _cut(row["title"], 28)]
    text = "  ".join(parts if place_first else parts[::-1])
    return f'<span style="color:{VERMILLION}">★ <b>{text}</b></span>' if row["held_out"] else text


def _tint(color: str, white: float) -> str:
    """A hexadecimal colour mixed with white.

    >>> _tint("#D55E00", 0.5)
    '#eaae80'
    """
    return "#" + "".join(
        f"{round(int(color[p : p + 2], 16) * (1 - white) + 255 * white):02x}" for p in (1, 3, 5)
    )


def _cut(title: object, longest: int) -> str:
    """A title, literally, that is at most `longest` characters long.

    >>> _cut("Sunset Blvd. (a.k.a. Sunset Boulevard)", 14)
    'Sunset Blvd. …'
    """
    text = str(title)
    return plain(text if len(text) <= longest else f"{text[: longest - 1]}…")
