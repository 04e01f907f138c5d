"""The study of seeds: how much results vary over seeds."""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from workbench.data import load
from workbench.models.cards import SHOWN
from workbench.models.model_store import name_of
from workbench.studies.seeds import over_seeds
from workbench.studies.study import Models, Study, register
from workbench.training.presets import preset


@register
@dataclass(frozen=True)
class Seeds(Study):
    """Metrics of presets over seeds under the strict protocol: mean, standard deviation, paired difference to the first.

    `models`: presets; `dataset`: another one than that of the first preset; `seeds` many, from `first` on.
    """

    name: ClassVar[str] = "seeds"
    question: ClassVar[str] = "Is a difference between two models larger than that between two seeds?"
    minutes: ClassVar[float] = 180
    models: tuple[str, ...] = ("cpu/hstu-dot", "cpu/hstu-mol")
    dataset: str | None = None
    seeds: int = 3
    first: int = 0

    def __post_init__(self) -> None:
        if not self.models or self.seeds < 1 or self.first < 0:
            raise ValueError(f"seeds must be 1 or more, first 0 or more, and there must be a preset: {self}")

    @property
    def file(self) -> str:
        """One table per dataset and first preset."""
        chosen = preset(self.models[0])
        return f"{self.name}-{name_of(chosen, load(self.dataset or chosen.dataset))}"

    def table(self, models: Models) -> pd.DataFrame:
        """One row per preset and metric, see `seeds.over_seeds`; `first_seed` is the first, `threads` those of the training.

        Different numbers of threads give different weights: if the models differ in it, a note lists them.
        """
        chosen = [preset(name) for name in self.models]
        sequences = load(self.dataset or chosen[0].dataset)
        values: dict[str, list[pd.Series]] = {p.name: [] for p in chosen}
        threads: dict[str, list[str]] = {p.name: [] for p in chosen}
        for seed in range(self.first, self.first + self.seeds):
            for p in chosen:
                found = models.require(p, sequences, seed)
                threads[p.name].append(found.threads)
                values[p.name].append(found.metrics.set_index("metric")["value"].loc[list(SHOWN)])
        tables = {name: pd.DataFrame(rows).reset_index(drop=True) for name, rows in values.items()}
        table = over_seeds(tables).assign(first_seed=self.first)
        if len({number for numbers in threads.values() for number in numbers}) > 1:
            listed = "; ".join(f"{name}: {', '.join(numbers)}" for name, numbers in threads.items())
            models.note(
                "not trained with the same number of threads, which gives other weights too, by seed from"
                f" {self.first}: {listed}"
            )
        counts = {name: ", ".join(dict.fromkeys(numbers)) for name, numbers in threads.items()}
        return table.assign(threads=table["method"].map(counts))
