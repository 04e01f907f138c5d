"""Metrics of text retrieval: Hit@k, MRR and NDCG@10 per query, and intervals clustered by groups of queries."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.evaluation.bootstrap import LEVEL, RESAMPLES
from workbench.evaluation.relevant import Relevant, list_metrics

KS = (1, 10, 100)


def query_metrics(found: NDArray[np.int64], relevant: Relevant) -> pd.DataFrame:
    """One row per query: Hit@1, Hit@10, Hit@100, MRR@K and NDCG@10 of lists (Q, K), best first, −1 for no document.

    Hit@k: 1 if one of the first k is relevant. MRR@K: 1 / place of the first relevant document, 0 if there is none among the K.
    Cut-offs beyond K are left out.

    >>> query_metrics(np.array([[4, 7, 2]]), Relevant(np.array([0, 2]), np.array([7, 9])))[["Hit@1", "MRR@3"]].values.tolist()
    [[0.0, 0.5]]
    """
    width = found.shape[1]
    ks = [k for k in KS if k <= width] or [width]
    table = list_metrics(found, relevant, sorted({*ks, min(10, width)}))
    columns = {f"Hit@{k}": (table[f"R@{k}"] > 0).astype(float) for k in ks}
    hit = relevant.hits(found)
    first = np.where(hit.any(axis=1), 1 / (1 + hit.argmax(axis=1)), 0.0)
    return pd.DataFrame(columns | {f"MRR@{width}": first, "NDCG@10": table[f"NDCG@{min(10, width)}"]})


def clustered_intervals(
    values: NDArray[np.float64],
    groups: NDArray[np.generic],
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends (M,) of the percentile interval of each column's mean over queries (Q, M), if whole groups are drawn again.

    All columns are resampled together, so the interval of a difference is that of a column of differences.
    Source: Davison and Hinkley, Bootstrap Methods (1997), section 3.8. Raises ValueError if there are no queries, or `level` is
    not inside (0, 1).
    """
    if not len(values) or len(values) != len(groups):
        raise ValueError(f"{len(values)} queries and {len(groups)} groups: each query needs one")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    codes, names = pd.factorize(groups)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, codes, values)
    sizes = np.bincount(codes)
    drawn = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), resamples
    )
    means = (drawn @ sums) / (drawn @ sizes)[:, None]
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high
