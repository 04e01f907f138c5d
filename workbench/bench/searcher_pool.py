"""Entries on one workload, taking turns: who is built when, what is timed, which answers are kept."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch

from workbench import runtime
from workbench.bench import memory
from workbench.bench.memory import Used
from workbench.bench.methods import BenchmarkEntry, Built
from workbench.bench.plans import Plan
from workbench.bench.roofline import shape
from workbench.bench.workloads import Asked, Workload, under
from workbench.contracts import TopK


class SearcherPool:
    """The entries of a workload, each built on first use, and the cost of building.

    `entries` may change between measurements: what was built is kept, and what several settings share is built once,
    whichever thread is first.
    """

    def __init__(self, workload: Workload, entries: Sequence[BenchmarkEntry] = ()) -> None:
        self.workload, self.entries = workload, list(entries)
        self.builds: list[dict[str, Any]] = []
        self._lock = threading.RLock()
        self._built: dict[tuple[str, str, int], Built] = {}
        self._indexes: dict[tuple[str, str], tuple[Any, float, Used]] = {}
        self._asked: dict[str, Asked] = {"": workload}

    def asked(self, entry: BenchmarkEntry) -> Asked:
        """The queries and the corpus under the score that the entry searches under; raises as `workloads.under` does."""
        with self._lock:
            if entry.checkpoint not in self._asked:
                self._asked[entry.checkpoint] = under(self.workload, entry.checkpoint)
            return self._asked[entry.checkpoint]

    def ready(self, entry: BenchmarkEntry) -> bool:
        """Whether nothing that takes long must be built before the entry can be asked."""
        if entry.checkpoint not in self._asked:
            return False
        return entry.index is None or (entry.checkpoint, entry.index.key) in self._indexes

    def get(self, entry: BenchmarkEntry, batch_size: int) -> Built:
        """The entry, ready for batches of that size."""
        size = batch_size if entry.per_batch_size else 0
        key = (entry.label, entry.checkpoint, size)
        with self._lock:
            if key not in self._built:
                asked = self.asked(entry)
                index, seconds, first = self._index(entry, asked)
                built, more, then = self._timed(lambda: entry.build(asked, batch_size, index))
                self._built[key] = built
                self.builds.append(
                    {"workload": self.workload.name, "label": entry.label, "batch_size": size,
                     "seconds": seconds + more, "kept_bytes": first.kept + then.kept,
                     "peak_bytes": max(first.peak, first.kept + then.peak)}
                )  # fmt: skip
            return self._built[key]

    def shape(self) -> pd.DataFrame:
        """A row: the workload, and what the cost of searching it follows from (see `roofline.Shape`)."""
        form = shape(self.workload)
        return pd.DataFrame(
            [
                {
                    "workload": self.workload.name,
                    **asdict(form),
                    "pair_operations": form.pair_operations,
                }
            ]
        )

    def _index(self, entry: BenchmarkEntry, asked: Asked) -> tuple[Any, float, Used]:
        if entry.index is None:
            return None, 0.0, Used(0.0, 0.0)
        index, key = entry.index, (entry.checkpoint, entry.index.key)
        if key not in self._indexes:
            self._indexes[key] = self._timed(lambda: index.build(asked))
        return self._indexes[key]

    def _timed(self, build: Callable[[], Any]) -> tuple[Any, float, Used]:
        """What `build` makes, the seconds it took and the memory."""
        with runtime.stopwatch(self.workload.device) as watch:
            made, used = memory.measured(build, self.workload.device)
        return made, watch.seconds, used


def described(entries: Sequence[BenchmarkEntry]) -> pd.DataFrame:
    """A row for each entry: `label`, `method`, `setting`, `scan`, `reference`."""
    rows = [(c.label, c.method, c.setting, c.scan, c.reference) for c in entries]
    return pd.DataFrame(rows, columns=["label", "method", "setting", "scan", "reference"])


@dataclass(frozen=True)
class Turn:
    """A entry's calls in one round: a row for each, and one for each query answered; None if a part was searched."""

    label: str
    calls: pd.DataFrame
    answers: pd.DataFrame | None


class RoundRobin:
    """The entries of a pool, searched for the best `k` in batches of `batch_size`, according to a plan."""

    def __init__(self, pool: SearcherPool, plan: Plan, batch_size: int, k: int) -> None:
        self.pool, self.plan, self.batch_size, self.k = pool, plan, batch_size, k
        self._calls: dict[str, int] = {}

    def warm_up(self, entry: BenchmarkEntry) -> dict[str, Any]:
        """Build and warm up a entry: workload, label, batch_size, k, and `peak_bytes` of a call."""
        pool, size = self.pool, self.batch_size
        built, asked = pool.get(entry, size), pool.asked(entry)
        for number in range(self.plan.warmup):
            _, queries, exclude = asked.batch(number * size, size)
            built.search(queries, self.k, exclude)
        _, queries, exclude = asked.batch(0, size)
        start = time.perf_counter()
        _, used = memory.measured(lambda: built.search(queries, self.k, exclude), asked.device)
        slow = time.perf_counter() - start > self.plan.slow_seconds
        self._calls[entry.label] = 1 if slow else self.plan.calls
        return {**self._key(entry), "peak_bytes": used.peak}

    def of_round(self, number: int, entries: Sequence[BenchmarkEntry]) -> Iterator[Turn]:
        """The turns of round `number`, in an order that moves on each round; all were warmed up before."""
        first = number % len(entries)
        for turn, entry in enumerate([*entries[first:], *entries[:first]]):
            built, asked = self.pool.get(entry, self.batch_size), self.pool.asked(entry)
            calls: list[dict[str, Any]] = []
            answers: list[pd.DataFrame] = []
            for call in range(self._calls[entry.label]):
                first_query = (number * self.plan.calls + call) * self.batch_size
                rows, queries, exclude = asked.batch(first_query, self.batch_size)
                with runtime.stopwatch(asked.device) as watch:
                    found = built.search(queries, self.k, exclude)
                key = {**self._key(entry), "round": number, "call": call}
                calls.append({**key, "turn": turn, "seconds": watch.seconds, "fraction": built.fraction})
                if built.fraction == 1:
                    answers.append(_answers(found, rows, asked.targets).assign(**key))
            whole = pd.concat(answers, ignore_index=True) if answers else None
            yield Turn(entry.label, pd.DataFrame(calls), whole)

    def _key(self, entry: BenchmarkEntry) -> dict[str, Any]:
        return {
            "workload": self.pool.workload.name,
            "label": entry.label,
            "batch_size": self.batch_size,
            "k": self.k,
        }


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
            "num_scored": found.num_scored.cpu().numpy(),
        }
    )
