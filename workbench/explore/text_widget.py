"""A search box over documents: type a text, see what each head finds."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from workbench.explore.text_figures import answer_columns, component_shares, token_attention
from workbench.explore.widgets import Dashboard
from workbench.studies.text_search import TextSearch


class SearchBox(Dashboard):
    """`text` is searched when Enter is pressed; `show`: the answers of all heads, or the parts of one mixture."""

    def __init__(self, search: TextSearch, text: str, k: int = 6) -> None:
        self._search = search
        box = widgets.Text(value=text, continuous_update=False, layout={"width": "420px"})
        parts = [f"parts of {name}" for name in search.mixtures]
        show = widgets.Dropdown(
            options=["answers", *parts, *(f"tokens of {name}" for name in search.attentive)]
        )
        places = widgets.IntSlider(value=k, min=1, max=20, continuous_update=False)
        super().__init__("Search", {"Text": {"text": box}, "Show": {"show": show}, "Answers": {"k": places}})

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
