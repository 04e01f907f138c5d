"""Figures: each a function from a table to a plotly Figure. May import evaluation.

Every function raises ValueError if its table is empty or lacks a column that it needs. Texts from the table are shown
literally.
"""

from collections.abc import Sequence
from itertools import pairwise, product

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from workbench.explore.template import (
    BLUE,
    DIVERGING,
    GREEN,
    SEQUENTIAL,
    TEMPLATE,
    VERMILLION,
    method_style,
    plain,
)

MOST_POINTS = 1500
"""Points that a curve over ranks is drawn with: evenly spaced on the logarithmic axis it is shown on."""


def training_curves(history: pd.DataFrame, metric: str = "NDCG@10") -> go.Figure:
    """Loss and a validation metric by epoch, a line for each run, side by side.

    `history` has the columns `run`, `epoch`, `loss` and the one that `metric` names; rows without a metric (epochs that were
    not evaluated) are left out of its curve.
    """
    need(history, "run", "epoch", "loss", metric)
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    for run, rows in history.groupby("run", sort=False):
        style = method_style(str(run))
        for column, values in enumerate(("loss", metric), start=1):
            shown = rows.dropna(subset=[values])
            figure.add_scatter(
                x=shown["epoch"],
                y=shown[values],
                name=plain(run),
                legendgroup=plain(run),
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": style.color, "dash": style.dash},
                marker={"symbol": style.symbol, "size": 6},
                hovertemplate=f"epoch %{{x}}<br>{plain(values)} %{{y:.4f}}<extra>{plain(run)}</extra>",
                row=1,
                col=column,
            )
    figure.update_xaxes(title_text="epoch", rangemode="tozero")
    figure.update_yaxes(title_text="training loss (nats)", col=1)
    figure.update_yaxes(title_text=f"validation {plain(metric)}", rangemode="tozero", col=2)
    return finished(figure, "Training", hovermode="x unified")


def metric_bars(results: pd.DataFrame, metrics: Sequence[str] | None = None) -> go.Figure:
    """Metrics as groups of bars, a bar for each method, with intervals if the table has them.

    `results` has the columns `method`, `metric` (labels such as `NDCG@10`), `value` and optionally `low` and `high`, the ends
    of an interval around the value. `metrics` chooses which to show, in order; all by default.
    """
    need(results, "method", "metric", "value")
    chosen = list(dict.fromkeys(results["metric"])) if metrics is None else list(metrics)
    figure = go.Figure()
    for method, rows in results.groupby("method", sort=False):
        style = method_style(str(method))
        shown = rows.set_index("metric").reindex(chosen)
        figure.add_bar(
            x=[plain(metric) for metric in chosen],
            y=shown["value"],
            name=plain(method),
            marker={
                "color": style.color,
                "pattern": {
                    "shape": style.pattern,
                    "bgcolor": style.color,
                    "fgcolor": "rgba(255,255,255,0.6)",
                },
            },
            error_y=_interval(shown),
            hovertemplate=f"%{{x}} = %{{y:.4f}}<extra>{plain(method)}</extra>",
        )
    figure.update_yaxes(title_text="metric value", rangemode="tozero")
    return finished(figure, "Metrics by method")


