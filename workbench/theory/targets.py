"""Score matrices to approximate: of known rank, or read from a CSV file."""

import csv
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.runtime import generator

MOST_SIDE = 256
"""Rows or columns that a matrix from a file may have: every entry is trained on at every step."""
MOST_BYTES = 4 * 2**20
SMALLEST, LARGEST = 1e-6, 1e6
"""Bounds of the largest entry of a matrix from a file: outside, float32 arithmetic is meaningless."""

LATENT_WIDTH = 4
BLOCKS = 8
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, eq=False)
class Target:
    """A score matrix A: a row for each of B queries, a column for each of N items. Equal to itself alone.

    `scores` float64 (B, N). `rank`: its theoretical value, None if it can only be computed. `query_latents` (B, L),
    `item_latents` (N, L): the vectors that the scores were made from, None if there are none.
    """

    name: str
    scores: Float[Tensor, "B N"]
    rank: int | None
    explanation: str
    query_latents: Float[Tensor, "B L"] | None = None
    item_latents: Float[Tensor, "N L"] | None = None

    def __post_init__(self) -> None:
        if min(self.scores.shape) < 2:
            raise ValueError(f"{self.name}: a target needs at least 2 rows and 2 columns, not {_size(self)}")
        if not bool(torch.isfinite(self.scores).all()):
            raise ValueError(f"{self.name}: an entry is NaN or infinite")
        if not bool(self.scores.any()):
            raise ValueError(f"{self.name}: all entries are 0, there is nothing to approximate")
        if (self.query_latents is None) != (self.item_latents is None):
            raise ValueError(f"{self.name}: give the latents of queries and items, or neither")

    @property
    def two_valued(self) -> bool:
        """Whether every entry is +1 or −1: such scores say "relevant" or "not", and their signs can be counted."""
        return bool((self.scores.abs() == 1).all())


def identity(n: int) -> Target:
    """A = I: every query has one item of its own. Rank n."""
    return Target("identity", torch.eye(n, dtype=torch.float64), n, "each query has one item of its own")


def random_signs(n: int, seed: int) -> Target:
    """A_ij = ±1 at random: no structure to learn. Rank n, almost surely."""
    signs = torch.randint(0, 2, (n, n), generator=generator(seed), dtype=torch.float64)
    return Target("random signs", 2 * signs - 1, None, "every entry is a random sign")


def gaussian(n: int, seed: int) -> Target:
    """A_ij drawn from the standard normal distribution: not exact in binary. Rank n."""
    scores = torch.randn(n, n, generator=generator(seed), dtype=torch.float64)
    return Target("gaussian", scores, None, "every entry is a normal random number")


def block(n: int, blocks: int = BLOCKS) -> Target:
    """A_ij = +1 if query i and item j are in the same of `blocks` groups of (nearly) equal size, else −1.

    Rank `blocks`, for two blocks 1; n blocks give 2I − 1. ValueError unless 1 ≤ blocks ≤ n.

    >>> block(4, 2).scores[0].tolist()
    [1.0, 1.0, -1.0, -1.0]
    """
    if not 1 <= blocks <= n:
        raise ValueError(f"{n} queries can be in 1 to {n} blocks, not in {blocks}")
    group = torch.arange(n) * blocks // n
    same = (group[:, None] == group[None, :]).double()
    rank = 1 if blocks <= 2 else blocks
    return Target("block", 2 * same - 1, rank, f"queries like the items of their group, one of {blocks}")


