"""The explorer in a real JupyterLab: a key moves a parameter, a click measures it, a new ringed point is seen."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_server import finish, run_all, serving
from playwright.sync_api import expect

from workbench.reporting import pairs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LESS = {
    'dataset = "embedded-small"': 'dataset = "embedded-tiny"',
    "plans.of_profile(profile, str(trained.folder), title=dataset)": (
        "plans.quick(str(trained.folder), items=2_000, title=dataset)"
    ),
}
"""The notebook is run as it is, but with less to do."""
PLOT = (
    "[...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')]"
    ".find(p => p.layout?.title?.text?.includes('queries per call'))"
)
RINGED = (
    f"({PLOT}?._fullData ?? []).filter(t => t.name === 'measured now').reduce((n, t) => n + t._length, 0)"
)
"""The rings of all methods: each method has its own trace of them."""
NUMBER_CONTROLS = """output => {
    const all = [...output.querySelectorAll('select, input, .noUi-handle, .jupyter-button')]
    const shown = all.filter(control => control.offsetParent !== null && !control.disabled)
    shown.forEach((control, place) => control.dataset.place = place)
    return shown.length
}"""
LABELS = f"JSON.stringify({PLOT}?.layout?.annotations?.map(a => a.text) ?? [])"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab on the notebook of the explorer, and the first one, which it opens with."""
    root = tmp_path_factory.mktemp("lab")
    (root / "notebooks").mkdir()
    for name, changes in (("00_tour", {}), ("07_recall_latency", LESS)):
        text = (NOTEBOOKS / f"{name}.py").read_text()
        for old, new in changes.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        source = root / "notebooks" / f"{name}.py"
        source.write_text(text)
        pairs.write(source)
    with serving(root) as address:
        yield address


def test_a_parameter_is_moved_and_measured(visit: Any, lab: str, record_property: Any) -> None:
    page = visit.page
    run_all(page, lab, "07_recall_latency", seconds=300)  # which trains a small model first
    finish(page, seconds=240)
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    page.wait_for_function(f"{RINGED} === 4", timeout=60_000)  # what the notebook measured itself
    explorer = page.locator(".jp-OutputArea-output", has_text="Save the view")

    # A key moves the list of the average; then a click measures it: a point more, labelled with its setting.
    slider = explorer.locator(".widget-inline-hbox:visible", has_text="n2").locator(".noUi-handle").first
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("text=/--searcher .average n2=500/", timeout=30_000)
    start = explorer.locator(".jupyter-button", has_text="measure")
    start.click()
    page.wait_for_function(f"{RINGED} === 5", timeout=120_000)
    assert "n2=500" in page.evaluate(LABELS)
    page.wait_for_function(
        "[...document.querySelectorAll('.widget-html')].some(w => w.textContent.startsWith('measured'))",
        timeout=60_000,
    )
    expect(start).to_be_enabled(timeout=30_000)

    # Other views of the same rows; how long each takes is printed.
    recall = explorer.locator(".widget-dropdown", has_text="recall").locator("select")
    milliseconds = []
    for choice in ("relative HR", "overlap"):
        before = page.evaluate(f"{PLOT}.layout.xaxis.title.text")
        started = time.perf_counter()
        recall.select_option(choice)
        page.wait_for_function(
            f"before => {PLOT}.layout.xaxis.title.text !== before", arg=before, timeout=30_000
        )
        milliseconds.append(1000 * (time.perf_counter() - started))
    elapsed = round(float(np.percentile(milliseconds, 50)))
    print(f"choice to new figure: p50 {elapsed} ms")
    record_property("update_ms_p50", elapsed)

    # The view is saved, and its path is shown; the camera hands out a PNG.
    explorer.locator(".jupyter-button", has_text="table, CSV").click()
    page.wait_for_selector("text=/views.embedded-tiny-2-000-items-b32-k100.csv/", timeout=30_000)
    with page.expect_download(timeout=30_000) as download:
        page.evaluate(f"{PLOT}.querySelector('.modebar-btn[data-title^=Download]').click()")
    assert download.value.suggested_filename == "recall-latency.png"
    with page.expect_download(timeout=30_000) as download:
        explorer.locator(".jupyter-button", has_text="figure, PNG").click()
    assert download.value.suggested_filename == "recall-latency.png"

    # Without a mouse: Tab goes from control to control, in the order in which they stand.
    count = explorer.evaluate(NUMBER_CONTROLS)
    explorer.locator("[data-place='0']").focus()
    walked = []
    while len(walked) < count and len(walked) == len(set(walked)):
        walked.append(page.evaluate("document.activeElement.closest('[data-place]')?.dataset.place"))
        for _ in range(10):  # a slider's number and the figure's buttons are in between
            page.keyboard.press("Tab")
            if page.evaluate("'place' in document.activeElement.dataset"):
                break
    assert count > 12
    assert walked == [str(place) for place in range(count)]
    assert (visit.errors, visit.outside) == ([], [])
