"""Complete settings with a name: the type of what `presets` lists."""

from dataclasses import dataclass

from workbench.retriever import RetrieverConfig
from workbench.training.config import TrainingConfig


@dataclass(frozen=True)
class Preset:
    """What to train, how, and on which dataset; `source` says where the settings come from."""

    name: str
    dataset: str
    retriever: RetrieverConfig
    training: TrainingConfig
    source: str
