"""The study of choices that need training again: the split, the order of ties, the part that chooses the epoch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd

from workbench.data import Sequences, load, split_by_time
from workbench.data.ties import shuffle_ties
from workbench.evaluation.switchboard import AS_STRICT, switchboard
from workbench.studies.study import Models, PresetsOnDataset, register
from workbench.training.preset import Preset
from workbench.training.presets import preset


@dataclass(frozen=True)
class Choice:
    """What is changed before training: the data, or the preset."""

    data: Callable[[Sequences], Sequences] = lambda sequences: sequences
    preset: Callable[[Preset], Preset] = lambda chosen: chosen


def _shuffled(sequences: Sequences) -> Sequences:
    return replace(shuffle_ties(sequences, np.random.default_rng(0)), name=f"{sequences.name}-shuffled")


def _temporal(sequences: Sequences) -> Sequences:
    return replace(split_by_time(sequences), name=f"{sequences.name}-temporal")


def _chosen_on_test(chosen: Preset) -> Preset:
    return replace(
        chosen,
        name=f"{chosen.name}-chosen-on-test",
        training=replace(chosen.training, choose_on="test"),
    )


CHOICES = {
    AS_STRICT: Choice(),
    "temporal split": Choice(data=_temporal),
    "ties shuffled": Choice(data=_shuffled),
    "epoch chosen on test": Choice(preset=_chosen_on_test),
}


@register
@dataclass(frozen=True)
class Choices(PresetsOnDataset):
    """Models that are trained again under one other choice each, and evaluated under every protocol.

    `dataset`: the data; `models`: presets. *temporal split*: see `data.split_by_time`, with other users and targets;
    *ties shuffled*: a random order of each user's equal timestamps, as an unstable sort leaves one; *epoch chosen on test*:
    validation targets are trained on, too. Models are kept in `ckpts/` and found again.
    """

    name: ClassVar[str] = "choices"
    question: ClassVar[str] = "What is each choice worth that needs training again?"
    minutes: ClassVar[float] = 60
    models: tuple[str, ...] = ("cpu/sasrec-dot", "cpu/sasrec-mol")

    def table(self, models: Models) -> pd.DataFrame:
        """One row per choice, model and protocol: `training`, `method`, `users`, the settings, and the metrics."""
        source = load(self.dataset)
        source.require_order("a study of the split and of ties")
        rows = []
        for name, choice in CHOICES.items():
            sequences = choice.data(source)
            for chosen in map(preset, self.models):
                model = models.find(choice.preset(chosen), sequences)
                if model is not None:
                    board = switchboard(model.retriever(), sequences)
                    rows.append(board.assign(training=name, method=chosen.name))
        if not rows:
            raise ValueError(f"none of {', '.join(self.models)} is trained: leave out --trained-only")
        return pd.concat(rows, ignore_index=True)
