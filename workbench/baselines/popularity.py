"""The most popular items, the same for everybody."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.baselines.baseline import Baseline
from workbench.data import Sequences
from workbench.data.popularity import popularity
from workbench.data.sequences import Part


class Popularity(Baseline):
    """score(u, x) = interactions of x in training; ties in the order of ids.

    Counted is what `part` learns from (None: all).
    """

    def __init__(self, sequences: Sequences, part: Part | None = "train") -> None:
        self.counts = torch.from_numpy(popularity(sequences, part)).float()

    def scores(
        self, histories: Int[Tensor, "B H"], users: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B N"]:
        """The counts, whatever the history."""
        return self.counts.repeat(len(histories), 1)
