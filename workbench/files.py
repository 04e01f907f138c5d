"""Files and folders written whole or not at all, replaced only if this program made them, locked while in use.

Imports nothing of ours.
"""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

logger = logging.getLogger(__name__)

LONGEST_NAME = 128
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ABSENT = object()
_held = threading.local()


@dataclass(frozen=True)
class Kind:
    """A kind of folder that this program makes, and how to recognise one.

    `name` is what messages call it. `files` are patterns of all names that such a folder may hold: anything else in it
    belongs to the user. `settings` returns what a folder was made from (data, configuration, seed), or None if the
    folder is not of this kind; it raises ValueError or OSError if the folder is damaged.
    """

    name: str
    files: tuple[str, ...]
    settings: Callable[[Path], Mapping[str, Any] | None]


def check_name(name: object, of: str = "a folder") -> str:
    """The name, if it can be one component of a path: letters, digits, `.`, `_` and `-`, the first a letter or a digit.

    Raises ValueError for anything else (`../x`, `.hidden`, the empty name, more than 128 characters).

    >>> check_name("ml-1m")
    'ml-1m'
    """
    if isinstance(name, str) and re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}", name):
        return name
    raise ValueError(
        f"{str(name)[:LONGEST_NAME]!r} cannot name {of}: use letters, digits, '.', '_' and '-', the first a letter or a"
        f" digit, at most {LONGEST_NAME} characters"
    )


