"""The pages of a report on paper: an A4 PDF of each, printed by a headless Chromium. May import files and chromium."""

from collections.abc import Iterable
from pathlib import Path

from workbench import chromium, files

_DRAWN = "[...document.querySelectorAll('.plot')].every(place => place.querySelector('.main-svg'))"
_FITS = (
    f"{_DRAWN} && [...figures.keys()].every(target => target.querySelector('.main-svg').clientWidth <= PAPER)"
)


def print_pages(folder: Path, names: Iterable[str]) -> list[Path]:
    """Print the pages `names` of the report in `folder` to `NAME.pdf` next to them, and return the paths.

    Answers are unfolded and figures are as wide as the paper; what a control would show in its other places is not printed.
    Raises what `chromium.page` does.
    """
    written = []
    with chromium.page() as page:
        page.emulate_media(media="print", color_scheme="light")
        for name in names:
            page.goto((folder / f"{name}.html").resolve().as_uri())
            page.wait_for_function(_DRAWN)
            page.evaluate("dispatchEvent(new Event('beforeprint'))")
            page.wait_for_function(_FITS)
            path = folder / f"{name}.pdf"
            with files.atomic_write(path) as temporary:
                page.pdf(path=temporary, format="A4", print_background=True, prefer_css_page_size=True)
            written.append(path)
    return written
