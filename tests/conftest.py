"""Fixtures shared by the rooms' tests."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jaxtyping import install_import_hook

# Annotated shapes and types are checked in every call, but in the command line, where typer puts in a context of its own
# kind. (beartype cannot see what Self stands for in a single method.)
ROOMS = (
    *("contracts", "runtime", "data", "encoders", "kernels", "similarities", "retriever"),
    *("search", "training", "evaluation", "bench", "theory", "anatomy", "explore", "reporting"),
)
CHECKER = (
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True,"
    " hint_overrides=beartype.FrozenDict({__import__('typing').Self: object})))"
)
install_import_hook([f"workbench.{room}" for room in ROOMS], CHECKER)

from workbench.data import Sequences, storage  # noqa: E402
from workbench.encoders import SASRecConfig  # noqa: E402
from workbench.retriever import Retriever, RetrieverConfig  # noqa: E402
from workbench.similarities import (  # noqa: E402
    DeepRetrievalConfig,
    MoLConfig,
    SimilarityConfig,
    SparCodeConfig,
)
from workbench.similarities.sparcode.quantizer import QuantizerConfig  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with slow tests come first."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def _shared(folder: str) -> Path:
    return REPOSITORY.parent / "shared" / folder


def _movielens(name: str) -> Path:
    base = Path(os.environ.get("WORKBENCH_MOVIELENS", _shared("data")))
    folder = base / name
    if not folder.is_dir():
        pytest.skip(
            f"real MovieLens files not found at {folder}; set WORKBENCH_MOVIELENS to the folder that holds {name}/"
        )
    return folder


@pytest.fixture(scope="session")
def movielens_1m() -> Path:
    """The folder of MovieLens 1M in its published format (ratings.dat, movies.dat, users.dat)."""
    return _movielens("ml-1m")


@pytest.fixture(scope="session")
def movielens_small() -> Path:
    """The folder of MovieLens latest-small in its published format (ratings.csv, movies.csv)."""
    return _movielens("ml-latest-small")


@pytest.fixture(scope="session")
def cycles() -> Callable[..., Sequences]:
    """Makes a dataset of 40 users who walk through 30 items in steps of `step`, 12 items each: the next is certain."""

    def made(step: int = 1, users: int = 40, items: int = 30, length: int = 12) -> Sequences:
        starts = np.arange(users) % items
        ids = ((starts[:, None] + step * np.arange(length)) % items + 1).ravel()
        titles = [f"item {i}" for i in range(items)]
        return Sequences(
            name="cycles",
            offsets=np.arange(users + 1, dtype=np.int64) * length,
            item_ids=ids.astype(np.int64),
            timestamps=np.tile(np.arange(length, dtype=np.int64) * 60, users),
            ratings=np.full(users * length, np.nan, dtype=np.float32),
            items=pd.DataFrame({"item_id": np.arange(items), "title": titles, "genres": "a"}),
            users=pd.DataFrame({"user_id": np.arange(users)}),
        )

    return made


SMALL: dict[str, SimilarityConfig] = {
    "mol": MoLConfig(2, 2, 4, query_hidden=8, gate_query=4, gate_item=4, gate_pair=4),
    "sparcode": SparCodeConfig(2, 2, 4, hidden=(6,), quantizer=QuantizerConfig(2, 6)),
    "paths": DeepRetrievalConfig(
        depth=2, width=4, paths=2, node_dim=4, hidden=8, candidates=8, candidate_beam=16
    ),
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, cycles: Callable[..., Sequences]) -> str:
    """The folder of a checkpoint of untrained weights, a mixture, in a root of its own where its data is prepared too.

    Next to it are `cycles-sasrec-sparcode` and `cycles-sasrec-paths`, of the same data.
    """
    root = tmp_path_factory.mktemp("root")
    sequences = cycles()
    (root / "data").mkdir()
    storage.save(sequences, root / "data" / "cycles", {})
    for name, similarity in SMALL.items():
        config = RetrieverConfig(SASRecConfig(1, 1, 8, 0.0), similarity, 8, 10)
        retriever = Retriever(config, sequences.num_items)
        retriever.save(
            root / "ckpts" / f"cycles-sasrec-{name}", dataset="cycles", fingerprint=sequences.fingerprint()
        )
    return str(root / "ckpts" / "cycles-sasrec-mol")


@pytest.fixture
def workbench_root(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workbench's folders are those of the tiny checkpoint."""
    folder = Path(checkpoint).parents[1]
    monkeypatch.setenv("WORKBENCH_ROOT", str(folder))
    return folder
