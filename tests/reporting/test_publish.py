"""Reports copied as static pages."""

from pathlib import Path

import pytest

from workbench.reporting.publish import MARK, publish
from workbench.reporting.results import Report


def reports(folder: Path) -> Path:
    run = folder / "quick-embedded-small"
    run.mkdir(parents=True)
    Report("quick", "embedded-small").save(run)
    (run / "00_tour.html").write_text("<p>page</p>")
    (run / "assets").mkdir()
    (run / "assets" / "report.css").write_text("p {}")
    (run / ".lock").write_text("")
    return folder


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_pages_assets_and_an_index_are_copied_and_nothing_hidden(tmp_path):
    index = publish(reports(tmp_path / "reports"), tmp_path / "site")
    run = "quick-embedded-small"
    expected = {
        "index.html",
        ".nojekyll",
        MARK,
        f"{run}/00_tour.html",
        f"{run}/assets/report.css",
        f"{run}/results.json",
    }
    assert names(tmp_path / "site") == expected
    assert run in index.read_text()


def test_a_published_folder_is_replaced_and_another_is_not(tmp_path):
    found = reports(tmp_path / "reports")
    publish(found, tmp_path / "site")
    (found / "quick-embedded-small" / "00_tour.html").unlink()
    publish(found, tmp_path / "site")
    assert "quick-embedded-small/00_tour.html" not in names(tmp_path / "site")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis holds chapter\.tex"):
        publish(found, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "mine"


def test_without_a_report_there_is_nothing_to_publish(tmp_path):
    (tmp_path / "reports").mkdir()
    with pytest.raises(ValueError, match=r"there is no report in .*; run `workbench report` first"):
        publish(tmp_path / "reports", tmp_path / "site")
    assert not (tmp_path / "site").exists()
