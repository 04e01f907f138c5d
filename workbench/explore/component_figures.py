"""Figures of a mixture's components over many items, from tables of the anatomy. May import nothing else of ours.

As in `figures`, every function raises ValueError if its table is empty or lacks a column, and shows texts literally.
"""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from workbench.explore.anatomy import MOST_CELLS
from workbench.explore.figures import finished, need, translucent
from workbench.explore.template import (
    DIVERGING,
    GREY,
    ON_SCALE,
    PALETTE,
    SEQUENTIAL,
    SKY,
    TEMPLATE,
    VERMILLION,
    plain,
)

MOST_COLORS = len(PALETTE) - 1
"""Groups of items with a colour of their own; the others are grey."""


def usage_heatmap(
    use: pd.DataFrame, measure: str = "mean gate weight π", relative: bool = False
) -> go.Figure:
    """Which component each group of items uses: a table of `anatomy.usage` as a heatmap.

    `relative`: minus the mean of the groups, which shows what is particular to a group.
    """
    need(use)
    values = use.to_numpy(dtype=float)
    if relative:
        values = values - values.mean(0)
    sided = relative or bool(values.min() < 0)
    largest = float(np.abs(values).max()) or 1.0
    cells = values.shape[1] <= MOST_CELLS / 2 and float(np.abs(values).max()) > 0
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=[plain(name) for name in use.columns],
            y=[plain(name) for name in use.index],
            colorscale=DIVERGING if sided else SEQUENTIAL,
            zmin=-largest if sided else 0,
            zmax=largest,
            colorbar={"title": {"text": "difference" if relative else "", "font": {"size": 12}}},
            texttemplate="%{z:.2f}" if cells else None,
            textfont={"size": 11, "color": ON_SCALE},
            hovertemplate="%{y}<br>%{x}: %{z:.4f}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.update_xaxes(
        title_text="component (query group · item group)", showgrid=False, ticks="", type="category"
    )
    figure.update_yaxes(
        autorange="reversed",
        showgrid=False,
        ticks="",
        type="category",
        tickfont={"size": 12},
    )
    figure.update_layout(height=440)  # constant: what is below does not move when the groups change
    return finished(figure, f"{plain(measure)}{', minus the mean of the groups' if relative else ''}")


def balance_bars(components: pd.DataFrame) -> go.Figure:
    """How the weight is spread over the components, most used first: a line of shares for each model, and what even would be.

    `components` is the first table of `anatomy.balance`.
    """
    need(components, "model", "component", "weight")
    figure = go.Figure()
    for color, (model, rows) in zip(
        (VERMILLION, SKY, *PALETTE), components.groupby("model", sort=False), strict=False
    ):
        ordered = rows.sort_values("weight", ascending=False)
        figure.add_bar(
            x=list(range(1, len(ordered) + 1)),
            y=ordered["weight"],
            name=plain(model),
            marker={"color": color},
            customdata=ordered["component"],
            hovertemplate=f"%{{customdata}}: %{{y:.3f}}<extra>{plain(model)}</extra>",
        )
    even = 1 / components.groupby("model").size().max()
    figure.add_hline(y=even, line={"color": TEMPLATE.layout.font.color, "dash": "dash"})
    figure.add_annotation(
        x=1,
        xref="paper",
        y=even,
        text="even",
        showarrow=False,
        yanchor="bottom",
        xanchor="right",
        font={"size": 12},
    )
    figure.update_xaxes(title_text="component, most used first", dtick=1, showgrid=False)
    figure.update_yaxes(title_text="mean gate weight π", rangemode="tozero")
    figure.update_layout(
        height=340, legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"}
    )
    return finished(figure, "Use of components over all held-out pairs")


def switched_off_bars(table: pd.DataFrame) -> go.Figure:
    """What each component is worth: the change of a metric when it is switched off, with two standard errors.

    `table` is one of `anatomy.ablate_components`.
    """
    need(table, "component", "change", "error")
    rows = table[table["component"] != "none"]
    need(rows)
    metric = next((c for c in rows.columns if c.startswith("NDCG")), "metric")
    figure = go.Figure(
        go.Bar(
            x=rows["component"],
            y=rows["change"],
            marker={"color": [translucent(VERMILLION if c < 0 else SKY, 0.5) for c in rows["change"]]},
            error_y={"type": "data", "array": 2 * rows["error"]},
            customdata=rows[[metric]] if metric in rows else None,
            hovertemplate=f"without %{{x}}: %{{y:+.4f}}<extra>{plain(metric)}</extra>",
        )
    )
    figure.update_xaxes(title_text="component switched off", type="category", showgrid=False)
    figure.update_yaxes(title_text=f"change of {plain(metric)}")
    figure.update_layout(height=340)
    return finished(figure, "Effect of switching off a component")


def component_map(
    points: pd.DataFrame,
    color_by: str,
    explained: tuple[float, float],
    selected: NDArray[np.int64] | None = None,
    title: str = "Items",
) -> go.Figure:
    """Items in the plane, coloured by genre, decile of popularity or dominant component; drawn with WebGL.

    `points` is the table of an `anatomy.item_map`, `color_by` one of its columns `genre`, `decile`, `dominant`, `explained`
    the shares of variance along the axes. `selected`: positions of highlighted points. The first trace holds every point, in
    the order of the table; those after it are the legend's.
    """
    need(points, "x", "y", "title", "genres", "interactions", "decile", "dominant", color_by)
    scale = color_by == "decile"
    kinds = [] if scale else list(points[color_by].value_counts().index[:MOST_COLORS])
    colors = dict(zip(kinds, PALETTE, strict=False))
    titles = [plain(title) for title in points["title"]]
    figure = go.Figure(
        go.Scattergl(
            x=points["x"],
            y=points["y"],
            mode="markers",
            marker={
                "size": 6,
                "opacity": 0.8,
                "color": points["decile"] if scale else [colors.get(kind, GREY) for kind in points[color_by]],
                "colorscale": "Viridis" if scale else None,
                "cmin": 1 if scale else None,
                "cmax": 10 if scale else None,
                "showscale": scale,
                "colorbar": {"title": {"text": "decile of<br>popularity"}, "thickness": 14, "outlinewidth": 0}
                if scale
                else None,
            },
            selectedpoints=selected,
            selected={"marker": {"opacity": 1, "size": 9}},
            unselected={"marker": {"opacity": 0.12}},
            customdata=np.stack(
                [
                    titles,
                    [plain(g) for g in points["genres"]],
                    points["interactions"].map("{:,}".format),
                    points["dominant"],
                ],
                axis=-1,
            ),
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]} interactions"
            " · dominant %{customdata[3]}<extra></extra>",
            showlegend=False,
        )
    )
    named = [*colors.items(), *([("other", GREY)] if len(set(points[color_by])) > len(colors) else [])]
    for kind, color in [] if scale else named:
        figure.add_scattergl(
            x=[None],
            y=[None],
            mode="markers",
            marker={"color": color, "size": 9},
            name=plain(kind),
            hoverinfo="skip",
        )
    for axis, share, update in zip(
        ("first", "second"), explained, (figure.update_xaxes, figure.update_yaxes), strict=True
    ):
        update(title_text=f"{axis} principal component ({share:.0%} of variance)", zeroline=False)
    figure.update_layout(
        height=450,
        dragmode="lasso",
        legend={"itemclick": False, "itemdoubleclick": False},
        modebar={"remove": ["select2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]},
        uirevision="map",
    )
    return finished(figure, plain(title))
