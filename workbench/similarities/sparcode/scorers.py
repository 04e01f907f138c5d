"""What SparCode does with one code and one item: scorers whose work is cut into parts per code, per item, and per pair.

Inner products are divided by √d, which the paper does not say: tokens have entries of about 1, and scores should too.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.kernels.pairwise_mlp import hidden_layer

Interaction = Literal["dot", "maxsim", "crossnet", "dnn", "inner pdnn"]
INTERACTIONS: tuple[Interaction, ...] = ("dot", "maxsim", "crossnet", "dnn", "inner pdnn")


class Scorer(nn.Module, ABC):
    """f(t̂, x) of one code's token t̂ (d) and an item's tokens x (Px, d).

    `code_part` and `item_part` are computed once per code and once per item; `pairs` does the rest.
    """

    @property
    @abstractmethod
    def pair_bytes(self) -> int:
        """Bytes that `pairs` holds at its peak for one code and one item."""

    @abstractmethod
    def code_part(self, tokens: Float[Tensor, "*S d"]) -> Float[Tensor, "*S V"]:
        """What depends on the code alone."""

    @abstractmethod
    def item_part(self, tokens: Float[Tensor, "N Px d"]) -> Float[Tensor, "N W"]:
        """What depends on the item alone."""

    @abstractmethod
    def pairs(self, codes: Float[Tensor, "t K V"], items: Float[Tensor, "t C W"]) -> Float[Tensor, "t K C"]:
        """f for each of the K codes and C items of every group t."""


class Dot(Scorer):
    """f = ⟨t̂, Σ_j x_j⟩ / √d."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**-0.5

    @property
    def pair_bytes(self) -> int:
        """The score."""
        return 4

    def code_part(self, tokens: Float[Tensor, "*S d"]) -> Float[Tensor, "*S V"]:
        """t̂ / √d."""
        return tokens * self.scale

    def item_part(self, tokens: Float[Tensor, "N Px d"]) -> Float[Tensor, "N W"]:
        """Σ_j x_j."""
        return tokens.sum(1)

    def pairs(self, codes: Float[Tensor, "t K V"], items: Float[Tensor, "t C W"]) -> Float[Tensor, "t K C"]:
        """One matrix product."""
        return torch.bmm(codes, items.transpose(1, 2))


class MaxOfDots(Scorer):
    """f = max_j ⟨t̂, x_j⟩ / √d (ColBERT's late interaction, one query token at a time)."""

    def __init__(self, dim: int, item_tokens: int) -> None:
        super().__init__()
        self.item_tokens = item_tokens
        self.scale = dim**-0.5

    @property
    def pair_bytes(self) -> int:
        """The inner products and their maximum."""
        return 4 * (self.item_tokens + 1)

    def code_part(self, tokens: Float[Tensor, "*S d"]) -> Float[Tensor, "*S V"]:
        """t̂ / √d."""
        return tokens * self.scale

    def item_part(self, tokens: Float[Tensor, "N Px d"]) -> Float[Tensor, "N W"]:
        """All x_j, end to end."""
        return tokens.flatten(1)

    def pairs(self, codes: Float[Tensor, "t K V"], items: Float[Tensor, "t C W"]) -> Float[Tensor, "t K C"]:
        """The largest of the Px inner products."""
        return _products(codes, items, self.item_tokens).amax(-1)


class CrossNet(Scorer):
    """f = ⟨w, x_L⟩ + b, x_(l+1) = x_0 ⊙ (W_l x_l + b_l) + x_l, x_0 = [t̂; x_1; …; x_Px].

    Source: DCN-v2 (Wang et al., 2021), equation 1.
    """

    def __init__(self, dim: int, item_tokens: int, layers: int) -> None:
        super().__init__()
        width = dim * (1 + item_tokens)
        self.width = width
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.output = nn.Linear(width, 1)

    @property
    def pair_bytes(self) -> int:
        """x_0, x_l, W x_l and the next x."""
        return 4 * 4 * self.width

    def code_part(self, tokens: Float[Tensor, "*S d"]) -> Float[Tensor, "*S V"]:
        """t̂."""
        return tokens

    def item_part(self, tokens: Float[Tensor, "N Px d"]) -> Float[Tensor, "N W"]:
        """All x_j, end to end."""
        return tokens.flatten(1)

    def pairs(self, codes: Float[Tensor, "t K V"], items: Float[Tensor, "t C W"]) -> Float[Tensor, "t K C"]:
        """The cross layers over every pair's concatenated tokens."""
        t, k, c = codes.shape[0], codes.shape[1], items.shape[1]
        start = torch.cat(
            [codes[:, :, None].expand(t, k, c, -1), items[:, None].expand(t, k, c, -1)], dim=-1
        )  # (t, K, C, width)
        x = start
        for layer in self.cross:
            x = torch.addcmul(x, start, layer(x))
        score: Tensor = self.output(x)
        return score.squeeze(-1)


