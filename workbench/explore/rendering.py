"""Figures drawn by a headless Chromium: as pixels (PNG) and as vectors (SVG, PDF) for papers. May import chromium.

The browser runs in a thread of its own, since a notebook's kernel has an event loop that playwright does not share.
"""

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import plotly.graph_objects as go

from workbench.chromium import page

WIDTH, HEIGHT = 860, 520
"""Pixels of a figure that has no size of its own."""

Format = Literal["png", "svg", "pdf"]

_DRAWN = """([plot, format, scale]) => {
    const {width, height} = plot._fullLayout
    return Plotly.toImage(plot, {format, scale, width, height})
}"""


def rendered(figure: go.Figure, format: Format) -> bytes:
    """The figure as a file of this format: PNG at twice its size, SVG and PDF as vectors with selectable text.

    Raises as `page` does.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_rendered, figure, format).result()


def _rendered(figure: go.Figure, format: Format) -> bytes:
    still = go.Figure(figure)
    layout = still.layout
    ground = {} if format == "svg" else {"paper_bgcolor": "white"}  # a printed page is white
    still.update_layout(width=layout.width or WIDTH, height=layout.height or HEIGHT, **ground)
    width, height = int(still.layout.width), int(still.layout.height)
    with page(width + 40, height + 40) as shown:
        shown.set_content(still.to_html(include_plotlyjs=True, full_html=True), wait_until="load")
        shown.wait_for_selector(".js-plotly-plot .main-svg")
        plot = shown.query_selector(".js-plotly-plot")
        kind, scale = ("png", 2) if format == "png" else ("svg", 1)
        header, _, content = shown.evaluate(_DRAWN, [plot, kind, scale]).partition(",")
        if format == "png":
            return base64.b64decode(content)
        svg = (
            shown.evaluate("decodeURIComponent", content)
            if "base64" not in header
            else base64.b64decode(content).decode()
        )
        if format == "svg":
            return svg.encode()
        style = "<style>@page { margin: 0 } body { margin: 0 } svg { display: block }</style>"
        shown.set_content(f"<!doctype html>{style}{svg}")
        return shown.pdf(width=f"{width}px", height=f"{height}px", print_background=True, page_ranges="1")
