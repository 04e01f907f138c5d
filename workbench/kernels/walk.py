"""Walks over a graph, best node first, for many queries at once: in C++ and, without a compiler, in Python, with equal results.

A walk visits the neighbours of the best node that it has not expanded yet, as long as that node is among its best; scores come
from the caller, a list of nodes of each query at a time. The bookkeeping alone is here. Nodes that may not be found lead on as
all others do, and take no place among the best.
"""

import bisect
import ctypes
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.kernels.native import library

SOURCE = Path(__file__).with_name("walk.cpp")


class Step(NamedTuple):
    """Nodes to score: `nodes` int64 (S,), each of one of the `queries` int64 (S,), which ascend."""

    queries: Int[Tensor, "S"]
    nodes: Int[Tensor, "S"]


class Walks(ABC):
    """Walks of B queries over one graph: `next` gives nodes, `scored` takes their scores, until `next` gives none.

    Nothing is handed out twice to a query. Better means the larger score, of equal ones the smaller node.
    """

    @abstractmethod
    def next(self) -> Step:
        """Up to `listed` nodes of each query that were not handed out before; none if all walks are at their end."""

    @abstractmethod
    def scored(self, scores: Float[Tensor, "S"]) -> None:
        """The scores of the nodes of the last step, in their places."""

    @abstractmethod
    def best(self, count: int) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
        """Scores (float64) and nodes of the best `count` ≤ `beam` of each query that may be found; −inf and 0 past the end."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the memory."""

    @final
    def __enter__(self) -> Self:
        return self

    @final
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def walks(
    neighbours: Int[Tensor, "N M"],
    entries: Int[Tensor, "E"],
    queries: int,
    beam: int,
    listed: int,
    excluded: Int[Tensor, "B H"] | None = None,
    allowed: Bool[Tensor, "N"] | None = None,
) -> Walks:
    """Walks that begin at `entries` and keep the `beam` best nodes, over edges int32 (N, M) on a CPU, −1 past the end.

    Nodes `excluded` from a query (−1: none), and those not `allowed`, may not be found.
    """
    kind = _PlainWalks if _library() is None else _NativeWalks
    return kind(neighbours, entries, queries, beam, listed, excluded, allowed)


@cache
def _library() -> ctypes.CDLL | None:
    found = library(SOURCE)
    if found is not None:
        whole, address = ctypes.c_int64, ctypes.c_void_p
        found.walks_begin.argtypes = [
            *(whole, whole, whole, address, address, whole, address, whole, address, whole, whole, whole)
        ]
        found.walks_begin.restype = address
        found.walks_next.argtypes, found.walks_next.restype = [address, address, address], whole
        found.walks_scored.argtypes = [address, address]
        found.walks_best.argtypes, found.walks_best.restype = [address, whole, address, address], None
        found.walks_end.argtypes, found.walks_end.restype = [address], None
    return found


