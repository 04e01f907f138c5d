"""What a source of candidates keeps about its vectors, in addition to the engine that holds them: order, identity, limits."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import NO_ITEM, Upsert
from workbench.search.candidates import Lists, leave_out
from workbench.search.indexes import digests, fingerprint
from workbench.search.topk import NO_SCORE, CorpusRows
from workbench.similarities.rounding import UNKNOWN, largest_norm, norms, product_error


@dataclass(frozen=True)
class CorpusManifest:
    """The items of a source in the order of the corpus; it never changes, `upserted` and `without` give another.

    `content` int64 (N,) identifies a vector. `finite` bool (N,) marks those that the engine holds: others it would pass over
    or refuse. `norm` is at least the largest |x| in the engine. Raises ValueError for an empty corpus, and for ids that
    repeat.
    """

    name: str
    width: int
    ids: Int[Tensor, "N"]
    content: Int[Tensor, "N"]
    finite: Bool[Tensor, "N"]
    norm: Float[Tensor, ""]
    rows: CorpusRows = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", CorpusRows(self.ids))

    @classmethod
    def of(cls, name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> "CorpusManifest":
        """The manifest of all vectors of a corpus."""
        finite = vectors.float().isfinite().all(1)
        norm = largest_norm(vectors if bool(finite.all()) else vectors[finite])
        return cls(name, vectors.shape[1], ids, digests(vectors), finite, norm)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def held(self) -> int:
        """How many vectors the engine holds."""
        return int(self.finite.sum())

    @property
    def fingerprint(self) -> str:
        """What identifies the items, their order and their vectors; kept with the engine's data, compared on opening."""
        return fingerprint(self.ids, self.content, self.width)

    def check_width(self, vectors: Float[Tensor, "M d"]) -> None:
        """Raise ValueError if vectors are not as wide as those of the corpus."""
        if vectors.shape[1] != self.width:
            raise ValueError(f"{self.name} holds vectors of width {self.width}, not {vectors.shape[1]}")

    def upserted(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> "CorpusManifest":
        """The manifest after `CandidateSource.upsert`."""
        self.check_width(vectors)
        put = Upsert(self.rows.of(ids))
        finite, content = vectors.float().isfinite().all(1), digests(vectors)
        return CorpusManifest(
            self.name,
            self.width,
            put(self.ids, ids),
            put(self.content, content),
            put(self.finite, finite),
            torch.maximum(self.norm, largest_norm(vectors[finite])),
        )

    def without(self, ids: Int[Tensor, "M"]) -> "CorpusManifest":
        """The manifest after `CandidateSource.remove`."""
        kept = ~torch.isin(self.ids, ids)
        return CorpusManifest(
            self.name, self.width, self.ids[kept], self.content[kept], self.finite[kept], self.norm
        )

    def rounding(self, vectors: Float[Tensor, "Q d"]) -> Float[Tensor, "Q"]:
        """How far inner products of these queries, computed in float32, can be from those of the vectors handed in."""
        lengths = norms(vectors)
        # Two roundings more than those of the products: of query and item, if they came in float64.
        error = product_error(lengths, self.norm.to(lengths.device), self.width + 2, torch.float32)
        # A float64 query may overflow on its way into the engine.
        error = error.where(vectors.float().isfinite().all(1), UNKNOWN)
        return error.nan_to_num(nan=UNKNOWN, posinf=UNKNOWN)

    def lists(
        self,
        found: Lists,
        vectors: Float[Tensor, "Q d"],
        count: int,
        exclude: Int[Tensor, "Q H"],
        looked_at_all: bool,
    ) -> Lists:
        """The result of `CandidateSource.lists`, from an engine that computes in float32 and returned H more.

        `outside_bound` is +inf if the engine did not look at every vector, and if a product may overflow or a vector is not
        finite: engines then leave items out that may have the largest.
        """
        error = self.rounding(vectors)
        sound = (
            error.isfinite() if looked_at_all and bool(self.finite.all()) else torch.zeros_like(error).bool()
        )
        outside_bound = torch.where(
            found.outside_bound > NO_SCORE, found.outside_bound + error, found.outside_bound
        )
        found = leave_out(found._replace(outside_bound=outside_bound, error=error), exclude, count)
        scores, rows = found.scores, found.rows
        if (short := min(count, len(self)) - rows.shape[1]) > 0:
            scores = torch.nn.functional.pad(scores, (0, short), value=NO_SCORE)
            rows = torch.nn.functional.pad(rows, (0, short), value=NO_ITEM)
        return Lists(scores, rows, torch.where(sound, found.outside_bound, UNKNOWN), error)


def only(found: Lists, allowed: Bool[Tensor, "N"]) -> Lists:
    """The lists without the rows that are not allowed, for an engine that cannot filter; their places stay empty."""
    listed = (found.rows >= 0) & allowed[found.rows]
    scores, order = found.scores.where(listed, NO_SCORE).sort(dim=1, descending=True, stable=True)
    return found._replace(scores=scores, rows=found.rows.where(listed, NO_ITEM).gather(1, order))
