"""Views written to files: a table as CSV or Parquet, a figure as an HTML page, vectors or PNG. May import files, chromium."""

import html
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from workbench import chromium, files
from workbench.explore.rendering import Format, rendered

FORMATS: dict[str, Format] = {".pdf": "pdf", ".svg": "svg", ".png": "png"}


def save_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV or Parquet, by the ending of `path`, which is returned.

    Raises ValueError for another ending or if `path` exists, OSError if it cannot be written.
    """
    match path.suffix:
        case ".csv":
            return _whole(path, lambda part: table.to_csv(part, index=False))
        case ".parquet":
            return _whole(path, lambda part: table.to_parquet(part, index=False))
    raise ValueError(f"a table is saved as .csv or .parquet, not as {path.name}")


def save_figure(figure: go.Figure, path: Path | str) -> Path:
    """Write a figure by the ending of `path`: a self-contained HTML page, vectors as PDF or SVG, or PNG. Returns the path.

    Raises ValueError for another ending; for all but HTML ImportError if playwright is missing, FileNotFoundError if there is
    no Chromium.
    """
    path = Path(path)
    check_figure(path)
    if path.suffix == ".html":
        text = page(figure)
        return _whole(path, lambda part: part.write_text(text, encoding="utf-8"))
    drawn = rendered(figure, FORMATS[path.suffix])
    return _whole(path, lambda part: part.write_bytes(drawn))


def page(figure: go.Figure) -> str:
    """The HTML of a page that holds a figure and needs nothing else: as wide as its window, and legible on a phone."""
    still = go.Figure(figure).update_layout(width=None)  # a copy: the shown figure stays as it is
    script = Path(__file__).with_name("standalone.js").read_text(encoding="utf-8")
    text = str(
        still.to_html(
            include_plotlyjs=True, include_mathjax=False, config={"displaylogo": False}, post_script=script
        )
    )
    title = html.escape(re.sub(r"<[^>]*>", "", still.layout.title.text or "figure"))
    head = f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
    return text.replace("<html>", '<html lang="en">', 1).replace("</head>", f"{head}</head>", 1)


def unused(folder: Path, name: str, suffix: str) -> Path:
    """An unused path in `folder`: the name in portable characters, with a number if it is taken.

    >>> unused(Path("nowhere"), "ml-1m, 20,000 items", ".csv").name
    'ml-1m-20-000-items.csv'
    """
    stem = re.sub(r"[^A-Za-z0-9._=-]+", "-", name).strip("-.") or "view"
    path, number = folder / f"{stem}{suffix}", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}{suffix}", number + 1
    return path


def check_view(path: Path) -> None:
    """Raise ValueError if `path` exists, OSError if it cannot be written: call it before what is saved is computed."""
    files.check_file(path)
    if path.exists():
        raise ValueError(f"{path} exists: name another file, or delete it")


def check_figure(path: Path) -> None:
    """Raise what `save_figure` would, before the figure is computed."""
    if path.suffix not in (".html", *FORMATS):
        raise ValueError(f"a figure is saved as .html, .pdf, .svg or .png, not as {path.name}")
    if path.suffix != ".html":
        chromium.check()
    check_view(path)


def _whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Write under a temporary name, then rename: no partial file stays, and nobody's file is replaced."""
    check_view(path)
    with files.atomic_write(path) as temporary:
        write(temporary)
    return path
