"""One query taken apart, and what sharper gates prove."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from workbench.bench.workloads import Trained, Workload, build
from workbench.search import BruteForce
from workbench.similarities import DotConfig, DotProduct
from workbench.studies.proofs import one_query, proof_shares, sharpened

CPU = torch.device("cpu")


@pytest.fixture
def workload(checkpoint: str) -> Workload:
    return build(Trained(checkpoint), 8, 0, CPU)


def test_one_query_is_taken_apart_as_it_is_searched(workload: Workload) -> None:
    one = one_query(workload, 3, k=5, n1=4)
    history = set(workload.exclude[3].tolist()) - {0}
    assert len(one.items) == 30 - len(history) and not history & set(one.items["item"])
    top = one.items[one.items["outcome"] == "top k"].sort_values("score", ascending=False)
    true = BruteForce(workload.similarity, workload.items).search(workload.queries, 5, workload.exclude)
    assert top["item"].tolist() == true.ids[3].tolist()
    assert (one.items["score"] <= one.items["bound"] + 1e-4).all()
    ruled_out = one.items[one.items["outcome"] == "ruled out"]
    assert (ruled_out["bound"] < one.s_k).all()
    assert (one.items.loc[one.items["outcome"] == "survives", "bound"] >= one.s_k).all()
    assert one.lists.groupby("component")["listed"].sum().eq(4).all()
    for _, line in one.lists.groupby("component"):
        assert line["score"].is_monotonic_decreasing and line["item"].is_unique
    listed = set(one.lists.loc[one.lists["listed"], "item"])
    unlisted = one.items[~one.items["item"].isin(listed)]
    assert (unlisted["score"] <= one.outside + 1e-4).all()


def test_lists_of_everything_leave_nothing_outside(workload: Workload) -> None:
    allowed = 30 - int((workload.exclude[0] != 0).sum())
    one = one_query(workload, 0, k=allowed, n1=allowed)
    assert one.outside == float("-inf") and one.lists["listed"].all()
    assert (one.items["outcome"] == "top k").all()


@pytest.mark.parametrize(
    ("query", "k", "n1", "message"),
    [(8, 1, 1, "query 8 is not one of the 8"), (0, 0, 1, "k and n1"), (0, 1, 31, "k and n1")],
)
def test_what_cannot_be_taken_apart_is_said(workload: Workload, query, k, n1, message) -> None:
    with pytest.raises(ValueError, match=message):
        one_query(workload, query, k, n1)


def test_a_gate_times_nothing_weighs_all_components_equally(workload: Workload) -> None:
    flat = sharpened(workload, 0.0)
    logits = flat.similarity.component_logits(flat.queries, flat.items)
    torch.testing.assert_close(flat.similarity.score(flat.queries, flat.items), logits.mean(-1))
    same = sharpened(workload, 1.0)
    assert torch.equal(
        same.similarity.score(same.queries, same.items),
        workload.similarity.score(workload.queries, workload.items),
    )
    sharp = sharpened(workload, 1e4)
    assert sharp.similarity.score(sharp.queries, sharp.items).isfinite().all()


@pytest.mark.parametrize("factor", [-1.0, float("inf"), float("nan")])
def test_factors_must_be_finite_and_positive(workload: Workload, factor: float) -> None:
    with pytest.raises(ValueError, match="factor of 0 or more"):
        sharpened(workload, factor)


def test_a_similarity_without_a_gate_is_refused(workload: Workload) -> None:
    with pytest.raises(ValueError, match="DotProduct, which has no gate"):
        sharpened(replace(workload, similarity=DotProduct(DotConfig())), 1.0)


def test_shares_are_those_of_the_searchers(workload: Workload) -> None:
    shares = proof_shares(workload, [1, 5, 30], (0.0, 1.0), k=3)
    assert isinstance(shares, pd.DataFrame) and len(shares) == 6
    assert (shares["certified"] <= shares["matches_brute_force"]).all()
    whole = shares[shares["n1"] == 30]
    assert (whole["certified"] == 1).all() and (whole["gap"] == 0).all()
    assert shares.loc[shares["factor"] == 0, "components"].iloc[0] == pytest.approx(
        workload.similarity.config.components, rel=1e-4
    )
    assert shares["surviving"].between(0, 1).all()
    assert (shares["queries"] == len(workload.queries)).all()
