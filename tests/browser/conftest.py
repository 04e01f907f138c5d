"""A real Chromium, and what its pages complain of."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

PATIENCE = 180_000  # milliseconds to open a page: a busy machine is slow
LOCAL = {"file", "data", "blob", "about"}
LATE = "[anywidget] Failed to initialize model."
"""What anywidget logs of a model that took longer than two seconds: no fault, for a live figure receives them later
(`test_a_browser_too_busy_for_two_seconds_follows_all_the_same`), and a busy machine takes that long."""


@dataclass
class Visit:
    """A page with what it logged as errors and what it asked of other machines."""

    page: Page
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: LATE in str(error) or self.errors.append(str(error)))
        self.page.on("request", lambda request: self._note(request.url))
        self.page.on("websocket", lambda socket: self._note(socket.url))

    def _note(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in LOCAL and parts.hostname != "127.0.0.1":
            self.outside.append(url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium at `WORKBENCH_CHROMIUM`, or on the path; without one tests skip, under CI=true they fail.

    For one module: while Playwright is open it keeps an event loop running, and no report can run at the same time.
    """
    executable = shutil.which(os.environ.get("WORKBENCH_CHROMIUM", "chromium"))
    if executable is None:
        reason = "no Chromium: install one as `chromium`, or name it in WORKBENCH_CHROMIUM"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A fresh page of a laptop's size."""
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    context.set_default_navigation_timeout(PATIENCE)
    yield Visit(context.new_page())
    context.close()
