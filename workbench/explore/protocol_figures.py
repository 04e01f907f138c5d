"""Figures of protocols: what a choice of evaluation is worth. May import evaluation."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.evaluation.switchboard import SWITCHES, under
from workbench.explore.figures import finished, need
from workbench.explore.template import method_style, plain


def protocol_bars(table: pd.DataFrame, changed: dict[str, Any], metric: str = "NDCG@10") -> go.Figure:
    """A bar per method under the chosen settings, and a mark at its value under the strict protocol.

    `table` has the rows of `switchboard` for several methods, with a column `method`; `changed` the settings that differ from
    the strict protocol. ValueError if a column is missing or there is no row of these settings.
    """
    need(table, "method", metric, *SWITCHES)
    rows, strict = under(table, changed).set_index("method"), under(table, {}).set_index("method")
    if rows.empty:
        raise ValueError(f"the table has no rows for {changed}")
    figure = go.Figure()
    for method, row in rows.iterrows():
        style = method_style(str(method))
        difference = row[metric] - strict[metric].get(method, float("nan"))
        figure.add_bar(
            y=[plain(method)],
            x=[row[metric]],
            orientation="h",
            marker={"color": style.color, "pattern": {"shape": style.pattern, "size": 5}},
            text=f" {row[metric]:.4f}<br> ({difference:+.4f})",
            textposition="outside",
            cliponaxis=False,
            hovertemplate=f"{plain(method)}<br>{plain(metric)} %{{x:.4f}}<extra></extra>",
            showlegend=False,
        )
    figure.add_scatter(
        y=[plain(m) for m in strict.index],
        x=strict[metric],
        mode="markers",
        name="strict protocol",
        marker={"symbol": "line-ns-open", "size": 22, "color": "#767e88", "line": {"width": 2}},
        hovertemplate="strict protocol: %{x:.4f}<extra></extra>",
    )
    most = float(table[metric].max())
    figure.update_xaxes(title_text=plain(metric), range=[0, 1.45 * most])
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(legend={"x": 1, "y": 1.02, "xanchor": "right", "yanchor": "bottom"})
    return finished(figure, f"{plain(metric)} under this protocol, and its difference to the strict one")
