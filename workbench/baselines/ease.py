"""EASE^R: a linear item-to-item model with a closed form, often hard to beat on small catalogues."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.baselines.baseline import Baseline
from workbench.data import Sequences
from workbench.data.popularity import training_part
from workbench.data.sequences import Part

BLOCK = 1024
"""Items, or users, whose co-occurrences with all others are counted at once."""

MOST = 40_000
"""The most items, or users if these are fewer, between which a matrix is inverted: it takes 8 n² bytes three times."""

Weigh = Callable[[Float[Tensor, "B N"]], Float[Tensor, "B N"]]
"""From histories as rows of 0 and 1 to scores."""


def interaction_matrix(sequences: Sequences, part: Part | None) -> Float[Tensor, "U N"]:
    """A sparse 0/1 matrix of users and the items that `part` learns from, each pair once."""
    learned = training_part(sequences, part)
    users = np.repeat(np.arange(sequences.num_users), sequences.lengths)[learned]
    items = sequences.item_ids[learned] - 1
    pairs = np.unique(users * sequences.num_items + items)
    where = torch.from_numpy(np.stack([pairs // sequences.num_items, pairs % sequences.num_items]))
    shape = (sequences.num_users, sequences.num_items)
    return torch.sparse_coo_tensor(where, torch.ones(len(pairs)), shape, check_invariants=False).coalesce()


class EASE(Baseline):
    """score(u, x) = Σ_{i in history of u} B_ix,  B = I − P diag(P)⁻¹,  P = (XᵀX + λ I)⁻¹, X the users × items matrix.

    B minimises |X − X B|² + λ |B|² under a diagonal of zeros. λ is `regularization`; X holds the interactions that
    `part` learns from (None: all). All of the history counts, in any order.
    Raises ValueError if λ is not positive, or items and users are both more than `MOST`.
    Source: "Embarrassingly Shallow Autoencoders for Sparse Data" (Steck, WWW 2019), equations 5 to 8.
    """

    def __init__(
        self, sequences: Sequences, regularization: float = 500.0, part: Part | None = "train"
    ) -> None:
        if not regularization > 0:
            raise ValueError(f"regularization must be positive, not {regularization}")
        if min(sequences.num_users, sequences.num_items) > MOST:
            raise ValueError(
                f"EASE inverts a matrix between items, or between users: {sequences.name} has {sequences.num_items:,} items and"
                f" {sequences.num_users:,} users, more than {MOST:,} of both; leave it out, or keep fewer (a k-core)"
            )
        met = interaction_matrix(sequences, part)
        self.num_items = sequences.num_items
        few_users = sequences.num_users < sequences.num_items
        self.weigh = (_weigh_by_users if few_users else _weigh_by_items)(met, regularization)

    def scores(
        self, histories: Int[Tensor, "B H"], users: Int[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B N"]:
        """Sums of the rows of B; an item counts once, however often it is in the history."""
        return self.weigh(torch.zeros(len(histories), self.num_items + 1).scatter(1, histories, 1.0)[:, 1:])


def _weigh_by_items(met: Float[Tensor, "U N"], regularization: float) -> Weigh:
    """B from the inverse between items."""
    inverse = _inverse(met.T, regularization)
    weights = (inverse / -inverse.diagonal()).fill_diagonal_(0.0).float()
    return lambda history: history @ weights


def _weigh_by_users(met: Float[Tensor, "U N"], regularization: float) -> Weigh:
    """The same from the inverse between users: λ P = I − M with M = Xᵀ (λ I + X Xᵀ)⁻¹ X (Woodbury's identity), so that off its
    diagonal B_ix = M_ix / (1 − M_xx). No matrix between items is held."""
    left = torch.sparse.mm(met.T, _inverse(met, regularization).float())  # (N, U)
    users, items = met.indices()
    own = torch.zeros(met.shape[1]).index_add_(0, items, left[items, users])  # M_xx

    def weigh(history: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        between = torch.sparse.mm(history.to_sparse(), left)  # (B, U)
        return (torch.sparse.mm(met.T, between.T).T - history * own) / (1 - own)

    return weigh


def _inverse(rows: Float[Tensor, "R C"], regularization: float) -> Float[Tensor, "R R"]:
    """(A Aᵀ + λ I)⁻¹ in float64 of a sparse matrix A."""
    gram = torch.empty(len(rows), len(rows), dtype=torch.float64)
    for some in torch.arange(len(rows)).split(BLOCK):
        gram[:, some] = torch.sparse.mm(rows, rows.index_select(0, some).to_dense().T).double()
    gram.diagonal().add_(regularization)
    return torch.cholesky_inverse(torch.linalg.cholesky(gram))
