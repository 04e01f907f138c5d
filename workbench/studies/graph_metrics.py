"""Between which items a graph is best drawn: near by their components, by their average, or by the scores that queries give."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.bench.workloads import Inflated, Trained, Workload, build
from workbench.data import load
from workbench.runtime import stopwatch
from workbench.search import BruteForce
from workbench.search.graph_search import GraphSearch
from workbench.search.proximity_graph import ProximityGraph
from workbench.studies.engines import shared
from workbench.studies.study import Models, Study, register
from workbench.training.presets import preset

NEAREST = 32
"""Items among which the neighbours of an item are chosen."""


def by_scores(workload: Workload) -> Float[Tensor, "N S"]:
    """For each item its learned scores with S queries of other users, less the mean item's: near if retrieved together."""
    scores = workload.similarity.score(workload.sample, workload.items).T
    return scores - scores.mean(0)


METRICS: dict[str, Callable[[Workload], Float[Tensor, "N d"]]] = {
    "all components": lambda workload: workload.similarity.item_components(workload.items).flatten(1),
    "average component": lambda workload: workload.similarity.item_components(workload.items).mean(1),
    "scores of queries": by_scores,
}
"""What makes a vector of an item, by name: items are near if the cosine of their vectors is large."""


@register
@dataclass(frozen=True)
class GraphMetrics(Study):
    """One trained mixture searched by walks over graphs whose neighbours are near by each of `METRICS`.

    The cosine of all components, end to end, is the mean of the products of components with the same number; that of average
    components the mean over all pairs of them. `items`: sizes of the corpus (0: as it is); `efs`: lists of the walks;
    `recall`: of the true top `k`; `scored`: items scored for a query.
    """

    name: ClassVar[str] = "graph-metrics"
    question: ClassVar[str] = (
        "Which items should be neighbours in a graph that is walked by the learned score?"
    )
    minutes: ClassVar[float] = 15
    model: str = "cpu/hstu-mol"
    dataset: str | None = None
    items: tuple[int, ...] = (0, 30_000)
    efs: tuple[int, ...] = (100, 200, 400)
    degree: int = 24
    k: int = 100
    queries: int = 256

    def presets(self) -> tuple[str, ...]:
        """The model."""
        return (self.model,)

    def table(self, models: Models) -> pd.DataFrame:
        """One row per corpus, metric and `ef`."""
        made = preset(self.model)
        folder = str(models.require(made, load(self.dataset or made.dataset)).folder)
        specs = [Inflated(folder, items) if items else Trained(folder) for items in self.items]
        rows = [
            compare(build(spec, self.queries, 0, torch.device("cpu")), self.efs, self.degree, self.k)
            for spec in specs
        ]
        return pd.concat(rows, ignore_index=True)


@torch.no_grad()
def compare(workload: Workload, efs: tuple[int, ...], degree: int, k: int) -> pd.DataFrame:
    """A row for each metric and `ef` over a workload; see `GraphMetrics`."""
    mol, items = workload.similarity, workload.items
    truth = BruteForce(mol, items).search(workload.queries, k, workload.exclude).ids
    rows = []
    for metric, vectors in METRICS.items():
        with stopwatch(workload.device) as building:
            graph = ProximityGraph.build(vectors(workload).contiguous(), degree, NEAREST)
        for ef in efs:
            walking = GraphSearch(mol, items, ef, degree, graph=graph)
            found = walking.search(workload.queries, k, workload.exclude)
            rows.append(
                {
                    "items": len(items),
                    "neighbours by": metric,
                    "ef": ef,
                    "recall": shared(found.ids, truth),
                    "scored": float(found.num_scored.double().mean()),
                    "build_s": building.seconds,
                }
            )
    return pd.DataFrame(rows)
