"""Where data, checkpoints, notebooks and reports live. Imports nothing of ours."""

import os
from pathlib import Path


def root() -> Path:
    """The folder that holds `notebooks/`, `data/`, `ckpts/` and `reports/`.

    `WORKBENCH_ROOT` if it is set; otherwise the checkout that this package was installed from (an editable install), and the
    current folder as the last resort.
    """
    if configured := os.environ.get("WORKBENCH_ROOT"):
        return Path(configured).expanduser().resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def data() -> Path:
    """Prepared datasets, one folder each; `data/raw` holds downloads."""
    return root() / "data"


def checkpoints() -> Path:
    """Trained retrievers, one folder each."""
    return root() / "ckpts"


def notebooks() -> Path:
    """The paired notebooks."""
    return root() / "notebooks"


def reports() -> Path:
    """What `workbench report` writes."""
    return root() / "reports"
