"""Dashboards: labelled controls that call figure functions. The only room that imports ipywidgets. May import evaluation."""

import json
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import parse_qsl

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go
from IPython.display import HTML, display

from workbench.explore.figures import metric_bars, metric_by_k
from workbench.explore.live_figure_widget import LiveFigure
from workbench.explore.saving import save_figure
from workbench.explore.stored_states import LARGEST, MIME, Choice, address, only, problem, slug, store
from workbench.explore.template import CONFIG, TEMPLATE, plain
from workbench.visible import html_text, visible

HEADLESS = "WORKBENCH_HEADLESS"
"""If this environment variable is 1 (a report sets it), a dashboard shows its static version."""

STEP_MS = 900
"""Milliseconds of a step that is played."""

PATIENCE = 5.0
"""Seconds that a browser has to show an update before its figure is opened again; twice as many after each time."""

FIRST_PATIENCE = 30.0
"""The same for a figure that no browser has shown yet."""

LOST = "the browser had lost this figure, which was opened again"
"""What the status line shows of a figure that was not connected."""


class Dashboard(ABC):
    """Controls in labelled groups, a live figure below them, and a status line about the last update.

    A subclass passes the controls (`{"group": {"name": widget}}`, names unique) to the constructor after it has set what its
    `draw` needs: the first figure is drawn at once. Controls whose drawing takes a while should be made with
    `continuous_update=False`. A subclass whose controls depend on each other observes them before it calls the constructor:
    several changes at once are drawn once. An error in `draw` shows in the status line, and the figure stays as it was.

    A browser's messages reach the kernel on several threads (JupyterLab sends them to subshells): one reaction at a time holds
    `lock`.

    On a report's page, which has no kernel, the controls of `page_values` work too: `page` stores the figure of every state.
    """

    shows: ClassVar[str] = ""
    """The name of a control that chooses which of the drawn traces are shown; `draw` draws all of its options."""
    plays: ClassVar[str] = ""
    """The name of a slider whose steps are played, by a page's buttons and by those of `player`."""
    page_largest: ClassVar[int] = LARGEST
    """Characters that the stored states may take."""
    action = ""
    """What a button starts, which a page without a kernel cannot do."""

    def __init__(self, title: str, groups: Mapping[str, Mapping[str, widgets.ValueWidget]]) -> None:
        self.title, self.groups = title, groups
        self.controls = {name: control for group in groups.values() for name, control in group.items()}
        if len(self.controls) != sum(len(group) for group in groups.values()):
            raise ValueError(f"two controls of the dashboard {title!r} have the same name")
        self.lock = threading.RLock()
        self.figure: Any = None
        self.status = widgets.HTML()
        self._drawn: dict[str, Any] | None = None
        self._displayed = False
        self._lost: list[LiveFigure] = []
        self._redraw(self._open)
        if self.figure is None:  # the status line shows the reason
            self._open(go.Figure())
        boxes = [_group(label, group) for label, group in groups.items()]
        heading = widgets.HTML(f"<b>{html_text(title)}</b>")
        if self.plays:
            self.player = widgets.Play(interval=STEP_MS)
            slider = self.controls[self.plays]
            for end in ("min", "max", "value"):  # in the browser: a step need not wait for the kernel
                widgets.jslink((slider, end), (self.player, end))
            box = next(b for b, group in zip(boxes, groups.values(), strict=True) if self.plays in group)
            box.children = [*box.children, self.player]
        row = widgets.HBox(boxes, layout={"flex_flow": "row wrap", "grid_gap": "8px 24px"})
        self.widget = widgets.VBox([heading, row, self.figure, self.status])
        for control in self.controls.values():
            control.observe(self._update, names="value")

    @abstractmethod
    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """The figure for these values of the controls, by name; ValueError if they make no sense together."""

    def figure_of(self, values: Mapping[str, Any]) -> go.Figure:
        """The figure for these values of the controls: what `draw` draws, without the traces that are not chosen."""
        figure = self.draw(self._with_all(values))
        if not self.shows:
            return figure
        if not values[self.shows]:
            raise ValueError(f"choose at least one of the {self.shows}")
        return only(figure, self._with_all(values)[self.shows], values[self.shows])

    def _with_all(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values, with all options of the control that chooses among traces."""
        every = tuple(value for value, _ in _options(self.controls[self.shows])) if self.shows else ()
        return {**values, self.shows: every} if self.shows else dict(values)

    def page_values(self) -> Mapping[str, Sequence[Any]]:
        """The controls that work on a page, with the values they take there; the last ones are the first to be left out.

        By default those that offer certain values, as they offer them.
        """
        return {
            name: [value for value, _ in offered]
            for name, control in self.controls.items()
            if not isinstance(control, widgets.SelectMultiple) and len(offered := _options(control)) > 1
        }

    def page_state(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values that a page draws for `values`: the same for all that look the same."""
        return values

    def page_fixed(self) -> Mapping[str, str]:
        """What a page shows about the controls that do not work there, by name."""
        return {name: visible(_text(value)) for name, value in self.values.items()}

    def page_groups(self) -> Mapping[str, tuple[str, Any]]:
        """Labels of groups that a page shows only while a control, by name, has a value."""
        return {}

    def at(self, view: str) -> Self:
        """The dashboard with its controls set to a view: the address of a page's state, such as "k=50&view=every+k".

        A name with the dashboard's own before it ("compare-methods.k") is meant for that dashboard alone; names of controls
        that it does not have are left to others. Raises ValueError if a control has no such value.
        """
        for place, text in parse_qsl(view.lstrip("#"), keep_blank_values=True):
            owner, _, name = place.rpartition(".")
            if name in self.controls and owner in ("", slug(self.title)):
                _set(name, self.controls[name], text)
        return self

    @property
    def values(self) -> dict[str, Any]:
        """The values of the controls, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def static(self) -> tuple[pd.DataFrame, go.Figure]:
        """The current state, for a page without a kernel: a table of the settings and the figure."""
        shown = {name for name, control in self.controls.items() if control.layout.display != "none"}
        settings = [
            (name, visible(_text(value)) or "–") for name, value in self.values.items() if name in shown
        ]
        # Read from the Python side: there is no waiting for the browser.
        figure = go.Figure(self.figure).update_layout(width=None)  # the page sets the width
        return pd.DataFrame(settings, columns=["setting", "value"]), figure

    def page(self) -> dict[str, Any]:
        """The dashboard for a page without a kernel, as JSON: its controls in groups, and the stored figure of every state."""
        offered = self.page_values()
        choices = {name: _choice(name, self.controls[name], offered[name]) for name in offered}
        now = self._with_all(self.values)
        kept, states = store(
            self.draw,
            list(choices.values()),
            lambda changed: self.page_state({**now, **changed}),
            self.page_largest,
        )
        stored = {choice.name: choice for choice in kept if len(choice.values) > 1}
        return {
            "title": self.title,
            "slug": slug(self.title),
            "action": self.action,
            "groups": [
                {
                    "label": label,
                    "controls": [
                        self._page_control(name, control, stored.get(name))
                        for name, control in group.items()
                        if control.layout.display != "none" or name in stored
                    ],
                    "only": self._page_condition(label, stored),
                }
                for label, group in self.groups.items()
            ],
            "order": [choice.name for choice in kept if choice.name in stored],
            "states": states,
        }

    def _page_condition(self, group: str, stored: Mapping[str, Choice]) -> list[str] | None:
        """The control whose value shows a group of the page, and the label of that value."""
        name, value = self.page_groups().get(group, ("", None))
        if name not in stored or value not in stored[name].values:
            return None
        return [name, stored[name].labels[stored[name].values.index(value)]]

    def _page_control(self, name: str, control: Any, choice: Choice | None) -> dict[str, Any]:
        about = {"name": name, "label": control.description or name, "hint": control.tooltip or ""}
        if name == self.shows:
            options = [value for value, _ in _options(control)]
            return {
                **about,
                "kind": "many",
                "labels": [label for _, label in _options(control)],
                "traces": [plain(value) for value in options],
                "start": [options.index(value) for value in control.value],
            }
        if choice is None:
            return {**about, "kind": "fixed", "value": self.page_fixed()[name]}
        kind = "slider" if choice.ordered else "choice"
        plays = STEP_MS if name == self.plays else 0
        return {**about, "kind": kind, "labels": list(choice.labels), "start": choice.start, "plays": plays}

    def save(self, path: Path | str) -> Path:
        """Save the current figure as vectors (".pdf", ".svg") for a paper, as ".png", or as an ".html" page; returns the path.

        Raises as `saving.save_figure` does.
        """
        with self.lock:
            figure = go.Figure(self.figure)
        return save_figure(figure, path)

    def _ipython_display_(self) -> None:
        if os.environ.get(HEADLESS) == "1":
            settings, figure = self.static()
            picture = {**json.loads(figure.to_json()), "config": CONFIG}
            shown = {MIME: self.page(), "application/vnd.plotly.v1+json": picture}
            display({**shown, "text/html": settings.to_html(index=False)}, raw=True)
        else:
            self._displayed = True
            display(self.widget)
            display(HTML(self._still()))

    def _still(self) -> str:
        """What a notebook shows of the dashboard when it is opened again, until the cell is run."""
        settings, figure = self.static()
        title = html_text(figure.layout.title.text or self.title)
        note = f"<p>{title}</p><p><small>Run the cell to move the controls.</small></p>"
        return f'<div class="workbench-still mathjax_ignore">{note}{settings.to_html(index=False)}</div>'

    def _update(self, _change: object = None) -> None:
        with self.lock:
            self._redraw(self._show)

    def _redraw(self, show: Callable[[go.Figure], None]) -> None:
        values = self.values
        if values == self._drawn:
            return
        started = time.perf_counter()
        try:
            figure = self.figure_of(values)
            if self.values != values:  # a control was moved meanwhile, and that change is drawn on its own
                return
            show(figure)
        except Exception as error:  # nobody sees a traceback inside a callback
            self._drawn = None
            self.status.value = f'<span style="color:#c0392b">{html_text(problem(error))}</span>'
        else:
            self._drawn = values
            self.status.value = f"drawn in {time.perf_counter() - started:.2f} s"

    def _open(self, first: go.Figure) -> None:
        config = self.figure._config if self.figure is not None else CONFIG
        self.figure = LiveFigure(go.Figure(first).update_layout(height=_height(first)), config)
        self.figure.observe(self._reported, names="_shown")
        self.opened()

    def opened(self) -> None:  # noqa: B027
        """A live figure was opened, the first one or another in its place: a subclass attaches what it listens to."""

    def _reported(self, _change: object = None) -> None:
        """A browser has shown a version of the figure, which may not be the latest."""
        if self.figure.behind:
            self._await_browser()

    def _await_browser(self) -> None:
        """Give the browser a while to show the figure as it is now; a figure that nobody displayed has no browser."""
        figure = self.figure
        opened = figure.shown >= 0
        if opened or self._displayed:
            patience = PATIENCE if opened else FIRST_PATIENCE
            seconds = patience * 2 ** len(self._lost)
            timer = threading.Timer(seconds, self._reconnect, [figure, figure.version])
            timer.daemon = True
            timer.start()

    def _reconnect(self, figure: LiveFigure, version: int) -> None:
        """Open another live figure in the place of one whose browser has not shown this version, and say so.

        The lost one is not closed: a browser may be so slow that it has yet to make the box which first held it, and a box
        that names a closed figure is not shown at all.
        """
        with self.lock:
            if figure is not self.figure or figure.shown >= version:
                return
            self._open(go.Figure(figure))
            children = [self.figure if child is figure else child for child in self.widget.children]
            self.widget.children = children
            self._lost.append(figure)
            self.status.value = LOST

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
            live.layout.update(layout | {"height": _height(new)}, overwrite=True)
        if len(live.data) > same:
            live.data = live.data[:same]
        if len(new.data) > same:
            live.add_traces(new.data[same:])
        live.changed()
        self._await_browser()


class MetricExplorer(Dashboard):
    """Compare methods: choose a metric, one cut-off k or all of them, and the methods to show.

    `results` has the columns `method`, `metric` (`HR@10`, `MRR`), `value` and optionally `low` and `high`; ValueError
    if a column is missing or the table is empty.
    """

    shows = "methods"

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
        named = [(visible(str(method)), method) for method in methods]
        chosen = widgets.SelectMultiple(options=named, value=methods, rows=min(6, len(methods)))
        super().__init__(
            "Compare methods",
            {"Measure": {"metric": metric, "view": view, "k": k}, "Methods": {"methods": chosen}},
        )

    def page_state(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Every k looks the same at any k."""
        return {**values, "k": self.values["k"]} if values["view"] == "every k" else values

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """Bars at the chosen k, or lines over every k."""
        rows = self.results
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


def _options(control: Any) -> list[tuple[Any, str]]:
    """The values that a control offers one by one, with their labels; none if it takes any number or text."""
    if isinstance(control, widgets.Checkbox):
        return [(False, "no"), (True, "yes")]
    if isinstance(control, widgets.IntSlider):
        return [(value, f"{value:,}") for value in range(control.min, control.max + 1, control.step)]
    if hasattr(control, "_options_full"):  # every kind of selection
        return [(value, str(label)) for label, value in control._options_full]
    return []


def _choice(name: str, control: Any, values: Sequence[Any]) -> Choice:
    """The control on a page, with these values; the present one is among them."""
    labels = dict(_options(control))
    typed = not labels and not isinstance(control.value, str)  # a number that is typed; a text has no order
    ordered = typed or isinstance(control, widgets.SelectionSlider | widgets.IntSlider)
    kept = list(dict.fromkeys([*values, control.value]))
    kept = sorted(kept) if ordered else kept
    texts = tuple(visible(labels[value] if value in labels else _label(value)) for value in kept)
    return Choice(name, tuple(kept), texts, kept.index(control.value), ordered)


def _label(value: Any) -> str:
    """A value that a control does not offer by name, in words.

    >>> _label(1000), _label(0.125), _label(("a", "b")), _label(())
    ('1,000', '0.125', 'a, b', 'none')
    """
    match value:
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
    return _text(value) or "none"


def _set(name: str, control: Any, text: str) -> None:
    """Set a control to the value that a page's address writes as `text`; ValueError that names those it has."""
    offered = {address(label): value for value, label in _options(control)}
    try:
        if isinstance(control, widgets.SelectMultiple):
            control.value = tuple(offered[part] for part in text.split("|") if part not in ("", "none"))
        elif offered:
            control.value = offered[address(text)]
        else:
            control.value = type(control.value)(text)
    except (KeyError, ValueError) as error:
        known = f"; it takes {', '.join(offered)}" if offered else ""
        raise ValueError(f"the control {name} cannot be set to {text!r}{known}") from error


def _height(figure: go.Figure) -> float:
    """Its height in pixels; its width is that of its place."""
    return figure.layout.height or TEMPLATE.layout.height


def _replacement(old: Any, new: Any) -> dict[str, Any]:
    """What turns `old` into `new`: its values, and None for what only `old` has."""
    gone = dict.fromkeys(old.to_plotly_json())
    return {
        name: value for name, value in (gone | new.to_plotly_json()).items() if name not in ("type", "uid")
    }


def _text(value: object) -> str:
    """A control's value as text: a list joined by commas, a file by its name."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return str(value["name"]) if isinstance(value, dict) else str(value)
