"""Report pages in Chromium, opened from disk: everything draws, nothing is asked of the network, nothing foreign runs."""

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from workbench.explore.template import BLUE, GREY, TEMPLATE
from workbench.reporting import pages
from workbench.reporting.records import Record
from workbench.reporting.results import Entry, Report

pytestmark = pytest.mark.browser

HOSTILE = "<script>window.hacked = 1</script><img src='data:,' onerror='window.hacked = 2'>"
TEXT = r"""# A page with $\phi(q, x)$

It costs \$5, or $5 and $6, and inline $\sum_i \pi_i \langle q_i, x_i \rangle$; displayed:

$$\phi(q, x) = \sum_{p=1}^{P} \pi_p(q, x)\, \frac{\langle f_p(q), g_p(x) \rangle}{\tau}$$

\begin{align} a &= b \\ c &= d \end{align}

## Second part

### Third part
"""


def output(**data: Any) -> Any:
    return nbformat.v4.new_output(
        "display_data", data={name.replace("__", "/"): value for name, value in data.items()}
    )


def plot(figure: go.Figure) -> Any:
    return nbformat.v4.new_output(
        "display_data", data={"application/vnd.plotly.v1+json": json.loads(figure.to_json())}
    )


def entry(name: str, **changes: Any) -> Entry:
    fields: dict[str, Any] = {
        "name": name,
        "title": f"Title of {name} {HOSTILE}",
        "status": "ok",
        "seconds": 3.0,
        "started": "2026-01-31T12:00:00+00:00",
        "error": "",
        "parameters": {"dataset": HOSTILE, "seed": 0, "user": -1},
        "key": "",
        "inputs": {},
        "records": (Record("HR@10", 0.12345), Record(HOSTILE, HOSTILE, unit=HOSTILE)),
        "provenance": {
            "commit": "0123456789abcdef",
            "dirty": True,
            "versions": {"python": "3", "x": HOSTILE},
        },
    }
    return Entry(**{**fields, **changes})


