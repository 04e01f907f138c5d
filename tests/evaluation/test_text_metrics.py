"""Metrics of text retrieval, and intervals over groups of queries."""

import numpy as np
import pytest

from workbench.evaluation.relevant import Relevant
from workbench.evaluation.text import clustered_intervals, query_metrics


def test_metrics_of_three_queries_by_hand() -> None:
    found = np.full((3, 100), -1)
    found[0, :2] = [9, 4]
    found[1, :12] = np.arange(20, 32)
    table = query_metrics(found, Relevant(np.array([0, 2, 3, 4]), np.array([4, 5, 31, 7])))
    assert table["Hit@1"].tolist() == [0, 0, 0]
    assert table["Hit@10"].tolist() == [1, 0, 0]
    assert table["Hit@100"].tolist() == [1, 1, 0]
    assert table["MRR@100"].tolist() == pytest.approx([1 / 2, 1 / 12, 0])
    ideal = 1 + 1 / np.log2(3)
    assert table["NDCG@10"].tolist() == pytest.approx([1 / np.log2(3) / ideal, 0, 0])


def test_groups_of_equal_queries_count_once() -> None:
    """20 words with 25 equal queries each are 20 observations: the interval is that of 20, not of 500."""
    values = (np.arange(20) % 2).astype(float)
    repeated, groups = np.repeat(values, 25)[:, None], np.repeat(np.arange(20), 25)
    low, high = clustered_intervals(repeated, groups)
    few_low, few_high = clustered_intervals(values[:, None], np.arange(20))
    many_low, many_high = clustered_intervals(repeated, np.arange(500))
    assert (low[0], high[0]) == pytest.approx((few_low[0], few_high[0]))
    assert many_high[0] - many_low[0] < (high[0] - low[0]) / 3


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="each query needs one"):
        clustered_intervals(np.zeros((2, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="level"):
        clustered_intervals(np.zeros((2, 1)), np.zeros(2), level=1.0)
