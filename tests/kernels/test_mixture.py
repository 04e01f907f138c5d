"""The arithmetic of Mixture-of-Logits: every version against float64, and the bits that must not depend on the company."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.kernels import mixture, mixture_native
from workbench.kernels.mixture import (
    MixtureGate,
    candidate_scores,
    component_maxima,
    mixture_scores,
    pair_scores,
)

TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.2}
"""As `mixture` states, for unit components and a temperature of 1/20."""


class Problem(NamedTuple):
    query_components: Tensor
    query_gate: Tensor | None
    item_components: Tensor
    item_gate: Tensor | None
    gate: MixtureGate

    def double(self) -> "Problem":
        layers = tuple((w.double(), None if b is None else b.double()) for w, b in self.gate.layers)
        parts = (None if t is None else t.double() for t in self[:4])
        return Problem(*parts, MixtureGate(layers, self.gate.combination))

    def of(self, queries: slice, items: slice) -> "Problem":
        of_query = (None if t is None else t[queries] for t in self[:2])
        of_item = (None if t is None else t[items] for t in self[2:4])
        return Problem(*of_query, *of_item, self.gate)


def problem(
    b: int = 5,
    n: int = 61,
    groups: tuple[int, int, int] = (8, 4, 16),
    hidden: int | None = 20,
    combination: mixture.Combination = "glu_silu",
    parts: tuple[bool, bool] = (True, True),
    item_dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    query_groups, item_groups, width = groups
    p = query_groups * item_groups
    layers: list[tuple[Tensor, Tensor | None]] = []
    if hidden:
        layers.append((randn(hidden, p, scale=0.1), randn(hidden)))
    if hidden is not None:
        layers.append((randn(p, hidden or p, scale=0.2 if hidden else 0.05), randn(p)))
    unit = torch.nn.functional.normalize
    return Problem(
        20 * unit(randn(b, query_groups, width), dim=-1),
        randn(b, p) if parts[0] else None,
        unit(randn(n, item_groups, width), dim=-1).to(item_dtype),
        randn(n, p).to(item_dtype) if parts[1] else None,
        MixtureGate(tuple(layers), combination),
    )


@pytest.fixture(params=["native", "plain"])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "plain":
        monkeypatch.setattr(mixture_native, "available", lambda: False)
    elif not mixture_native.available():
        pytest.skip("there is no C++ compiler here")
    yield request.param


EVERY_GATE = list(
    itertools.product(
        [None, 0, 20],
        ["glu_silu", "glu_silu_ln", "sum"],
        [(True, True), (True, False), (False, True), (False, False)],
    )
)


@pytest.mark.parametrize(("hidden", "combination", "parts"), EVERY_GATE)
def test_every_gate_agrees_with_float64(version, hidden, combination, parts):
    given = problem(hidden=hidden, combination=combination, parts=parts)
    expected = mixture.plain_scores(*given.double())
    found = mixture_scores(*given)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= TOLERANCE[torch.float32]
    rows = torch.randint(61, (5, 7), generator=torch.Generator().manual_seed(1))
    candidates = candidate_scores(*given, rows)
    assert (candidates - expected.gather(1, rows)).abs().max() <= TOLERANCE[torch.float32]


@pytest.mark.parametrize("hidden", [None, 0, 20])
def test_items_in_bfloat16_stay_within_the_stated_tolerance(version, hidden):
    full, half = (problem(hidden=hidden, item_dtype=dtype) for dtype in TOLERANCE)
    found = mixture_scores(*half)
    assert found.dtype == torch.float32
    # Of the state as it is stored, the scores are those of float32 ...
    assert (found - mixture.plain_scores(*half.double())).abs().max() <= TOLERANCE[torch.float32]
    # ... and of the state before, they are off by its rounding.
    off = (found - mixture.plain_scores(*full.double())).abs().max()
    assert 0 < off <= TOLERANCE[torch.bfloat16]
    maxima = component_maxima(half.query_components, half.item_components)
    assert (maxima - component_maxima(full.query_components, full.item_components)).abs().max() <= 0.1


def test_where_all_is_bfloat16_so_are_the_scores(version):
    given = problem(item_dtype=torch.bfloat16)._replace(
        query_components=problem().query_components.bfloat16(), query_gate=problem().query_gate.bfloat16()
    )
    found = mixture_scores(*given)
    assert found.dtype == torch.bfloat16
    assert (found - mixture.plain_scores(*given.double())).abs().max() <= 2.0
    assert candidate_scores(*given, torch.zeros(5, 2, dtype=torch.long)).dtype == torch.bfloat16


SHAPES = st.tuples(
    st.integers(1, 3),
    st.integers(1, 130),
    st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 40)),
)


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, hidden=st.sampled_from([None, 0, 1, 13, 16]), seed=st.integers(0, 1000))
def test_any_shape_agrees_with_float64(shape, hidden, seed):
    b, n, groups = shape
    given = problem(b, n, groups, hidden, seed=seed)
    expected = mixture.plain_scores(*given.double())
    torch.testing.assert_close(mixture_scores(*given).double(), expected, atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(
        component_maxima(given.query_components, given.item_components).double(),
        torch.einsum("bid,njd->bnij", given.double().query_components, given.double().item_components)
        .flatten(2)
        .amax(-1),
        atol=2e-5,
        rtol=1e-5,
    )


@pytest.mark.skipif(not mixture_native.available(), reason="there is no C++ compiler here")
@settings(max_examples=30, deadline=None)
@given(
    shape=SHAPES,
    hidden=st.sampled_from([None, 0, 13]),
    combination=st.sampled_from(["glu_silu", "glu_silu_ln", "sum"]),
    data=st.data(),
)
def test_the_bits_of_a_score_do_not_depend_on_the_company(shape, hidden, combination, data):
    b, n, groups = shape
    given = problem(b, n, groups, hidden, combination)
    whole = mixture_scores(*given)
    query, start = data.draw(st.integers(0, b - 1)), data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    part = mixture_scores(*given.of(slice(query, query + 1), slice(start, stop)))
    assert torch.equal(part[0], whole[query, start:stop])
    rows = torch.randint(n, (b, data.draw(st.integers(1, 70))), generator=torch.Generator().manual_seed(0))
    assert torch.equal(candidate_scores(*given, rows), whole.gather(1, rows))
    owners = (
        torch.randint(b, (data.draw(st.integers(0, 150)),)).sort().values
    )  # some have many pairs, some none
    rows = torch.randint(n, owners.shape)
    assert torch.equal(pair_scores(*given, owners, rows), whole[owners, rows])
    maxima = component_maxima(given.query_components, given.item_components)
    alone = component_maxima(given.query_components[query : query + 1], given.item_components[start:stop])
    assert torch.equal(alone[0], maxima[query, start:stop])


@pytest.mark.skipif(not mixture_native.available(), reason="there is no C++ compiler here")
@pytest.mark.parametrize("threads", [2, 3, 64])
def test_threads_do_not_change_a_bit(threads):
    given = problem(b=32, n=1000, groups=(8, 4, 64), hidden=128)
    before = torch.get_num_threads()
    found = []
    try:
        for number in (1, threads):
            torch.set_num_threads(number)
            found.append(mixture_scores(*given))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.skipif(not mixture_native.available(), reason="there is no C++ compiler here")
def test_the_largest_component_bounds_the_score_up_to_its_rounding():
    given = problem(b=8, n=500)
    scores, maxima = mixture_scores(*given), component_maxima(given.query_components, given.item_components)
    assert (scores <= maxima + 1e-6 * maxima.abs() + 1e-6).all()
    # With one component there is nothing to mix: the score is the component score, bit by bit.
    alone = problem(b=8, n=500, groups=(1, 1, 16))
    assert torch.equal(
        mixture_scores(*alone), component_maxima(alone.query_components, alone.item_components)
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_undefined_values_come_through(version, bad):
    given = problem()
    given.item_components[7, 2, 3] = bad
    given.query_components[:, :, 3] = 0.0  # 0 · inf is NaN too
    scores = mixture_scores(*given)
    maxima = component_maxima(given.query_components, given.item_components)
    for values in (scores, maxima, candidate_scores(*given, torch.arange(61).expand(5, -1))):
        assert values[:, 7].isnan().all()
        assert values[:, :7].isfinite().all() and values[:, 8:].isfinite().all()


def test_scores_far_outside_of_the_published_range_stay_right(version):
    given = problem()
    for scale in (1e-6, 10.0, 1e3):
        scaled = given._replace(query_components=scale * given.query_components)
        expected = mixture.plain_scores(*scaled.double())
        torch.testing.assert_close(
            mixture_scores(*scaled).double(), expected, atol=2e-5, rtol=2e-5 * max(1, scale)
        )


@pytest.mark.parametrize(("b", "n"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_score_is_an_empty_result(version, b, n):
    given = problem(b=b, n=n)
    assert mixture_scores(*given).shape == (b, n)
    assert component_maxima(given.query_components, given.item_components).shape == (b, n)
    assert candidate_scores(*given, torch.zeros(b, 0, dtype=torch.long)).shape == (b, 0)


@pytest.mark.parametrize("row", [-1, 61, 2**40])
def test_a_candidate_outside_of_the_corpus_is_an_error(version, row):
    rows = torch.zeros(5, 3, dtype=torch.long)
    rows[2, 1] = row
    with pytest.raises(IndexError):
        candidate_scores(*problem(), rows)


@pytest.mark.skipif(not mixture_native.available(), reason="there is no C++ compiler here")
@pytest.mark.parametrize(("owner", "row"), [(-1, 0), (5, 0), (0, -1), (0, 61)])
def test_a_pair_of_no_query_or_no_item_is_an_error(owner, row):
    with pytest.raises(IndexError, match="a pair is of no query" if row == 0 else "no row of the corpus"):
        pair_scores(*problem(), torch.tensor([0, owner]), torch.tensor([1, row]))


def test_tensors_that_do_not_go_together_are_refused():
    given = problem()
    if not mixture_native.available():
        pytest.skip("there is no C++ compiler here")
    weights = list(given.gate.layers)
    f, of_query, g, of_item, _ = given
    for wrong in (
        (f, of_query, g, problem(n=60).item_gate, weights),
        (f, problem(b=4).query_gate, g, of_item, weights),
        (f, of_query, problem(groups=(8, 4, 15)).item_components, of_item, weights),
        (f, of_query, g, of_item, list(problem(groups=(4, 4, 16)).gate.layers)),
    ):
        with pytest.raises(ValueError, match="do not go with"):
            mixture_native.mixture_scores.__wrapped__(*wrong, "sum")
    with pytest.raises(ValueError, match="rows must be int64"):
        candidate_scores(*given, torch.zeros(5, 2, dtype=torch.int32))


def test_a_gate_of_three_layers_is_refused():
    with pytest.raises(ValueError, match="two layers at most, not 3"):
        MixtureGate(((torch.zeros(2, 2), None),) * 3, "sum")


def test_strided_states_are_read_as_they_are(version):
    given = problem()
    columns = given.item_components.transpose(1, 2).contiguous().transpose(1, 2)
    assert not columns.is_contiguous()
    assert torch.equal(mixture_scores(*given._replace(item_components=columns)), mixture_scores(*given))
    every_other = problem(n=122)
    picked = every_other.of(slice(None), slice(None, None, 2))
    torch.testing.assert_close(
        mixture_scores(*picked), mixture_scores(*every_other)[:, ::2], atol=1e-5, rtol=1e-5
    )


def test_the_cost_is_that_of_the_formula():
    linear, none = (mixture.mixture_cost(2, 3, 5, hidden, queries=1) for hidden in (0, None))
    assert (linear.flops, none.flops) == (2 * 6 * 5 + 2 * 6 * 6, 2 * 6 * 5)
    assert none.bytes == 4 * (3 * 5 + 6) + 4
    assert mixture.mixture_cost(2, 3, 5, None, queries=1, item_bytes=2, gated_items=False).bytes == 2 * 15 + 4
