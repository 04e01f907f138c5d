"""The study of ties: how much the unknown order of equal timestamps moves metrics and the ranking of models."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from tqdm import tqdm

from workbench.baselines.baseline import Baseline
from workbench.baselines.ease import EASE
from workbench.baselines.item_cf import ItemCF
from workbench.baselines.popularity import Popularity
from workbench.baselines.ranking import rank_users as rank_baseline
from workbench.data import Sequences, load
from workbench.data.ties import moved_targets, shuffle_ties
from workbench.evaluation.metrics import metrics
from workbench.evaluation.protocol import STRICT, effective_ranks
from workbench.evaluation.published import published
from workbench.evaluation.retrievers import rank_users
from workbench.retriever import Retriever
from workbench.runtime import derived_seed
from workbench.studies.study import Models, Study, register
from workbench.training.loop import train
from workbench.training.preset import Preset
from workbench.training.presets import preset

BASELINES: dict[str, Callable[[Sequences], Baseline]] = {
    "popularity": Popularity,
    "item-CF": lambda data: ItemCF(data, 200),
    "EASE^R": lambda data: EASE(data, 500.0),
}
SHOWN = ("HR@10", "NDCG@10", "MRR")
COMPARED = (
    ("BERT4Rec", "SASRec"),
    ("SASRec", "HSTU"),
    ("SASRec", "SASRec+MoL"),
    ("HSTU", "HSTU+MoL"),
    ("HSTU+MoL w/o L_MI", "HSTU+MoL"),
    ("HSTU-large", "HSTU-large+MoL"),
)
"""Pairs of published methods, the better one last."""
STABLE = "as in the source"
"""The order of ties that a stable sort keeps."""


@register
@dataclass(frozen=True)
class Ties(Study):
    """Metrics of baselines and models, each fitted and measured again for every random order of equal timestamps.

    `dataset`: the data; `models`: presets that are trained for each order, in a temporary folder; `orders` random orders next
    to that of the source; `seed` draws them. A model is trained with its own seed 0 each time, so that only the order differs.
    """

    name: ClassVar[str] = "ties"
    question: ClassVar[str] = (
        "How far does the order of equal timestamps move metrics and the ranking of models?"
    )
    minutes: ClassVar[float] = 25
    dataset: str = "ml-latest-small"
    models: tuple[str, ...] = ("quick/sasrec-dot", "quick/sasrec-mol")
    orders: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.orders < 2:
            raise ValueError(f"orders must be 2 or more, not {self.orders}")

    @property
    def file(self) -> str:
        """One table per dataset."""
        return f"{self.name}-{self.dataset}"

    def table(self, models: Models) -> pd.DataFrame:
        """One row per order and method: `order`, `method`, `moved` (share of users with another target), and the metrics."""
        source = load(self.dataset)
        source.require_order("a study of ties")
        chosen = [preset(name) for name in self.models]
        rows: list[dict[str, object]] = []
        for number in tqdm(range(self.orders + 1), desc="orders of ties", unit="order", disable=None):
            random = np.random.default_rng(derived_seed(self.seed, number))
            sequences = shuffle_ties(source, random) if number else source
            order = str(number) if number else STABLE
            found = {name: _baseline(make(sequences), sequences) for name, make in BASELINES.items()}
            found |= {p.name: _trained(p, sequences, models.device) for p in chosen}
            moved = moved_targets(source, sequences)
            rows += [{"order": order, "method": m, "moved": moved, **values} for m, values in found.items()]
        return pd.DataFrame(rows).assign(protocol=str(STRICT))


def _baseline(baseline: Baseline, sequences: Sequences) -> dict[str, float]:
    return _values(rank_baseline(baseline, sequences, STRICT))


def _trained(chosen: Preset, sequences: Sequences, device: str | None) -> dict[str, float]:
    """The metrics of a preset that is trained for this order alone."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            sequences,
            chosen.retriever,
            replace(chosen.training, seed=0),
            Path(folder) / "run",
            device=device,
            progress=False,
        )
        return _values(rank_users(Retriever.load(run.folder), sequences, STRICT))


def _values(ranks: pd.DataFrame) -> dict[str, float]:
    found = metrics(effective_ranks(ranks), ks=(10,))
    return {name: float(found[name]) for name in SHOWN}


