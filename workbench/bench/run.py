"""Runs a plan and stores the results: a row per timed call, a row per answered query. A killed run resumes."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from tqdm import tqdm

from workbench import files, paths, runtime, source
from workbench.bench.plans import Plan
from workbench.bench.roofline import Ceilings, best_of, ceilings
from workbench.bench.searcher_pool import RoundRobin, SearcherPool, described
from workbench.bench.workloads import TextCorpus, WorkloadSpec, build
from workbench.loading import from_json, read_json, reading
from workbench.models.model_store import identity
from workbench.models.text_heads import head_identity
from workbench.reporting.provenance import provenance

FACTS = "run.json"
TABLES = ("shape", "entries", "builds")
REPEAT = "remove the folder and measure again"
ROOMS = ("bench", "contracts", "encoders", "kernels", "retriever", "runtime", "search", "similarities")
"""The code that decides what a search returns and how long it takes."""


@dataclass(frozen=True)
class Raw:
    """All that a run stored.

    `calls`: workload, label, batch_size, k, round, call, turn (its place in the round), seconds, fraction (of the corpus
    that was searched). `answers`: workload, label, batch_size, k, round, call, query, target (0: unknown), and of the `TopK`
    ids, scores, exact, gap, num_scored. `builds`: workload, label, batch_size (0: any), seconds, kept_bytes (held beyond
    the item state), peak_bytes (held while it was built). `memory`: workload, label, batch_size, k, peak_bytes (of one call).
    `entries`: label, method, setting, scan, reference (the label that its recall is against). `shapes`: workload, and the
    fields of `Shape`. `metadata`: the plan, the machine, versions, commits.
    """

    calls: pd.DataFrame
    answers: pd.DataFrame
    builds: pd.DataFrame
    memory: pd.DataFrame
    entries: pd.DataFrame
    shapes: pd.DataFrame
    ceilings: Ceilings
    metadata: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `run` stored in `folder`; FileNotFoundError if nothing is there, ValueError if it was not finished."""
        if not (folder / FACTS).is_file():
            raise FileNotFoundError(f"{folder} holds no {FACTS}: not a run of the bench")
        metadata = read_json(folder / FACTS, REPEAT)
        if metadata.get("finished") is not True:
            raise ValueError(f"the run in {folder} was stopped; run the same plan again to finish it")

        def every(pattern: str) -> pd.DataFrame:
            parts = [pd.read_parquet(path) for path in sorted(folder.glob(pattern))]
            return pd.concat(parts, ignore_index=True)

        with reading(folder, REPEAT):
            return cls(
                every("*/*/round-*.calls.parquet"),
                every("*/*/round-*.answers.parquet"),
                every("*/builds.parquet"),
                every("*/*/memory.parquet"),
                every("*/entries.parquet").drop_duplicates("label", ignore_index=True),
                every("*/shape.parquet"),
                from_json(Ceilings, metadata["ceilings"]),
                metadata,
            )


def run(
    plan: Plan,
    runs: Path | None = None,
    *,
    device: str | None = None,
    progress: bool = True,
    fresh: bool = False,
) -> Raw:
    """Measure `plan` in a folder of its own under `runs` (default: `reports/bench`), and hand back all that was stored.

    The folder is named for the plan, the entries, the machine, the torch version, the code and the checkpoints: what was
    measured before with all of them the same is kept, and what is missing is measured now. A round is stored whole or not at
    all. `fresh` removes what is there first. Raises as `workloads.build` does, and BlockingIOError if another process runs it.
    """
    on = runtime.device(device)
    found = provenance(paths.root())
    described = {
        "plan": plan.to_dict(),
        "machine": found.machine.words(),
        "device": str(on),
        "torch": torch.__version__,
        "code": source.digest(*ROOMS),
        "checkpoints": {name: identity(name) for name in _checkpoints(plan)} | _heads(plan),
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]
    folder = (runs or paths.reports() / "bench") / f"{plan.name}-{digest}"
    files.check_file(folder / FACTS)
    with files.lock(folder):
        return _run(plan, folder, described, on, found.commit_words(), progress=progress, fresh=fresh)


