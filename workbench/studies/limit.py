"""How many documents free embeddings can tell apart, per float."""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from workbench.studies.study import Models, Study, register
from workbench.theory.limit import KINDS, Descent, critical_sizes


@register
@dataclass(frozen=True)
class Limit(Study):
    """The critical corpus size of a dot product, MaxSim and MoL by floats per document, one row per seed.

    Embeddings are optimised directly by at most `steps` of Adam; the task is that every pair of documents answers a query.
    Sizes stop at `largest`. MaxSim and MoL split the floats into two components.
    """

    name: ClassVar[str] = "limit"
    question: ClassVar[str] = "How many documents can vectors of a given width tell apart?"
    minutes: ClassVar[float] = 5
    floats: tuple[int, ...] = (2, 4, 6)
    largest: int = 32
    steps: int = 1500
    seeds: int = 2

    def __post_init__(self) -> None:
        if self.largest < 3 or self.seeds < 1 or min(self.floats, default=0) < 1:
            raise ValueError(f"largest must be 3 or more, seeds and every width 1 or more: {self}")

    def table(self, models: Models) -> pd.DataFrame:
        """One row per similarity, number of floats and seed."""
        descents = [Descent(steps=self.steps, seed=seed) for seed in range(self.seeds)]
        table = critical_sizes(self.floats, KINDS, descents, self.largest)
        return table.assign(largest=self.largest, steps=self.steps)
