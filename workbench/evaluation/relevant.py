"""Metrics of several relevant items per user, from the lists that were returned: P@k, R@k, F1@k, NDCG@k.

Each is computed per user and then averaged, F1 too (it is not the F1 of the averages). Users are rows of one table, so
intervals and paired comparisons come from the same values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.evaluation.bootstrap import LEVEL, RESAMPLES, intervals


@dataclass(frozen=True)
class Relevant:
    """The relevant items of U users, concatenated: user u has `ids[offsets[u]:offsets[u + 1]]`, each once, at least one.

    Raises ValueError if a user has no relevant item, or offsets do not fit `ids`.
    """

    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.offsets) < 1 or self.offsets[0] != 0 or self.offsets[-1] != len(self.ids):
            raise ValueError(f"offsets must rise from 0 to {len(self.ids)}, the number of relevant items")
        if len(empty := np.flatnonzero(np.diff(self.offsets) < 1)):
            raise ValueError(f"user {int(empty[0])} has no relevant item: no metric is defined for them")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def hits(self, found: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which places of the lists `found`, int64 (U, K), hold a relevant item; a place with id −1 does not."""
        base = int(max(found.max(initial=0), self.ids.max(initial=0))) + 1
        users = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        keys = np.arange(len(found))[:, None] * base + found
        return np.isin(keys, users * base + self.ids) & (found >= 0)


def list_metrics(found: NDArray[np.int64], relevant: Relevant, ks: Sequence[int]) -> pd.DataFrame:
    """One row per user, one column per label: P@k, R@k, F1@k, NDCG@k of the lists `found`, int64 (U, K), best first.

    With h relevant items among the first k: P = h / k, R = h / r for r relevant items, F1 = 2 P R / (P + R), 0 if h is 0;
    NDCG = Σ_hits 1 / log₂(1 + place) over the same sum for min(k, r) hits in front. A place with id −1 is a miss. Raises
    ValueError if the lists are of other users, shorter than a k, or contain an item twice.

    >>> relevant = Relevant(np.array([0, 2]), np.array([5, 7]))
    >>> list_metrics(np.array([[7, 3]]), relevant, [2]).round(3).to_dict("records")
    [{'P@2': 0.5, 'R@2': 0.5, 'F1@2': 0.5, 'NDCG@2': 0.613}]
    """
    if len(found) != len(relevant):
        raise ValueError(f"{len(found)} lists for {len(relevant)} users; each user needs one")
    if not ks or min(ks) < 1 or max(ks) > found.shape[1]:
        raise ValueError(f"cut-offs {list(ks)} must lie in 1..{found.shape[1]}, the length of the lists")
    ordered = np.sort(found, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    if twice.any():
        raise ValueError(f"the list of user {int(twice.argmax())} names an item twice")
    counts = np.diff(relevant.offsets)
    hit = relevant.hits(found)
    hits = hit.cumsum(axis=1)  # (U, K)
    discounts = 1 / np.log2(2 + np.arange(found.shape[1]))
    gains, ideal = (hit * discounts).cumsum(axis=1), discounts.cumsum()
    columns: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        h = hits[:, k - 1]
        columns[f"P@{k}"] = h / k
        columns[f"R@{k}"] = h / counts
        columns[f"F1@{k}"] = 2 * h / (k + counts)  # 2PR / (P + R), with what cancels left out
        columns[f"NDCG@{k}"] = gains[:, k - 1] / ideal[np.minimum(k, counts) - 1]
    return pd.DataFrame(columns)


def summarize_lists(
    values: pd.DataFrame, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> pd.DataFrame:
    """One row per column of a table of users: `metric`, `value` (the mean), `low` and `high` of its interval, `users`."""
    numbers = values.to_numpy(dtype=np.float64)
    low, high = intervals(numbers, np.ones(len(values), dtype=np.int64), resamples, level, seed)
    return pd.DataFrame(
        {
            "metric": values.columns,
            "value": numbers.mean(axis=0),
            "low": low,
            "high": high,
            "users": len(values),
        }
    )
