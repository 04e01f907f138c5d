"""Contenders on one workload, taking turns: who is built when, what is timed, which answers are kept."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch

from workbench import runtime
from workbench.bench import memory
from workbench.bench.methods import Built, Contender
from workbench.bench.plans import Plan
from workbench.bench.roofline import shape
from workbench.bench.workloads import Asked, Workload, under
from workbench.contracts import TopK


class Field:
    """The contenders of a workload, each built when it is first asked for, and what building took.

    `contenders` may change between measurements: what was built is kept, and what several settings share is built once,
    whichever thread asks first.
    """

    def __init__(self, workload: Workload, contenders: Sequence[Contender] = ()) -> None:
        self.workload, self.contenders = workload, list(contenders)
        self.builds: list[dict[str, Any]] = []
        self._lock = threading.RLock()
        self._built: dict[tuple[str, str, int], Built] = {}
        self._indexes: dict[tuple[str, str], tuple[Any, float, float]] = {}
        self._asked: dict[str, Asked] = {"": workload}

    def asked(self, contender: Contender) -> Asked:
        """The queries and the corpus under the score that the contender searches under; raises as `workloads.under` does."""
        with self._lock:
            if contender.checkpoint not in self._asked:
                self._asked[contender.checkpoint] = under(self.workload, contender.checkpoint)
            return self._asked[contender.checkpoint]

    def ready(self, contender: Contender) -> bool:
        """Whether nothing that takes long must be built before the contender can be asked."""
        if contender.checkpoint not in self._asked:
            return False
        return contender.index is None or (contender.checkpoint, contender.index.key) in self._indexes

    def get(self, contender: Contender, batch_size: int) -> Built:
        """The contender, ready for batches of that size."""
        size = batch_size if contender.per_batch_size else 0
        key = (contender.label, contender.checkpoint, size)
        with self._lock:
            if key not in self._built:
                asked = self.asked(contender)
                index, seconds, kept = self._index(contender, asked)
                built, more, grown = self._timed(lambda: contender.build(asked, batch_size, index))
                self._built[key] = built
                self.builds.append(
                    {"workload": self.workload.name, "label": contender.label, "batch_size": size,
                     "seconds": seconds + more, "kept_bytes": kept + grown}
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

    def _index(self, contender: Contender, asked: Asked) -> tuple[Any, float, float]:
        if contender.index is None:
            return None, 0.0, 0.0
        index, key = contender.index, (contender.checkpoint, contender.index.key)
        if key not in self._indexes:
            self._indexes[key] = self._timed(lambda: index.build(asked))
        return self._indexes[key]

    def _timed(self, build: Callable[[], Any]) -> tuple[Any, float, float]:
        """What `build` makes, the seconds it took and the bytes it kept."""
        start = time.perf_counter()
        made, used = memory.measured(build, self.workload.device)
        return made, time.perf_counter() - start, used.kept


def described(contenders: Sequence[Contender]) -> pd.DataFrame:
    """A row for each contender: `label`, `method`, `setting`, `scan`, `reference`."""
    rows = [(c.label, c.method, c.setting, c.scan, c.reference) for c in contenders]
    return pd.DataFrame(rows, columns=["label", "method", "setting", "scan", "reference"])


@dataclass(frozen=True)
class Turn:
    """A contender's calls in one round: a row for each, and one for each query answered; None where a part was searched."""

    label: str
    calls: pd.DataFrame
    answers: pd.DataFrame | None


class Turns:
    """The contenders of a field, asked for the best `k` in batches of `batch_size`, as a plan says."""

    def __init__(self, field: Field, plan: Plan, batch_size: int, k: int) -> None:
        self.field, self.plan, self.batch_size, self.k = field, plan, batch_size, k
        self._calls: dict[str, int] = {}

    def warm_up(self, contender: Contender) -> dict[str, Any]:
        """Build and warm up a contender: workload, label, batch_size, k, and `peak_bytes` of a call."""
        field, size = self.field, self.batch_size
        built, asked = field.get(contender, size), field.asked(contender)
        for number in range(self.plan.warmup):
            _, queries, exclude = asked.batch(number * size, size)
            built.search(queries, self.k, exclude)
        _, queries, exclude = asked.batch(0, size)
        start = time.perf_counter()
        _, used = memory.measured(lambda: built.search(queries, self.k, exclude), asked.device)
        slow = time.perf_counter() - start > self.plan.slow_seconds
        self._calls[contender.label] = 1 if slow else self.plan.calls
        return {**self._key(contender), "peak_bytes": used.peak}

    def of_round(self, number: int, contenders: Sequence[Contender]) -> Iterator[Turn]:
        """The turns of round `number`, in an order that moves on each round; all were warmed up before."""
        first = number % len(contenders)
        for turn, contender in enumerate([*contenders[first:], *contenders[:first]]):
            built, asked = self.field.get(contender, self.batch_size), self.field.asked(contender)
            calls: list[dict[str, Any]] = []
            answers: list[pd.DataFrame] = []
            for call in range(self._calls[contender.label]):
                first_query = (number * self.plan.calls + call) * self.batch_size
                rows, queries, exclude = asked.batch(first_query, self.batch_size)
                with runtime.stopwatch(asked.device) as watch:
                    found = built.search(queries, self.k, exclude)
                key = {**self._key(contender), "round": number, "call": call}
                calls.append({**key, "turn": turn, "seconds": watch.seconds, "fraction": built.fraction})
                if built.fraction == 1:
                    answers.append(_answers(found, rows, asked.targets).assign(**key))
            whole = pd.concat(answers, ignore_index=True) if answers else None
            yield Turn(contender.label, pd.DataFrame(calls), whole)

    def _key(self, contender: Contender) -> dict[str, Any]:
        return {
            "workload": self.field.workload.name,
            "label": contender.label,
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
            "work": found.work.cpu().numpy(),
        }
    )
