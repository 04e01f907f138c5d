"""Studies look for data and checkpoints in the folders of the tiny checkpoint."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def root(workbench_root: Path) -> Path:
    """The workbench's folders are those of the tiny checkpoint."""
    return workbench_root
