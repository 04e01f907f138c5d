"""The dashboard of exact search, from Python."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.bench.workloads import Workload, item_state
from workbench.explore.proof_widget import FACTORS, Proof
from workbench.similarities import DotConfig, DotProduct, MoLConfig
from workbench.similarities.mol import MixtureOfLogits
from workbench.studies.proofs import one_query

HOSTILE = "<script>window.hacked = 1</script>"
ITEMS, QUERIES = 60, 5


@pytest.fixture(scope="module")
def workload() -> Workload:
    random = torch.Generator().manual_seed(0)
    config = MoLConfig(2, 2, 4, query_hidden=8, gate_query=4, gate_item=4, gate_pair=4)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        similarity = MixtureOfLogits(config, 8).eval()
    embeddings = torch.randn(ITEMS, 8, generator=random)
    with torch.no_grad():
        items = item_state(similarity, embeddings)
        drawn = torch.randn(QUERIES + 2, 8, generator=random)
        queries = similarity.queries(drawn, torch.zeros(len(drawn), dtype=torch.int64))
    exclude = torch.tensor([[1, 2, 3], [4, 0, 0], [0, 0, 0], [5, 6, 0], [7, 0, 0]])
    nobody = torch.zeros(QUERIES, dtype=torch.int64)
    return Workload(
        name="made", similarity=similarity, items=items, queries=queries[:QUERIES], exclude=exclude, targets=nobody,
        users=nobody - 1, embeddings=embeddings, sample=queries[QUERIES:],
    )  # fmt: skip


@pytest.fixture
def proof(workload: Workload) -> Proof:
    titles = pd.Series([HOSTILE] * ITEMS, index=range(1, ITEMS + 1))
    return Proof(workload, titles, k=5, n1=10)


def heading(proof: Proof) -> str:
    assert "Error" not in proof.status.value, proof.status.value
    return str(proof.figure.layout.title.text)


def points(proof: Proof) -> int:
    clouds = [trace for trace in proof.figure.data if trace.type == "scattergl"]
    return sum(x is not None and not np.isnan(x) for cloud in clouds for x in np.array(cloud.x, dtype=float))


def test_the_first_view_is_the_search_taken_apart(proof: Proof, workload: Workload) -> None:
    one = one_query(workload, 0, 5, 10)
    left = (one.items["outcome"] != "ruled out").sum()
    assert heading(proof).endswith(f"{left:,} of {ITEMS - 3} items not ruled out")
    assert heading(proof).startswith("proved") == (one.s_k >= one.outside)
    assert points(proof) == ITEMS - 3


def test_every_control_to_its_ends_keeps_the_size_and_the_kinds_of_traces(proof: Proof) -> None:
    kinds, sizes = set(), set()
    for name, ends in {
        "query": (0, QUERIES - 1),
        "k": (1, proof.controls["k"].max),
        "n1": (1, proof.controls["n1"].options[-1][1]),
        "gate ×": (FACTORS[0], FACTORS[-1]),
    }.items():
        for value in ends:
            proof.controls[name].value = value
            heading(proof)
            kinds.add(tuple(trace.type for trace in proof.figure.data))
            sizes.add((proof.figure.layout.height, proof.figure.layout.margin.b))
    assert len(kinds) == len(sizes) == 1


def test_lists_of_all_items_prove_and_lists_of_too_few_do_not(proof: Proof) -> None:
    proof.controls["n1"].value = proof.controls["n1"].options[-1][1]
    assert heading(proof).startswith("proved")
    proof.controls["n1"].value = 1
    proof.controls["k"].value = proof.controls["k"].max
    assert heading(proof).startswith("neither proved nor complete; 57 of 57")


def test_a_flat_gate_moves_scores_and_no_bound(proof: Proof) -> None:
    def cloud() -> tuple[list[float], list[float]]:
        clouds = [trace for trace in proof.figure.data if trace.type == "scattergl"]
        pairs = [(x, y) for t in clouds for x, y in zip(t.x, t.y, strict=True) if x is not None]
        return sorted(x for x, _ in pairs), sorted(y for _, y in pairs)

    bounds, scores = cloud()
    proof.controls["gate ×"].value = 0.0
    flat_bounds, flat_scores = cloud()
    assert flat_bounds == pytest.approx(bounds)
    assert flat_scores != pytest.approx(scores)


def test_a_hostile_title_stays_text(proof: Proof) -> None:
    _, figure = proof.static()
    assert "<script>" not in figure.to_json() and "&lt;script&gt;" in figure.to_json().replace("\\u0026", "&")


def test_an_error_shows_in_the_status_line(proof: Proof) -> None:
    proof.controls["query"].max = 99
    proof.controls["query"].value = 50
    assert "query 50 is not one of the 5 of made" in proof.status.value


def test_a_similarity_without_a_gate_is_refused(workload: Workload) -> None:
    with pytest.raises(ValueError, match="has no gate"):
        Proof(replace(workload, similarity=DotProduct(DotConfig())))
