"""Figures of approximation hold what the tables say, and the dashboard follows its controls to their ends."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from workbench.explore import approximation
from workbench.explore.approximation_widget import DEFAULT, GATES, OWN, STARTS, Approximation, Widths
from workbench.explore.live_widget import Pace
from workbench.theory.fitting import fitted
from workbench.theory.floor import floor
from workbench.theory.targets import TARGETS, parse_matrix, similar_not_identical

HOSTILE = "<script>alert(1)</script>.csv"
MATRIX = pd.DataFrame(np.eye(4))
FITS = pd.DataFrame(
    {
        "fit": ["a", "<b>"], "error": [0.5, 0.4], "low": [0.4, 0.4], "high": [0.6, 0.4], "rank": [4, 9],
        "width": [4, 8], "components": [1, 16], "floor": [0.7, 0.6], "equal_floor": [0.3, 0.2],
        "equal_width": [17, 25],
    }
)  # fmt: skip
FLOORS = pd.DataFrame({"target": ["a", "a", "b"], "width": [0, 1, 0], "floor": [1.0, 0.5, 1.0]})
SPECTRA = pd.DataFrame({"matrix": ["A"] * 3, "place": [1, 2, 3], "value": [1.0, 0.1, 1e-16]})


def small(**changes: Any) -> Approximation:
    return Approximation(replace(DEFAULT, gate_hidden=4, steps=50, **changes), n=16)


def heatmaps(figure: go.Figure) -> list[np.ndarray]:
    return [np.array(trace.z) for trace in figure.data if trace.type == "heatmap"]


def lines(dashboard: Approximation) -> dict[str, list[float]]:
    return {t.name: list(t.y) for t in dashboard.figure.data if t.type == "scatter" and t.name}


def test_a_gallery_has_a_picture_of_each() -> None:
    figure = approximation.gallery({"one": MATRIX, HOSTILE: -MATRIX})
    assert [z.sum() for z in heatmaps(figure)] == [4, -4]
    assert [figure.layout[axis].title.text for axis in ("xaxis2", "yaxis2")] == ["items", "queries"]
    assert "&lt;script&gt;" in figure.layout.annotations[1].text


def test_lines_and_dots_are_where_the_table_says() -> None:
    floors = approximation.floor_lines(FLOORS)
    assert [list(trace.y) for trace in floors.data] == [[1.0, 0.5], [1.0]]
    assert floors.layout.xaxis.tickvals[-1] == 1
    widths = {t.name: t for t in approximation.width_lines(FITS).data}
    assert list(widths["dot, trained"].y) == [0.5]
    assert list(widths["MoL, trained"].y) == [0.4]
    assert list(widths["floor, equal parameters"].y) == [0.2]
    dots = {t.name: t for t in approximation.fit_dots(FITS, HOSTILE).data}
    assert list(dots["MoL, trained"].x) == [0.5, 0.4]
    assert list(dots["MoL, trained"].y) == ["a<br>rank 4", "&lt;b&gt;<br>rank 9"]
    assert list(dots["MoL, trained"].error_x.array) == pytest.approx([0.1, 0.0])


def test_a_spectrum_ends_with_its_rank() -> None:
    (trace,) = approximation.spectra(SPECTRA).data
    assert list(trace.y) == [1.0, 0.1]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: approximation.gallery({}),
        lambda: approximation.floor_lines(FLOORS.drop(columns="floor")),
        lambda: approximation.width_lines(FITS.iloc[:0]),
        lambda: approximation.fit_dots(FITS.drop(columns="rank"), ""),
        lambda: approximation.spectra(SPECTRA.iloc[:0]),
        lambda: approximation.side_by_side(FITS, FITS, {"A": MATRIX}, SPECTRA, 3),
    ],
)
def test_tables_that_say_nothing_are_refused(draw: Callable[[], go.Figure]) -> None:
    with pytest.raises(ValueError, match=r"no target|lacks|empty|two fits"):
        draw()


def test_the_first_view_shows_target_best_dot_product_and_floors() -> None:
    dashboard = small()
    target = similar_not_identical(16, 0)
    wanted, best, dot_error, *empty = heatmaps(dashboard.figure)
    assert np.array_equal(wanted, target.scores.numpy())
    norm = np.linalg.norm(dot_error) / np.linalg.norm(wanted)
    assert norm == pytest.approx(floor(target.scores, 4), abs=1e-5)
    assert np.allclose(np.abs(best - wanted), dot_error, atol=1e-6)
    assert [z.size for z in empty] == [0, 0]
    assert "floor, width 4" in lines(dashboard)


def test_training_shows_both_fits_and_a_verdict() -> None:
    dashboard = small()
    kinds = [trace.type for trace in dashboard.figure.data]
    dashboard.start_button.click()
    assert [trace.type for trace in dashboard.figure.data] == kinds
    curves = lines(dashboard)
    assert curves["MoL"][-1] < curves["floor, width 4"][0] < curves["MoL"][0]
    assert curves["dot"][-1] >= curves["floor, width 4"][0]
    wanted, _, dot_error, mol, mol_error = heatmaps(dashboard.figure)
    assert np.linalg.norm(mol - wanted) / np.linalg.norm(wanted) == pytest.approx(curves["MoL"][-1], abs=1e-4)
    assert (dot_error.shape, mol_error.shape) == ((16, 16), (16, 16))
    assert "below" in dashboard.status.value
    settings, figure = dashboard.static()
    assert len(figure.data) == len(kinds)
    assert {"dot", "MoL", "A"} <= {
        t.name for t in figure.data if t.type == "scatter" and t.showlegend is not False
    }
    titles = [note.text for note in figure.layout.annotations]
    assert [title.partition("0.")[0] for title in titles[2:4]] == ["dot: error ", "MoL: error "]
    assert dict(settings.to_numpy())["d"] == "4"


def test_a_control_brings_the_first_view_and_back_the_trained_one() -> None:
    dashboard = small()
    dashboard.run()
    dashboard.controls["d"].value = 8
    assert "floor, width 8" in lines(dashboard)
    assert lines(dashboard)["MoL"] == []
    dashboard.controls["d"].value = 4
    assert len(lines(dashboard)["MoL"]) == 6


def test_stopped_work_leaves_what_it_came_to(monkeypatch) -> None:
    monkeypatch.setattr(Pace, "due", lambda self: True)
    dashboard = small()
    pieces = dashboard.work(dashboard.values)
    progress = next(pieces)
    assert 0 < progress.share < 1
    assert progress.figure is not None
    assert progress.text.startswith("step 1 of 50")


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_can_be_chosen(target: str) -> None:
    dashboard = small()
    dashboard.controls["target"].value = target
    assert "Error" not in dashboard.status.value
    assert np.array_equal(heatmaps(dashboard.figure)[0], TARGETS[target](16, 0).scores.numpy())


@pytest.mark.parametrize(
    "extreme",
    [
        {"n": 8, "d": 32},
        {"d": 1, "Pq": 1, "Px": 1},
        {"Pq": 8, "Px": 8},
        *({"gate": gate} for gate in GATES.values()),
        *({"start": start} for start in STARTS.values()),
        {"seed": 9999},
    ],
)
def test_every_control_goes_to_its_ends(extreme: dict[str, Any]) -> None:
    dashboard = small()
    for name, value in extreme.items():
        dashboard.controls[name].value = value
    dashboard.run()
    assert "Error" not in dashboard.status.value
    assert dashboard.progress.value == 1.0


def test_the_widest_sizes_are_drawn() -> None:
    dashboard = small()
    dashboard.controls["n"].value = 128
    dashboard.controls["d"].value = 32
    assert heatmaps(dashboard.figure)[0].shape == (128, 128)


def test_settings_that_cannot_be_trained_are_reported() -> None:
    dashboard = small(start="latents")
    dashboard.controls["d"].value = 5
    assert "latents of similar, not identical have width 4" in dashboard.status.value
    dashboard.run()
    assert "have width 4" in dashboard.status.value
    assert not dashboard.running
    dashboard.controls["target"].value = "identity"
    assert "was not made from latents" in dashboard.status.value


def test_a_matrix_of_ones_own_is_read_refused_and_named_as_text() -> None:
    dashboard = small()
    dashboard.controls["target"].value = OWN
    assert "choose a CSV file" in dashboard.status.value
    upload = {"name": HOSTILE, "type": "text/csv", "size": 1, "last_modified": datetime.now(UTC), "error": ""}
    dashboard.controls["file"].value = ({**upload, "content": memoryview(b"1,x\n2,3\n")},)
    assert (
        "&lt;script&gt;alert(1)&lt;/script&gt;.csv, line 1, column 2: &#x27;x&#x27;" in dashboard.status.value
    )
    dashboard.controls["file"].value = ({**upload, "content": memoryview(b"1,2,3\n2,3,5\n-1,0,0\n")},)
    assert heatmaps(dashboard.figure)[0].tolist() == [[1, 2, 3], [2, 3, 5], [-1, 0, 0]]
    assert any(
        a.text == "A: &lt;script&gt;alert(1)&lt;/script&gt;.csv" for a in dashboard.figure.layout.annotations
    )
    dashboard.run()
    assert lines(dashboard)["dot"][-1] < 0.1
    settings, _ = dashboard.static()
    assert dict(settings.to_numpy())["file"] == HOSTILE


def test_a_matrix_can_be_given_from_python() -> None:
    dashboard = Approximation(replace(DEFAULT, steps=50), matrix=parse_matrix(b"1,2\n3,4\n", "mine.csv"))
    assert dashboard.values["target"] == OWN
    assert heatmaps(dashboard.figure)[0].tolist() == [[1, 2], [3, 4]]


def test_a_wider_dot_product_comes_down_to_the_target() -> None:
    target = similar_not_identical(16, 0)
    fit = fitted(target, replace(DEFAULT, gate_hidden=4, steps=20))
    widths = Widths({target.name: fit}, start=2)
    for width in (0, 16):
        widths.controls["d"].value = width
        assert "Error" not in widths.status.value
        wanted, dot, mixture = heatmaps(widths.figure)
        assert widths.figure.data[-1].x[0] == width
        assert widths.figure.data[-1].y[0] == pytest.approx(floor(target.scores, width))
        assert np.linalg.norm(dot - wanted) / np.linalg.norm(wanted) == pytest.approx(
            floor(target.scores, width), abs=1e-5
        )
        np.testing.assert_allclose(mixture, fit.scores().numpy(), rtol=1e-5)
    assert f"error {fit.error():.2f}" in widths.figure.layout.annotations[2].text


def test_widths_need_a_mixture_and_a_row_of_the_table() -> None:
    with pytest.raises(ValueError, match="no fitted mixture"):
        Widths({})
    floors = pd.DataFrame({"width": [0, 1], "floor": [1.0, 0.0]})
    with pytest.raises(ValueError, match="width 7 is not in the table"):
        approximation.widths({"A": MATRIX, "dot": MATRIX, "MoL": MATRIX}, floors, 7, 4, 0.5, 9)
