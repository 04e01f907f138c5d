"""Titles and genres made to do harm, in Chromium: on the pages of a report and in the live dashboards of a JupyterLab."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_server import finish, run_all, serving

from workbench.reporting import pairs
from workbench.visible import html_text

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PAYLOADS = (
    "<script id=injected>window.hacked = 1</script>",
    "<img id=injected src=x onerror='window.hacked = 2'>",
    "<img id=injected src=http://outside.example/x.png>",
    "<svg id=injected onload='window.hacked = 3'>",
    "<a id=injected href='javascript:window.hacked = 4'>link</a>",
    "</td></table><iframe id=injected srcdoc='<script>parent.hacked = 5</script>'></iframe>",
    "<style id=injected>@import url(http://outside.example/x.css)</style>",
    "<form id=injected action=http://outside.example><button autofocus>x</button></form>",
    "'\"><b id=injected>bold</b>",
    "<details id=injected open ontoggle='window.hacked = 6'>",
    "$\\href{javascript:window.hacked=7}{x}$",
    "$$\\includegraphics{http://outside.example/y.png}$$",
    "\\(\\style{color:red}{x}\\)",
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;http://outside.example\x07link\x1b]8;;\x07",
    "\u202eevil",
    "\u2067a\u2069\u2069",
    "a\x00b",
    "![x](http://outside.example/z.png) [y](javascript:window.hacked=8)",
)
NOTEBOOK = f"""# %% [markdown]
# # Titles made to do harm

# %% tags=["parameters"]
dataset = "embedded-tiny"
profile = "quick"
seed = 0

# %%
import numpy as np
import pandas as pd

from workbench.anatomy import ModelView
from workbench.data import Sequences
from workbench.encoders import SASRecConfig
from workbench.explore.anatomy_widgets import ComponentMap, ScoreAnatomy
from workbench.explore.tables import table
from workbench.explore.widgets import MetricExplorer
from workbench.reporting import record
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import MoLConfig

PAYLOADS = {PAYLOADS!r}
titles = list(PAYLOADS) + [f"item {{i}}" for i in range(len(PAYLOADS), 30)]
users = 12
sequences = Sequences(
    name="hostile",
    offsets=np.arange(users + 1) * 10,
    item_ids=((np.arange(users)[:, None] * 3 + np.arange(10)) % 30 + 1).ravel(),
    timestamps=np.tile(np.arange(10) * 60, users),
    ratings=np.full(users * 10, np.nan, dtype=np.float32),
    items=pd.DataFrame({{"item_id": range(30), "title": titles, "genres": titles}}),
    users=pd.DataFrame({{"user_id": range(users)}}),
)

# %%
mixture = MoLConfig(2, 2, 4, query_hidden=8, gate_query=4, gate_item=4, gate_pair=4)
retriever = Retriever(RetrieverConfig(SASRecConfig(1, 1, 8, 0.0), mixture, 8, 12), 30).eval()
model = ModelView.of(titles[0], retriever, sequences)
for payload in PAYLOADS:
    record(payload.replace("\\0", ""), payload, unit=payload)

# %%
ScoreAnatomy(model, user=0)

# %%
components = ComponentMap(model)
components.select(range(30))
components

# %%
MetricExplorer(pd.DataFrame({{"method": titles, "metric": "HR@10", "value": 0.5}}))

# %%
table(sequences.items)

# %%
print(*PAYLOADS, sep="\\n")
"""
INJECTED = "document.querySelectorAll('#injected, a[href^=\"javascript\"]').length"
STEERED = """[...document.querySelectorAll('td, option, label, text, dd, dt')].map(place => place.textContent)
    .filter(text => /[\\u202e\\u2067]/.test(text) && !/\\u2068/.test(text)).length"""
"""Places that show such a title without a mark of isolation."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the workbench with one notebook and its report."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "notebooks").mkdir()
    source = folder / "notebooks" / "00_hostile.py"
    source.write_text(NOTEBOOK)
    pairs.write(source)
    subprocess.run(
        [sys.executable, "-m", "workbench.cli", "report"],
        env=os.environ | {"WORKBENCH_ROOT": str(folder)},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return folder


@pytest.fixture(scope="module")
def lab(root: Path) -> Iterator[str]:
    with serving(root) as address:
        yield address


def test_a_report_shows_titles_as_text(root: Path, visit: Any) -> None:
    page = visit.page
    (made,) = root.glob("reports/quick-*/00_hostile.html")
    for path in (made, root / "reports" / "index.html"):
        page.goto(path.as_uri())
        if path == made:
            page.wait_for_selector(".js-plotly-plot .main-svg")
            page.wait_for_function("document.querySelectorAll('.plot').length >= 3")
        assert page.evaluate(INJECTED) == 0
        assert page.evaluate("window.hacked") is None
        assert page.evaluate(STEERED) == 0
        assert not {"\x1b", "\x00"} & set(page.content())
        assert page.locator(".katex").count() == 0
        assert "<script id=injected>" in page.locator("body").inner_text()
    assert (visit.errors, visit.outside) == ([], [])


def test_live_dashboards_show_titles_as_text(lab: str, visit: Any) -> None:
    page = visit.page
    run_all(page, lab, "00_hostile", seconds=240)
    finish(page, seconds=240)
    page.wait_for_function(
        "document.querySelectorAll('.js-plotly-plot .main-svg').length >= 3", timeout=60_000
    )
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
    page.wait_for_selector("text=30 selected")
    page.wait_for_timeout(1000)  # formulas would be set by now
    outputs = "[...document.querySelectorAll('.jp-OutputArea-output')]"
    assert page.evaluate(INJECTED) == 0
    assert page.evaluate("window.hacked") is None
    assert page.evaluate(STEERED) == 0
    assert page.evaluate(f"{outputs}.filter(o => o.querySelector('mjx-container, .katex')).length") == 0
    assert page.locator(".jp-OutputArea-output option", has_text="<script id=injected>").count() > 0
    assert visit.outside == []


@pytest.mark.parametrize("payload", ["\u202eevil", "\u2067a", "\u05e9\u05dc\u05d5\u05dd"])
def test_text_that_runs_from_right_to_left_leaves_its_neighbours_in_place(payload: str, visit: Any) -> None:
    page = visit.page
    page.set_content(
        f"<p><span id=before>12 </span><span id=title>{html_text(payload)}</span><span id=after> 34</span></p>"
    )
    left = [page.locator(f"#{name}").bounding_box()["x"] for name in ("before", "title", "after")]
    assert left == sorted(left)
    assert len(set(left)) == 3
