"""Text retrieval with controls: a search box over documents, and the table of heads by metric and kind of query."""

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go

from workbench.explore.figures import need
from workbench.explore.text_figures import (
    answer_columns,
    component_shares,
    token_attention,
    ways_with_intervals,
)
from workbench.explore.widgets import Dashboard
from workbench.studies.text_search import TextSearch

PAGE_PLACES = (3, 6, 12)
"""Numbers of answers that a page offers besides the present one."""


class WaysExplorer(Dashboard):
    """Every way of searching with its interval, for a metric and a kind of query; `table` is that of the study `text`.

    It starts at `metric` and all queries. ValueError if a column is missing, or the table has no such metric.
    """

    def __init__(self, table: pd.DataFrame, metric: str) -> None:
        need(table, "subset", "way", "metric", "value", "low", "high", "queries")
        self.table = table
        metrics, subsets = (list(dict.fromkeys(table[name])) for name in ("metric", "subset"))
        if metric not in metrics:
            raise ValueError(f"the table has no {metric}; it has {', '.join(metrics)}")
        chosen = widgets.Dropdown(options=metrics, value=metric)
        kind = widgets.Dropdown(options=subsets, value="all" if "all" in subsets else subsets[0])
        super().__init__("Ways of searching", {"Measure": {"metric": chosen}, "Queries": {"queries": kind}})

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """The ways, best on top; ValueError if the metric was not measured on these queries."""
        return ways_with_intervals(self.table, values["metric"], values["queries"])


class SearchBox(Dashboard):
    """`text` is searched when Enter is pressed; `show`: the answers of all heads, or the parts of one mixture.

    `examples` are further texts that a page without a kernel offers.
    """

    def __init__(self, search: TextSearch, text: str, k: int = 6, examples: Sequence[str] = ()) -> None:
        self._search, self._examples = search, tuple(examples)
        box = widgets.Text(value=text, continuous_update=False, layout={"width": "420px"})
        parts = [f"parts of {name}" for name in search.mixtures]
        show = widgets.Dropdown(
            options=["answers", *parts, *(f"tokens of {name}" for name in search.attentive)]
        )
        places = widgets.IntSlider(value=k, min=1, max=20, continuous_update=False)
        super().__init__("Search", {"Text": {"text": box}, "Show": {"show": show}, "Answers": {"k": places}})

    def page_values(self) -> Mapping[str, Sequence[Any]]:
        """The examples, searched by every head, and a few numbers of answers."""
        return {
            "text": [self.values["text"], *self._examples],
            "show": list(self.controls["show"].options),
            "k": PAGE_PLACES,
        }

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """The answers side by side, the parts of a mixture's scores, or what a head looks at."""
        if values["show"] == "answers":
            return answer_columns(self._search.answers(values["text"], values["k"]))
        if values["show"].startswith("tokens of "):
            return token_attention(
                self._search.attention(values["text"], values["show"].removeprefix("tokens of "))
            )
        name = values["show"].removeprefix("parts of ")
        return component_shares(self._search.components(values["text"], name, values["k"]))
