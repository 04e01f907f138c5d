"""Metrics against hand-computed values and an independent library."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalNormalizedDCG, RetrievalRecall

from workbench.evaluation.metrics import (
    KS,
    as_ranks,
    discounted_gains,
    hits,
    labels,
    metrics,
    per_user,
    reciprocal_ranks,
    reciprocal_ranks_cut,
)

INF = float("inf")
RANKS = [1, 2, 10, 11, 2500, 2501, INF]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda r: hits(r, 10), [1, 1, 1, 0, 0, 0, 0]),
        (lambda r: hits(r, 2500), [1, 1, 1, 1, 1, 0, 0]),
        (lambda r: discounted_gains(r, 10), [1, 1 / np.log2(3), 1 / np.log2(11), 0, 0, 0, 0]),
        (reciprocal_ranks, [1, 1 / 2, 1 / 10, 1 / 11, 1 / 2500, 1 / 2501, 0]),
        (reciprocal_ranks_cut, [1, 1 / 2, 1 / 10, 1 / 11, 1 / 2500, 1 / 2501, 1 / 2501]),
    ],
)
def test_values_by_hand(function, expected):
    np.testing.assert_allclose(function(RANKS), expected, rtol=1e-12)


def test_labels_are_the_published_cut_offs_and_names():
    assert KS == (1, 5, 10, 50, 100, 200, 500, 1000)
    assert labels((1, 10)) == ["HR@1", "HR@10", "NDCG@1", "NDCG@10", "MRR", "MRR (cut at 2500)"]
    assert list(per_user([1], (1, 10)).columns) == labels((1, 10))


def test_a_target_without_rank_is_a_miss_at_any_cut_off():
    values = metrics([INF], ks=(10**9,))
    assert values == {f"HR@{10**9}": 0.0, f"NDCG@{10**9}": 0.0, "MRR": 0.0, "MRR (cut at 2500)": 1 / 2501}


def test_metrics_of_no_users_are_undefined():
    values = metrics([], ks=(1, 10))
    assert list(values) == labels((1, 10))
    assert all(np.isnan(value) for value in values.values())


@pytest.mark.parametrize("ranks", [[0], [1, -3], [float("nan")], [0.5]])
def test_impossible_ranks_are_refused(ranks):
    with pytest.raises(ValueError, match="ranks begin at 1"):
        as_ranks(ranks)


@pytest.mark.parametrize("function", [hits, discounted_gains, reciprocal_ranks_cut])
def test_impossible_cut_offs_are_refused(function):
    with pytest.raises(ValueError, match="a cut-off must be at least 1, not 0"):
        function([1], 0)


@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_agreement_with_torchmetrics(k):
    users, items = 40, 60
    generator = torch.Generator().manual_seed(k)
    scores = torch.rand(users, items, generator=generator)
    targets = torch.randint(items, (users,), generator=generator)
    ranks = 1 + (scores > scores.gather(1, targets[:, None])).sum(1)
    ours = metrics(ranks.numpy(), ks=(k,))
    relevant = torch.zeros(users, items, dtype=torch.bool).scatter_(1, targets[:, None], True)
    indexes = torch.arange(users)[:, None].expand(users, items)
    for label, theirs in {
        f"HR@{k}": [RetrievalHitRate(top_k=k), RetrievalRecall(top_k=k)],
        f"NDCG@{k}": [RetrievalNormalizedDCG(top_k=k)],
        "MRR": [RetrievalMRR()],
    }.items():
        for metric in theirs:
            expected = metric(scores.flatten(), relevant.flatten(), indexes=indexes.flatten())
            assert ours[label] == pytest.approx(expected.item(), rel=1e-5), metric


@settings(max_examples=100, deadline=None)
@given(ranks=st.lists(st.one_of(st.integers(1, 3000), st.just(INF)), min_size=1, max_size=30))
def test_metrics_are_ordered_as_they_must_be(ranks):
    values = metrics(ranks)
    for smaller, larger in pairwise(KS):
        assert values[f"HR@{smaller}"] <= values[f"HR@{larger}"]
        assert values[f"NDCG@{smaller}"] <= values[f"NDCG@{larger}"]
    for k in KS:
        assert 0 <= values[f"NDCG@{k}"] <= values[f"HR@{k}"] <= 1
    assert values["HR@1"] == values["NDCG@1"] <= values["MRR"] + 1e-12
    assert values["MRR"] <= 1
