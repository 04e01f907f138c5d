"""Full and read-only disks, two processes on one resource, tools that are not there."""

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import targets as files
import torch
from kills import Work
from tally import Tally, in_child, judge

from workbench.kernels import native
from workbench.search.engines.faiss import FaissLists
from workbench.search.indexes import Flat
from workbench.training import loop

ROOM = 64 << 20


def refused(do: Callable[[], Any]) -> str:
    """What became of `do`: "done", "refused" in one line, or what was wrong with its error."""
    try:
        do()
    except Exception as error:
        return judge(error, ()) or "refused"
    return "done"


@contextmanager
def disk(place: Path) -> Iterator[Callable[[str], None] | None]:
    """A small file system at `place`, and what sets its options; None if this user may not mount one."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        yield None
        return
    try:
        yield (
            lambda options: (
                subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True) and None
            )
        )
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def disks(work: Work, scratch: Path, tries: int) -> Tally:
    """Do the work on a disk that fills up at some point, and on one that is read-only; then on one with room."""
    tally = Tally(
        f"full or read-only disk: {work.kind}",
        "done, or one line; the state before stays whole, and with room the work gives what it always does",
    )
    model, whole = scratch / "model", scratch / "whole"
    for folder in (model, whole):
        folder.mkdir(parents=True)
    in_child(lambda: work.prepare(model))
    shutil.copytree(model, whole, dirs_exist_ok=True)
    in_child(lambda: work.do(whole))
    before, after = work.state(model), work.state(whole)
    used, needed = (sum(p.stat().st_blocks * 512 for p in f.rglob("*")) for f in (model, whole))
    with disk(scratch / "disk") as set_options:
        if set_options is None:
            tally.notes["not tried: this user may not mount a file system"] = 1
            return tally
        folder = scratch / "disk" / "work"
        for number in range(tries):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(model, folder)
            read_only = number % 3 == 2
            room = used + (number + 1) * max(needed - used, 4096 * (tries + 1)) // (tries + 1)
            set_options("ro" if read_only else f"size={room}")
            status, said = in_child(lambda: refused(lambda: work.do(folder)))
            between = work.state(folder)
            set_options(f"rw,size={ROOM}")
            _, words = in_child(lambda: refused(lambda: work.do(folder)))
            what = ""
            if status != 0 or said not in ("done", "refused"):
                what = f"it ended with {status}, {said}"
            elif odd := [name for name, value in between.items() if value not in (before[name], after[name])]:
                what = f"{', '.join(odd)} is neither as before nor whole and new ({between[odd[0]][:80]})"
            elif words != "done" or work.state(folder) != after:
                what = f"with room it did not come to its result: {words}"
            tally.count(
                said, bool(what), f"#{number} {'read-only' if read_only else f'{room} bytes'}: {what}"
            )
    return tally


def two_at_once(work: Work, scratch: Path, tries: int) -> Tally:
    """Two processes do the same work in one folder at the same time."""
    tally = Tally(
        f"two processes at once: {work.kind}", "each does it, or is refused in one line; the result is whole"
    )
    model, whole = scratch / "model", scratch / "whole"
    for folder in (model, whole):
        folder.mkdir(parents=True)
    in_child(lambda: work.prepare(model))
    shutil.copytree(model, whole, dirs_exist_ok=True)
    in_child(lambda: work.do(whole))
    after = work.state(whole)

    def both(folder: Path) -> str:
        """This process forks the other one."""
        reader, writer = os.pipe()
        if (other := os.fork()) == 0:
            os.write(writer, refused(lambda: work.do(folder)).encode())
            os._exit(0)
        mine = refused(lambda: work.do(folder))
        os.close(writer)
        theirs = os.read(reader, 2000).decode()
        os.waitpid(other, 0)
        return f"{mine} | {theirs}"

    for number in range(tries):
        folder = scratch / "try"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(model, folder)
        status, said = in_child(lambda folder=folder: both(folder))
        ends = sorted(said.split(" | "))
        what = ""
        if status != 0 or not set(ends) <= {"done", "refused"}:
            what = f"{status} {said}"
        elif "done" not in ends:
            what = "neither did it"
        elif work.state(folder) != after:
            what = "the result differs from that of one process"
        tally.count(" and ".join(ends), bool(what), f"#{number}: {what}")
    return tally


def missing_tools(scratch: Path) -> Tally:
    """Without a compiler, fbgemm, faiss or home, and with a compiled kernel that was cut off."""
    tally = Tally("missing tools", "the work is done without the tool, or one line names what to install")
    scratch.mkdir(parents=True)

    def without(**environment: str | None) -> None:
        for name in ("CXX", "XDG_CACHE_HOME", "WORKBENCH_CACHE", "WORKBENCH_NATIVE"):
            os.environ.pop(name, None)
        for name, value in environment.items():
            os.environ[name] = value or ""

    def train(folder: Path) -> str:
        config = files.retriever("mol").config
        return refused(
            lambda: loop.train(
                files.sequences(), config, files.TRAINING, folder, device="cpu", progress=False
            )
        )

    def no_compiler() -> str:
        without(PATH="/nowhere", WORKBENCH_CACHE=str(scratch / "none"))
        return train(scratch / "no-compiler")

    def no_home() -> str:
        without(HOME="/proc/nowhere")
        return train(scratch / "no-home")

    def no_fbgemm() -> str:
        without(WORKBENCH_CACHE=str(scratch / "cache"), WORKBENCH_NATIVE="0")
        sys.modules["fbgemm_gpu"] = None  # type: ignore[assignment]
        return train(scratch / "no-fbgemm")

    def no_faiss() -> str:
        sys.modules["faiss"] = None  # type: ignore[assignment]
        said = refused(lambda: FaissLists(Flat(), "average", torch.arange(1, 4), torch.ones(3, 4)))
        return "done" if said == "refused" else said

    def cut_kernel() -> str:
        without(WORKBENCH_CACHE=str(scratch / "cut"))
        source = scratch / "seven.cpp"
        source.write_text('extern "C" int seven() { return 7; }')
        try:
            path = native.built(source, scratch / "cut")
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
            return (
                "done"
                if ctypes.CDLL(str(native.built(source, scratch / "cut"))).seven() == 7
                else "it is cut"
            )
        except native.Unavailable:
            return "done"  # there is no compiler here

    for work in (no_compiler, no_home, no_fbgemm, no_faiss, cut_kernel):
        status, said = in_child(work)
        tally.count(
            work.__name__.replace("_", " "),
            status != 0 or said != "done",
            f"{work.__name__}: {status} {said}",
        )
    return tally
