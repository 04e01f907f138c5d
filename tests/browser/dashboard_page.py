"""A report's page of dashboards, as an executed notebook leaves it."""

from pathlib import Path
from typing import Any

import nbformat
import pytest

from workbench.explore import widgets
from workbench.explore.stored_states import MIME
from workbench.explore.widgets import Dashboard
from workbench.reporting import pages
from workbench.reporting.results import Entry, Report


def dashboard_page(
    root: Path, name: str, *dashboards: Dashboard, text: str = "# Made", seed: int = 0
) -> Path:
    """Write the page of a notebook whose only cell shows these dashboards, below the Markdown `text`; returns its path."""
    folder = root / "quick-made"
    folder.mkdir()
    shown: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(widgets.HEADLESS, "1")
        patch.setattr(widgets, "display", lambda bundle, raw: shown.append(bundle))
        for dashboard in dashboards:
            dashboard._ipython_display_()
    assert all(MIME in bundle for bundle in shown)
    outputs = [nbformat.v4.new_output("display_data", data=bundle) for bundle in shown]
    cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("", outputs=outputs)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    parameters = {"dataset": "made", "profile": "quick", "seed": seed, "view": ""}
    started = "2026-01-31T12:00:00+00:00"
    entry = Entry(name, "Made", "ok", 1.0, started, "", parameters, "", {}, (), {"commit": ""})
    pages.write_pages(Report("quick", "made", {name: entry}), folder)
    return folder / f"{name}.html"
