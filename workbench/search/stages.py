"""Stages of a long build that are kept in files while it runs, so that a build that was interrupted continues from there.

A stage is kept only inside `kept_in`; elsewhere it is computed, and that is all.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from torch import Tensor

from workbench import files, tensor_files

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """Keep the stages of what is built inside in `folder`, which is deleted at the end, unless there was an error.

    A process that is killed leaves the folder, and the next one continues from the stages in it.
    """
    before = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(before)
    files.remove(folder)


def stage(name: str, of: str, compute: Callable[[], Tensor]) -> Tensor:
    """What `compute` returns, from a file if it was computed before: `of` identifies all that it depends on.

    A damaged file is computed again.
    """
    found = kept(name, of)
    if found is None:
        found = compute()
        keep(name, of, found)
    return found


def kept(name: str, of: str) -> Tensor | None:
    """What was last kept under this name, of the same; None if there is nothing, or its file is damaged."""
    folder = _folder.get()
    path = None if folder is None else folder / f"{name}.safetensors"
    if path is None or not path.is_file():
        return None
    try:
        tensors, described = tensor_files.load(path, "it is computed again")
    except ValueError:
        return None
    return tensors.get("stage") if described.get("of") == of else None


def keep(name: str, of: str, reached: Tensor) -> None:
    """Keep what was reached, in the place of what was kept under this name; nothing outside `kept_in`."""
    if (folder := _folder.get()) is not None:
        folder.mkdir(parents=True, exist_ok=True)
        tensor_files.save({"stage": reached}, folder / f"{name}.safetensors", {"of": of})


def keeping() -> bool:
    """Whether stages are kept."""
    return _folder.get() is not None
