"""The page of results: every table of `reports/tables` as Markdown, with the command, machine and commit it comes from."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pandas as pd

from workbench.models.measurements import MEASURED_BY
from workbench.studies.result_formats import ORIGIN
from workbench.studies.sections import SECTIONS
from workbench.studies.table_formats import escaped, latex, markdown

MARKDOWN_HEAD = "Written by `workbench study results` from `reports/tables`. Each table has the command that measures it again."
LATEX_HEAD = (
    "% Written by `workbench study results --format latex` from `reports/tables`. Needs the package booktabs."
)


def results_page(tables: Path, format: Literal["markdown", "latex"] = "markdown") -> str:
    """All stored tables, from the CSV files in `tables`, as one page of Markdown or as LaTeX floats to copy from.

    Sections whose file is missing are left out.
    """
    parts = [LATEX_HEAD] if format == "latex" else ["# Results", MARKDOWN_HEAD]
    for heading, sections in SECTIONS.items():
        present = [section for section in sections if (tables / f"{section.file}.csv").is_file()]
        if present:
            parts.append(f"% {heading}" if format == "latex" else f"## {heading}")
        for section in present:
            table = pd.read_csv(tables / f"{section.file}.csv")
            as_shown = section.shown(table)
            if format == "latex":
                parts.append(
                    latex(
                        as_shown,
                        f"{escaped(section.title)} ({escaped(section.command)}){escaped(_origin(table))}",
                    )
                )
                continue
            parts += [f"### {section.title}", *([section.note] if section.note else [])]
            parts += [markdown(as_shown), *([section.findings(table)] if section.findings else [])]
            parts += [f"`{section.command}`{_origin(table)}"]
    return "\n\n".join(parts) + "\n"


def _origin(table: pd.DataFrame) -> str:
    if MEASURED_BY in table:
        return f" · measured by {_several(table[MEASURED_BY].dropna().unique())}"
    if not set(ORIGIN) <= set(table.columns):
        return ""
    machines, commits = (_several(table[column].dropna().unique()) for column in ORIGIN)
    return f" · {machines} · commit {commits}"


def _several(values: Iterable[object]) -> str:
    return "; ".join(map(str, values))
