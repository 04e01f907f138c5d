"""Complete settings with a name: the type of what `presets` lists."""

from dataclasses import dataclass, replace

from workbench.retriever import RetrieverConfig
from workbench.training.config import TrainingConfig


@dataclass(frozen=True)
class Preset:
    """What to train, how, and on which dataset; `source` is the origin of the settings."""

    name: str
    dataset: str
    retriever: RetrieverConfig
    training: TrainingConfig
    source: str


def longer(chosen: Preset) -> Preset:
    """The same, trained twice as long, as `…-longer`."""
    training = replace(chosen.training, epochs=2 * chosen.training.epochs)
    return replace(chosen, name=f"{chosen.name}-longer", training=training)
