"""Deep Retrieval's structure model: a distribution over paths through D layers of K nodes, and its beam search."""

from abc import ABC, abstractmethod
from typing import Generic, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from workbench.contracts import Items, Queries
from workbench.kernels import path_walk

NO_PATH = -1
MOST_PATHS = 2**40
"""Maximum of paths K^D: the code of a path and the number of an item must fit into 63 bits together."""
NOWHERE = float("-inf")
TILE_UNITS = 12_800
"""Places of beams that are extended together: their hidden units and scores stay in a processor's cache."""
DENSE_PREFIXES = 2**24
"""Up to this many prefixes a level is a table of marks; beyond, a sorted list that is searched."""


class Beam(NamedTuple):
    """The most probable paths found for each of B queries, most probable first.

    `paths` int64 (B, W): codes, −1 past the end; `log_probs` (B, W): log p(c | x), −inf past the end.
    """

    paths: Int[Tensor, "B W"]
    log_probs: Float[Tensor, "B W"]


def encode_paths(nodes: Int[Tensor, "*S D"], width: int) -> Int[Tensor, "*S"]:
    """The code c = Σ_d c_d K^(D − d) of each path (c_1, …, c_D) with nodes 0..K−1.

    >>> encode_paths(torch.tensor([[1, 0, 2]]), 3).tolist()
    [11]
    """
    code = torch.zeros_like(nodes[..., 0])
    for d in range(nodes.shape[-1]):
        code = code * width + nodes[..., d]
    return code


