"""What the fault suite counts, and processes that it may lose: forked, watched, limited in time and memory."""

import os
import resource
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 10
"""That one try may take, on a machine that does other things too."""
MEMORY = 3 << 30
"""Bytes that a try may take beyond what its process has."""
WORK = Path(tempfile.gettempdir()).resolve()


@dataclass
class Tally:
    """`tried` tries of a kind, of which `lost` (each in words) ended otherwise than promised; `notes`: how the others ended."""

    kind: str
    promise: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def count(self, outcome: str, lost: bool = False, words: str = "") -> None:
        """Count a try that ended in `outcome`, with `words` on it where it is lost."""
        self.tried += 1
        if lost:
            self.lost.append(words or outcome)
        else:
            self.notes[outcome] = self.notes.get(outcome, 0) + 1


class Hung(BaseException):
    """A try took longer than `SECONDS`."""


def in_child(
    work: Callable[[], Any], seconds: float = 120, kill_after: float | None = None
) -> tuple[int, str]:
    """Exit status of a forked process that does `work` (negative for a signal) and what it wrote to its last line.

    This process computes nothing itself, so that its children may. `kill_after`: seconds after which the child is killed.
    """
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        status = 1
        try:
            os.close(reader)
            os.setpgid(0, 0)
            said = work()
            os.write(writer, str("" if said is None else said).encode()[:60_000])
            status = 0
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error} {_place(error)}".encode()[:2000])
        finally:
            os._exit(status)
    os.close(writer)
    said, killed = b"", False
    left = seconds if kill_after is None else kill_after
    while True:
        ready, _, _ = select.select([reader], [], [], left)
        if ready:
            part = os.read(reader, 65_536)
            if not part:
                break
            said += part
        else:
            killed = True
            os.kill(child, signal.SIGKILL)
            left = 5
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if killed and kill_after is None:
        return -signal.SIGALRM, "it hung"
    return status, said.decode(errors="replace")


def _place(error: BaseException) -> str:
    """File and line of the package that an error comes from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/workbench/" in f.filename]
    return f"({frames[-1].filename.rsplit('/workbench/')[-1]}:{frames[-1].lineno})" if frames else ""


def judge(error: BaseException, names: tuple[str, ...]) -> str:
    """ "" where an error is what is promised: one line, of the kinds that the command line prints, naming one of `names`."""
    text = str(error)
    if isinstance(error, Hung):
        return "it took too long"
    if not isinstance(error, ValueError | OSError | ImportError):
        return f"{type(error).__name__} {' '.join(text.split())[:160]} {_place(error)}"
    if "\n" in text or len(text) > 2000:
        return f"an error of {len(text)} characters, {text.count(chr(10)) + 1} lines {_place(error)}: {text[:80]!r}"
    if names and not any(name in text for name in names):
        return f"an error that names no file {_place(error)}: {text[:160]}"
    return ""


@contextmanager
def within_limits() -> Iterator[None]:
    """Raise `Hung` where the block takes longer than `SECONDS`."""

    def ring(*_: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def limit_memory() -> None:
    """Let this process take `MEMORY` more than it has."""
    size = next(
        int(line.split()[1])
        for line in Path("/proc/self/status").read_text().splitlines()
        if "VmSize" in line
    )
    resource.setrlimit(resource.RLIMIT_AS, (size * 1024 + MEMORY,) * 2)


class Trespasses:
    """What the process did since `clear` that no loader may do: run something, connect, or write outside `allowed`."""

    FORBIDDEN = (
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "subprocess.Popen",
        "socket.connect",
        "pickle.find_class",
        "os.fork",
    )
    CHANGES = (
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.mkdir",
        "os.link",
        "os.symlink",
        "shutil.rmtree",
        "os.truncate",
    )

    def __init__(self, *allowed: Path) -> None:
        self.found: list[str] = []
        self._allowed = [str(path.resolve()) for path in allowed] + ["/dev/"]
        self._on = True
        sys.addaudithook(self._hear)

    def clear(self) -> None:
        """Forget what was found."""
        self.found = []

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event in self.FORBIDDEN:
            self.found.append(f"{event} {str(arguments)[:100]}")
        elif event == "open":
            path, mode, flags = arguments
            writes = (
                any(c in mode for c in "wax+")
                if isinstance(mode, str)
                else bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            )
            if writes and not isinstance(path, int):
                self._check(event, path)
        elif event in self.CHANGES:
            for path in arguments:
                if isinstance(path, str | bytes | Path):
                    self._check(event, path)

    def _check(self, event: str, path: Any) -> None:
        self._on = False
        try:
            where = os.path.realpath(os.fsdecode(path))
            if not any(where.startswith(place) for place in self._allowed):
                self.found.append(f"{event} {where}")
        finally:
            self._on = True
