"""EASE^R: a linear item-to-item model with a closed form, often hard to beat on small catalogues."""

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from workbench.baselines.baseline import Baseline
from workbench.data import Sequences
from workbench.data.popularity import training_part

BLOCK = 1024
"""Items whose co-occurrences with all others are counted at once."""

MOST_ITEMS = 40_000
"""The largest catalogue that is inverted: it takes 8 N² bytes twice."""


def interaction_matrix(sequences: Sequences, held_out: int) -> Float[Tensor, "U N"]:
    """A sparse 0/1 matrix: which user met which item in training, each pair once."""
    users = np.repeat(np.arange(sequences.num_users), sequences.lengths)[training_part(sequences, held_out)]
    items = sequences.item_ids[training_part(sequences, held_out)] - 1
    pairs = np.unique(users * sequences.num_items + items)
    where = torch.from_numpy(np.stack([pairs // sequences.num_items, pairs % sequences.num_items]))
    shape = (sequences.num_users, sequences.num_items)
    return torch.sparse_coo_tensor(where, torch.ones(len(pairs)), shape, check_invariants=False).coalesce()


class EASE(Baseline):
    """score(u, x) = Σ_{i in history of u} B_ix,  B = I − P diag(P)⁻¹,  P = (XᵀX + λ I)⁻¹, X the users × items matrix.

    B minimises |X − X B|² + λ |B|² under a diagonal of zeros. λ is `regularization`; `held_out`: how many of each user's last
    interactions are not in X. All of the history counts, in any order.
    Raises ValueError if λ is not positive, or the catalogue is larger than `MOST_ITEMS`.
    Source: "Embarrassingly Shallow Autoencoders for Sparse Data" (Steck, WWW 2019), equations 5 to 8.
    """

    def __init__(self, sequences: Sequences, regularization: float = 500.0, held_out: int = 2) -> None:
        if not regularization > 0:
            raise ValueError(f"regularization must be positive, not {regularization}")
        if sequences.num_items > MOST_ITEMS:
            raise ValueError(
                f"EASE inverts an items × items matrix: {sequences.name} has {sequences.num_items:,} items, more than"
                f" {MOST_ITEMS:,}; leave it out, or keep fewer items (a k-core)"
            )
        met = interaction_matrix(sequences, held_out)
        gram = np.empty((sequences.num_items, sequences.num_items))
        for start in range(0, sequences.num_items, BLOCK):
            rows = torch.arange(start, min(start + BLOCK, sequences.num_items))
            gram[:, rows.numpy()] = torch.sparse.mm(met.T, met.index_select(1, rows).to_dense()).numpy()
        self.weights = torch.from_numpy(_weights(gram, regularization)).float()

    def scores(self, histories: Int[Tensor, "B H"]) -> Float[Tensor, "B N"]:
        """Sums of the rows of B; an item counts once, however often it is in the history."""
        met = torch.zeros(len(histories), len(self.weights) + 1).scatter(1, histories, 1.0)[:, 1:]
        return met @ self.weights


def _weights(gram: NDArray[np.float64], regularization: float) -> NDArray[np.float64]:
    gram[np.diag_indices_from(gram)] += regularization
    inverse = np.linalg.inv(gram)
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return weights
