"""Dashboards with a button that starts long work, which runs in steps, shows its progress and can be stopped."""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from workbench.explore.widgets import Dashboard
from workbench.visible import html_text

PAUSE = 0.01
"""Seconds between two pieces of work, in which the kernel answers to the controls."""


@dataclass(frozen=True)
class Progress:
    """Progress after a step: `share` done in [0, 1], a `text` for the status line, and a new figure, or None to keep the old
    one."""

    share: float
    text: str
    figure: go.Figure | None = None


class LiveDashboard(Dashboard):
    """A dashboard whose `work` takes longer than a third of a second, started by a button.

    In a notebook, the pieces run on the kernel's own event loop, with a pause between them in which clicks and controls are
    handled: *stop* ends the work after the current piece, a second click on the button does nothing, and moving a control
    ends it too, because it was work on other settings. A piece should take a tenth of a second or so. Without a running loop
    (in a script, a test), a click works through to the end. An error ends the work and shows in the status line.
    """

    def __init__(
        self, title: str, groups: Mapping[str, Mapping[str, widgets.ValueWidget]], action: str
    ) -> None:
        self.action = action
        self._ticket: object | None = None
        self._task: asyncio.Task[None] | None = None
        self.start_button = widgets.Button(
            description=action, icon="play", button_style="primary", tooltip=f"{action} with these settings"
        )
        self.stop_button = widgets.Button(
            description="stop", icon="stop", disabled=True, tooltip="stop after the current step"
        )
        self.progress = widgets.FloatProgress(min=0, max=1, layout={"width": "160px", "display": "none"})
        # Before the base class observes them: work on the old settings has ended when the new ones are drawn.
        for group in groups.values():
            for control in group.values():
                control.observe(self._abandon, names="value")
        super().__init__(title, groups)
        self.start_button.on_click(self._start)
        self.stop_button.on_click(self._stop)
        *above, figure, status = self.widget.children
        bar = widgets.HBox(
            [self.start_button, self.stop_button, self.progress, status],
            layout={"align_items": "center", "grid_gap": "8px"},
        )
        self.widget.children = (*above, bar, figure)

    @abstractmethod
    def work(self, values: Mapping[str, Any]) -> Iterator[Progress]:
        """The work for these values of the controls, piece by piece; ValueError if they make no sense together."""

    def page_values(self) -> Mapping[str, Sequence[Any]]:
        """By default no control works on a page: what counts is started by the button."""
        return {}

    @property
    def running(self) -> bool:
        """Whether work is running."""
        return self._ticket is not None

    def run(self) -> None:
        """Work through to the end, and return when it is done; does nothing if work is already running."""
        if ticket := self._begin():
            for _ in self._pieces(ticket):
                pass

    def _start(self, _button: object = None) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.run()
        else:
            if ticket := self._begin():
                self._task = loop.create_task(self._with_pauses(ticket))

    async def _with_pauses(self, ticket: object) -> None:
        await asyncio.sleep(PAUSE)
        for _ in self._pieces(ticket):
            await asyncio.sleep(PAUSE)

    def _begin(self) -> object | None:
        """A ticket for new work, which runs as long as the dashboard holds this ticket; None if work is already running."""
        with self.lock:
            if self.running:
                return None
            self._ticket = ticket = object()
            self.start_button.disabled, self.stop_button.disabled = True, False
            self.progress.value, self.progress.layout.display = 0.0, ""
            self.status.value = "starting …"
            return ticket

    def _pieces(self, ticket: object) -> Iterator[None]:
        """Does the work, one piece per iteration, until its ticket is revoked."""
        try:
            work = self.work(self.values)
            while self._ticket is ticket and (progress := next(work, None)) is not None:
                with self.lock:
                    if self._ticket is ticket:
                        self._report(progress)
                yield
        except Exception as error:  # as in drawing: nobody would see a traceback
            with self.lock:
                if self._ticket is ticket:
                    message = html_text(f"{type(error).__name__}: {error}")
                    self.status.value = f'<span style="color:#c0392b">{message}</span>'
        finally:
            with self.lock:
                if self._ticket is ticket:
                    self._abandon()

    def _report(self, progress: Progress) -> None:
        self.progress.value = progress.share
        self.status.value = html_text(progress.text)
        if progress.figure is not None:
            self._show(progress.figure)

    def _stop(self, _button: object = None) -> None:
        with self.lock:
            if self.running:
                self._abandon()
                self.status.value += ", stopped"

    def _abandon(self, _change: object = None) -> None:
        with self.lock:
            self._ticket = None
            self.start_button.disabled, self.stop_button.disabled = False, True
            self.progress.layout.display = "none"


class Pace:
    """Decides how many steps fit into a piece, and when a new figure is due, from how long the last ones took.

    `piece` and `figure` are seconds; slow figures are drawn less often, so that they take at most a fifth of the time.
    """

    def __init__(self, piece: float = 0.12, figure: float = 0.5) -> None:
        self.piece, self.figure = piece, figure
        self.steps = 1
        self._piece_began = self._figure_began = time.perf_counter()
        self._wait = figure

    def began(self) -> None:
        """A piece begins."""
        self._piece_began = time.perf_counter()

    def ended(self) -> None:
        """A piece of `steps` has ended: the next one has at most twice as many."""
        took = max(time.perf_counter() - self._piece_began, 1e-6)
        self.steps = max(1, min(2 * self.steps, int(self.steps * self.piece / took)))

    def due(self) -> bool:
        """Whether it is time for a new figure; if so, the interval restarts now."""
        now = time.perf_counter()
        if now - self._figure_began < self._wait:
            return False
        self._figure_began = now
        return True

    def drawn(self) -> None:
        """The figure that was due has been drawn."""
        self._wait = max(self.figure, 5 * (time.perf_counter() - self._figure_began))