def contrast(one: str, other: str) -> float:
    """WCAG's contrast of two colours, as a browser writes them."""
    lights = sorted(
        sum(
            share * (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4)
            for share, c in zip((0.2126, 0.7152, 0.0722), rgb, strict=True)
        )
        for rgb in ([int(part) / 255 for part in re.findall(r"\d+", color)[:3]] for color in (one, other))
    )
    return (lights[1] + 0.05) / (lights[0] + 0.05)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of three notebooks: good, hostile, failed."""
    reports = tmp_path_factory.mktemp("reports")
    folder = reports / "quick-made"
    folder.mkdir()
    ours = go.Figure(
        [go.Bar(y=[1, 2], error_y={"array": [0.5, 0.5]}, marker={"color": GREY}), go.Scatter(y=[2, 1])],
        {"template": TEMPLATE, "title": {"text": "Ours"}},
    )
    ours.add_annotation(x=0, y=1.5, text="in blue", showarrow=False, font={"color": BLUE})
    table = pd.DataFrame({"title": ["Heat"], "n": [1.5]}).to_html()
    log = nbformat.v4.new_output("stream", text="\n".join(f"epoch {epoch}" for epoch in range(30)))
    code = nbformat.v4.new_code_cell
    cells = {
        "00_good": [
            nbformat.v4.new_markdown_cell(TEXT),
            nbformat.v4.new_markdown_cell("<details><summary>An answer</summary>\n\nFolded.\n\n</details>"),
            code("x = 1\ny = 2", outputs=[plot(ours), output(text__html=table)]),
            code(
                "z = 3",
                outputs=[
                    log,
                    output(text__latex=r"$\displaystyle \frac{a}{b}$"),
                    plot(go.Figure(go.Heatmap(z=[[1, 2]]))),
                ],
            ),
        ],
        "01_hostile": [
            nbformat.v4.new_markdown_cell("# Hostile"),
            code(
                HOSTILE,
                outputs=[
                    output(text__html=HOSTILE),
                    output(text__markdown=f"Before {HOSTILE} [link](javascript:window.hacked=3) after"),
                    output(text__plain=HOSTILE),
                    output(application__javascript="window.hacked = 4"),
                    output(application__x_unknown=HOSTILE),
                    nbformat.v4.new_output("stream", text=HOSTILE),
                    plot(go.Figure(go.Bar(x=[f"</script>{HOSTILE}"], y=[1]), {"title": {"text": HOSTILE}})),
                ],
            ),
        ],
        "02_failed": [
            nbformat.v4.new_markdown_cell("# Failed"),
            code(
                "boom",
                outputs=[
                    nbformat.v4.new_output("error", ename="E", evalue=HOSTILE, traceback=[f"E: {HOSTILE}"])
                ],
            ),
        ],
    }
    for name, content in cells.items():
        nbformat.write(nbformat.v4.new_notebook(cells=content), folder / f"{name}.ipynb")
    failed = entry("02_failed", status="failed", error=f"E: {HOSTILE}")
    made = Report(
        "quick", "made", {"00_good": entry("00_good"), "01_hostile": entry("01_hostile"), "02_failed": failed}
    )
    pages.write_pages(made, folder)
    made.save(folder)
    pages.write_index(reports)
    return folder


def test_plots_draw_and_formulas_are_set_without_a_network(visit: Any, report: Path) -> None:
    page = visit.page
    page.context.set_offline(True)
    page.goto((report / "00_good.html").as_uri())
    page.wait_for_selector(".plot .js-plotly-plot .main-svg")
    assert page.locator(".js-plotly-plot").count() == 2
    assert page.locator(".js-plotly-plot .bars .point > path").count() == 2
    assert page.locator(".math .katex").count() == 5
    assert page.locator(".math.unset").count() == 0
    assert page.locator(".math.display .katex-display").count() == 3
    assert "It costs $5, or $5 and $6, and inline" in page.locator("main p").first.inner_text()
    assert page.evaluate("document.fonts.check('16px KaTeX_Main')")
    assert (visit.errors, visit.outside) == ([], [])


def test_contents_links_and_headline_figures(visit: Any, report: Path) -> None:
    page = visit.page
    page.goto((report / "00_good.html").as_uri())
    contents = page.locator("#contents a")
    assert [text.strip() for text in contents.all_inner_texts()][1:] == ["Second part", "Third part"]
    contents.nth(2).click()
    assert page.url.endswith("#Third-part")
    assert page.locator("main .headlines dd").first.inner_text() == "0.1235"
    names = page.locator("main .facts dt").all_inner_texts()
    assert names == ["dataset", "seed", "run on", "took", "commit"]  # no user was chosen
    assert page.locator("a[rel=prev]").count() == 0
    page.locator("a[rel=next]").click()
    assert page.url.endswith("01_hostile.html")
    page.locator("a.home").click()
    assert page.url == (report.parent / "index.html").as_uri()
    page.locator("table.runs a").first.click()
    assert page.url.endswith("00_good.html")


def test_code_is_folded_and_shown_cell_by_cell_or_all_at_once(visit: Any, report: Path) -> None:
    page = visit.page
    page.goto((report / "00_good.html").as_uri())
    blocks = page.locator("details.code .highlight")
    assert [blocks.nth(i).is_visible() for i in range(2)] == [
        False,
        True,
    ]  # the second prints what it computes
    page.locator("details.code summary").first.click()
    assert [blocks.nth(i).is_visible() for i in range(2)] == [True, True]
    page.locator("details.code summary").nth(1).click()
    assert [blocks.nth(i).is_visible() for i in range(2)] == [True, False]
    page.locator("#all-code").click()
    assert [blocks.nth(i).is_visible() for i in range(2)] == [True, True]
    page.locator("#all-code").click()
    assert [blocks.nth(i).is_visible() for i in range(2)] == [False, False]


@pytest.mark.parametrize("name", ["00_good", "01_hostile", "02_failed"])
def test_nothing_from_data_runs(visit: Any, report: Path, name: str) -> None:
    page = visit.page
    page.goto((report / f"{name}.html").as_uri())
    if name != "02_failed":
        page.wait_for_selector(".js-plotly-plot .main-svg")
    if name == "01_hostile":
        page.get_by_text("link").first.click()
    assert page.evaluate("window.hacked") is None
    assert visit.outside == []
    # What the content policy stopped is the one raw HTML output, its script and its handler; all else is text.
    assert all("Content Security Policy" in error or "data:" in error for error in visit.errors)
    assert len(visit.errors) <= (3 if name == "01_hostile" else 0)


def test_the_index_shows_text_as_text(visit: Any, report: Path) -> None:
    page = visit.page
    page.goto((report.parent / "index.html").as_uri())
    assert HOSTILE in page.locator("table.runs a").first.inner_text()
    assert page.locator(".state").all_inner_texts() == ["ok", "ok", "failed"]
    assert f"E: {HOSTILE}" in page.locator(".error").inner_text()
    assert page.evaluate("window.hacked") is None
    assert (visit.errors, visit.outside) == ([], [])


def test_a_failure_is_shown_on_top(visit: Any, report: Path) -> None:
    page = visit.page
    page.goto((report / "02_failed.html").as_uri())
    assert page.locator(".failure").is_visible()
    assert HOSTILE in page.locator(".failure pre").inner_text()
    assert HOSTILE in page.locator(".traceback").inner_text()


def test_light_and_dark_follow_the_reader(visit: Any, report: Path) -> None:
    page = visit.page
    colours = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto((report / "00_good.html").as_uri())
        page.wait_for_selector(".js-plotly-plot .main-svg")
        colours[scheme] = page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('.xtick text')).fill]"
        )
    assert colours["light"][0] == "rgb(255, 255, 255)"
    assert colours["dark"][0] != colours["light"][0]
    assert colours["dark"][1] != colours["light"][1]
    page.emulate_media(color_scheme="light")
    page.wait_for_function(
        f"getComputedStyle(document.querySelector('.xtick text')).fill === '{colours['light'][1]}'"
    )


def test_coloured_text_and_intervals_can_be_read_on_both_grounds(visit: Any, report: Path) -> None:
    """The text of a note, and an interval that stands half on its bar."""
    page = visit.page
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.goto((report / "00_good.html").as_uri())
        page.wait_for_selector(".annotation-text")
        text, interval, bar, ground = page.evaluate(
            """() => {
                const style = place => getComputedStyle(document.querySelector(place))
                return [style('.annotation-text').fill, style('.errorbar path').stroke, style('.bars .point path').fill,
                        style('body').backgroundColor]
            }"""
        )
        assert contrast(text, ground) >= 4.5, (scheme, text, ground)
        assert min(contrast(interval, ground), contrast(interval, bar)) >= 2.5, (
            scheme,
            interval,
            bar,
            ground,
        )


def test_logs_fold_away_and_paper_gets_answers_and_whole_figures(visit: Any, report: Path) -> None:
    page = visit.page
    page.goto((report / "00_good.html").as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.locator("details.log summary").inner_text() == "printed 30 lines"
    assert not page.get_by_text("epoch 29").is_visible()
    assert page.locator("nav[aria-label=Notebooks]").inner_text().split() == ["00_good", "01", "02"]
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.get_by_text("Folded.").is_visible()
    page.wait_for_function("[...document.querySelectorAll('.main-svg')].every(svg => svg.clientWidth <= 700)")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.wait_for_function("[...document.querySelectorAll('.main-svg')].some(svg => svg.clientWidth > 700)")
    assert visit.errors == []


@pytest.mark.parametrize("width", [400, 1366])
def test_a_page_is_never_wider_than_its_window(visit: Any, report: Path, width: int) -> None:
    page = visit.page
    page.set_viewport_size({"width": width, "height": 768})
    for name in ("00_good", "01_hostile", "02_failed"):
        page.goto((report / f"{name}.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


CUT = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => {
    const room = plot.getBoundingClientRect()
    const texts = plot.querySelectorAll(
        '.gtitle, .xtick text, .ytick text, .legendtext, .xtitle, .ytitle, .annotation-text')
    return [...texts].filter(text => {
        const { left, right, top, bottom } = text.getBoundingClientRect()
        return left < room.left - 2 || right > room.right + 2 || top < room.top - 2 || bottom > room.bottom + 2
    }).map(text => text.textContent)
})"""


