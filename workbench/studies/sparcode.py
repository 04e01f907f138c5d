"""SparCode compared with its baselines: two towers, All-to-All, popularity and a tree over the same scorer."""

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor

from workbench.baselines.popularity import Popularity
from workbench.baselines.ranking import rank_users
from workbench.data import Sequences
from workbench.evaluation.metrics import metrics
from workbench.evaluation.protocol import STRICT, effective_ranks
from workbench.models.model_store import TrainedModel
from workbench.runtime import generator
from workbench.search.tree import TreeBeam, cluster
from workbench.studies.sparsity import LONGEST, served

SHOWN = ("HR@10", "HR@50", "HR@200", "NDCG@10", "MRR")
SHORT = ("HR@10", "HR@50", "NDCG@10")
"""Metrics of lists of 50."""


def measured(models: Iterable[tuple[dict[str, str], TrainedModel]]) -> pd.DataFrame:
    """One row per trained model: its labels, the metrics of `SHOWN` with the interval of NDCG@10, epochs and minutes."""
    rows = []
    for labels, trained in models:
        values = trained.metrics.set_index("metric")
        row: dict[str, object] = {**labels}
        row |= {name: values.loc[name, "value"] for name in SHOWN}
        row |= {"low": values.loc["NDCG@10", "low"], "high": values.loc["NDCG@10", "high"]}
        row |= {"epochs": len(trained.history), "minutes": trained.history["seconds"].sum() / 60}
        rows.append(row)
    return pd.DataFrame(rows)


def popularity(sequences: Sequences) -> dict[str, float]:
    """The metrics of `SHOWN` of the most popular items under the strict protocol."""
    found = metrics(effective_ranks(rank_users(Popularity(sequences), sequences, STRICT)), ks=(10, 50, 200))
    return {name: found[name] for name in SHOWN}


def tree_beams(
    trained: TrainedModel, sequences: Sequences, beams: Iterable[int] = (10, 50, 200, 1000)
) -> pd.DataFrame:
    """A tree over the items of a SparCode retriever, searched by beams with its own scorer: `beam`, `SHORT`, `num_scored`.

    Inner nodes are the means of their items' embeddings: not trained, as TDM's are.
    """
    retriever = trained.retriever()
    asked = served(retriever, sequences)
    embeddings = retriever.item_table.weight.detach()[1:]
    tree = cluster(embeddings, generator(0))
    means = tree.means(embeddings)
    with torch.no_grad():
        nodes = retriever.similarity.items(means, torch.arange(1, len(means) + 1))
    rows = []
    for beam in beams:
        found = TreeBeam(retriever.similarity, asked.items, tree, nodes, beam).search(
            asked.queries, min(LONGEST, len(asked.items)), asked.exclude
        )
        rows.append(
            {
                "beam": beam,
                **list_quality(found.ids, asked.targets),
                "num_scored": float(found.num_scored.float().mean()),
            }
        )
    return pd.DataFrame(rows)


def list_quality(found: Tensor, targets: Tensor) -> dict[str, float]:
    """The metrics of `SHORT` from lists of ids (B, K) and each user's target (B,); those at more than K are those at K."""
    hit = found == targets[:, None]
    ranks = torch.where(hit.any(1), 1.0 + hit.int().argmax(1), float("inf")).cpu().numpy()
    values = metrics(ranks, ks=(10, 50))
    return {name: values[name] for name in SHORT}
