"""Dashboards: labelled controls that call figure functions. The only room that imports ipywidgets. May import evaluation."""

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, display

from workbench.explore.figures import metric_bars, metric_by_k
from workbench.explore.live_figure_widget import LiveFigure
from workbench.visible import html_text, visible

HEADLESS = "WORKBENCH_HEADLESS"
"""If this environment variable is 1 (a report sets it), a dashboard shows its static version."""

WIDTH = 930
"""Width in pixels of a live figure without one, as wide as JupyterLab's notebooks on a laptop: plotly's widget does not take
the width of its box, but falls back to 700."""


class Dashboard(ABC):
    """Controls in labelled groups, a live figure below them, and a status line about the last update.

    A subclass passes the controls (`{"group": {"name": widget}}`, names unique) to the constructor after it has set what its
    `draw` needs: the first figure is drawn at once. Controls whose drawing takes a while should be made with
    `continuous_update=False`. A subclass whose controls depend on each other observes them before it calls the constructor:
    several changes at once are drawn once. An error in `draw` shows in the status line, and the figure stays as it was.

    A browser's messages reach the kernel on several threads (JupyterLab sends them to subshells): one reaction at a time holds
    `lock`.
    """

    def __init__(self, title: str, groups: Mapping[str, Mapping[str, widgets.ValueWidget]]) -> None:
        self.controls = {name: control for group in groups.values() for name, control in group.items()}
        if len(self.controls) != sum(len(group) for group in groups.values()):
            raise ValueError(f"two controls of the dashboard {title!r} have the same name")
        self.lock = threading.RLock()
        self.figure: Any = None
        self.status = widgets.HTML()
        self._drawn: dict[str, Any] | None = None
        self._redraw(self._open)
        if self.figure is None:  # the status line shows the reason
            self._open(go.Figure())
        boxes = [_group(label, group) for label, group in groups.items()]
        heading = widgets.HTML(f"<b>{html_text(title)}</b>")
        row = widgets.HBox(boxes, layout={"flex_flow": "row wrap", "grid_gap": "8px 24px"})
        self.widget = widgets.VBox([heading, row, self.figure, self.status])
        for control in self.controls.values():
            control.observe(self._update, names="value")

    @abstractmethod
    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """The figure for these values of the controls, by name; ValueError if they make no sense together."""

    @property
    def values(self) -> dict[str, Any]:
        """The values of the controls, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def static(self) -> tuple[pd.DataFrame, go.Figure]:
        """The current state, for a page without a kernel: a table of the settings and the figure."""
        shown = {name for name, control in self.controls.items() if control.layout.display != "none"}
        settings = [
            (name, visible(_told(value)) or "–") for name, value in self.values.items() if name in shown
        ]
        # Read from the Python side: there is no waiting for the browser.
        figure = go.Figure(self.figure).update_layout(width=None)  # the page sets the width
        return pd.DataFrame(settings, columns=["setting", "value"]), figure

    def _ipython_display_(self) -> None:
        if os.environ.get(HEADLESS) == "1":
            settings, figure = self.static()
            display(HTML(settings.to_html(index=False)))
            display(figure)
        else:
            display(self.widget)

    def _update(self, _change: object = None) -> None:
        with self.lock:
            self._redraw(self._show)

    def _redraw(self, show: Callable[[go.Figure], None]) -> None:
        values = self.values
        if values == self._drawn:
            return
        started = time.perf_counter()
        try:
            figure = self.draw(values)
            if self.values != values:  # a control was moved meanwhile, and that change is drawn on its own
                return
            show(figure)
        except Exception as error:  # nobody sees a traceback inside a callback
            self._drawn = None
            self.status.value = (
                f'<span style="color:#c0392b">{html_text(f"{type(error).__name__}: {error}")}</span>'
            )
        else:
            self._drawn = values
            self.status.value = f"drawn in {time.perf_counter() - started:.2f} s"

    def _open(self, first: go.Figure) -> None:
        self.figure = LiveFigure(go.Figure(first).update_layout(width=first.layout.width or WIDTH))

    def _show(self, new: go.Figure) -> None:
        """Turn the live figure into `new` with one message: traces of the same kind are changed, not replaced."""
        live = self.figure
        same = 0
        for old, fresh in zip(live.data, new.data, strict=False):
            if old.type != fresh.type:
                break
            same += 1
        with live.batch_update():
            for old, fresh in zip(live.data[:same], new.data[:same], strict=True):
                old.update(_replacement(old, fresh), overwrite=True)
            layout = _replacement(live.layout, new.layout)
            live.layout.update(layout | {"width": new.layout.width or WIDTH}, overwrite=True)
        if len(live.data) > same:
            live.data = live.data[:same]
        if len(new.data) > same:
            live.add_traces(new.data[same:])


class MetricExplorer(Dashboard):
    """Compare methods: choose a metric, one cut-off k or all of them, and the methods to show.

    `results` has the columns `method`, `metric` (`HR@10`, `MRR`), `value` and optionally `low` and `high`; ValueError
    if a column is missing or the table is empty.
    """

    def __init__(self, results: pd.DataFrame) -> None:
        missing = {"method", "metric", "value"} - set(results.columns)
        if missing or results.empty:
            raise ValueError(
                f"the table lacks {', '.join(sorted(missing)) or 'rows'}; a row is a method, metric, value"
            )
        self.results = results
        families, ks = _families(results["metric"])
        methods = list(dict.fromkeys(results["method"]))
        view = widgets.ToggleButtons(
            options=["one k", "every k"], tooltips=["bars at the chosen k", "a line over k"]
        )
        metric = widgets.Dropdown(options=families)
        k = widgets.SelectionSlider(options=ks, value=10 if 10 in ks else ks[0], continuous_update=False)
        chosen = widgets.SelectMultiple(options=methods, value=methods, rows=min(6, len(methods)))
        super().__init__(
            "Compare methods",
            {"Measure": {"metric": metric, "view": view, "k": k}, "Methods": {"methods": chosen}},
        )

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """Bars at the chosen k, or lines over every k."""
        if not values["methods"]:
            raise ValueError("choose at least one method")
        rows = self.results[self.results["method"].isin(values["methods"])]
        family = values["metric"]
        plain = family in set(rows["metric"])
        if values["view"] == "every k" and not plain:
            return metric_by_k(rows, family)
        label = family if plain else f"{family}@{values['k']}"
        rows = rows[rows["metric"] == label]
        if rows.empty:
            raise ValueError(f"the table has no {label} of these methods")
        return metric_bars(rows)


def _families(metrics: pd.Series) -> tuple[list[str], list[int]]:
    """The names before the @ of metric labels in order of appearance, and the cut-offs after it in ascending order."""
    parts = [str(metric).partition("@") for metric in metrics]
    ks = sorted({int(k) for _, _, k in parts if k.isdigit()})
    return list(dict.fromkeys(name for name, _, _ in parts)), ks or [1]


def _group(label: str, controls: Mapping[str, widgets.ValueWidget]) -> widgets.VBox:
    for name, control in controls.items():
        control.description = control.description or name
        control.style.description_width = "6em"
        control.layout.width = control.layout.width or "280px"  # three groups fit side by side on a laptop
        if isinstance(control, widgets.ToggleButtons):
            control.add_class("widget-inline-hbox")  # the name left of the buttons, as for other controls
            control.style.button_width = "7em"
    return widgets.VBox([widgets.HTML(f"<small>{html_text(label)}</small>"), *controls.values()])


def _replacement(old: Any, new: Any) -> dict[str, Any]:
    """What turns `old` into `new`: its values, and None for what only `old` has."""
    gone = dict.fromkeys(old.to_plotly_json())
    return {
        name: value for name, value in (gone | new.to_plotly_json()).items() if name not in ("type", "uid")
    }


def _told(value: object) -> str:
    """A control's value as text: a list joined by commas, a file by its name."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_told, value))
    return str(value["name"]) if isinstance(value, dict) else str(value)
