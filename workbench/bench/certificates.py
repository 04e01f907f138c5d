"""A campaign against certificates: searches under every circumstance, each held against brute force in plain float arithmetic.

A problem is a corpus with near ties, at any magnitude that floats have, changed a few times (some changes fail), and queries
that are searched under a caller's autocast, reduced matrix precision, and from several threads. A certified list must be
brute force's: to the bit if a C++ kernel scores the pairs, up to the rounding of inner products if torch does.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench import runtime
from workbench.contracts import ComponentSimilarity, ItemState, QueryState, Searcher, TopK
from workbench.kernels import mixture_native
from workbench.registry import Settings
from workbench.search import (
    Approximate,
    AveragedComponents,
    BruteForce,
    Exact,
    FirstStageFilter,
    Int16BruteForce,
    Sharded,
    faiss_lists,
    split,
)
from workbench.search.candidates import Scan
from workbench.search.graph_search import GraphSearch
from workbench.search.indexes import Flat
from workbench.search.path_beam import PathBeam
from workbench.search.tree import TreeBeam, cluster
from workbench.similarities import DotConfig, MaxSimConfig, MoLConfig, build
from workbench.similarities.deep_retrieval.structure import Beam, PathWalker, Prefixes
from workbench.similarities.mol import MixtureOfLogits
from workbench.similarities.mol_linear import with_linear_gate
from workbench.similarities.rounding import largest_norm

WIDTH = 8
CONFIGS: dict[str, Settings] = {
    "dot": DotConfig(normalize=False, temperature=1.0),
    "maxsim": MaxSimConfig(3, 2, 4, temperature=1.0, query_hidden=8, normalize=False),
    "mol": MoLConfig(3, 2, 4, temperature=1.0, query_hidden=8, gate_pair=8, normalize=False),
    "mol, no pair gate": MoLConfig(2, 2, 4, gate_pair=None, query_hidden=8, gate_combination="sum"),
}
CALLERS = (
    "plain",
    "autocast to bfloat16",
    "autocast to float16",
    "products in bfloat16",
    "two threads",
    "one thread of torch",
)
OUTCOMES = ("certified", "not certified", "refused", "false")
LARGEST_POWER = {torch.float32: 38, torch.bfloat16: 38, torch.float64: 300}
"""Powers of ten that a dtype holds."""

EVERYDAY_POWER = 3
MOL_DOUBLE_ERROR = 1e-9
"""A gate in float64 by torch, whose rounding depends on the order of sums: relative to the largest score."""


class Unreliable(Scan):
    """A scan whose changes fail, after they were made, once `failing`."""

    failing = False

    def upsert(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        """See `CandidateSource.upsert`; OSError if `failing`."""
        super().upsert(ids, vectors)
        self._fail()

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        """See `CandidateSource.remove`; OSError if `failing`."""
        super().remove(ids)
        self._fail()

    def _fail(self) -> None:
        if self.failing and self.name != "component-0":
            raise OSError("this source takes no change")


class FourPaths(PathWalker[Any, ItemState]):
    """Two layers of two nodes; an item's path follows from its id, and every query walks the first ones."""

    @property
    def shape(self) -> tuple[int, int]:
        """(2, 2)."""
        return 2, 2

    def beam(self, queries: Any, width: int, within: Prefixes | None = None) -> Beam:
        """See `PathWalker.beam`."""
        codes = torch.arange(4)
        codes = codes if within is None else codes[within.hold(2, codes)]
        codes = codes[:width].expand(len(queries), -1)
        return Beam(codes, torch.zeros(codes.shape))

    def paths_of(self, items: ItemState) -> Int[Tensor, "N 1"]:
        """See `PathWalker.paths_of`."""
        return items.ids[:, None] % 4


def _tree(similarity: ComponentSimilarity, items: ItemState, beam: int) -> Searcher:
    """A node's state is the mean of its items' states."""
    vectors = similarity.item_components(items).flatten(1)
    tree = cluster(vectors, runtime.generator(0))
    means = {
        name: tree.means(value.flatten(1)).view(-1, *value.shape[1:])
        for name, value in items.tensors().items()
        if value is not None and name != "ids"
    }
    count = len(next(iter(means.values())))
    return TreeBeam(
        similarity, items, tree, replace(items[:0], ids=torch.arange(1, count + 1), **means), beam
    )


