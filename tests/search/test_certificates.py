"""Proofs: what `exact` and `gap` say of a result is so, for every similarity, near ties, in every precision, under masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench import runtime
from workbench.contracts import ComponentSimilarity, ItemState, QueryState, TopK
from workbench.search import (
    Approximate,
    AveragedComponents,
    BruteForce,
    Exact,
    FirstStageFilter,
    FittedScores,
    first_stages,
    h_indexer,
)
from workbench.search.bounds import ComponentBounds
from workbench.similarities import DotConfig, MaxSimConfig, MoLConfig, build

INF = float("inf")
CONFIGS = {
    "dot": DotConfig(),
    "maxsim": MaxSimConfig(query_groups=3, item_groups=2, component_dim=4, query_hidden=8),
    "mol": MoLConfig(query_groups=3, item_groups=2, component_dim=4, query_hidden=8, gate_pair=8),
    "mol, sharp gate": MoLConfig(2, 2, 4, query_hidden=8, gate_pair=None, gate_combination="sum"),
}


def similarity_of(name: str) -> ComponentSimilarity:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        similarity = build(CONFIGS[name], 8).eval()
    assert isinstance(similarity, ComponentSimilarity)
    if name == "mol, sharp gate":
        with torch.no_grad():
            for parameter in (*similarity.gate_query.parameters(), *similarity.gate_item.parameters()):
                parameter.mul_(8)
    return similarity


SIMILARITIES = {name: similarity_of(name) for name in CONFIGS}


def states(
    similarity: ComponentSimilarity, seed: int, b: int, n: int, spread: float
) -> tuple[QueryState, ItemState]:
    """Queries, and items in threes that differ by `spread`: 0 makes ties, 1e-7 what rounding decides."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(-(-n // 3), 8, generator=g).repeat_interleave(3, 0)[:n]
    items = centres + spread * torch.randn(n, 8, generator=g)
    with torch.no_grad():
        q = similarity.queries(torch.randn(b, 8, generator=g), torch.arange(b))
        return q, similarity.items(items, torch.randperm(n, generator=g) + 1)


def searchers(similarity: ComponentSimilarity, items: ItemState, queries: QueryState) -> dict[str, object]:
    """Small lists, so that a proof is there for some queries and not for others."""
    drawn = runtime.generator(0)
    averaged = AveragedComponents(similarity, items, 4)
    return {
        "exact": Exact(similarity, items, max_scored_fraction=1.0, initial_per_k=1),
        "exact, bfloat16": Exact(
            similarity, items, max_scored_fraction=1.0, initial_per_k=1, precision="bfloat16"
        ),
        "exact, int8": Exact(similarity, items, max_scored_fraction=1.0, initial_per_k=1, precision="int8"),
        "exact, adaptive": Exact(similarity, items, max_scored_fraction=0.5),
        "per component": Approximate.of(similarity, items, n1=3),
        "per component, lookahead": Approximate.of(similarity, items, n1=3, lookahead=4),
        "per component, certified": Approximate.of(
            similarity, items, n1=1, lookahead=2, until_certified=True
        ),
        "average": Approximate.of(similarity, items, n2=8),
        "combined": Approximate.of(similarity, items, n1=2, n2=6, lookahead=5),
        "h-indexer": Approximate(
            similarity, items, [FirstStageFilter(items, averaged, 6, drawn, sampled=11)]
        ),
        "h-indexer, fitted": Approximate(
            similarity,
            items,
            [FirstStageFilter(items, FittedScores(similarity, items, queries, 4), 6, drawn)],
        ),
    }


def true_scores(similarity: ComponentSimilarity, queries: QueryState, items: ItemState) -> Tensor:
    """In float64."""
    twin = build(similarity.config, 8).double().eval()
    twin.load_state_dict({k: v.double() for k, v in similarity.state_dict().items()})
    with torch.no_grad():
        return twin.score(queries.to(dtype=torch.float64), items.to(dtype=torch.float64))


