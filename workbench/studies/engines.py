"""One checkpoint behind several engines: the same candidates must give the same lists, whoever holds the vectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from workbench.bench.workloads import Inflated, Trained, Workload, build
from workbench.contracts import Searcher
from workbench.data import load
from workbench.registry import Settings
from workbench.runtime import stopwatch
from workbench.search import BruteForce, registry
from workbench.search.engines.catalog import ENGINES, Engine, engine
from workbench.search.graph_search import GraphSearch
from workbench.studies.study import Models, Study, register
from workbench.training.presets import preset

BATCH = 32
"""Queries of a call."""

ROUNDS = 5
"""Calls of each engine that are timed, in turns, after one that is not."""


@register
@dataclass(frozen=True)
class EnginesStudy(Study):
    """One trained model behind each engine that is installed, at equal candidates: overlap, recall, time, files.

    Each engine lists `n2` items by the average component, which are scored in full, and keeps 4 `n2` if it walks a graph of its
    own; our graph walks by the score itself with a list of `ef` instead. tantivy is none of them: it holds SparCode's codes, no
    vectors. `overlap`: the share of the lists of the engine "flat"; `recall`: of the true top `k`. `items`: the corpus inflated
    to this many (0: as it is). `engines`: those to compare.
    """

    name: ClassVar[str] = "engines"
    question: ClassVar[str] = "Does it matter for the result which engine holds the items?"
    minutes: ClassVar[float] = 15
    model: str = "cpu/hstu-mol"
    dataset: str | None = None
    items: int = 0
    n2: int = 1_000
    ef: int = 200
    k: int = 100
    queries: int = 256
    engines: tuple[str, ...] = ("flat", "faiss", "usearch", "milvus", "lancedb", "graph")

    @property
    def file(self) -> str:
        """One table per size of the corpus."""
        return f"{self.name}-{self.items}" if self.items else self.name

    def presets(self) -> tuple[str, ...]:
        """The model."""
        return (self.model,)

    def table(self, models: Models) -> pd.DataFrame:
        """One row per engine."""
        present = installed([engine(name) for name in self.engines], models.note)
        made = preset(self.model)
        folder = models.require(made, load(self.dataset or made.dataset)).folder
        spec = Inflated(str(folder), self.items) if self.items else Trained(str(folder))
        workload = build(spec, self.queries, 0, torch.device("cpu"))
        n2 = min(self.n2, len(workload.items))
        return compare(workload, present, n2, min(self.ef, len(workload.items)), min(self.k, n2))


def installed(engines: Sequence[Engine], note: Callable[[str], None]) -> list[Engine]:
    """Those of some engines whose packages are installed; `note` receives a line for each other."""
    found = []
    for one in engines:
        try:
            one.version()
            found.append(one)
        except ImportError as error:
            note(f"{one.name} is left out: {error}")
    return found


class Opened(NamedTuple):
    """An engine whose files were written and opened again."""

    engine: Engine
    settings: Settings
    searcher: Searcher
    build_s: float
    open_s: float
    nbytes: int


def settings_of(chosen: Engine, n2: int, ef: int) -> Settings:
    """The settings of an engine's default searcher at these candidates."""
    kind = chosen.searchers[0]
    named = {field.name for field in fields(registry.SEARCHERS[kind].settings)}
    given = {"ef": ef, "n2": n2, "ef_search": 4 * n2}
    found: Settings = registry.SEARCHERS.from_dict(
        {"kind": kind, **{name: value for name, value in given.items() if name in named}}
    )
    return found


def compare(workload: Workload, engines: list[Engine], n2: int, ef: int, k: int) -> pd.DataFrame:
    """A row for each engine over a workload; see `EnginesStudy`."""
    truth = BruteForce(workload.similarity, workload.items).search(workload.queries, k, workload.exclude).ids
    flat = registry.build(settings_of(ENGINES["flat"], n2, ef), workload.similarity, workload.items)
    reference = flat.search(workload.queries, k, workload.exclude).ids
    with TemporaryDirectory(prefix="workbench-engines-") as place:
        opened = [_opened(workload, one, n2, ef, Path(place) / one.name) for one in engines]
        seconds: dict[str, list[float]] = {one.engine.name: [] for one in opened}
        for turn in range(ROUNDS + 1):
            _, queries, exclude = workload.batch(turn * BATCH, min(BATCH, len(workload.queries)))
            for one in opened:
                with stopwatch(workload.device) as watch:
                    one.searcher.search(queries, k, exclude)
                if turn:
                    seconds[one.engine.name].append(watch.seconds / len(queries))
        rows = [_row(workload, one, k, truth, reference, seconds[one.engine.name]) for one in opened]
        del opened, one  # engines let go of their files before these are deleted
    return pd.DataFrame(rows)


def _opened(workload: Workload, chosen: Engine, n2: int, ef: int, folder: Path) -> Opened:
    folder.mkdir()
    settings = settings_of(chosen, n2, ef)
    with stopwatch(workload.device) as building:
        registry.build(settings, workload.similarity, workload.items, folder)
    with stopwatch(workload.device) as opening:
        searcher = registry.build(settings, workload.similarity, workload.items, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Opened(chosen, settings, searcher, building.seconds, opening.seconds, size)


def _row(
    workload: Workload,
    one: Opened,
    k: int,
    truth: Int[Tensor, "Q K"],
    reference: Int[Tensor, "Q K"],
    seconds: list[float],
) -> dict[str, Any]:
    found = one.searcher.search(workload.queries, k, workload.exclude)
    walks = isinstance(one.searcher, GraphSearch)
    return {
        "engine": one.engine.name,
        "version": one.engine.version() or "own",
        "searcher": one.settings.kind,
        "items": len(workload.items),
        "k": k,
        "candidates": float(found.num_scored.double().mean()),
        "overlap": float("nan") if walks else shared(found.ids, reference),
        "recall": shared(found.ids, truth),
        "ms_per_query": 1e3 * sorted(seconds)[len(seconds) // 2],
        "build_s": one.build_s,
        "open_s": one.open_s,
        "files_mb": one.nbytes / 1e6,
    }


def shared(ids: Int[Tensor, "Q K"], others: Int[Tensor, "Q K"]) -> float:
    """The mean share of `others` that is in the list of the same query; places past the end count for nothing."""
    there = others > 0
    hit = (others[:, :, None] == ids[:, None, :]).any(2) & there
    return float((hit.sum(1).double() / there.sum(1).clamp(min=1)).mean())
