"""The study of equal terms: similarities trained in the same way, compared on the same users over the seeds that there are."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from workbench.data import load
from workbench.evaluation.bootstrap import intervals
from workbench.evaluation.protocol import STRICT, metrics_of_users
from workbench.models.cards import SHOWN
from workbench.models.model_store import TrainedModel
from workbench.studies.study import Models, PresetsOnDataset, register
from workbench.studies.table_formats import standing
from workbench.training.presets import preset


@register
@dataclass(frozen=True)
class Fair(PresetsOnDataset):
    """Presets that were trained on equal terms: metrics over seeds, and how far the last is ahead of each, paired by user.

    `dataset`: the data; `models`: presets; `seeds`: 0 to `seeds` − 1. With --trained-only a preset has the seeds that are
    trained, and a difference is over those that it shares with the last.
    """

    name: ClassVar[str] = "fair"
    question: ClassVar[str] = (
        "On equal terms, does a learned similarity beat a dot product at the published size?"
    )
    minutes: ClassVar[float] = 900
    models: tuple[str, ...] = ("fair/hstu-dot", "fair/hstu-dot-user", "fair/hstu-dot-wide", "fair/hstu-mol")
    seeds: int = 3

    def __post_init__(self) -> None:
        if not self.models or self.seeds < 1:
            raise ValueError(f"there must be a preset, and seeds be 1 or more: {self}")

    def table(self, models: Models) -> pd.DataFrame:
        """One row per preset and metric of `SHOWN`.

        `value` is the mean over `seeds` seeds, `std` their deviation, `low` and `high` the ends of the 95 % interval over users
        of that mean; `ahead` and its ends are the last preset minus this one over `shared` seeds, `ahead_std` its
        deviation over them. `chosen`: the epochs that validation chose, `parameters` of the model.
        """
        sequences = load(self.dataset)
        found: dict[str, dict[int, TrainedModel]] = {name: {} for name in self.models}
        for name, seed in ((n, s) for s in range(self.seeds) for n in self.models):
            if (model := models.find(preset(name), sequences, seed)) is not None:
                found[name][seed] = model
        values = {
            name: {seed: metrics_of_users(model.ranks(sequences), SHOWN) for seed, model in trained.items()}
            for name, trained in found.items()
        }
        rows = []
        for name, trained in found.items():
            if not trained:
                continue
            own = list(values[name].values())
            shared = [seed for seed in trained if seed in found[self.models[-1]]]
            over = [values[self.models[-1]][seed] - values[name][seed] for seed in shared]
            facts = {
                "model": name,
                "seeds": len(own),
                "chosen": ", ".join(str(m.metadata["best_epoch"]) for m in trained.values()),
                "parameters": sum(p.numel() for p in next(iter(trained.values())).retriever().parameters()),
                "shared": len(shared),
            }
            measured = {"value": _over(own), "ahead": _over(over)}
            for metric in SHOWN:
                row: dict[str, object] = facts | {"metric": metric}
                for what, table in measured.items():
                    ends = (
                        ("low", "high", "std")
                        if what == "value"
                        else (f"{what}_low", f"{what}_high", f"{what}_std")
                    )
                    row |= dict(zip((what, *ends), table.loc[metric], strict=True))
                rows.append(row)
        return pd.DataFrame(rows).assign(protocol=str(STRICT))


def _over(seeds: list[pd.DataFrame]) -> pd.DataFrame:
    """A row per metric: the mean over seeds and users, the ends of its interval over users, the deviation over seeds."""
    if not seeds:
        return pd.DataFrame(np.nan, index=list(SHOWN), columns=["mean", "low", "high", "std"])
    mean = sum(seeds[1:], seeds[0]) / len(seeds)  # (users, metrics)
    low, high = intervals(mean.to_numpy(), np.ones(len(mean), dtype=np.int64))
    std = pd.DataFrame([table.mean() for table in seeds]).std(ddof=1)
    return pd.DataFrame({"mean": mean.mean(), "low": low, "high": high, "std": std})


def over_seeds(std: Any) -> str:
    """A deviation over seeds as text; nothing if there is one seed.

    >>> over_seeds(0.00651), over_seeds(float("nan"))
    (' ± 0.0065', '')
    """
    return "" if np.isnan(std) else f" ± {std:.4f}"


def format_fair(table: pd.DataFrame) -> pd.DataFrame:
    """A table of `Fair` as text: a row per preset, then the last preset minus each other one.

    After ± the deviation over seeds, in brackets the interval over users.
    """
    models, differences = [], []
    *_, last = table["model"]
    for model, found in table.groupby("model", sort=False):
        one = found.iloc[0]
        row = {"model": str(model), "seeds": f"{one['seeds']:.0f}", "epochs chosen": str(one["chosen"])}
        row["parameters"] = f"{one['parameters']:,.0f}"
        cells = {
            str(r.metric): f"{r.value:.4f}{over_seeds(r.std)} ({r.low:.4f} to {r.high:.4f})"
            for r in found.itertuples()
        }
        models.append(row | cells)
        if model != last:
            row = {"model": f"{last} − {model}", "seeds": f"{one['shared']:.0f}"}
            cells = {
                str(
                    r.metric
                ): f"{r.ahead:+.4f}{over_seeds(r.ahead_std)} ({r.ahead_low:+.4f} to {r.ahead_high:+.4f})"
                for r in found.itertuples()
            }
            differences.append(row | cells)
    return pd.DataFrame([*models, *differences]).fillna("")


def last_next_to_others(table: pd.DataFrame) -> str:
    """Which presets of a table of `Fair` the last one is ahead of in NDCG@10, as a sentence."""
    *_, last = table["model"]
    rest = table[(table["metric"] == "NDCG@10") & (table["model"] != last)]
    return standing(last, rest["model"], rest["ahead_low"], rest["ahead_high"])
