"""Who is measured: each searcher over a grid of its parameters. A new searcher joins by a line in `contenders`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Int
from torch import Tensor

from workbench.bench.baseline import Baseline
from workbench.bench.workloads import Workload
from workbench.contracts import QueryState, TopK
from workbench.search import BruteForce

Search = Callable[[QueryState, int, "Int[Tensor, 'B H'] | None"], TopK]
Scan = Literal["pairs", "components", "average", "unknown"]
"""What the first stage computes for every item: the whole φ, its P inner products, one inner product, or who knows."""

BASELINE, REFERENCE = "baseline", "brute force"


@dataclass(frozen=True)
class Built:
    """A searcher ready to be asked; `fraction` of the corpus is what it searches."""

    search: Search
    fraction: float = 1.0


@dataclass(frozen=True)
class Contender:
    """A searcher with its parameters. `build` takes the workload and the batch size that it will be asked with.

    `per_batch_size`: it is built anew for each batch size. `typical`: one of the few that stand for their method where the
    whole grid would take too long.
    """

    method: str
    build: Callable[[Workload, int], Built]
    parameters: Mapping[str, int | float | str] = field(default_factory=dict)
    scan: Scan = "pairs"
    per_batch_size: bool = False
    typical: bool = True

    @property
    def setting(self) -> str:
        """The parameters as text, "" without any."""
        return ", ".join(f"{name}={value}" for name, value in self.parameters.items())

    @property
    def label(self) -> str:
        """Method and setting: a name of its own in every table."""
        return f"{self.method} ({self.setting})" if self.setting else self.method


def contenders(items: int) -> list[Contender]:
    """Every searcher over its grid, for a corpus of so many items; settings that exceed it are left out."""
    return [
        Contender(BASELINE, _baseline, per_batch_size=True),
        Contender(REFERENCE, _brute_force),
    ]


def chosen(items: int, methods: tuple[str, ...], typical: bool = False) -> list[Contender]:
    """The contenders of some methods, all of them where none is named; brute force, the reference, is always among them.

    `typical` leaves out settings that are not.

    Raises ValueError where a method is not known.
    """
    every = contenders(items)
    known = list(dict.fromkeys(c.method for c in every))
    if wrong := [m for m in methods if m not in known]:
        raise ValueError(f"no method {wrong[0]!r}; there are {', '.join(known)}")
    wanted = [c for c in every if not methods or c.method in (*methods, REFERENCE)]
    return [c for c in wanted if c.typical or not typical]


def _baseline(workload: Workload, batch_size: int) -> Built:
    baseline = Baseline(workload, batch_size)
    return Built(baseline.search, baseline.fraction)


def _brute_force(workload: Workload, batch_size: int) -> Built:
    return Built(BruteForce(workload.similarity, workload.items).search)
