"""Scores of a query and an item, one file a similarity. May import contracts, runtime, kernels."""

from workbench.contracts import Similarity
from workbench.similarities.dot import DotConfig, DotProduct
from workbench.similarities.maxsim import MaxSim, MaxSimConfig
from workbench.similarities.mol import MixtureOfLogits, MoLConfig

SimilarityConfig = DotConfig | MaxSimConfig | MoLConfig
CONFIGS: dict[str, type[SimilarityConfig]] = {c.kind: c for c in (DotConfig, MaxSimConfig, MoLConfig)}


def build(config: SimilarityConfig, dim: int) -> Similarity:
    """The similarity that `config` describes, between embeddings of width `dim`."""
    match config:
        case DotConfig():
            return DotProduct(config)
        case MaxSimConfig():
            return MaxSim(config, dim)
        case MoLConfig():
            return MixtureOfLogits(config, dim)
