"""A dashboard in a real JupyterLab: a key moves the slider, the plot follows, and no other machine is asked."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench.reporting import pairs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TOKEN = "test"
NOTEBOOK = """# %% [markdown]
# # A dashboard

# %% tags=["parameters"]
dataset = "embedded-small"
profile = "quick"
seed = 0

# %%
import pandas as pd
from workbench.explore.widgets import MetricExplorer

MetricExplorer(pd.DataFrame({"method": ["HSTU + MoL"] * 3, "metric": ["HR@1", "HR@10", "HR@100"], "value": [0.1, 0.2, 0.4]}))
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab that `workbench lab` started on a folder with one notebook."""
    source = tmp_path / "notebooks" / "00_dashboard.py"
    source.parent.mkdir()
    source.write_text(NOTEBOOK)
    pairs.write(source)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    environment = {
        **os.environ,
        **own,
        "WORKBENCH_ROOT": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_TOKEN": TOKEN,
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "workbench.cli", "lab", "--no-browser", "--port", str(port)]
    with (
        (tmp_path / "log.txt").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
    ):
        address = f"http://127.0.0.1:{port}"
        try:
            _await(lambda: _ask(f"{address}/api/status") is not None, (tmp_path / "log.txt").read_text)
            yield address
        finally:
            server.terminate()
            server.wait(timeout=30)


def test_the_plot_follows_a_key_and_no_other_machine_is_asked(visit: Any, lab: str) -> None:
    page = visit.page
    page.goto(f"{lab}/lab/tree/notebooks/00_dashboard.ipynb?token={TOKEN}")
    # The page says that the kernel is idle before it is, and a "Run All" is then lost: ask the server.
    _await(
        lambda: any(
            k["execution_state"] == "idle" and k["connections"] for k in _ask(f"{lab}/api/kernels") or []
        ),
        page=page,
    )
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
    page.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000)
    shown = "document.querySelector('.js-plotly-plot').data[0].x[0]"
    page.wait_for_function(f"{shown} === 'HR@10'", timeout=30_000)
    page.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{shown} === 'HR@100'", timeout=30_000)
    assert visit.outside == []


def _await(ready: Any, told: Any = lambda: "", page: Any = None, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            pytest.fail(f"not ready after {seconds} s: {told()}")
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
