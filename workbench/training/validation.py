"""What a run measures after an epoch, and chooses its best one by."""

from dataclasses import replace

from workbench.data import Sequences
from workbench.evaluation.metrics import metrics
from workbench.evaluation.protocol import STRICT, effective_ranks
from workbench.evaluation.retrievers import rank_users
from workbench.retriever import Retriever
from workbench.training.config import TrainingConfig


def measure(retriever: Retriever, sequences: Sequences, config: TrainingConfig) -> dict[str, float]:
    """HR@10, NDCG@10 and MRR on the part that a run chooses on: what is looked at after an epoch.

    The strict protocol, but for the part, and for the request time, which an encoder that reads it is given.
    """
    protocol = replace(STRICT, part=config.choose_on, request_time=True)
    return metrics(effective_ranks(rank_users(retriever, sequences, protocol)), ks=(10,))
