"""Notebook 11 in a real JupyterLab: twenty texts typed into the search box, a mixture taken apart, and a text of no words."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab_server import finish, run_all, serving

from workbench.data.text.build import EMBEDDED, load_text
from workbench.reporting import pairs

pytest.importorskip("wordllama")
pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
NAME = "11_text_retrieval"
TABLE = (
    "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.data?.[0]).find(d => d?.type === 'table')"
)
TITLES = "[...document.querySelectorAll('.js-plotly-plot')].map(p => p.layout?.title?.text ?? '')"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab on notebook 11 as it is, and on the tour, which it opens first."""
    root = tmp_path_factory.mktemp("lab")
    (root / "notebooks").mkdir()
    for name in (NAME, "00_tour"):
        source = root / "notebooks" / f"{name}.py"
        source.write_text((NOTEBOOKS / source.name).read_text())
        pairs.write(source)
    with serving(root) as address:
        yield address


def test_what_is_typed_is_searched_and_taken_apart(visit: Any, lab: str) -> None:
    page = visit.page
    run_all(page, lab, NAME, seconds=400)  # it trains six small heads first
    finish(page, seconds=400)
    assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0

    collection = load_text(EMBEDDED, seed=0)
    asked = collection.of_split("test").head(20)
    right = asked.merge(collection.relevance).merge(collection.documents, on="document_id")
    answers = right.groupby("text_x")["text_y"].agg(set)
    box = page.locator(".widget-text input").first
    box.scroll_into_view_if_needed()
    found = 0
    for text in [*asked["text"].iloc[1:], asked["text"].iloc[0]]:
        before = page.evaluate(f"JSON.stringify({TABLE}.cells.values)")
        box.fill(text)
        box.press("Enter")
        page.wait_for_function(
            f"before => JSON.stringify({TABLE}?.cells.values) !== before", arg=before, timeout=60_000
        )
        columns = dict(zip(*page.evaluate(f"[{TABLE}.header.values, {TABLE}.cells.values]"), strict=True))
        listed = {" ".join(cell.replace("<br>", " ").split()) for cell in columns["<b>mol-2-random</b>"]}
        found += bool(answers[text] & listed)
    assert found >= 15  # it has ten answers in a hundred at random, and finds nearly all

    show = page.locator(".widget-dropdown select", has_text="parts of mol-2-random").first
    for choice, title in (
        ("parts of mol-2-random", "Contributions to the score"),
        ("tokens of mol-2-tokens", "What each query component looks at"),
    ):
        count = page.evaluate(f"{TITLES}.filter(t => t === '{title}').length")
        show.select_option(choice)
        page.wait_for_function(f"{TITLES}.filter(t => t === '{title}').length > {count}", timeout=60_000)
    box.fill("   ")
    box.press("Enter")
    page.wait_for_selector("text=/at least one word/", timeout=60_000)
    assert visit.outside == []