def decode_paths(codes: Int[Tensor, "*S"], depth: int, width: int) -> Int[Tensor, "*S D"]:
    """The nodes of each code: what `encode_paths` encoded.

    >>> decode_paths(torch.tensor([11]), 3, 3).tolist()
    [[1, 0, 2]]
    """
    return torch.stack([codes // width ** (depth - 1 - d) % width for d in range(depth)], dim=-1)


class Prefixes:
    """The beginnings of a set of paths: whether a beam that has come so far can still reach one of them."""

    def __init__(self, paths: Int[Tensor, "*S"], depth: int, width: int) -> None:
        self.marks: list[Tensor] = []  # of each level: a table of marks, or the codes in order
        for level in range(1, depth + 1):
            codes = torch.div(paths.flatten(), width ** (depth - level), rounding_mode="floor").unique()
            if width**level <= DENSE_PREFIXES:
                codes = torch.zeros(width**level, dtype=torch.bool, device=paths.device).index_fill(
                    0, codes, True
                )
            self.marks.append(codes)

    def hold(self, level: int, codes: Int[Tensor, "*S"]) -> Bool[Tensor, "*S"]:
        """Whether each code of `level` nodes begins a path of the set."""
        marks = self.marks[level - 1]
        if marks.dtype == torch.bool:
            return marks[codes]
        places = torch.searchsorted(marks, codes.contiguous()).clamp(max=len(marks) - 1)
        return marks[places] == codes


class PathWalker(ABC, Generic[Queries, Items]):
    """What a search along paths needs: the probable paths of a query, and the paths of an item."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(D, K): layers, and nodes of each."""

    @abstractmethod
    def beam(self, queries: Queries, width: int, within: Prefixes | None = None) -> Beam:
        """Up to `width` probable paths of each query; with `within`, of those paths only."""

    @abstractmethod
    def paths_of(self, items: Items) -> Int[Tensor, "N J"]:
        """The J paths of each item, −1 if it has none."""


class StructureModel(nn.Module):
    """p(c | x) = Π_d softmax(MLP_d([x; e_1(c_1); …; e_{d−1}(c_{d−1})]))_{c_d}: D layers of K nodes, K^D paths.

    Each MLP has one hidden layer of `hidden` ReLU units. Its first matrix acts on the user part and on each node's embedding
    apart and sums: the same function as on the concatenation, but what depends on the user alone is computed once, whatever
    the width of the beam, and the part of a node is looked up.

    Source: "Deep Retrieval" (Gao et al., CIKM 2021, arXiv 2007.07203), section 3.1.
    """

    def __init__(self, dim: int, depth: int, width: int, node_dim: int, hidden: int) -> None:
        super().__init__()
        self.depth, self.width = depth, width
        self.nodes = nn.ParameterList(nn.Parameter(torch.randn(width, node_dim)) for _ in range(depth - 1))
        self.user_parts = nn.ModuleList(nn.Linear(dim, hidden) for _ in range(depth))
        self.node_parts = nn.ModuleList(
            nn.ModuleList(nn.Linear(node_dim, hidden, bias=False) for _ in range(d)) for d in range(depth)
        )
        self.outputs = nn.ModuleList(nn.Linear(hidden, width) for _ in range(depth))

    def _lookups(self, level: int) -> list[Float[Tensor, "K h"]]:
        """For each earlier layer, what each of its nodes adds to the hidden units of `level` (from 0)."""
        return [part(node) for part, node in zip(self.parts_of(level), self.nodes, strict=False)]

    def parts_of(self, level: int) -> list[nn.Linear]:
        """For each earlier layer, the map from its nodes' embeddings to hidden units of `level` (from 0)."""
        return list(self.node_parts[level])  # type: ignore[call-overload]

    def log_probs(self, x: Float[Tensor, "T D"], paths: Int[Tensor, "T J"]) -> Float[Tensor, "T J"]:
        """log p(c | x) of the given paths of each row."""
        nodes = decode_paths(paths, self.depth, self.width)  # (T, J, depth)
        total: Tensor | None = None
        for level in range(self.depth):
            hidden = self.user_parts[level](x)[:, None]  # (T, 1, h)
            for earlier, lookup in enumerate(self._lookups(level)):
                hidden = hidden + F.embedding(nodes[..., earlier], lookup)  # (T, J, h)
            logits = self.outputs[level](hidden.relu()).log_softmax(-1)
            chosen = logits.expand(-1, paths.shape[1], -1).gather(2, nodes[..., level, None])[..., 0]
            total = chosen if total is None else total + chosen
        assert total is not None
        return total

    def beam(self, x: Float[Tensor, "B D"], width: int, within: Prefixes | None = None) -> Beam:
        """Up to `width` paths of each row by beam search: after each layer the `width` most probable beginnings are kept.

        O(D · K · B log B) for a beam of B. With `within`, beginnings that lead to none of those paths are passed over, so that
        no place is wasted on them; the probabilities stay those of all paths.
        Raises ValueError if `width` is below 1.
        """
        if width < 1:
            raise ValueError(f"a beam needs room for at least 1 path, not {width}")
        with torch.no_grad():
            if path_walk.serves(x, *self.parameters()):
                return self._native_beam(x, width, within)
            parts = [self._beam(part, width, within) for part in x.split(max(1, TILE_UNITS // width))]
        return Beam(torch.cat([p.paths for p in parts]), torch.cat([p.log_probs for p in parts]))

    def _native_beam(self, x: Float[Tensor, "B D"], width: int, within: Prefixes | None) -> Beam:
        layers = range(self.depth)
        lookups = [table for level in layers for table in self._lookups(level)]
        outputs: list[nn.Linear] = list(self.outputs)  # type: ignore[arg-type]
        paths, log_probs = path_walk.walk_paths(
            torch.stack([self.user_parts[level](x) for level in layers]),
            torch.stack(lookups) if lookups else x.new_empty(0, *outputs[0].weight.shape),
            torch.stack([layer.weight for layer in outputs]),
            torch.stack([layer.bias for layer in outputs]),
            width,
            None if within is None else within.marks,
        )
        return Beam(paths, log_probs)

    def _beam(self, x: Float[Tensor, "B D"], width: int, within: Prefixes | None) -> Beam:
        codes = torch.zeros(len(x), 1, dtype=torch.int64, device=x.device)
        scores = x.new_zeros(len(x), 1)
        chosen: list[Tensor] = []  # the node of each layer, (B, W)
        for level in range(self.depth):
            hidden = self.user_parts[level](x)[:, None].expand(-1, scores.shape[1], -1)
            for place, (nodes, lookup) in enumerate(zip(chosen, self._lookups(level), strict=True)):
                added = F.embedding(nodes, lookup)  # (B, W, h)
                hidden = added.add_(hidden) if place == 0 else hidden.add_(added)
            longer = self.outputs[level](hidden.relu_()).log_softmax(-1).add_(scores[..., None])  # (B, W, K)
            if within is not None:
                steps = torch.arange(self.width, device=x.device)
                reachable = within.hold(level + 1, codes[..., None] * self.width + steps)
                longer.masked_fill_(~reachable, NOWHERE)
            scores, places = longer.flatten(1).topk(min(width, longer.shape[1] * self.width), dim=1)
            parents, node = places // self.width, places % self.width
            chosen = [*(nodes.gather(1, parents) for nodes in chosen), node]
            codes = codes.gather(1, parents) * self.width + node
        return Beam(codes.masked_fill(scores == NOWHERE, NO_PATH), scores)