def metric_by_k(results: pd.DataFrame, family: str = "HR") -> go.Figure:
    """A metric against its cut-off k, a line for each method, intervals as bands.

    `results` as for `metric_bars`; of its metrics those labelled `family@k` are shown.
    """
    need(results, "method", "metric", "value")
    labels = results["metric"].astype(str).str.extract(r"^(?P<family>.+)@(?P<k>\d+)$")
    rows = results.assign(k=pd.to_numeric(labels["k"]))[labels["family"] == family]
    if rows.empty:
        known = sorted(set(labels["family"].dropna()))
        raise ValueError(
            f"no metric of the form {family}@k in the table; it has: {', '.join(known) or 'none'}"
        )
    figure = go.Figure()
    for method, unsorted in rows.groupby("method", sort=False):
        line = unsorted.sort_values("k")
        style = method_style(str(method))
        if {"low", "high"} <= set(line.columns):
            figure.add_scatter(
                x=[*line["k"], *line["k"][::-1]],
                y=[*line["high"], *line["low"][::-1]],
                mode="lines",
                fill="toself",
                fillcolor=translucent(style.color),
                line={"width": 0},
                hoverinfo="skip",
                legendgroup=plain(method),
                showlegend=False,
            )
        figure.add_scatter(
            x=line["k"],
            y=line["value"],
            name=plain(method),
            legendgroup=plain(method),
            mode="lines+markers",
            line={"color": style.color, "dash": style.dash},
            marker={"symbol": style.symbol},
            hovertemplate=f"{plain(family)}@%{{x}} = %{{y:.4f}}<extra>{plain(method)}</extra>",
        )
    ks = sorted(set(rows["k"].astype(int)))
    figure.update_xaxes(
        title_text="k (results shown)", type="log", tickvals=ks, ticktext=[f"{int(k):,}" for k in ks]
    )
    figure.update_yaxes(title_text=f"{plain(family)}@k", rangemode="tozero")
    return finished(figure, f"{plain(family)} by cut-off")


