"""One query in detail: what a searcher found compared with exact search, and the bounds of the rest."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.bench.methods import Built, SearcherSpec
from workbench.bench.workloads import Workload
from workbench.contracts import NO_ITEM
from workbench.search import BruteForce

UNKNOWN = float("nan")


class Seen(NamedTuple):
    """A searcher's answer to one query, with the true one.

    `items`: a row per item that may be found, with `item` (id), `score` φ, `bound` (its largest component score) and
    `outcome`: "found" (rightly), "extra" (found, and not among the best k), "missed" (the other way round), "survives"
    (neither, and its bound reaches S_K, so that the bound cannot rule it out) or "ruled out". `places`: a row per place from
    1, with `found` and `true` (ids, −1 past the end), their scores, `true_place` of what was found (0 if it is not among
    the best k) and `missed`, whether the true item of this place was not found at all. `s_k`: the k-th best score that was
    found, `true_s_k` that of exact search; `survivors`: items that may be found whose bound reaches `s_k`; `outside`: the
    largest component score among items that were no candidates, NaN if the candidates are unknown; `certified`, `gap` and
    `scored` as the searcher reports them.
    """

    items: pd.DataFrame
    places: pd.DataFrame
    s_k: float
    true_s_k: float
    survivors: int
    outside: float
    certified: bool
    gap: float
    scored: int

    @property
    def matches_brute_force(self) -> bool:
        """Whether every true item was found."""
        return not bool(self.places["missed"].any())


@torch.no_grad()
def seen(workload: Workload, built: Built, point: SearcherSpec, query: int, k: int) -> Seen:
    """How a searcher, built from `point`, answers query number `query` with its best `k`.

    Raises ValueError if the workload has no such query, or k does not fit the items that it may find.
    """
    state, items = workload.alone(query)
    similarity, exclude = workload.similarity, workload.exclude[query : query + 1]
    if not 1 <= k <= len(items):
        raise ValueError(f"k must lie in 1 to {len(items):,}, the items that the query may find, not {k}")
    true = BruteForce(similarity, workload.items).search(state, k, exclude)
    got = built.search(state, k, exclude)
    logits = similarity.component_logits(state, items)[0]  # (N, P)
    scores, bounds = similarity.score(state, items)[0], similarity.upper_bound(logits)
    s_k = float(got.scores[0, -1])
    found, wanted = got.ids[0][got.ids[0] != NO_ITEM], true.ids[0]
    is_found, is_true = torch.isin(items.ids, found), torch.isin(items.ids, wanted)
    reaches = bounds >= s_k
    outcome = np.select(
        [_array(is_found & is_true), _array(is_found), _array(is_true), _array(reaches)],
        ["found", "extra", "missed", "survives"],
        "ruled out",
    )
    listed = candidates(point, logits)
    unlisted = bounds[~listed] if listed is not None else None
    outside = UNKNOWN if unlisted is None else float(unlisted.max()) if len(unlisted) else float("-inf")
    places = pd.DataFrame(
        {
            "place": np.arange(1, k + 1),
            "found": _array(got.ids[0]),
            "found_score": _array(got.scores[0]),
            "true_place": [_place(wanted, item) for item in got.ids[0].tolist()],
            "true": _array(wanted),
            "true_score": _array(true.scores[0]),
            "missed": _array(~torch.isin(wanted, found)),
        }
    )
    table = pd.DataFrame(
        {"item": _array(items.ids), "score": _array(scores), "bound": _array(bounds), "outcome": outcome}
    )
    return Seen(
        table, places, s_k, float(true.scores[0, -1]), int(reaches.sum()), outside, bool(got.exact[0]),
        float(got.gap[0]), int(got.num_scored[0]),
    )  # fmt: skip


def candidates(point: SearcherSpec, logits: Float[Tensor, "N P"]) -> Bool[Tensor, "N"] | None:
    """Which items of one query, given their component scores, a method scores in full; None if only the searcher can tell.

    Of the first stage's ties it may score others.
    """
    values = {name: int(value) for name, value in point.values.items()}
    listed = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    match point.method:
        case "reference implementation" | "brute force":
            return ~listed
        case "per component" | "average" | "combined":
            if "n1" in values:
                best = logits.topk(min(values["n1"], len(logits)), dim=0).indices
                listed[best.flatten()] = True
            if "n2" in values:  # Σ_i f_i · mean_j g_j is the sum of all component scores, but for a factor
                listed[logits.sum(1).topk(min(values["n2"], len(logits))).indices] = True
            return listed
    return None


def _place(wanted: Tensor, item: int) -> int:
    where = (wanted == item).nonzero()
    return int(where[0, 0]) + 1 if item != NO_ITEM and len(where) else 0


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().numpy()
