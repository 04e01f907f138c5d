"""The fault suite: `python tests/faults/campaign.py`, with the options that `--help` lists.

Tries what may go wrong (kills, pairs of processes, disks, missing tools, damaged files), counts what was tried, survived and
lost, and exits with status 1 where anything was lost. The short form takes about a minute, the long one some minutes.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false")

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import torch._dynamo  # noqa: F401  an optimizer imports it, which takes seconds: once, before the forks

sys.path.insert(0, str(Path(__file__).resolve().parent))
import kills
import pages
import reliability
import shortages
import targets as files
from mutations import damage
from tally import Tally, in_child

SHORT, LONG = 12, 500
"""Damaged files of a kind."""
FEW, MANY = 4, 100
"""Kills of a kind."""
DISKS = 10
"""Full disks of a kind, and pairs of processes."""

Jobs = Iterator[tuple[str, Callable[[], Tally]]]


def killed(root: Path, tries: int) -> Jobs:
    """Each kind of work that is killed."""
    for number, work in enumerate(kills.works()):
        yield f"killed: {work.kind}", lambda w=work, n=number: kills.kill(w, root / f"kills-{n}", tries, n)


def short_of(root: Path, tries: int) -> Jobs:
    """Each kind of work on full and read-only disks, in two processes at once, and with a tool missing."""
    for number, work in enumerate(kills.works()):
        place = root / f"work-{number}"
        yield f"disks: {work.kind}", lambda w=work, p=place: shortages.disks(w, p / "disk", tries)
        yield f"two at once: {work.kind}", lambda w=work, p=place: shortages.two_at_once(w, p / "two", tries)
    yield "missing tools", lambda: shortages.missing_tools(root / "tools")


def mutations(root: Path, tries: int) -> Jobs:
    """Each kind of damaged file."""
    status, said = in_child(lambda: files.write_all(root))
    if status != 0:
        raise RuntimeError(f"the files to damage could not be made: {said}")
    for target, folder in files.targets(root):
        seed = zlib.crc32(target.kind.encode())
        yield f"mutated {target.kind}", lambda t=target, f=folder, s=seed: damage(t, f, tries, s)


def shared_out(jobs: list[tuple[str, Callable[[], Tally]]], processes: int, place: Path) -> list[Tally]:
    """The tallies of `jobs`, in their order, worked off by processes that compute nothing themselves."""
    place.mkdir()
    queue, writer = os.pipe()
    os.write(writer, bytes(range(len(jobs))))
    os.close(writer)
    children = []
    for _ in range(processes):
        if (child := os.fork()) == 0:
            status = 1
            try:
                while taken := os.read(queue, 1):
                    started = time.monotonic()
                    tally = jobs[taken[0]][1]()
                    (place / f"{taken[0]}.json").write_text(json.dumps(asdict(tally)))
                    say(tally, time.monotonic() - started)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        raise RuntimeError("a process of the campaign failed")
    return [Tally(**json.loads((place / f"{number}.json").read_text())) for number in range(len(jobs))]


def say(tally: Tally, seconds: float) -> None:
    """Print a kind's line, and what was lost."""
    ended = ", ".join(f"{n} {word}" for word, n in sorted(tally.notes.items()))
    lines = [
        f"{tally.kind:<52} tried {tally.tried:>5}  lost {len(tally.lost):>4}  ({ended}; {seconds:.0f} s)"
    ]
    print("\n".join(lines + [f"    {words}" for words in tally.lost[:20]]), flush=True)


def main() -> int:
    """Run the campaign; the exit status is 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--long", action="store_true", help="the full numbers of tries")
    parser.add_argument(
        "--share", type=float, default=1, help="the part of the long form's tries that is made"
    )
    parser.add_argument("--only", default="", help="kinds whose name holds this word")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="that work side by side")
    parser.add_argument("--json", type=Path, help="write the tallies to this file")
    parser.add_argument("--report", type=Path, help="write reports/reliability.md")
    given = parser.parse_args()
    began = time.monotonic()

    def tries(short: int, long: int) -> int:
        return max(short, round(given.share * long)) if given.long else short

    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        root = Path(scratch).resolve()
        os.environ["WORKBENCH_CACHE"] = str(root / "cache")
        os.environ["WORKBENCH_NATIVE"] = "0"
        jobs = chain(
            killed(root / "kills", tries(FEW, MANY)),
            mutations(root, tries(SHORT, LONG)),
            short_of(root / "short", tries(3, DISKS)),
            [("hostile text on pages", lambda: pages.titles(root / "pages", few=not given.long))],
        )
        tallies = shared_out(
            [job for job in jobs if given.only in job[0]], given.processes or 1, root / "tallies"
        )
    if given.report:
        command = "python tests/faults/campaign.py" + (" --long" if given.long else "")
        command += f" --share {given.share:g}" if given.share != 1 else ""
        given.report.write_text(
            reliability.page(tallies, command, time.monotonic() - began), encoding="utf-8"
        )
    if given.json:
        given.json.write_text(json.dumps([asdict(t) for t in tallies], indent=1))
    return int(any(t.lost for t in tallies))


if __name__ == "__main__":
    sys.exit(main())
