"""How far a mean over users would move with other users of the same kind: percentile bootstrap intervals."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95
CHUNK = 1 << 22
"""Drawn users at once: bounds the memory of resampling, whatever the number of users."""


def resampled_means(
    values: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Means (R, M) of R resamples, with replacement, of the users (rows) of `values` (U, M); NaN where U is 0.

    All M columns are resampled together, so that differences between them keep their pairing. Raises ValueError where
    `resamples` is below 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    users, columns = values.shape
    if users == 0:
        return np.full((resamples, columns), np.nan)
    return np.concatenate([counts @ values / users for counts in _counts(users, resamples, seed)])


def _counts(users: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each user is drawn, (r, U) at a time."""
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // users)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(users, size=(count, users)) + users * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * users).reshape(count, users).astype(np.float64)


def intervals(
    values: NDArray[np.float64], resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends (M,) of the percentile interval of each column's mean over users (U, M).

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Raises ValueError where `level` is not
    inside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    tail = (1 - level) / 2
    low, high = np.quantile(resampled_means(values, resamples, seed), [tail, 1 - tail], axis=0)
    return low, high
