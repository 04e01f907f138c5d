"""Figures of the search bench: each a function from a summary table to a plotly Figure. May import evaluation.

Tables are those of the bench: a row for each entry (`label`: its `method` and `setting`) with `p50_ms`, `recall` and so
on. The colour and mark of a method are the same in every figure. Every function raises ValueError if its table is empty
or lacks a column that it needs.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.explore.figures import finished, need, translucent
from workbench.explore.template import (
    BLUE,
    BROWN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    VIOLET,
    Style,
    method_style,
    plain,
)

STYLES = {
    "reference implementation": Style(GREY, "solid", "x", ""),
    "brute force": Style(BLUE, "solid", "star", ""),
    "exact with a bound": Style(GREEN, "solid", "diamond", ""),
    "per component": Style(VERMILLION, "solid", "square", ""),
    "average": Style(ORANGE, "solid", "triangle-up", ""),
    "cascade": Style(BROWN, "dot", "triangle-down", ""),
    "graph": Style(VIOLET, "dash", "circle", ""),
    "combined": Style(PURPLE, "solid", "hexagon", ""),
    "h-indexer": Style(SKY, "solid", "pentagon", ""),
    "SparCode": Style(ORANGE, "dash", "cross", ""),
    "Deep Retrieval": Style(PURPLE, "dash", "hourglass", ""),
}
"""How each search method is drawn: those with a score of their own in their method's colour, dashed. An engine of a method
("average, FAISS IVF") keeps the colour and changes dash and mark."""

ENGINES = ("dash", "dot", "dashdot", "longdash")
ENGINE_MARKS = {
    "int16": "star-open",
    "certified": "circle-open",
    "FAISS IVF": "triangle-left-open",
    "FAISS HNSW": "triangle-right-open",
    "FAISS flat": "square-open",
    "usearch": "pentagon-open",
    "Milvus": "hexagon-open",
    "LanceDB": "diamond-open",
    "tantivy": "cross-open",
}
"""The mark of each engine, and of other variants of a method; open, so that the method's own is seen under it."""
MEASURES = {
    "recall": "overlap recall@{k} against brute force",
    "relative_hr": "label hit rate@{k}, relative to brute force",
    "hit_rate": "label hit rate@{k}",
    "certified": "share of queries with a proof",
}
"""What a searcher gives, by column: more is better."""

COSTS = {
    "p50_ms": "median latency of a call (ms)",
    "p95_ms": "p95 latency of a call (ms)",
    "p50_query_ms": "median latency per query (ms)",
    "p95_query_ms": "p95 latency per query (ms)",
    "memory_mb": "memory beyond the item state (MB)",
    "build_s": "time to build (s)",
    "num_scored": "items scored per query",
}
"""What it costs, by column: less is better. Those per query are the latency of a call over its queries."""

FRONT = "Pareto front"
MISSING = [[0.0, "#9cc7e6"], [0.5, "#3f8fc7"], [1.0, VERMILLION]]
"""A scale for what is missing of a list, which stands out from a light and from a dark page."""
CELL = 0.5
"""The height of a cell in its row, whose other half has the label. Rows of one height are drawn as one picture."""

SMALLEST, LARGEST = 7, 30
"""Diameters in pixels of the marks for the least and the most memory."""


NINES = ("0", "0.9", "0.99", "0.999", "1")
NINES_AT_MOST = 4.0
"""Position of a recall of 1, and of all above 0.9999."""


def nines(recall: pd.Series) -> pd.Series:
    """−log₁₀(1 − recall): 0.9 at 1, 0.99 at 2, 0.999 at 3, and 1 at 4.

    >>> nines(pd.Series([0.0, 0.9, 1.0])).round(6).tolist()
    [0.0, 1.0, 4.0]
    """
    return -np.log10((1 - recall).clip(lower=10**-NINES_AT_MOST)) + 0.0


def _along(values: pd.Series, measure: str) -> pd.Series:
    return nines(values) if measure == "recall" else values


