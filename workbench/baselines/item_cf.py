"""Item-based collaborative filtering: the neighbourhood method that learned retrieval is held against."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.baselines.baseline import Baseline
from workbench.baselines.ease import interaction_matrix
from workbench.data import Sequences
from workbench.data.sequences import Part
from workbench.search.topk import NO_SCORE

BLOCK = 256
"""Items whose co-occurrences with all others are held at once."""


class ItemCF(Baseline):
    """score(u, x) = Σ_{i in history of u} w(i, x),  w(i, x) = c_ix / √(c_i c_x), kept for the `neighbours` largest per item i.

    c_i is the number of users of item i, c_ix the number of users of both: the cosine of the items' user vectors. Counted
    is what `part` learns from (None: all, for the protocols of held-out users). Source: "Item-Based
    Collaborative Filtering Recommendation Algorithms" (Sarwar et al., WWW 2001). All of the history counts, however long an
    encoder's window is.
    """

    neighbours: Int[Tensor, "N M"]
    weights: Float[Tensor, "N M"]

    def __init__(self, sequences: Sequences, neighbours: int = 200, part: Part | None = "train") -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, not {neighbours}")
        met = interaction_matrix(sequences, part).T.coalesce()  # (N, U)
        lengths = torch.bincount(met.indices()[0], minlength=sequences.num_items).float()
        values = lengths.rsqrt()[met.indices()[0]]
        met = torch.sparse_coo_tensor(
            met.indices(), values, met.shape, check_invariants=False
        ).coalesce()  # rows of unit length
        count = min(neighbours, sequences.num_items - 1) or 1
        found = []
        for start in range(0, sequences.num_items, BLOCK):
            rows = torch.arange(start, min(start + BLOCK, sequences.num_items))
            block = met.index_select(0, rows).to_dense()  # (b, U)
            cosine = torch.sparse.mm(met, block.T).T  # (b, N)
            cosine[torch.arange(len(rows)), rows] = 0  # an item does not vouch for itself
            found.append(cosine.topk(count, dim=1))
        self.weights = torch.cat([f.values for f in found])
        self.neighbours = torch.cat([f.indices for f in found])

    def scores(
        self, histories: Int[Tensor, "B H"], users: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B N"]:
        """Sums of the weights to the neighbours of each item of the history; −inf for items that are close to none of it."""
        row, place = (histories > 0).nonzero().T  # padding is left out: histories differ in length
        met = histories[row, place] - 1
        scores = torch.zeros(len(histories), len(self.weights))
        cells = row[:, None] * len(self.weights) + self.neighbours[met]
        scores.view(-1).scatter_add_(0, cells.flatten(), self.weights[met].flatten())
        return scores.masked_fill(scores <= 0, NO_SCORE)
