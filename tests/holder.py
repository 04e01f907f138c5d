"""Somebody else who holds a lock, as another process would."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench import files


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of `path` in another thread until the block ends: locks of files exclude threads as they do processes."""
    holds, ends = threading.Event(), threading.Event()

    def hold() -> None:
        with files.lock(path):
            holds.set()
            ends.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert holds.wait(60)
        yield
    finally:
        ends.set()
        thread.join()
