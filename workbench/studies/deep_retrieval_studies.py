"""The studies of Deep Retrieval: its baselines, beams, numbers of paths, penalties and latency."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import pandas as pd

from workbench import paths
from workbench.data import load
from workbench.data.popularity import popularity
from workbench.evaluation.protocol import STRICT
from workbench.evaluation.user_split import PAPER, HeldOutUsers, UserSplit, split_users
from workbench.models.model_store import METRICS, TrainedModel, folder_of
from workbench.similarities import DeepRetrievalConfig
from workbench.studies import deep_retrieval
from workbench.studies.frozen_paths import PathFit
from workbench.studies.study import Models, Study, register
from workbench.training.preset import Preset
from workbench.training.presets import preset

MAIN, YOUTUBE = "halves/sasrec-deep-retrieval", "halves/youtube-dnn"
SIMILARITIES = {
    "cpu-hstu": ("dot", "maxsim", "mol", "sparcode", "deep-retrieval", "dot-paths"),
    "sparcode-cpu-sa": ("two-tower-plain", "two-tower", "maxsim", "mol", "sparcode", "deep-retrieval"),
}
"""The encoder of each tower, by the last part of a checkpoint's name; each tower has its own training budget."""
COUNTS = (1, 2, 3, 4)
PENALTIES = (0.0, 1e-4, 1e-2, 1.0)

Part = Literal["validation", "test"]


def _split(chosen: Preset, part: Part) -> tuple[UserSplit, HeldOutUsers]:
    protocol = replace(PAPER, part=part)
    return split_users(load(chosen.dataset), protocol), protocol


@register
@dataclass(frozen=True)
class Baselines(Study):
    """Deep Retrieval compared with brute force of its reranker, Item-CF, YouTube-DNN and TDM, on held-out users."""

    name: ClassVar[str] = "deep-retrieval-baselines"
    question: ClassVar[str] = "How does Deep Retrieval compare with the baselines of its paper?"
    minutes: ClassVar[float] = 45
    preset: str = MAIN
    part: Part = "test"

    def table(self, models: Models) -> pd.DataFrame:
        """One row per method and metric."""
        split, protocol = _split(preset(self.preset), self.part)
        ours, youtube = (
            models.require(preset(name), split.training).retriever() for name in (self.preset, YOUTUBE)
        )
        return deep_retrieval.baselines(ours, youtube, split, protocol).assign(protocol=str(protocol))


@register
@dataclass(frozen=True)
class Beams(Study):
    """What a wider beam finds and costs, up to brute force."""

    name: ClassVar[str] = "deep-retrieval-beam"
    question: ClassVar[str] = "How wide must Deep Retrieval's beam be?"
    minutes: ClassVar[float] = 30
    preset: str = MAIN
    part: Part = "test"

    def table(self, models: Models) -> pd.DataFrame:
        """One row per beam width, the last one brute force."""
        split, protocol = _split(preset(self.preset), self.part)
        retriever = models.require(preset(self.preset), split.training).retriever()
        counts = popularity(split.training, held_out=0)
        found = deep_retrieval.beams(retriever, split.held_out, protocol, counts)
        return found.assign(protocol=str(protocol))


@dataclass(frozen=True)
class _Variants(Study):
    """Other paths on the frozen queries and the reranker of a trained model.

    `rounds` passes over `rows` training rows drawn at random, each with an M-step.
    """

    preset: str = MAIN
    part: Part = "validation"
    rounds: int = 3
    rows: int = 40_000

    @abstractmethod
    def _variants(self, base: DeepRetrievalConfig) -> dict[str, DeepRetrievalConfig]:
        """What is compared, by the name it has in the table."""

    def table(self, models: Models) -> pd.DataFrame:
        """One row per variant."""
        chosen = preset(self.preset)
        base = chosen.retriever.similarity
        if not isinstance(base, DeepRetrievalConfig):
            raise ValueError(f"{self.preset} is not Deep Retrieval: it has no paths to vary")
        split, protocol = _split(chosen, self.part)
        model = models.require(chosen, split.training).retriever()
        fit = PathFit(self.rounds, self.rows)
        configs = self._variants(base)
        found = deep_retrieval.variants(model, split, chosen.training, protocol, configs, fit)
        return found.assign(protocol=str(protocol))


@register
@dataclass(frozen=True)
class Paths(_Variants):
    """Numbers of paths J per item, on the frozen queries and the reranker of a trained model."""

    name: ClassVar[str] = "deep-retrieval-paths"
    question: ClassVar[str] = "How many paths should an item lie on?"
    minutes: ClassVar[float] = 30

    def _variants(self, base: DeepRetrievalConfig) -> dict[str, DeepRetrievalConfig]:
        return {f"J = {count}": replace(base, paths=count) for count in COUNTS}


@register
@dataclass(frozen=True)
class Penalty(_Variants):
    """Penalties α of crowded paths, on the frozen queries and the reranker of a trained model."""

    name: ClassVar[str] = "deep-retrieval-penalty"
    question: ClassVar[str] = "How strongly should crowded paths be penalised?"
    minutes: ClassVar[float] = 30

    def _variants(self, base: DeepRetrievalConfig) -> dict[str, DeepRetrievalConfig]:
        return {f"α = {alpha:g}": replace(base, alpha=alpha) for alpha in PENALTIES}


@register
@dataclass(frozen=True)
class Latency(Study):
    """Milliseconds per query by beam width and corpus size, with random weights. `largest`: no corpus has more items."""

    name: ClassVar[str] = "deep-retrieval-latency"
    question: ClassVar[str] = "How does the cost of beam search grow with the corpus?"
    largest: int = 500_000

    def table(self, models: Models) -> pd.DataFrame:
        """One row per corpus size and searcher."""
        sizes = [n for n in (4_000, 20_000, 100_000, 500_000) if n <= self.largest]
        if not sizes:
            raise ValueError(f"no corpus of at most {self.largest} items; the smallest has 4000")
        found = deep_retrieval.latency(DeepRetrievalConfig(), sizes)
        return found.assign(protocol="random weights, D 3, K 50, J 3, batch of 32")


@register
@dataclass(frozen=True)
class Similarities(Study):
    """All similarities under the strict protocol in one table: quality, latency, bytes, build time.

    `checkpoints`: names in `ckpts/`; if empty, those that are there behind HSTU, then behind self-attention.
    """

    name: ClassVar[str] = "deep-retrieval-similarities"
    question: ClassVar[str] = (
        "What do quality, latency and memory of each similarity with its own index look like?"
    )
    checkpoints: tuple[str, ...] = ()

    def table(self, models: Models) -> pd.DataFrame:
        """One row per checkpoint."""
        names = self.checkpoints or tuple(
            name
            for name in (f"ml-1m-{tower}-{kind}" for tower, kinds in SIMILARITIES.items() for kind in kinds)
            if (paths.checkpoints() / name / METRICS).is_file()
        )
        trained = {name: TrainedModel.load(folder_of(name)) for name in names}
        data = {str(found.metadata.get("dataset")) for found in trained.values()}
        if len(data) != 1:
            raise ValueError(
                f"these checkpoints were trained on {', '.join(sorted(data)) or 'nothing'}: name some of one dataset"
            )
        return deep_retrieval.similarities(trained, load(data.pop())).assign(protocol=str(STRICT))
