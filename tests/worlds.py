"""A small world to train in, for tests and for the processes that they start."""

import numpy as np
import pandas as pd

from workbench.data import Sequences
from workbench.encoders import (
    BERT4RecConfig,
    EncoderConfig,
    ESASRecConfig,
    GRU4RecConfig,
    HSTUConfig,
    SASRecConfig,
    TwoTowerConfig,
)
from workbench.retriever import RetrieverConfig
from workbench.similarities import DeepRetrievalConfig, DotConfig, MoLConfig, SimilarityConfig, SparCodeConfig
from workbench.similarities.sparcode.quantizer import QuantizerConfig
from workbench.training.config import TrainingConfig
from workbench.training.losses import LossConfig

USERS, ITEMS, DIM, LENGTH = 60, 25, 8, 8

ENCODERS: dict[str, EncoderConfig] = {
    "sasrec": SASRecConfig(1, 2, 12, 0.2),
    "esasrec": ESASRecConfig(1, 2, 2, 0.2),
    "hstu": HSTUConfig(1, 2, 4, 4, 0.2),
    "gru4rec": GRU4RecConfig(hidden_dim=8, layers=1, dropout=0.2),
    "bert4rec": BERT4RecConfig(blocks=1, heads=2, ffn_dim=12, dropout=0.2),
    "two_tower": TwoTowerConfig(hidden_dims=(12,), dropout=0.2),
}
SIMILARITIES: dict[str, SimilarityConfig] = {
    "dot": DotConfig(),
    "mol": MoLConfig(3, 2, 4, query_hidden=8, user_tables=(7,), gate_query=6, gate_item=6, gate_pair=6),
    "paths": DeepRetrievalConfig(
        depth=2,
        width=4,
        paths=2,
        node_dim=4,
        hidden=8,
        alpha=1e-3,
        candidates=8,
        candidate_beam=16,
        beam=4,
        decay=0.5,
    ),
}
KINDS = [f"{encoder}-{similarity}" for encoder in ENCODERS for similarity in SIMILARITIES] + [
    "sasrec-sparcode"
]
SIMILARITIES["sparcode"] = SparCodeConfig(
    2, 2, 4, hidden=(6,), quantizer=QuantizerConfig(2, 6, decay=0.9, gradient="straight-through")
)


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


def retriever_config(kind: str) -> RetrieverConfig:
    """`sasrec-mol` and the like."""
    encoder, similarity = kind.split("-")
    return RetrieverConfig(ENCODERS[encoder], SIMILARITIES[similarity], DIM, LENGTH)


def training_config(epochs: int = 4) -> TrainingConfig:
    """Four steps an epoch, with everything that draws random numbers switched on."""
    return TrainingConfig(
        epochs=epochs,
        batch_size=16,
        learning_rate=1e-2,
        weight_decay=1e-3,
        warmup_steps=5,
        clip_norm=1.0,
        loss=LossConfig(count=8),
        positions_per_step=40,
        seed=3,
    )
