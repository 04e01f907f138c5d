"""Long work behind a button: it runs in pieces, is stopped, is clicked twice, fails, is overtaken by a control."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import ipywidgets
import plotly.graph_objects as go

from workbench.explore import live_widget
from workbench.explore.live_widget import LiveDashboard, Pace, Progress


class Count(LiveDashboard):
    """Counts to `upto` in pieces; 13 brings it down."""

    def __init__(self) -> None:
        self.pieces = 0
        super().__init__(
            "Count", {"How far": {"upto": ipywidgets.IntSlider(value=3, min=0, max=20)}}, "count"
        )

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        return go.Figure(layout={"title": {"text": f"to {values['upto']}"}})

    def work(self, values: Mapping[str, Any]) -> Iterator[Progress]:
        for i in range(1, values["upto"] + 1):
            if i == 13:
                raise ValueError("13 <is> unlucky")
            self.pieces += 1
            figure = go.Figure(go.Bar(y=[i])) if i % 2 == 0 else None
            yield Progress(i / values["upto"], f"{i} of {values['upto']}", figure)


async def until(ready: Any) -> None:
    """Gives the other tasks their turns until `ready`."""
    for _ in range(1000):
        if ready():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


def test_without_a_loop_a_click_works_to_the_end() -> None:
    count = Count()
    count.start_button.click()
    assert (count.pieces, count.status.value, count.running) == (3, "3 of 3", False)
    assert list(count.figure.data[0].y) == [2]
    assert (count.start_button.disabled, count.stop_button.disabled) == (False, True)
    assert count.progress.layout.display == "none"


def test_in_a_loop_the_controls_are_heard_between_pieces(monkeypatch) -> None:
    monkeypatch.setattr(live_widget, "PAUSE", 0)

    async def session() -> None:
        count = Count()
        count.start_button.click()
        assert count.running
        assert count.pieces == 0
        await until(lambda: count.pieces == 2)
        assert count.running
        assert (count.start_button.disabled, count.stop_button.disabled) == (True, False)
        assert count.progress.layout.display == ""
        await until(lambda: not count.running)
        assert count.pieces == 3

    asyncio.run(session())


def test_a_second_click_while_it_runs_does_nothing(monkeypatch) -> None:
    monkeypatch.setattr(live_widget, "PAUSE", 0)

    async def session() -> None:
        count = Count()
        count.start_button.click()
        await until(lambda: count.pieces == 1)
        count.start_button.click()
        count.run()
        await until(lambda: not count.running)
        assert count.pieces == 3

    asyncio.run(session())


def test_stop_ends_it_and_it_can_be_started_again_at_once(monkeypatch) -> None:
    monkeypatch.setattr(live_widget, "PAUSE", 0)

    async def session() -> None:
        count = Count()
        count.start_button.click()
        await until(lambda: count.pieces == 1)
        count.stop_button.click()
        assert not count.running
        assert count.status.value == "1 of 3, stopped"
        count.start_button.click()
        await until(lambda: not count.running)
        assert count.pieces == 4
        count.stop_button.click()
        assert count.status.value == "3 of 3"

    asyncio.run(session())


def test_a_control_that_is_moved_ends_it(monkeypatch) -> None:
    monkeypatch.setattr(live_widget, "PAUSE", 0)

    async def session() -> None:
        count = Count()
        count.start_button.click()
        await until(lambda: count.pieces == 1)
        count.controls["upto"].value = 5
        assert not count.running
        for _ in range(20):
            await asyncio.sleep(0)
        assert count.pieces == 1
        assert count.figure.layout.title.text == "to 5"

    asyncio.run(session())


def test_an_error_is_reported_and_the_button_is_free_again() -> None:
    count = Count()
    count.controls["upto"].value = 15
    count.run()
    assert "ValueError: 13 &lt;is&gt; unlucky" in count.status.value
    assert (count.pieces, count.running, count.start_button.disabled) == (12, False, False)


def test_no_work_ends_at_once() -> None:
    count = Count()
    count.controls["upto"].value = 0
    count.run()
    assert (count.pieces, count.running) == (0, False)


def test_pieces_grow_to_what_fits_and_shrink_again(monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr(live_widget.time, "perf_counter", lambda: now)
    pace, sizes = Pace(piece=1.0, figure=10.0), []
    for seconds in (0.1, 0.1, 0.1, 0.1, 0.1, 0.4):
        pace.began()
        now += seconds * pace.steps
        pace.ended()
        sizes.append(pace.steps)
    assert sizes == [2, 4, 8, 10, 10, 2]
    assert not pace.due()
    now += 10
    assert pace.due()
    assert not pace.due()
    now += 4
    pace.drawn()
    now += 15
    assert not pace.due()
    now += 1
    assert pace.due()


class Raced(LiveDashboard):
    """While it draws for a moved control, the work on the old settings has another piece ready on its own thread."""

    def __init__(self) -> None:
        self.begun, self.piece_due, self.shown = (threading.Event() for _ in range(3))
        super().__init__("Raced", {"Settings": {"n": ipywidgets.IntSlider(value=1)}}, "work")

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        if values["n"] == 2:
            self.piece_due.set()
            self.shown.wait(0.3)  # time for the other thread to do what it must not do
        return go.Figure(layout={"title": {"text": f"drawn for {values['n']}"}})

    def work(self, values: Mapping[str, Any]) -> Iterator[Progress]:
        yield Progress(0.1, "begun")
        self.piece_due.wait(30)
        yield Progress(0.2, "late", go.Figure(layout={"title": {"text": f"worked for {values['n']}"}}))

    def _report(self, progress: Progress) -> None:
        super()._report(progress)
        (self.begun if progress.figure is None else self.shown).set()


def test_a_control_that_is_moved_on_one_thread_ends_the_work_on_another() -> None:
    raced = Raced()
    thread = threading.Thread(target=raced.run)
    thread.start()
    assert raced.begun.wait(30)
    raced.controls["n"].value = 2
    thread.join(30)
    assert not thread.is_alive()
    assert not raced.shown.is_set()
    assert raced.figure.layout.title.text == "drawn for 2"
    assert (raced.running, raced.start_button.disabled) == (False, False)
    assert raced.status.value.startswith("drawn in")
