"""Item-based collaborative filtering: the neighbourhood method that learned retrieval is held against."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.contracts import NO_ITEM, SequenceBatch
from workbench.data import Sequences
from workbench.search.topk import mask_rows

BLOCK = 256
"""Items whose co-occurrences with all others are held at once."""


class ItemCF:
    """score(u, x) = Σ_{i in history of u} w(i, x),  w(i, x) = c_ix / √(c_i c_x), kept for the `neighbours` largest per item i.

    c_i is the number of users who met item i, c_ix of those who met both: the cosine of the items' user vectors.
    Source: "Item-Based Collaborative Filtering Recommendation Algorithms" (Sarwar et al., WWW 2001). All of the history counts,
    however long an encoder's window is.
    """

    neighbours: Int[Tensor, "N M"]
    weights: Float[Tensor, "N M"]

    def __init__(self, sequences: Sequences, neighbours: int = 200) -> None:
        if neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, not {neighbours}")
        users = np.repeat(np.arange(sequences.num_users), sequences.lengths)
        pairs = np.unique(users * sequences.num_items + sequences.item_ids - 1)
        where = torch.from_numpy(np.stack([pairs % sequences.num_items, pairs // sequences.num_items]))
        shape = (sequences.num_items, sequences.num_users)
        counts = torch.bincount(where[0], minlength=sequences.num_items).float()
        values = counts.rsqrt()[where[0]]
        met = torch.sparse_coo_tensor(
            where, values, shape, check_invariants=False
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

    def find(self, batch: SequenceBatch, exclude: Int[Tensor, "B H"], k: int) -> Int[Tensor, "B K"]:
        """The `k` items closest to each user's history, which is `exclude`, 0-padded; −1 where fewer are close to any of it."""
        met = exclude - 1  # −1 for padding
        weights = torch.where(exclude[..., None] > 0, self.weights[met.clamp(min=0)], 0.0)  # (B, H, M)
        scores = torch.zeros(len(exclude), len(self.weights))
        scores.scatter_add_(1, self.neighbours[met.clamp(min=0)].flatten(1), weights.flatten(1))
        mask_rows(scores, met)
        best = scores.topk(min(k, scores.shape[1]), dim=1)
        ids = torch.where(best.values > 0, best.indices + 1, NO_ITEM)
        return torch.nn.functional.pad(ids, (0, k - ids.shape[1]), value=NO_ITEM)