def _fill(style: Style) -> str:
    """The colour inside a mark, through which those under it are seen; an open one has its outline's."""
    return style.color if style.symbol.endswith("-open") else translucent(style.color, 0.5)


def searcher_style(method: str) -> Style:
    """How to draw a search method.

    >>> searcher_style("average, FAISS IVF").color == searcher_style("average").color
    True
    >>> searcher_style("average, FAISS IVF").symbol
    'triangle-left-open'
    """
    base, _, engine = method.partition(", ")
    style = STYLES.get(base) or method_style(method)
    if not engine:
        return style
    dash = ENGINES[sum(map(ord, engine)) % len(ENGINES)]
    return Style(style.color, dash, ENGINE_MARKS.get(engine, f"{style.symbol}-open"), "/")


def frontier(
    table: pd.DataFrame,
    measure: str = "recall",
    title: str = "",
    *,
    now: pd.DataFrame | None = None,
    logarithmic: bool = True,
    height: int = 460,
    cost: str = "p50_ms",
    joined: bool = True,
) -> go.Figure:
    """What each entry costs against what it gives: a mark, a line through the settings of a method, in their order in the
    table (unless they are not to be `joined`); the lower right corner is best, and the Pareto front is drawn.

    `table` has `label`, `method`, `setting`, `k`, the columns `measure` (of `MEASURES`) and `cost` (of `COSTS`; per query:
    that of a call, with `batch_size`), and optionally `memory_mb`, shown as the area of the mark; hovering shows all its
    numbers. Rows without the measure (a reference implementation on a part of the corpus) or the cost are left out. `now`
    holds rows that were measured just now: they have a ring and show their settings. Recall has the scale of `nines`, which
    separates .9, .99 and .999.
    """
    parts = [part for part in (table, now) if part is not None and not part.empty]
    rows = pd.concat(parts, ignore_index=True) if parts else table
    rows = per_query_costs(rows)
    need(rows, "label", "method", "setting", "k", cost, measure)
    fresh = pd.Series(len(rows) * [False])
    if now is not None and not now.empty:
        fresh.iloc[-len(now) :] = True
    known = rows[measure].notna() & rows[cost].notna() & (rows[cost] > 0)
    rows, fresh = rows[known], fresh[known]
    if rows.empty:
        raise ValueError(f"no row of the table has a {measure} and a {cost}: there is nothing to draw")
    figure = go.Figure()
    front = pareto(rows[measure], rows[cost])
    figure.add_scatter(
        x=_along(rows[measure][front], measure), y=rows[cost][front], mode="lines", name=FRONT, hoverinfo="skip",
        line={"color": GREY, "width": 1.5, "dash": "dot", "shape": "vh"}, showlegend=len(front) > 1,
    )  # fmt: skip
    areas, hover = _areas(rows), _hover(rows)
    named: set[str] = set()
    for is_fresh in (False, True):
        for method, line in rows[fresh == is_fresh].groupby("method", sort=False):
            style = searcher_style(str(method))
            figure.add_scatter(
                x=_along(line[measure], measure), y=line[cost], name=plain(method), legendgroup=plain(method),
                showlegend=method not in named, mode="lines+markers" if joined and not is_fresh else "markers",
                line={"color": style.color, "dash": style.dash, "width": 1.5},
                marker={"symbol": style.symbol, "size": areas[line.index], "color": _fill(style), "opacity": 1,
                        "line": {"width": 1.5, "color": style.color}},
                customdata=np.stack([hover[line.index], [plain(label) for label in line["label"]]], axis=1),
                hovertemplate="%{customdata[0]}<extra></extra>",
            )  # fmt: skip
            named.add(str(method))
    ks = ", ".join(str(k) for k in sorted(set(rows["k"])))
    figure.update_xaxes(type="linear", title_text=MEASURES.get(measure, plain(measure)).format(k=ks))
    if measure == "recall":
        ticks = [float(text) for text in NINES]
        figure.update_xaxes(
            tickvals=nines(pd.Series(ticks)), ticktext=NINES, range=[-0.15, 1.1 * NINES_AT_MOST]
        )
    axis = decades(rows[cost]) if logarithmic else {"type": "linear", "rangemode": "tozero"}
    figure.update_yaxes(title_text=COSTS.get(cost, plain(cost)), **axis)
    if fresh.any():
        _ring(figure, rows[fresh], measure, cost, areas)
        _label(figure, rows, fresh, measure, cost, _heights(rows[cost], logarithmic, WITHIN_AXES * height))
    # The names of all searchers fit into the height of the figure, below the bar of buttons.
    figure.update_layout(
        height=height,
        legend={
            "itemsizing": "constant", "tracegroupgap": 0, "font": {"size": 12}, "y": 1 + 24 / (height - 112), "yanchor": "top",
            "maxheight": height - 60,
        },
        modebar={"orientation": "h"},
    )  # fmt: skip
    return finished(figure, plain(title) or "Latency against recall")


