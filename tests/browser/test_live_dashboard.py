"""Dashboards in a real JupyterLab: a key moves a slider, a click trains, the plot follows, and no other machine is asked."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_server import finish, run_all, serving
from playwright.sync_api import TimeoutError

from workbench.reporting import pairs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HEAD = """# %% [markdown]
# # A dashboard

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0

# %%
"""
NOTEBOOKS = {
    "00_metrics": """import pandas as pd
from workbench.explore.widgets import MetricExplorer

MetricExplorer(pd.DataFrame({"method": ["HSTU + MoL"] * 3, "metric": ["HR@1", "HR@10", "HR@100"], "value": [0.1, 0.2, 0.4]}))
""",
    "01_approximation": """from workbench.explore.approximation_widget import Approximation
from workbench.theory.fitting import FitConfig

Approximation(FitConfig(width=2, gate_hidden=8, steps=2000), n=96)
""",
    "02_lost": """import pandas as pd
from workbench.explore.widgets import MetricExplorer

metrics = {"metric": ["HR@1", "HR@10", "HR@100"], "value": [0.1, 0.2, 0.4]}
lost = MetricExplorer(pd.DataFrame(metrics).assign(method="HSTU + MoL"))
lost.figure.send_state = lambda *_, **__: None  # no message reaches the browser any more
lost
""",
}
REAL = {"05_mol_anatomy": "embedded-tiny"}
"""Notebooks of the repository that are run as they are, but on this dataset."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab that `workbench lab` started on a folder of small notebooks."""
    root = tmp_path_factory.mktemp("lab")
    (root / "notebooks").mkdir()
    for name, cell in NOTEBOOKS.items():
        source = root / "notebooks" / f"{name}.py"
        source.write_text(HEAD + cell)
        pairs.write(source)
    for name, dataset in REAL.items():
        original = Path(__file__).resolve().parents[2] / "notebooks" / f"{name}.py"
        source = root / "notebooks" / original.name
        source.write_text(
            original.read_text().replace('dataset = "embedded-small"', f'dataset = "{dataset}"', 1)
        )
        pairs.write(source)
    with serving(root) as address:
        yield address


def test_the_plot_follows_a_key_and_no_other_machine_is_asked(visit: Any, lab: str) -> None:
    page, sent = visit.page, []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(str(frame))))
    run_all(page, lab, "00_metrics")
    shown = "document.querySelector('.js-plotly-plot').data?.[0]?.x?.[0]"
    page.wait_for_function(f"{shown} === 'HR@10'", timeout=30_000)
    page.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{shown} === 'HR@100'", timeout=30_000)
    page.wait_for_timeout(500)
    assert any("_shown" in frame for frame in sent)
    assert not [
        frame for frame in sent if "Delta" in frame
    ]  # what plotly filled in would hold up the next key
    assert visit.outside == []


def test_a_browser_too_busy_for_two_seconds_follows_all_the_same(visit: Any, lab: str) -> None:
    """What anywidget does after two seconds is done at once here: it gives up on a model, which heard nothing from then on."""
    page = visit.page
    page.add_init_script(
        "AbortSignal.timeout = () => { const now = new AbortController(); setTimeout(() => now.abort(), 0); return now.signal }"
    )
    run_all(page, lab, "00_metrics")
    shown = "document.querySelector('.js-plotly-plot').data?.[0]?.x?.[0]"
    page.wait_for_function(f"{shown} === 'HR@10'", timeout=30_000)
    page.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{shown} === 'HR@100'", timeout=30_000)


def test_a_figure_that_is_not_connected_reports_it_and_is_opened_again(visit: Any, lab: str) -> None:
    page = visit.page
    run_all(page, lab, "02_lost")
    shown = "document.querySelector('.js-plotly-plot')?.data?.[0]?.x?.[0]"
    page.wait_for_function(f"{shown} === 'HR@10'", timeout=30_000)
    page.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("text=the browser had lost this figure", timeout=30_000)
    page.wait_for_function(f"{shown} === 'HR@100'", timeout=30_000)
    page.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowLeft")  # the new one is connected
    page.wait_for_function(f"{shown} === 'HR@10'", timeout=30_000)
    page.wait_for_selector("text=drawn in", timeout=30_000)


