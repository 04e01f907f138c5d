"""Metrics of one relevant item per user, computed from its rank among all candidates: HR@k, NDCG@k, MRR.

A rank is 1 for the best place. A target that has no rank (its user's history mask left it out of the candidates) is given as
inf, and counts as a miss in every metric. Labels are the names by which tables are read: `HR@10`, `NDCG@10`, `MRR`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

KS = (1, 5, 10, 50, 100, 200, 500, 1000)
"""The cut-offs of the published tables and a few between them."""

MRR = "MRR"
PUBLISHED_CUT = 2500
MRR_CUT = f"MRR (cut at {PUBLISHED_CUT})"
"""The MRR of the published RAILS code, for comparison with its tables only."""


def as_ranks(ranks: ArrayLike) -> NDArray[np.float64]:
    """Ranks as float64 (U,); ValueError if one is below 1 or NaN."""
    values = np.asarray(ranks, dtype=np.float64)
    if not (values >= 1).all():
        raise ValueError(f"ranks begin at 1; {np.sum(~(values >= 1))} of {values.size} are below it or NaN")
    return values


def hits(ranks: ArrayLike, k: int) -> NDArray[np.float64]:
    """1 if the target is among the best k, else 0; its mean over users is HR@k (= recall@k for one target).

    >>> hits([1, 3, np.inf], 2).tolist()
    [1.0, 0.0, 0.0]
    """
    return (as_ranks(ranks) <= _positive(k)).astype(np.float64)


def discounted_gains(ranks: ArrayLike, k: int) -> NDArray[np.float64]:
    """1 / log₂(1 + rank) if the target is among the best k, else 0; its mean over users is NDCG@k.

    With one relevant item the ideal gain is 1, so no further normalisation is needed.

    >>> discounted_gains([1, 3, 9], 5).tolist()
    [1.0, 0.5, 0.0]
    """
    values = as_ranks(ranks)
    return np.where(values <= _positive(k), 1 / np.log2(1 + values), 0.0)


def reciprocal_ranks(ranks: ArrayLike) -> NDArray[np.float64]:
    """1 / rank; 0 for a target without a rank. Its mean over users is MRR.

    >>> reciprocal_ranks([1, 4, np.inf]).tolist()
    [1.0, 0.25, 0.0]
    """
    return 1 / as_ranks(ranks)


def reciprocal_ranks_cut(ranks: ArrayLike, cut: int = PUBLISHED_CUT) -> NDArray[np.float64]:
    """1 / rank, and 1 / (cut + 1) for every rank beyond `cut` and every target without one.

    The published code (RAILS, data/eval.py) looks at the best 2500 only and counts each miss as rank 2501, never as 0.

    >>> (1 / reciprocal_ranks_cut([2, 2500, 2501, 9000, np.inf])).round().tolist()
    [2.0, 2500.0, 2501.0, 2501.0, 2501.0]
    """
    return 1 / np.minimum(as_ranks(ranks), _positive(cut) + 1)


def labels(ks: Sequence[int] = KS) -> list[str]:
    """The labels of `per_user`'s columns, in their order.

    >>> labels([1, 10])
    ['HR@1', 'HR@10', 'NDCG@1', 'NDCG@10', 'MRR', 'MRR (cut at 2500)']
    """
    return [*(f"HR@{k}" for k in ks), *(f"NDCG@{k}" for k in ks), MRR, MRR_CUT]


def per_user(ranks: ArrayLike, ks: Sequence[int] = KS) -> pd.DataFrame:
    """One row per user, one column per label: the values whose means are the metrics."""
    values = as_ranks(ranks)
    columns = [
        *(hits(values, k) for k in ks),
        *(discounted_gains(values, k) for k in ks),
        reciprocal_ranks(values),
        reciprocal_ranks_cut(values),
    ]
    return pd.DataFrame(dict(zip(labels(ks), columns, strict=True)))


def metrics(ranks: ArrayLike, ks: Sequence[int] = KS) -> dict[str, float]:
    """Every metric by its label: the mean over users, NaN if there are no users.

    >>> metrics([1, 4], ks=[1])
    {'HR@1': 0.5, 'NDCG@1': 0.5, 'MRR': 0.625, 'MRR (cut at 2500)': 0.625}
    """
    return {str(label): float(value) for label, value in per_user(ranks, ks).mean().items()}


def _positive(k: int) -> int:
    if k < 1:
        raise ValueError(f"a cut-off must be at least 1, not {k}")
    return k