class _NativeWalks(Walks):
    def __init__(
        self,
        neighbours: Int[Tensor, "N M"],
        entries: Int[Tensor, "E"],
        queries: int,
        beam: int,
        listed: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> None:
        native = _library()
        assert native is not None
        self._native, self._queries = native, queries
        # The library reads the edges and the mask as long as it walks.
        edges, begin = self._kept = (neighbours.int().contiguous(), entries.long().contiguous())
        out = None if excluded is None else excluded.long().contiguous()
        self._allowed = None if allowed is None else allowed.contiguous()
        self._handle = native.walks_begin(
            *(queries, *edges.shape, edges.data_ptr(), begin.data_ptr(), len(begin)),
            *((None, 0) if out is None else (out.data_ptr(), out.shape[1])),
            None if self._allowed is None else self._allowed.data_ptr(),
            *(beam, listed, torch.get_num_threads()),
        )
        if not self._handle:
            raise MemoryError("no memory for walks over a graph")
        self._room = torch.empty(2, queries * listed, dtype=torch.int64)

    def next(self) -> Step:
        owners, nodes = self._room
        count = self._native.walks_next(self._handle, owners.data_ptr(), nodes.data_ptr())
        if count < 0:
            raise MemoryError("no memory for walks over a graph")
        return Step(owners[:count].clone(), nodes[:count].clone())

    def scored(self, scores: Float[Tensor, "S"]) -> None:
        scores = scores.double().contiguous()
        if self._native.walks_scored(self._handle, scores.data_ptr()):
            raise MemoryError("no memory for walks over a graph")

    def best(self, count: int) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
        scores = torch.empty(self._queries, count, dtype=torch.float64)
        nodes = torch.empty(self._queries, count, dtype=torch.int64)
        self._native.walks_best(self._handle, count, scores.data_ptr(), nodes.data_ptr())
        return scores, nodes

    def close(self) -> None:
        if self._handle:
            self._native.walks_end(self._handle)
            self._handle = None


class _PlainWalks(Walks):
    def __init__(
        self,
        neighbours: Int[Tensor, "N M"],
        entries: Int[Tensor, "E"],
        queries: int,
        beam: int,
        listed: int,
        excluded: Int[Tensor, "B H"] | None,
        allowed: Bool[Tensor, "N"] | None,
    ) -> None:
        self._edges, self._beam, self._listed = neighbours.numpy(), beam, listed
        self._visited = np.zeros((queries, len(neighbours)), dtype=bool)
        self._visited[:, entries.numpy()] = True
        self._pending = [entries.tolist() for _ in range(queries)]
        self._open = np.ones((queries, len(neighbours)), dtype=bool)
        if allowed is not None:
            self._open &= allowed.numpy()
        for mine, out in zip(self._open, [] if excluded is None else excluded.numpy(), strict=False):
            mine[out[out >= 0]] = False
        self._best: list[list[tuple[float, int]]] = [[] for _ in range(queries)]  # (−score, node), ascending
        self._expanded: list[set[int]] = [set() for _ in range(queries)]
        self._handed = [0] * queries

    def next(self) -> Step:
        chosen = [self._next_of(query) for query in range(len(self._pending))]
        self._handed = [len(nodes) for nodes in chosen]
        queries = torch.arange(len(chosen)).repeat_interleave(torch.tensor(self._handed, dtype=torch.int64))
        nodes = [node for mine in chosen for node in mine]
        return Step(queries, torch.tensor(nodes, dtype=torch.int64))

    def _next_of(self, query: int) -> list[int]:
        pending, visited, expanded = self._pending[query], self._visited[query], self._expanded[query]
        del pending[: self._handed[query]]
        for _, node in self._best[query]:
            if len(pending) >= self._listed:
                break
            if node not in expanded:
                expanded.add(node)
                for edge in self._edges[node].tolist():
                    if edge < 0:
                        break
                    if not visited[edge]:
                        visited[edge] = True
                        pending.append(edge)
        return pending[: self._listed]

    def scored(self, scores: Float[Tensor, "S"]) -> None:
        for query, mine in enumerate(scores.double().split(self._handed)):
            best = self._best[query]
            for node, score in zip(self._pending[query], mine.tolist(), strict=False):
                bisect.insort(best, (-score, node))
            places = np.cumsum([self._open[query, node] for _, node in best])
            del best[int(np.searchsorted(places, self._beam)) + 1 :]

    def best(self, count: int) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
        scores = torch.full((len(self._best), count), -torch.inf, dtype=torch.float64)
        nodes = torch.zeros(len(self._best), count, dtype=torch.int64)
        for query, best in enumerate(self._best):
            found = [(score, node) for score, node in best if self._open[query, node]][:count]
            for place, (score, node) in enumerate(found):
                scores[query, place], nodes[query, place] = -score, node
        return scores, nodes

    def close(self) -> None:
        self._visited = self._visited[:0]
