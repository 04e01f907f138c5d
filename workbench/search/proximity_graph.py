"""A graph of items in which near ones are neighbours: built from lists of the nearest, changed, saved.

It depends on one vector per item alone, and on no similarity: `graph_search` walks it under a learned one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench import tensor_files
from workbench.contracts import NO_ITEM, Upsert
from workbench.search import stages
from workbench.search.candidates import Scan
from workbench.search.cells import first_of, nearest
from workbench.search.indexes import digests, fingerprint

NODES_TOGETHER = 256
"""Nodes whose neighbours are chosen together."""

ROWS_TOGETHER = 65_536
"""Nodes whose edges are counted, or turned round, together: all of them would take several times the graph's memory."""

SHARES = (16, 256)
"""Neighbours of a node are chosen among the nearest of the whole corpus, and of every 16th and every 256th item: by the
former alone, items with many near copies would lead nowhere else."""

INWARD = 8
"""Edges that lead to every node, if that can be: a node to which none leads is never met, and one of few is met late."""

SAME_LENGTH = 1e-5
"""Relative difference of lengths that counts as none."""


@dataclass(frozen=True)
class ProximityGraph:
    """`neighbours` int32 (N, M): rows of the corpus, −1 past the end of a list. It never changes: changes give another."""

    neighbours: Int[Tensor, "N M"]

    def __len__(self) -> int:
        return len(self.neighbours)

    def entries(self, count: int) -> Int[Tensor, "E"]:
        """`count` rows for a walk to begin with, at even distances; all if there are fewer."""
        count = min(count, len(self))
        return torch.arange(count, device=self.neighbours.device) * len(self) // max(1, count)

    @classmethod
    def build(
        cls,
        vectors: Float[Tensor, "N d"],
        degree: int,
        listed: int,
    ) -> "ProximityGraph":
        """The graph of items by the cosine of their `vectors`: at most `degree` neighbours each, out of the `listed` nearest.

        Of these an item is kept if it is nearer to the node than to all that are kept already, as in HNSW (Malkov and
        Yashunin, 2018, Algorithm 4). Free places go to nodes that keep this one, then to the nearest left. At least `INWARD`
        edges lead to every node, if that can be, in the places of edges to nodes that have many. The nearest are found by
        `cells.nearest`: all vectors of a small corpus are looked at, those of the cells around in a large one; and half as many
        are found in each of two samples of the corpus (`SHARES`).
        """
        unit, total = _unit(vectors), len(vectors)
        rows = torch.arange(total, device=unit.device)
        of = f"{_print_of(rows, vectors)}, {degree} of {listed}" if stages.keeping() else ""

        def near(share: int, count: int) -> Int[Tensor, "N C"]:
            return stages.stage(f"nearest-{share}", of, lambda: nearest(unit, rows[::share], count))

        found = [near(1, listed)]
        found += [near(share, listed // 2) for share in SHARES if total > share * listed]

        def spread() -> Int[Tensor, "N M"]:
            kept = torch.full((total, degree), NO_ITEM, dtype=torch.int32, device=unit.device)
            for part in _parts(total):
                candidates = torch.cat([some[part] for some in found], 1).long()
                ordered = _by_distance(unit, rows[part], candidates)
                kept[part] = _spread(unit, unit[part], ordered, degree).int()
            return kept

        kept = stages.stage("spread", of, spread).to(unit.device)
        del found[1:]
        kept = _filled(kept, _reversed(kept))
        kept = _filled(kept, found.pop())
        return cls(_reachable(kept, INWARD))

    def upserted(
        self, put: Upsert, ids: Int[Tensor, "K"], vectors: Float[Tensor, "K d"], listed: int
    ) -> "ProximityGraph":
        """The graph after `put` gave the corpus, now K items with these `vectors`, new ones or new vectors for known ones."""
        unit, degree = _unit(vectors), self.neighbours.shape[1]
        fresh = len(ids) - len(self)
        grown = F.pad(self.neighbours, (0, 0, 0, fresh), value=NO_ITEM)
        appended = torch.arange(len(self), len(ids), device=ids.device)
        rows = torch.cat([put.rows[put.rows >= 0], appended])
        found = Scan("graph", ids, unit).lists(unit[rows], listed, rows[:, None]).rows
        out = _chosen(unit, rows, found, degree)
        edges = torch.full_like(grown, NO_ITEM)
        edges[rows] = out.int()
        back = _reversed(edges)
        grown = grown.index_copy(0, rows, out.int())
        return ProximityGraph(_replaced(unit, grown, (back >= 0).any(1), back))

    def without(self, kept: Bool[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> "ProximityGraph":
        """The graph of the rows that are `kept`: who loses a neighbour may take one of that neighbour's."""
        unit, old = _unit(vectors), self.neighbours.long()
        lost = (old >= 0) & ~kept[old.clamp(min=0)]
        holes = lost.any(1) & kept
        second = torch.full((len(self), old.shape[1] ** 2), NO_ITEM, dtype=torch.int32, device=old.device)
        changed = holes.nonzero()[:, 0]
        near = self.neighbours[old[changed].clamp(min=0)].masked_fill(~lost[changed][..., None], NO_ITEM)
        second[changed] = near.flatten(1)
        gone = ~kept
        remaining = self.neighbours.masked_fill(lost, NO_ITEM)
        second = second.masked_fill(gone[second.clamp(min=0).long()], NO_ITEM)
        whole = _replaced(unit, remaining, holes, second)[kept].long()
        place = kept.cumsum(0) - 1
        return ProximityGraph(torch.where(whole >= 0, place[whole.clamp(min=0)], NO_ITEM).int())

    def save(self, path: Path, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"], built_with: str) -> None:
        """Write the graph, with what it was `built_with` and a fingerprint of its items, whole or not at all."""
        described = {
            "record": type(self).__name__,
            "built_with": built_with,
            "items": _print_of(ids, vectors),
        }
        tensor_files.save({"neighbours": self.neighbours}, path, described)

    @classmethod
    def load(
        cls, path: Path, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"], built_with: str
    ) -> "ProximityGraph":
        """The graph that `save` wrote for the same items; ValueError that names the file if it is another, or damaged."""
        advice = "delete it and build it again"
        tensors, described = tensor_files.load(path, advice)
        if described.get("record") != cls.__name__ or "neighbours" not in tensors:
            raise ValueError(f"{path} holds no graph of items; {advice}")
        if described.get("built_with") != built_with:
            raise ValueError(
                f"{path} was built with {described.get('built_with')}, not {built_with}; {advice}"
            )
        graph = tensors["neighbours"]
        if described.get("items") != _print_of(ids, vectors) or len(graph) != len(ids):
            raise ValueError(f"{path} was built of other vectors: of another model or corpus; {advice}")
        return cls(graph.to(ids.device))


def _print_of(ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> str:
    return fingerprint(ids, digests(vectors), vectors.shape[1])


def _unit(vectors: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
    """The vectors, all of one length: not copied if they are of one length already, and float32."""
    lengths = vectors.float().norm(dim=-1)
    same = bool(((lengths - lengths[0]).abs() <= SAME_LENGTH * lengths[0]).all())
    return vectors.float() if same else F.normalize(vectors.float(), dim=-1)


def _parts(total: int) -> Iterator[slice]:
    for start in range(0, total, NODES_TOGETHER):
        yield slice(start, min(total, start + NODES_TOGETHER))


def _spread(
    unit: Float[Tensor, "N d"], nodes: Float[Tensor, "b d"], rows: Int[Tensor, "b C"], degree: int
) -> Int[Tensor, "b M"]:
    """Of the candidates of each node, nearest first, at most `degree`: each nearer to the node than to those before it."""
    there = unit[rows.clamp(min=0)]  # (b, C, d)
    to_node = (there @ nodes[:, :, None])[..., 0]  # (b, C)
    between = there @ there.transpose(1, 2)  # (b, C, C)
    kept = torch.zeros_like(rows, dtype=torch.bool)
    shadow = torch.full_like(to_node, -torch.inf)  # the largest cosine with one that is kept
    for c in range(rows.shape[1]):
        fits = (rows[:, c] >= 0) & (to_node[:, c] > shadow[:, c])
        kept[:, c] = fits
        shadow = torch.where(fits[:, None], torch.maximum(shadow, between[:, c]), shadow)
    return first_of(rows.masked_fill(~kept, NO_ITEM), degree)


def _filled(first: Int[Tensor, "N M"], second: Int[Tensor, "N C"]) -> Int[Tensor, "N M"]:
    """Free places of `first` filled from `second`, without repeats."""
    out = first.clone()
    for part in _parts(len(first)):
        here, more = first[part], second[part]
        again = (more[:, :, None] == here[:, None, :]).any(2)
        out[part] = first_of(torch.cat([here, more.masked_fill(again, NO_ITEM)], 1), first.shape[1])
    return out


def _reversed(neighbours: Int[Tensor, "N M"]) -> Int[Tensor, "N M"]:
    """For each node, nodes that have it as a neighbour, at most M of them.

    >>> _reversed(torch.tensor([[1], [2], [1]])).tolist()
    [[-1], [0], [1]]
    """
    back = torch.full_like(neighbours, NO_ITEM)
    for start in range(0, len(neighbours), ROWS_TOGETHER):
        here = back[start : start + ROWS_TOGETHER]
        edges = (neighbours >= start) & (neighbours < start + len(here))
        ends, starts = neighbours[edges].long() - start, edges.nonzero()[:, 0]
        order = ends.argsort(stable=True)
        ends, starts = ends[order], starts[order]
        counts = ends.bincount(minlength=len(here))
        place = torch.arange(len(ends), device=ends.device) - (counts.cumsum(0) - counts)[ends]
        fits = place < here.shape[1]
        here[ends[fits], place[fits]] = starts[fits].to(back.dtype)
    return back


def _reachable(neighbours: Int[Tensor, "N M"], least: int) -> Int[Tensor, "N M"]:
    """The graph with at least `least` edges to every node: from nodes that it leads to itself, the nearest first, each of which
    gives up its edge to the node with the most. Nodes with up to twice `least` lose none, so that some may keep fewer.

    >>> _reachable(torch.tensor([[1, 2], [0, 2], [0, 1], [0, 1]]), 1).tolist()
    [[3, 2], [0, 2], [0, 1], [0, 1]]
    """
    lists = neighbours.cpu().numpy().copy()
    inward = np.zeros(len(lists), np.int64)
    for start in range(0, len(lists), ROWS_TOGETHER):
        part = lists[start : start + ROWS_TOGETHER]
        inward += np.bincount(part[part >= 0], minlength=len(lists))
    for node in np.flatnonzero(inward < least):
        for near in lists[node]:
            if near < 0 or inward[node] >= least:
                break
            there = lists[near]
            to_each = np.where(there >= 0, inward[there], len(lists))  # a free place costs nobody an edge
            most = int(to_each.argmax())
            if to_each[most] <= 2 * least or node in there:
                continue
            inward[there[most]] -= there[most] >= 0
            there[most] = node
            inward[node] += 1
    return torch.from_numpy(lists).to(neighbours.device)


def _by_distance(
    unit: Float[Tensor, "N d"], nodes: Int[Tensor, "b"], candidates: Int[Tensor, "b C"]
) -> Int[Tensor, "b C"]:
    """The candidates of each node, the nearest first, without repeats and without the node; −1 past the end."""
    rows = candidates.sort(dim=1).values
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = NO_ITEM
    rows = rows.masked_fill(rows == nodes[:, None], NO_ITEM)
    near = (unit[rows.clamp(min=0)] @ unit[nodes][:, :, None])[..., 0].masked_fill(rows < 0, -torch.inf)
    return rows.gather(1, near.argsort(dim=1, descending=True, stable=True))


def _chosen(
    unit: Float[Tensor, "N d"], nodes: Int[Tensor, "b"], candidates: Int[Tensor, "b C"], degree: int
) -> Int[Tensor, "b M"]:
    """The neighbours of some nodes out of candidates in any order, that may repeat: spread, then the nearest left."""
    rows = _by_distance(unit, nodes, candidates)[:, : 2 * degree]
    return _filled(_spread(unit, unit[nodes], rows, degree), rows)


def _replaced(
    unit: Float[Tensor, "N d"],
    neighbours: Int[Tensor, "N M"],
    changed: Bool[Tensor, "N"],
    more: Int[Tensor, "N C"],
) -> Int[Tensor, "N M"]:
    """The neighbours of the nodes that are `changed` chosen again, out of those that they have and `more`."""
    out, nodes = neighbours.clone(), changed.nonzero()[:, 0]
    for part in _parts(len(nodes)):
        here = nodes[part]
        candidates = torch.cat([neighbours[here], more[here]], 1).long()
        out[here] = _chosen(unit, here, candidates, neighbours.shape[1]).int()
    return out
