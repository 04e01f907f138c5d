"""The studies of SparCode: its towers, the ladder to it, sparsity and users held out whole."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from workbench.baselines.popularity import Popularity
from workbench.data import load
from workbench.evaluation.user_split import Find, UserSplit
from workbench.studies import user_split
from workbench.studies.ladder import LADDER, ladder
from workbench.studies.sparcode import measured, popularity
from workbench.studies.sparsity import sparsity_sweep
from workbench.studies.study import Models, Study, register
from workbench.training.presets import preset
from workbench.training.sparcode_presets import CONTROL, METHODS, TOWERS

TWO_TOWER = "sparcode-ladder/two-tower"
THRESHOLDS = {
    "sparcode-ladder/sparcode-warm": "gradient",
    "sparcode-ladder/sparcode-sparse": "gradient, with a price",
}
"""How the threshold of each preset's model was learned."""


@register
@dataclass(frozen=True)
class Towers(Study):
    """Two towers, SparCode, All-to-All and its control behind each encoder, and popularity, leave-one-out.

    `family`: "sparcode-cpu" (MovieLens 1M), "sparcode-quick" or "sparcode" of the presets.
    """

    name: ClassVar[str] = "sparcode-towers"
    question: ClassVar[str] = "Does SparCode beat a two-tower model behind each encoder?"
    minutes: ClassVar[float] = 40
    family: str = "sparcode-cpu"

    @property
    def file(self) -> str:
        """One table per family; that of "sparcode-cpu" is the main one."""
        return self.name if self.family == "sparcode-cpu" else f"{self.name}-{self.family}"

    def _names(self) -> list[tuple[dict[str, str], str]]:
        return [
            ({"tower": title, "method": method}, f"{self.family}/{tower}-{kind}")
            for tower, title in TOWERS.items()
            for kind, method in (METHODS | CONTROL).items()
        ]

    def presets(self) -> tuple[str, ...]:
        """Every method and the control behind every tower."""
        return tuple(name for _, name in self._names())

    def table(self, models: Models) -> pd.DataFrame:
        """One row per tower and method, and one of popularity."""
        found = measured(models.labelled(self._names()))
        counted = popularity(load(preset(f"{self.family}/sa-sparcode").dataset))
        row = {"tower": "none", "method": "popularity", **counted}
        return pd.concat([found, pd.DataFrame([row])], ignore_index=True)


@register
@dataclass(frozen=True)
class Ladder(Study):
    """From a two-tower model to SparCode by single changes, each trained to its plateau, behind self-attention."""

    name: ClassVar[str] = "sparcode-ladder"
    question: ClassVar[str] = "Where between a two-tower model and SparCode is quality won or lost?"
    minutes: ClassVar[float] = 30

    def presets(self) -> tuple[str, ...]:
        """One per trained row."""
        return tuple(f"{self.name}/{kind}" for kind in LADDER)

    def table(self, models: Models) -> pd.DataFrame:
        """One row per model."""
        names = [({"row": kind}, f"{self.name}/{kind}") for kind in LADDER]
        found = {labels["row"]: trained for labels, trained in models.labelled(names)}
        return ladder(found, load(preset(self.presets()[0]).dataset))


@register
@dataclass(frozen=True)
class Sparsity(Study):
    """Quality, latency and bytes of inverted indexes over the codes seen in training, from 0 to 99.9 % sparsity.

    Of a model whose threshold was learned by gradient, and of one that paid for positive scores. The two-tower's flat
    scan and brute force with the learned scores are timed in the same run.
    """

    name: ClassVar[str] = "sparcode-sparsity"
    question: ClassVar[str] = "How much of SparCode's index can be left out?"
    minutes: ClassVar[float] = 20

    def presets(self) -> tuple[str, ...]:
        """The two-tower, and the models whose indexes they are."""
        return (TWO_TOWER, *THRESHOLDS)

    def table(self, models: Models) -> pd.DataFrame:
        """One row per model and sparsity."""
        sequences = load(preset(TWO_TOWER).dataset)
        two_tower = models.require(preset(TWO_TOWER), sequences)
        trained = {how: models.find(preset(name), sequences) for name, how in THRESHOLDS.items()}
        parts = [
            sparsity_sweep(model, sequences, compare_with=two_tower).assign(threshold_by=how)
            for how, model in trained.items()
            if model is not None
        ]
        found = pd.concat(parts, ignore_index=True)
        return found[["threshold_by", *found.columns.drop("threshold_by")]]


@register
@dataclass(frozen=True)
class Users(Study):
    """P, R and NDCG at 20 and 50 on a tenth of the users, held out whole: mean and deviation over seeds, as published.

    `models`: presets; the others are compared to the first. Popularity is always included. `dataset`: another one than
    that of the presets. Each of `seeds` draws users and weights.
    """

    name: ClassVar[str] = "sparcode-users"
    question: ClassVar[str] = "How does SparCode do on users that training never saw?"
    minutes: ClassVar[float] = 120
    models: tuple[str, ...] = tuple(f"sparcode-cpu/sa-{kind}" for kind in METHODS)
    dataset: str | None = None
    seeds: int = 5

    @property
    def file(self) -> str:
        """One table per dataset."""
        return f"{self.name}-{self.dataset or preset(self.models[0]).dataset}"

    def table(self, models: Models) -> pd.DataFrame:
        """One row per method and metric, see `seeds.over_seeds`."""
        chosen = [preset(name) for name in self.models]
        ways: dict[str, Callable[[UserSplit, int], Find]] = {
            p.name: lambda split, seed, p=p: user_split.by_brute_force(  # type: ignore[misc]
                models.require(p, split.training, seed)
            )
            for p in chosen
        }
        ways["popularity"] = lambda split, seed: Popularity(split.training, part=None).find
        return user_split.over_seeds(load(self.dataset or chosen[0].dataset), ways, self.seeds)
