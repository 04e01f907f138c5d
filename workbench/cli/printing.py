"""Output shared by several commands: a table on the terminal, a CSV file with machine and commit."""

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from workbench import files, paths
from workbench.reporting.provenance import provenance
from workbench.visible import visible

ORIGIN = ("machine", "commit")
"""The columns of a stored table with the origin of its numbers."""


def origin() -> dict[str, str]:
    """Machine and commit as text."""
    found = provenance(paths.root())
    return dict(zip(ORIGIN, (found.machine.words(), found.commit_words()), strict=True))


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print each warning of the block as a line `note: …` to stderr, once the block has succeeded."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        typer.echo(f"note: {warning.message}", err=True)


@contextmanager
def new_table(path: Path | None, columns: Collection[str] = ORIGIN) -> Iterator[None]:
    """Hold the file of a table while it is computed in the block; None: there is no such file.

    Raises before the work: ValueError if `path` is a folder or holds anything else than a table with these `columns`, CSV or
    Parquet, OSError if it cannot be written, BlockingIOError if another process computes it.
    """
    if path is None:
        yield
        return
    files.check_file(path)
    if path.exists() and not _is_table(path, columns):
        raise ValueError(
            f"{path} is not a table of this command (with columns {', '.join(columns)}) and is not replaced;"
            " choose another path, or move it away"
        )
    with files.lock(path):
        yield


def _is_table(path: Path, columns: Collection[str]) -> bool:
    """Whether a file is empty, or a CSV or Parquet table that has these columns."""
    if not path.stat().st_size:
        return True
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        names = pyarrow.parquet.read_schema(path).names if is_parquet else pd.read_csv(path, nrows=0).columns
    except (ValueError, OSError, pa.ArrowException):
        return False
    return set(columns) <= set(names)


def print_table(frame: pd.DataFrame) -> None:
    """Print a table, fractions with four decimals, without truncation: a row may be longer than the terminal."""
    table = Table(box=None)
    for column in frame.columns:
        table.add_column(
            visible(str(column)), justify="left" if frame[column].dtype == "str" else "right", no_wrap=True
        )
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(f"{v:.4f}" if isinstance(v, float) else visible(str(v))) for v in row))
    print_whole(table)


def print_whole(table: Table) -> None:
    """Print a table without truncation or wrapping: a row may be longer than the terminal."""
    console = Console()
    console.width = max(
        console.width, console.measure(table, options=console.options.update(width=10_000)).maximum
    )
    console.print(table)


def write_csv(frame: pd.DataFrame, path: Path, digits: int | None = None) -> None:
    """Write a table atomically; its folder is created if it is missing.

    `digits`: significant digits of fractions, all of them if None.
    """
    with files.atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=None if digits is None else f"%.{digits}g")
