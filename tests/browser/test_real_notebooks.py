"""Every notebook of the repository runs, and every page of the report it makes draws in Chromium without a network."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.reporting.runner import Finished, ReportSpec, run_report

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Finished]]:
    """The notebooks, run on the smallest dataset in a folder that has nothing else."""
    root = tmp_path_factory.mktemp("workbench")
    shutil.copytree(REPOSITORY / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".*"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_ROOT", str(root))
        finished = run_report(ReportSpec(dataset="embedded-tiny"))
    yield root / "reports", finished


def test_every_notebook_runs(executed: Any) -> None:
    _, finished = executed
    assert {row.name: row.error for row in finished.rows} == dict.fromkeys(NAMES, "")


@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_every_page_draws_whole_and_alone(executed: Any, visit: Any, name: str) -> None:
    reports, _ = executed
    page = visit.page
    page.context.set_offline(True)
    page.goto((reports / "quick-embedded-tiny" / f"{name}.html").as_uri())
    page.wait_for_load_state("load")
    assert page.locator(".plot").count() == page.locator(".js-plotly-plot").count()
    assert page.locator(".js-plotly-plot:not(:has(.main-svg))").count() == 0
    assert page.locator(".math:not(:has(.katex))").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1366
    assert (visit.errors, visit.outside) == ([], [])


@pytest.mark.browser
def test_the_index_leads_to_every_page(executed: Any, visit: Any) -> None:
    reports, _ = executed
    visit.page.goto((reports / "index.html").as_uri())
    links = visit.page.locator("table.runs a").evaluate_all(
        "links => links.map(link => link.getAttribute('href'))"
    )
    assert links == [f"quick-embedded-tiny/{name}.html" for name in NAMES]
    assert all((reports / link).is_file() for link in links)
    assert visit.errors == []
