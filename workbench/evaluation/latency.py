"""How long a call takes: raw times first, percentiles from them."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
import torch

from workbench.runtime import stopwatch

Way = TypeVar("Way")

PERCENTILES = (50, 95, 99)


def measure(
    call: Callable[[], object], device: torch.device, warmup: int = 3, repeats: int = 20
) -> pd.DataFrame:
    """One row per timed call: `repeat` (0, 1, …) and `seconds`, synchronised with `device` at both ends.

    `warmup` calls come first and are not timed. Timing changes nothing about what is computed. Raises ValueError if
    `repeats` is below 1 or `warmup` below 0.
    """
    if repeats < 1 or warmup < 0:
        raise ValueError(f"repeats must be at least 1 and warmup at least 0, not {repeats} and {warmup}")
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(repeats):
        with stopwatch(device) as watch:
            call()
        seconds.append(watch.seconds)
    return pd.DataFrame({"repeat": np.arange(repeats), "seconds": seconds})


def in_turns(
    ways: Mapping[Way, Callable[[int], object]], queries: int, repeats: int
) -> dict[Way, list[float]]:
    """Milliseconds of each way for each query, all ways in turn, so that a noisy moment affects all equally."""
    times: dict[Way, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for query in range(queries):
            for way, find in ways.items():
                with stopwatch(torch.device("cpu")) as watch:
                    find(query)
                times[way].append(1e3 * watch.seconds)
    return times


def percentiles(times: pd.DataFrame, queries: int, by: Sequence[str] = ()) -> pd.DataFrame:
    """Latency of a call from raw `seconds`: `calls`, `p50_ms`, `p95_ms`, `p99_ms`, and `qps`, queries per second.

    One row per group of the columns `by`; one row in all without them. Percentiles are in milliseconds, linearly
    interpolated; qps = queries · calls / total seconds; each call served `queries` queries. Raises ValueError if `queries` is
    below 1 or there are no times.

    >>> percentiles(pd.DataFrame({"seconds": [0.25, 0.5, 0.25]}), queries=8)[["calls", "p50_ms", "qps"]].values.tolist()
    [[3.0, 250.0, 24.0]]
    """
    if queries < 1:
        raise ValueError(f"queries must be at least 1, not {queries}")
    if times.empty:
        raise ValueError("there are no times to summarize")
    rows = []
    groups = times.groupby(list(by), sort=False, observed=True) if by else [((), times)]
    for key, group in groups:
        seconds = group["seconds"].to_numpy()
        row: dict[str, object] = dict(zip(by, key, strict=True))
        row["calls"] = len(seconds)
        for p, value in zip(PERCENTILES, np.percentile(seconds, PERCENTILES), strict=True):
            row[f"p{p}_ms"] = 1e3 * value
        row["qps"] = queries * len(seconds) / seconds.sum()
        rows.append(row)
    return pd.DataFrame(rows)
