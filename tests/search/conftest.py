"""The searchers that the shared tests run over. A new searcher joins by one line in SEARCHERS."""

from collections.abc import Callable

import pytest
import torch

from workbench.contracts import ItemState, Searcher, Similarity
from workbench.search import BruteForce
from workbench.search.sharded import Sharded, split

Build = Callable[[Similarity, ItemState], Searcher]

SEARCHERS: dict[str, Build] = {
    "brute force": BruteForce,
    "brute force, small tiles": lambda similarity, items: BruteForce(similarity, items, memory_budget=4096),
    "brute force, pair by pair": lambda similarity, items: BruteForce(similarity, items, memory_budget=1),
    "sharded": lambda similarity, items: Sharded(
        lambda part: BruteForce(similarity, part), split(items, parts=3)
    ),
}
"""Every entry must find the true top k of a corpus of a few items, whatever it does on a large one."""


@pytest.fixture(scope="session", params=SEARCHERS.values(), ids=SEARCHERS.keys())
def build(request: pytest.FixtureRequest) -> Build:
    """Makes a searcher for a similarity and an item state."""
    built: Build = request.param
    return built


DEVICES = ["cpu", *([pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="session", params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)
