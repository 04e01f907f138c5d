"""The study of plain recommenders: counts, closed forms and graph factors compared with trained models."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from workbench.baselines.baseline import Baseline
from workbench.baselines.ease import EASE
from workbench.baselines.factors import LightGCN, UltraGCN
from workbench.baselines.item_cf import ItemCF
from workbench.baselines.popularity import Popularity
from workbench.baselines.ranking import rank_users
from workbench.data import Sequences, load
from workbench.evaluation.metrics import metrics
from workbench.evaluation.protocol import STRICT, STRICT_VALIDATION, effective_ranks, summarize
from workbench.studies.study import Models, PresetsOnDataset, register
from workbench.training.presets import preset

SHOWN = ("HR@1", "HR@10", "HR@50", "HR@200", "NDCG@10", "MRR")
GRIDS: dict[str, tuple[Callable[[Sequences, float], Baseline], tuple[float, ...]]] = {
    "popularity": (lambda data, _: Popularity(data), (0,)),
    "item-CF, {:g} neighbours": (lambda data, count: ItemCF(data, int(count)), (20, 50, 200)),
    "EASE^R, λ = {:g}": (EASE, (50, 100, 200, 500, 1000)),
    "LightGCN": (lambda data, _: LightGCN(data, progress=True), (0,)),
    "UltraGCN": (lambda data, _: UltraGCN(data, progress=True), (0,)),
}
"""How each baseline is made from a dataset and its one parameter, and the values that validation chooses from."""


def _method(title: str) -> str:
    return title.partition(",")[0]


METHODS = tuple(map(_method, GRIDS))
"""The baselines by name."""


@register
@dataclass(frozen=True)
class BaselineStudy(PresetsOnDataset):
    """Popularity, item-CF, EASE^R, LightGCN and UltraGCN compared with trained models under the strict protocol, each tuned
    on validation targets.

    `dataset`: the data; `models`: presets to compare with; `methods`: the baselines. Only training interactions are counted
    and fitted.
    """

    name: ClassVar[str] = "baselines"
    question: ClassVar[str] = "How far do counts, closed forms and graphs without order get?"
    minutes: ClassVar[float] = 90
    methods: tuple[str, ...] = METHODS

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"no baseline {unknown[0]!r}; there are {', '.join(METHODS)}")

    def table(self, models: Models) -> pd.DataFrame:
        """One row per method: the metrics of `SHOWN` on test targets, and the interval of NDCG@10."""
        sequences = load(self.dataset)
        found = {
            name.format(value): summarize(rank_users(made, sequences, STRICT), STRICT)
            for name, (value, made) in {
                n: _chosen(n, sequences) for n in GRIDS if _method(n) in self.methods
            }.items()
        }
        for name in self.models:
            if (model := models.find(preset(name), sequences)) is not None:
                found[name] = model.metrics
        rows = []
        for method, table in found.items():
            values = table.set_index("metric")
            row: dict[str, object] = {"method": method} | {m: values.loc[m, "value"] for m in SHOWN}
            rows.append(row | {"low": values.loc["NDCG@10", "low"], "high": values.loc["NDCG@10", "high"]})
        return pd.DataFrame(rows).assign(protocol=str(STRICT))


def _chosen(name: str, sequences: Sequences) -> tuple[float, Baseline]:
    """The value with the best NDCG@10 on validation targets, and the baseline that it makes."""
    make, grid = GRIDS[name]
    best: tuple[float, float, Baseline] | None = None
    for value in grid:
        made = make(sequences, value)
        ranks = rank_users(made, sequences, STRICT_VALIDATION)
        quality = metrics(effective_ranks(ranks), ks=(10,))["NDCG@10"]
        if best is None or quality > best[0]:
            best = quality, value, made
    assert best is not None
    return best[1], best[2]
