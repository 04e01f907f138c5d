"""Files that were damaged, or made to do harm: each loader reads thousands of them."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tally import Hung, Tally, Trespasses, in_child, judge, limit_memory, within_limits

DEEP = "\x00deep\x00"
HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 7, 2**31, 2**63, -(2**63), 10**8, 10**30, 0.5, 8.0, -1.5, 1e300, float("nan"), float("inf"),
    "", "x", "../../outside", "/etc/passwd", "a\nb\nc", "\x1b[31mred\x1b[0m", "\u202eevil", "<script>alert(1)</script>",
    "$\\href{javascript:alert(1)}{x}$", "__import__('os').system('true')", "9" * 5000, [], {}, [[[]]], {"kind": "mol"}, DEEP,
)  # fmt: skip
CELLS = [str(v) for v in HOSTILE if v is not DEEP] + [
    '"',
    "'",
    "\r",
    "\x00",
    "007",
    "1e400",
    "0x10",
    "١",
    "\ufeff1",
    "nan",
    "-0",
]


def mutated_bytes(whole: bytes, draws: np.random.Generator) -> bytes:
    """One of: bits flipped, cut, longer, a part zeroed, doubled or moved, eight bytes made a huge number."""
    data = bytearray(whole)
    size = len(data)
    at = int(draws.integers(size)) if size else 0
    if draws.random() < 0.5:  # headers hold what matters
        at = int(draws.integers(min(size, 512))) if size else 0
    length = int(draws.integers(1, 65))
    match int(draws.integers(8)):
        case 0 | 1:
            for place in draws.integers(size, size=int(draws.integers(1, 9))) if size else ():
                data[place] ^= 1 << int(draws.integers(8))
        case 2:
            del data[at:]
        case 3:
            data += draws.bytes(length)
        case 4:
            data[at : at + length] = bytes(min(length, size - at))
        case 5:
            data[at:at] = data[at : at + length]
        case 6:
            del data[at : at + length]
        case 7:
            number = (2**63 - 1, 2**64 - 1, 2**40, 2**31, 0)[int(draws.integers(5))]
            data[at : at + 8] = number.to_bytes(8, "little")
    return bytes(data)


def mutated_json(whole: bytes, draws: np.random.Generator) -> bytes:
    """One value replaced, a key removed, renamed or added, or the text itself damaged."""
    if draws.random() < 0.15:
        return mutated_bytes(whole, draws)
    root = {"": json.loads(whole)}
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node.keys() if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(root)
    for _ in range(int(draws.integers(1, 3))):
        node, key = places[int(draws.integers(len(places)))]
        action = draws.random()
        if isinstance(node, dict) and action < 0.1 and key:
            node.pop(key, None)
        elif isinstance(node, dict) and action < 0.2 and key:
            node[CELLS[int(draws.integers(len(CELLS)))]] = node.pop(key, None)
        elif key in node if isinstance(node, dict) else True:
            node[key] = HOSTILE[int(draws.integers(len(HOSTILE)))]
    text = json.dumps(root.get(""))
    return text.replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000).encode()


def mutated_text(whole: bytes, draws: np.random.Generator) -> bytes:
    """One cell replaced, a line doubled, removed or cut, or the bytes damaged."""
    if draws.random() < 0.25:
        return mutated_bytes(whole, draws)
    lines = whole.decode("utf-8").split("\n")
    at = int(draws.integers(min(len(lines), 8))) if draws.random() < 0.5 else int(draws.integers(len(lines)))
    action = draws.random()
    if action < 0.7:
        cells = lines[at].split(",")
        cells[int(draws.integers(len(cells)))] = CELLS[int(draws.integers(len(CELLS)))]
        lines[at] = ",".join(cells)
    elif action < 0.8:
        lines[at:at] = lines[at : at + 1]
    elif action < 0.9:
        del lines[at]
    else:
        lines[at] += "," + CELLS[int(draws.integers(len(CELLS)))]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


STYLES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    ".json": mutated_json, ".csv": mutated_text, ".dat": mutated_text,
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """Files of a kind: those named in a folder are damaged, one at a time, and then `load` reads the folder.

    `names_file`: an error must name a file of the folder. `check` may find what was read wrong: it returns why, or "".
    """

    kind: str
    files: Sequence[str]
    load: Callable[[Path], Any]
    check: Callable[[Any], str] = lambda _: ""
    names_file: bool = True


def damage(target: Target, folder: Path, tries: int, seed: int) -> Tally:
    """Damage the files of `target` in `folder` several times, in forked processes, and count how reading them ends."""
    tally = Tally(
        f"mutated {target.kind}",
        "a clear error of one line, or read; nothing executed, nothing written elsewhere, no hang",
    )
    folder = Path(
        shutil.copytree(folder, folder.with_name(f"{folder.name} {target.kind}"))
    )  # kinds share no file
    done = 0
    while done < tries:
        status, said = in_child(
            lambda start=done: _some(target, folder, start, tries, seed), seconds=40 + 12 * (tries - done)
        )
        finished = [line.split("\t") for line in (folder / ".outcomes").read_text().splitlines()]
        for outcome in finished:
            tally.count(
                outcome[0],
                outcome[0] == "lost",
                f"{outcome[1]}: {outcome[2]}" if outcome[0] == "lost" else "",
            )
        done += len(finished)
        if status != 0 and done < tries:
            tally.count("lost", True, f"try {done}: the process ended with {status} {said[:200]}")
            done += 1
    return tally


def _some(target: Target, folder: Path, start: int, tries: int, seed: int) -> None:
    """Tries `start`… of a target, each outcome a line of `.outcomes`; the process may die in any of them."""
    sys.dont_write_bytecode = True
    os.chdir(folder)
    originals = {name: (folder / name).read_bytes() for name in target.files}
    with (folder / ".outcomes").open("w") as outcomes:
        target.load(folder)  # imports what it needs, before anything is watched
        limit_memory()
        watch = Trespasses(folder)
        for number in range(start, tries):
            draws = np.random.default_rng([seed, number])
            name = target.files[number % len(target.files)]
            path = folder / name
            path.write_bytes(STYLES.get(path.suffix, mutated_bytes)(originals[name], draws))
            watch.clear()
            outcome, words = "read", ""
            try:
                with within_limits():
                    words = target.check(target.load(folder))
            except (Exception, Hung) as error:
                outcome = "refused"
                words = judge(error, (path.name, str(folder), "weights") if target.names_file else ())
            if words or watch.found:
                outcome, words = "lost", words or f"trespass: {watch.found[0]}"
            outcomes.write(f"{outcome}\t{name} #{number}\t{' '.join(words.split())}\n")
            outcomes.flush()
            path.write_bytes(originals[name])
