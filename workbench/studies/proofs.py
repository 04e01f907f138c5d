"""What the bound of a mixture proves: one query taken apart, and shares of queries under sharper and flatter gates."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from workbench.bench.workloads import Workload
from workbench.search import Approximate, BruteForce, Exact
from workbench.similarities.mol import MixtureOfLogits, MoLItems, MoLQueries

TOLERANCE = 1e-4
"""Scores this near each other are the same up to rounding: a score is at most 1/τ, and is computed in fp32."""


class OneQuery(NamedTuple):
    """A search for one query, taken apart.

    `items`: a row per item that may be found, with `item` (id), `score` φ, `bound` (its largest component score) and
    `outcome`: "top k", "survives" (its bound reaches S_K, so that it must be scored) or "ruled out". `lists`: a row per
    component and place (from 1), with `component` p, `score` s_p in descending order, `item`, and `listed`, whether the place
    is within the first n1. `s_k`: the k-th best score among the candidates, those listed for at least one component;
    `outside`: the largest component score that an item in no list can have. The candidates hold the true top k for certain if
    `s_k` ≥ `outside`.
    """

    items: pd.DataFrame
    lists: pd.DataFrame
    s_k: float
    outside: float


@torch.no_grad()
def one_query(workload: Workload, query: int, k: int, n1: int) -> OneQuery:
    """How query number `query` is searched for its best `k`, with lists of `n1` items per component.

    Raises ValueError if the workload has no such query, or k or n1 does not fit the items that it may find.
    """
    state, items = workload.alone(query)
    similarity = workload.similarity
    if not 1 <= k <= len(items) or not 1 <= n1 <= len(items):
        raise ValueError(f"k and n1 must lie in 1 to {len(items)}, the items it may find; they are {k}, {n1}")
    logits = similarity.component_logits(state, items)[0]  # (N, P)
    scores, bounds = similarity.score(state, items)[0], similarity.upper_bound(logits)
    ranked = logits.sort(dim=0, descending=True)
    listed = torch.zeros(len(items), dtype=torch.bool, device=logits.device)
    listed[ranked.indices[:n1].flatten()] = True
    best_listed = scores[listed].sort(descending=True).values
    s_k = float(best_listed[k - 1]) if len(best_listed) >= k else float("-inf")
    last = ranked.values[n1] if n1 < len(items) else torch.full_like(ranked.values[0], float("-inf"))
    top = torch.zeros_like(listed)
    top[scores.topk(k).indices] = True
    outcome = np.where(top.cpu(), "top k", np.where((bounds >= s_k).cpu(), "survives", "ruled out"))
    number, parts = logits.shape
    places = np.tile(np.arange(1, number + 1), parts)
    return OneQuery(
        pd.DataFrame(
            {"item": _array(items.ids), "score": _array(scores), "bound": _array(bounds), "outcome": outcome}
        ),
        pd.DataFrame(
            {
                "component": np.repeat(np.arange(parts), number),
                "place": places,
                "score": _array(ranked.values.T.flatten()),
                "item": _array(items.ids[ranked.indices.T.flatten()]),
                "listed": places <= n1,
            }
        ),
        s_k,
        float(similarity.upper_bound(last)),
    )


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()


def sharpened(workload: Workload, factor: float) -> Workload:
    """The workload with every gate pre-activation a multiplied by `factor`: 0 makes all weights equal, above 1 is sharper.

    Raises ValueError if its similarity is no Mixture-of-Logits, or `factor` is negative or not finite.
    """
    if not isinstance(workload.similarity, MixtureOfLogits):
        raise ValueError(f"{workload.name} has a {type(workload.similarity).__name__}, which has no gate")
    if not 0 <= factor < float("inf"):
        raise ValueError(f"a gate is sharpened by a factor of 0 or more, not {factor}")
    similarity = copy.deepcopy(workload.similarity)
    if similarity.gate_pair is not None:
        last = similarity.gate_pair[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(factor)
            last.bias.mul_(factor)
    queries, items, sample = workload.queries, workload.items, workload.sample
    assert isinstance(queries, MoLQueries) and isinstance(items, MoLItems) and isinstance(sample, MoLQueries)
    # The product of two parts grows with one of them, their sum with both.
    if queries.gate is not None and sample.gate is not None:
        queries = replace(queries, gate=queries.gate * factor)
        sample = replace(sample, gate=sample.gate * factor)
    if items.gate is not None and (queries.gate is None or similarity.config.gate_combination == "sum"):
        items = replace(items, gate=items.gate * factor)
    return replace(workload, similarity=similarity, queries=queries, items=items, sample=sample)


@torch.no_grad()
def proof_shares(
    workload: Workload, n1: Sequence[int], factors: Sequence[float] = (1.0,), k: int = 100
) -> pd.DataFrame:
    """What lists of n1 items per component find and prove, and what the bound rules out, as the gate gets sharper.

    A row for each of `factors` and of `n1`: `factor`; `components`, the effective number in use, exp of the mean entropy of π
    over the true top k; `queries`, their number; `n1`; `candidates`, their mean number; `certified`, the share of queries with
    a proof of exactness; `matches_brute_force`, the share whose list is that of brute force (scores up to rounding); `gap`, the
    median of how far the k-th score can be off; `surviving`, the mean share of items that exact search must score.
    """
    rows = []
    for factor in factors:
        sharper = sharpened(workload, factor)
        similarity, items, queries = sharper.similarity, sharper.items, sharper.queries
        truth = BruteForce(similarity, items).search(queries, k, workload.exclude)
        exact = Exact(similarity, items, max_scored_fraction=1.0).search(queries, k, workload.exclude)
        shared = {
            "factor": factor,
            "components": _components_in_use(sharper, truth.ids),
            "queries": len(queries),
            "surviving": float(exact.num_scored.double().mean()) / len(items),
        }
        for length in n1:
            found = Approximate.of(similarity, items, n1=length).search(queries, k, workload.exclude)
            same = torch.isclose(found.scores, truth.scores, rtol=0, atol=TOLERANCE).all(1)
            measured = {
                "n1": length,
                "candidates": float(found.num_scored.double().mean()),
                "certified": float(found.exact.double().mean()),
                "matches_brute_force": float(same.double().mean()),
                "gap": float(found.gap.median()),
            }
            rows.append(shared | measured)
    return pd.DataFrame(rows)


def _components_in_use(workload: Workload, ids: Tensor) -> float:
    """exp of the mean entropy of the weights of each query with its best items."""
    similarity, items = workload.similarity, workload.items
    assert isinstance(similarity, MixtureOfLogits) and isinstance(items, MoLItems)
    assert isinstance(workload.queries, MoLQueries)
    order = items.ids.argsort()
    entropies = []
    for number in range(len(ids)):
        found = ids[number][ids[number] > 0]
        chosen = items[order[torch.searchsorted(items.ids[order], found)]]
        query = workload.queries[number : number + 1]
        part = None if query.gate is None else query.gate[:, None]
        pi = similarity.gates(similarity.component_logits(query, chosen), part, chosen.gate)
        entropies.append(-(pi * pi.clamp(min=1e-12).log()).sum(-1).mean())
    return float(torch.stack(entropies).mean().exp())
