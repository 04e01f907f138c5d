"""The speed of pages: what is summarised, and that every control of a page is moved."""

from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

from workbench.bench.pages import measure, summary
from workbench.explore import widgets
from workbench.explore.widgets import MetricExplorer
from workbench.reporting import pages
from workbench.reporting.results import Entry, Report


def test_p50_and_p95_are_of_each_control_and_of_all() -> None:
    raw = pd.DataFrame(
        [("03", "Compare", "k", float(ms)) for ms in range(1, 101)] + [("03", "Compare", "metric", 200.0)],
        columns=["page", "dashboard", "control", "ms"],
    )
    table = summary(raw)
    assert table["control"].tolist() == ["k", "metric", ""]
    assert table["moves"].tolist() == [100, 1, 101]
    assert table["p50 ms"].tolist() == [50.5, 200.0, 51.0]
    assert table["p95 ms"].tolist() == [95.0, 200.0, 96.0]


@pytest.mark.browser
def test_every_control_of_a_page_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(m, f"HR@{k}", k / 200) for m in ("SASRec + dot", "HSTU + MoL") for k in (1, 10, 100)]
    shown: list[Any] = []
    monkeypatch.setenv(widgets.HEADLESS, "1")
    monkeypatch.setattr(widgets, "display", lambda bundle, raw: shown.append(bundle))
    MetricExplorer(pd.DataFrame(rows, columns=["method", "metric", "value"]))._ipython_display_()
    cells = [
        nbformat.v4.new_markdown_cell("# One"),
        nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("display_data", data=shown[0])]),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "03_one.ipynb")
    entry = Entry("03_one", "One", "ok", 1.0, "2026-01-31T12:00:00+00:00", "", {}, "", {}, (), {"commit": ""})
    assert pages.write_pages(Report("quick", "made", {"03_one": entry}), tmp_path) == {
        "assets",
        "03_one.html",
    }
    raw = pd.concat(measure(tmp_path, moves=3))
    assert raw.groupby("control", sort=False).size().to_dict() == {"view": 3, "k": 3, "methods": 3}
    assert (raw["ms"] > 0).all()
    assert set(raw["page"]) == {"03_one"}


def test_a_report_without_controls_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("playwright")
    with pytest.raises((ValueError, FileNotFoundError), match=r"no page with a control|Chromium"):
        list(measure(tmp_path, 1))
