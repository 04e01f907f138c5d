"""Work that is killed at a random moment, then done again: what stands afterwards is whole."""

import asyncio
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import targets as files
import torch
from tally import Tally, in_child

from workbench.data import build, storage
from workbench.reporting import pairs, runner
from workbench.retriever import Retriever
from workbench.search.engines.faiss import FaissLists
from workbench.search.indexes import Flat
from workbench.search.inverted_index import InvertedIndex
from workbench.search.path_beam import PathBeam
from workbench.training import loop


@dataclass(frozen=True)
class Work:
    """`prepare` a folder (in a process of its own), `do` the work in it, and `state`: what stands there, of each part of it.

    After a kill each part must be as before the work or as after it, and after doing the work again all as after it.
    """

    kind: str
    prepare: Callable[[Path], Any]
    do: Callable[[Path], Any]
    state: Callable[[Path], dict[str, str]]


def digest(path: Path) -> str:
    """A digest of a file, or of the names and contents of a folder's files; "" where there is none."""
    if not path.exists():
        return ""
    found = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        found.update(f"{file.name}\n".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def kill(work: Work, scratch: Path, tries: int, seed: int) -> Tally:
    """Kill the work at moments drawn uniformly over the time that it takes."""
    tally = Tally(
        f"killed: {work.kind}",
        "the state before or the whole new one; done again, the result of an undisturbed run",
    )
    model, whole = scratch / "model", scratch / "whole"
    for folder in (model, whole):
        folder.mkdir(parents=True)
    status, said = in_child(lambda: work.prepare(model))
    shutil.copytree(model, whole, dirs_exist_ok=True)
    started = time.monotonic()
    second, words = in_child(lambda: work.do(whole))
    took = time.monotonic() - started
    if status or second:
        tally.count("lost", True, f"the undisturbed work failed: {said} {words}")
        return tally
    before, after = work.state(model), work.state(whole)
    draws = np.random.default_rng(seed)
    for number in range(tries):
        folder = scratch / "try"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(model, folder)
        moment = float(draws.uniform(0, took * 1.05))
        status, said = in_child(lambda folder=folder: work.do(folder), kill_after=moment)
        if status not in (0, -9):
            tally.count("lost", True, f"#{number}, before the kill: {said}")
            continue
        between = work.state(folder)
        again, words = in_child(lambda folder=folder: work.do(folder))
        end = work.state(folder)
        what = ""
        if odd := [name for name, value in between.items() if value not in (before[name], after[name])]:
            what = f"{', '.join(odd)} is neither as before nor whole and new ({between[odd[0]][:80]})"
        elif again != 0:
            what = f"it cannot be done again: {words[:200]}"
        elif end != after:
            what = "done again, it differs from the undisturbed one"
        tally.count(
            "was over" if status == 0 else "killed", bool(what), f"#{number} at {moment:.3f} s: {what}"
        )
    return tally


def _train(folder: Path) -> None:
    loop.train(
        files.sequences(),
        files.retriever("mol").config,
        files.TRAINING,
        folder / "run",
        device="cpu",
        progress=False,
    )


def _trained(folder: Path) -> str:
    """The weights at the end, "" before it: a stopped run resumes, so only its end is compared."""
    path = folder / "run" / "model.safetensors"
    return (
        hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file() and (path.parent / "config.json").is_file()
        else ""
    )


def _prepare(folder: Path) -> None:
    os.environ["WORKBENCH_ROOT"] = str(folder)
    build.build_own("mine", folder / "own.csv", replace=True)


def _raw(folder: Path) -> None:
    """A table, and the dataset prepared of an earlier, shorter one."""
    files._tables(folder / "source")
    table = pd.read_csv(folder / "source" / "own.csv")
    table.iloc[: len(table) // 2].to_csv(folder / "own.csv", index=False)
    _prepare(folder)
    table.to_csv(folder / "own.csv", index=False)


def _prepared(folder: Path) -> str:
    try:
        found = storage.load_folder(folder / "data" / "mine")
    except (OSError, ValueError) as error:
        return f"not read: {error}"
    return f"{found.fingerprint()} {len(found.item_ids)}"


def _models(folder: Path, seed: int) -> tuple[Retriever, Retriever]:
    del folder
    return (
        Retriever(files.retriever("sparcode").config, files.ITEMS, seed).eval(),
        Retriever(files.retriever("paths").config, files.ITEMS, seed).eval(),
    )


def _index(folder: Path, changed: bool = True) -> None:
    """Three indexes of twenty items, with the first one's vectors changed by an upsert."""
    ids, vectors = files._vectors()
    with torch.no_grad():
        sparse, deep = _models(folder, 0)
        flat = FaissLists(Flat(), "average", ids, vectors)
        codes = InvertedIndex.build(sparse.similarity, sparse.item_state())
        beam = PathBeam.of(deep.similarity, deep.item_state())
        if changed:
            other = _models(folder, 1)
            flat.upsert(ids[:3], -vectors[:3])
            codes.upsert(sparse.similarity.items(other[0].item_table(ids[:3]), ids[:3]))
            beam.remove(ids[:3])
        (folder / "indexes").mkdir(exist_ok=True)
        flat.save(folder / "indexes" / "flat.faiss")
        codes.save(folder / "indexes" / "codes.index")
        beam.save(folder / "indexes" / "paths")


NOTEBOOK = """# %% [markdown]
# # Notebook {name}

# %% tags=["parameters"]
dataset = "walks"
profile = "quick"
seed = 0
"""


def _notebooks(folder: Path) -> None:
    """Three notebooks and a report of the first."""
    (folder / "notebooks").mkdir()
    for name in ("00_a", "01_b", "02_c"):
        source = folder / "notebooks" / f"{name}.py"
        source.write_text(NOTEBOOK.format(name=name))
        pairs.write(source)
    _report(folder, only=("00",))


def _report(folder: Path, only: tuple[str, ...] = ()) -> None:
    """A report in which a notebook's kernel is replaced by a copy of its file and a recorded number."""
    os.environ["WORKBENCH_ROOT"] = str(folder)

    async def copied(job: runner.Job, work: Path) -> Any:
        del work
        await asyncio.sleep(0.01)
        shutil.copyfile(job.source, job.output)
        Path(job.records).write_text(
            json.dumps({"name": "n", "value": 1, "unit": "", "is_table": False}) + "\n"
        )
        return runner.Outcome("")

    runner._in_own_process = copied
    runner.run_report(runner.ReportSpec(dataset="walks", only=only), say=lambda _: None)


def _reported(folder: Path) -> str:
    """The notebooks that the report shows, each with its page and its copy."""
    place = folder / "reports" / "quick-walks"
    if not place.is_dir():  # between two renames: the next run puts the report before back
        place = next((folder / "reports").glob(".quick-walks.previous-*"), place)
    report = runner.Report.load(place)
    names = sorted(report.entries) if report else []
    return " ".join(n for n in names if all((place / f"{n}{e}").is_file() for e in (".html", ".ipynb")))


def works() -> list[Work]:
    """What is killed."""
    return [
        Work("training", lambda folder: None, _train, lambda f: {"weights": _trained(f)}),
        Work("preparation of data", _raw, _prepare, lambda f: {"data": _prepared(f)}),
        Work("reports", _notebooks, _report, lambda f: {"report": _reported(f)}),
        Work("index building", lambda f: None, lambda f: _index(f, changed=False), _indexes),
        Work("upserts into saved indexes", lambda f: _index(f, changed=False), _index, _indexes),
    ]


def _indexes(folder: Path) -> dict[str, str]:
    return {name: digest(folder / "indexes" / name) for name in ("codes.index", "flat.faiss", "paths")}
