"""The M-step held to its definition: sums, streams, and coordinate descent against trying everything."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.similarities.deep_retrieval.assignment import (
    PathScores,
    ScoreLists,
    assign,
    describe,
    merge_lists,
    objective,
    penalty,
)
from workbench.similarities.deep_retrieval.structure import Beam

properties = settings(max_examples=60, deadline=None)


def lists(scores: list[dict[int, float]], counts: list[float], length: int) -> ScoreLists:
    """From each item's scores by path."""
    paths = torch.full((len(scores), length), -1)
    values = torch.zeros(len(scores), length, dtype=torch.float64)
    for v, row in enumerate(scores):
        for place, (path, score) in enumerate(
            sorted(row.items(), key=lambda pair: (-pair[1], pair[0]))[:length]
        ):
            paths[v, place], values[v, place] = path, score
    return ScoreLists(paths, values, torch.tensor(counts, dtype=torch.float64))


def as_dicts(found: ScoreLists) -> list[dict[int, float]]:
    return [
        {p: s for p, s in zip(ps, ss, strict=True) if p != -1}
        for ps, ss in zip(found.paths.tolist(), found.scores.tolist(), strict=True)
    ]


def by_definition(
    scores: list[dict[int, float]], counts: list[float], chosen: list[tuple[int, ...]], alpha: float
) -> float:
    """Σ N_v (log Σ s − log N_v) − α Σ f(|c|)."""
    fit = 0.0
    for row, count, paths in zip(scores, counts, chosen, strict=True):
        if count > 0:
            total = sum(row.get(c, 0.0) for c in paths)
            fit += -math.inf if total == 0 else count * (math.log(total) - math.log(count))
    sizes: dict[int, int] = {}
    for c in itertools.chain(*chosen):
        sizes[c] = sizes.get(c, 0) + 1
    return fit - alpha * sum(n**4 / 4 for n in sizes.values())


@st.composite
def worlds(
    draw: st.DrawFn, most_items: int = 4, most_paths: int = 5
) -> tuple[list[dict[int, float]], list[float]]:
    items, paths = draw(st.integers(1, most_items)), draw(st.integers(2, most_paths))
    score = st.floats(0.01, 5.0)
    rows = [dict(enumerate(draw(st.lists(score, min_size=paths, max_size=paths)))) for _ in range(items)]
    return rows, draw(st.lists(st.floats(0.5, 9.0), min_size=items, max_size=items))


@properties
@given(world=worlds(), alpha=st.sampled_from([0.0, 0.01, 0.3, 5.0]), count=st.integers(1, 2))
def test_the_objective_is_its_formula(world, alpha, count):
    scores, counts = world
    chosen = [tuple(sorted(row))[:count] for row in scores]
    found = objective(lists(scores, counts, 5), torch.tensor(chosen), alpha)
    assert found == pytest.approx(by_definition(scores, counts, chosen, alpha), rel=1e-9)


@properties
@given(world=worlds(), count=st.integers(1, 2))
def test_without_a_penalty_the_best_assignment_of_all_is_found(world, count):
    scores, counts = world
    start = torch.tensor([tuple(row)[:count] for row in scores])
    found = assign(lists(scores, counts, 5), start, alpha=0.0)
    best = max(
        by_definition(scores, counts, list(chosen), 0.0)
        for chosen in itertools.product(*(itertools.combinations(row, count) for row in scores))
    )
    assert by_definition(scores, counts, [tuple(row) for row in found.tolist()], 0.0) == pytest.approx(best)


@properties
@given(world=worlds(), alpha=st.sampled_from([0.01, 0.3, 5.0]))
def test_with_one_path_each_no_item_gains_by_moving_alone(world, alpha):
    scores, counts = world
    start = torch.tensor([[next(iter(row))] for row in scores])
    found = [tuple(row) for row in assign(lists(scores, counts, 5), start, alpha, passes=50).tolist()]
    reached = by_definition(scores, counts, found, alpha)
    for v, row in enumerate(scores):
        for other in row:
            moved = [*found[:v], (other,), *found[v + 1 :]]
            assert by_definition(scores, counts, moved, alpha) <= reached + 1e-9 * abs(reached) + 1e-9


@pytest.mark.parametrize(("count", "alpha"), [(1, 0.2), (2, 0.02)])
def test_the_penalised_optimum_of_small_worlds_is_found_more_often_than_not(count, alpha):
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(40):
        drawn = torch.rand(3, 4, generator=generator, dtype=torch.float64) + 0.05
        scores = [dict(enumerate(row)) for row in drawn.tolist()]
        counts = (3 * torch.rand(3, generator=generator) + 1).tolist()
        found = assign(lists(scores, counts, 4), torch.tensor([list(range(count))] * 3), alpha, passes=10)
        every = itertools.product(itertools.combinations(range(4), count), repeat=3)
        best = max(by_definition(scores, counts, list(chosen), alpha) for chosen in every)
        reached = by_definition(scores, counts, [tuple(row) for row in found.tolist()], alpha)
        assert best - 0.25 * abs(best) <= reached <= best + 1e-9
        hits += reached >= best - 1e-9
    assert hits >= 28


