"""A trained retriever under a protocol: from users' held-out items to ranks and metrics."""

import pandas as pd
import torch
from torch import Tensor

from workbench.contracts import ItemState, QueryState, Searcher, SequenceBatch, Similarity
from workbench.data import Batches, Sequences
from workbench.evaluation.protocol import Protocol
from workbench.evaluation.ranks import rank_table
from workbench.retriever import Retriever
from workbench.search.path_beam import PathBeam
from workbench.similarities.deep_retrieval.similarity import DeepRetrieval, DeepRetrievalItems

EVALUATION_BATCH = 256


def rank_users(
    retriever: Retriever,
    sequences: Sequences,
    protocol: Protocol,
    *,
    progress: bool = False,
    brute_force: bool = False,
) -> pd.DataFrame:
    """The rank of every user's held-out item (see `evaluation.ranks.rank_table`), under `protocol`.

    Deep Retrieval scores only what its beam reaches, so it is ranked by its own index; `brute_force` ranks what its reranker
    alone would do over the whole corpus. All other similarities are ranked by brute force.

    Raises ValueError if the retriever has another number of items than the dataset.
    """
    check_same_items(retriever, sequences)
    device = retriever.device

    def encode(batch: SequenceBatch) -> QueryState:
        if not protocol.request_time:
            batch = batch.at_last_interaction()
        return retriever.query_state(batch.to(device))

    def whole_history(batch: SequenceBatch) -> Tensor:
        history = sequences.history(batch.need("user_ids").numpy(), protocol.part)
        return torch.from_numpy(history).to(device)

    def exclude(batch: SequenceBatch) -> Tensor | None:
        ids = protocol.exclude(whole_history)(batch)
        return None if ids is None else ids.to(device)

    batches = Batches(sequences, protocol.part, EVALUATION_BATCH, retriever.config.max_length)
    was_training = retriever.training
    retriever.eval()
    try:
        with torch.no_grad():
            items = retriever.item_state(_corpus(sequences, protocol).to(device))
            searcher = None if brute_force else own_index(retriever.similarity, items)
            return rank_table(
                batches, encode, retriever.similarity, items, exclude, progress=progress, searcher=searcher
            )
    finally:
        retriever.train(was_training)


def own_index(similarity: Similarity, items: ItemState) -> Searcher | None:
    """The index that is part of a similarity, because it decides what is scored at all; None for most."""
    if isinstance(similarity, DeepRetrieval) and isinstance(items, DeepRetrievalItems):
        return PathBeam.of(similarity, items)
    return None


def check_same_items(retriever: Retriever, sequences: Sequences) -> None:
    """ValueError if `retriever` was built for another number of items than `sequences` has."""
    if retriever.num_items != sequences.num_items:
        raise ValueError(
            f"the retriever has {retriever.num_items} items and {sequences.name} has {sequences.num_items}:"
            " it was trained on another dataset"
        )


def _corpus(sequences: Sequences, protocol: Protocol) -> Tensor:
    """The candidates' ids: every item of the table, or those that anyone has interacted with."""
    ids = torch.arange(1, sequences.num_items + 1)
    if protocol.corpus == "catalogue":
        return ids
    return torch.from_numpy(sequences.item_ids).unique()
