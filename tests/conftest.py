"""Fixtures shared by the rooms' tests."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def _shared(folder: str) -> Path:
    return REPOSITORY.parent / "shared" / folder


def _movielens(name: str) -> Path:
    base = Path(os.environ.get("WORKBENCH_MOVIELENS", _shared("data")))
    folder = base / name
    if not folder.is_dir():
        pytest.skip(f"real MovieLens files not found at {folder}; set WORKBENCH_MOVIELENS to the folder that holds {name}/")
    return folder


@pytest.fixture(scope="session")
def movielens_1m() -> Path:
    """The folder of MovieLens 1M in its published format (ratings.dat, movies.dat, users.dat)."""
    return _movielens("ml-1m")


@pytest.fixture(scope="session")
def movielens_small() -> Path:
    """The folder of MovieLens latest-small in its published format (ratings.csv, movies.csv)."""
    return _movielens("ml-latest-small")
