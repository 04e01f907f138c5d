"""The switchboard of protocols: one control per setting, and what it is worth. May import evaluation."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go

from workbench.evaluation.switchboard import SHOWN, SWITCHES, strict_value, switches_of, word
from workbench.explore.protocol_figures import protocol_bars
from workbench.explore.widgets import Dashboard


class ProtocolSwitchboard(Dashboard):
    """Change one setting of the protocol at a time and see the metric of every method move; it starts at `STRICT`.

    `table` has the rows of `evaluation.switchboard.switchboard` for each method, with a column `method`, and may have
    `training` (see `studies.choice_studies`); ValueError if a column is missing.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        if missing := {"method", *SWITCHES, *SHOWN} - set(table.columns):
            raise ValueError(f"the table lacks {', '.join(sorted(missing))}")
        self.table = table
        known = switches_of(table)
        words = {name: {word(value): value for value in values} for name, values in known.items()}
        self._settings = {word(name): (name, values) for name, values in words.items()}
        switches: dict[str, widgets.ValueWidget] = {
            shown: widgets.ToggleButtons(options=list(values), value=word(strict_value(name)))
            for shown, (name, values) in self._settings.items()
        }
        metric = widgets.Dropdown(options=list(SHOWN), value="NDCG@10")
        super().__init__(
            "Change the protocol", {"How it is evaluated": switches, "What is shown": {"metric": metric}}
        )

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """Bars under these settings."""
        changed = {name: known[values[shown]] for shown, (name, known) in self._settings.items()}
        return protocol_bars(self.table, changed, values["metric"])
