"""A figure in a notebook that can be changed after it was drawn. May import nothing of ours but the template."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import anywidget
import plotly.graph_objects as go
from traitlets import Int, Unicode

from workbench.explore.template import CONFIG


class _Library(anywidget.AnyWidget):  # type: ignore[misc]
    """The code of plotly's widget, sent to a browser once for all figures, which then starts to load it."""

    _esm = """export default {
      initialize({ model }) {
        const file = new Blob([model.get("source")], { type: "text/javascript" });
        globalThis.workbenchFigureCode ??= import(URL.createObjectURL(file));
      },
    };"""
    source = Unicode().tag(sync=True)


_UNHEARD = (
    "_last_layout_edit_id",
    "_last_trace_edit_id",
    *(f"_py2js_{change}" for change in ("addTraces", "deleteTraces", "restyle", "relayout", "update")),
)
"""What plotly sends along with each change: its numbers, which only answers name, and None once a change has been sent."""


class LiveFigure(go.FigureWidget):  # type: ignore[misc]
    """plotly's live figure, which a browser opens complete and at once.

    plotly's own opens empty, is sent its traces after, and brings megabytes of code along each time: a browser that is too busy
    to load these within two seconds draws it empty, or never hears of a change.
    """

    _esm = Path(__file__).with_name("live_figure.js")
    _library = Unicode().tag(sync=True)
    _own_id = Unicode().tag(sync=True)
    _version = Int(0).tag(sync=True)
    _shown = Int(-1).tag(sync=True)
    _opens = False

    def __init__(self, figure: go.Figure, config: dict[str, Any] = CONFIG) -> None:
        super().__init__(figure)
        self._config = {**config, "responsive": True}
        self._model_id = self._own_id = uuid4().hex
        self._library = _shared_library().model_id
        self._opens = True
        self.open()

    @property
    def version(self) -> int:
        """The number of its changes."""
        return int(self._version)

    @property
    def shown(self) -> int:
        """The version that a browser reported as shown; -1 if none has opened the figure."""
        return int(self._shown)

    @property
    def behind(self) -> bool:
        """Whether a browser has opened the figure, and has not shown its latest version."""
        return 0 <= self._shown < self._version

    def changed(self) -> None:
        """The figure has a new version, which a browser is to report as shown."""
        self._version += 1

    def save_in_browser(self) -> None:
        """Let the browser save the figure as PNG, as the camera in its toolbar does."""
        self.send({"save": True})

    def _should_send_property(self, key: str, value: Any) -> bool:
        """Of the four messages of a change, the browser needs the one that has it."""
        if key in _UNHEARD and not isinstance(value, dict):
            return False
        return bool(super()._should_send_property(key, value))

    def open(self) -> None:
        """Send the figure to the browser once it is complete."""
        if self._opens:
            super().open()


_libraries: list[_Library] = []


def _shared_library() -> Any:
    """The one library of this kernel; a new one if it was closed."""
    if not _libraries or _libraries[0].comm is None:
        _libraries[:] = [_Library(source=str(go.FigureWidget._esm))]
    return _libraries[0]


_shared_library()  # when a notebook imports, so that a browser has loaded it when the first figure comes
