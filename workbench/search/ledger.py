"""What a source of candidates keeps of its vectors beside the engine that holds them: order, identity, limits."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import NO_ITEM
from workbench.search.candidates import Lists, leave_out, product_error
from workbench.search.indexes import digests, fingerprint
from workbench.search.topk import NO_SCORE, CorpusRows

UNKNOWN = float("inf")


class Ledger:
    """The items of a source in the order of the corpus; it never changes, `upserted` and `without` give another.

    `finite` bool (N,) marks the items that an engine can hold. Vectors that are not finite, which engines pass over or
    refuse, are kept here (`apart`, in the order of their rows), and are candidates of every query, so that an undefined
    score is reported. `norm` is at least the largest |x| in the engine.
    """

    def __init__(
        self,
        name: str,
        ids: Int[Tensor, "N"],
        content: Int[Tensor, "N"],
        finite: Bool[Tensor, "N"],
        apart: Float[Tensor, "A d"],
        norm: Float[Tensor, ""],
    ) -> None:
        self.name, self.ids, self.content, self.finite, self.apart, self.norm = (
            name,
            ids,
            content,
            finite,
            apart,
            norm,
        )
        self.rows = CorpusRows(ids)
        self.width = apart.shape[1]

    @classmethod
    def of(cls, name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> "Ledger":
        """The ledger of all vectors of a corpus; ValueError where it is empty or repeats an id."""
        vectors = vectors.detach()
        finite = vectors.float().isfinite().all(1)
        return cls(name, ids, digests(vectors), finite, vectors[~finite], _largest_norm(vectors[finite]))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def held(self) -> int:
        """How many vectors the engine holds."""
        return len(self.ids) - len(self.apart)

    @property
    def fingerprint(self) -> str:
        """What identifies the items, their order and their vectors; kept with the engine's data, compared on opening."""
        return fingerprint(self.ids, self.content, self.width)

    def check_width(self, vectors: Float[Tensor, "M d"]) -> None:
        """Raise ValueError where vectors are not as wide as those of the corpus."""
        if vectors.shape[1] != self.width:
            raise ValueError(f"{self.name} holds vectors of width {self.width}, not {vectors.shape[1]}")

    def upserted(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> "Ledger":
        """The ledger after `CandidateSource.upsert`."""
        self.check_width(vectors)
        vectors = vectors.detach()
        rows = self.rows.of(ids)
        known, finite = rows >= 0, vectors.float().isfinite().all(1)
        after = torch.cat([self.ids, ids[~known]])
        content = self.content.index_copy(0, rows[known], digests(vectors[known]))
        content = torch.cat([content, digests(vectors[~known])])
        fine = torch.cat([self.finite.index_copy(0, rows[known], finite[known]), finite[~known]])
        before = self.ids[~self.finite]
        stay = ~torch.isin(before, ids)
        apart = torch.cat([self.apart[stay], vectors[~finite].to(self.apart.dtype)])
        order = CorpusRows(after).of(torch.cat([before[stay], ids[~finite]])).argsort()
        norm = torch.maximum(self.norm, _largest_norm(vectors[finite]))
        return Ledger(self.name, after, content, fine, apart[order], norm)

    def without(self, ids: Int[Tensor, "M"]) -> "Ledger":
        """The ledger after `CandidateSource.remove`; ValueError where nothing would be left."""
        kept = ~torch.isin(self.ids, ids)
        apart = self.apart[kept[~self.finite]]
        return Ledger(self.name, self.ids[kept], self.content[kept], self.finite[kept], apart, self.norm)

    def lists(
        self,
        found: Lists,
        vectors: Float[Tensor, "Q d"],
        count: int,
        exclude: Int[Tensor, "Q H"],
        allowed: Bool[Tensor, "N"] | None,
        exact: bool,
    ) -> Lists:
        """The lists of `CandidateSource.lists` from those of an engine that was asked for H more and computes in float32.

        `exact`: the engine looked at every vector that it holds. Otherwise nothing is known `beyond`.
        """
        found = self._with_apart(leave_out(found, exclude, count), vectors, exclude, allowed, count)
        short = min(count, len(self)) - found.rows.shape[1]
        if short > 0:
            found = found._replace(
                scores=torch.nn.functional.pad(found.scores, (0, short), value=NO_SCORE),
                rows=torch.nn.functional.pad(found.rows, (0, short), value=NO_ITEM),
            )
        if not exact:
            return found._replace(beyond=torch.full_like(found.beyond, UNKNOWN))
        error = self.rounding(vectors)
        raised = torch.where(found.beyond > NO_SCORE, found.beyond + error, found.beyond)
        # Where products may overflow, or a query is not finite, an engine leaves items out for no good reason.
        return found._replace(beyond=torch.where(error.isfinite() & ~raised.isnan(), raised, UNKNOWN))

    def rounding(self, vectors: Float[Tensor, "Q d"]) -> Float[Tensor, "Q"]:
        """How far inner products of these queries, computed in float32, can be from those of the vectors handed in."""
        norms = vectors.float().norm(dim=1)
        # Two roundings more than those of the products: of query and item, where they came in float64.
        return product_error(norms, self.norm.to(norms.device), self.width + 2, torch.float32)

    def _with_apart(
        self,
        lists: Lists,
        vectors: Float[Tensor, "Q d"],
        exclude: Int[Tensor, "Q H"],
        allowed: Bool[Tensor, "N"] | None,
        count: int,
    ) -> Lists:
        """The first `count` with the items that no engine holds: NaN first, though it be masked, to be reported."""
        if not len(self.apart):
            return lists
        rows = (~self.finite).nonzero().flatten().expand(len(vectors), -1)  # (Q, A)
        out = (rows[:, :, None] == exclude[:, None, :]).any(2)
        if allowed is not None:
            out |= ~allowed[rows]
        products = torch.minimum((vectors @ self.apart.T).float(), torch.where(out, NO_SCORE, -NO_SCORE))
        rows = rows.masked_fill(products == NO_SCORE, NO_ITEM)
        scores, order = torch.cat([lists.scores, products], 1).sort(dim=1, descending=True)
        rows = torch.cat([lists.rows, rows], 1).gather(1, order)
        cut = scores[:, count] if scores.shape[1] > count else torch.full_like(lists.beyond, NO_SCORE)
        return Lists(scores[:, :count], rows[:, :count], torch.maximum(lists.beyond, cut))


def only(found: Lists, allowed: Bool[Tensor, "N"]) -> Lists:
    """The lists without the rows that are not allowed, for an engine that cannot filter; their places stay empty."""
    listed = (found.rows >= 0) & allowed[found.rows]
    scores, order = found.scores.where(listed, NO_SCORE).sort(dim=1, descending=True, stable=True)
    return found._replace(scores=scores, rows=found.rows.where(listed, NO_ITEM).gather(1, order))


def _largest_norm(vectors: Float[Tensor, "M d"]) -> Float[Tensor, ""]:
    norms = vectors.float().norm(dim=1)
    return norms.amax() if len(norms) else norms.new_zeros(())
