"""The gallery: pictures of the best figures and of dashboards, taken by a headless Chromium. May import bench and figures.

Two figures are drawn from the stored tables of measurements, everything else is taken from the pages of a finished report.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench import chromium
from workbench.bench.growth import exponents
from workbench.explore.rendering import HEIGHT, WIDTH
from workbench.explore.search_figures import frontier, growth
from workbench.files import atomic_write, write_text

WINDOW = {"width": 1280, "height": 900}
"""The browser window, wide enough for the pages' widest column."""


@dataclass(frozen=True)
class Picture:
    """A picture of the gallery: the name of its file, what it shows, and its place on the pages of the report.

    `title` is part of the title of the figure, or of the dashboard, in the page of `notebook`.
    """

    name: str
    caption: str
    notebook: str = ""
    title: str = ""
    dashboard: bool = False


STORED = (
    Picture(
        "recall-latency",
        "Recall and latency of every searcher over a trained Mixture-of-Logits: 3,883 films and noisy copies of them, 100,000"
        " items in all, 32 queries per call, one core (`workbench bench search --threads 1`).",
    ),
    Picture(
        "growth",
        "Latency by corpus size, with fitted exponents (`workbench bench search --preset growth --threads 1`).",
    ),
)
PAGES = (
    Picture(
        "explorer",
        "The explorer of notebook 07: searchers and their parameters against recall and latency; rings mark live measurements.",
        "07_recall_latency", "Recall and latency", dashboard=True,
    ),
    Picture("universal-approximation", "One mixture, three starts.", "04_universal_approximation", "three starts"),
    Picture("training", "Training curves of the compared models.", "02_train", ""),
    Picture("comparison", "Metrics with their intervals.", "03_compare_similarities", ""),
    Picture("bound", "Why an item outside the list cannot enter it: bounds and scores of one query.", "06_exact_topk", ""),
    Picture("codes", "SparCode: quality by the sparsity of its index.", "08_sparcode", "sparser index"),
    Picture("paths", "Deep Retrieval: what a beam finds by the share of the corpus scored.", "09_deep_retrieval", "wider beam"),
)  # fmt: skip


def stored_figures(tables: Path) -> dict[str, go.Figure]:
    """The figures of `STORED`, by name, from the CSV files in `tables`."""
    search = pd.read_csv(tables / "search-standard.csv")
    workload = "ml-1m-cpu-hstu-mol, 100,000 items"
    rows = search[(search["workload"] == workload) & (search["batch_size"] == 32) & (search["k"] == 100)]
    by_size = pd.read_csv(tables / "search-growth.csv")
    return {
        "recall-latency": frontier(rows, title="Recall and latency over 100,000 items"),
        "growth": growth(by_size, exponents(by_size)),
    }


def draw(tables: Path, report: Path | None, folder: Path) -> list[Path]:
    """Write a PNG for each picture, and `README.md` with their captions, into `folder`; return the paths.

    `report`: the folder of a finished report; without one, its pictures are left unchanged.
    Raises ImportError that names the install command if playwright is missing, OSError if there is no Chromium, and
    ValueError if a page lacks the figure or dashboard of a picture.
    """
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    with chromium.page(**WINDOW) as page:
        for name, figure in stored_figures(tables).items():
            figure.update_layout(width=WIDTH, height=figure.layout.height or HEIGHT)
            page.set_content(figure.to_html(include_plotlyjs=True, full_html=True), wait_until="load")
            page.wait_for_selector(".js-plotly-plot .main-svg")
            written.append(_shoot(page.locator(".js-plotly-plot").first, folder / f"{name}.png"))
        for picture in PAGES if report is not None else ():
            assert report is not None
            page.goto((report / f"{picture.notebook}.html").resolve().as_uri())
            page.wait_for_selector(".plot .main-svg")
            written.append(_shoot(_place(page, picture), folder / f"{picture.name}.png"))
    shown = [picture for picture in (*STORED, *PAGES) if (folder / f"{picture.name}.png").is_file()]
    lines = [f"![{picture.caption}]({picture.name}.png)\n\n{picture.caption}\n" for picture in shown]
    write_text("# Gallery\n\nDrawn by `workbench gallery`.\n\n" + "\n".join(lines), folder / "README.md")
    return written


def _place(page: Any, picture: Picture) -> Any:
    """The element of the page that a picture shows; ValueError if there is none with its title."""
    if picture.dashboard:
        places = page.locator(
            ".dashboard", has=page.locator(".dashboard-title", has_text=picture.title)
        ).all()
    else:
        title = "plot => plot.layout?.title?.text ?? ''"
        places = [
            p for p in page.locator(".plot .js-plotly-plot").all() if picture.title in p.evaluate(title)
        ]
    if not places:
        kind = "dashboard" if picture.dashboard else "figure"
        raise ValueError(f"the page of {picture.notebook} has no {kind} with {picture.title!r} in its title")
    if picture.dashboard:
        places[0].locator(".main-svg").first.wait_for()
    return places[0]


def _shoot(place: Any, path: Path) -> Path:
    """A picture of an element, without plotly's toolbar."""
    place.scroll_into_view_if_needed()
    place.evaluate("place => place.querySelector('.modebar-container')?.remove()")
    with atomic_write(path) as temporary:
        temporary.write_bytes(place.screenshot(type="png"))
    return path
