"""What a result came from: code, versions, machine, commit, and the files that a notebook may have read."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
import torch

from workbench.loading import read_json
from workbench.source import commit

DISTRIBUTION = "retrieval-workbench"
_NOT_NOTEBOOK_CODE = ("cli", "reporting")
_DERIVED = "ranks.parquet"
"""A checkpoint's ranks, measured from its other files when they are needed: no input of a notebook."""


@dataclass(frozen=True)
class Machine:
    """The machine of a run; `memory_gib` in GiB."""

    system: str
    cpu: str
    cores: int
    memory_gib: float
    gpus: tuple[str, ...]

    def words(self) -> str:
        """The machine in a line, for people."""
        gpus = f", {', '.join(self.gpus)}" if self.gpus else ""
        cores = f"{self.cores} core{'' if self.cores == 1 else 's'}"
        return f"{self.cpu}, {cores}, {self.memory_gib:.0f} GiB{gpus}"


@dataclass(frozen=True)
class Provenance:
    """The origin of a notebook's results; `commit` is None outside a git checkout, `dirty`: whether it had changes."""

    code: str
    versions: dict[str, str]
    machine: Machine
    commit: str | None
    dirty: bool | None

    def commit_words(self) -> str:
        """The commit in short, and whether the files differ from it."""
        return f"{(self.commit or 'none')[:12]}{' with local changes' if self.dirty else ''}"

    def as_json(self) -> dict[str, object]:
        """The record as plain dictionaries and lists."""
        return asdict(self)


def provenance(root: Path) -> Provenance:
    """Of this moment, this machine, and the checkout at `root`."""
    return Provenance(code_digest(), versions(), _machine(), *commit(root))


def versions() -> dict[str, str]:
    """The installed versions of Python and of every package that a notebook can use: those for tests are left out."""
    found = {"python": platform.python_version()}
    wanted = [
        text for text in requires(DISTRIBUTION) or () if "extra == 'test'" not in text.replace('"', "'")
    ]
    for requirement in wanted:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        try:
            found[name.lower()] = version(name)
        except PackageNotFoundError:
            continue
    found["torch"] = torch.__version__  # which includes the build
    return dict(sorted(found.items()))


def code_digest(package: Path | None = None) -> str:
    """A digest of the package's code that a notebook can run: all but the command line and the report's own machinery."""
    folder = package or Path(__file__).resolve().parent.parent
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and "__pycache__" not in path.parts
        and path.relative_to(folder).parts[0] not in _NOT_NOTEBOOK_CODE
    ]
    return _digest((path.relative_to(folder).as_posix(), path.read_bytes()) for path in files)


def text_digest(*parts: str) -> str:
    """A digest of several texts, with their boundaries."""
    return _digest((str(position), part.encode()) for position, part in enumerate(parts))


def inputs(root: Path, dataset: str) -> dict[str, str]:
    """A digest of each folder that a notebook may read: `data/<dataset>`, and `ckpts/<name>` of the same dataset.

    A generated dataset has a folder for each seed, `data/<dataset>-seed<n>`. A checkpoint's dataset is in its `config.json`;
    one without it counts for every dataset. The states of unfinished training in `ckpts/runs` do not count: what comes of
    them lies in `ckpts`. Folders that are missing, or hold no file, are left out. Contents count, times of modification do
    not.
    """
    folders = [root / "data" / dataset, *sorted((root / "data").glob(f"{dataset}-seed*"))]
    checkpoints = [path for path in sorted((root / "ckpts").glob("*/")) if path.name != "runs"]
    folders += [path for path in checkpoints if _dataset_of(path) in (None, dataset)]
    digests = {folder.relative_to(root).as_posix(): _folder_digest(folder) for folder in folders}
    return {name: digest for name, digest in digests.items() if digest}


def _dataset_of(checkpoint: Path) -> str | None:
    """The dataset that a checkpoint was trained on; None if it is not stored."""
    try:
        dataset = read_json(checkpoint / "config.json", "").get("dataset")
    except (OSError, ValueError):
        return None
    return dataset if isinstance(dataset, str) else None


def _folder_digest(folder: Path) -> str:
    """A digest of the names and contents of a folder's files; empty if it has none."""
    found = {}
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file() and path.name != _DERIVED:
                state = path.stat()
                found[path.relative_to(folder).as_posix()] = _file_digest(
                    path, state.st_size, state.st_mtime_ns
                )
        except FileNotFoundError:  # a file of a run in progress, renamed under our eyes
            continue
    return _digest((name, digest.encode()) for name, digest in found.items()) if found else ""


@lru_cache(maxsize=4096)
def _file_digest(path: Path, size: int, modified_ns: int) -> str:
    """A digest of a file's contents, remembered while its size and time of modification stay."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _digest(parts: Iterable[tuple[str, bytes]]) -> str:
    whole = hashlib.blake2b(digest_size=16)
    for name, content in parts:
        whole.update(f"{len(name)}:{name}:{len(content)}:".encode())
        whole.update(content)
    return whole.hexdigest()


def _machine() -> Machine:
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        names = re.findall(r"^model name\s*:\s*(.+)$", information.read_text(), flags=re.MULTILINE)
        cpu = names[0] if names else cpu
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu,
        cores=_cores(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpus=_gpus(),
    )


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> tuple[str, ...]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    done = subprocess.run(
        [command, "--query-gpu=name", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return tuple(done.stdout.split("\n")[:-1]) if done.returncode == 0 else ()