def circulant(n: int, reach: int | None = None) -> Target:
    """A_ij = +1 if item j is at most `reach` (n/8) places from query i on a circle of n places, else −1.

    Every row is the one above it, moved by one place. The eigenvalues of a circulant matrix are the discrete Fourier
    transform of its first row: λ_0 = 2w − n, λ_k = 2 sin(πkw/n) / sin(πk/n) with the window w = 2 reach + 1, and the rank is
    the number of those that are not 0 (kw not a multiple of n). ValueError unless 0 ≤ reach and w < n.
    """
    reach = max(1, n // 8) if reach is None else reach
    window = 2 * reach + 1
    if reach < 0 or window >= n:
        raise ValueError(f"a reach of {reach} does not fit on a circle of {n} places")
    place = torch.arange(n)
    apart = (place[None, :] - place[:, None]).remainder(n)
    near = torch.minimum(apart, n - apart) <= reach
    rank = int(2 * window != n) + sum(k * window % n != 0 for k in range(1, n))
    text = f"queries like the items within {reach} places of theirs, on a circle"
    return Target("circulant", 2 * near.double() - 1, rank, text)


def similar_not_identical(n: int, seed: int, width: int = LATENT_WIDTH) -> Target:
    """A_ij = +1 if 0.2 < ⟨u_i, v_j⟩ < 0.7 for random points u, v of the unit sphere in `width` dimensions, else −1.

    "More of the kind, but not the same again": each query has a few latent tastes, and still no dot product of these tastes
    gives its scores, for it grows as items come nearer. Full rank (by computation). Users and items are numbered by their
    first coordinate, so that a heatmap of the matrix shows its structure.
    """
    points = torch.randn(2, n, width, generator=generator(seed), dtype=torch.float64)
    unit = points / points.norm(dim=-1, keepdim=True)
    users, items = (side[side[:, 0].argsort()] for side in unit)
    cosine = users @ items.T
    scores = torch.where((cosine > 0.2) & (cosine < 0.7), 1.0, -1.0).double()
    text = f"similar, but not identical: 0.2 < cos < 0.7 on the sphere in {width} dimensions"
    return Target("similar, not identical", scores, None, text, users, items)


TARGETS: dict[str, Callable[[int, int], Target]] = {
    "identity": lambda n, seed: identity(n),
    "random signs": random_signs,
    "block": lambda n, seed: block(n, min(BLOCKS, n)),
    "circulant": lambda n, seed: circulant(n),
    "similar, not identical": similar_not_identical,
}
"""Targets by name: a function of the number of queries and items, and a seed."""


def read_matrix(path: Path) -> Target:
    """The matrix in the CSV file `path`; raises as `parse_matrix` does, and FileNotFoundError if there is no file."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no matrix at {path}")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{path.name} has {size:,} bytes; at most {MOST_BYTES:,} are read")
    return parse_matrix(path.read_bytes(), path.name)


def parse_matrix(content: bytes, source: str) -> Target:
    """The matrix in `content`, the bytes of a CSV file: numbers separated by commas, a line for each query, no header.

    `source` names it in messages. Raises ValueError, which names line and column, if a cell is empty, not a number, NaN or
    infinite, or a line has another length than the first; and if the matrix is smaller than 2 × 2, larger than 256 × 256, all
    0, or so large or small that rounding dominates.

    >>> parse_matrix(b"1,0\\n0,1\\n", "mine.csv").scores.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"{source} has {len(content):,} bytes; at most {MOST_BYTES:,} are read")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is no text in UTF-8 (byte {error.start + 1}); save it as CSV") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[list[float]] = []
    try:
        for cells in reader:
            if not cells:
                continue  # a blank line, as at the end of most files
            if len(rows) == MOST_SIDE:
                raise ValueError(f"{source} has more than {MOST_SIDE} rows; take a sample of them")
            if len(cells) > MOST_SIDE:
                raise ValueError(f"{source} has more than {MOST_SIDE} columns; take a sample of them")
            rows.append([_number(cell, source, reader.line_num, i) for i, cell in enumerate(cells, start=1)])
            if len(cells) != len(rows[0]):
                raise ValueError(
                    f"{source}, line {reader.line_num}: {len(cells)} columns, but the first line has {len(rows[0])}"
                )
    except csv.Error as error:
        raise ValueError(f"{source}, line {reader.line_num}: {error}") from error
    if not rows:
        raise ValueError(f"{source} holds no numbers")
    scores = torch.tensor(rows, dtype=torch.float64)
    largest = float(scores.abs().max())
    if largest and not SMALLEST <= largest <= LARGEST:
        raise ValueError(
            f"{source}: the largest entry is {largest:g}; scale it to {SMALLEST:g} … {LARGEST:g}"
        )
    return Target(source, scores, None, f"{scores.shape[0]} × {scores.shape[1]} numbers from a file")


def _number(cell: str, source: str, line: int, column: int) -> float:
    cell = cell.strip()
    place = f"{source}, line {line}, column {column}"
    shown = cell if len(cell) <= 20 else cell[:19] + "…"
    if not cell:
        raise ValueError(f"{place}: the cell is empty; every entry needs a number")
    if not cell.isascii() or not _NUMBER.fullmatch(cell):
        if cell.lstrip("+-").lower() in ("nan", "inf", "infinity"):
            raise ValueError(f"{place}: {shown!r}, but every entry needs a finite number")
        hint = " (a header? leave it out)" if line == 1 else ""
        raise ValueError(f"{place}: {shown!r} is not a number{hint}")
    if not math.isfinite(number := float(cell)):
        raise ValueError(f"{place}: {shown!r} is too large")
    return number


def _size(target: Target) -> str:
    return " × ".join(map(str, target.scores.shape))
