"""How fast a dashboard answers a moved control."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from workbench.explore.widgets import Dashboard


def update_times(dashboard: Dashboard, changes: Iterable[tuple[str, Any]]) -> pd.DataFrame:
    """Seconds from each change of a control (name, value) until the new figure has left for the browser.

    Columns: `control`, `seconds` by the clock, `computing`: seconds that processors worked on it, all threads together, which
    is less where the machine has other work too. Changes to the value that a control already has are left out.
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
    """Milliseconds in which dashboards answer, a row each: half of the changes within p50, 95 of 100 within p95.

    `trials` gives for each name a dashboard and the changes to try (as in `update_times`). Columns: `dashboard`, `p50`, `p95`,
    and the same of the processors' work.
    """
    times = pd.concat([update_times(*trial).assign(dashboard=name) for name, trial in trials.items()])
    by_dashboard = times.groupby("dashboard", sort=False)[["seconds", "computing"]]
    milliseconds = 1000 * by_dashboard.quantile(np.array([0.5, 0.95])).unstack()
    headings = ["p50", "p95", "computing, p50", "computing, p95"]
    return milliseconds.set_axis(headings, axis=1).reset_index()
