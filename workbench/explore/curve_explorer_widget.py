"""A dashboard over any table of curves: a slider along x, and the value of each curve there. May import nothing else of
ours."""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go

from workbench.explore.curve_explorer import Axes, curve_explorer
from workbench.explore.widgets import Dashboard


class CurveExplorer(Dashboard):
    """Move along curves: `slider` names the control, `label` explains it; it starts at the largest x up to `start`.

    `curves` has the columns `curve`, `x` and `y`; a mapping of names to tables adds a control `choice` between them; they
    must have the same values of x. ValueError if a column is missing or the tables' x differ.
    """

    def __init__(
        self,
        title: str,
        curves: pd.DataFrame | Mapping[str, pd.DataFrame],
        axes: Axes,
        slider: str,
        label: str,
        start: float,
        choice: str = "show",
    ) -> None:
        self.tables = {"": curves} if isinstance(curves, pd.DataFrame) else dict(curves)
        self.axes, self._slider, self._choice = axes, slider, choice
        for table in self.tables.values():
            if missing := {"curve", "x", "y"} - set(table.columns):
                raise ValueError(f"the table lacks {', '.join(sorted(missing))}; it needs curve, x and y")
        every = {tuple(sorted(set(table["x"]))) for table in self.tables.values()}
        if len(every) != 1 or () in every:
            raise ValueError("the tables of curves must share their values of x, and have some")
        (places,) = every
        control = widgets.SelectionSlider(
            options=[(f"{x:,}", x) for x in places],
            value=max((x for x in places if x <= start), default=places[0]),
            continuous_update=True,
            layout={"width": "420px"},
        )
        groups: dict[str, dict[str, widgets.ValueWidget]] = {label: {slider: control}}
        if len(self.tables) > 1:
            groups["Curves"] = {choice: widgets.ToggleButtons(options=list(self.tables))}
        super().__init__(title, groups)

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """The curves, with their values at the slider's position."""
        chosen = values.get(self._choice, next(iter(self.tables)))
        return curve_explorer(self.tables[chosen], values[self._slider], self.axes)
