"""The study of protocols: how much of a metric is the model, and how much is the way of measuring it."""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from workbench.data import load
from workbench.evaluation.switchboard import switchboard
from workbench.studies.study import Models, PresetsOnDataset, none_trained, register
from workbench.training.presets import preset


@register
@dataclass(frozen=True)
class Protocols(PresetsOnDataset):
    """Trained models under every combination of target part, target time, history mask and corpus.

    `dataset`: the data; `models`: presets. Nothing is trained again: choices that need another training (the split, the order
    of ties, the epoch) are studies of their own.
    """

    name: ClassVar[str] = "protocols"
    question: ClassVar[str] = "How much does each choice of protocol move a metric?"
    minutes: ClassVar[float] = 60

    def table(self, models: Models) -> pd.DataFrame:
        """One row per model and protocol: `method`, the settings, and the metrics."""
        sequences = load(self.dataset)
        found = {name: models.find(preset(name), sequences) for name in self.models}
        tables = [
            switchboard(model.retriever(), sequences).assign(method=name)
            for name, model in found.items()
            if model is not None
        ]
        if not tables:
            raise none_trained(self.models)
        return pd.concat(tables, ignore_index=True)
