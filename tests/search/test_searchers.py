"""One table of expected results, and properties that hold for any corpus, over every searcher of `conftest.SEARCHERS`."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.contracts import ItemState, QueryState, TopK
from workbench.similarities.dot import DotConfig, DotProduct

INF = float("inf")
properties = settings(max_examples=25, deadline=None)
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def dot() -> DotProduct:
    """The plain inner product: exact in every dtype for the small whole numbers used here."""
    return DotProduct(DotConfig(normalize=False, temperature=1.0)).eval()


def states(queries: Tensor, items: Tensor, ids: Tensor | None = None) -> tuple[QueryState, ItemState]:
    ids = torch.arange(1, len(items) + 1, device=items.device) if ids is None else ids
    return dot().queries(queries, torch.arange(len(queries), device=queries.device)), dot().items(items, ids)


class Case(NamedTuple):
    queries: list[list[float]]
    items: list[list[float]]
    ids: list[int]
    k: int
    exclude: list[list[int]] | None
    expected_ids: list[list[int]]
    expected_scores: list[list[float]]


LINE = [[1.0], [4.0], [2.0], [3.0]]
CASES = {
    "best one": Case([[1.0]], LINE, [1, 2, 3, 4], 1, None, [[2]], [[4.0]]),
    "whole corpus": Case([[1.0]], LINE, [1, 2, 3, 4], 4, None, [[2, 4, 3, 1]], [[4.0, 3.0, 2.0, 1.0]]),
    "two queries": Case(
        [[1.0], [-1.0]], LINE, [1, 2, 3, 4], 2, None, [[2, 4], [1, 3]], [[4.0, 3.0], [-1.0, -2.0]]
    ),
    "ids are the corpus's own": Case(
        [[1.0]], LINE, [40, 10, 30, 20], 3, None, [[10, 20, 30]], [[4.0, 3.0, 2.0]]
    ),
    "ties in corpus order": Case(
        [[1.0]],
        [[2.0], [1.0], [2.0], [1.0], [2.0]],
        [5, 4, 3, 2, 1],
        4,
        None,
        [[5, 3, 1, 4]],
        [[2.0, 2.0, 2.0, 1.0]],
    ),
    "all tied": Case([[0.0]], LINE, [9, 7, 8, 6], 2, None, [[9, 7]], [[0.0, 0.0]]),
    "history left out": Case(
        [[1.0], [1.0]], LINE, [1, 2, 3, 4], 2, [[2, 0], [4, 2]], [[4, 3], [3, 1]], [[3.0, 2.0], [2.0, 1.0]]
    ),
    "repeats and strangers in the history": Case(
        [[1.0]], LINE, [1, 2, 3, 4], 2, [[2, 2, 0, 77, 2]], [[4, 3]], [[3.0, 2.0]]
    ),
    "fewer allowed than asked for": Case(
        [[1.0], [1.0]],
        LINE,
        [1, 2, 3, 4],
        3,
        [[2, 4, 0, 0], [0, 0, 0, 0]],
        [[3, 1, -1], [2, 4, 3]],
        [[2.0, 1.0, -INF], [4.0, 3.0, 2.0]],
    ),
    "all left out": Case([[1.0]], LINE, [1, 2, 3, 4], 2, [[1, 2, 3, 4]], [[-1, -1]], [[-INF, -INF]]),
    "empty history": Case([[1.0]], LINE, [1, 2, 3, 4], 1, [[]], [[2]], [[4.0]]),
    "one item": Case([[2.0]], [[3.0]], [8], 1, None, [[8]], [[6.0]]),
    "no queries": Case([], LINE, [1, 2, 3, 4], 2, None, [], []),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_expected_results(build, device, case, dtype):
    queries, items = states(
        torch.tensor(case.queries, dtype=dtype, device=device).reshape(-1, len(case.items[0])),
        torch.tensor(case.items, dtype=dtype, device=device),
        torch.tensor(case.ids, device=device),
    )
    exclude = None
    if case.exclude is not None:
        exclude = torch.tensor(case.exclude, dtype=torch.int64, device=device).reshape(len(case.queries), -1)
    found = build(dot(), items).search(queries, case.k, exclude)
    assert found.ids.tolist() == case.expected_ids
    assert found.scores.tolist() == case.expected_scores
    assert found.scores.dtype == dtype
    assert (found.ids.dtype, found.num_scored.dtype, found.exact.dtype) == (
        torch.int64,
        torch.int64,
        torch.bool,
    )
    assert found.scores.shape == found.ids.shape == (len(case.queries), case.k)
    assert found.exact.all() and (found.gap == 0).all()
    assert (found.num_scored <= len(case.items)).all()


class Problem(NamedTuple):
    """A corpus of small whole numbers, so that scores are exact and ties are plenty."""

    queries: Tensor
    items: Tensor
    ids: Tensor
    k: int
    exclude: Tensor


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    b, n, d = draw(st.integers(1, 5)), draw(st.integers(1, 40)), draw(st.integers(1, 3))
    small = st.integers(-2, 2)

    def matrix(rows: int) -> Tensor:
        values = draw(st.lists(small, min_size=rows * d, max_size=rows * d))
        return torch.tensor(values, dtype=torch.float32).reshape(rows, d)

    ids = draw(st.lists(st.integers(1, 60), min_size=n, max_size=n, unique=True))
    h = draw(st.integers(0, 6))
    exclude = draw(st.lists(st.sampled_from([0, 99, *ids]), min_size=b * h, max_size=b * h))
    return Problem(
        matrix(b),
        matrix(n),
        torch.tensor(ids),
        draw(st.integers(1, n)),
        torch.tensor(exclude, dtype=torch.int64).reshape(b, h),
    )


def by_sorting(problem: Problem) -> tuple[list[list[int]], list[list[float]]]:
    """The definition itself: allowed items sorted by descending score, then by row."""
    all_ids, all_scores = [], []
    scores = (problem.queries @ problem.items.T).tolist()
    for row, left_out in zip(scores, problem.exclude.tolist(), strict=True):
        pairs = zip(row, problem.ids.tolist(), strict=True)
        allowed = sorted(((s, i) for s, i in pairs if i not in left_out), key=lambda pair: -pair[0])
        best = (allowed + [(-INF, -1)] * problem.k)[: problem.k]
        all_ids.append([i for _, i in best])
        all_scores.append([s for s, _ in best])
    return all_ids, all_scores


def same(first: TopK, second: TopK) -> bool:
    return torch.equal(first.ids, second.ids) and torch.equal(first.scores, second.scores)


@properties
@given(problem=problems())
def test_results_are_those_of_sorting_all_pairs(build, problem):
    queries, items = states(problem.queries, problem.items, problem.ids)
    found = build(dot(), items).search(queries, problem.k, problem.exclude)
    ids, scores = by_sorting(problem)
    assert found.ids.tolist() == ids
    assert found.scores.tolist() == scores


@properties
@given(problem=problems())
def test_results_are_sorted_unique_and_never_excluded(build, problem):
    queries, items = states(problem.queries, problem.items, problem.ids)
    found = build(dot(), items).search(queries, problem.k, problem.exclude)
    assert found.ids.shape == (len(queries), problem.k)
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()
    assert torch.equal(found.ids == -1, found.scores == -INF)
    for row, left_out in zip(found.ids.tolist(), problem.exclude.tolist(), strict=True):
        present = [i for i in row if i != -1]
        assert len(set(present)) == len(present)
        assert not set(present) & set(left_out)


@properties
@given(problem=problems())
def test_a_batch_equals_its_queries_one_by_one(build, problem):
    queries, items = states(problem.queries, problem.items, problem.ids)
    searcher = build(dot(), items)
    whole = searcher.search(queries, problem.k, problem.exclude)
    for b in range(len(queries)):
        one = searcher.search(queries[b : b + 1], problem.k, problem.exclude[b : b + 1])
        assert same(one, whole[b : b + 1])


@properties
@given(problem=problems(), data=st.data())
def test_permuting_the_corpus_permutes_ties_only(build, problem, data):
    order = torch.tensor(data.draw(st.permutations(range(len(problem.items)))))
    queries, items = states(problem.queries, problem.items, problem.ids)
    before = build(dot(), items).search(queries, problem.k, problem.exclude)
    after = build(dot(), items[order]).search(queries, problem.k, problem.exclude)
    assert torch.equal(before.scores, after.scores)
    # Items above the last score are the same set; only which of those that equal it are kept may change.
    for b in range(len(queries)):
        certain = before.scores[b] > before.scores[b, -1]
        assert set(before.ids[b][certain].tolist()) == set(after.ids[b][certain].tolist())


@properties
@given(problem=problems())
def test_a_longer_list_begins_with_the_shorter_one(build, problem):
    queries, items = states(problem.queries, problem.items, problem.ids)
    searcher = build(dot(), items)
    whole = searcher.search(queries, len(items), problem.exclude)
    part = searcher.search(queries, problem.k, problem.exclude)
    assert torch.equal(part.ids, whole.ids[:, : problem.k])
    assert torch.equal(part.scores, whole.scores[:, : problem.k])


@pytest.fixture
def corpus() -> tuple[QueryState, ItemState]:
    return states(torch.ones(2, 1), torch.tensor(LINE))


@pytest.mark.parametrize(
    ("k", "message"), [(0, "k must be at least 1, not 0"), (-3, "not -3"), (5, "holds 4 items")]
)
def test_k_must_fit_the_corpus(build, corpus, k, message):
    queries, items = corpus
    with pytest.raises(ValueError, match=message):
        build(dot(), items).search(queries, k)


def test_exclude_needs_one_row_per_query(build, corpus):
    queries, items = corpus
    with pytest.raises(ValueError, match="exclude has 3 rows for 2 queries"):
        build(dot(), items).search(queries, 1, torch.zeros(3, 2, dtype=torch.int64))


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("bad", [float("nan"), INF])
def test_nan_scores_name_the_query_and_the_item(build, bad, k):
    # 0 · inf is NaN: an infinite embedding is found too if it makes a score undefined.
    queries, items = states(
        torch.tensor([[1.0, 0.0]]), torch.tensor([[4.0, 1.0], [1.0, bad], [2.0, 1.0], [3.0, 1.0]])
    )
    with pytest.raises(ValueError, match="the score of query 0 and item 2 is NaN"):
        build(dot(), items).search(queries, k)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("huge", [INF, 3e38, 3.7e19])
def test_scores_that_overflow_name_the_query_and_the_item(build, huge, k):
    rows = [[1.0, 1.0], [2.0, 2.0], [huge, huge]]
    queries, items = states(torch.tensor([[1.0, 1.0], [huge, huge]]), torch.tensor(rows))
    with pytest.raises(ValueError, match=r"the score of query \d and item \d is infinite"):
        build(dot(), items).search(queries, k)


def test_no_list_is_short_because_scores_overflow(build):
    queries, items = states(torch.full((2, 2), -3.7e19), torch.tensor([[1.0, 1.0], [3.7e19, 3.7e19]]))
    with pytest.raises(ValueError, match="the score of query 0 and item 2 is -inf"):
        build(dot(), items).search(queries, 2)


def test_nan_is_found_behind_ties_and_masks(build):
    queries, items = states(torch.ones(1, 1), torch.tensor([[0.0]] * 300 + [[float("nan")]]))
    with pytest.raises(ValueError, match="query 0 and item 301 is NaN"):
        build(dot(), items).search(queries, 2, torch.tensor([[1, 301]]))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2, 2, 3], r"item id 2 is in rows \[1, 2\]"),
        ([0, 1, 2, 3], "row 0 has id 0"),
        ([], "corpus is empty"),
    ],
)
def test_a_corpus_needs_distinct_ids(build, ids, message):
    _, items = states(torch.ones(1, 1), torch.tensor(LINE)[: len(ids)], torch.tensor(ids, dtype=torch.int64))
    with pytest.raises(ValueError, match=message):
        build(dot(), items)


def test_dropout_left_on_is_an_error(build, corpus):
    queries, items = corpus
    with pytest.raises(ValueError, match=r"training mode.*call \.eval\(\) first"):
        build(dot().train(), items).search(queries, 1)


def test_no_graph_is_kept(build):
    queries, items = states(torch.ones(2, 1, requires_grad=True), torch.tensor(LINE, requires_grad=True))
    assert not build(dot(), items).search(queries, 2).scores.requires_grad


def test_items_that_are_not_allowed_are_not_found(build):
    queries, items = states(torch.tensor([[1.0], [-1.0]]), torch.tensor(LINE), torch.tensor([40, 10, 30, 20]))
    allowed = torch.tensor([True, False, True, True])
    found = build(dot(), items).search(queries, 3, torch.tensor([[20], [0]]), allowed)
    assert found.ids.tolist() == [[30, 40, -1], [40, 30, 20]]
    assert found.scores.tolist() == [[2.0, 1.0, -INF], [-1.0, -2.0, -3.0]]
    assert found.exact.all() and (found.gap == 0).all()
    nothing = build(dot(), items).search(queries, 2, allowed=torch.zeros(4, dtype=torch.bool))
    assert nothing.ids.tolist() == [[-1, -1]] * 2
    with pytest.raises(ValueError, match="allowed has 3 rows for 4 items"):
        build(dot(), items).search(queries, 1, allowed=torch.ones(3, dtype=torch.bool))


def test_items_are_added_replaced_and_removed(build):
    queries, items = states(torch.ones(1, 1), torch.tensor(LINE), torch.tensor([4, 3, 2, 1]))
    searcher = build(dot(), items)
    try:
        searcher.upsert(states(torch.ones(1, 1), torch.tensor([[9.0], [0.5]]), torch.tensor([7, 3]))[1])
        searcher.remove(torch.tensor([2]))
    except NotImplementedError as error:
        assert "build" in str(error)  # the error of an index that cannot be changed names what to do instead
        return
    found = searcher.search(queries, 4)
    assert (found.ids.tolist(), found.scores.tolist()) == ([[7, 1, 4, 3]], [[9.0, 3.0, 1.0, 0.5]])
    with pytest.raises(ValueError, match="item 2 is not in this corpus"):
        searcher.remove(torch.tensor([2]))
    with pytest.raises(ValueError, match="corpus"):
        searcher.remove(torch.tensor([7, 1, 4, 3]))
    assert searcher.search(queries, 4).ids.tolist() == found.ids.tolist()
