"""A real JupyterLab on a folder of notebooks, and its pages driven from a test."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import TimeoutError

TOKEN = "test"
PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(prompt => prompt.textContent)"
"""In front of each code cell: [ ] before, [*] while, [3] after it ran."""


@contextmanager
def serving(root: Path) -> Iterator[str]:
    """The address of a JupyterLab that `workbench lab` started on the notebooks in `root`, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{kind}_DIR": str(root / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    environment = {
        **os.environ,
        **own,
        "WORKBENCH_ROOT": str(root),
        "IPYTHONDIR": str(root / "ipython"),
        "JUPYTER_TOKEN": TOKEN,
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "workbench.cli", "lab", "--no-browser", "--port", str(port)]
    with (
        (root / "log.txt").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
    ):
        address = f"http://127.0.0.1:{port}"
        try:
            _await(lambda: _ask(f"{address}/api/status") is not None, (root / "log.txt").read_text)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:  # Jupyter waits for ever where a kernel's shutdown has failed
                server.kill()


def run_all(page: Any, lab: str, name: str, seconds: float = 120, slower: float = 1) -> None:
    """Open a notebook in the page and run all its cells; its first plot is drawn within `seconds` seconds.

    Once the cells are running, the browser takes `slower` times as long for everything.
    """
    path = f"notebooks/{name}.ipynb"
    page.goto(f"{lab}/lab/tree/{path}?reset&token={TOKEN}")

    def ready() -> bool:
        # The page shows the kernel as idle before it is, and a "Run All" is then lost: ask the server.
        kernels = [s["kernel"] for s in _ask(f"{lab}/api/sessions") or [] if s["path"] == path]
        return any(k["execution_state"] == "idle" and k["connections"] for k in kernels)

    _await(ready, page=page)
    for patience in (
        5,
        10,
        30,
    ):  # on a busy machine the notebook may not be there yet, and a "Run All" is lost too
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
        with suppress(TimeoutError):
            page.wait_for_function(f"{PROMPTS}.some(text => /[0-9*]/.test(text))", timeout=1000 * patience)
            break
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slower})
    page.wait_for_selector(".js-plotly-plot .main-svg", timeout=1000 * seconds)


def finish(page: Any, seconds: float = 120) -> None:
    """Wait until every cell of the notebook in the page has run."""
    page.wait_for_function(f"{PROMPTS}.every(text => /[0-9]/.test(text))", timeout=1000 * seconds)


def _await(
    ready: Callable[[], bool], describe: Any = lambda: "", page: Any = None, seconds: float = 90
) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            pytest.fail(f"not ready after {seconds} s: {describe()}")
        if page is None:
            time.sleep(0.2)
        else:
            page.wait_for_timeout(200)


def _ask(url: str) -> Any:
    """The server's answer; None while it does not answer, or answers with an error."""
    try:
        with urllib.request.urlopen(f"{url}?token={TOKEN}", timeout=10) as answer:
            return json.load(answer)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
