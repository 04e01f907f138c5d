"""Paths that need no training: every query may take every path, and an item's paths follow from its id."""

import torch
from torch import Tensor

from workbench.contracts import ItemState, QueryState
from workbench.similarities.deep_retrieval.structure import Beam, PathWalker, Prefixes

DEPTH, WIDTH, PATHS = 2, 3, 9


class Everywhere(PathWalker):
    """All nine paths of two layers of three nodes, equally probable, cut to the width of the beam in order of their codes."""

    @property
    def shape(self) -> tuple[int, int]:
        return DEPTH, WIDTH

    def beam(self, queries: QueryState, width: int, within: Prefixes | None = None) -> Beam:
        codes = torch.arange(PATHS, device=_device(queries))
        if within is not None:
            codes = codes[within.hold(DEPTH, codes)]
        codes = codes[:width].expand(len(queries), -1)
        return Beam(codes, torch.full(codes.shape, -2.0))

    def paths_of(self, items: ItemState) -> Tensor:
        return torch.stack([items.ids % PATHS, (items.ids + 1 + items.ids // PATHS % 7) % PATHS], dim=1)


def _device(queries: QueryState) -> torch.device:
    return queries.vectors.device  # type: ignore[attr-defined]
