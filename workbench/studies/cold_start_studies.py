"""The studies of cold users, who have features only, with given item embeddings."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd

from workbench.data import load
from workbench.data.deezer import as_deezer, read_deezer
from workbench.studies.cold_start import GIVEN, over_seeds
from workbench.studies.study import Models, Study, register


@register
@dataclass(frozen=True)
class DeezerUsers(Study):
    """P, R and NDCG at 20 and 50 on Deezer's cold users: two towers, SparCode and All-to-All over fixed song embeddings.

    `folder`: where the published archive was unpacked; `source`: "svd" (TT-SVD) or "mf" (UT-ALS) embeddings.
    """

    name: ClassVar[str] = "sparcode-deezer"
    question: ClassVar[str] = "Is the published order of methods on Deezer reproduced?"
    minutes: ClassVar[float] = 60
    folder: str = "data/deezer"
    source: Literal["svd", "mf"] = "svd"
    seeds: int = 5

    @property
    def file(self) -> str:
        """One table per kind of embedding."""
        return f"{self.name}-{self.source}"

    def table(self, models: Models) -> pd.DataFrame:
        """One row per method and metric."""
        return over_seeds(read_deezer(Path(self.folder), self.source), self.seeds)


@register
@dataclass(frozen=True)
class GivenItems(Study):
    """As on Deezer, on MovieLens 1M: item embeddings are given and fixed, cold test users have features only.

    `known`: the first items of a user that are features too.
    """

    name: ClassVar[str] = "sparcode-given"
    question: ClassVar[str] = "Does SparCode help if item embeddings are given and users are cold?"
    minutes: ClassVar[float] = 30
    dataset: str = "ml-1m"
    seeds: int = 3
    known: int = 0

    @property
    def file(self) -> str:
        """One table per dataset and number of known items."""
        return f"{self.name}-{self.dataset}" + (f"-known-{self.known}" if self.known else "")

    def table(self, models: Models) -> pd.DataFrame:
        """One row per method and metric."""
        return over_seeds(as_deezer(load(self.dataset), known=self.known), self.seeds, GIVEN)
