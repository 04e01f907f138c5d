"""What a run measures after an epoch, to choose its best one."""

import torch

from workbench.data import Batches, Sequences
from workbench.retriever import Retriever
from workbench.training.config import TrainingConfig


@torch.no_grad()
def measure(retriever: Retriever, sequences: Sequences, config: TrainingConfig) -> dict[str, float]:
    """HR@10, NDCG@10 and MRR over the whole corpus on the part that the run chooses on, the window's items left out."""
    items = retriever.item_state()
    ranks = []
    for batch in Batches(sequences, config.choose_on, 256, retriever.config.max_length):
        b = batch.to(retriever.device)
        scores = retriever.similarity.score_candidates(
            retriever.query_state(b), items, torch.arange(len(items)).expand(len(b), -1)
        )
        target = scores.gather(1, b.target_ids[:, None] - 1)
        scores.scatter_(1, (b.item_ids - 1).clamp(min=0), -torch.inf)
        hidden = (b.item_ids == b.target_ids[:, None]).any(1)
        r = 1 + (scores > target).sum(1)
        ranks.append(torch.where(hidden, len(items) + 1, r))
    r = torch.cat(ranks).double()
    hit = (r <= 10).double()
    return {
        "HR@10": float(hit.mean()),
        "NDCG@10": float((hit / (r + 1).log2()).mean()),
        "MRR": float((1 / r).mean()),
    }
