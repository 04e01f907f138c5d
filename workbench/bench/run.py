"""Runs a plan and keeps what it saw: a row per timed call, a row per answered query. A killed run goes on where it was."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from tqdm import tqdm

from workbench import paths, runtime
from workbench.bench import memory
from workbench.bench.contenders import Built, Contender, chosen
from workbench.bench.plans import Plan
from workbench.bench.roofline import Ceilings, Shape, best_of, ceilings, shape
from workbench.bench.workloads import Workload, WorkloadSpec, build
from workbench.contracts import TopK
from workbench.reporting.provenance import provenance

FACTS = "run.json"


@dataclass(frozen=True)
class Raw:
    """All that a run stored.

    `calls`: workload, label, batch_size, k, round, call, turn (its place in the round), seconds, fraction (of the corpus
    that was searched). `answers`: workload, label, batch_size, k, round, call, query, target (0: unknown), and of the `TopK`
    ids, scores, exact, gap, work. `builds`: workload, label, batch_size (0: any), seconds, kept_bytes (held beyond the item
    state). `memory`: workload, label, batch_size, k, peak_bytes (of one call). `contenders`: label, method, setting, scan.
    `shapes`: workload, and the fields of `Shape`. `facts`: the plan, the machine, versions, commits.
    """

    calls: pd.DataFrame
    answers: pd.DataFrame
    builds: pd.DataFrame
    memory: pd.DataFrame
    contenders: pd.DataFrame
    shapes: pd.DataFrame
    ceilings: Ceilings
    facts: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `run` stored in `folder`; FileNotFoundError where nothing is there, ValueError where it was not finished."""
        if not (folder / FACTS).is_file():
            raise FileNotFoundError(f"{folder} holds no {FACTS}: not a run of the bench")
        facts = json.loads((folder / FACTS).read_text())
        if not facts["finished"]:
            raise ValueError(f"the run in {folder} was stopped; run the same plan again to finish it")

        def every(pattern: str) -> pd.DataFrame:
            parts = [pd.read_parquet(path) for path in sorted(folder.glob(pattern))]
            return pd.concat(parts, ignore_index=True)

        return cls(
            every("*/*/round-*.calls.parquet"),
            every("*/*/round-*.answers.parquet"),
            every("*/builds.parquet"),
            every("*/*/memory.parquet"),
            every("*/contenders.parquet").drop_duplicates("label", ignore_index=True),
            every("*/shape.parquet"),
            Ceilings(**facts["ceilings"]),
            facts,
        )


def run(
    plan: Plan,
    runs: Path | None = None,
    *,
    device: str | None = None,
    progress: bool = True,
    anew: bool = False,
) -> Raw:
    """Measure `plan` in a folder of its own under `runs` (default: `reports/bench`), and hand back all that was stored.

    The folder is named for the plan, the contenders, the machine and the torch version: what was measured before with all of
    them the same is kept, and what is missing is measured now. A round is stored whole or not at all. `anew` removes
    what is there first. Raises as `workloads.build` does.
    """
    on = runtime.device(device)
    found = provenance(paths.root())
    described = {
        "plan": plan.to_dict(),
        "machine": found.machine.words(),
        "device": str(on),
        "torch": torch.__version__,
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:8]
    folder = (runs or paths.reports() / "bench") / f"{plan.name}-{digest}"
    if anew:
        shutil.rmtree(folder, ignore_errors=True)
    facts = json.loads((folder / FACTS).read_text()) if (folder / FACTS).is_file() else None
    if facts is not None and facts["finished"]:
        return Raw.load(folder)
    folder.mkdir(parents=True, exist_ok=True)
    commits = [] if facts is None else [c for c in facts["commits"] if c != found.commit_words()]
    with _threads(plan.threads) as threads:
        facts = {
            **described,
            "threads": threads,
            "commits": [*commits, found.commit_words()],
            "ceilings": asdict(
                best_of(Ceilings(**facts["ceilings"]), ceilings(on)) if facts else ceilings(on)
            ),
            "finished": False,
        }
        _write_json(facts, folder / FACTS)
        groups = [(i, b, k) for i in range(len(plan.workloads)) for b in plan.batch_sizes for k in plan.ks]
        with tqdm(total=len(groups) * plan.rounds, desc=plan.name, unit="round", disable=not progress) as bar:
            for index, spec in enumerate(plan.workloads):
                _run_workload(plan, spec, folder / f"workload-{index}", on, bar)
                # Again after each workload: a ceiling is the best that was seen, and other work may have lowered the first.
                limits = best_of(Ceilings(**facts["ceilings"]), ceilings(on))
                facts = {**facts, "ceilings": asdict(limits)}
                _write_json(facts, folder / FACTS)
    _write_json({**facts, "finished": True}, folder / FACTS)
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
    bar.update(len(groups) * plan.rounds - sum(map(len, todo.values())))
    if not todo:
        return
    bar.set_postfix_str(f"{spec.name}: building")
    workload = build(spec, plan.queries, plan.seed, device)
    those = chosen(len(workload.items), plan.methods, plan.typical)
    field = Field(workload, those)
    folder.mkdir(parents=True, exist_ok=True)
    for group, rounds in todo.items():
        _run_group(plan, field, group, groups[group], rounds, bar)
    _write(
        pd.DataFrame([{"workload": workload.name, **_described(shape(workload))}]), folder / "shape.parquet"
    )
    _write(
        pd.DataFrame([(c.label, c.method, c.setting, c.scan) for c in those], columns=["label", "method", "setting", "scan"]),
        folder / "contenders.parquet",
    )  # fmt: skip
    _write(pd.DataFrame(field.builds), folder / "builds.parquet")