def test_training_is_started_watched_stopped_and_overtaken_by_a_key(visit: Any, lab: str) -> None:
    page = visit.page
    run_all(page, lab, "01_approximation")
    points = "(document.querySelector('.js-plotly-plot').data?.find(t => t.name === 'MoL')?.x?.length ?? 0)"
    start, stop = (page.locator(".jupyter-button", has_text=name) for name in ("train", "stop"))
    page.wait_for_selector("text=drawn in", timeout=30_000)
    assert page.evaluate(points) == 0
    start.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"{points} > 2", timeout=60_000)
    assert start.is_disabled()
    stop.click()
    page.wait_for_selector("text=/step \\d+ of 2000, stopped/", timeout=30_000)
    start.click()
    # The key comes to another thread: the click must have been heard.
    page.wait_for_selector("text=/step \\d+ of 2000$/", timeout=60_000)
    page.locator(".noUi-handle").nth(1).focus()
    page.keyboard.press("ArrowRight")
    floors = "document.querySelector('.js-plotly-plot').data?.[0]?.name"
    page.wait_for_function(f"{floors} === 'floor, width 3'", timeout=30_000)
    page.wait_for_function(f"{points} === 0", timeout=30_000)
    assert start.is_enabled()
    assert visit.outside == []


def test_the_anatomy_of_a_score_follows_keys(visit: Any, lab: str, record_property: Any) -> None:
    page = visit.page
    run_all(page, lab, "05_mol_anatomy", seconds=300)  # which trains three small models first
    finish(page, seconds=240)
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    plot = "[...document.querySelectorAll('.js-plotly-plot')].find(p => p.data?.some(t => t.type === 'waterfall'))"
    page.wait_for_function(f"{plot} !== undefined", timeout=60_000)
    state = f"JSON.stringify([{plot}.layout.title.text, {plot}.data.map(t => t.z?._inputArray ?? t.z)])"
    first, milliseconds = page.evaluate(f"{plot}.layout.title.text"), []
    for handle, key in (
        (0, "ArrowRight"),
        (0, "ArrowLeft"),
        (1, "ArrowRight"),
        (1, "ArrowRight"),
        (1, "End"),
    ):
        before = page.evaluate(state)
        page.locator(".noUi-handle").nth(handle).focus()
        started = time.perf_counter()
        page.keyboard.press(key)
        page.wait_for_function(f"before => {state} !== before", arg=before, timeout=30_000)
        milliseconds.append(1000 * (time.perf_counter() - started))
    user = page.locator(".widget-text input[type=number]").first
    user.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.wait_for_function(
        f"first => {plot}.layout.title.text.split(',')[0] !== first.split(',')[0]", arg=first, timeout=30_000
    )
    p50, p95 = (round(float(np.percentile(milliseconds, q))) for q in (50, 95))
    print(f"key press to new figure: p50 {p50} ms, p95 {p95} ms")
    record_property("update_ms_p50", p50)
    record_property("update_ms_p95", p95)
    assert (visit.errors, visit.outside) == ([], [])


LIST = "select:visible:has(option:nth-child(2))"
OUTPUTS = f".jp-OutputArea-output:has(.js-plotly-plot):has(.noUi-handle:visible, {LIST})"
SHOWN = """output => {
    const plot = output.querySelector('.js-plotly-plot')
    const plain = (key, value) => ArrayBuffer.isView(value) ? Array.from(value) : value
    return JSON.stringify([plot.layout?.title?.text, plot.data?.map(t => [t.x, t.y, t.z, t.text, t.visible, t.cells])], plain)
}"""


def test_no_figure_is_deaf_in_a_browser_throttled_four_times(visit: Any, lab: str) -> None:
    """Every dashboard of a notebook follows its first slider or list, in a browser that takes four times as long for all."""
    page = visit.page
    page.set_default_timeout(120_000)
    run_all(page, lab, "05_mol_anatomy", seconds=400, slower=4)
    finish(page, seconds=400)
    outputs = page.locator(OUTPUTS)
    page.wait_for_function(
        "document.querySelectorAll('.js-plotly-plot .main-svg').length > 5", timeout=120_000
    )
    deaf = []
    for number in range(outputs.count()):
        output = outputs.nth(number)
        output.scroll_into_view_if_needed()
        before = output.evaluate(SHOWN)
        handle = output.locator(".noUi-handle:visible").first
        if handle.count():
            handle.focus()
            page.keyboard.press("ArrowRight")
        else:
            output.locator(LIST).first.select_option(index=1)
        try:
            page.wait_for_function(
                f"([output, before]) => ({SHOWN})(output) !== before",
                arg=[output.element_handle(), before],
                timeout=60_000,
            )
        except TimeoutError:
            deaf.append(output.inner_text())
    assert outputs.count() > 2
    assert deaf == []
    assert visit.errors == []