def brushed(figure: go.Figure, queries: pd.DataFrame) -> go.Figure:
    """The figure of `frontier` with a brush: a frame drawn around marks chooses settings, whose failing queries are listed.

    What each setting loses stands in `layout.meta["failing"]`, by label: (query, share of its true list that is missing).
    `queries` as in `failing`; a figure without any stays as it is.
    """
    if queries.empty:
        return figure
    lost = queries[queries["recall"] < 1]
    failing: dict[str, list[list[float]]] = {plain(label): [] for label in dict.fromkeys(queries["label"])}
    for label, query, recall in zip(lost["label"], lost["query"], lost["recall"], strict=True):
        failing[plain(label)].append([int(query), round(1 - float(recall), 4)])
    return figure.update_layout(
        meta={"failing": failing, "queries": int(queries["query"].nunique())},
        dragmode="select",
        modebar={"remove": ["zoomIn2d", "zoomOut2d", "autoScale2d"]},
    )


def failing_in(meta: Mapping[str, Any], labels: Sequence[str]) -> tuple[str, list[tuple[int, int, float]]]:
    """What a brush over the settings `labels` lists, from the `layout.meta` of `brushed`: a sentence, and for each query that
    fails in one of them (query, settings in which it fails, mean share missing in these), the hardest first.

    As in a page's `dashboards.js`.

    >>> failing_in({"queries": 9, "failing": {"a": [[3, 0.5]], "b": [[3, 0.1], [7, 0.2]]}}, ["a", "b"])
    ('2 settings chosen: 2 of 9 queries lose a true item.', [(3, 2, 0.3), (7, 1, 0.2)])
    """
    chosen = [label for label in dict.fromkeys(labels) if label in meta["failing"]]
    lost: dict[int, list[float]] = {}
    for label in chosen:
        for query, missing in meta["failing"][label]:
            lost.setdefault(query, []).append(missing)
    rows = [(query, len(shares), sum(shares) / len(shares)) for query, shares in lost.items()]
    settings = f"{len(chosen)} setting{'' if len(chosen) == 1 else 's'} chosen"
    summary = f"{settings}: {len(rows)} of {meta['queries']} queries lose a true item."
    return summary, sorted(rows, key=lambda row: (-row[1] * row[2], row[0]))


