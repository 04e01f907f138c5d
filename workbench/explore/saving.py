"""Views written to files: a table as CSV or Parquet, a figure as an HTML page, vectors or PNG. May import files."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from workbench import files
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
        still = go.Figure(figure).update_layout(width=None)  # a copy: the shown figure stays as it is
        return _whole(path, lambda part: still.write_html(part, include_plotlyjs=True, include_mathjax=False))
    drawn = rendered(figure, FORMATS[path.suffix])
    return _whole(path, lambda part: part.write_bytes(drawn))


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
    """Raise what `check_view` does, and ValueError if figures have no format of that ending."""
    if path.suffix not in (".html", *FORMATS):
        raise ValueError(f"a figure is saved as .html, .pdf, .svg or .png, not as {path.name}")
    check_view(path)


def _whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Write under a temporary name, then rename: no partial file stays, and nobody's file is replaced."""
    check_view(path)
    with files.atomic_write(path) as temporary:
        write(temporary)
    return path
