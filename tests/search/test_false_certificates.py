"""Answers that were certified and wrong, each with its kind of cause; and changes of a corpus that failed half way."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench import runtime
from workbench.contracts import QueryState, Searcher
from workbench.search import (
    Approximate,
    AveragedComponents,
    BruteForce,
    Exact,
    FirstStageFilter,
    FittedScores,
    Sharded,
    split,
)
from workbench.search.candidates import Scan
from workbench.search.certificates import certificate, stated_precision
from workbench.search.graph_search import GraphSearch
from workbench.search.topk import check_request
from workbench.similarities import DotConfig, MaxSimConfig, MoLConfig, build
from workbench.similarities.mol import MoLItems
from workbench.similarities.rounding import combination_error, norms, product_error

INF = float("inf")
CONFIGS = {
    "dot": DotConfig(normalize=False, temperature=1.0),
    "maxsim": MaxSimConfig(query_groups=3, item_groups=2, component_dim=8, query_hidden=8, normalize=False),
    "mol": MoLConfig(3, 2, 8, query_hidden=8, gate_pair=8, normalize=False, temperature=1.0),
}
CERTIFIED: dict[str, Callable[..., Searcher]] = {
    "exact": partial(Exact, max_scored_fraction=1.0, initial_per_k=1),
    "exact, bfloat16": partial(Exact, max_scored_fraction=1.0, initial_per_k=1, precision="bfloat16"),
    "exact, int8": partial(Exact, max_scored_fraction=1.0, initial_per_k=1, precision="int8"),
    "per component": lambda s, x: Approximate.of(s, x, n1=4, lookahead=2, until_certified=True),
    "combined": lambda s, x: Approximate.of(s, x, n1=3, n2=5, lookahead=2, until_certified=True),
    "sharded": lambda s, x: Sharded(
        lambda part: Exact(s, part, max_scored_fraction=1.0, initial_per_k=1), split(x, 3)
    ),
}


def states(name: str, seed: int, b: int = 16, n: int = 150, scale: float = 1.0):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        similarity = build(CONFIGS[name], 12).eval()
        items = torch.randn(n // 3, 12).repeat_interleave(3, 0) + 0.01 * torch.randn(n, 12)
        q = similarity.queries(torch.randn(b, 12), torch.arange(b))
        x = similarity.items(items, torch.randperm(n) + 1)
    if name == "dot":
        q, x = replace(q, vectors=q.vectors * scale), replace(x, vectors=x.vectors * scale)
    elif scale != 1:
        q, x = replace(q, components=q.components * scale), replace(x, components=x.components * scale)
    return similarity, q, x


def assert_as_brute_force(searcher: Searcher, brute: BruteForce, q: QueryState, k: int, error: float) -> None:
    """Certified lists are as good as those of brute force in float32, up to the rounding of both."""
    expected = brute.search(q, k)
    found = searcher.search(q, k)
    assert found.exact.any()
    away = (found.scores - expected.scores).abs()[found.exact]
    assert float(away.max()) <= error


@pytest.mark.parametrize("kind", CERTIFIED)
@pytest.mark.parametrize("name", CONFIGS)
def test_autocast_of_the_caller_changes_nothing(name, kind):
    similarity, q, x = states(name, 0)
    searcher, brute = CERTIFIED[kind](similarity, x), BruteForce(similarity, x)
    expected, alone = brute.search(q, 5), searcher.search(q, 5)
    with torch.autocast("cpu", torch.bfloat16):
        built_here = CERTIFIED[kind](similarity, x)
        for found in (brute.search(q, 5), searcher.search(q, 5), built_here.search(q, 5)):
            assert found.exact.all()
            torch.testing.assert_close(found.scores, expected.scores)
    assert torch.equal(searcher.search(q, 5).scores, alone.scores)


@pytest.mark.parametrize("name", CONFIGS)
def test_queries_made_under_autocast_are_searched_in_the_precision_of_the_corpus(name):
    similarity, _, x = states(name, 0)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        rough = similarity.queries(torch.randn(4, 12), torch.arange(4)).to(dtype=torch.bfloat16)
    found = Exact(similarity, x, max_scored_fraction=1.0).search(rough, 5)
    assert found.scores.dtype == torch.float32
    expected = BruteForce(similarity, x).search(rough.to(dtype=torch.float32), 5)
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.parametrize("precision", ["medium", "high"])
def test_a_reduced_precision_of_products_is_set_aside_and_put_back(precision):
    similarity, q, x = states("maxsim", 0)
    searcher = Exact(similarity, x, max_scored_fraction=1.0, initial_per_k=1)
    expected = searcher.search(q, 5)
    try:
        torch.set_float32_matmul_precision(precision)
        assert torch.equal(searcher.search(q, 5).scores, expected.scores)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")


def test_searches_of_several_threads_share_the_setting():
    settings = torch.backends.mkldnn.matmul
    inside, done = threading.Barrier(2), threading.Event()
    seen = []

    def other() -> None:
        with stated_precision():
            inside.wait()
            done.wait()
            seen.append(settings.fp32_precision)

    try:
        torch.set_float32_matmul_precision("medium")
        thread = threading.Thread(target=other)
        with stated_precision():
            thread.start()
            inside.wait()
        assert settings.fp32_precision == "ieee"  # the other one still searches
        done.set()
        thread.join()
        assert seen == ["ieee"] and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("kind", CERTIFIED)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("scale", [1e-16, 1e-12, 1e-8])
def test_norms_that_vanish_when_squared_still_count(name, kind, scale):
    """Components below 1e-23 have a squared norm of 0 in float32; with one side large, scores are of ordinary size."""
    for seed in range(4):
        similarity, q, x = states(name, seed)
        f, g = ("vectors", "vectors") if name == "dot" else ("components", "components")
        q = replace(q, **{f: getattr(q, f) / scale / scale})
        x = replace(x, **{g: getattr(x, g) * scale * scale})
        brute = BruteForce(similarity, x)
        peak = float(brute.search(q, 1).scores.abs().max())
        assert_as_brute_force(CERTIFIED[kind](similarity, x), brute, q, 5, 1e-5 * peak)


@pytest.mark.parametrize("precision", ["full", "bfloat16", "int8"])
def test_a_gate_that_overflows_is_an_error_and_no_empty_list(precision):
    similarity, q, x = states("mol", 0)
    q, x = replace(q, gate=q.gate * 1e30), replace(x, gate=x.gate * 1e30)
    searcher = Exact(similarity, x, max_scored_fraction=1.0, precision=precision)
    with pytest.raises(ValueError, match=r"the score of query \d+ and item \d+ is NaN"):
        searcher.search(q, 5)


@pytest.mark.parametrize("count", [7, 150])
def test_items_whose_average_overflows_are_not_lost(count):
    similarity, q, x = states("mol", 0, n=150)
    huge = torch.full_like(x.components[:3], 0.0)
    huge[:, 0, 0], huge[:, 1, 0] = 3e38, -3e38
    components = x.components.clone()
    components[:3] = huge
    q = replace(q, components=q.components * 1e-38)
    x = replace(x, components=components)
    expected = BruteForce(similarity, x).search(q, 5)
    for searcher in (
        Approximate.of(similarity, x, n2=count),
        Approximate.of(similarity, x, n1=count, n2=count),
    ):
        found = searcher.search(q, 5)
        torch.testing.assert_close(found.scores[found.exact], expected.scores[found.exact])
    assert not AveragedComponents(similarity, x, 4).item_vectors(x).isnan().any()


def test_the_error_of_maxsim_is_that_of_all_its_inner_products():
    similarity, q, x = states("maxsim", 0)
    lengths, norm = norms(q.components).amax(1), norms(x.components).amax()
    error = similarity.score_error(q, norm, torch.float32)
    one = product_error(lengths, norm, 8, torch.float32)
    assert bool((error > 3 * one).all())
    assert torch.equal(error, combination_error(lengths, norm, 8, 3, 3, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_norms_are_bounds_at_any_magnitude(dtype):
    vectors = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = vectors.double().norm(dim=1)
    for power in (-300, -160, -35, -25, 0, 30, 37, 150, 300):
        scaled = vectors * torch.tensor(10.0**power, dtype=torch.float64).to(dtype)
        if not bool(scaled.isfinite().all()) or bool((scaled == 0).any()):
            continue
        length = norms(scaled)
        unit = scaled.double() / 10.0**power
        assert bool((length >= unit.norm(dim=1) * 10.0**power).all())
        assert bool((length <= 1.1 * exact * 10.0**power).all())
    assert norms(torch.tensor([[INF, 1.0], [float("nan"), 1.0]])).tolist() == [INF, INF]


def test_a_gap_is_never_too_small_to_see():
    last, bound = (
        torch.tensor([1.0, 1.0], dtype=torch.bfloat16),
        torch.tensor([1.0, 1.001], dtype=torch.float64),
    )
    exact, gap = certificate(last, bound)
    assert exact.tolist() == [True, False] and bool((last.double() + gap.double() >= bound).all())
    assert certificate(torch.tensor([-INF]), torch.tensor([-INF])).exact.item()


class Refusing(Scan):
    """Takes no change once it is `armed`, after it has been made."""

    armed = False

    def upsert(self, ids: Int[Tensor, "M"], vectors: Float[Tensor, "M d"]) -> None:
        super().upsert(ids, vectors)
        self._refuse()

    def remove(self, ids: Int[Tensor, "M"]) -> None:
        super().remove(ids)
        self._refuse()

    def _refuse(self) -> None:
        if Refusing.armed:
            raise OSError("no room left")


def one_refuses(name: str, ids: Int[Tensor, "N"], vectors: Float[Tensor, "N d"]) -> Scan:
    return (Refusing if name == "component-1" else Scan)(name, ids, vectors)


@pytest.mark.parametrize("kind", ["per component", "combined", "sharded"])
def test_a_change_that_fails_changes_nothing(kind, monkeypatch):
    similarity, q, x = states("mol", 0)
    makers: dict[str, Callable[[], Searcher]] = {
        "per component": lambda: Approximate.of(similarity, x, n1=4, until_certified=True, source=one_refuses),
        "combined": lambda: Approximate.of(similarity, x, n1=4, n2=9, until_certified=True, source=one_refuses),
        "sharded": lambda: Sharded(
            lambda part: Approximate.of(similarity, part, n1=4, until_certified=True,
                source=one_refuses if int(part.ids[0]) == int(x.ids[75]) else Scan,
            ),
            split(x, 2),
        ),
    }  # fmt: skip
    searcher = makers[kind]()
    before = searcher.search(q, 8)
    changed = replace(x[60:90], components=-x.components[60:90])
    fresh = replace(x[:4], ids=torch.arange(1001, 1005))
    monkeypatch.setattr(Refusing, "armed", True)
    for change in (
        lambda: searcher.upsert(changed),
        lambda: searcher.remove(x.ids[70:80]),
        *([lambda: searcher.upsert(fresh)] if kind != "sharded" else []),
    ):
        with pytest.raises(OSError, match="no room left"):
            change()
        after = searcher.search(q, 8)
        assert torch.equal(after.ids, before.ids) and torch.equal(after.scores, before.scores)
    monkeypatch.setattr(Refusing, "armed", False)
    searcher.upsert(changed)
    expected = BruteForce(similarity, x.upsert(changed)).search(q, 8)
    assert torch.equal(searcher.search(q, 8).ids, expected.ids)


def test_an_upsert_of_nothing_does_nothing():
    similarity, q, x = states("mol", 0)
    assert isinstance(x, MoLItems)
    drawn = runtime.generator(0)
    for searcher in (
        BruteForce(similarity, x),
        Exact(similarity, x),
        Approximate.of(similarity, x, n1=5),
        Approximate.of(similarity, x, n2=5),
        Approximate.of(similarity, x, n1=5, n2=5),
        Approximate(similarity, x, [FirstStageFilter(x, AveragedComponents(similarity, x, 4), 20, drawn)]),
        Approximate(similarity, x, [FirstStageFilter(x, FittedScores(similarity, x, q, 4), 20, drawn)]),
    ):
        before = searcher.search(q, 3)
        searcher.upsert(x[:0])
        searcher.remove(x.ids[:0])
        assert torch.equal(searcher.search(q, 3).ids, before.ids)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"allowed": torch.ones(150)}, "allowed must be a mask, bool"),
        ({"allowed": torch.ones(150, dtype=torch.uint8)}, "not torch.uint8"),
        ({"allowed": torch.ones(1, 150, dtype=torch.bool)}, r"shape \(1, 150\)"),
        ({"allowed": torch.ones(149, dtype=torch.bool)}, "allowed has 149 rows for 150 items"),
        ({"exclude": torch.zeros(16, 2)}, "exclude must hold item ids, int64"),
        ({"exclude": torch.zeros(16, dtype=torch.int64)}, r"shape \(16,\)"),
    ],
)
def test_masks_of_another_kind_are_refused(change, message):
    _, q, x = states("dot", 0)
    with pytest.raises(ValueError, match=message):
        check_request(q, len(x), x.ids.device, 3, **change)


def test_a_change_that_cannot_be_undone_reports_it(monkeypatch):
    similarity, _, x = states("mol", 0)
    searcher = Approximate.of(similarity, x, n1=4, source=one_refuses)
    monkeypatch.setattr(Refusing, "armed", True)

    def stuck(self: Scan) -> Callable[[], None]:
        def restore() -> None:
            raise RuntimeError("nothing answers")

        return restore

    monkeypatch.setattr(Scan, "snapshot", stuck)
    with pytest.raises(RuntimeError, match="could not be undone: nothing answers"):
        searcher.upsert(x[:3])


@pytest.mark.parametrize("kind", CERTIFIED)
def test_gates_that_overflow_are_certain_of_nothing(kind):
    """One item's gate is so large that its scores are NaN, its components so small that nobody looks at it."""
    similarity, q, x = states("mol", 0)
    gate, components = x.gate.clone(), x.components.clone()
    gate[70] = 3e38
    components[70] *= 1e-3
    x, q = replace(x, gate=gate, components=components), replace(q, gate=q.gate.abs() + 2)
    assert similarity.score(q, x)[:, 70].isnan().all() and similarity.score(q, x[:70]).isfinite().all()
    with pytest.raises(ValueError, match="NaN"):
        CERTIFIED[kind](similarity, x).search(q, 5)


def test_a_walk_that_meets_a_score_that_is_not_finite_is_certain_of_nothing():
    similarity, q, x = states("mol", 0)
    searcher = GraphSearch(similarity, x, 200, 8)
    assert searcher.search(q, 5).exact.all()
    searcher.items.gate[70] = 3e38  # after what may overflow was looked at
    with pytest.raises(ValueError, match="NaN"):
        searcher.search(replace(q, gate=q.gate.abs() + 2), 5)
