"""Every notebook of the repository runs, and every page of the report it makes draws in Chromium without a network."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from legibility import FAINT, TOO_WIDE
from playwright.sync_api import TimeoutError

from workbench.chromium import PATIENCE
from workbench.reporting.lecture import STEPS
from workbench.reporting.paper import print_pages
from workbench.reporting.runner import Finished, ReportSpec, run_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
]  # the first test waits until all notebooks have run

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
def test_the_index_leads_to_every_page(executed: Any, visit: Any) -> None:
    reports, _ = executed
    visit.page.goto((reports / "index.html").as_uri())
    links = visit.page.locator("table.runs a").evaluate_all(
        "links => links.map(link => link.getAttribute('href'))"
    )
    pages = [f"quick-embedded-tiny/{name}.html" for name in NAMES]
    assert links == [pages[0], pages[0].replace(".html", ".slides.html"), *pages[1:]]
    assert all((reports / link).is_file() for link in links)
    assert visit.errors == []


@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_every_page_draws_whole_and_alone_fits_every_screen_and_can_be_read_on_both_grounds(
    executed: Any, visit: Any, name: str
) -> None:
    reports, _ = executed
    page = visit.page
    page.set_default_timeout(PATIENCE)
    page.context.set_offline(True)
    drawn = "[...document.querySelectorAll('.plot')].every(place => place.querySelector('.main-svg'))"
    for width in (390, 768, 1024, 1280, 1366, 1920):
        page.set_viewport_size({"width": width, "height": 844 if width == 390 else 720})
        if width in (390, 1280):
            page.goto((reports / "quick-embedded-tiny" / f"{name}.html").as_uri())
            page.wait_for_function(drawn)
        else:  # the page of a window that was made wider
            with suppress(TimeoutError):
                page.wait_for_function(f"({TOO_WIDE})().length === 0", timeout=30_000)
        assert page.evaluate(TOO_WIDE) == [], width
        assert page.locator(".plot").count() == page.locator(".js-plotly-plot").count()
        assert page.locator(".js-plotly-plot:not(:has(.main-svg))").count() == 0
        assert page.locator(".math:not(:has(.katex))").count() == 0
    assert page.evaluate(FAINT) == {}
    page.emulate_media(color_scheme="dark")
    page.reload()
    page.wait_for_function(drawn)
    assert page.evaluate(FAINT) == {}
    assert (visit.errors, visit.outside) == ([], [])


@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_every_control_of_every_page_is_moved_and_draws(executed: Any, visit: Any, name: str) -> None:
    reports, _ = executed
    page = visit.page
    page.context.set_offline(True)
    page.goto((reports / "quick-embedded-tiny" / f"{name}.html").as_uri())
    inputs = page.locator(".dashboard :is(input, select):visible")
    for number in range(inputs.count()):
        control = inputs.nth(number)
        if not control.is_visible():  # another control has hidden its group
            continue
        assert control.evaluate("c => c.getAttribute('aria-label') ?? c.labels[0]?.textContent.trim()")
        value = "c => c.type === 'checkbox' ? c.checked : c.value"
        before, stood = page.evaluate("location.href"), control.evaluate(value)
        control.focus()
        kind = control.evaluate("c => c.type")
        key = "Space" if kind == "checkbox" else "ArrowDown" if kind == "select-one" else "ArrowRight"
        page.keyboard.press(key)
        if control.evaluate(value) == stood:  # it was at its last value
            page.keyboard.press({"ArrowDown": "ArrowUp", "ArrowRight": "ArrowLeft"}[key])
        page.wait_for_function("before => location.href !== before", arg=before)
        statuses = page.locator(".dashboard .status").all_inner_texts()
        assert not [text for text in statuses if text and "ValueError" not in text]
    assert page.locator(".js-plotly-plot:not(:has(.main-svg))").count() == 0
    assert (visit.errors, visit.outside) == ([], [])


@pytest.mark.browser
def test_the_lecture_takes_45_minutes_and_its_links_lead_to_stored_views(executed: Any, visit: Any) -> None:
    reports, _ = executed
    page = visit.page
    lecture = reports / "quick-embedded-tiny" / "lecture.html"
    page.goto(lecture.as_uri())
    assert page.locator(".minutes").last.inner_text().endswith("–45")
    links = page.locator("main a").evaluate_all("links => links.map(link => link.href)")
    views = page.locator("main a.view").evaluate_all("links => links.map(link => link.href)")
    assert (
        len(views) >= sum(len(step.views) for step in STEPS) - 1
    )  # the smallest data store all views but one
    assert page.locator(".finding").count() > 3
    for link in links:
        page.goto("about:blank")
        page.goto(link)
        if link in views:
            page.wait_for_function(
                "dashboards.length && dashboards.every(one => one.plot.querySelector('.main-svg'))"
            )
            state = page.evaluate("location.hash.slice(1)")
            page.evaluate("writeAddress()")  # of what the controls show now
            assert page.evaluate("dashboards.map(one => one.status.textContent).join('')") == "", link
            wanted, found = parse_qs(state), parse_qs(page.evaluate("location.hash.slice(1)"))
            short = {name.partition(".")[2]: value for name, value in wanted.items()}
            assert {n.rpartition(".")[2]: v for n, v in found.items()}.items() <= short.items(), link
        elif "#" in link:
            assert page.evaluate(
                "document.getElementById(decodeURIComponent(location.hash.slice(1))) !== null"
            ), link
    assert (visit.errors, visit.outside) == ([], [])


@pytest.mark.browser
def test_slides_show_every_part_of_the_tour_offline_and_keys_lead_through(executed: Any, visit: Any) -> None:
    reports, _ = executed
    page = visit.page
    page.context.set_offline(True)
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto((reports / "quick-embedded-tiny" / "00_tour.html").as_uri())
    headings = page.locator("main h2").all_inner_texts()
    page.get_by_role("link", name="Slides").click()
    page.wait_for_function("typeof deck !== 'undefined' && deck.isReady()")
    seen, figures = "", 0
    for _ in range(page.evaluate("deck.getTotalSlides()")):
        slide = page.locator(".slides section section.present")
        assert slide.inner_text().strip()
        assert slide.evaluate("slide => slide.scrollWidth - slide.clientWidth") == 0
        figures += slide.locator(".main-svg").count() > 0
        seen += slide.inner_text()
        page.keyboard.press("Space")
    assert [heading for heading in headings if heading.strip("¶ ") not in seen] == []
    assert figures >= 11
    slider = page.locator(".dashboard", has_text="One list for everybody").locator("input[type=range]")
    page.evaluate("location.hash = '#one-list-for-everybody.items=1'")
    slider.wait_for(state="visible")
    slider.focus()
    here = page.evaluate("deck.getIndices()")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("location.hash.includes('items=2')")
    assert page.evaluate("deck.getIndices()") == here  # the key is the slider's
    assert (visit.errors, visit.outside) == ([], [])


@pytest.mark.browser
def test_a_printed_page_cuts_no_figure_and_unfolds_the_answers(executed: Any, tmp_path: Path) -> None:
    reports, _ = executed
    shutil.copytree(reports / "quick-embedded-tiny", tmp_path / "report")
    with ThreadPoolExecutor(1) as thread:  # the tests' own browser has an event loop in this one
        written = thread.submit(print_pages, tmp_path / "report", ["00_tour", "11_text_retrieval"]).result()
    assert [path.name for path in written] == ["00_tour.pdf", "11_text_retrieval.pdf"]
    assert all(path.read_bytes().startswith(b"%PDF") for path in written)


@pytest.mark.browser
@pytest.mark.parametrize("name", NAMES)
def test_figures_fit_on_paper(executed: Any, visit: Any, name: str) -> None:
    reports, _ = executed
    page = visit.page
    page.set_viewport_size({"width": 703, "height": 1032})  # what A4 has inside its margins
    page.emulate_media(media="print")
    page.goto((reports / "quick-embedded-tiny" / f"{name}.html").as_uri())
    page.wait_for_function(
        "[...document.querySelectorAll('.plot')].every(place => place.querySelector('.main-svg'))"
    )
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    sizes = """() => [...document.querySelectorAll('.dashboard, .plot')].map(place => place.getBoundingClientRect())
        .map(({left, right, height}) => [left, right, height])"""
    assert not [size for size in page.evaluate(sizes) if size[0] < 0 or size[1] > 703.5 or size[2] > 1032]
    folded = page.locator("main details:not(.code, .log, .kernel):not([open])")
    assert folded.count() == 0
