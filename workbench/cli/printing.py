"""Output shared by several commands: a table on the terminal, a CSV file with machine and commit."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from workbench import files, paths
from workbench.reporting.provenance import provenance
from workbench.visible import visible


def origin() -> dict[str, str]:
    """Machine and commit as text."""
    found = provenance(paths.root())
    return {"machine": found.machine.words(), "commit": found.commit_words()}


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
