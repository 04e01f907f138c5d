"""Reports as one folder of static pages, in the form that Pages-like hosting serves."""

import json
import shutil
from pathlib import Path
from typing import Any

from workbench.files import Kind, new_folder, write_text
from workbench.reporting.pages import write_index
from workbench.reporting.results import Report

MARK = "published.json"
SETTINGS = {"format": 1}


def _settings(folder: Path) -> dict[str, Any] | None:
    path = folder / MARK
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


SITE = Kind(
    "published report", (MARK, ".nojekyll", "index.html", "quick-*", "standard-*", "full-*"), _settings
)


def publish(reports: Path, folder: Path) -> Path:
    """Copy all reports in `reports` and their index to `folder`, and return the path of the index.

    The pages need no server code, no network and no other file. A folder that this function made is replaced.
    Raises ValueError if there is no report, or `folder` holds anything else.
    """
    found = [
        path
        for path in sorted(reports.iterdir())
        if path.is_dir() and not path.name.startswith(".") and Report.load(path) is not None
    ]
    if not found:
        raise ValueError(f"there is no report in {reports}; run `workbench report` first")
    with new_folder(folder, SITE, SETTINGS, sources=found) as made:
        for report in found:
            shutil.copytree(report, made / report.name, ignore=shutil.ignore_patterns(".*"))
        write_index(made)
        (made / ".nojekyll").touch()  # GitHub Pages otherwise leaves out some files
        write_text(json.dumps(SETTINGS), made / MARK)
    return folder / "index.html"