def test_a_phone_cuts_no_title_name_or_label(visit: Any, tmp_path: Path) -> None:
    """Long ones take several lines, and the figure grows with them."""
    long = "average, FAISS IVF (n2=1000, cells looked at=1/{})"
    title = {"text": "What a list of the average's best finds, and what it costs for one query at a time"}
    names = [long.format(2**i) for i in range(8)]
    lines = go.Figure(
        [go.Scatter(x=[1, 2], y=[i, 8 - i], name=name) for i, name in enumerate(names)],
        {"template": TEMPLATE, "title": title},
    )
    bars = go.Figure(go.Bar(x=[1] * 8, y=names, orientation="h"), {"template": TEMPLATE, "title": title})
    for place in (1.2, 1.5, 1.8):
        lines.add_annotation(x=place, y=4, ax=50, ay=0, text="h-indexer width=64, keep=4000")
    lines.update_xaxes(range=[1, 2])
    groups = [f"decile {place} (the most popular) · 903" for place in range(8)]
    cells_of = go.Heatmap(z=[[1, 2, 3, 4]] * 8, x=[*"abcd"], y=groups, texttemplate="%{z}")
    grid = go.Figure(
        cells_of, {"template": TEMPLATE, "xaxis": {"title": {"text": "component (query group · item group)"}}}
    )
    cells = [
        nbformat.v4.new_markdown_cell("# Long"),
        nbformat.v4.new_code_cell("x", outputs=[plot(lines), plot(bars), plot(grid)]),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "00_long.ipynb")
    pages.write_pages(Report("quick", "made", {"00_long": entry("00_long")}), tmp_path)
    visit.page.set_viewport_size({"width": 390, "height": 844})
    visit.page.goto((tmp_path / "00_long.html").as_uri())
    visit.page.wait_for_function("document.querySelectorAll('.main-svg').length >= 9")
    assert visit.page.locator(".legendtext").count() == len(names)
    assert visit.page.evaluate(CUT) == []
    assert visit.page.evaluate(CROSSED) == []
    room, inside = visit.page.evaluate(
        "(() => { const p = [...document.querySelectorAll('.js-plotly-plot')].at(-1);"
        " return [p.clientWidth, p._fullLayout._size.w] })()"
    )
    assert inside > 0.6 * room  # the labels of rows leave it to the cells


