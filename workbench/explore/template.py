"""How every figure looks: our plotly template, and one colour, dash and mark for each method. May import the registries."""

import zlib
from dataclasses import dataclass
from html import escape

import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio

from workbench.encoders import ENCODERS
from workbench.lazy_imports import import_jsonschema
from workbench.registry import Part
from workbench.search.registry import SEARCHERS
from workbench.similarities import SIMILARITIES
from workbench.visible import visible

# Okabe and Ito's palette, which readers of every kind of colour vision can tell apart; without its black and its yellow,
# which vanish on a dark and on a white ground.
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#858585"
VIOLET = "#6C48FC"
"""An eighth, as far from all of these as can be, also for who cannot tell red from green."""
BROWN = "#8F6A3A"
"""A ninth, for what belongs with orange: darker and paler than it."""
REFERENCES = ("popularity", "random")
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY)

SEQUENTIAL = [[0.0, "#f3f6fa"], [0.35, "#bcd4e8"], [0.7, "#6ea6cf"], [1.0, "#3a84bd"]]
"""Colour scale for amounts: light to medium blue, even in grey."""
DIVERGING = [[0.0, "#4393c3"], [0.17, "#92c5de"], [0.33, "#d1e5f0"], [0.5, "#f7f7f7"],
             [0.67, "#fddbc7"], [0.83, "#f4a582"], [1.0, "#d6604d"]]  # fmt: skip
"""Colour scale for amounts of both signs: the middle of ColorBrewer's RdBu."""
ON_SCALE = "#000000"
"""Colour of numbers in cells of these scales, which are nowhere too dark for it, on any ground."""


@dataclass(frozen=True)
class Style:
    """How a method is drawn wherever it appears."""

    color: str
    dash: str
    symbol: str
    pattern: str


def registered() -> dict[str, Part]:
    """The registered searchers, encoders and similarities by their label in figures."""
    return {part.label: part for part in (*SEARCHERS.values(), *ENCODERS.values(), *SIMILARITIES.values())}


def method_style(method: str) -> Style:
    """How to draw `method`: `"HSTU + MoL"` has the colour of MoL and the marks of HSTU, as they are registered; a
    searcher has its own.

    A name that is not registered, or without a colour, gets one by its spelling, the same in every figure.

    >>> method_style("HSTU + MoL").color == method_style("SASRec + MoL").color
    True
    """
    encoder, _, similarity = method.rpartition(" + ")
    parts = registered()
    color = parts[similarity].color if similarity in parts else GREY if similarity in REFERENCES else ""
    marks = parts[encoder or method].marks if (encoder or method) in parts else None
    by_spelling = PALETTE[zlib.crc32(similarity.encode()) % len(PALETTE)]
    return Style(color or by_spelling, *(marks or ("solid", "circle", "")))


def plain(text: object) -> str:
    """Text from data as plotly shows it literally: plotly takes tags, entities and what stands between dollars for markup.

    >>> plain("<b>Heat & Dust</b> $x$")
    '&lt;b&gt;Heat &amp; Dust&lt;/b&gt; &#36;x&#36;'
    """
    return escape(visible(str(text)), quote=False).replace("$", "&#36;")


def item_name(item: int, titles: pd.Series | None, longest: int | None = None) -> str:
    """The title of an item, as plotly shows it literally, in at most `longest` letters; its number if it has none.

    A copy, which an inflated corpus is full of, has none. `titles` are by item id.

    >>> item_name(7, pd.Series({7: "The Slow Glass"}), 9), item_name(1234, None)
    ('The Slow…', 'item 1,234')
    """
    name = str(titles[item]) if titles is not None and item in titles.index else f"item {item:,}"
    return plain(name if longest is None or len(name) <= longest else f"{name[: longest - 1]}…")


def on_one_line(text: str) -> str:
    """The text with spaces that do not break: plotly measures each word of a table's cell to find where it may.

    >>> on_one_line("The Slow Glass").split(" ")
    ['The\xa0Slow\xa0Glass']
    """
    return text.replace(" ", "\N{NO-BREAK SPACE}")


_TEXT, _QUIET = "#767e88", "rgba(128,136,148,0.28)"
_INTERVAL = {"color": _TEXT, "thickness": 1.5}
_AXIS = {
    "automargin": True,
    "gridcolor": _QUIET,
    "linecolor": "rgba(128,136,148,0.6)",
    "zerolinecolor": "rgba(128,136,148,0.5)",
    "zerolinewidth": 1,
    "showline": True,
    "ticks": "outside",
    "ticklen": 4,
    "tickcolor": "rgba(128,136,148,0.6)",
    "title": {"standoff": 10},
    "ticklabeloverflow": "allow",  # otherwise plotly measures every label once for each label, whenever it draws
}

TEMPLATE = go.layout.Template(
    layout={
        "font": {
            "family": "system-ui, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif",
            "size": 14,
            "color": _TEXT,
        },
        "title": {
            "font": {"size": 17},
            "x": 0,
            "xref": "paper",
            "xanchor": "left",
            "y": 0.97,
            "yanchor": "top",
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": list(PALETTE),
        "colorscale": {"sequential": SEQUENTIAL},
        "height": 420,
        "margin": {"l": 64, "r": 24, "t": 56, "b": 56},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"bgcolor": "rgba(0,0,0,0)", "title": {"font": {"size": 13}}},
        "hoverlabel": {"font": {"size": 13}},
        "modebar": {
            "bgcolor": "rgba(0,0,0,0)",
            "color": "rgba(128,136,148,0.75)",
            "activecolor": BLUE,
            "orientation": "v",  # at the side: it would hide the titles of panels
            "remove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
        },
        "bargap": 0.25,
        "uniformtext": {"minsize": 10, "mode": "hide"},
    },
    data={
        "scatter": [
            go.Scatter(line={"width": 2.2}, marker={"size": 8}, error_x=_INTERVAL, error_y=_INTERVAL)
        ],
        "bar": [go.Bar(error_x=_INTERVAL, error_y=_INTERVAL)],
        "heatmap": [go.Heatmap(colorbar={"outlinewidth": 0, "thickness": 14})],
        "histogram": [go.Histogram(marker={"line": {"width": 0}})],
    },
)
"""Transparent ground, mid-grey text and intervals: the figure reads on a light and on a dark page."""

CONFIG = {"displaylogo": False, "showSendToCloud": False}
"""How plotly's bar of buttons is set: nothing in it sends a figure to another machine."""

import_jsonschema()  # which the renderers do
for _name in ("plotly_mimetype", "jupyterlab", "vscode", "notebook", "notebook_connected"):
    pio.renderers[_name].config = CONFIG  # of figures that a cell shows as they are
