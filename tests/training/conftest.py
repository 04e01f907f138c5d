"""A small world to train in: cyclic histories, so that a model can learn them in seconds."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.contracts import SequenceBatch
from workbench.data import Sequences, batch_of
from workbench.encoders import EncoderConfig, SASRecConfig
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import SimilarityConfig

USERS, ITEMS = 60, 25
MakeRetriever = Callable[..., Retriever]


def cyclic(users: int = USERS, items: int = ITEMS, seed: int = 0) -> Sequences:
    """Each user walks the items in order from a random start, a random number of steps, an hour each."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 11, users)
    offsets = np.concatenate([[0], lengths.cumsum()])
    steps = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    starts = np.repeat(generator.integers(items, size=users), lengths)
    return Sequences(
        name="cyclic",
        offsets=offsets,
        item_ids=(starts + steps) % items + 1,
        timestamps=1_000_000_000 + 3600 * steps,
        ratings=np.full(len(steps), 4, dtype=np.float32),
        items=pd.DataFrame(
            {"item_id": np.arange(100, 100 + items), "title": [f"item {i}" for i in range(items)]}
        ),
        users=pd.DataFrame({"user_id": np.arange(users)}),
    )


@pytest.fixture(scope="session")
def sequences() -> Sequences:
    return cyclic()


@pytest.fixture
def tiny_batch(sequences: Sequences) -> SequenceBatch:
    return batch_of(sequences, np.arange(7), held_out=2, max_length=8)


@pytest.fixture
def tiny_retriever() -> MakeRetriever:
    def make(similarity: SimilarityConfig, encoder: EncoderConfig | None = None, seed: int = 0) -> Retriever:
        config = RetrieverConfig(encoder or SASRecConfig(1, 1, 8, 0.0), similarity, dim=8, max_length=8)
        retriever = Retriever(config, ITEMS, seed)
        with torch.no_grad():
            retriever.item_table.weight.mul_(20)  # scores that tell items apart
        return retriever

    return make
