"""Marks of a report's page, framed or chosen by keys, in Chromium: the queries that are listed are those that Python lists."""

from typing import Any

import ipywidgets
import pandas as pd
import plotly.graph_objects as go
import pytest
from dashboard_page import dashboard_page

from workbench.explore import search_figures
from workbench.explore.widgets import Dashboard

pytestmark = pytest.mark.browser
SETTINGS = pd.DataFrame(
    [("fast <b>", "average", 1.0, 0.9), ("slow", "average", 4.0, 0.99), ("exact", "brute force", 9.0, 1.0)],
    columns=["label", "method", "p50_ms", "recall"],
).assign(setting="", k=10)
QUERIES = pd.DataFrame(
    [("fast <b>", q, 1 - (q % 5) / 10) for q in range(40)]
    + [("slow", q, 0.5 if q == 7 else 1.0) for q in range(40)],
    columns=["label", "query", "recall"],
)


class Marks(Dashboard):
    """The frontier of three settings."""

    def __init__(self) -> None:
        super().__init__("Marks", {"Figure": {"title": ipywidgets.Dropdown(options=["one", "two"])}})

    def draw(self, values: dict[str, Any]) -> go.Figure:
        return search_figures.brushed(search_figures.frontier(SETTINGS, title=values["title"]), QUERIES)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return dashboard_page(tmp_path_factory.mktemp("reports"), "07_marks", Marks()).as_uri()


def frame(page: Any, low: float, high: float) -> None:
    """Draw a frame from one share of the figure's width to another, from top to bottom."""
    box = page.locator(".nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + low * box["width"], box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + high * box["width"], box["y"] + box["height"] - 2, steps=4)
    page.mouse.up()


def listed(page: Any) -> tuple[str, list[list[str]]]:
    page.wait_for_selector(".lost p")
    rows = page.locator(".lost tr").all()
    return page.locator(".lost p").first.inner_text(), [
        row.locator("td").all_inner_texts() for row in rows[1:]
    ]


def test_a_frame_around_marks_lists_the_queries_that_fail(visit: Any, page: str) -> None:
    browser = visit.page
    browser.set_viewport_size({"width": 1366, "height": 1200})  # the whole figure: nothing scrolls
    meta = search_figures.brushed(search_figures.frontier(SETTINGS), QUERIES).layout.meta
    for low, high, labels in ((0.03, 0.4, ["fast &lt;b&gt;"]), (0.03, 0.7, ["fast &lt;b&gt;", "slow"])):
        browser.goto(page)
        browser.wait_for_function("dashboards[0].plot.querySelector('.main-svg')")
        frame(browser, low, high)
        summary, rows = search_figures.failing_in(meta, labels)
        shown, cells = listed(browser)
        assert shown == summary
        assert cells == [[str(q), str(n), f"{100 * share:.0f}%"] for q, n, share in rows[:12]]
        assert browser.get_by_text(f"and {len(rows) - 12} more").count() == 1
    browser.get_by_label("title").select_option("two")
    browser.wait_for_function("!document.querySelector('.lost').children.length")
    assert (visit.errors, visit.outside) == ([], [])


def test_keys_choose_settings_as_a_frame_does_and_a_screen_reader_hears_of_it(visit: Any, page: str) -> None:
    browser = visit.page
    browser.set_viewport_size({"width": 1366, "height": 1200})
    meta = search_figures.brushed(search_figures.frontier(SETTINGS), QUERIES).layout.meta
    browser.goto(page)
    browser.wait_for_function("dashboards[0].plot.querySelector('.main-svg')")
    browser.get_by_text("Choose settings by name").focus()
    browser.keyboard.press("Enter")
    boxes = browser.get_by_role("group", name="settings whose failing queries are listed").get_by_role(
        "checkbox"
    )
    browser.wait_for_function("document.querySelectorAll('.settings input').length === 2")
    assert [box.evaluate("box => box.labels[0].textContent") for box in boxes.all()] == [
        "fast <b>",
        "slow",
    ]
    chosen = []
    for label in ("fast &lt;b&gt;", "slow"):
        chosen.append(label)
        browser.keyboard.press("Tab")
        browser.keyboard.press("Space")
        summary, rows = search_figures.failing_in(meta, chosen)
        shown, cells = listed(browser)
        assert shown == summary
        assert browser.get_by_role("status").filter(has_text=summary).count() == 1
        assert cells == [[str(q), str(n), f"{100 * share:.0f}%"] for q, n, share in rows[:12]]
    marks = "dashboards[0].plot.data.filter(trace => trace.customdata)"
    standing_out = browser.evaluate(f"{marks}.map(trace => Array.from(trace.selectedpoints))")
    assert standing_out == [[0, 1], []]
    frame(browser, 0.03, 0.4)  # a frame ticks what it holds
    browser.wait_for_function("document.querySelectorAll('.settings input:checked').length === 1")
    assert (visit.errors, visit.outside) == ([], [])
