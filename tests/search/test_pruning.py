"""The table of bounds: each is one, and tighter ones leave less."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench import runtime
from workbench.search.cells import cells
from workbench.search.pruning import largest_mixture, pruning, silu_interval
from workbench.similarities.mol import MixtureOfLogits, MoLConfig

numbers = st.floats(-3, 3, width=32)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), parts=st.integers(1, 5))
def test_the_largest_mixture_is_at_a_vertex_of_the_box(data, parts):
    draw = [data.draw(st.lists(numbers, min_size=parts, max_size=parts)) for _ in range(3)]
    scores, one, other = torch.tensor(draw)
    lower, upper = torch.minimum(one, other), torch.maximum(one, other)
    vertices = [torch.stack(ends) for ends in itertools.product(*zip(lower, upper, strict=True))]
    best = max(float((w.softmax(0) * scores).sum()) for w in vertices)
    assert float(largest_mixture(scores, lower, upper)) == pytest.approx(best, abs=1e-5)


@given(ends=st.tuples(numbers, numbers), inside=st.floats(0, 1))
def test_silu_stays_in_its_interval(ends, inside):
    low, high = torch.tensor(min(ends)), torch.tensor(max(ends))
    least, most = silu_interval(low, high)
    value = torch.nn.functional.silu(low + inside * (high - low))
    assert least - 1e-6 <= value <= most + 1e-6


@pytest.mark.parametrize("hidden", [8, 0, None])
def test_tighter_bounds_leave_less_and_none_less_than_the_best_k(hidden):
    config = MoLConfig(3, 2, 4, query_hidden=8, gate_pair=hidden)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        similarity = MixtureOfLogits(config, 6).eval()
        queries = similarity.queries(torch.randn(4, 6), torch.arange(4))
        items = similarity.items(torch.randn(400, 6), torch.arange(1, 401))
    left = {s.bound: s.share for s in pruning(similarity, queries, items, 5, runtime.generator(0))}
    assert all(((share >= 5 / 400 - 1e-6) & (share <= 1)).all() for share in left.values())
    largest = left["largest component score, full"]
    assert (left["largest component score, int8"] >= largest).all()
    assert (left["largest component score, 16 clusters"] >= largest).all()
    assert list(left)[-1] == "the best k"
    if hidden is None:
        assert not any("gate" in name for name in left)
        return
    for tight, loose in itertools.pairwise([0.1, 0.5, 1, 2]):
        assert (left[f"pair gate to ±{tight:g}"] <= left[f"pair gate to ±{loose:g}"]).all()
    assert (left["pair gate within its range, all items"] <= largest + 1e-6).all()
    assert (left["gate in bfloat16, worst case"] <= largest + 1e-6).all()


def test_the_gate_in_half_precision_stays_within_its_error():
    from workbench.search.pruning import half_precision_error

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        similarity = MixtureOfLogits(MoLConfig(3, 2, 4, query_hidden=8, gate_pair=8), 6).eval()
        s = 10 * torch.randn(5, 300, 6)
        first, last = (m for m in similarity.gate_pair if isinstance(m, torch.nn.Linear))
        exact = similarity.gate_pair(s)
        half = [t.bfloat16().float() for t in (s, first.weight, last.weight)]
        hidden = torch.nn.functional.silu(half[0] @ half[1].T + first.bias).bfloat16().float()
        rounded = hidden @ half[2].T + last.bias
    error = half_precision_error(similarity, s)
    assert ((exact - rounded).abs() <= error + 1e-4).all()
    assert (error.mean() < 3 * (exact - rounded).abs().amax()).item()


def test_other_gates_are_refused_and_clusters_are_numbered_without_gaps():
    similarity = MixtureOfLogits(MoLConfig(2, 2, 4, query_hidden=8, gate_combination="sum"), 6).eval()
    with torch.no_grad():
        queries = similarity.queries(torch.randn(1, 6), torch.arange(1))
        items = similarity.items(torch.randn(9, 6), torch.arange(1, 10))
    with pytest.raises(ValueError, match="known for glu_silu gates, not sum"):
        next(pruning(similarity, queries, items, 2, runtime.generator(0)))
    member = cells(torch.tensor([[0.0], [0.1], [9.0], [9.1]]), 3, runtime.generator(0)).member
    assert sorted(member.unique().tolist()) == list(range(int(member.max()) + 1))
    assert member[0] == member[1] or member[2] == member[3]
