"""Baselines under the leave-one-out protocols, ranked as trained models are."""

import pandas as pd
import torch

from workbench.baselines.baseline import Baseline
from workbench.data import Batches, Sequences
from workbench.evaluation.protocol import Protocol
from workbench.evaluation.ranks import joined, ranks_of_scores, table_of

BATCH = 256


def rank_users(baseline: Baseline, sequences: Sequences, protocol: Protocol) -> pd.DataFrame:
    """The rank of every user's held-out item (see `evaluation.ranks.rank_table`) from the whole history before it.

    Raises ValueError if the protocol masks anything but the whole history or ranks anything but the whole catalogue: a
    baseline has no window, and scores every item.
    """
    if protocol.history_mask != "all" or protocol.corpus != "catalogue":
        raise ValueError(
            "baselines are ranked over the whole catalogue with the whole history left out, not with history mask"
            f" {protocol.history_mask!r} and corpus {protocol.corpus!r}"
        )
    frames = []
    for batch in Batches(sequences, protocol.part, BATCH, max_length=1):
        users = batch.need("user_ids")
        histories = torch.from_numpy(sequences.history(users.numpy(), protocol.part))
        targets = batch.need("target_ids") - 1
        frames.append(
            table_of(batch, ranks_of_scores(baseline.scores(histories, users), targets, histories - 1))
        )
    return joined(frames)
