"""Queries at training positions, for parts that are fitted to a trained encoder instead of trained with it."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.data import Batches, Sequences
from workbench.retriever import Retriever
from workbench.runtime import derived_seed, generator
from workbench.training.config import TrainingConfig
from workbench.training.loop import targets_of


def training_rows(
    retriever: Retriever, sequences: Sequences, training: TrainingConfig, most: int, seed: int
) -> tuple[Float[Tensor, "T D"], Int[Tensor, "T"]]:
    """Query embeddings in evaluation mode at up to `most` training positions, users in random order, and what was chosen."""
    draws = generator(derived_seed(seed, 0))
    batches = Batches(
        sequences,
        training.part,
        training.batch_size,
        retriever.config.max_length,
        seed=seed,
        window=training.window,
    )
    found, ids, count = [], [], 0
    with torch.no_grad():
        for batch in batches:
            given, targets = targets_of(
                batch, retriever.encoder.objective, training, retriever.config.max_length, draws
            )
            found.append(retriever(given).flatten(0, 1).index_select(0, targets.positions))
            ids.append(targets.target_ids)
            count += len(targets)
            if count >= most:
                break
    return torch.cat(found)[:most], torch.cat(ids)[:most]