REBUILT = ("tree beam", "tree beam, whole")
"""Searchers that take no change: they are built from the corpus as it is in the end."""


def _searchers(similarity: ComponentSimilarity) -> dict[str, Callable[[ItemState], Searcher]]:
    """Small lists, so that a proof is there for some queries and not for others."""
    exact = partial(Exact, similarity, max_scored_fraction=1.0, initial_per_k=1)
    walk = partial(GraphSearch, similarity, ef=4, degree=3, nearest=6, entries=2)
    certain = partial(Approximate.of, similarity, lookahead=2, until_certified=True)

    def h_indexer(x: ItemState) -> Searcher:
        stage = AveragedComponents(similarity, x, 4)
        return Approximate(similarity, x, [FirstStageFilter(x, stage, 6, runtime.generator(0), sampled=11)])

    return {
        "brute force, small tiles": lambda x: BruteForce(similarity, x, memory_budget=4096),
        "brute force, int16": lambda x: Int16BruteForce(similarity, x, least_operations=0),
        "exact": exact,
        "exact, bfloat16 bounds": partial(exact, precision="bfloat16"),
        "exact, int8 bounds": partial(exact, precision="int8"),
        "exact, adaptive": lambda x: Exact(similarity, x, max_scored_fraction=0.5),
        "per component": lambda x: Approximate.of(similarity, x, n1=3),
        "per component, lookahead": lambda x: Approximate.of(similarity, x, n1=3, lookahead=4),
        "per component, until certified": lambda x: certain(x, n1=1),
        "per component, FAISS": lambda x: Approximate.of(similarity, x, n1=6, source=faiss_lists(Flat())),
        "per component, failing changes": lambda x: certain(x, n1=2, source=Unreliable),
        "average": lambda x: Approximate.of(similarity, x, n2=8),
        "combined": lambda x: Approximate.of(similarity, x, n1=2, n2=6, lookahead=5),
        "cascade": lambda x: Approximate.of(
            similarity, x, n1=3, n2=12, cheaper=with_linear_gate(similarity, x), keep=5
        ),
        "cascade, until certified": lambda x: certain(
            x, n1=2, n2=6, cheaper=with_linear_gate(similarity, x), keep=2
        ),
        "h-indexer": h_indexer,
        "graph": walk,
        "graph, certified": partial(walk, certified=True),
        "graph, every item met": lambda x: GraphSearch(similarity, x, ef=90, degree=8),
        "tree beam": partial(_tree, similarity, beam=8),
        "tree beam, whole": partial(_tree, similarity, beam=256),
        "path beam": lambda x: PathBeam(similarity, x, FourPaths(), beam=2),
        "path beam, whole": lambda x: PathBeam(similarity, x, FourPaths(), beam=4),
        "sharded": lambda x: Sharded(lambda part: exact(part), split(x, 3)),
        "sharded lists": lambda x: Sharded(lambda part: certain(part, n1=2), split(x, 2)),
    }


class Problem(NamedTuple):
    """What is searched, how, and what brute force finds (None: a score is not finite)."""

    similarity: ComponentSimilarity
    queries: QueryState
    before: ItemState
    changes: list[ItemState | Tensor]
    after: ItemState
    k: int
    exclude: Int[Tensor, "B H"] | None
    allowed: Bool[Tensor, "N"] | None
    caller: str
    expected: TopK | None
    tolerance: Float[Tensor, "B"]


@cache
def _similarity(name: str) -> ComponentSimilarity:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        similarity = build(CONFIGS[name], WIDTH).eval()
    assert isinstance(similarity, ComponentSimilarity)
    return similarity


State = TypeVar("State", QueryState, ItemState)