# Files.


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; what the block writes there becomes `path` if the block succeeds.

    The folder is made if it is missing. The content is flushed to disk before the rename. If the block fails or its
    process is killed, `path` is what it was; the next write of it removes what a killed process left.
    Raises ValueError if `path` is a folder or a device, OSError that names `path` if the disk is full.
    """
    path = _resolved_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(path, "partial")
    for left, process in _left_siblings(path):
        if not _alive(process):
            _discard(left)
    with explained_disk_full(path):
        try:
            yield temporary
            _flush(temporary)
            temporary.replace(path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(text: str, path: Path) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all (see `atomic_write`)."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_file(path: Path) -> None:
    """Raise ValueError or OSError if no file could be written to `path`: call it before the work, not after it."""
    _check_place(_resolved_file(path))


@contextmanager
def explained_disk_full(path: Path) -> Iterator[None]:
    """Turn a failure of the block for want of disk space, or of safetensors, into an OSError that names `path`."""
    try:
        yield
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error):
            raise _disk_full(path, errno.ENOSPC) from error
        raise OSError(f"cannot write {path}: {error}") from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _disk_full(path, error.errno) from error


# Folders.


def check_folder(
    folder: Path,
    kind: Kind,
    settings: Mapping[str, Any],
    *,
    sources: Iterable[Path] = (),
    replace: bool = False,
) -> str:
    """What `new_folder` with the same arguments would replace, in words; empty if nothing that differs.

    Call it before the work. Raises ValueError that names the folder, what it holds and what to do
    - if it is a file, or holds something that this program did not make;
    - if it holds or is one of `sources`, the files and folders that are read;
    - if it is damaged, or was made with other settings (data and seed are settings too), unless `replace`.
    Raises OSError if it could not be written.
    """
    folder = Path(os.path.realpath(folder))
    if inside := [source for source in sources if Path(os.path.realpath(source)).is_relative_to(folder)]:
        raise ValueError(
            f"{folder} would be replaced while {inside[0]} in it is read; move that file elsewhere, or choose another folder"
        )
    _check_place(folder)
    recover(folder)
    if not folder.exists():
        return ""
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another folder")
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return ""
    foreign = [name for name in names if not any(fnmatch(name, pattern) for pattern in kind.files)]
    damage = ""
    try:
        found = kind.settings(folder)
    except (ValueError, OSError) as error:
        found, damage = {}, str(error)
    if found is None or foreign:
        held = ", ".join((foreign or names)[:3])
        raise ValueError(
            f"{folder} holds {held}, not written by this program as part of a {kind.name};"
            " move that away, or choose another folder"
        )
    if damage and not replace:
        raise ValueError(
            f"{folder} holds a damaged {kind.name} ({damage}); choose another folder, or"
            " replace it (--replace, in Python replace=True)"
        )
    if damage:
        return f"the damaged {kind.name} in {folder}"
    differences = list(_differences(_plain(found), _plain(settings)))
    if not differences:
        return ""
    shown = "; ".join(differences[:4]) + (
        f"; and {len(differences) - 4} more" if len(differences) > 4 else ""
    )
    if not replace:
        raise ValueError(
            f"{folder} holds a {kind.name} of other settings: {shown}; choose another folder, or"
            " replace it (--replace, in Python replace=True)"
        )
    return f"the {kind.name} in {folder} of other settings: {shown}"


@contextmanager
def new_folder(
    folder: Path,
    kind: Kind,
    settings: Mapping[str, Any],
    *,
    sources: Iterable[Path] = (),
    replace: bool = False,
) -> Iterator[Path]:
    """Yield a temporary folder next to `folder`; its content becomes `folder` if the block succeeds.

    What `folder` held steps aside for the rename, and is deleted after it. If the block fails or its process is killed
    at any moment, `folder` holds what it held before or all of the new, at the latest after `recover`. The folder is
    locked meanwhile. `kind.settings` of the new folder must be `settings`. Raises as `check_folder` does, and OSError that
    names the folder if the disk is full.
    """
    folder = Path(os.path.realpath(folder))
    check_folder(folder, kind, settings, sources=sources, replace=replace)
    with lock(folder, wait=True), explained_disk_full(folder):
        _recover(folder)
        check_folder(folder, kind, settings, sources=sources, replace=replace)
        temporary = _sibling(folder, "partial")
        try:
            temporary.mkdir()
            yield temporary
            swap(temporary, folder)
        finally:
            _discard(temporary)


def swap(made: Path, path: Path) -> None:
    """Put the whole file or folder `made`, a sibling of `path`, in the place of `path`, which is deleted after that.

    For work that a killed process leaves and the next one continues; otherwise take `atomic_write` or `new_folder`.
    It does not check what it replaces. The caller holds the lock of `path`.
    """
    for part in [made, *made.rglob("*")]:
        _flush(part)
    previous = _sibling(path, "previous")
    if path.is_dir():
        path.rename(previous)
    made.replace(path)
    _flush(path.parent)
    _remove_previous(previous, path)


def move_into(made: Path, folder: Path) -> None:
    """Move what a resumed work has finished into a folder of the same file system, such as `new_folder` yields."""
    made.rename(folder / made.name)


def remove(path: Path) -> None:
    """Delete a file or folder of ours, if it is there: renamed first, so that no half of it is ever found by its name."""
    _remove_previous(path, path)


def recover(folder: Path) -> Path:
    """`folder`, put back from its temporary name if a process was killed while replacing it. Call it before reading."""
    if not folder.exists() and any(True for _ in _left_siblings(folder)):
        with lock(folder, wait=True):
            _recover(folder)
    return folder


# Locks.


@contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the file or folder `path`, with all that is in it, for this thread: only one process at a time holds it.

    The lock is on a file next to it, `.NAME.lock`, and ends with the block or with its process. Nothing is locked twice: in
    the block of a lock, one of the same path or of a path in it has no effect. Raises BlockingIOError that names the process
    which holds it, unless `wait`, and OSError if nothing can be written there.
    """
    path = Path(os.path.realpath(path))
    held: list[Path] = _held.__dict__.setdefault("paths", [])
    if any(path.is_relative_to(outer) for outer in held):
        yield
        return
    file = path.with_name(f".{path.name}.lock")
    _check_place(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(file, path, wait)
    held.append(path)
    try:
        holder = {"process": os.getpid(), "machine": socket.gethostname()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        held.remove(path)
        file.unlink(
            missing_ok=True
        )  # while it is held: whoever waits for it sees that it is gone, and opens it again
        os.close(descriptor)


def _locked(file: Path, path: Path, wait: bool) -> int:
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
        except BlockingIOError:
            held = _holder(descriptor)
            os.close(descriptor)
            raise BlockingIOError(f"{path} is in use by {held}; wait for it to end") from None
        except FileNotFoundError:  # gone while this process waited for it
            pass
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                raise
            logger.warning("%s lies on a file system without locks; run only one process on it", path)
            return descriptor
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {int(holder['process'])} on {holder['machine']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


# What the above share.


def _resolved_file(path: Path) -> Path:
    resolved = Path(os.path.realpath(path))
    if resolved.exists() and not resolved.is_file():
        raise ValueError(f"{path} is a folder or a device; give the path of a file")
    return resolved


def _check_place(path: Path) -> None:
    parent = next(above for above in path.parents if above.exists())
    try:
        with tempfile.TemporaryFile(dir=parent):
            pass
    except OSError as error:
        raise OSError(
            error.errno, f"{path} cannot be written ({error.strerror}); choose another place"
        ) from error


def _sibling(path: Path, role: str) -> Path:
    return path.with_name(f".{path.name}.{role}-{os.getpid()}")


def _left_siblings(path: Path) -> Iterator[tuple[Path, int]]:
    """Temporary names of `path` that are there, each with the process that made it."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(?:partial|previous)-(\d+)")
    with suppress(FileNotFoundError, NotADirectoryError):
        for sibling in path.parent.iterdir():
            if match := pattern.fullmatch(sibling.name):
                yield sibling, int(match[1])


def _recover(folder: Path) -> None:
    """Undo a replacement that was cut off between its renames, and remove what dead processes left; under the lock."""
    for left, _ in sorted(_left_siblings(folder)):  # partial before previous
        if not left.name.startswith(f".{folder.name}.previous-"):
            _discard(left)
        elif folder.exists():
            _remove_previous(left, folder)
        else:
            left.rename(folder)


def _remove_previous(previous: Path, folder: Path) -> None:
    """Delete a whole folder under a name that marks it as possibly incomplete: `recover` never puts such a one back."""
    gone = _sibling(folder, "partial")
    _discard(gone)
    with suppress(FileNotFoundError):
        previous.rename(gone)
    _discard(gone)


def _discard(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def _flush(path: Path) -> None:
    """Flush a file or a folder to disk. Some file systems cannot flush a folder, and need not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def _disk_full(path: Path, number: int) -> OSError:
    return OSError(number, f"the disk is full: {path} could not be written; free some space and try again")


def _plain(values: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(values))


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            inner = f"{name}.{key}" if name else key
            yield from _differences(found.get(key, _ABSENT), wanted.get(key, _ABSENT), inner)
    elif found != wanted:
        there, here = ("none" if v is _ABSENT else json.dumps(v)[:60] for v in (found, wanted))
        yield f"{name} {there} there, {here} here"
