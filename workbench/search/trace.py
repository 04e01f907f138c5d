"""What a searcher does for one query, step by step: searchers report it as they go, and it is kept while `recording`.

A step is reported where it happens, with the tensors at hand; that changes nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.search.topk import NO_SCORE


class Step(NamedTuple):
    """One step of one query.

    `what` it was, in words; `rows` int64 (M,) of the corpus that it touched. `scores` (M,): their full similarity, if this
    step computed it. `bound`: what no item outside the candidates so far scores above; None if the step gives none.
    `others`: pairs that were scored and are no items (inner nodes of a tree).
    """

    what: str
    rows: Int[Tensor, "M"]
    scores: Float[Tensor, "M"] | None = None
    bound: float | None = None
    others: int = 0


_steps: ContextVar[list[Step] | None] = ContextVar("steps", default=None)


@contextmanager
def recording() -> Iterator[list[Step]]:
    """The steps of the search for a single query that is run inside, filled as it goes."""
    steps: list[Step] = []
    before = _steps.set(steps)
    try:
        yield steps
    finally:
        _steps.reset(before)


def listening() -> bool:
    """Whether steps are recorded: for a searcher that would have to compute what it reports."""
    return _steps.get() is not None


def listed(what: str, rows: Int[Tensor, "B C"] | Int[Tensor, "B P C"], others: int | Tensor = 0) -> None:
    """Items were listed, none of them scored in full; −1 is none.

    With two dimensions after that of the query, there are several lists, numbered: a step each.
    """
    steps = _steps.get()
    if steps is None:
        return
    _check_single(rows)
    lists = rows if rows.dim() == 2 else rows[0]
    for number, row in enumerate(lists, 1):
        name = what if rows.dim() == 2 else f"{what} {number}"
        steps.append(Step(name, row[row >= 0].long().cpu(), others=int(others)))


def scored(what: str, rows: Int[Tensor, "B C"] | range, scores: Float[Tensor, "B C"]) -> None:
    """Items were scored in full: those whose row is not −1 and whose score is not −inf."""
    steps = _steps.get()
    if steps is None:
        return
    _check_single(scores)
    rows = torch.arange(rows.start, rows.stop) if isinstance(rows, range) else rows.reshape(-1).cpu()
    here = scores.reshape(-1).cpu()
    real = (rows >= 0) & (here > NO_SCORE)
    steps.append(Step(what, rows[real].clone(), here[real].clone()))


def bounded(what: str, bound: Float[Tensor, "B"]) -> None:
    """No item that was not listed scores above `bound`; +inf if nothing is known, −inf if there is no such item."""
    steps = _steps.get()
    if steps is not None:
        _check_single(bound)
        known = float(bound[0]) < -NO_SCORE
        what = what if known else "nothing bounds the rest"
        steps.append(Step(what, torch.empty(0, dtype=torch.int64), bound=float(bound[0])))


def _check_single(values: Tensor) -> None:
    if len(values) != 1:
        raise ValueError(f"steps are recorded of one query at a time, not of {len(values)}")