@properties
@given(
    world=worlds(most_items=6),
    alpha=st.sampled_from([0.0, 0.05, 2.0]),
    count=st.integers(1, 2),
    length=st.integers(2, 5),
)
def test_paths_stay_distinct_and_the_objective_never_falls(world, alpha, count, length):
    scores, counts = world
    table = lists(scores, counts, length)
    paths = torch.tensor([sorted(row)[-count:] for row in scores])
    before = objective(table, paths, alpha)
    for _ in range(3):
        paths = assign(table, paths, alpha, passes=1)
        assert all(len(set(row)) == count for row in paths.tolist())
        after = objective(table, paths, alpha)
        assert after >= before - 1e-9 * abs(before) or before == -math.inf
        before = after


def test_the_first_pick_counts_rows_and_not_the_logarithm_of_nothing():
    # Both items would like path 0; the one chosen oftener gets it once the penalty lets one of them have it.
    scores = [{0: 1.0, 1: 0.5}, {0: 1.0, 1: 0.5}]
    found = assign(lists(scores, [1.0, 9.0], 2), torch.tensor([[0], [1]]), alpha=0.5)
    assert found.tolist() == [[1], [0]]


def test_an_item_that_was_never_chosen_keeps_its_paths_and_one_with_few_candidates_keeps_some():
    table = lists([{}, {5: 2.0}], [0.0, 3.0], 4)
    found = assign(table, torch.tensor([[7, 8], [9, 7]]), alpha=0.1)
    assert found[0].tolist() == [7, 8]
    assert set(found[1].tolist()) == {5, 9}


def test_the_penalty_bounds_the_largest_path():
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(200, 6, generator=generator, dtype=torch.float64)
    drawn[:, 0] += 3  # everyone's first choice
    table = lists([dict(enumerate(row)) for row in drawn.tolist()], [5.0] * 200, 6)
    start = torch.randint(6, (200, 1), generator=generator)
    largest = [
        int(assign(table, start, alpha).flatten().bincount().max()) for alpha in (0.0, 1e-5, 1e-4, 1e-2)
    ]
    assert largest[0] == 200 and largest == sorted(largest, reverse=True) and largest[-1] <= 40


def test_paths_of_others_count_and_stay():
    table = lists([{0: 1.0, 1: 0.9}], [1.0], 2)
    alone = assign(table, torch.tensor([[1]]), alpha=0.05)
    crowded = assign(table, torch.tensor([[1]]), alpha=0.05, others=torch.zeros(8, dtype=torch.int64))
    assert (alone.tolist(), crowded.tolist()) == ([[0]], [[1]])


def test_sums_are_those_of_a_loop_however_they_are_added(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    items = torch.randint(4, (50,), generator=generator)
    paths = torch.stack([torch.randperm(9, generator=generator)[:3] for _ in range(50)])
    log_probs = torch.rand(50, 3, generator=generator).log()
    paths[0, 2], log_probs[0, 2] = -1, -math.inf
    expected: list[dict[int, float]] = [{} for _ in range(5)]
    for v, ps, ls in zip(items.tolist(), paths.tolist(), log_probs.double().exp().tolist(), strict=True):
        for p, s in zip(ps, ls, strict=True):
            if p != -1:
                expected[v][p] = expected[v].get(p, 0.0) + s
    for pending in (1, 10**9):
        monkeypatch.setattr("workbench.similarities.deep_retrieval.assignment.PENDING", pending)
        scores = PathScores(5, 9)
        for start in range(0, 50, 7):
            scores.add(items[start : start + 7], Beam(paths[start : start + 7], log_probs[start : start + 7]))
        found = scores.lists(9)
        assert found.counts.tolist() == torch.bincount(items, minlength=5).tolist()
        for mine, theirs in zip(as_dicts(found), expected, strict=True):
            assert mine == pytest.approx(theirs)
        short = scores.lists(2)
        assert torch.equal(short.paths, found.paths[:, :2])
        assert bool((found.scores[:, 1:] <= found.scores[:, :-1]).all())


def test_a_stream_is_merged_by_the_printed_rule():
    old = lists([{1: 4.0, 2: 2.0, 3: 1.0}, {8: 1.0}], [10.0, 1.0], 3)
    new = lists([{2: 3.0, 9: 0.5}, {7: 0.25}], [2.0, 1.0], 3)
    found = merge_lists(old, new, decay=0.5)
    # In both: η s + s'. Only new: η · least + s', and the least of a list with room left is 0. Only old: η s.
    assert as_dicts(found)[0] == pytest.approx({2: 4.0, 1: 2.0, 9: 1.0})
    assert as_dicts(found)[1] == pytest.approx({8: 0.5, 7: 0.25})
    assert found.counts.tolist() == [7.0, 1.5]


@properties
@given(world=worlds(most_items=3), decay=st.sampled_from([0.5, 0.999, 1.0]))
def test_a_stream_that_forgets_nothing_adds_up(world, decay):
    scores, counts = world
    part = lists(scores, counts, 5)
    merged = merge_lists(part, part, decay)
    for mine, once in zip(as_dicts(merged), scores, strict=True):
        assert mine == pytest.approx({p: (1 + decay) * s for p, s in once.items()})


def test_an_m_step_is_described():
    before = torch.tensor([[0, 1], [2, 3]])
    after = torch.tensor([[1, 0], [2, 1]])
    measures = describe(before, after, lists([{0: 1.0}, {2: 1.0}], [1.0, 1.0], 1), alpha=0.0)
    assert measures["paths in use"] == 3 and measures["largest path"] == 2 and measures["stability"] == 0.75
    assert measures["mean path"] == pytest.approx(4 / 3) and measures["path objective"] == pytest.approx(0.0)
    assert penalty(2) == 4
