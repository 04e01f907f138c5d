"""How much memory a call takes at its peak beyond what was held before it.

On a GPU: torch's allocator. On a CPU: the resident set of the process, whose free pages are first handed back and whose
peak is then reset (Linux); elsewhere it is not known, and NaN.
"""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Result = TypeVar("Result")


class Used(NamedTuple):
    """Bytes beyond those held before: `peak`, the most during the call; `kept`, after it, the result included."""

    peak: float
    kept: float


def measured(call: Callable[[], Result], device: torch.device) -> tuple[Result, Used]:
    """The call's result and the memory it used, in bytes.

    A call that needed less than some hundred kilobytes can read as 0: memory is counted in pages that the process did not
    hold before.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        torch.cuda.synchronize(device)
        peak, after = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
        return result, Used(float(peak - before), float(after - before))
    if not _reset_peak():
        return call(), Used(float("nan"), float("nan"))
    before = _status("VmRSS")
    result = call()
    peak = _status("VmHWM")
    _trim()
    return result, Used(float(max(0, peak - before)), float(max(0, _status("VmRSS") - before)))


def _trim() -> None:
    """Hand pages that were freed back to the system, if the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _reset_peak() -> bool:
    try:
        _trim()
        RESET.write_text("5")
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    assert found is not None  # every Linux with clear_refs has it
    return 1024 * int(found[1])
