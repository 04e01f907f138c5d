"""Scores of a query and an item, one file a similarity. May import contracts, registry, runtime, kernels."""

from workbench.contracts import Similarity
from workbench.registry import Settings as SimilarityConfig
from workbench.similarities.deep_retrieval.similarity import DeepRetrieval, DeepRetrievalConfig
from workbench.similarities.dot import DotConfig, DotProduct
from workbench.similarities.hypencoder import Hypencoder, HypencoderConfig
from workbench.similarities.lite import LITE, LITEConfig
from workbench.similarities.maxsim import MaxSim, MaxSimConfig
from workbench.similarities.mol import MixtureOfLogits, MoLConfig
from workbench.similarities.registry import SIMILARITIES, register
from workbench.similarities.sparcode.similarity import SparCode, SparCodeConfig

__all__ = [
    "LITE",
    "SIMILARITIES",
    "DeepRetrieval",
    "DeepRetrievalConfig",
    "DotConfig",
    "DotProduct",
    "Hypencoder",
    "HypencoderConfig",
    "LITEConfig",
    "MaxSim",
    "MaxSimConfig",
    "MixtureOfLogits",
    "MoLConfig",
    "SimilarityConfig",
    "SparCode",
    "SparCodeConfig",
    "build",
    "register",
]


def build(config: SimilarityConfig, dim: int, num_items: int | None = None) -> Similarity:
    """The similarity that `config` describes, between embeddings of width `dim`.

    `num_items` is needed if something is kept per item (Deep Retrieval's paths); ValueError if it is missing there.
    """
    similarity: Similarity = SIMILARITIES.build(config, dim=dim, num_items=num_items)
    return similarity
