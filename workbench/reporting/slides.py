"""A notebook cut into slides: which cell begins one, and which shows nothing there. May import nothing of ours."""

import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import nbformat

from workbench.reporting.outputs import DASHBOARD, PLOT

_HEADING = re.compile(r"^(?=## )", re.MULTILINE)


def in_slides(document: Any) -> Any:
    r"""A copy of an executed notebook whose cells have the slide types that nbconvert reads (`slideshow.slide_type`).

    A heading of the first or second level begins a slide; a dashboard, a figure, or a sentence that was computed begins a slide
    below it; code without an output is left out.

    >>> text = nbformat.v4.new_markdown_cell("Before.\n\n## Second\n\nText.")
    >>> code = nbformat.v4.new_code_cell("x = 1")
    >>> found = in_slides(nbformat.v4.new_notebook(cells=[text, code]))
    >>> [(cell.source, cell.metadata.slideshow.slide_type) for cell in found.cells]
    [('Before.', '-'), ('## Second\n\nText.', 'slide'), ('x = 1', 'skip')]
    """
    copy = deepcopy(document)
    copy.cells = [part for cell in document.cells for part in _parts(cell)]
    return copy


def _parts(cell: Any) -> Iterator[Any]:
    if cell.cell_type != "markdown":
        yield _typed(deepcopy(cell), _of_code(cell))
        return
    for text in _HEADING.split(cell.source):
        if text.strip():
            kind = "slide" if text.startswith(("# ", "## ")) else "-"
            yield _typed(nbformat.v4.new_markdown_cell(text.strip()), kind)


def _of_code(cell: Any) -> str:
    kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
    if not cell.get("outputs") or "parameters" in cell.metadata.get("tags", []):
        return "skip"
    return "subslide" if kinds & {DASHBOARD, PLOT, "text/markdown"} else "-"


def _typed(cell: Any, kind: str) -> Any:
    cell.metadata["slideshow"] = {"slide_type": kind}
    return cell
