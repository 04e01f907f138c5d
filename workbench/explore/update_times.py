"""How fast a dashboard responds to a control."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from workbench.explore.widgets import Dashboard


def update_times(dashboard: Dashboard, changes: Iterable[tuple[str, Any]]) -> pd.DataFrame:
    """Seconds from each change of a control (name, value) until the new figure is sent to the browser.

    Columns: `control`, `seconds` (elapsed) and `computing` (processor time of all threads, less than the elapsed time if the
    machine is busy). A change to the current value is skipped.
    """
    rows = []
    for name, value in changes:
        control = dashboard.controls[name]
        if control.value != value:
            started, worked = time.perf_counter(), time.process_time()
            control.value = value
            rows.append((name, time.perf_counter() - started, time.process_time() - worked))
    return pd.DataFrame(rows, columns=["control", "seconds", "computing"])


def answers(trials: Mapping[str, tuple[Dashboard, Iterable[tuple[str, Any]]]]) -> pd.DataFrame:
    """Response times of dashboards in milliseconds, a row each, as percentiles p50 and p95.

    `trials` gives for each name a dashboard and the changes to try (as in `update_times`). Columns: `dashboard`, `p50`,
    `p95`, and the same of the processor time.
    """
    times = pd.concat([update_times(*trial).assign(dashboard=name) for name, trial in trials.items()])
    by_dashboard = times.groupby("dashboard", sort=False)[["seconds", "computing"]]
    milliseconds = 1000 * by_dashboard.quantile(np.array([0.5, 0.95])).unstack()
    headings = ["p50", "p95", "computing, p50", "computing, p95"]
    return milliseconds.set_axis(headings, axis=1).reset_index()