def _scaled(state: State, factor: Float[Tensor, "R"], dtype: torch.dtype) -> State:
    """The state with its component vectors times a factor for each row, in `dtype`."""
    values = {f.name: getattr(state, f.name) for f in fields(state)}
    scaled = {
        name: (value.double() * factor.view(-1, *[1] * (value.dim() - 1))).to(dtype)
        for name, value in values.items()
        if name in ("vectors", "components")
    }
    return replace(state.to(dtype=dtype), **scaled)


def problem(seed: int) -> Problem:
    """The problem of a seed: the same for the same seed."""
    chance, g = random.Random(seed), runtime.generator(seed)
    name = chance.choice(list(CONFIGS))
    similarity = _similarity(name)
    dtype = chance.choice([torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float64])
    n, b, fresh = chance.randint(1, 90), chance.randint(1, 4), chance.randint(0, 5)
    spread = chance.choice([0.0, 1e-7, 1e-3, 1.0])
    centres = torch.randn(-(-(n + fresh) // 3), WIDTH, generator=g).repeat_interleave(3, 0)[: n + fresh]
    embeddings = centres + spread * torch.randn(n + fresh, WIDTH, generator=g)
    ids = torch.randperm(2 * (n + fresh), generator=g)[: n + fresh] + 1
    doubles = isinstance(similarity, MixtureOfLogits) and dtype == torch.float64
    most = 0 if doubles else chance.choice([EVERYDAY_POWER, LARGEST_POWER[dtype]])
    of_query = chance.uniform(-most, most)
    of_item = chance.choice([-of_query, chance.uniform(-most, most)])
    unequal = chance.choice([0.0, 0.0, 2.0]) if most else 0.0
    with torch.no_grad():
        q = similarity.queries(torch.randn(b, WIDTH, generator=g), torch.arange(b))
        x = similarity.items(embeddings, ids)
    factors = 10 ** (of_item + unequal * (torch.rand(n + fresh, generator=g, dtype=torch.float64) - 0.5))
    x = _scaled(x, factors, dtype)
    q = _scaled(q, torch.full((b,), 10**of_query, dtype=torch.float64), dtype)
    before, changes = x[:n], _changes(chance, x, n)
    after = before
    for change in changes:
        after = after.without(change) if isinstance(change, Tensor) else after.upsert(change)
    masked = chance.random() < 0.4
    exclude = torch.randint(0, 2 * n + 1, (b, 4), generator=g) if masked else None
    allowed = torch.rand(len(after), generator=g) < 0.8 if masked else None
    k = min(chance.randint(1, 7), len(after))
    try:
        expected = BruteForce(similarity, after).search(q, k, exclude, allowed)
    except ValueError:
        expected = None
    tolerance = _tolerance(similarity, q, after, expected)
    return Problem(
        *(
            similarity,
            q,
            before,
            changes,
            after,
            k,
            exclude,
            allowed,
            chance.choice(CALLERS),
            expected,
            tolerance,
        )
    )


def _changes(chance: random.Random, x: ItemState, n: int) -> list[ItemState | Tensor]:
    """Up to three changes of a corpus of the first `n` items: other values, new items, removals, nothing."""
    changes: list[ItemState | Tensor] = []
    for _ in range(chance.choice([0, 0, 1, 3])):
        kind = chance.choice(["other values", "new items", "removal", "nothing"])
        if kind == "removal" and n > 4:
            gone = [i for i, item in enumerate(changes) if isinstance(item, Tensor)]
            if not gone:
                changes.append(x.ids[[0, n // 2, n - 1]])
        elif kind == "new items":
            changes.append(x[n:])
        elif kind == "other values":
            rows = torch.arange(1, max(2, n // 2 - 1))[:n]
            kept = rows[(rows != 0) & (rows != n // 2) & (rows < n - 1)]
            if len(kept):
                changes.append(replace(x[kept.flip(0)], ids=x.ids[kept]))
        else:
            changes.append(x[:0])
    return changes


def _tolerance(
    similarity: ComponentSimilarity, queries: QueryState, items: ItemState, expected: TopK | None
) -> Float[Tensor, "B"]:
    """How far the score of a pair may be from what brute force computes for it."""
    f, g = similarity.query_components(queries), similarity.item_components(items)
    if isinstance(similarity, MixtureOfLogits):
        if mixture_native.supports(f, g):
            return torch.zeros(len(f), dtype=torch.float64)
        peak = f.double().norm(dim=2).amax(1) * largest_norm(g)
        return MOL_DOUBLE_ERROR * peak
    return 2 * similarity.score_error(queries, largest_norm(g), torch.promote_types(f.dtype, g.dtype))


@contextmanager
def _called_from(caller: str) -> Iterator[None]:
    """What the caller of a search has set."""
    if caller == "products in bfloat16":
        torch.set_float32_matmul_precision("medium")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision("highest")
        return
    if caller == "one thread of torch":
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
        return
    dtype = torch.float16 if caller == "autocast to float16" else torch.bfloat16
    with torch.autocast("cpu", dtype) if caller.startswith("autocast") else nullcontext():
        yield


def attempt(given: Problem, name: str) -> str:
    """One searcher on one problem: "certified", "not certified", "refused" (ValueError), or "false"."""
    with _called_from(given.caller):
        build = _searchers(given.similarity)[name]

        def search() -> TopK:
            return searcher.search(given.queries, given.k, given.exclude, given.allowed)

        try:
            searcher = build(given.after if name in REBUILT else given.before)
            for change in () if name in REBUILT else given.changes:
                _change(searcher, change)
            if given.caller == "two threads":
                with ThreadPoolExecutor(2) as pool:
                    found = [future.result() for future in [pool.submit(search) for _ in range(2)]][-1]
            else:
                found = search()
        except ValueError:
            return "refused"
    if not bool(found.exact.any()):
        return "not certified"
    return "certified" if _holds(given, found) else "false"


def _change(searcher: Searcher, change: ItemState | Tensor) -> None:
    """Make the change; of a searcher whose changes may fail, at the second attempt."""

    def make() -> None:
        if isinstance(change, Tensor):
            searcher.remove(change)
        else:
            searcher.upsert(change)

    if isinstance(searcher, Approximate):
        Unreliable.failing = True
        try:
            make()
            return
        except OSError:
            pass
        finally:
            Unreliable.failing = False
    make()


def _holds(given: Problem, found: TopK) -> bool:
    """Whether every certified list is that of brute force."""
    if given.expected is None:
        return False  # nothing is certain if scores are not finite
    sure = found.exact
    mine, theirs = found.scores[sure].double(), given.expected.scores[sure].double()
    same = (mine == theirs) | ((mine - theirs).abs() <= given.tolerance[sure, None])
    ids = found.ids[sure]
    empty = torch.equal(ids == -1, given.expected.ids[sure] == -1)
    to_the_bit = bool((given.tolerance[sure] > 0).all()) or torch.equal(ids, given.expected.ids[sure])
    return bool(same.all()) and empty and to_the_bit


class Attempt(NamedTuple):
    """What came of a `searcher` on the problem of a `seed`."""

    searcher: str
    outcome: str
    seed: int


def campaign(searches: int, seed: int) -> Iterator[Attempt]:
    """At least `searches` attempts, on the problems from `seed` on; FAISS is left out if it is not installed."""
    names = list(_searchers(_similarity("dot")))
    if runtime.optional("faiss") is None:
        names.remove("per component, FAISS")
    for first in range(0, searches, len(names)):
        given = problem(seed + first // len(names))
        for name in names:
            yield Attempt(name, attempt(given, name), seed + first // len(names))


def tally(attempts: Iterable[Attempt]) -> pd.DataFrame:
    """One row per searcher: how many searches were `tried`, and how many came to each of `OUTCOMES`."""
    counts = Counter((one.searcher, one.outcome) for one in attempts)
    names = dict.fromkeys(name for name, _ in counts)
    rows = [{"searcher": name, **{outcome: counts[name, outcome] for outcome in OUTCOMES}} for name in names]
    table = pd.DataFrame(rows, columns=["searcher", *OUTCOMES])
    table.insert(1, "tried", table[list(OUTCOMES)].sum(axis=1))
    return table
