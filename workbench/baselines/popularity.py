"""The most popular items, the same for everybody."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.baselines.baseline import Baseline
from workbench.data import Sequences
from workbench.data.popularity import popularity


class Popularity(Baseline):
    """score(u, x) = interactions of x in training; ties in the order of ids.

    `held_out`: how many of each user's last interactions are not counted.
    """

    def __init__(self, sequences: Sequences, held_out: int = 2) -> None:
        self.counts = torch.from_numpy(popularity(sequences, held_out)).float()

    def scores(
        self, histories: Int[Tensor, "B H"], users: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B N"]:
        """The counts, whatever the history."""
        return self.counts.repeat(len(histories), 1)
