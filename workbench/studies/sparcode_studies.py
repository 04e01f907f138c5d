"""The studies of SparCode: its towers, ablations, sparsity and users held out whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from workbench.baselines.popularity import Popularity
from workbench.data import load
from workbench.evaluation.user_split import Find, UserSplit
from workbench.studies import user_split
from workbench.studies.sparcode import STEPS, VARIANTS, measured, popularity, steps, tree_beams
from workbench.studies.sparsity import sparsity_sweep
from workbench.studies.study import Models, Study, register
from workbench.training.presets import preset
from workbench.training.sparcode_presets import CONTROL, METHODS, TOWERS

SPARCODE = "sparcode-cpu/sa-sparcode"


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


@dataclass(frozen=True)
class _BehindSelfAttention(Study):
    """Models of one family behind self-attention, by their titles; one table per dataset."""

    titles: ClassVar[Mapping[str, str]]
    family: str = "sparcode-cpu"

    @property
    def file(self) -> str:
        """The name of the study and of the family's dataset."""
        return f"{self.name}-{preset(f'{self.family}/sa-sparcode').dataset}"

    def _names(self, column: str) -> list[tuple[dict[str, str], str]]:
        return [({column: title}, f"{self.family}/sa-{kind}") for kind, title in self.titles.items()]

    def presets(self) -> tuple[str, ...]:
        """One per title."""
        return tuple(name for _, name in self._names("title"))


@register
@dataclass(frozen=True)
class Steps(_BehindSelfAttention):
    """From a two-tower model to SparCode with one thing changed at a time, behind self-attention."""

    name: ClassVar[str] = "sparcode-steps"
    question: ClassVar[str] = "Where between a two-tower model and SparCode is quality lost or won?"
    minutes: ClassVar[float] = 60
    titles: ClassVar[Mapping[str, str]] = STEPS

    def table(self, models: Models) -> pd.DataFrame:
        """One row per step: metrics, and NDCG@10 on the validation part by epoch."""
        return steps(models.labelled(self._names("step")))


@register
@dataclass(frozen=True)
class Ablation(_BehindSelfAttention):
    """Interactions, gradients past the quantizer, codebooks and tokens, one changed at a time, behind self-attention."""

    name: ClassVar[str] = "sparcode-ablation"
    question: ClassVar[str] = "Which parts of SparCode matter?"
    minutes: ClassVar[float] = 110
    titles: ClassVar[Mapping[str, str]] = VARIANTS

    def table(self, models: Models) -> pd.DataFrame:
        """One row per variant."""
        return measured(models.labelled(self._names("variant")))


@register
@dataclass(frozen=True)
class Sparsity(Study):
    """Quality, latency and bytes of the inverted index from 0 to 99.9 % sparsity, compared with brute force in one run."""

    name: ClassVar[str] = "sparcode-sparsity"
    question: ClassVar[str] = "How much of SparCode's index can be left out?"
    minutes: ClassVar[float] = 6
    preset: str = SPARCODE

    def presets(self) -> tuple[str, ...]:
        """The model whose index it is."""
        return (self.preset,)

    def table(self, models: Models) -> pd.DataFrame:
        """One row per sparsity."""
        chosen = preset(self.preset)
        sequences = load(chosen.dataset)
        return sparsity_sweep(models.require(chosen, sequences).retriever(), sequences)


@register
@dataclass(frozen=True)
class Tree(Study):
    """A tree over the items searched by beams with SparCode's own scorer, as TDM does."""

    name: ClassVar[str] = "sparcode-tree"
    question: ClassVar[str] = "Is a tree over the items an alternative to SparCode's index?"
    minutes: ClassVar[float] = 6
    preset: str = SPARCODE

    def presets(self) -> tuple[str, ...]:
        """The model whose scorer it is."""
        return (self.preset,)

    def table(self, models: Models) -> pd.DataFrame:
        """One row per beam width."""
        chosen = preset(self.preset)
        sequences = load(chosen.dataset)
        return tree_beams(models.require(chosen, sequences), sequences)


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
        ways["popularity"] = lambda split, seed: Popularity(split.training, held_out=0).find
        return user_split.over_seeds(load(self.dataset or chosen[0].dataset), ways, self.seeds)
