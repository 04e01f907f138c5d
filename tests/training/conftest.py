"""What the tests of training share."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from worlds import DIM, ITEMS, LENGTH, cyclic

from workbench.contracts import SequenceBatch
from workbench.data import Sequences, batch_of
from workbench.encoders import SASRecConfig
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import SimilarityConfig

MakeRetriever = Callable[[SimilarityConfig], Retriever]


@pytest.fixture(scope="session")
def sequences() -> Sequences:
    return cyclic()


@pytest.fixture
def tiny_batch(sequences: Sequences) -> SequenceBatch:
    return batch_of(sequences, np.arange(7), part="train", max_length=LENGTH)


@pytest.fixture
def tiny_retriever() -> MakeRetriever:
    def make(similarity: SimilarityConfig) -> Retriever:
        config = RetrieverConfig(SASRecConfig(1, 1, DIM, 0.0), similarity, DIM, LENGTH)
        retriever = Retriever(config, ITEMS)
        with torch.no_grad():
            retriever.item_table.weight.mul_(20)  # scores that tell items apart
        return retriever

    return make
