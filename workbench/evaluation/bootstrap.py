"""Percentile bootstrap intervals: the variation of a mean over users under resampling.

Users with the same values are exchangeable, so a resample need not draw users: it draws how many of each kind come up. That is
the same distribution, and as many users share a rank it is many times less work.
"""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95
CHUNK = 1 << 22
"""Counts drawn at once, which bounds the memory of resampling for any number of users."""


def resampled_means(
    values: NDArray[np.float64],
    counts: NDArray[np.int64],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Means (R, M) of R resamples, with replacement, of U users; `counts` (G,) users each have `values` (G, M).

    All M columns are resampled together, so that differences between them keep their pairing. NaN if there are no users.
    Raises ValueError if `resamples` is below 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    users = int(counts.sum())
    if users == 0:
        return np.full((resamples, values.shape[1]), np.nan)
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK // len(counts))
    means = []
    for start in range(0, resamples, rows):
        drawn = generator.multinomial(users, counts / users, size=min(rows, resamples - start))
        means.append(drawn @ values / users)
    return np.concatenate(means)


def intervals(
    values: NDArray[np.float64],
    counts: NDArray[np.int64],
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends (M,) of the percentile interval of each column's mean over users; see `resampled_means`.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Raises ValueError if `level` is not
    inside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    tail = (1 - level) / 2
    low, high = np.quantile(resampled_means(values, counts, resamples, seed), [tail, 1 - tail], axis=0)
    return low, high
