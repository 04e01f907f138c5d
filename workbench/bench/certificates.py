"""A campaign against certificates: searches under every circumstance, each held against brute force in plain float arithmetic.

A problem is a corpus with near ties, at any magnitude that floats have, gates included, changed a few times (some changes
fail), and queries that are searched under a caller's autocast, reduced matrix precision, and from several threads. A certified
list must be brute force's: to the bit if a C++ kernel scores the pairs, up to the rounding of inner products if torch does. Any
other list must hold true scores, and none that was scored may be missing while there is room. A search may be refused only if
a score is not finite.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench import runtime
from workbench.contracts import (
    NO_ITEM,
    ComponentSimilarity,
    ItemState,
    QueryState,
    Searcher,
    Similarity,
    TopK,
)
from workbench.kernels import mixture_native
from workbench.registry import Settings
from workbench.search import (
    Approximate,
    AveragedComponents,
    BruteForce,
    Exact,
    FirstStageFilter,
    FittedScores,
    Int16BruteForce,
    Sharded,
    VectorList,
    faiss_lists,
    split,
)
from workbench.search.candidates import CandidateSource, Scan
from workbench.search.certificates import stated_precision
from workbench.search.engines.lancedb import lance_lists
from workbench.search.engines.milvus import milvus_lists
from workbench.search.engines.tantivy import TantivySearch
from workbench.search.engines.usearch import usearch_lists
from workbench.search.graph_search import GraphSearch
from workbench.search.indexes import HNSW, IVF, Flat
from workbench.search.inverted_index import InvertedIndex
from workbench.search.path_beam import PathBeam
from workbench.search.topk import NO_SCORE, CorpusRows, all_finite
from workbench.search.tree import TreeBeam, cluster
from workbench.similarities import DotConfig, MaxSimConfig, MoLConfig, SparCodeConfig, build
from workbench.similarities.deep_retrieval.structure import Beam, PathWalker, Prefixes
from workbench.similarities.mol import MixtureOfLogits
from workbench.similarities.mol_linear import with_linear_gate
from workbench.similarities.rounding import largest_norm, products_fit
from workbench.similarities.sparcode.quantizer import QuantizerConfig
from workbench.similarities.sparcode.similarity import SparCode

WIDTH = 8
CONFIGS: dict[str, Settings] = {
    "dot": DotConfig(normalize=False, temperature=1.0),
    "dot, users": DotConfig(normalize=False, temperature=1.0, user_rows=3, user_dim=4),
    "maxsim": MaxSimConfig(3, 2, 4, temperature=1.0, query_hidden=8, normalize=False),
    "mol": MoLConfig(3, 2, 4, temperature=1.0, query_hidden=8, gate_pair=8, normalize=False),
    "mol, no pair gate": MoLConfig(2, 2, 4, gate_pair=None, query_hidden=8, gate_combination="sum"),
    "sparcode": SparCodeConfig(2, 2, 4, hidden=(8,), threshold=0.5, quantizer=QuantizerConfig(1, 6)),
    "sparcode, sparse": SparCodeConfig(3, 2, 4, hidden=(8,), threshold=-1.5, quantizer=QuantizerConfig(2, 4)),
}
CALLERS = (
    "plain",
    "autocast to bfloat16",
    "autocast to float16",
    "products in bfloat16",
    "two threads",
    "one thread of torch",
)
OUTCOMES = ("certified", "not certified", "refused", "failed", "wrong", "false")
"""What may come of a search. Defects: it `failed` though the answer is defined, an uncertified list is `wrong`, a certificate
is `false`."""
DEFECTS = ("failed", "wrong", "false")
LARGEST_POWER = {torch.float32: 38, torch.bfloat16: 38, torch.float64: 300}
"""Powers of ten that a dtype holds."""

EVERYDAY_POWER = 3
MOL_DOUBLE_ERROR = 1e-9
"""A gate in float64 by torch, whose rounding depends on the order of sums: relative to the largest score."""
SPARCODE_ERROR = 1e-5
"""Of a score of SparCode, computed in other batches: relative to the largest of a code and an item."""


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


REBUILT = ("tree beam", "tree beam, whole", "per component, FAISS HNSW", "tantivy")
"""Searchers that take no change: they are built from the corpus as it is in the end."""
INDEXES = ("inverted index", "inverted index, half of the codes")
"""They find no item with a score of 0."""
OTHER_COUNTS = ("tree beam", "tree beam, whole", "path beam", "path beam, whole")
"""What they scored are nodes too, or items that may not be found."""
ENGINES = {
    "per component, FAISS": "faiss",
    "per component, FAISS IVF": "faiss",
    "per component, FAISS HNSW": "faiss",
    "per component, usearch": "usearch.index",
    "per component, LanceDB": "lancedb",
    "per component, Milvus": "milvus_lite",
    "tantivy": "tantivy",
}
"""The packages of engines: without its package, an engine is left out."""
EVERY = {"per component, LanceDB": 100, "per component, Milvus": 100, "tantivy": 10}
"""Engines that take long to build are tried on one problem in this many."""


def _few_cells(name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> CandidateSource:
    """IVF of up to three cells; flat if there is nothing to find cells by, since products overflow in float32."""
    held = vectors[vectors.float().isfinite().all(1)]
    norm = float(largest_norm(held))
    cells = (
        IVF(min(3, len(held)), nprobe=1) if len(held) and products_fit(norm, norm, torch.float32) else Flat()
    )
    return faiss_lists(cells)(name, ids, vectors)


def _searchers(similarity: Similarity) -> dict[str, Callable[[Any], Searcher]]:
    """Small lists, so that a proof is there for some queries and not for others; with every engine, installed or not."""
    if isinstance(similarity, SparCode):
        return _searchers_of_codes(similarity)
    assert isinstance(similarity, ComponentSimilarity)
    exact = partial(Exact, similarity, max_scored_fraction=1.0, initial_per_k=1)
    walk = partial(GraphSearch, similarity, ef=4, degree=3, nearest=6, entries=2)
    certain = partial(Approximate.of, similarity, lookahead=2, until_certified=True)
    lists = partial(Approximate.of, similarity, n1=6)

    def h_indexer(x: ItemState) -> Searcher:
        stage = AveragedComponents(similarity, x, 4)
        return Approximate(similarity, x, [FirstStageFilter(x, stage, 6, runtime.generator(0), sampled=11)])

    def fitted(x: ItemState) -> Searcher:
        with torch.no_grad():
            sample = similarity.queries(
                torch.randn(5, WIDTH, generator=runtime.generator(1)), torch.arange(5)
            )
        floats = [v.dtype for v in x.tensors().values() if v is not None and v.is_floating_point()]
        stage = FittedScores(similarity, x, sample.to(dtype=floats[0]), 3)
        return Approximate(similarity, x, [VectorList(stage, x, 6, name="surrogate")])

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
        "per component, FAISS": partial(lists, source=faiss_lists(Flat())),
        "per component, FAISS IVF": partial(lists, source=_few_cells),
        "per component, FAISS HNSW": partial(lists, source=faiss_lists(HNSW(2, 4, 4))),
        "per component, usearch": partial(lists, source=usearch_lists(HNSW(2, 4, 4))),
        "per component, LanceDB": partial(lists, source=lance_lists()),
        "per component, Milvus": partial(lists, source=milvus_lists()),
        "per component, failing changes": lambda x: certain(x, n1=2, source=Unreliable),
        "average": lambda x: Approximate.of(similarity, x, n2=8),
        "combined": lambda x: Approximate.of(similarity, x, n1=2, n2=6, lookahead=5),
        "cascade": lambda x: Approximate.of(
            similarity, x, n1=3, n2=12, cheaper=with_linear_gate(similarity, x), keep=5
        ),
        "cascade, until certified": lambda x: certain(
            x, n1=2, n2=6, cheaper=with_linear_gate(similarity, x), keep=2
        ),
        "fitted vectors": fitted,
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


def _searchers_of_codes(similarity: SparCode) -> dict[str, Callable[[Any], Searcher]]:
    assert similarity.quantizer is not None
    half = torch.arange(0, similarity.quantizer.config.codes, 2)
    return {
        "brute force, small tiles": lambda x: BruteForce(similarity, x, memory_budget=4096),
        "inverted index": lambda x: InvertedIndex.build(similarity, x),
        "inverted index, half of the codes": lambda x: InvertedIndex.build(similarity, x, half),
        "tantivy": lambda x: TantivySearch(similarity, x, n2=8, sparsity=0.5),
    }


def searchers(similarity: Similarity, seed: int) -> list[str]:
    """The names of those that are tried on the problem of this seed."""
    return [
        name
        for name in _searchers(similarity)
        if seed % EVERY.get(name, 1) == 0
        and (name not in ENGINES or runtime.optional(ENGINES[name]) is not None)
    ]


class Problem(NamedTuple):
    """What is searched, how, and what brute force finds (None: a score is not finite).

    `scores` are those of all pairs, each up to the `tolerance` of its query; `open` which items each query may find.
    """

    name: str
    similarity: Similarity
    queries: QueryState
    before: ItemState
    changes: list[ItemState | Tensor]
    after: ItemState
    k: int
    exclude: Int[Tensor, "B H"] | None
    allowed: Bool[Tensor, "N"] | None
    caller: str
    expected: TopK | None
    scores: Float[Tensor, "B N"]
    open: Bool[Tensor, "B N"]
    tolerance: Float[Tensor, "B"]


@cache
def _similarity(name: str) -> Similarity:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(CONFIGS[name], WIDTH).eval()


State = TypeVar("State", QueryState, ItemState)


def _scaled(state: State, factor: Float[Tensor, "R"], gate: Float[Tensor, "R"], dtype: torch.dtype) -> State:
    """The state in `dtype`, with its vectors and its part of the gate times a factor for each row."""
    each = {"vectors": factor, "components": factor, "parts": factor, "gate": gate}
    scaled = {
        name: (value.double() * each[name].view(-1, *[1] * (value.dim() - 1))).to(dtype)
        for name, value in state.tensors().items()
        if name in each and value is not None
    }
    return replace(state.to(dtype=dtype), **scaled)


def problem(seed: int) -> Problem:
    """The problem of a seed: the same for the same seed."""
    chance, g = random.Random(seed), runtime.generator(seed)
    name = chance.choice(list(CONFIGS))
    similarity = _similarity(name)
    of_codes, of_gates = isinstance(similarity, SparCode), isinstance(similarity, MixtureOfLogits)
    dtype = chance.choice([torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float64])
    dtype = torch.float32 if of_codes else dtype
    n, b, fresh = chance.randint(1, 90), chance.randint(1, 4), chance.randint(0, 5)
    spread = chance.choice([0.0, 1e-7, 1e-3, 1.0])
    centres = torch.randn(-(-(n + fresh) // 3), WIDTH, generator=g).repeat_interleave(3, 0)[: n + fresh]
    embeddings = centres + spread * torch.randn(n + fresh, WIDTH, generator=g)
    ids = torch.randperm(2 * (n + fresh), generator=g)[: n + fresh] + 1
    most = chance.choice([EVERYDAY_POWER, LARGEST_POWER[dtype]])
    most = 1 if of_codes else 0 if of_gates and dtype == torch.float64 else most
    of_query = 0.0 if of_codes else chance.uniform(-most, most)  # a code has the tokens that it has
    of_item = chance.choice([-of_query, chance.uniform(-most, most)])
    gates = [chance.choice([0.0, chance.uniform(-most, most), most]) for _ in range(2)]
    unequal = chance.choice([0.0, 0.0, 2.0]) if most else 0.0
    with torch.no_grad():
        q = similarity.queries(torch.randn(b, WIDTH, generator=g), torch.arange(b))
        x = similarity.items(embeddings, ids)
    factors = 10 ** (of_item + unequal * (torch.rand(n + fresh, generator=g, dtype=torch.float64) - 0.5))
    some = torch.rand(n + fresh, generator=g) < chance.choice([0.1, 1.0])
    x = _scaled(x, factors, (10.0 ** gates[0]) ** some.double(), dtype)
    each = torch.ones(b, dtype=torch.float64)
    q = _scaled(q, 10.0**of_query * each, 10.0 ** gates[1] * each, dtype)
    before, changes = x[:n], _changes(chance, x, n)
    after = before
    for change in changes:
        after = after.without(change) if isinstance(change, Tensor) else after.upsert(change)
    masked = chance.random() < 0.4
    exclude = torch.randint(0, 2 * n + 1, (b, 4), generator=g) if masked else None
    allowed = torch.rand(len(after), generator=g) < 0.8 if masked else None
    may_be_found = torch.ones(b, len(after), dtype=torch.bool) if allowed is None else allowed.repeat(b, 1)
    if exclude is not None:
        may_be_found &= ~(after.ids[None, :, None] == exclude[:, None]).any(2)
    k = min(chance.randint(1, 7), len(after))
    with stated_precision():
        scores = similarity.score(q, after)
    try:
        expected = BruteForce(similarity, after).search(q, k, exclude, allowed)
    except ValueError:
        if all_finite(scores):
            raise
        expected = None
    return Problem(
        name, similarity, q, before, changes, after, k, exclude, allowed, chance.choice(CALLERS), expected, scores,
        may_be_found, _tolerance(similarity, q, after),
    )  # fmt: skip


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


def _tolerance(similarity: Similarity, queries: QueryState, items: ItemState) -> Float[Tensor, "B"]:
    """How far the score of a pair may be from what brute force computes for it."""
    if isinstance(similarity, SparCode):
        with torch.no_grad():
            largest = similarity.interactions(queries.tokens.flatten(0, 1), items).abs().amax()  # type: ignore[attr-defined, arg-type]
        return SPARCODE_ERROR * (largest.double() + 1).expand(len(queries))
    assert isinstance(similarity, ComponentSimilarity)
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
    """One searcher on one problem: which of `OUTCOMES` came of it."""
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
            return "refused" if given.expected is None else "failed"
    if bool(found.exact.any()) and not _holds(given, found, name):
        return "false"
    if given.expected is not None and not _is_true(given, found, name):
        return "wrong"
    return "certified" if bool(found.exact.any()) else "not certified"


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


def _holds(given: Problem, found: TopK, name: str) -> bool:
    """Whether every certified list is that of brute force."""
    if given.expected is None:
        return False  # nothing is certain if scores are not finite
    sure, expected = found.exact, given.expected
    nothing = 0.0 if name in INDEXES else NO_SCORE
    mine, theirs = (
        one.scores[sure].double().masked_fill(one.ids[sure] == NO_ITEM, nothing) for one in (found, expected)
    )
    same = (mine == theirs) | ((mine - theirs).abs() <= given.tolerance[sure, None])
    to_the_bit = bool((given.tolerance[sure] > 0).all()) or torch.equal(found.ids[sure], expected.ids[sure])
    return bool(same.all()) and to_the_bit


def _is_true(given: Problem, found: TopK, name: str) -> bool:
    """Whether lists hold items that may be found, each once, with their scores, and are as long as they can be."""
    if name == "inverted index, half of the codes":
        return True  # its scores are those of the codes that it has
    listed = found.ids != NO_ITEM
    rows = CorpusRows(given.after.ids).of(found.ids)
    scores = given.scores.gather(1, rows.clamp(min=0))
    near = (found.scores == scores) | (
        (found.scores.double() - scores.double()).abs() <= given.tolerance[:, None]
    )
    may_be_found = given.open.gather(1, rows.clamp(min=0)) & (rows >= 0)
    once = all(len(own.unique()) == len(own) for own in (ids[ids != NO_ITEM] for ids in found.ids))
    there = given.open & (given.scores > given.tolerance[:, None]) if name in INDEXES else given.open
    most = there.sum(1).clamp(max=given.k)
    if name not in OTHER_COUNTS:
        most = torch.minimum(most, found.num_scored)
    full = name in OTHER_COUNTS or bool((listed.sum(1) >= most).all())
    return once and full and bool((~listed | near & may_be_found).all())


class Attempt(NamedTuple):
    """What came of a `searcher` on the problem of a `seed`."""

    searcher: str
    similarity: str
    outcome: str
    seed: int


def campaign(searches: int, seed: int) -> Iterator[Attempt]:
    """At least `searches` attempts, on the problems from `seed` on; engines that are not installed are left out."""
    tried = 0
    while tried < searches:
        given = problem(seed)
        names = searchers(given.similarity, seed)
        for name in names:
            yield Attempt(name, given.name, attempt(given, name), seed)
        tried, seed = tried + len(names), seed + 1


def tally(attempts: Iterable[Attempt]) -> pd.DataFrame:
    """One row per searcher and similarity: how many searches were `tried`, and how many came to each of `OUTCOMES`."""
    counts = Counter((one.searcher, one.similarity, one.outcome) for one in attempts)
    pairs = sorted(dict.fromkeys(key[:2] for key in counts), key=_place)
    rows = [
        {
            "searcher": pair[0],
            "similarity": pair[1],
            **{outcome: counts[*pair, outcome] for outcome in OUTCOMES},
        }
        for pair in pairs
    ]
    table = pd.DataFrame(rows, columns=["searcher", "similarity", *OUTCOMES])
    table.insert(2, "tried", table[list(OUTCOMES)].sum(axis=1))
    return table


def _place(pair: tuple[str, str]) -> tuple[int, int]:
    """Searchers and similarities in the order in which they stand here."""
    names = list(dict.fromkeys(name for config in CONFIGS for name in _searchers(_similarity(config))))
    return names.index(pair[0]), list(CONFIGS).index(pair[1])


def totals(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `tally` added up by searcher, and a last row of all."""
    by_searcher = table.groupby("searcher", sort=False)[["tried", *OUTCOMES]].sum()
    by_searcher.loc["all"] = by_searcher.sum()
    return by_searcher.reset_index()