def per_query_costs(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the latency of a call over its queries, `p50_query_ms` and `p95_query_ms`, if it has `batch_size`."""
    if "batch_size" not in table:
        return table
    known = [name for name in ("p50", "p95") if f"{name}_ms" in table]
    return table.assign(**{f"{n}_query_ms": table[f"{n}_ms"] / table["batch_size"] for n in known})


def pareto(gain: pd.Series, cost: pd.Series) -> pd.Index:
    """The rows that no other row beats in both: as much gain for less cost, or more for as much; in the order of cost.

    >>> pareto(pd.Series([0.9, 0.5, 0.8, 1.0]), pd.Series([2.0, 1.0, 3.0, 4.0])).tolist()
    [1, 0, 3]
    """
    order = pd.DataFrame({"cost": cost, "gain": -gain}).sort_values(["cost", "gain"], kind="stable").index
    best, kept = -math.inf, []
    for row in order:
        if gain[row] > best:
            best = gain[row]
            kept.append(row)
    return pd.Index(kept)


def failing(queries: pd.DataFrame, title: str = "") -> go.Figure:
    """The queries whose list lacks a true item: a row for each entry, a column for each of these queries, the hardest first.

    `queries` has `label`, `query`, `recall`, `exact`, `hit`: those of `bench.tables.per_query`, of one workload and k. The
    darker a mark, the more of the true list is missing. Raises ValueError if the table is empty.
    """
    need(queries, "label", "query", "recall", "exact", "hit")
    lost = queries[queries["recall"] < 1].drop_duplicates(["label", "query"], keep="last")
    missing = (1 - lost["recall"]).groupby(lost["query"]).sum().sort_values(ascending=False, kind="stable")
    labels = list(dict.fromkeys(queries["label"]))[::-1]
    total = queries.groupby("label")["query"].nunique()
    hits = {1.0: "label found", 0.0: "label not found"}
    hover = [
        f"query {query}: recall {recall:.2f}, {hits.get(hit, 'no label')}"
        for query, recall, hit in zip(lost["query"], lost["recall"], lost["hit"], strict=True)
    ]
    wide = lost.assign(missing=1 - lost["recall"], hover=hover).pivot(index="label", columns="query")
    wide = wide.reindex(labels)
    shares, texts = (
        wide[name][missing.index] if len(lost) else pd.DataFrame(index=labels)
        for name in ("missing", "hover")
    )
    figure = go.Figure()
    # One picture of cells: as marks, some thousands of them, they take a browser half a second to draw.
    figure.add_heatmap(
        x=np.arange(1, shares.shape[1] + 1), y=[edge for at in range(len(labels)) for edge in (at, at + CELL)] + [len(labels)],
        z=[row for values in shares.to_numpy() for row in (values, np.full_like(values, np.nan))],
        text=[row for values in texts.fillna("").to_numpy() for row in (values, np.full_like(values, ""))],
        hovertemplate="%{text}<extra></extra>", hoverongaps=False, showscale=len(lost) > 0,
        colorscale=MISSING, zmin=0, zmax=1,
        colorbar={"title": {"text": "missing", "side": "right"}, "tickformat": ".0%", "orientation": "h", "thickness": 10,
                  "len": 0.8, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"},
    )  # fmt: skip
    figure.update_xaxes(
        type="linear", title_text="queries that lose a true item, hardest first", rangemode="tozero"
    )
    counts = lost.groupby("label")["query"].nunique()
    figure.update_yaxes(
        type="linear", showgrid=False, zeroline=False, range=[-0.2, len(labels) + 0.1], ticks="", tickfont={"size": 11},
        tickvals=[at + CELL for at in range(len(labels))],
        ticktext=[f"{plain(label)}: {counts.get(label, 0)} of {total[label]}" for label in labels],
        ticklabelposition="inside top",  # outside the figure they would leave no room on a phone
    )  # fmt: skip
    figure.update_layout(height=max(320, 150 + 27 * len(labels)), margin={"t": 92})
    return finished(figure, plain(title) or "Queries that fail")


def _ring(figure: go.Figure, rows: pd.DataFrame, measure: str, cost: str, areas: pd.Series) -> None:
    """A ring around each mark."""
    for number, (method, marks) in enumerate(rows.groupby("method", sort=False)):
        figure.add_scatter(
            x=_along(marks[measure], measure), y=marks[cost], name="measured now", mode="markers", hoverinfo="skip",
            marker={"symbol": "circle-open", "size": areas[marks.index] + 9, "color": GREY, "line": {"width": 2}},
            legendgroup=plain(method), showlegend=number == 0,
        )  # fmt: skip


ACROSS, AWAY, LETTER, AROUND = 300, 56, 7, 9
"""Pixels, about: the axis of a narrow figure, a label's distance from its mark, a letter of it, and half a mark."""

WITHIN_AXES, LINE = 0.65, 15
"""The share of a figure's height from its lowest mark to its highest, about, and the pixels of a line of a label."""


def _heights(latencies: pd.Series, logarithmic: bool, highest: float) -> pd.Series:
    """The approximate height in pixels of each mark above the lowest one, given that of the highest."""
    values = np.log10(latencies) if logarithmic else latencies
    low = values.min() if logarithmic else 0.0
    return highest * (values - low) / ((values.max() - low) or 1.0)


def _label(
    figure: go.Figure, rows: pd.DataFrame, fresh: pd.Series, measure: str, cost: str, heights: pd.Series
) -> None:
    """The setting of each fresh row, as near to its mark as it covers no mark and no other label, rather left than right; no
    other label alone, if marks are everywhere."""
    log = figure.layout.yaxis.type == "log"
    places = _along(rows[measure], measure)
    low, high = (0.0, NINES_AT_MOST) if measure == "recall" else (places.min(), places.max())
    across = ACROSS * (places - low) / ((high - low) or 1.0)
    marks = [(x - AROUND, x + AROUND, y) for x, y in zip(across, heights[rows.index], strict=True)]
    labels: list[tuple[float, float, float]] = []  # left, right, height
    for index in heights[rows.index[fresh]].sort_values().index:
        row = rows.loc[index]
        text = str(row["setting"] or row["method"])
        sides = (-1, 1) if across[index] > AWAY + LETTER * len(text) else (1, -1)
        spots = [
            (side, up, _spot(across[index], heights[index], side, up, len(text)))
            for up in (0, 1, -1, 2, -2, 3, -3)
            for side in sides
        ]
        free = (spot for taken in (marks + labels, labels) for spot in spots if _is_free(spot[2], taken))
        side, up, place = next(free, spots[0])
        labels.append(place)
        latency = float(row[cost])
        figure.add_annotation(
            x=float(places[index]), y=math.log10(latency) if log else latency,
            text=plain(text), name=plain(row["method"]),
            ax=side * AWAY, ay=-up * LINE, xanchor="right" if side < 0 else "left",
            font={"size": 12}, arrowhead=0, arrowwidth=1, arrowcolor=GREY,
            standoff=10,
        )  # fmt: skip


def _spot(x: float, y: float, side: int, up: int, letters: int) -> tuple[float, float, float]:
    """Where a label left (−1) or right of a mark ends, and its height, `up` lines above the mark."""
    ends = sorted((float(x + side * AWAY), float(x + side * (AWAY + LETTER * letters))))
    return ends[0], ends[1], float(y + up * LINE)


def _is_free(spot: tuple[float, float, float], taken: Sequence[tuple[float, float, float]]) -> bool:
    """Whether a label lies within the axes and over nothing of `taken`.

    >>> _is_free((50, 90, 20), [(80, 98, 30)]), _is_free((50, 90, 20), [(80, 98, 40)])
    (False, True)
    """
    left, right, height = spot
    inside = left >= 0 and right <= ACROSS and height > -LINE
    return inside and not any(left < b and a < right and abs(height - at) < LINE for a, b, at in taken)


def _areas(rows: pd.DataFrame) -> pd.Series:
    """Diameters of marks whose areas grow with memory; all the same if it is unknown."""
    if "memory_mb" not in rows:
        return pd.Series(10.0, index=rows.index)
    root = np.sqrt(rows["memory_mb"].fillna(0).clip(lower=0))
    largest = root.max() or 1.0
    return (SMALLEST + (LARGEST - SMALLEST) * root / largest).astype(float)


HOVERED = (
    ("p50_ms", "p50 {:.3g} ms"),
    ("p95_ms", "p95 {:.3g} ms"),
    ("vs_brute_force", "{:.2f} × as fast as brute force, same run"),
    ("recall", "overlap recall {:.3f}"),
    ("relative_hr", "relative hit rate {:.3f}"),
    ("hit_rate", "label hit rate {:.3f}"),
    ("certified", "certified {:.1%}"),
    ("build_s", "built in {:.3g} s"),
    ("matches_brute_force", "matches brute force {:.1%}"),
    ("num_scored", "{:,.0f} items scored"),
    ("memory_mb", "{:,.1f} MB beyond the item state"),
)
"""What hovering shows, of the columns that a table has."""


def _hover(rows: pd.DataFrame) -> pd.Series:
    """The label of each row, and all its known numbers."""

    def text(row: pd.Series) -> str:
        lines = [f"<b>{plain(row['label'])}</b>"]
        if row.get("own_score", False):
            lines.append("own score: recall is against brute force with that score")
        lines += [
            form.format(row[name]) for name, form in HOVERED if name in rows and math.isfinite(row[name])
        ]
        return "<br>".join(lines)

    return rows.apply(text, axis=1)


def nothing_yet(text: str, title: str) -> go.Figure:
    """An empty figure with the reason as its text."""
    figure = go.Figure()
    figure.add_annotation(text=plain(text), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(height=460)
    return finished(figure, plain(title))


def proofs(table: pd.DataFrame) -> go.Figure:
    """Bars for each entry: the share of queries with a certificate of exactness, and the share that matches brute force.

    `table` has `label`, `method`, `certified` and `matches_brute_force`.
    """
    need(table, "label", "method", "certified", "matches_brute_force")
    rows = table.dropna(subset=["certified", "matches_brute_force"])[::-1]
    figure = go.Figure()
    for method, bars in rows.groupby("method", sort=False):
        color = searcher_style(str(method)).color
        for column, name, faint in (
            ("matches_brute_force", "matches brute force", True),
            ("certified", "certified", False),
        ):
            figure.add_bar(
                y=[plain(label) for label in bars["label"]],
                x=bars[column],
                orientation="h",
                name=name,
                marker={
                    "color": translucent(color, 0.35) if faint else color,
                    "line": {
                        "width": 1 if faint else 0,
                        "color": color,
                    },  # a faint bar alone sinks into a dark page
                },
                hovertemplate=f"%{{y}}: %{{x:.1%}} {name}<extra></extra>",
                legendgroup=plain(method),
                showlegend=False,
            )
    for name, color in (("certified", GREY), ("matches brute force", translucent(GREY, 0.35))):
        line = {"width": 1, "color": GREY}
        figure.add_bar(y=[None], x=[None], orientation="h", name=name, marker={"color": color, "line": line})
    # Explicit types: a live figure that had others before does not infer them again.
    figure.update_xaxes(type="linear", title_text="share of queries", tickformat=".0%", range=[0, 1.02])
    figure.update_yaxes(type="category", showgrid=False)
    figure.update_layout(height=max(320, 150 + 34 * len(rows)), barmode="overlay", bargap=0.35)
    return finished(figure, "Certified, and matching brute force")


def growth(table: pd.DataFrame, fits: pd.DataFrame | None = None) -> go.Figure:
    """Median latency against the number of items, both axes logarithmic, a line for each entry.

    `table` has `label`, `method`, `items`, `p50_ms`; `fits` (see `bench.growth.exponents`) adds each exponent to the legend.
    """
    need(table, "label", "method", "items", "p50_ms")
    named: dict[str, str] = {}
    if fits is not None:
        half = fits["high"] - fits["exponent"]
        powers = fits["exponent"].map(" ∝ N^{:.2f}".format) + half.map(
            lambda h: f" ± {h:.2f}" if np.isfinite(h) else ""
        )
        named = dict(zip(fits["label"].astype(str), powers, strict=True))
    figure = go.Figure()
    seen: dict[str, int] = {}
    for label, unsorted in table.groupby("label", sort=False):
        line = unsorted.sort_values("items")
        method = str(line["method"].iloc[0])
        style = searcher_style(method)
        seen[method] = seen.get(method, -1) + 1
        figure.add_scatter(
            x=line["items"],
            y=line["p50_ms"],
            name=plain(label) + named.get(str(label), ""),
            mode="lines+markers",
            line={
                "color": style.color,
                "dash": list(dict.fromkeys((style.dash, *ENGINES, "solid")))[seen[method] % 5],
            },
            marker={"symbol": style.symbol, "color": style.color},
            hovertemplate=f"{plain(label)}<br>%{{x:,}} items: %{{y:.3g}} ms<extra></extra>",
        )
    figure.update_xaxes(title_text="items in the corpus", **decades(table["items"]))
    figure.update_yaxes(title_text="median latency of a call (ms)", **decades(table["p50_ms"]))
    figure.update_layout(
        height=420 + 22 * len(seen), legend={"orientation": "h", "y": -0.22, "yanchor": "top"}
    )
    return finished(figure, "Latency by corpus size")


def roofline_bars(table: pd.DataFrame) -> go.Figure:
    """Median latency of each entry and the shortest time that the machine's ceilings allow, on a logarithmic axis.

    `table` has `label`, `method`, `p50_ms`, `roofline_ms`; rows without a roofline are left out.
    """
    need(table, "label", "method", "p50_ms", "roofline_ms")
    rows = table.dropna(subset=["roofline_ms"])[::-1]
    names = [plain(label) for label in rows["label"]]
    figure = go.Figure()
    for name, least, taken in zip(names, rows["roofline_ms"], rows["p50_ms"], strict=True):
        figure.add_scatter(
            x=[least, taken], y=[name, name], mode="lines", line={"color": GREY, "width": 1}, showlegend=False,
            hoverinfo="skip",
        )  # fmt: skip
    figure.add_scatter(
        x=rows["roofline_ms"], y=names, mode="markers", name="shortest time by the roofline",
        marker={"symbol": "line-ns-open", "size": 14, "color": GREY, "line": {"width": 2}},
        hovertemplate="%{y}: at least %{x:.3g} ms<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=[None], y=[None], mode="markers", name="measured median", marker={"symbol": "circle", "size": 11, "color": GREY}
    )  # fmt: skip
    figure.add_scatter(
        x=rows["p50_ms"], y=names, mode="markers", showlegend=False,
        marker={"symbol": [searcher_style(str(m)).symbol for m in rows["method"]], "size": 11,
                "color": [searcher_style(str(m)).color for m in rows["method"]]},
        hovertemplate="%{y}: %{x:.3g} ms<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title_text="ms per call", **decades(pd.concat([rows["p50_ms"], rows["roofline_ms"]])))
    figure.update_yaxes(showgrid=False)
    figure.update_layout(
        height=max(320, 160 + 28 * len(rows)),
        legend={"orientation": "h", "y": -70 / (28 * len(rows)), "yanchor": "top"},
    )
    return finished(figure, "Measured and shortest possible latency")


def memory_per_item(parts: pd.DataFrame) -> go.Figure:
    """Stacked bars of the bytes per item that each search method stores.

    `parts` has `label`, `part` (what is stored) and `bytes`.
    """
    need(parts, "label", "part", "bytes")
    figure = go.Figure()
    shades = [BLUE, ORANGE, GREEN, PURPLE, SKY]
    for color, (part, rows) in zip(shades * 9, parts.groupby("part", sort=False), strict=False):
        figure.add_bar(
            x=rows["bytes"],
            y=[plain(label) for label in rows["label"]],
            orientation="h",
            name=plain(part),
            marker={"color": color},
            hovertemplate=f"%{{y}}<br>{plain(part)}: %{{x:,.0f}} bytes per item<extra></extra>",
        )
    figure.update_xaxes(title_text="bytes per item")
    figure.update_yaxes(showgrid=False, autorange="reversed")
    figure.update_layout(barmode="stack", height=max(320, 150 + 30 * parts["label"].nunique()))
    return finished(figure, "Memory per item")


def decades(values: pd.Series) -> dict[str, object]:
    """A logarithmic axis; the fewer powers of ten it spans, the more ticks are between them."""
    finite = values[np.isfinite(values) & (values > 0)]
    span = math.log10(finite.max() / finite.min())
    low, high = math.floor(math.log10(finite.min())), math.ceil(math.log10(finite.max()))
    steps = (1, 1.5, 2, 3, 5, 7) if high - low <= 1 else (1, 2, 5) if span <= 2.5 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    texts = [f"{t:,.0f}" if t >= 10 else f"{t:g}" for t in ticks]
    return {"type": "log", "tickvals": ticks, "ticktext": texts}
