"""Scores of a query and an item, one file a similarity. May import contracts, runtime, kernels."""

from workbench.contracts import Similarity
from workbench.similarities.deep_retrieval.similarity import DeepRetrieval, DeepRetrievalConfig
from workbench.similarities.dot import DotConfig, DotProduct
from workbench.similarities.maxsim import MaxSim, MaxSimConfig
from workbench.similarities.mol import MixtureOfLogits, MoLConfig
from workbench.similarities.sparcode.similarity import SparCode, SparCodeConfig

SimilarityConfig = DotConfig | MaxSimConfig | MoLConfig | SparCodeConfig | DeepRetrievalConfig
CONFIGS: dict[str, type[SimilarityConfig]] = {
    c.kind: c for c in (DotConfig, MaxSimConfig, MoLConfig, SparCodeConfig, DeepRetrievalConfig)
}


def build(config: SimilarityConfig, dim: int, num_items: int | None = None) -> Similarity:
    """The similarity that `config` describes, between embeddings of width `dim`.

    `num_items` is needed where something is kept per item (Deep Retrieval's paths); ValueError where it is missing there.
    """
    match config:
        case DotConfig():
            return DotProduct(config)
        case MaxSimConfig():
            return MaxSim(config, dim)
        case MoLConfig():
            return MixtureOfLogits(config, dim)
        case SparCodeConfig():
            return SparCode(config, dim)
        case DeepRetrievalConfig():
            if num_items is None:
                raise ValueError("Deep Retrieval keeps paths for each item: build it with num_items")
            return DeepRetrieval(config, dim, num_items)