def test_a_phone_shows_every_row_of_a_table_next_to_a_panel(visit: Any, tmp_path: Path) -> None:
    """Below the panel, with texts on two lines and without a place for an axis below it."""
    figure = make_subplots(1, 2, specs=[[{}, {"type": "table"}]]).add_scatter(x=[1, 2], y=[1, 2])
    names = [f"The Name of Item {place} · missed" for place in range(10)]
    figure.add_table(
        header={"values": ["#", "found", "true"]},
        columnwidth=[1, 5, 5],
        row=1,
        col=2,
        cells={"values": [[*map(str, range(10))], names, names], "height": 20, "font": {"size": 12}},
    )
    figure.update_layout(template=TEMPLATE, margin_b=118, height=450)
    cells = [nbformat.v4.new_markdown_cell("# Rows"), nbformat.v4.new_code_cell("x", outputs=[plot(figure)])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "00_rows.ipynb")
    pages.write_pages(Report("quick", "made", {"00_rows": entry("00_rows")}), tmp_path)
    visit.page.set_viewport_size({"width": 390, "height": 844})
    visit.page.goto((tmp_path / "00_rows.html").as_uri())
    visit.page.wait_for_selector(".table .cell-text")
    last, end = visit.page.evaluate(
        """(() => {
            const plot = document.querySelector('.js-plotly-plot')
            const { t, h } = plot._fullLayout._size
            const texts = [...plot.querySelectorAll('.cell-text')].filter(text => text.textContent.trim())
            const bottom = Math.max(...texts.map(text => text.getBoundingClientRect().bottom))
            return [bottom - plot.getBoundingClientRect().top, t + h]
        })()"""
    )
    assert end - 60 < last <= end


