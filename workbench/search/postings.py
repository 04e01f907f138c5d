"""Posting lists as compressed sparse rows: which items a code has a score with, best first, on disk and in memory."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench import tensor_files

POSTING_BYTES = 8
"""A row (int32) and a score (float32)."""


@dataclass(frozen=True)
class Postings:
    """For each of U codes the items whose score f lies above a floor.

    `codes` int64 (U,), ascending; the list of codes[u] is the slice offsets[u]:offsets[u + 1] of `rows` int32 (E,), rows of
    the corpus, and of `values` float32 (E,), their f, descending, ties by row.
    """

    codes: Int[Tensor, "U"]
    offsets: Int[Tensor, "U1"]
    rows: Int[Tensor, "E"]
    values: Float[Tensor, "E"]

    def __len__(self) -> int:
        return self.rows.shape[0]

    def nbytes(self) -> int:
        """Bytes of codes, offsets, rows and values."""
        return 8 * (len(self.codes) + len(self.offsets)) + POSTING_BYTES * len(self)

    def lengths(self, floor: float) -> Int[Tensor, "U"]:
        """How many items of each list lie above `floor`: a list is cut by its length, since its best come first."""
        above = torch.nn.functional.pad((self.values > floor).cumsum(0), (1, 0))
        return above[self.offsets[1:]] - above[self.offsets[:-1]]

    def cut(self, floor: float) -> "Postings":
        """The lists without what does not lie above `floor`."""
        lengths = self.lengths(floor)
        if int(lengths.sum()) == len(self):
            return self
        kept = ragged(self.offsets[:-1], lengths)
        return Postings(self.codes, ends(lengths), self.rows[kept], self.values[kept])

    def find(self, codes: Int[Tensor, "*S"]) -> Int[Tensor, "*S"]:
        """The place of each code in `codes`, −1 if it has no list."""
        if not len(self.codes):
            return torch.full_like(codes, -1)
        places = torch.searchsorted(self.codes, codes).clamp(max=len(self.codes) - 1)
        return torch.where(self.codes[places] == codes, places, -1)

    def replaced(
        self, gone: Int[Tensor, "N"], added: Int[Tensor, "M"], f: Float[Tensor, "U M"], floor: float
    ) -> "Postings":
        """Lists in which row r becomes `gone[r]` (−1: is left out), and the rows `added` have the scores `f`."""
        of = torch.repeat_interleave(
            torch.arange(len(self.codes), device=self.rows.device), self.offsets.diff()
        )
        rows = gone[self.rows.long()]
        kept = rows >= 0
        new = (f > floor).nonzero()  # (E', 2)
        of = torch.cat([of[kept], new[:, 0]])
        rows = torch.cat([rows[kept], added[new[:, 1]]])
        values = torch.cat([self.values[kept], f[new[:, 0], new[:, 1]].float()])
        order = rows.argsort(stable=True)
        order = order[values[order].argsort(descending=True, stable=True)]
        order = order[of[order].argsort(stable=True)]
        counts = torch.bincount(of, minlength=len(self.codes))
        return Postings(self.codes, ends(counts), rows[order].int(), values[order])

    def save(self, path: Path, extra: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write the lists, `extra` tensors and `metadata` as safetensors with a digest, whole or not at all.

        Raises OSError that names the file if it cannot be written.
        """
        lists = {"codes": self.codes, "offsets": self.offsets, "rows": self.rows, "values": self.values}
        tensor_files.save({**lists, **extra}, path, metadata)

    @classmethod
    def load(cls, path: Path) -> tuple["Postings", dict[str, Tensor], dict[str, str]]:
        """The lists, memory-mapped; the other tensors; the metadata.

        Raises FileNotFoundError, and ValueError that names the file if it is cut short, damaged, or holds no lists.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no index at {path}")
        tensors, metadata = tensor_files.load(path, "build it again")
        if missing := {"codes", "offsets", "rows", "values"} - tensors.keys():
            raise ValueError(f"{path} holds no index: it lacks {', '.join(sorted(missing))}")
        postings = cls(*(tensors.pop(name) for name in ("codes", "offsets", "rows", "values")))
        if (fault := postings._fault()) is not None:
            raise ValueError(f"{path} is damaged: {fault}; build it again")
        return postings, tensors, metadata

    def _fault(self) -> str | None:
        """What is wrong with these lists; None if nothing is."""
        kinds = (self.codes.dtype, self.offsets.dtype, self.rows.dtype, self.values.dtype)
        if kinds != (torch.int64, torch.int64, torch.int32, torch.float32):
            return f"its codes, offsets, rows and values are {', '.join(map(str, kinds))}"
        fit = (
            self.codes.dim() == self.offsets.dim() == self.rows.dim() == self.values.dim() == 1
            and len(self.offsets) == len(self.codes) + 1
            and int(self.offsets[-1]) == len(self.rows) == len(self.values)
            and int(self.offsets[0]) == 0
            and bool((self.offsets.diff() >= 0).all())
        )
        if not fit:
            return "its offsets and lists do not fit together"
        if bool((self.codes.diff() <= 0).any()):
            return "its codes are not in ascending order"
        if len(self) and int(self.rows.min()) < 0:
            return "it holds a negative row"
        if not bool(self.values.isfinite().all()):
            return "a score is not finite"
        of = torch.repeat_interleave(torch.arange(len(self.codes)), self.offsets.diff())
        if bool(((self.values.diff() > 0) & (of.diff() == 0)).any()):
            return "a list is not in descending order"
        return None


def gathered(
    codes: Int[Tensor, "U"], blocks: Iterable[Float[Tensor, "u N"]], floor: float, byte_limit: int
) -> Postings:
    """Posting lists from the scores of consecutive blocks of `codes` with every item.

    Raises ValueError if the lists outgrow `byte_limit`, or a score is NaN.
    """
    counts, rows, values = [], [], []
    done = held = 0
    for scores in blocks:
        undefined = ~(scores < float("inf"))
        if bool(undefined.any()):
            code, row = undefined.nonzero()[0].tolist()
            raise ValueError(
                f"a score of the index is NaN or infinite, of code {int(codes[done + code])} and row {row} of the items;"
                " look for NaN or infinite values in the similarity's weights"
            )
        descending, order = scores.float().sort(dim=1, descending=True, stable=True)
        kept = descending > floor
        counts.append(kept.sum(1))
        rows.append(order[kept].int())
        values.append(descending[kept])
        done += len(scores)
        held += POSTING_BYTES * len(rows[-1])
        if held > byte_limit:
            raise ValueError(
                f"the lists of {done:,} of {len(codes):,} codes take {held / 2**20:,.0f} MiB, more than the"
                f" {byte_limit / 2**20:,.0f} MiB allowed: index only the codes that occur, choose a lower threshold"
                " (a sparser index), or allow more"
            )
    none = codes.new_zeros(0)
    return Postings(
        codes,
        ends(torch.cat(counts) if counts else none),
        torch.cat(rows) if rows else none.int(),
        torch.cat(values) if values else none.float(),
    )


def ends(lengths: Int[Tensor, "U"]) -> Int[Tensor, "U1"]:
    """Offsets of concatenated lists of these lengths.

    >>> ends(torch.tensor([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0))


def ragged(starts: Int[Tensor, "U"], lengths: Int[Tensor, "U"]) -> Int[Tensor, "E"]:
    """starts[0], starts[0] + 1, … for lengths[0] places, then the same of the next.

    >>> ragged(torch.tensor([5, 9, 0]), torch.tensor([2, 0, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = lengths.cumsum(0) - lengths
    shift = torch.repeat_interleave(starts - before, lengths)
    return shift + torch.arange(len(shift), device=shift.device)
