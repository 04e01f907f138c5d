"""The study of plain recommenders: counts, closed forms and graph factors compared with trained models."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pandas as pd

from workbench import files, paths, source
from workbench.baselines.baseline import Baseline
from workbench.baselines.ease import EASE
from workbench.baselines.factors import LightGCN, UltraGCN
from workbench.baselines.item_cf import ItemCF
from workbench.baselines.popularity import Popularity
from workbench.baselines.ranking import rank_users
from workbench.data import Sequences, load
from workbench.evaluation.metrics import metrics
from workbench.evaluation.protocol import STRICT, STRICT_VALIDATION, compare, effective_ranks, summarize
from workbench.studies.study import Models, PresetsOnDataset, register
from workbench.studies.table_formats import standing
from workbench.training.presets import preset

ROOMS = (
    *("baselines", "contracts", "data", "evaluation"),
    *("kernels", "runtime", "search", "studies/baseline_studies"),
)
"""The code that decides the ranks of a baseline; that of this module says how each is made."""
SHOWN = ("HR@1", "HR@10", "HR@50", "HR@200", "NDCG@10", "MRR")
GRIDS: dict[str, tuple[Callable[[Sequences, float], Baseline], tuple[float, ...]]] = {
    "popularity": (lambda data, _: Popularity(data), (0,)),
    "item-CF, {:g} neighbours": (lambda data, count: ItemCF(data, int(count)), (5, 10, 20, 50, 200)),
    "EASE^R, λ = {:g}": (EASE, (2, 10, 50, 200, 1000)),
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
    and fitted. A study that was killed continues with the baseline it was at.
    """

    name: ClassVar[str] = "baselines"
    question: ClassVar[str] = "How far do counts, closed forms and graphs without order get?"
    minutes: ClassVar[float] = 90
    methods: tuple[str, ...] = METHODS

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"no baseline {unknown[0]!r}; there are {', '.join(METHODS)}")

    def table(self, models: Models) -> pd.DataFrame:
        """One row per method: the metrics of `SHOWN` on test targets, and the interval of NDCG@10.

        `ahead` and its ends: NDCG@10 minus that of the best of `methods`, paired by user; NaN for that one, or without any.
        """
        sequences = load(self.dataset)
        found = {}
        for name in GRIDS:
            if _method(name) in self.methods:
                title, ranks = _chosen(name, sequences, models.note)
                found[title] = ranks
        measured = {name: summarize(ranks, STRICT).set_index("metric") for name, ranks in found.items()}
        best = max(measured, key=lambda name: float(measured[name]["value"]["NDCG@10"]), default=None)
        for name in self.models:
            if (model := models.find(preset(name), sequences)) is not None:
                found[name], measured[name] = model.ranks(sequences), model.metrics.set_index("metric")
        rows = []
        for method, values in measured.items():
            row: dict[str, object] = {"method": method} | {m: values.loc[m, "value"] for m in SHOWN}
            row |= {"low": values.loc["NDCG@10", "low"], "high": values.loc["NDCG@10", "high"]}
            if best is not None and method != best:
                paired = compare(found[best], found[method], ks=(10,)).set_index("metric").loc["NDCG@10"]
                row |= {
                    "ahead": paired["difference"],
                    "ahead_low": paired["low"],
                    "ahead_high": paired["high"],
                }
            rows.append(row)
        return pd.DataFrame(rows).assign(protocol=str(STRICT))


def next_to_plain(table: pd.DataFrame) -> str:
    """The best plain recommender of a table of `BaselineStudy`, and which methods it is ahead of, as a sentence."""
    is_best = table["ahead"].isna()
    best, rest = table[is_best].iloc[0], table[~is_best]
    name, others = _method(best["method"]), rest["method"].map(_method)
    return f"The best plain recommender is {name}. {standing(name, others, -rest['ahead_high'], -rest['ahead_low'])}"


def _chosen(name: str, sequences: Sequences, note: Callable[[str], None]) -> tuple[str, pd.DataFrame]:
    """The title, with the value that has the best NDCG@10 on validation targets, and its ranks of test targets."""
    make, grid = GRIDS[name]
    best: tuple[float, str, pd.DataFrame] | None = None
    for value in grid:
        title = name.format(value)
        ranks = _ranks(title, partial(make, sequences, value), sequences, note)
        quality = metrics(effective_ranks(ranks[STRICT_VALIDATION.part]), ks=(10,))["NDCG@10"]
        if best is None or quality > best[0]:
            best = quality, title, ranks[STRICT.part]
    assert best is not None
    return best[1:]


def _ranks(
    title: str, make: Callable[[], Baseline], sequences: Sequences, note: Callable[[str], None]
) -> dict[str, pd.DataFrame]:
    """The ranks of validation and of test targets; kept in `ckpts/runs`, so that a study which was killed resumes.

    Those of other data or by other code are not taken.
    """
    key = f"{title} {sequences.fingerprint()} {source.digest(*ROOMS)}"
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.parquet"
    path = paths.checkpoints() / "runs" / "baselines" / name
    try:
        table = pd.read_parquet(path)
        note(f"{title}: ranks of an earlier run, from {path}")
    except (OSError, ValueError):  # none, or damaged
        baseline = make()
        found = {rules.part: rank_users(baseline, sequences, rules) for rules in (STRICT_VALIDATION, STRICT)}
        table = pd.concat(found, names=["part"]).reset_index("part")
        with files.atomic_write(path) as temporary:
            table.to_parquet(temporary, index=False)
    return {
        str(part): rows.drop(columns="part").reset_index(drop=True) for part, rows in table.groupby("part")
    }
