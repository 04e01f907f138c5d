"""Embeddings of user ids, a part of the query side of several similarities. May import what they may."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.kernels.dropout import dropout


class UserTable(nn.Module):
    """An embedding of the user id modulo a hash size; row 0 is kept free as in the published tables.

    In training `dropout` of its elements, or if `whole` of whole embeddings, are 0 and the others larger in return.
    """

    def __init__(self, rows: int, width: int, dropout: float, whole: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(rows + 1, width)
        self.dropout, self.whole = dropout, whole

    def forward(self, user_ids: Int[Tensor, "B"]) -> tuple[Float[Tensor, "B d"], Float[Tensor, "B"]]:
        """The embedding after dropout, and its squared norm before."""
        x: Tensor = self.table(user_ids % (self.table.num_embeddings - 1) + 1)
        norm = x.square().sum(-1)
        if self.whole:
            return x * dropout(torch.ones_like(x[:, :1]), self.dropout, self.training), norm
        return dropout(x, self.dropout, self.training), norm
