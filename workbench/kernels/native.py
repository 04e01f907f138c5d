"""C++ of this package, compiled on demand for the processor at hand and kept in the user's cache folder."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from workbench import files

_log = logging.getLogger(__name__)

SECONDS_TO_COMPILE = 120
"""After that the compiler is stopped, and the torch version serves."""


class Unavailable(Exception):
    """Why there is no native library here."""


def cache_folder() -> Path:
    """Where compiled libraries are kept: `WORKBENCH_CACHE`, or a folder of ours in `XDG_CACHE_HOME` or `~/.cache`."""
    if configured := os.environ.get("WORKBENCH_CACHE"):
        return Path(configured).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "retrieval-workbench"


def reads(*tensors: Tensor | None, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> bool:
    """Whether C++ can read these (None: nothing to read): all on a CPU in one of `dtypes`; never in an exported program."""
    return not torch.compiler.is_exporting() and all(
        t is None or (t.device.type == "cpu" and t.dtype in dtypes) for t in tensors
    )


def struct(
    integers: Sequence[str], pointers: Sequence[str], *, doubles: Sequence[str] = ()
) -> type[ctypes.Structure]:
    """The argument of a native function: a struct of 64-bit integers, then doubles, then pointers, with these names."""
    kinds = {ctypes.c_int64: integers, ctypes.c_double: doubles, ctypes.c_void_p: pointers}
    fields = [(name, kind) for kind, names in kinds.items() for name in names]
    return type("Struct", (ctypes.Structure,), {"_fields_": fields})


@cache
def library(source: Path) -> ctypes.CDLL | None:
    """The library compiled from `source`; None, and one line in the log, if it is not available.

    It is compiled once for a source and the headers next to it, its flags and the processor's instruction set (a few
    seconds), under a temporary name that is then renamed: any number of processes may call this at once, and one that is
    interrupted leaves nothing that would be loaded. `WORKBENCH_NATIVE=0` turns it off; `CXX` names the compiler (otherwise
    c++, g++ or clang++).
    """
    if os.environ.get("WORKBENCH_NATIVE") == "0":
        _log.info("WORKBENCH_NATIVE=0: %s is not used, the torch version is", source.name)
        return None
    try:
        return ctypes.CDLL(str(built(source, cache_folder())))
    except (Unavailable, OSError) as error:
        _log.warning("%s is not used, and the slower torch version is: %s", source.name, error)
        return None


def built(source: Path, folder: Path) -> Path:
    """The library of `source` in `folder`, compiled if it is not there yet.

    Raises Unavailable if there is no compiler or it fails, or if others may write to the folder; OSError if the folder cannot
    be written.
    """
    flags = _flags()
    read = [source, *sorted(source.parent.glob("*.h"))]  # it may include any header next to it
    content = [path.read_bytes() for path in read]
    key = hashlib.sha256(b"\0".join([*content, " ".join(flags).encode(), _instruction_set().encode()]))
    target = folder / f"{source.stem}-{key.hexdigest()[:20]}.so"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_owner(folder)
    if _is_whole(target):
        return target
    with files.lock(target, wait=True):
        if not _is_whole(target):  # or another process was faster
            with files.atomic_write(target) as made:
                _compile(source, flags, made)
            files.write_text(_digest(target), _digest_file(target))
    return target


def _is_whole(library: Path) -> bool:
    """Whether a compiled library is as it was written: to load one that was cut off would end the process."""
    try:
        return _digest_file(library).read_text(encoding="utf-8") == _digest(library)
    except (OSError, UnicodeDecodeError):
        return False


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()


def _flags() -> list[str]:
    processor = "-march=native" if platform.machine().lower() in ("x86_64", "amd64") else "-mcpu=native"
    # No -ffast-math: NaN and infinite values must come through, and sums keep their order.
    return [
        processor,
        "-O3",
        "-std=c++17",
        "-ffp-contract=fast",
        "-fno-math-errno",
        "-fPIC",
        "-shared",
        "-pthread",
        "-w",
    ]


def _instruction_set() -> str:
    """What distinguishes processors that share a home folder: what was compiled for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    features = [line for line in lines if line.lower().startswith(("flags", "features"))]
    return f"{platform.system()} {platform.machine()} {features[0] if features else platform.processor()}"


def _check_owner(folder: Path) -> None:
    """The folder's content is loaded as code, so nobody else may write to it."""
    if not hasattr(os, "getuid"):
        return
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise Unavailable(f"{folder} can be written by others; set WORKBENCH_CACHE to a folder of your own")


def _compile(source: Path, flags: list[str], made: Path) -> None:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        raise Unavailable(f"there is no C++ compiler here (looked for {', '.join(names)})")
    _log.info("compiling %s for this processor: some seconds, once", source.name)
    try:
        done = subprocess.run(
            [compiler, *flags, "-o", str(made), str(source)],
            capture_output=True,
            text=True,
            timeout=SECONDS_TO_COMPILE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{compiler} took more than {SECONDS_TO_COMPILE} s") from error
    if done.returncode != 0 or not made.is_file():
        said = done.stderr.strip().splitlines()
        raise Unavailable(f"{compiler} failed: {said[0] if said else f'exit status {done.returncode}'}")
