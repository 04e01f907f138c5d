"""Figures of SparCode's index: quality, time and bytes by sparsity, and how its codes are used. May import evaluation.

As in `figures`: each is a function from a table to a plotly Figure, and raises ValueError if the table is empty or lacks
a column.
"""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.explore.figures import finished, need
from workbench.explore.template import BLUE, GREEN, GREY, ORANGE, VERMILLION


def sparsity_tradeoff(sweep: pd.DataFrame, metric: str = "NDCG@10") -> go.Figure:
    """Quality, latency and bytes of an index by the share of scores that it leaves out.

    `sweep` has `index`, `sparsity`, `p50_ms`, `mebibytes` and the column that `metric` names; the row "brute force" is drawn as
    a line across, "learned threshold" as a star.
    """
    need(sweep, "index", "sparsity", "p50_ms", "mebibytes", metric)
    rows = sweep[sweep["sparsity"].notna()].sort_values("sparsity")
    if rows.empty:
        raise ValueError("the table has no row of an index: there is nothing to draw")
    learned = rows["index"] == "learned threshold"
    brute = sweep[sweep["index"] == "brute force"]
    panels = [
        (metric, metric, BLUE),
        ("p50_ms", "median time of a query (ms)", ORANGE),
        ("mebibytes", "MiB", GREEN),
    ]
    figure = make_subplots(1, 3, subplot_titles=[title for _, title, _ in panels], horizontal_spacing=0.1)
    kept = 1 - rows["sparsity"]
    for place, (column, title, color) in enumerate(panels, start=1):
        figure.add_scatter(
            x=kept[~learned],
            y=rows[column][~learned],
            customdata=rows["sparsity"][~learned],
            mode="lines+markers",
            line={"color": color},
            showlegend=False,
            hovertemplate=f"%{{customdata:.2%}} left out<br>{title} %{{y:.4g}}<extra></extra>",
            row=1,
            col=place,
        )
        figure.add_scatter(
            x=kept[learned],
            y=rows[column][learned],
            mode="markers",
            marker={"symbol": "star", "size": 13, "color": VERMILLION},
            name="learned threshold",
            showlegend=place == 1,
            hovertemplate=f"learned threshold<br>{title} %{{y:.4g}}<extra></extra>",
            row=1,
            col=place,
        )
        if len(brute) and brute[column].notna().all():
            figure.add_hline(
                y=float(brute[column].iloc[0]), line={"color": GREY, "dash": "dot"}, row=1, col=place
            )
        figure.update_yaxes(rangemode="tozero", row=1, col=place)
    figure.update_xaxes(
        type="log",
        autorange="reversed",
        title_text="share left out",
        tickvals=[1, 0.1, 0.01, 0.001],
        ticktext=["0 %", "90 %", "99 %", "99.9 %"],
    )
    figure.update_annotations(font_size=13)
    figure.update_layout(
        height=380, margin={"t": 90}, legend={"orientation": "h", "y": -0.25, "x": 0, "yanchor": "top"}
    )
    return finished(figure, "Cost of a sparser index (dotted: brute force)")


def interaction_bars(ablation: pd.DataFrame, metric: str = "NDCG@10") -> go.Figure:
    """A metric of each `variant` as a bar, in the order of the table, with the ends `low` and `high` of its 95 % interval.

    `ablation` has `variant` and the column that `metric` names.
    """
    need(ablation, "variant", metric)
    error = None
    if {"low", "high"} <= set(ablation.columns):
        error = {
            "type": "data",
            "array": ablation["high"] - ablation[metric],
            "arrayminus": ablation[metric] - ablation["low"],
        }
    figure = go.Figure(
        go.Bar(
            y=ablation["variant"],
            x=ablation[metric],
            orientation="h",
            error_x=error,
            marker={"color": ORANGE},
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(
        title_text=metric if error is None else f"{metric}, with a 95 % interval over users",
        rangemode="tozero",
    )
    figure.update_layout(height=120 + 34 * len(ablation))
    return finished(figure, "One thing changed at a time")
