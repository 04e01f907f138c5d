"""The studies of Deep Retrieval: its baselines, its index next to others, growth; and of all similarities."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import pandas as pd

from workbench import paths
from workbench.data import load
from workbench.evaluation.protocol import STRICT
from workbench.evaluation.user_split import PAPER, HeldOutUsers, UserSplit, split_users
from workbench.models.model_store import METRICS, TrainedModel, folder_of
from workbench.studies import deep_retrieval
from workbench.studies.frozen_paths import PathFit
from workbench.studies.path_growth import growth
from workbench.studies.study import Models, Study, register
from workbench.training.config import TrainingConfig
from workbench.training.path_presets import PATHS_OF_THOUSANDS
from workbench.training.preset import Preset
from workbench.training.presets import preset
from workbench.training.rows import training_rows

MAIN, YOUTUBE = "halves/sasrec-deep-retrieval", "halves/youtube-dnn"
SIMILARITIES = {
    "cpu-hstu": {
        "dot": "HSTU + dot product",
        "mol": "HSTU + MoL",
        "deep-retrieval": "HSTU + Deep Retrieval",
        "dot-paths": "HSTU + dot product, paths learned after it",
    },
    "sparcode-ladder": {
        "two-tower": "ladder: two-tower",
        "tokens": "ladder: two-tower of aligned tokens",
        "all-to-all": "ladder: All-to-All",
        "sparcode-warm": "ladder: SparCode",
        "sparcode-sparse": "ladder: SparCode, scores have a price",
    },
}
"""The family of each encoder, by the last part of a checkpoint's name, with a title; each has its own training budget."""
TITLES = {
    f"ml-1m-{tower}-{kind}": title for tower, kinds in SIMILARITIES.items() for kind, title in kinds.items()
}
"""The titles of the checkpoints that the study of all similarities compares."""
COUNTS = (1, 3)
PENALTIES = (1e-4, 1e-2)
SIZES = (4_000, 100_000, 1_000_000)

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
class Indexes(Study):
    """Paths of different J and α on the frozen queries of a dot product, next to brute force, FAISS and null models.

    `base`: a checkpoint in `ckpts/` whose similarity is a dot product; `joint`: one of Deep Retrieval, "none" to leave it out.
    `rounds` passes over `rows` training rows drawn at random, each with an M-step.
    """

    name: ClassVar[str] = "deep-retrieval"
    question: ClassVar[str] = (
        "What does Deep Retrieval's index find for its work, next to indexes that learn less?"
    )
    base: str = "ml-1m-cpu-hstu-dot"
    joint: str | None = "ml-1m-cpu-hstu-deep-retrieval"
    rounds: int = 4
    rows: int = 60_000

    def table(self, models: Models) -> pd.DataFrame:
        """One row per index and effort."""
        trained = TrainedModel.load(folder_of(self.base))
        sequences = load(str(trained.metadata["dataset"]))
        base = trained.retriever()
        training = TrainingConfig.from_dict(trained.metadata["training"])
        fit = PathFit(self.rounds, self.rows)
        rows = training_rows(base, sequences, training, fit.rows, fit.seed)
        configs = {
            f"paths, J = {count}, α = {alpha:g}": replace(PATHS_OF_THOUSANDS, paths=count, alpha=alpha)
            for count in COUNTS
            for alpha in PENALTIES
        }
        joint = None if self.joint is None else TrainedModel.load(folder_of(self.joint)).retriever()
        found = deep_retrieval.indexes(base, sequences, rows, configs, fit, joint)
        return found.assign(protocol=str(STRICT))


@register
@dataclass(frozen=True)
class Growth(Study):
    """Recall, work and time of paths, brute force and FAISS on synthetic clustered vectors, by the size of the corpus.

    Paths are those of residual k-means (`fit_residual`): nothing is trained. `largest`: no corpus has more items.
    """

    name: ClassVar[str] = "deep-retrieval-growth"
    question: ClassVar[str] = "How do the cost and recall of Deep Retrieval's index grow with the corpus?"
    largest: int = 1_000_000

    def table(self, models: Models) -> pd.DataFrame:
        """One row per corpus size and searcher."""
        sizes = [n for n in SIZES if n <= self.largest]
        if not sizes:
            raise ValueError(f"no corpus of at most {self.largest} items; the smallest has {SIZES[0]}")
        return growth(sizes, (1, 4, 16, 64, 256, 1024, 8192), (1, 4, 16, 64, 256))


@register
@dataclass(frozen=True)
class Similarities(Study):
    """Similarities with their own index under the strict protocol in one table: quality, latency, bytes, build time.

    `checkpoints`: names in `ckpts/`; if empty, those that are there behind HSTU, then behind self-attention (the ladder to
    SparCode, with shorter histories: compare within a group).
    """

    name: ClassVar[str] = "similarities"
    question: ClassVar[str] = (
        "What do quality, latency and memory of each similarity with its own index look like?"
    )
    checkpoints: tuple[str, ...] = ()

    def table(self, models: Models) -> pd.DataFrame:
        """One row per checkpoint."""
        names = self.checkpoints or tuple(
            name for name in TITLES if (paths.checkpoints() / name / METRICS).is_file()
        )
        trained = {name: TrainedModel.load(folder_of(name)) for name in names}
        data = {str(found.metadata.get("dataset")) for found in trained.values()}
        if len(data) != 1:
            raise ValueError(
                f"these checkpoints were trained on {', '.join(sorted(data)) or 'nothing'}: name some of one dataset"
            )
        return deep_retrieval.similarities(trained, load(data.pop())).assign(protocol=str(STRICT))
