"""Views written to files: a table as CSV or Parquet, a figure as an HTML page or PNG. May import nothing of ours."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from workbench import files

NO_PNG = "a PNG from Python needs kaleido (pip install kaleido); without it, the camera in the figure's own toolbar saves one"


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


def save_figure(figure: go.Figure, path: Path) -> Path:
    """Write a figure as HTML, with all that draws it inside, or as PNG, by the ending of `path`, which is returned.

    Raises ValueError for another ending or if `path` exists, OSError if it cannot be written, and ImportError that says what
    to do if PNG cannot be written here.
    """
    still = go.Figure(figure)  # a copy: the shown figure stays as it is
    match path.suffix:
        case ".html":
            still.update_layout(width=None)
            return _whole(
                path, lambda part: still.write_html(part, include_plotlyjs=True, include_mathjax=False)
            )
        case ".png":
            if find_spec("kaleido") is None:
                raise ImportError(NO_PNG)
            return _whole(path, lambda part: still.write_image(part, format="png", scale=2))
    raise ValueError(f"a figure is saved as .html or .png, not as {path.name}")


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


def _whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Write under a temporary name, then rename: no partial file stays, and nobody's file is replaced."""
    check_view(path)
    with files.atomic_write(path) as temporary:
        write(temporary)
    return path
