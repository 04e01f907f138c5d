"""How many documents free embeddings can tell apart: every pair of documents is the answer of one query.

The task of Weller et al., "On the Theoretical Limitations of Embedding-Based Retrieval" (arXiv 2508.21038), section 4: query
and document vectors are optimised directly, so no encoder stands in the way, and a width counts as large enough if every query
ranks its two documents first. The largest corpus for which that is reached is the critical size. It is what gradient descent
*finds*: `moment_curve` writes down a dot product of width 4 that solves the task for any number of documents.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.contracts import Similarity
from workbench.runtime import generator
from workbench.similarities import DotConfig, MaxSimConfig, MoLConfig, build
from workbench.similarities.dot import DotItems, DotQueries
from workbench.similarities.maxsim import MaxSimItems, MaxSimQueries
from workbench.similarities.mol import MoLItems, MoLQueries

KINDS = ("dot", "maxsim", "mol")
ANSWERS = 2
GATE = 16
"""Hidden units of MoL's gate, which sees the dot products alone and is shared by all queries and documents."""


@dataclass(frozen=True)
class Descent:
    """Adam on all queries at once: `steps` at most, with `rate`; `tries` starts per corpus, drawn from `seed`."""

    steps: int = 1500
    rate: float = 0.05
    tries: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.tries < 1 or not self.rate > 0:
            raise ValueError(f"steps and tries must be 1 or more, rate positive: {self}")


class FreeEmbeddings(nn.Module):
    """`floats` numbers for each of `queries` queries and `documents` documents, scored by `kind`.

    A dot product has one vector of that width, MaxSim and MoL have `groups` vectors of `floats / groups`.
    Raises ValueError for an unknown kind, or if the groups do not divide the floats.
    """

    def __init__(
        self, kind: str, floats: int, queries: int, documents: int, groups: int = 2, seed: int = 0
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"no similarity {kind!r} here; there are {', '.join(KINDS)}")
        parts = 1 if kind == "dot" else groups
        if floats < 1 or floats % parts:
            raise ValueError(f"{floats} floats cannot be {parts} vectors of equal width")
        draw = generator(seed)
        self.kind, shape = kind, (parts, floats // parts)
        self.query_vectors = nn.Parameter(torch.randn(queries, *shape, generator=draw))
        self.document_vectors = nn.Parameter(torch.randn(documents, *shape, generator=draw))
        self.similarity = _similarity(kind, *shape)
        with torch.no_grad():
            for weight in self.similarity.parameters():
                std = (2 / sum(weight.shape)) ** 0.5 if weight.dim() > 1 else 0.0
                weight.copy_(std * torch.randn(weight.shape, generator=draw))

    def trained(self) -> list[nn.Parameter]:
        """The embeddings, and MoL's gate."""
        gate = [weight for name, weight in self.similarity.named_parameters() if "gate" in name]
        return [self.query_vectors, self.document_vectors, *gate]

    def scores(self) -> Float[Tensor, "Q N"]:
        """Every query against every document."""
        q, x = self.query_vectors, self.document_vectors
        ids = torch.arange(1, len(x) + 1)
        if self.kind == "dot":
            return self.similarity.score(DotQueries(q[:, 0]), DotItems(ids, x[:, 0]))
        if self.kind == "maxsim":
            return self.similarity.score(MaxSimQueries(q), MaxSimItems(ids, x))
        return self.similarity.score(MoLQueries(q, None, None), MoLItems(ids, x, None))


def pairs(documents: int) -> Int[Tensor, "Q 2"]:
    """The answers of each query: all pairs of documents.

    >>> pairs(3).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    return torch.tensor(list(combinations(range(documents), ANSWERS)))


def solved(scores: Float[Tensor, "Q N"], answers: Int[Tensor, "Q 2"]) -> bool:
    """Whether every query scores both of its answers above every other document."""
    others = scores.scatter(1, answers, -torch.inf).amax(1)
    return bool((scores.gather(1, answers).amin(1) > others).all())


def fits(kind: str, floats: int, documents: int, descent: Descent, groups: int = 2) -> bool:
    """Whether gradient descent finds embeddings that solve the task."""
    answers = pairs(documents)
    for attempt in range(descent.tries):
        seed = 1000 * descent.seed + attempt
        free = FreeEmbeddings(kind, floats, len(answers), documents, groups, seed)
        optimizer = torch.optim.Adam(free.trained(), lr=descent.rate)
        for _ in range(descent.steps):
            scores = free.scores()
            if solved(scores.detach(), answers):
                return True
            loss = scores.logsumexp(1).mean() - scores.gather(1, answers).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return False


def critical_size(kind: str, floats: int, descent: Descent, largest: int = 64, groups: int = 2) -> int:
    """The number of documents up to which `fits`, at most `largest`: doubled until it fails, then halved in."""
    good, bad = ANSWERS, largest + 1
    size = ANSWERS + 1
    while good + 1 < bad:
        if fits(kind, floats, min(size, bad - 1), descent, groups):
            good = min(size, bad - 1)
            size = 2 * good if bad > largest else (good + bad) // 2
        else:
            bad = min(size, bad - 1)
            size = (good + bad) // 2
    return good


def critical_sizes(
    floats: Iterable[int],
    kinds: Sequence[str] = KINDS,
    descents: Sequence[Descent] = (Descent(),),
    largest: int = 64,
) -> pd.DataFrame:
    """One row per `similarity`, `floats` and `seed`: the critical number of `documents`."""
    rows = [
        (kind, width, descent.seed, critical_size(kind, width, descent, largest))
        for width in floats
        for kind in kinds
        for descent in descents
    ]
    return pd.DataFrame(rows, columns=["similarity", "floats", "seed", "documents"])


def moment_curve(documents: int) -> tuple[Float[Tensor, "Q 4"], Float[Tensor, "N 4"]]:
    """Queries and documents of width 4, float64, whose dot product solves the task for any number of documents.

    Document t lies at (t, t², t³, t⁴), and the query of the pair {a, b} holds the coefficients of −(t − a)² (t − b)²: 0 at its
    answers and negative elsewhere, up to a constant that changes no ranking. Source: the cyclic polytope (Gale, "Neighborly and
    cyclic polytopes", 1963); 2k floats suffice for all sets of k.
    """
    t = torch.linspace(-1, 1, documents, dtype=torch.float64)
    a, b = t[pairs(documents)].unbind(1)
    s, p = a + b, a * b  # (t² − s t + p)² = t⁴ − 2s t³ + (s² + 2p) t² − 2sp t + p²
    queries = torch.stack([2 * s * p, -(s.square() + 2 * p), 2 * s, -torch.ones_like(s)], dim=1)
    return queries, torch.stack([t, t**2, t**3, t**4], dim=1)


def _similarity(kind: str, groups: int, width: int) -> Similarity:
    shape = {"query_groups": groups, "item_groups": groups, "component_dim": width, "temperature": 1.0}
    plain = {"query_projection": "linear", "item_projection": "linear", "normalize": False}
    if kind == "mol":
        gate = {"gate_query": None, "gate_item": None, "gate_pair": GATE, "gate_dropout": 0.0}
        return build(MoLConfig(**shape, **plain, **gate), 1)  # type: ignore[arg-type]
    if kind == "maxsim":
        return build(MaxSimConfig(**shape, **plain), 1)  # type: ignore[arg-type]
    return build(DotConfig(normalize=False, temperature=1.0), 1)
