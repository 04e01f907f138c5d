"""The bench as a session: chosen searchers measured here and now, piece by piece; corpora, indexes and results are kept."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pandas as pd
import torch

from workbench import paths, runtime
from workbench.bench.methods import BenchmarkEntry, SearcherSpec
from workbench.bench.plans import Plan
from workbench.bench.searcher_pool import RoundRobin, SearcherPool, described
from workbench.bench.tables import per_query, side_by_side
from workbench.bench.workloads import WorkloadSpec, build
from workbench.reporting.provenance import provenance

SAME = ["workload", "batch_size", "k", "label"]
"""What a row that is measured again takes the place of."""


@dataclass(frozen=True)
class Step:
    """How far measuring is: the `share` done in [0, 1], what comes next, and whether the table has grown."""

    share: float
    text: str
    fresh: bool = False


class LiveBench:
    """Measures plans of one workload, one batch size and one k, a call or an index at a time.

    `table` holds all that was measured, in the columns of `tables.side_by_side` and `run`, the number of the measurement, from
    1. `queries` holds what each of them lost, in the columns of `tables.per_query`. Measured again, a searcher's rows are
    replaced. Torch keeps the threads that it has: a plan's are ignored.
    """

    def __init__(self, device: str | None = None) -> None:
        self.device: torch.device = runtime.device(device)
        self.table = pd.DataFrame()
        self.queries = pd.DataFrame()
        self.runs = 0
        self._lock = threading.Lock()
        self._pools: dict[tuple[WorkloadSpec, int, int], SearcherPool] = {}

    @cached_property
    def machine(self) -> str:
        """Where it measures, in words: the machine, its threads, the device."""
        found = provenance(paths.root()).machine.words()
        return f"{found}, {torch.get_num_threads()} threads, {self.device}"

    def built(self, plan: Plan) -> bool:
        """Whether the plan's corpus is there already."""
        return self._key(plan) in self._pools

    def pool(self, plan: Plan) -> SearcherPool:
        """The plan's workload, built if it is not there yet; raises as `workloads.build` does."""
        key = self._key(plan)
        with self._lock:
            if key not in self._pools:
                self._pools[key] = SearcherPool(build(*key, self.device))
            return self._pools[key]

    def ready(self, plan: Plan, point: SearcherSpec) -> bool:
        """Whether nothing that takes long must be built before `point` can be asked."""
        return self.built(plan) and all(map(self.pool(plan).ready, self._entries(plan, point)))

    def _entries(self, plan: Plan, point: SearcherSpec) -> list[BenchmarkEntry]:
        return [c for c in plan.entries(plan.workloads[0].num_items()) if c.method == point.method]

    def _key(self, plan: Plan) -> tuple[WorkloadSpec, int, int]:
        if (len(plan.workloads), len(plan.batch_sizes), len(plan.ks)) != (1, 1, 1):
            raise ValueError(
                f"one workload, batch size and k are measured at a time, not those of {plan.name!r}"
            )
        return plan.workloads[0], plan.queries, plan.seed

    def measure(self, plan: Plan) -> Iterator[Step]:
        """Measures a plan step by step; each step announces the next, so that it can be shown meanwhile.

        After the first round the table has rows of the plan, and better ones after each further round; whoever stops keeps
        them. Raises as `workloads.build` and `Plan.entries` do.
        """
        self._key(plan)
        if not self.built(plan):
            yield Step(0.0, f"building the corpus: {plan.workloads[0].name}")
        pool = self.pool(plan)
        entries = plan.entries(len(pool.workload.items))
        turns = RoundRobin(pool, plan, plan.batch_sizes[0], plan.ks[0])
        total = len(entries) * (plan.rounds + 2)
        done, memory = 0, []
        for entry in entries:
            doing = "warming up" if pool.ready(entry) else "building the index of"
            yield Step(done / total, f"{doing} {entry.label}")
            pool.get(entry, plan.batch_sizes[0])
            yield Step((done + 1) / total, f"warming up {entry.label}")
            memory.append(turns.warm_up(entry))
            done += 2
        calls: list[pd.DataFrame] = []
        answers: list[pd.DataFrame] = []
        self.runs += 1
        yield Step(done / total, f"round 1 of {plan.rounds}")
        for number in range(plan.rounds):
            for turn in turns.of_round(number, entries):
                calls.append(turn.calls)
                if turn.answers is not None:
                    answers.append(turn.answers)
                done += 1
                yield Step(done / total, f"round {number + 1} of {plan.rounds}: {turn.label} done")
            measured = side_by_side(
                pd.concat(calls, ignore_index=True),
                pd.concat(answers, ignore_index=True),
                pd.DataFrame(pool.builds),
                pd.DataFrame(memory),
                described(entries),
                pool.shape(),
            )
            self._keep(measured.assign(run=self.runs))
            self._keep_queries(pd.concat(answers, ignore_index=True), described(entries))
            yield Step(done / total, f"round {number + 1} of {plan.rounds} done", fresh=True)

    def _keep_queries(self, answers: pd.DataFrame, entries: pd.DataFrame) -> None:
        references = dict(zip(entries["label"], entries["reference"], strict=True))
        fresh = per_query(answers, references)
        if self.queries.empty:
            self.queries = fresh
            return
        at = ["workload", "label", "k"]
        new = pd.MultiIndex.from_frame(fresh[at])
        old = self.queries[~pd.MultiIndex.from_frame(self.queries[at]).isin(new)]
        self.queries = pd.concat([old, fresh], ignore_index=True)

    def _keep(self, measured: pd.DataFrame) -> None:
        if self.table.empty:
            self.table = measured
            return
        new = pd.MultiIndex.from_frame(measured[SAME])
        old = self.table[~pd.MultiIndex.from_frame(self.table[SAME]).isin(new)]
        self.table = pd.concat([old, measured], ignore_index=True)