def check(found: TopK, scores: Tensor, ids: Tensor, open_items: Tensor, tolerance: float) -> None:
    """Items outside the list score at most the last one plus the gap."""
    assert torch.equal(found.exact, found.gap == 0)
    assert torch.equal(found.ids == -1, found.scores == -INF)
    for b in range(len(found)):
        present = found.ids[b][found.ids[b] > 0]
        assert len(present.unique()) == len(present)
        listed = torch.isin(ids, present)
        assert bool(open_items[b][listed].all())
        outside = scores[b][open_items[b] & ~listed]
        if not len(outside) or found.gap[b] == INF:
            continue
        assert float(outside.max()) <= float(found.scores[b, -1] + found.gap[b]) + tolerance


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    k=st.integers(1, 7),
    spread=st.sampled_from([0.0, 1e-7, 1e-3, 1.0]),
    masked=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float64, torch.bfloat16]),
)
def test_no_certificate_is_false_and_no_gap_too_small(name, seed, n, k, spread, masked, dtype):
    similarity = SIMILARITIES[name]
    queries, items = states(similarity, seed, 3, n, spread)
    queries, items = queries.to(dtype=dtype), items.to(dtype=dtype)
    k = min(k, n)
    g = torch.Generator().manual_seed(seed)
    exclude = torch.randint(0, n + 1, (3, 4), generator=g) if masked else None
    allowed = torch.rand(n, generator=g) < 0.8 if masked else None
    truth = true_scores(similarity, queries, items)
    open_items = torch.ones(3, n, dtype=torch.bool)
    if exclude is not None and allowed is not None:
        open_items = allowed & ~torch.stack([torch.isin(items.ids, row) for row in exclude])
    # What brute force itself may be off by: the order of scores nearer than that is anyone's.
    tolerance = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 1.0}[dtype]
    brute = BruteForce(similarity, items).search(queries, k, exclude, allowed)
    for title, searcher in searchers(similarity, items, queries).items():
        found = searcher.search(queries, k, exclude, allowed)
        check(found, truth, items.ids, open_items, tolerance)
        if title.startswith("exact") or title.endswith("certified"):
            assert found.exact.all(), title
        torch.testing.assert_close(
            found.scores[found.exact], brute.scores[found.exact], rtol=0, atol=2 * tolerance
        )


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 40), k=st.integers(1, 5), count=st.integers(1, 4))
def test_whole_numbers_leave_no_room_for_rounding(data, n, k, count):
    """Scores that are exact: a certified list is the one of brute force to the last tie."""
    similarity = build(DotConfig(normalize=False, temperature=1.0), 2).eval()
    values = st.lists(st.integers(-2, 2), min_size=2 * n, max_size=2 * n)
    embeddings = torch.tensor(data.draw(values), dtype=torch.float32).reshape(n, 2)
    queries = similarity.queries(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.arange(2))
    items = similarity.items(embeddings, torch.arange(1, n + 1))
    k = min(k, n)
    brute = BruteForce(similarity, items).search(queries, k)
    certain = [
        Approximate.of(similarity, items, n1=count).search(queries, k),
        Approximate.of(similarity, items, n1=count, n2=2, lookahead=3).search(queries, k),
        Exact(similarity, items, max_scored_fraction=1.0, initial_per_k=1, precision="int8").search(
            queries, k
        ),
    ]
    for found in certain:
        assert torch.equal(found.ids[found.exact], brute.ids[found.exact])
        assert torch.equal(found.scores[found.exact], brute.scores[found.exact])
    assert certain[-1].exact.all()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("precision", ["full", "bfloat16", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bounds_hold_for_scores_as_computed(name, precision, dtype):
    similarity = SIMILARITIES[name]
    queries, items = states(similarity, 5, 20, 300, 1e-3)
    queries, items = queries.to(dtype=dtype), items.to(dtype=dtype)
    bounds = ComponentBounds(similarity, items, precision)
    with torch.no_grad():
        above = bounds.of(bounds.query_vectors(queries), 0, 300, 77)
        scores = similarity.score(queries, items)
    assert (above >= scores).all()
    if dtype != torch.bfloat16 and precision == "full" and name == "dot":
        assert (above - scores).max() < 1e-3  # and are not loose


def test_pruning_brings_less_work_and_the_same_result():
    similarity = SIMILARITIES["mol, sharp gate"]
    queries, items = states(similarity, 1, 16, 5000, 1.0)
    brute = BruteForce(similarity, items).search(queries, 5)
    found = Exact(similarity, items).search(queries, 5)
    torch.testing.assert_close(found.scores, brute.scores)
    assert torch.equal(found.ids, brute.ids)
    assert found.exact.all() and float(found.num_scored.float().mean()) < 2500


def test_a_flat_gate_goes_to_brute_force():
    similarity = SIMILARITIES["mol"]
    queries, items = states(similarity, 1, 8, 2000, 1.0)
    shares = Exact(similarity, items).surviving(queries, 5)
    assert ((shares > 0) & (shares <= 1)).all()
    middle = float(shares.mean()) + 4 * 5 / 2000
    pruned = Exact(similarity, items, max_scored_fraction=middle + 1e-4).search(
        queries, 5, torch.ones(8, 1).long()
    )
    scored = Exact(similarity, items, max_scored_fraction=middle - 1e-4).search(
        queries, 5, torch.ones(8, 1).long()
    )
    assert torch.equal(pruned.ids, scored.ids)
    assert (pruned.num_scored < 2000).all() and (scored.num_scored == 2000).all()


def test_work_counts_what_was_scored_and_lists_are_as_long_as_asked():
    similarity = SIMILARITIES["mol"]
    queries, items = states(similarity, 1, 4, 500, 1.0)
    found = Approximate.of(similarity, items, n2=50).search(queries, 20)
    assert (found.num_scored == 50).all() and not found.exact.any() and (found.gap == INF).all()
    short = Approximate.of(similarity, items, n2=7).search(queries, 20)
    assert ((short.ids > 0).sum(1) == 7).all()
    union = Approximate.of(similarity, items, n1=10).search(queries, 20)
    assert ((union.num_scored > 10) & (union.num_scored <= 60)).all()


def test_watching_more_proves_more():
    similarity = SIMILARITIES["mol, sharp gate"]
    queries, items = states(similarity, 2, 40, 800, 1.0)
    plain = Approximate.of(similarity, items, n1=60).search(queries, 5)
    lookahead = Approximate.of(similarity, items, n1=60, lookahead=60).search(queries, 5)
    assert (lookahead.gap <= plain.gap).all()
    assert lookahead.exact.sum() >= plain.exact.sum() > 0


def test_a_fit_to_scores_ranks_better_than_the_average_of_its_width(monkeypatch):
    similarity = SIMILARITIES["mol"]
    queries, items = states(similarity, 3, 300, 2000, 1.0)
    sample, asked = queries[:250], queries[250:]
    brute = BruteForce(similarity, items).search(asked, 10)

    def recall(stage: object) -> float:
        found = Approximate(
            similarity, items, [FirstStageFilter(items, stage, 60, runtime.generator(1))]
        ).search(asked, 10)
        return float((found.scores >= brute.scores[:, -1:] - 1e-4).float().mean())

    averaged = recall(AveragedComponents(similarity, items, 4))
    assert recall(FittedScores(similarity, items, sample, 4)) > averaged
    whole = recall(FittedScores(similarity, items, sample, 12))
    assert whole > 1.5 * averaged
    monkeypatch.setattr(first_stages, "LEVEL_ITEMS", 300)  # as in a corpus that is larger than that
    assert recall(FittedScores(similarity, items, sample, 12)) == pytest.approx(whole, abs=0.02)


def test_vectors_made_in_parts_are_those_made_at_once(monkeypatch):
    similarity = SIMILARITIES["mol"]
    queries, items = states(similarity, 3, 20, 500, 1.0)
    stage = AveragedComponents(similarity, items, 4)
    whole = FirstStageFilter(items, stage, 60, runtime.generator(1))
    monkeypatch.setattr(h_indexer, "ITEMS_AT_ONCE", 64)
    parts = FirstStageFilter(items, stage, 60, runtime.generator(1))
    assert torch.equal(parts._vectors.values, whole._vectors.values)
    assert (parts._vectors.error, parts._vectors.norm) == (whole._vectors.error, whole._vectors.norm)
    in_parts, at_once = (Approximate(similarity, items, [kept]) for kept in (parts, whole))
    assert torch.equal(in_parts.search(queries, 10).ids, at_once.search(queries, 10).ids)
    in_parts.upsert(items[:0])
    assert torch.equal(parts._vectors.values, whole._vectors.values)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, x: Approximate.of(s, x, n1=0), "at least 1 item, not 0"),
        (lambda s, x: Approximate.of(s, x, n1=1, lookahead=-1), "lookahead must be 0 or more"),
        (lambda s, x: Approximate.of(s, x, n2=-2), "at least 1 item, not -2"),
        (lambda s, x: Approximate.of(s, x, n1=1, n2=0), "n2: .* at least 1 item, not 0"),
        (lambda s, x: Approximate.of(s, x), "give n1, n2 or both"),
        (lambda s, x: Exact(s, x, initial_per_k=0), "initial_per_k must be at least 1"),
        (lambda s, x: Exact(s, x, max_scored_fraction=1.5), "0 to 1, not 1.5"),
        (lambda s, x: AveragedComponents(s, x, 0), "width must be at least 1"),
        (
            lambda s, x: Approximate(
                s, x, [FirstStageFilter(x, AveragedComponents(s, x, 2), 5, runtime.generator(0), sampled=0)]
            ),
            "sample of at least 1 item",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    similarity = SIMILARITIES["mol"]
    _, items = states(similarity, 0, 1, 9, 1.0)
    with pytest.raises(ValueError, match=message):
        make(similarity, items)


def test_lists_longer_than_the_corpus_hold_all_of_it():
    similarity = SIMILARITIES["mol"]
    queries, items = states(similarity, 0, 2, 9, 1.0)
    for searcher in (Approximate.of(similarity, items, n1=99), Approximate.of(similarity, items, n2=99)):
        found = searcher.search(queries, 9)
        assert found.exact.all() and (found.num_scored == 9).all()
