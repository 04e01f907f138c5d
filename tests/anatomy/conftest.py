"""A small mixture to take apart, untrained but with scores that tell items apart."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from workbench.anatomy import ModelView
from workbench.data import Sequences
from workbench.encoders import SASRecConfig
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import DotConfig, MoLConfig, SimilarityConfig

MOL = MoLConfig(3, 2, 4, query_hidden=8, gate_query=6, gate_item=6, gate_pair=6)


@pytest.fixture(scope="session")
def world(cycles: Callable[..., Sequences]) -> Sequences:
    """40 users, 30 items, each with one genre or two."""
    sequences = cycles()
    genres = [f"even|g{i % 3}" if i % 2 == 0 else f"g{i % 3}" for i in range(sequences.num_items)]
    return replace(sequences, items=sequences.items.assign(genres=genres))


@pytest.fixture(scope="session")
def subject_of(world: Sequences) -> Callable[[SimilarityConfig], ModelView]:
    """The subject with a similarity of this configuration, and item embeddings that are far apart."""

    def made(similarity: SimilarityConfig, name: str = "SASRec + MoL") -> ModelView:
        retriever = Retriever(RetrieverConfig(SASRecConfig(1, 1, 8, 0.0), similarity, 8, 12), world.num_items)
        with torch.no_grad():
            retriever.item_table.weight.mul_(40)
        return ModelView.of(name, retriever.eval(), world)

    return made


@pytest.fixture(scope="session")
def mol(subject_of: Callable[[SimilarityConfig], ModelView]) -> ModelView:
    return subject_of(MOL)


@pytest.fixture(scope="session")
def dot(subject_of: Callable[..., ModelView]) -> ModelView:
    return subject_of(DotConfig(), "SASRec + dot")