def _described(form: Shape) -> dict[str, float]:
    return {**asdict(form), "pair_operations": form.pair_operations}


class Field:
    """The contenders of a workload, each built when it is first asked for, and what building took."""

    def __init__(self, workload: Workload, those: list[Contender]) -> None:
        self.workload, self.contenders = workload, those
        self.builds: list[dict[str, Any]] = []
        self._built: dict[tuple[str, int], Built] = {}

    def get(self, contender: Contender, batch_size: int) -> Built:
        """The contender, ready for batches of that size."""
        key = (contender.label, batch_size if contender.per_batch_size else 0)
        if key not in self._built:
            start = time.perf_counter()
            built, used = memory.measured(
                lambda: contender.build(self.workload, batch_size), self.workload.device
            )
            seconds = time.perf_counter() - start
            self._built[key] = built
            self.builds.append(
                {"workload": self.workload.name, "label": key[0], "batch_size": key[1], "seconds": seconds,
                 "kept_bytes": used.kept}
            )  # fmt: skip
        return self._built[key]


def _run_group(
    plan: Plan, field: Field, group: tuple[int, int], folder: Path, rounds: list[int], bar: Any
) -> None:
    batch_size, k = group
    folder.mkdir(parents=True, exist_ok=True)
    name = field.workload.name
    bar.set_postfix_str(f"{name}, B {batch_size}, k {k}")
    peaks, calls = [], {}
    for contender in field.contenders:
        peak, seconds = _warm_up(field, contender, batch_size, k, plan.warmup)
        peaks.append((name, contender.label, batch_size, k, peak))
        calls[contender.label] = 1 if seconds > plan.slow_seconds else plan.calls
    columns = ["workload", "label", "batch_size", "k", "peak_bytes"]
    _write(pd.DataFrame(peaks, columns=columns), folder / "memory.parquet")
    for number in rounds:
        times: list[dict[str, Any]] = []
        answers: list[pd.DataFrame] = []
        first = number % len(field.contenders)
        order = field.contenders[first:] + field.contenders[:first]
        for turn, contender in enumerate(order):
            built = field.get(contender, batch_size)
            for call in range(calls[contender.label]):
                asked, queries, exclude = field.workload.batch(
                    (number * plan.calls + call) * batch_size, batch_size
                )
                with runtime.stopwatch(field.workload.device) as watch:
                    found = built.search(queries, k, exclude)
                key: dict[str, Any] = {"workload": name, "label": contender.label, "batch_size": batch_size, "k": k,
                       "round": number, "call": call}  # fmt: skip
                times.append({**key, "turn": turn, "seconds": watch.seconds, "fraction": built.fraction})
                if built.fraction == 1:
                    answers.append(_answers(found, asked, field.workload.targets).assign(**key))
        _write(pd.concat(answers, ignore_index=True), folder / f"round-{number:03}.answers.parquet")
        _write(pd.DataFrame(times), folder / f"round-{number:03}.calls.parquet")  # last: it marks the round
        bar.update()


def _warm_up(field: Field, contender: Contender, batch_size: int, k: int, warmup: int) -> tuple[float, float]:
    """Bytes and seconds of a call after `warmup` others."""
    built = field.get(contender, batch_size)
    for number in range(warmup):
        _, queries, exclude = field.workload.batch(number * batch_size, batch_size)
        built.search(queries, k, exclude)
    _, queries, exclude = field.workload.batch(0, batch_size)
    start = time.perf_counter()
    _, used = memory.measured(lambda: built.search(queries, k, exclude), field.workload.device)
    return used.peak, time.perf_counter() - start


def _answers(found: TopK, asked: torch.Tensor, targets: torch.Tensor) -> pd.DataFrame:
    """A row per query."""
    return pd.DataFrame(
        {
            "query": asked.cpu().numpy(),
            "target": targets[asked].cpu().numpy(),
            "ids": list(found.ids.cpu().numpy().astype("int32")),
            "scores": list(found.scores.float().cpu().numpy()),
            "exact": found.exact.cpu().numpy(),
            "gap": found.gap.float().cpu().numpy(),
            "work": found.work.cpu().numpy(),
        }
    )


def _stored(group: Path, number: int) -> bool:
    return (group / f"round-{number:03}.calls.parquet").is_file()


def _write(frame: pd.DataFrame, path: Path) -> None:
    temporary = path.with_name(path.name + ".partial")
    frame.to_parquet(temporary, index=False)
    temporary.replace(path)


def _write_json(values: dict[str, Any], path: Path) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    temporary.replace(path)
