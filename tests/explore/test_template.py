"""The look of figures: colours that can be told apart, text that stays text."""

import html
from itertools import combinations

import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plotly.colors import sample_colorscale

from workbench.encoders import ENCODERS
from workbench.explore.template import DIVERGING, ON_SCALE, PALETTE, SEQUENTIAL, TEMPLATE, method_style, plain
from workbench.similarities import SIMILARITIES
from workbench.visible import visible

BUILT_IN = ("dot", "mol", "maxsim", "sparcode", "deep_retrieval")
BUILT_IN_ENCODERS = ("sasrec", "esasrec", "hstu", "gru4rec", "bert4rec", "two_tower")


def channels(color: str) -> list[float]:
    return [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def luminance(color: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def as_deuteranope(color: str) -> list[float]:
    """Without the receptor for green (Machado, Oliveira and Fernandes 2009, severity 1)."""
    r, g, b = channels(color)
    return [
        0.367322 * r + 0.860646 * g - 0.227968 * b,
        0.280085 * r + 0.672501 * g + 0.047413 * b,
        -0.011820 * r + 0.042940 * g + 0.968881 * b,
    ]


@pytest.mark.parametrize("ground", ["#ffffff", "#15181c"])
@pytest.mark.parametrize("color", PALETTE)
def test_every_colour_shows_on_light_and_dark(color: str, ground: str) -> None:
    assert contrast(color, ground) > 2.2


@pytest.mark.parametrize("ground", ["#ffffff", "#15181c"])
def test_text_can_be_read_on_light_and_dark(ground: str) -> None:
    assert contrast(TEMPLATE.layout.font.color, ground) > 3.9


@pytest.mark.parametrize("ground", ["#ffffff", "#15181c"])
@pytest.mark.parametrize("axis", ["error_x", "error_y"])
@pytest.mark.parametrize("kind", ["scatter", "bar"])
def test_intervals_show_on_light_and_dark(kind: str, axis: str, ground: str) -> None:
    (marks,) = TEMPLATE.data[kind]
    assert contrast(marks[axis].color, ground) > 3.9  # plotly's own is black, on any ground


@pytest.mark.parametrize("scale", [SEQUENTIAL, DIVERGING])
def test_numbers_can_be_read_in_every_cell_of_a_scale(scale: list[list[object]]) -> None:
    cells = sample_colorscale(scale, [place / 100 for place in range(101)], colortype="tuple")
    for cell in cells:
        ground = "#" + "".join(f"{round(255 * channel):02x}" for channel in cell)
        assert contrast(ON_SCALE, ground) >= 4.5


def test_colours_are_distinguished_without_seeing_green() -> None:
    for first, second in combinations(PALETTE, 2):
        distance = (
            sum((a - b) ** 2 for a, b in zip(as_deuteranope(first), as_deuteranope(second), strict=True))
            ** 0.5
        )
        assert distance > 0.1, (first, second)


def test_a_method_looks_the_same_everywhere() -> None:
    assert method_style("SASRec + MoL").color == method_style("MoL").color == SIMILARITIES["mol"].color
    assert method_style("SASRec + MoL").dash != method_style("HSTU + MoL").dash
    assert method_style("HSTU + dot").color != method_style("HSTU + MoL").color
    assert len({ENCODERS[kind].marks for kind in BUILT_IN_ENCODERS}) == len(BUILT_IN_ENCODERS)
    assert len({SIMILARITIES[kind].color for kind in BUILT_IN}) == len(BUILT_IN)
    assert all(SIMILARITIES[kind].color in PALETTE for kind in BUILT_IN)


@settings(deadline=None)
@given(st.text())
def test_any_name_has_a_style_that_plotly_takes(name: str) -> None:
    style = method_style(name)
    assert style == method_style(name)
    go.Scatter(line={"color": style.color, "dash": style.dash}, marker={"symbol": style.symbol})
    go.Bar(marker={"pattern": {"shape": style.pattern}})


@settings(deadline=None)
@given(st.text())
def test_plain_text_holds_no_markup(text: str) -> None:
    shown = plain(text)
    assert "<" not in shown
    assert ">" not in shown
    assert "$" not in shown
    assert html.unescape(shown) == visible(text)
