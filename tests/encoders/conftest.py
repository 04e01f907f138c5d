"""Batches and encoders that the encoder tests share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from workbench.contracts import SequenceBatch

MakeBatch = Callable[..., SequenceBatch]


@pytest.fixture
def make_batch() -> MakeBatch:
    """From histories (lists of item ids) to a batch, padded to `width`; times depend on positions alone."""

    def make(
        histories: list[list[int]], width: int | None = None, targets: list[int] | None = None
    ) -> SequenceBatch:
        width = max(map(len, histories)) if width is None else width
        lengths = torch.tensor([len(history) for history in histories])
        item_ids = torch.tensor([history + [0] * (width - len(history)) for history in histories])
        valid = item_ids != 0
        hours = torch.arange(width).expand(len(histories), width) ** 2 + 3
        return SequenceBatch(
            item_ids=item_ids,
            timestamps=torch.where(valid, 1_000_000_000 + 3600 * hours, 0),
            ratings=torch.where(valid, (item_ids % 5 + 1).float(), 0.0),
            lengths=lengths,
            user_ids=torch.arange(len(histories)),
            target_ids=torch.ones_like(lengths) if targets is None else torch.tensor(targets),
            target_timestamps=1_000_000_000 + 3600 * (lengths**2 + 3),
        )

    return make


@pytest.fixture(scope="session")
def item_table() -> Tensor:
    """Embeddings (41, 16) of 40 items, with zeros for padding."""
    table = torch.randn(41, 16, generator=torch.Generator().manual_seed(7))
    table[0] = 0
    return table
