"""What several commands print and write: a table on the terminal, a CSV file with where its numbers come from."""

from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from workbench import files, paths
from workbench.reporting.provenance import provenance
from workbench.visible import visible


def origin() -> dict[str, str]:
    """Machine and commit, in words."""
    found = provenance(paths.root())
    return {"machine": found.machine.words(), "commit": found.commit_words()}


def print_table(frame: pd.DataFrame) -> None:
    """Print a table, fractions with four digits after the point, nothing cut: a row longer than the terminal runs on."""
    table = Table(box=None)
    for column in frame.columns:
        table.add_column(
            visible(str(column)), justify="left" if frame[column].dtype == "str" else "right", no_wrap=True
        )
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(f"{v:.4f}" if isinstance(v, float) else visible(str(v))) for v in row))
    print_whole(table)


def print_whole(table: Table) -> None:
    """Print a table with nothing cut or wrapped: a row longer than the terminal runs on."""
    console = Console()
    console.width = max(
        console.width, console.measure(table, options=console.options.update(width=10_000)).maximum
    )
    console.print(table)


def write_csv(frame: pd.DataFrame, path: Path, digits: int | None = None) -> None:
    """Write a table, whole or not at all; its folder is made if it is missing.

    `digits`: significant digits of fractions, all of them where None.
    """
    with files.atomic_write(path) as temporary:
        frame.to_csv(temporary, index=False, float_format=None if digits is None else f"%.{digits}g")
