"""The tour in a real JupyterLab: all cells run, a key moves each kind of control, answers unfold, no other machine is asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_server import finish, run_all, serving

from workbench.reporting import pairs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PLOT = "[...document.querySelectorAll('.js-plotly-plot')].find(plot => plot.layout?.title?.text?.startsWith('{title}'))"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab on the tour, on the smallest dataset, with another notebook to go on to."""
    root = tmp_path_factory.mktemp("lab")
    (root / "notebooks").mkdir()
    for name in ("00_tour", "01_preprocess"):
        source = root / "notebooks" / f"{name}.py"
        text = (NOTEBOOKS / source.name).read_text()
        source.write_text(text.replace('dataset = "embedded-small"', 'dataset = "embedded-tiny"', 1))
        pairs.write(source)
    with serving(root) as address:
        yield address


def test_the_tour_leads_from_station_to_station(visit: Any, lab: str) -> None:
    page = visit.page
    run_all(page, lab, "00_tour", seconds=300)  # it trains four small models first
    finish(page, seconds=300)
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    plots = "[...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.data?.length ?? 0)"
    page.wait_for_function(f"{plots}.length === 11 && {plots}.every(traces => traces > 1)", timeout=60_000)
    buttons = page.locator(".modebar-btn").evaluate_all("all => all.map(b => b.getAttribute('data-title'))")
    assert not [title for title in buttons if "share" in title.lower()]

    sliders = page.locator(".noUi-handle")
    for title, slider, key in (("items = 10", 0, "ArrowRight"), ("negatives = 1", 1, "ArrowRight")):
        page.wait_for_function(f"{PLOT.format(title=title)} !== undefined", timeout=30_000)
        before = page.evaluate(f"{PLOT.format(title=title)}.data[1].y[0]")
        handle = sliders.nth(slider)
        handle.focus()
        page.keyboard.press(key)
        page.wait_for_function(f"{PLOT.format(title=title)} === undefined", timeout=30_000)
        after = page.evaluate(f"{PLOT.format(title=title.split(' = ')[0])}.data[1].y[0]")
        assert after != before

    count = page.locator(".widget-hslider", has_text="n1").locator(".noUi-handle")
    for key, verdict in (("End", "proved: the best 10"), ("Home", "neither proved nor")):
        count.focus()
        page.keyboard.press(key)
        page.wait_for_function(f"{PLOT.format(title=verdict)} !== undefined", timeout=30_000)

    answer = page.locator("details", has_text="An answer").first
    assert not answer.locator("p").first.is_visible()
    answer.locator("summary").click()
    assert answer.locator("p").first.is_visible()

    page.locator(".jp-RenderedMarkdown a", has_text="01_preprocess").first.click()
    page.wait_for_selector('h1:visible:has-text("01 · From ratings")', timeout=30_000)
    assert (visit.errors, visit.outside) == ([], [])
