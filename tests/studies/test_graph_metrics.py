"""The study of graph metrics on a small model: graphs of each metric are walked, and lists that hold all find all."""

from pathlib import Path

import torch

from workbench.bench.workloads import Inflated, build
from workbench.studies.graph_metrics import METRICS, by_scores, compare


def test_walks_over_graphs_of_every_metric_find_the_best(workbench_root: Path) -> None:
    workload = build(Inflated("cycles-sasrec-mol", 400), 24, 0, torch.device("cpu"))
    table = compare(workload, (20, 400), degree=8, k=10)
    assert list(zip(table["neighbours by"], table["ef"], strict=True)) == [
        (metric, ef) for metric in METRICS for ef in (20, 400)
    ]
    assert (table.loc[table["ef"] == 400, "recall"] == 1).all() and (table["recall"] > 0.5).all()
    few, all_of_them = (table.loc[table["ef"] == ef, "scored"].to_numpy() for ef in (20, 400))
    assert (few <= all_of_them).all()


def test_items_are_near_if_queries_score_them_alike(workbench_root: Path) -> None:
    workload = build(Inflated("cycles-sasrec-mol", 50), 8, 0, torch.device("cpu"))
    with torch.no_grad():
        vectors = by_scores(workload)
        scores = workload.similarity.score(workload.sample, workload.items)
    assert vectors.shape == (50, len(workload.sample))
    torch.testing.assert_close(vectors[3] - vectors[7], scores[:, 3] - scores[:, 7])
    torch.testing.assert_close(vectors.mean(0), torch.zeros(len(workload.sample)), rtol=0, atol=1e-4)
