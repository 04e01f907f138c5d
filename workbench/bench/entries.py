"""Who is measured: each searcher over a grid of its parameters; one of your own, if it is named, as it is registered."""

from dataclasses import replace

from workbench import runtime
from workbench.bench.methods import (
    METHODS,
    PUBLISHED,
    REFERENCE,
    BenchmarkEntry,
    SearcherSpec,
    own_method,
    own_reference,
)

LISTED = (5, 50, 200)
"""Items of each component's list."""

AVERAGED = (200, 1_000, 4_000, 8_000, 12_000, 16_000)
"""Items of the list by the average component."""

KEPT = (1_000, 4_000, 16_000)
"""Items that the first stage of the h-indexer is to keep."""

CASCADES = ((4_000, 200), (8_000, 400), (12_000, 400), (16_000, 400))
"""Items of the list by the average, and how many of them are scored: the best under a linear gate."""

WALKED = (100, 200, 400, 800, 1_600)
"""Items of the list that is kept while a graph is walked."""

PROVED = 400
"""That of the walk whose answer is proved afterwards."""

BOTH = ((5, 200), (50, 1_000), (200, 4_000))
"""Items of each component's list and of the average's, together."""

SMALLEST_INDEXED, LARGEST_GRAPH = 1_000, 200_000
"""Corpora below the first are not worth an index; above the second, building a graph, ours or that of FAISS, takes longer than
measuring it, and so does fitting the h-indexer's first stage for each setting. (`plans.books` walks graphs of larger ones.)"""


def entries(items: int) -> list[BenchmarkEntry]:
    """Every searcher over its grid, for a corpus of this many items; settings that exceed it are left out."""
    found = [
        SearcherSpec(name).entry()
        for name in (PUBLISHED, REFERENCE, "brute force, int16", "exact with a bound")
    ]
    for n in _fitting(LISTED, items):
        found.append(replace(SearcherSpec.of("per component", n1=n).entry(), typical=n == 50))
    for n in _fitting(AVERAGED, items):
        found.append(replace(SearcherSpec.of("average", n2=n).entry(), typical=n == 1_000))
    for n, m in CASCADES:
        if n <= items:
            found.append(replace(SearcherSpec.of("cascade", n2=n, keep=m).entry(), typical=n == 8_000))
    for n, m in BOTH:
        if max(n, m) <= items:
            found.append(replace(SearcherSpec.of("combined", n1=n, n2=m).entry(), typical=n == 50))
    for n in _fitting(KEPT if items <= LARGEST_GRAPH else KEPT[:2], items):
        one = SearcherSpec.of("h-indexer", keep=n).entry()
        found.append(replace(one, parameters={"keep": n}, typical=n == 1_000))
    for ef in _fitting(WALKED if items <= LARGEST_GRAPH else (), items):
        found.append(replace(SearcherSpec.of("graph", ef=ef).entry(), typical=ef == 400))
    for ef in _fitting((PROVED,) if items <= LARGEST_GRAPH else (), items):
        found.append(replace(SearcherSpec.of("graph, certified", ef=ef).entry(), typical=False))
    if runtime.optional("faiss") is not None and items >= SMALLEST_INDEXED:
        found += _indexed(items)
    return found


def _fitting(counts: tuple[int, ...], items: int) -> list[int]:
    return [n for n in counts if n <= items]


def _indexed(items: int) -> list[BenchmarkEntry]:
    """The list by the average from an approximate index: cells of about 4·√N items, a graph.

    Named by what is the same for every size of the corpus: the share of the cells, not their number.
    """
    cells = max(1, min(int(4 * items**0.5), items // 40))
    count = min(1_000, items)
    found = []
    for part in (32, 8):
        one = SearcherSpec.of(
            "average, FAISS IVF", n2=count, nlist=cells, nprobe=max(1, cells // part)
        ).entry()
        named: dict[str, int | float | str] = {"n2": count, "cells looked at": f"1/{part}"}
        found.append(replace(one, parameters=named, typical=part == 8))
    if items <= LARGEST_GRAPH:
        one = SearcherSpec.of("average, FAISS HNSW", n2=count).entry()
        found.append(replace(one, parameters={"n2": count}, typical=False))
    return found


def chosen(items: int, methods: tuple[str, ...], typical: bool = False) -> list[BenchmarkEntry]:
    """The entries of some methods, all of them if none is named; brute force, the reference, is always among them.

    `typical` leaves out settings that are not.

    Raises ValueError if a method is not known.
    """
    every = entries(items)
    known = list(dict.fromkeys(c.method for c in every))
    every += [
        SearcherSpec(m).entry()
        for m in methods
        if m not in known and m in METHODS and not METHODS[m].own_score
    ]
    known = list(dict.fromkeys(c.method for c in every))
    if wrong := [m for m in methods if m not in known]:
        raise ValueError(f"no method {wrong[0]!r}; there are {', '.join(known)}")
    wanted = [c for c in every if not methods or c.method in (*methods, REFERENCE)]
    return [c for c in wanted if c.typical or not typical]


def of_points(points: tuple[SearcherSpec, ...], own: tuple[str, ...], items: int) -> list[BenchmarkEntry]:
    """The entries of chosen points, for a corpus of this many items: brute force, the reference, is always among them.

    `own` are checkpoints with a score of their own, for the points that search under one; brute force under
    that score is measured too, as the reference of theirs.

    Raises ValueError if a point is given twice, does not fit the corpus, or has no checkpoint of its own; and as
    `retriever.read_metadata` does.
    """
    checkpoints: dict[str, str] = {}
    for checkpoint in own:
        if (method := own_method(checkpoint)) is None:
            raise ValueError(f"{checkpoint} has no score of its own: name it as the checkpoint to search")
        if method in checkpoints:
            raise ValueError(
                f"two checkpoints for {method}, {checkpoints[method]} and {checkpoint}: choose one"
            )
        checkpoints[method] = checkpoint
    found = {REFERENCE: SearcherSpec(REFERENCE).entry()}
    for point in points:
        point.check(items)
        one = point.entry(checkpoints.get(point.method, ""))
        if one.label in found and one.label != REFERENCE:
            raise ValueError(f"{one.label} is given twice")
        if one.checkpoint:
            reference = own_reference(point.method, one.checkpoint)
            found.setdefault(reference.label, reference)
        found[one.label] = one
    return list(found.values())