def _run(
    plan: Plan,
    folder: Path,
    described: dict[str, Any],
    on: torch.device,
    commit: str,
    *,
    progress: bool,
    fresh: bool,
) -> Raw:
    if fresh and (folder / FACTS).is_file():
        files.remove(folder)
    metadata = read_json(folder / FACTS, REPEAT) if (folder / FACTS).is_file() else None
    if metadata is not None and metadata.get("finished") is True:
        return Raw.load(folder)
    folder.mkdir(parents=True, exist_ok=True)
    commits = [] if metadata is None else [c for c in metadata["commits"] if c != commit]
    with _threads(plan.threads) as threads:
        metadata = {
            **described,
            "threads": threads,
            "commits": [*commits, commit],
            "ceilings": asdict(
                best_of(Ceilings(**metadata["ceilings"]), ceilings(on)) if metadata else ceilings(on)
            ),
            "finished": False,
        }
        _write_json(metadata, folder / FACTS)
        groups = [(i, b, k) for i in range(len(plan.workloads)) for b in plan.batch_sizes for k in plan.ks]
        with tqdm(
            total=len(groups) * plan.rounds, desc=plan.name, unit="round", disable=None if progress else True
        ) as bar:
            for index, spec in enumerate(plan.workloads):
                _run_workload(plan, spec, folder / f"workload-{index}", on, bar)
                # Again after each workload: a ceiling is the best that was seen, and other work may have lowered the first.
                limits = best_of(Ceilings(**metadata["ceilings"]), ceilings(on))
                metadata = {**metadata, "ceilings": asdict(limits)}
                _write_json(metadata, folder / FACTS)
    _write_json({**metadata, "finished": True}, folder / FACTS)
    return Raw.load(folder)


@contextmanager
def _threads(count: int | None) -> Iterator[int]:
    """torch's threads set to `count` for a while."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _run_workload(plan: Plan, spec: WorkloadSpec, folder: Path, device: torch.device, bar: Any) -> None:
    groups = {(b, k): folder / f"b{b}-k{k}" for b in plan.batch_sizes for k in plan.ks}
    todo = {
        group: missing
        for group, path in groups.items()
        if (missing := [r for r in range(plan.rounds) if not _stored(path, r)])
    }
    if not todo and not all((folder / f"{name}.parquet").is_file() for name in TABLES):
        todo = {
            next(reversed(groups)): [plan.rounds - 1]
        }  # stopped between the last round and the tables: that round again
    bar.update(len(groups) * plan.rounds - sum(map(len, todo.values())))
    if not todo:
        return
    bar.set_postfix_str(f"{spec.name}: building")
    workload = build(spec, plan.queries, plan.seed, device)
    those = plan.entries(len(workload.items))
    pool = SearcherPool(workload, those)
    folder.mkdir(parents=True, exist_ok=True)
    for group, rounds in todo.items():
        _run_group(plan, pool, group, groups[group], rounds, bar)
    for name, table in zip(TABLES, (pool.shape(), described(those), pd.DataFrame(pool.builds)), strict=True):
        _write(table, folder / f"{name}.parquet")


def _run_group(
    plan: Plan, pool: SearcherPool, group: tuple[int, int], folder: Path, rounds: list[int], bar: Any
) -> None:
    batch_size, k = group
    folder.mkdir(parents=True, exist_ok=True)
    bar.set_postfix_str(f"{pool.workload.name}, B {batch_size}, k {k}")
    turns = RoundRobin(pool, plan, batch_size, k)
    _write(pd.DataFrame([turns.warm_up(c) for c in pool.entries]), folder / "memory.parquet")
    for number in rounds:
        taken = list(turns.of_round(number, pool.entries))
        answers = [turn.answers for turn in taken if turn.answers is not None]
        _write(pd.concat(answers, ignore_index=True), folder / f"round-{number:03}.answers.parquet")
        calls = pd.concat([turn.calls for turn in taken], ignore_index=True)
        _write(calls, folder / f"round-{number:03}.calls.parquet")  # last: it marks the round
        bar.update()


def _stored(group: Path, number: int) -> bool:
    wanted = (f"round-{number:03}.calls.parquet", f"round-{number:03}.answers.parquet", "memory.parquet")
    return all((group / name).is_file() for name in wanted)


def _checkpoints(plan: Plan) -> list[str]:
    """The checkpoints that a plan measures."""
    named = [getattr(spec, "checkpoint", None) for spec in plan.workloads]
    return sorted({name for name in (*named, *plan.own) if name is not None})


def _heads(plan: Plan) -> dict[str, str]:
    """The text heads that a plan measures, with a digest of each."""
    return {spec.head: head_identity(spec.head) for spec in plan.workloads if isinstance(spec, TextCorpus)}


def _write(frame: pd.DataFrame, path: Path) -> None:
    with files.atomic_write(path) as temporary:
        frame.to_parquet(temporary, index=False)


def _write_json(values: dict[str, Any], path: Path) -> None:
    files.write_text(json.dumps(values, indent=2) + "\n", path)