CROSSED = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => {
    const boxes = [...plot.querySelectorAll('.ytick text')].map(text => text.getBoundingClientRect())
    boxes.sort((one, other) => one.top - other.top)
    return boxes.slice(1).filter((box, place) => box.top < boxes[place].bottom - 2).length ? [boxes.length] : []
})"""
"""Figures of one panel in which labels of several lines overlap, by their number of labels."""


OVERLAP = """() => [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => {
    const texts = [...plot.querySelectorAll('.annotation-text, .xtitle, .x2title, .x3title, .gtitle')]
    const [boxes, found] = [texts.map(text => text.getBoundingClientRect()), []]
    boxes.forEach((one, first) => boxes.slice(first + 1).forEach((other, rest) => {
        const across = Math.min(one.right, other.right) - Math.max(one.left, other.left)
        const along = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top)
        if (across > 2 && along > 2) found.push([texts[first].textContent, texts[first + 1 + rest].textContent])
    }))
    return found
})"""


def open_slides(page: Any, folder: Path, cells: list[Any]) -> None:
    """The slides of a notebook with these cells, on the screen of a projector."""
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"workbench": {"slides": True}})
    nbformat.write(notebook, folder / "00_slides.ipynb")
    pages.write_pages(Report("quick", "made", {"00_slides": entry("00_slides")}), folder)
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto((folder / "00_slides.slides.html").as_uri())
    page.wait_for_function("typeof deck !== 'undefined' && deck.isReady()")


def test_a_slide_shows_its_figure_as_wide_as_it_is(visit: Any, tmp_path: Path) -> None:
    """The slide was hidden, and had no width, when the page was opened."""
    figure = go.Figure(go.Scatter(y=[1, 2], name="a line of the figure"), {"template": TEMPLATE})
    shown = plot(figure.update_layout(title_text="A title that fits on one line", showlegend=True))
    cells = [
        nbformat.v4.new_markdown_cell("# Slides"),
        nbformat.v4.new_markdown_cell("## A figure"),
        nbformat.v4.new_code_cell("x", outputs=[shown]),
    ]
    page = visit.page
    open_slides(page, tmp_path, cells)
    for _ in range(page.evaluate("deck.getTotalSlides()")):
        page.keyboard.press("Space")
    page.locator(".present .js-plotly-plot .main-svg").first.wait_for()
    page.wait_for_function(
        "document.querySelector('.present .gtitle').querySelectorAll('.line').length === 0"
    )
    assert page.locator(".present .legendtext .line").count() == 0
    assert visit.errors == []


def test_a_slide_that_would_run_over_gets_smaller_text_and_a_lower_figure(visit: Any, tmp_path: Path) -> None:
    """But rows of panels keep their height: there, titles would cover ticks."""
    text = "A paragraph of some words.\n\n" * 4
    rows = make_subplots(2, 1).add_scatter(y=[1, 2]).add_scatter(y=[2, 1], row=2, col=1)
    cells = [nbformat.v4.new_markdown_cell("# Slides")]
    for figure in (go.Figure(go.Scatter(y=[1, 2])), rows):
        figure.update_layout(template=TEMPLATE, height=560)
        cells += [nbformat.v4.new_code_cell("x", outputs=[plot(figure)]), nbformat.v4.new_markdown_cell(text)]
    page = visit.page
    open_slides(page, tmp_path, cells)
    page.keyboard.press("Space")
    slide = "document.querySelector('.slides section section.present')"
    page.wait_for_function(
        f"{slide}.querySelector('.main-svg') && {slide}.scrollHeight === {slide}.clientHeight"
    )
    height = f"{slide}.querySelector('.js-plotly-plot').clientHeight"
    assert 0.8 * 560 <= page.evaluate(height) < 560
    page.keyboard.press("Space")
    page.wait_for_function(f"{slide}.style.fontSize !== '' && {height} === 560")
    assert visit.errors == []


def test_a_phone_shows_panels_one_above_the_other(visit: Any, tmp_path: Path) -> None:
    """Each with its title; pictures of numbers stand two in a row, and nothing is moved sideways."""
    kinds = (go.Scatter(y=[1, 2]), *(go.Heatmap(z=[[1, 2]], showscale=False) for _ in range(2)))
    figure = make_subplots(1, 3, subplot_titles=[f"the title of panel {letter}" for letter in "abc"])
    for column, trace in enumerate(kinds, start=1):
        figure.add_trace(trace, 1, column)
    figure.update_xaxes(title_text="an axis").update_layout(template=TEMPLATE, title_text="Three panels")
    six = go.Figure(go.Table(header={"values": [*"abcdef"]}, cells={"values": [["some words"]] * 6}))
    shown = [plot(figure), plot(six.update_layout(template=TEMPLATE))]
    cells = [
        nbformat.v4.new_markdown_cell("# Panels"),
        nbformat.v4.new_code_cell("x", outputs=shown),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "00_panels.ipynb")
    pages.write_pages(Report("quick", "made", {"00_panels": entry("00_panels")}), tmp_path)
    page = visit.page
    places = """() => {
        const { layout } = document.querySelector('.js-plotly-plot')
        return [1, 2, 3].map(n => [layout[`xaxis${n > 1 ? n : ''}`].domain, layout[`yaxis${n > 1 ? n : ''}`].domain])
    }"""
    page.goto((tmp_path / "00_panels.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length > 3")
    assert len({tuple(along) for _, along in page.evaluate(places)}) == 1
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.querySelector('.js-plotly-plot').layout.xaxis.domain[1] === 1")
    first, second, third = page.evaluate(places)
    assert first[0] == [0, 1] and first[1][0] > second[1][1]
    assert second[1] == third[1] and second[0][1] < third[0][0]
    page.wait_for_function(f"({CUT})().length === 0")
    assert page.evaluate(OVERLAP) == []
    sideways = "plots => plots.map(plot => plot.scrollWidth > plot.clientWidth)"
    assert page.locator(".plot").evaluate_all(sideways) == [False, True]  # the table of six columns
    assert (visit.errors, visit.outside) == ([], [])


def test_tables_align_text_left_and_numbers_right(visit: Any, report: Path) -> None:
    page = visit.page
    page.goto((report / "00_good.html").as_uri())
    align = "cells => cells.map(cell => getComputedStyle(cell).textAlign)"
    assert page.locator("table.dataframe tbody td").evaluate_all(align) == ["left", "right"]


def test_a_wide_table_is_moved_sideways_and_keys_reach_it(visit: Any, tmp_path: Path) -> None:
    """Headings of several words take several lines; what is still too wide has a place of its own to be moved in."""
    names = [f"heading of column {column}" for column in "abcdefgh"]
    fits, wide = ([[number] * 8 for _ in range(2)] for number in (1, 123_456_789_012))
    shown = [output(text__html=pd.DataFrame(rows, columns=names).to_html()) for rows in (fits, wide)]
    cells = [nbformat.v4.new_markdown_cell("# Wide"), nbformat.v4.new_code_cell("x", outputs=shown)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "00_wide.ipynb")
    pages.write_pages(Report("quick", "made", {"00_wide": entry("00_wide")}), tmp_path)
    page = visit.page
    page.goto((tmp_path / "00_wide.html").as_uri())
    tables = "places => places.map(place => [place.scrollWidth > place.clientWidth, place.getAttribute('tabindex')])"
    places = page.locator(".jp-OutputArea-child .sideways")
    assert places.evaluate_all(tables) == [[False, None], [True, "0"]]
    page.get_by_role("region", name="a table that is moved sideways").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.activeElement.scrollLeft > 0")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("document.querySelectorAll('.sideways[tabindex]').length === 2")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert (visit.errors, visit.outside) == ([], [])


def test_pages_load_only_files_of_their_folder(report: Path) -> None:
    for path in report.glob("*.html"):
        page = path.read_text(encoding="utf-8")
        asked = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="([^"]+)"', page)
        assert all(not reference.startswith(("http", "//")) for reference in asked)
        missing = [ref for ref in asked if not ref.startswith("data:") and not (report / ref).is_file()]
        assert missing == []
