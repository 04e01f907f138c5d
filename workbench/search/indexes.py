"""Kinds of vector index with their parameters, in words of no engine; and what identifies the vectors one was built of."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

DIGEST_ROWS = 8_192


def _positive(kind: object, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} of {type(kind).__name__} must be at least 1, not {number}")


@dataclass(frozen=True)
class Flat:
    """Every vector is looked at: exact."""

    name: ClassVar[str] = "flat"


@dataclass(frozen=True)
class IVF:
    """An inverted file: vectors in `nlist` cells of a k-means (begun from `seed`), of which the `nprobe` best are looked at.

    Raises ValueError if `nprobe` exceeds `nlist`, or one is below 1.
    """

    name: ClassVar[str] = "ivf"
    nlist: int = 256
    nprobe: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, nlist=self.nlist, nprobe=self.nprobe)
        if self.nprobe > self.nlist:
            raise ValueError(f"nprobe is {self.nprobe}, but there are only nlist = {self.nlist} cells")


@dataclass(frozen=True)
class HNSW:
    """A navigable graph of `m` neighbours per vector, built with lists of `ef_construction`, searched with `ef_search`.

    Raises ValueError if `m` is below 2, or another value below 1.
    """

    name: ClassVar[str] = "hnsw"
    m: int = 32
    ef_construction: int = 80
    ef_search: int = 128

    def __post_init__(self) -> None:
        _positive(self, ef_construction=self.ef_construction, ef_search=self.ef_search)
        if self.m < 2:
            raise ValueError(f"m of HNSW must be at least 2, not {self.m}: the graph would not hold together")


@dataclass(frozen=True)
class IVFPQ:
    """As `IVF`, with vectors kept as `m` codes of `bits` each (product quantisation): scores are approximate too.

    Raises ValueError if `nprobe` exceeds `nlist`, a value is below 1, or `bits` is above 12.
    """

    name: ClassVar[str] = "ivfpq"
    nlist: int = 256
    nprobe: int = 16
    m: int = 16
    bits: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, nlist=self.nlist, nprobe=self.nprobe, m=self.m, bits=self.bits)
        if self.nprobe > self.nlist:
            raise ValueError(f"nprobe is {self.nprobe}, but there are only nlist = {self.nlist} cells")
        if self.bits > 12:
            raise ValueError(
                f"bits of IVFPQ must be at most 12, not {self.bits}: each code needs 2^bits centroids"
            )


IndexKind = Flat | IVF | HNSW | IVFPQ

SEARCHED_WITH = ("nprobe", "ef_search")
"""Parameters of a search, which may differ from one to the next of the same index."""


def built_with(kind: IndexKind) -> dict[str, Any]:
    """The parameters that an index is built with, and its kind.

    >>> built_with(HNSW(m=16))
    {'kind': 'hnsw', 'm': 16, 'ef_construction': 80}
    """
    own = {name: value for name, value in asdict(kind).items() if name not in SEARCHED_WITH}
    return {"kind": kind.name, **own}


def check_size(kind: IndexKind, vectors: int, width: int) -> None:
    """Raise ValueError if an index of this kind cannot be trained on so few vectors, or cannot cut their width."""
    if isinstance(kind, IVF | IVFPQ) and kind.nlist > vectors:
        raise ValueError(f"{kind} needs at least {kind.nlist} vectors, there are {vectors}; lower nlist")
    if isinstance(kind, IVFPQ):
        if 2**kind.bits > vectors:
            raise ValueError(f"{kind} needs at least {2**kind.bits} vectors, there are {vectors}; lower bits")
        if width % kind.m:
            raise ValueError(f"{kind} cuts vectors into m = {kind.m} parts, which does not divide {width}")


def digests(vectors: Float[Tensor, "N d"]) -> Int[Tensor, "N"]:
    """A 64-bit digest of each vector: Σ_j bits(x_j) · w_j mod 2^64 with fixed odd weights w.

    The bits are those of float32. Guards against mistakes, not against intent.
    """
    chance = torch.Generator().manual_seed(0x5EED)
    weights = torch.randint(-(2**62), 2**62, (vectors.shape[1],), generator=chance) * 2 + 1
    weights = weights.to(vectors.device)
    parts = vectors.detach().split(DIGEST_ROWS)
    rows = [(part.float().contiguous().view(torch.int32).long() * weights).sum(1) for part in parts]
    return torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64, device=vectors.device)


def fingerprint(ids: Int[Tensor, "N"], digests: Int[Tensor, "N"], width: int) -> str:
    """What identifies a corpus of vectors: the items, their order, and every bit of every vector as float32."""
    content = hashlib.sha256(f"{len(ids)} vectors of width {width}".encode())
    for tensor in (ids, digests):
        content.update(tensor.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()
