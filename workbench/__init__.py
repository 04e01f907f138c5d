"""A workbench for retrieval with learned similarities.

import workbench as wb
data = wb.load_data("orders.csv")  # or a dataset's name, or a DataFrame
model = wb.train("cpu/hstu-mol", data)  # or wb.load("my-model")
model.recommend(history=["sku-1", "sku-7"], k=10)
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# torch's threads (GNU OpenMP, which reads this as torch loads it) wait for each other at the end of every operation. By
# default they spin for milliseconds, and where other programs want the cores too each wait lasts until the scheduler
# comes round: a small model then trains ten times slower and more. A short spin costs little on a quiet machine. What the
# command line starts (JupyterLab, the kernels of a report) inherits it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_EXPORTS = {
    "ColumnNames": "workbench.data.columns",
    "Index": "workbench.front_door",
    "Recommender": "workbench.front_door",
    "Retriever": "workbench.retriever",
    "from_embeddings": "workbench.front_door",
    "load": "workbench.front_door",
    "load_data": "workbench.front_door",
    "train": "workbench.front_door",
}
"""What `import workbench as wb` offers, imported when it is first used: `import workbench` and `--help` stay fast."""

__all__ = [
    "ColumnNames",
    "Index",
    "Recommender",
    "Retriever",
    "__version__",
    "from_embeddings",
    "load",
    "load_data",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})


if TYPE_CHECKING:
    from workbench.data.columns import ColumnNames
    from workbench.front_door import Index, Recommender, from_embeddings, load, load_data, train
    from workbench.retriever import Retriever