class DNN(Scorer):
    """f = MLP([t̂; x_1; …; x_Px]), ReLU between layers; the first layer is a sum of a code's and an item's part."""

    def __init__(self, dim: int, item_tokens: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.of_code = nn.Linear(dim, hidden[0], bias=False)
        self.of_item = nn.Linear(dim * item_tokens, hidden[0])
        self.rest = _layers(hidden)
        self.hidden = tuple(hidden)

    @property
    def pair_bytes(self) -> int:
        """Two of the widest layers."""
        return 4 * 2 * max(self.hidden)

    def code_part(self, tokens: Float[Tensor, "*S d"]) -> Float[Tensor, "*S V"]:
        """The first layer's share of t̂."""
        part: Tensor = self.of_code(tokens)
        return part

    def item_part(self, tokens: Float[Tensor, "N Px d"]) -> Float[Tensor, "N W"]:
        """The first layer's share of all x_j, and its bias."""
        part: Tensor = self.of_item(tokens.flatten(1))
        return part

    def pairs(self, codes: Float[Tensor, "t K V"], items: Float[Tensor, "t C W"]) -> Float[Tensor, "t K C"]:
        """The other layers on the sum of the parts."""
        score: Tensor = self.rest(codes[:, :, None] + items[:, None])
        return score.squeeze(-1)


class InnerPDNN(Scorer):
    """f = Σ_j ⟨t̂, x_j⟩ / √d + MLP([t̂; x; ⟨t̂, x_j⟩ / √d; ⟨x_i, x_j⟩ / √d for i < j]): SparCode, equation 9 (InnerPDNN)."""

    def __init__(self, dim: int, item_tokens: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.item_tokens = item_tokens
        self.scale = dim**-0.5
        self.of_code = nn.Linear(dim, hidden[0], bias=False)
        self.of_item = nn.Linear(dim * item_tokens + item_tokens * (item_tokens - 1) // 2, hidden[0])
        self.of_products = nn.Linear(item_tokens, hidden[0], bias=False)
        self.rest = _layers(hidden)
        self.hidden = tuple(hidden)
        self.register_buffer("upper", torch.triu_indices(item_tokens, item_tokens, 1), persistent=False)

    upper: Tensor

    @property
    def output(self) -> nn.Linear:
        """The MLP's last layer."""
        last = self.rest[-1]
        assert isinstance(last, nn.Linear)
        return last

    @property
    def pair_bytes(self) -> int:
        """The inner products and three of the widest layers."""
        return 4 * (2 * self.item_tokens + 3 * max(self.hidden))

    def code_part(self, tokens: Float[Tensor, "*S d"]) -> Float[Tensor, "*S V"]:
        """t̂ / √d for the inner products, and the first layer's share of t̂."""
        return torch.cat([tokens * self.scale, self.of_code(tokens)], dim=-1)

    def item_part(self, tokens: Float[Tensor, "N Px d"]) -> Float[Tensor, "N W"]:
        """All x_j, and the first layer's share of them and of the products among them."""
        flat = tokens.flatten(1)
        among = torch.bmm(tokens, tokens.transpose(1, 2))[:, self.upper[0], self.upper[1]] * self.scale
        return torch.cat([flat, self.of_item(torch.cat([flat, among], dim=1))], dim=1)

    def pairs(self, codes: Float[Tensor, "t K V"], items: Float[Tensor, "t C W"]) -> Float[Tensor, "t K C"]:
        """The inner products, and the MLP that sees them."""
        width = self.hidden[0]
        products = _products(codes[..., :-width], items[..., :-width], self.item_tokens)  # (t, K, C, Px)
        own, other = codes[..., -width:], items[..., -width:]
        same = products.dtype == own.dtype == other.dtype  # not under autocast
        if len(self.hidden) == 1 and same and not torch.compiler.is_exporting():
            mlp = hidden_layer(
                own, other, products, self.of_products.weight, self.output.weight, self.output.bias
            )
            return products.sum(-1) + mlp
        first = own[:, :, None] + other[:, None]
        first = torch.addmm(
            first.flatten(0, -2), products.flatten(0, -2), self.of_products.weight.T
        ).unflatten(0, products.shape[:-1])
        deep: Tensor = self.rest(first)
        return products.sum(-1) + deep.squeeze(-1)


def scorer(
    interaction: Interaction, dim: int, item_tokens: int, hidden: Sequence[int], cross_layers: int
) -> Scorer:
    """The scorer of that name for tokens of width `dim`."""
    match interaction:
        case "dot":
            return Dot(dim)
        case "maxsim":
            return MaxOfDots(dim, item_tokens)
        case "crossnet":
            return CrossNet(dim, item_tokens, cross_layers)
        case "dnn":
            return DNN(dim, item_tokens, hidden)
        case "inner pdnn":
            return InnerPDNN(dim, item_tokens, hidden)


def _layers(hidden: Sequence[int]) -> nn.Sequential:
    """From the sum that enters the first ReLU to the score."""
    layers: list[nn.Module] = [nn.ReLU()]
    for width, following in pairwise(hidden):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden[-1], 1))


def _products(
    codes: Float[Tensor, "t K d"], items: Float[Tensor, "t C W"], item_tokens: int
) -> Float[Tensor, "t K C Px"]:
    """⟨t̂, x_j⟩ for every code, item and j."""
    flat = items.unflatten(-1, (item_tokens, -1)).flatten(1, 2)  # (t, C·Px, d)
    grid: Tensor = torch.bmm(codes, flat.transpose(1, 2)).unflatten(2, (-1, item_tokens))
    return grid