def sequence_lengths(lengths: pd.DataFrame, longest: int | None = None) -> go.Figure:
    """How many users have a history of each length, on a logarithmic axis: the mean of a bin that holds several lengths.

    `longest` marks the maximum length that a model reads.

    `lengths` has the columns `length` (interactions of a user) and `users` (how many have it).
    """
    need(lengths, "length", "users")
    values, users = lengths["length"].to_numpy(), lengths["users"].to_numpy()
    edges = _logarithmic_edges(int(values.min()), int(values.max()))
    counts, _ = np.histogram(values, bins=edges, weights=users)
    each = counts / np.diff(edges)
    ranges = [f"{int(low)} to {int(high) - 1}" for low, high in pairwise(edges)]
    hover = [
        f"{where} interactions: {int(count):,} users" for where, count in zip(ranges, counts, strict=True)
    ]
    figure = go.Figure(
        go.Scatter(  # plotly's bars take their widths in powers of ten on such an axis; a filled step line does not
            x=edges,
            y=[*each, each[-1]],
            mode="lines",
            line={"color": BLUE, "width": 1, "shape": "hv"},
            fill="tozeroy",
            fillcolor=translucent(BLUE, 0.55),
            customdata=[*hover, hover[-1]],
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    if longest is not None:
        share = users[values > longest].sum() / users.sum()
        left = longest**2 < values.min() * values.max()
        figure.add_shape(
            type="line",
            x0=longest,
            x1=longest,
            y0=0,
            y1=1,
            yref="paper",
            line={"color": VERMILLION, "dash": "dash"},
        )
        figure.add_annotation(
            x=np.log10(longest),
            y=1,
            yref="paper",
            xanchor="left" if left else "right",
            yanchor="top",
            align="left" if left else "right",
            xshift=6 if left else -6,
            showarrow=False,
            text=f"the model reads {longest} at most<br>{share:.0%} of users have more",
        )
    last = max(edges[-1], longest or 0)
    ticks = [
        step * 10**power for power in range(10) for step in (1, 2, 5) if edges[0] <= step * 10**power <= last
    ]
    figure.update_xaxes(
        title_text="interactions of a user",
        type="log",
        tickvals=ticks,
        ticktext=[f"{tick:,}" for tick in ticks],
    )
    above = 1.0 if longest is None else 1.35  # room for the note
    figure.update_yaxes(title_text="users of each length", range=[0, above * 1.05 * float(each.max())])
    return finished(figure, "Lengths of histories")


def popularity_curve(popularity: pd.DataFrame) -> go.Figure:
    """Interactions of each item by its rank of popularity, both axes logarithmic; items without any are left out.

    `popularity` has the columns `rank` (from 1), `interactions` and optionally `title`.
    """
    need(popularity, "rank", "interactions")
    rows = popularity[popularity["interactions"] > 0].sort_values("rank")
    rows = rows.iloc[_spread(len(rows))]
    titles = [plain(title) for title in rows["title"]] if "title" in rows else [""] * len(rows)
    figure = go.Figure(
        go.Scatter(
            x=rows["rank"],
            y=rows["interactions"],
            mode="lines",
            line={"color": BLUE},
            customdata=titles,
            hovertemplate="%{customdata}<br>rank %{x:,}: %{y:,} interactions<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="item, by rank of popularity", type="log", dtick=1, tickformat=",")
    figure.update_yaxes(title_text="interactions", type="log", dtick=1, tickformat=",")
    return finished(figure, "Popularity of items")


def activity(periods: pd.DataFrame) -> go.Figure:
    """Interactions in each period, and below them the users and items that are new in it, if the table has them.

    `periods` has the columns `start` (a time) and `interactions`, optionally `new_users` and `new_items`.
    """
    need(periods, "start", "interactions")
    series = [("interactions", BLUE, 1), ("new_users", VERMILLION, 2), ("new_items", GREEN, 2)]
    shown = [(column, color, row) for column, color, row in series if column in periods]
    ends = periods["start"].iloc[-1] + periods["start"].diff().median() if len(periods) > 1 else None
    last = (
        [] if ends is None else [periods.iloc[-1].to_dict() | {"start": ends}]
    )  # a step ends where the next would begin
    periods = pd.concat([periods, pd.DataFrame(last)], ignore_index=True) if last else periods
    figure = make_subplots(max(row for _, _, row in shown), 1, shared_xaxes=True, vertical_spacing=0.08)
    for column, color, row in shown:
        name = column.replace("_", " ")
        figure.add_scatter(
            x=periods["start"],
            y=periods[column],
            name=name,
            mode="lines",
            line={"color": color, "shape": "hv"},
            hovertemplate=f"%{{x|%d %b %Y}}: %{{y:,}} {name}<extra></extra>",
            row=row,
            col=1,
        )
    figure.update_yaxes(rangemode="tozero", tickformat=",")
    figure.update_yaxes(title_text="interactions", row=1)
    figure.update_yaxes(title_text="new in the period", row=2)
    lowest = {} if len(shown) == 1 else {"row": 2}
    figure.update_xaxes(title_text="start of the period (UTC)", **lowest)
    return finished(figure, "Activity over time")


def attention_row(row: pd.DataFrame) -> go.Figure:
    """What the last position of a history reads: a bar for each position's weight, negative ones in another colour.

    `row` has `position` (from 1, the oldest), `weight` and `title`, which is shown on hovering.
    """
    need(row, "position", "weight", "title")
    figure = go.Figure(
        go.Bar(
            x=row["position"],
            y=row["weight"],
            marker={"color": [BLUE if weight >= 0 else VERMILLION for weight in row["weight"]]},
            text=[plain(title) for title in row["title"]],
            textposition="none",
            hovertemplate="%{x}: %{text}<br>weight %{y:.4f}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="position in the history, whose last item reads")
    figure.update_yaxes(title_text="attention weight")
    figure.update_layout(height=360)
    return finished(figure, "What the last item reads")


def score_heatmap(scores: pd.DataFrame, title: str = "Scores", unit: str = "φ(query, item)") -> go.Figure:
    """A matrix of scores: rows are queries, columns items, labelled by the table's index and columns.

    Scores on both sides of zero are shown on a scale with two ends, others on one from light to dark.
    """
    need(scores)
    values = scores.to_numpy(dtype=float)
    two_sided = bool(np.nanmin(values) < 0 < np.nanmax(values))
    rows, columns = ([plain(label) for label in labels] for labels in (scores.index, scores.columns))
    figure = go.Figure(
        go.Heatmap(
            z=values,
            colorscale=DIVERGING if two_sided else SEQUENTIAL,
            zmid=0 if two_sided else None,
            colorbar={"title": {"text": plain(unit)}},
            customdata=[[f"{row}<br>{column}" for column in columns] for row in rows],
            hovertemplate="%{customdata}<br>%{z:.4f}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(title_text=plain(scores.columns.name or "item"), **_labels(scores.columns))
    figure.update_yaxes(
        title_text=plain(scores.index.name or "query"), autorange="reversed", **_labels(scores.index)
    )
    figure.update_layout(height=max(320, 200 + 28 * len(scores)))
    return finished(figure, plain(title))


def rank_distribution(ranks: pd.DataFrame) -> go.Figure:
    """How often the target is found among the first x results: the curve of HR@x over every x, a line for each method.

    `ranks` has the columns `method` and `rank` (from 1), a row for each query; a missing rank (the target was not found)
    counts as a query and never as a hit.
    """
    need(ranks, "method", "rank")
    figure = go.Figure()
    for method, rows in ranks.groupby("method", sort=False):
        found = rows["rank"].dropna().to_numpy()
        distinct, count = np.unique(found, return_counts=True)
        share = count.cumsum() / len(rows)
        kept = _spread(len(distinct))
        style = method_style(str(method))
        figure.add_scatter(
            x=distinct[kept],
            y=share[kept],
            name=plain(method),
            mode="lines",
            line={"color": style.color, "dash": style.dash, "shape": "hv"},
            hovertemplate=f"first %{{x:,}}: %{{y:.1%}} of queries<extra>{plain(method)}</extra>",
        )
    figure.update_xaxes(title_text="rank of the target", type="log", dtick=1, tickformat=",")
    figure.update_yaxes(title_text="share at this rank or better", tickformat=".0%", range=[0, 1])
    return finished(figure, "Rank of the target")


def need(table: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError if the table is empty or lacks one of these columns."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"the table lacks the column {', '.join(missing)}; it has: {', '.join(map(str, table.columns))}"
        )
    if table.empty:
        raise ValueError("the table is empty: there is nothing to draw")


def finished(figure: go.Figure, title: str, hovermode: str = "closest") -> go.Figure:
    """The figure in our template, under its title."""
    figure.update_layout(template=TEMPLATE, title_text=title, hovermode=hovermode)
    _declare_numbers(figure)
    return figure


def _declare_numbers(figure: go.Figure) -> None:
    """Axes of numbers are linear unless they have a type: otherwise plotly reads their values as dates first, at each draw."""
    seen = set()
    for trace, letter in product(figure.data, "xy"):
        if letter not in trace or trace[letter] is None or f"{letter}axis" not in trace:
            continue
        axis = f"{letter}axis{(trace[f'{letter}axis'] or letter)[1:]}"
        numbers = isinstance(trace[letter], np.ndarray) and trace[letter].dtype.kind in "iuf"
        if axis not in seen and numbers and (axis not in figure.layout or figure.layout[axis].type is None):
            figure.update_layout({axis: {"type": "linear"}})
        seen.add(axis)


def _labels(names: pd.Index, longest: int = 24) -> dict[str, object]:
    """Ticks 0, 1, … with each name, shortened if it is long (two names may then look the same, but keep their ticks)."""
    short = [name if len(name) <= longest else name[: longest - 1] + "…" for name in map(str, names)]
    return {
        "tickvals": list(range(len(short))),
        "ticktext": [plain(name) for name in short],
        "showgrid": False,
    }


def _interval(rows: pd.DataFrame) -> dict[str, object] | None:
    if not {"low", "high"} <= set(rows.columns):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": rows["high"] - rows["value"],
        "arrayminus": rows["value"] - rows["low"],
    }


def translucent(color: str, opacity: float = 0.18) -> str:
    """A hexadecimal colour with an opacity.

    >>> translucent("#0072B2")
    'rgba(0,114,178,0.18)'
    """
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _logarithmic_edges(low: int, high: int, bins: int = 40) -> NDArray[np.float64]:
    """Edges of bins from `low` to past `high`, evenly spaced in the logarithm, none narrower than one whole number."""
    edges = [float(low)]
    ratio = (max(high, low + 1) / low) ** (1 / bins)
    while edges[-1] <= high:
        edges.append(float(min(max(edges[-1] + 1, np.ceil(edges[-1] * ratio)), high + 1)))
    return np.array(edges)


def _spread(length: int) -> NDArray[np.int64]:
    """Positions to keep of `length`: all if they are few, otherwise evenly spaced in the logarithm, both ends included."""
    if length <= MOST_POINTS:
        return np.arange(length)
    return np.unique(np.geomspace(1, length, MOST_POINTS).round().astype(np.int64)) - 1
