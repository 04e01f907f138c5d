"""Cells of vectors that lie near each other, by k-means, and what they are good for: the nearest of many vectors."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench import runtime
from workbench.contracts import NO_ITEM
from workbench.kernels.kmeans import lloyd
from workbench.search.partition import largest

LLOYD_STEPS = 8
SAMPLED_PER_CELL = 64
"""Vectors of a cell, about, that its centre is computed from."""

ASSIGNED_TOGETHER = 8_192

SCANNED = 20_000
"""Vectors that are all looked at; among more, the cells around a vector's own."""

CELLS_LOOKED_AT = 12
PRODUCTS = 8 * 2**20
"""Inner products that are held at once while the nearest are found."""


class Cells(NamedTuple):
    """`centres` (C, F), and of each vector the number of its cell, `member` int64 (N,); no cell is empty."""

    centres: Float[Tensor, "C F"]
    member: Int[Tensor, "N"]

    def rows(self) -> list[Int[Tensor, "m"]]:
        """The vectors of each cell, ascending."""
        sizes = self.member.bincount(minlength=len(self.centres))
        return list(self.member.argsort(stable=True).split(sizes.tolist()))


def cells(vectors: Float[Tensor, "N F"], count: int, generator: torch.Generator) -> Cells:
    """Up to `count` cells of k-means: `LLOYD_STEPS` steps, over a sample, from vectors that `generator` draws.

    Cells without a vector are left out.
    """
    count = min(count, len(vectors))
    drawn = torch.randperm(len(vectors), generator=generator).to(vectors.device)
    sample = (
        vectors if len(vectors) <= SAMPLED_PER_CELL * count else vectors[drawn[: SAMPLED_PER_CELL * count]]
    )
    centres = lloyd(sample, vectors[drawn[:count]], LLOYD_STEPS, _nearest_centre)
    taken, member = _nearest_centre(vectors, centres).unique(return_inverse=True)
    return Cells(centres[taken], member)


def _nearest_centre(vectors: Float[Tensor, "N F"], centres: Float[Tensor, "C F"]) -> Int[Tensor, "N"]:
    # Into one tensor: results kept between large temporaries would hold on to the memory of all of them.
    found = torch.empty(len(vectors), dtype=torch.int64, device=vectors.device)
    for start in range(0, len(vectors), ASSIGNED_TOGETHER):
        part = slice(start, start + ASSIGNED_TOGETHER)
        found[part] = torch.cdist(vectors[part], centres).argmin(1)
    return found


def nearest(unit: Float[Tensor, "N d"], base: Int[Tensor, "M"], count: int) -> Int[Tensor, "N C"]:
    """Of each of N unit vectors the `count` others, among the rows `base`, with the largest inner product; −1 past the end.

    int32, the nearest first; `base` ascends. Exact if it has at most `SCANNED` rows. Otherwise only the rows of the
    `CELLS_LOOKED_AT` cells around a vector's own are looked at, of about 1.25·√M: N·√M work instead of N·M, a matrix product
    for each cell.
    """
    among = unit if len(base) == len(unit) else unit[base]  # a copy of all of them would fill the memory
    found = torch.full((len(unit), count), NO_ITEM, dtype=torch.int32, device=unit.device)
    if len(base) <= SCANNED:
        everything = torch.arange(len(unit), device=unit.device)
        _look(unit, everything, among, base, found)
        return found
    near = cells(among, int(1.25 * len(base) ** 0.5), runtime.generator(0))
    askers = Cells(near.centres, _nearest_centre(unit, near.centres)).rows()
    members = near.rows()
    around = torch.cdist(near.centres, near.centres).topk(min(CELLS_LOOKED_AT, len(members)), largest=False)
    for asking, cells_around in zip(askers, around.indices.tolist(), strict=True):
        here = torch.cat([members[cell] for cell in cells_around])
        _look(unit, asking, among[here], base[here], found)
    return found


def _look(
    unit: Float[Tensor, "N d"],
    asking: Int[Tensor, "m"],
    among: Float[Tensor, "M d"],
    rows: Int[Tensor, "M"],
    found: Int[Tensor, "N C"],
) -> None:
    """Put the nearest of `among`, which are `rows`, to the vectors `asking` into `found`."""
    count = min(found.shape[1] + 1, len(rows))
    for part in asking.split(max(1, PRODUCTS // len(rows))):
        best = rows[largest(unit[part] @ among.T, count)[1]]
        others = best.masked_fill(best == part[:, None], NO_ITEM)
        found[part, :count] = first_of(others, found.shape[1]).to(found.dtype)[:, :count]


def first_of(rows: Int[Tensor, "b C"], count: int) -> Int[Tensor, "b M"]:
    """The first `count` of each list that are not −1, −1 past the end.

    >>> first_of(torch.tensor([[-1, 4, -1, 2]]), 3).tolist()
    [[4, 2, -1]]
    """
    order = (rows < 0).to(torch.int8).argsort(dim=1, stable=True)[:, :count]
    found = rows.gather(1, order)
    return torch.nn.functional.pad(found, (0, count - found.shape[1]), value=NO_ITEM)
