"""A headless Chromium, for what only a browser can draw: pictures, printed pages, their speed. May import nothing of ours."""

import importlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
"""What the browser is called on the path."""

PATIENCE = 300_000
"""Milliseconds that a page may take for anything: a busy machine is slow, not broken."""


def executable() -> str:
    """The path of Chromium or Chrome: what WORKBENCH_CHROMIUM names, else a usual name; FileNotFoundError if there is none."""
    given = os.environ.get("WORKBENCH_CHROMIUM")
    names = NAMES if given is None else (given,)
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise FileNotFoundError(
            f"this needs Chromium or Chrome, and there is no {' or '.join(names)}: install one, or name it in"
            " WORKBENCH_CHROMIUM"
        )
    return found


def check() -> None:
    """Raise what `page` would, before long work whose end needs it."""
    _playwright()
    executable()


@contextmanager
def page(width: int = 960, height: int = 900) -> Iterator[Any]:
    """A page of a headless Chromium, as playwright's.

    Raises ImportError that names the install command if playwright is missing, FileNotFoundError if there is no Chromium.
    """
    playwright = _playwright()
    path = executable()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        try:
            made = browser.new_page(viewport={"width": width, "height": height})
            made.set_default_timeout(PATIENCE)
            yield made
        finally:
            browser.close()


def _playwright() -> Any:
    try:
        return importlib.import_module("playwright.sync_api")
    except ImportError as error:
        raise ImportError(
            "this needs playwright, and Chromium or Chrome; install it with: pip install playwright"
        ) from error
