"""Views in files: read back as they were, whole or not there, and an error that names what to do."""

import doctest
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import plotly.graph_objects as go
import pytest

from workbench import chromium
from workbench.explore import saving
from workbench.explore.saving import check_figure, save_figure, save_table, unused

TABLE = pd.DataFrame({"label": ["a <b>", "c, d"], "p50_ms": [1.5, 2.0], "calls": [1, 2]})
FIGURE = go.Figure(go.Scatter(x=[1], y=[2], text=["a"]), layout={"width": 930})


def test_tables_are_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    pd.testing.assert_frame_equal(pd.read_csv(save_table(TABLE, folder / "v.csv")), TABLE)
    pd.testing.assert_frame_equal(pd.read_parquet(save_table(TABLE, folder / "v.parquet")), TABLE)
    assert sorted(p.name for p in folder.iterdir()) == ["v.csv", "v.parquet"]


def test_a_page_holds_all_that_draws_it(tmp_path: Path) -> None:
    page = save_figure(FIGURE, tmp_path / "v.html").read_text()
    assert "plotly.js v" in page and "<script src=" not in page and '"width":930' not in page
    assert FIGURE.layout.width == 930


@pytest.mark.browser
def test_a_page_is_legible_on_a_phone(tmp_path: Path) -> None:
    lines = [go.Scatter(x=[0, 1], y=[n, 1], name=f"searcher number {n} of several") for n in range(5)]
    title = "a model with a long name, 32 queries per call, k = 10 <b>"
    figure = go.Figure(lines, layout={"title": {"text": title}, "width": 930, "legend_title_text": "marks"})
    path = save_figure(figure, tmp_path / "v.html")
    assert '<meta name="viewport"' in path.read_text()
    found = {}
    for width in (1280, 390):
        with chromium.page(width, 900) as shown:
            shown.goto(path.as_uri())
            shown.wait_for_selector(".js-plotly-plot .legend .traces")
            parts = {"plot": ".nsewdrag", "legend": ".legend", "title": ".gtitle"}
            found[width] = {
                name: shown.locator(f".js-plotly-plot {s}").first.bounding_box() for name, s in parts.items()
            }
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
    wide, phone = found[1280], found[390]
    assert wide["legend"]["x"] > wide["plot"]["x"] + wide["plot"]["width"]
    assert (
        phone["legend"]["y"] > phone["plot"]["y"] + phone["plot"]["height"] and phone["plot"]["width"] > 270
    )
    assert phone["title"]["x"] >= 0 and phone["title"]["x"] + phone["title"]["width"] <= 390


@pytest.mark.browser
def test_figures_are_saved_as_vectors_for_papers(tmp_path: Path) -> None:
    svg = save_figure(FIGURE, tmp_path / "v.svg").read_text()
    root = ElementTree.fromstring(svg)
    assert root.attrib["width"] == "930" and any(e.tag.endswith("path") for e in root.iter())
    pdf = save_figure(FIGURE, tmp_path / "v.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Subtype /Image" not in pdf and b"/Font" in pdf
    assert re.search(rb"/MediaBox \[0 0 697\.\d+ 390", pdf)  # 930 × 520 pixels in points, on one page
    assert pdf.count(b"/Type /Page\n") == 1
    assert save_figure(FIGURE, tmp_path / "v.png").read_bytes().startswith(b"\x89PNG")
    assert FIGURE.layout.width == 930 and FIGURE.layout.height is None


def test_what_a_picture_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_CHROMIUM", "no-such-browser")
    with pytest.raises(FileNotFoundError, match=r"needs Chromium or Chrome.*no no-such-browser: install one"):
        save_figure(FIGURE, tmp_path / "v.pdf")
    with pytest.raises(FileNotFoundError, match="needs Chromium"):
        check_figure(tmp_path / "v.png")  # before anything is measured
    check_figure(tmp_path / "v.html")
    monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    with pytest.raises(ImportError, match="pip install playwright"):
        save_figure(FIGURE, tmp_path / "v.pdf")
    assert not list(tmp_path.iterdir())


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: object, path: Path, index: bool) -> None:
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fails)
    with pytest.raises(OSError, match="disk full"):
        save_table(TABLE, tmp_path / "v.csv")
    assert not list(tmp_path.iterdir())


def test_nobodys_file_is_replaced_and_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("mine")
    (tmp_path / "v.html").write_text("mine")
    with pytest.raises(ValueError, match=r"v\.csv exists: name another file, or delete it"):
        save_table(TABLE, tmp_path / "v.csv")
    with pytest.raises(ValueError, match=r"v\.html exists"):
        save_figure(FIGURE, tmp_path / "v.html")
    with pytest.raises(OSError, match=r"w\.csv cannot be written \(Not a directory\); choose another place"):
        save_table(TABLE, tmp_path / "v.csv" / "w.csv")
    assert {p.read_text() for p in tmp_path.iterdir()} == {"mine"}


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.csv or \.parquet, not as v\.xlsx"):
        save_table(TABLE, tmp_path / "v.xlsx")
    with pytest.raises(ValueError, match=r"\.svg or \.png, not as v\.gif"):
        save_figure(FIGURE, tmp_path / "v.gif")


@pytest.mark.parametrize(
    ("name", "file"), [("../up", "up.csv"), ("a/b <c>", "a-b-c.csv"), ("", "view.csv"), ("k=5", "k=5.csv")]
)
def test_names_stay_in_their_folder_and_take_no_others_place(tmp_path: Path, name: str, file: str) -> None:
    assert unused(tmp_path, name, ".csv") == tmp_path / file
    (tmp_path / file).touch()
    assert unused(tmp_path, name, ".csv").name == file.replace(".csv", "-2.csv")


def test_examples_hold() -> None:
    assert doctest.testmod(saving).failed == 0
