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
    folder = _folder.get()
    if folder is None:
        return compute()
    path = folder / f"{name}.safetensors"
    if path.is_file():
        try:
            tensors, described = tensor_files.load(path, "it is computed again")
        except ValueError:
            tensors, described = {}, {}
        if described.get("of") == of and "stage" in tensors:
            return tensors["stage"]
    folder.mkdir(parents=True, exist_ok=True)
    computed = compute()
    tensor_files.save({"stage": computed}, path, {"of": of})
    return computed


def keeping() -> bool:
    """Whether stages are kept."""
    return _folder.get() is not None