def over_orders(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method and metric over the random orders of a table of `Ties`.

    `source` is the value for the order of the source, `mean`, `std`, `min`, `max` those over random orders; `over_first` and
    `over_first_std` the paired difference to the first method; `leads`: the share of orders in which the method is the best.

    >>> rows = [("1", "a", .1), ("1", "b", .3), ("2", "a", .3), ("2", "b", .2), (STABLE, "a", .2), (STABLE, "b", .2)]
    >>> made = pd.DataFrame(rows, columns=["order", "method", "MRR"])
    >>> over_orders(made)[["method", "mean", "over_first", "leads"]].round(3).values.tolist()
    [['a', 0.2, 0.0, 0.5], ['b', 0.25, 0.05, 0.5]]
    """
    rows = []
    methods = list(dict.fromkeys(table["method"]))
    for metric in (m for m in SHOWN if m in table):
        values = table.pivot(index="order", columns="method", values=metric)[methods]
        random = values.drop(index=STABLE, errors="ignore")
        for method in methods:
            difference = random[method] - random[methods[0]]
            rows.append(
                {
                    "method": method,
                    "metric": metric,
                    "source": values.loc[STABLE, method] if STABLE in values.index else np.nan,
                    "mean": random[method].mean(),
                    "std": random[method].std(ddof=1),
                    "min": random[method].min(),
                    "max": random[method].max(),
                    "over_first": difference.mean(),
                    "over_first_std": difference.std(ddof=1),
                    "leads": float((random.idxmax(axis=1) == method).mean()),
                    "orders": len(random),
                }
            )
    return pd.DataFrame(rows)


def format_orders(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `Ties` as text: a row per method; metrics in the order of the source, mean ± std (range) over orders."""
    summary = over_orders(table)
    rows = []
    for method, found in summary.groupby("method", sort=False):
        row = {"method": str(method)}
        for values in found[found["metric"].isin(("HR@10", "NDCG@10"))].itertuples():
            row[f"{values.metric}, source"] = f"{values.source:.4f}"
            row[f"{values.metric}, random orders"] = (
                f"{values.mean:.4f} ± {values.std:.4f} ({values.min:.4f} to {values.max:.4f})"
            )
        ndcg = found[found["metric"] == "NDCG@10"].iloc[0]
        rows.append(row | {"best in": f"{ndcg['leads']:.0%} of {ndcg['orders']:.0f}"})
    return pd.DataFrame(rows)


def published_gaps(table: pd.DataFrame, dataset: str = "ml-1m") -> pd.DataFrame:
    """Published differences in HR@10 next to what the order of ties alone moves, from a table of `Ties` of the same dataset.

    `same order`: the standard deviation of a difference between two methods that were measured on one order, the largest of
    all pairs of methods in the table; `own orders`: of a difference between results that ordered ties independently (two
    papers, or two programs), √(s₁² + s₂²). Deviations are those of the table, scaled by √(p (1 − p)) to the published HR@10 p:
    ties move a share of the targets, and each hit is won or lost with it. A difference `survives` beyond two deviations.
    """
    values = table[table["order"] != STABLE].pivot(index="order", columns="method", values="HR@10")
    spread_of = _spread(values.mean())
    unit = float((values.std(ddof=1) / spread_of).max())  # deviation of one result, per √(p (1 − p))
    pairs = [(a, b) for i, a in enumerate(values) for b in list(values)[i + 1 :]]
    paired = max(
        float((values[a] - values[b]).std(ddof=1) / np.hypot(spread_of[a], spread_of[b])) for a, b in pairs
    )
    rows = []
    hits = published(dataset, metrics=("HR@10",))
    for source, found in hits.groupby("source", sort=False):
        value = dict(zip(found["method"], found["value"], strict=True))
        for worse, better in COMPARED:
            if worse in value and better in value:
                spread, gap = (
                    np.hypot(_spread(value[worse]), _spread(value[better])),
                    value[better] - value[worse],
                )
                row = {"published in": source, "better": better, "than": worse, "HR@10": f"{gap:+.4f}"}
                for order, scale in (("same order", paired), ("own orders", unit)):
                    survives = "survives" if abs(gap) > 2 * scale * spread else "does not"
                    row[f"ties, {order}"] = f"± {scale * spread:.4f}: {survives}"
                rows.append(row)
    return pd.DataFrame(rows)


def _spread(rate: Any) -> Any:
    """√(p (1 − p)) of a rate, or of each of a series."""
    return np.sqrt(rate * (1 - rate))
