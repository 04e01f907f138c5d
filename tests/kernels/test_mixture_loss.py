"""Sampled softmax over Mixture-of-Logits: value and gradient of both versions against the formula in double precision."""

import ctypes
import itertools
import os
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench import runtime
from workbench.kernels import mixture_loss as module
from workbench.kernels import native
from workbench.kernels.dropout import kept
from workbench.kernels.mixture import Combination, MixtureGate, gate_weights
from workbench.kernels.mixture_loss import GateDropout, mixture_loss, plain_mixture_loss

needs_library = pytest.mark.skipif(module._library() is None, reason="there is no C++ compiler here")
NAMES = ("query components", "query gate", "item components", "item gate", "W1", "b1", "W2", "b2")


class Pairs(NamedTuple):
    query_components: Tensor
    query_gate: Tensor | None
    item_components: Tensor
    item_gate: Tensor | None
    gate: MixtureGate
    rows: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        layers = [t for layer in self.gate.layers for t in layer if t is not None]
        return [*(t for t in self[:4] if t is not None), *layers]

    def fresh(self, dtype: torch.dtype) -> "Pairs":
        """The same values in `dtype`, as leaves without a gradient yet."""

        def leaf(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.detach().to(dtype).requires_grad_()

        layers = tuple((leaf(w), leaf(b)) for w, b in self.gate.layers)
        return Pairs(*map(leaf, self[:4]), MixtureGate(layers, self.gate.combination), self.rows)


def pairs(
    t: int = 7,
    n: int = 40,
    candidates: int = 19,
    groups: tuple[int, int, int] = (4, 3, 16),
    hidden: int | None = 20,
    combination: Combination = "glu_silu",
    parts: tuple[bool, bool] = (True, True),
    biases: bool = True,
    seed: int = 0,
) -> Pairs:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=generator) * scale).requires_grad_()

    query_groups, item_groups, width = groups
    p = query_groups * item_groups
    shapes = [] if hidden is None else [(p, p)] if hidden == 0 else [(hidden, p), (p, hidden)]
    layers = tuple((randn(*s, scale=0.2), randn(s[0]) if biases else None) for s in shapes)
    rows = torch.randint(n, (t, candidates), generator=generator)
    rows[: t // 2, 1::3] = rows[: t // 2, :1]  # the positive again
    return Pairs(
        randn(t, query_groups, width, scale=3 / width**0.5),
        randn(t, p) if parts[0] else None,
        randn(n, item_groups, width),
        randn(n, p) if parts[1] else None,
        MixtureGate(layers, combination),
        rows,
    )


def literal(given: Pairs, dropout: GateDropout) -> Tensor:
    """The formula, all at once."""
    logits = torch.einsum(
        "tid,tcjd->tcij", given.query_components, given.item_components[given.rows]
    ).flatten(2)
    positions, (_, c, p) = torch.arange(len(logits)), logits.shape
    inputs = logits * kept(dropout.inputs, ~dropout.seed, positions, (c, p)) if dropout.inputs else logits
    query_part = None if given.query_gate is None else given.query_gate[:, None]
    item_part = None if given.item_gate is None else given.item_gate[given.rows]
    pi = gate_weights(given.gate.pair_part(inputs), query_part, item_part, given.gate.combination)
    if pi is None:
        scores = logits.mean(-1)
    else:
        if dropout.gate:
            pi = pi * kept(dropout.gate, dropout.seed, positions, (c, p))
            pi = pi / pi.sum(-1, keepdim=True).clamp(min=1e-6)
        scores = (pi * logits).sum(-1)
    total = torch.zeros((), dtype=logits.dtype)
    for row, ids in zip(scores, given.rows, strict=True):
        others = ids[1:] != ids[0]
        total = total + torch.cat([row[:1], row[1:][others]]).logsumexp(0) - row[0]
    return total / len(scores)


def differentiated(
    function, given: Pairs, dtype: torch.dtype, dropout: GateDropout
) -> tuple[Tensor, list[Tensor]]:
    given = given.fresh(dtype)
    loss = function(given, dropout) if function is literal else function(*given, dropout)
    return loss.detach().double(), [g.double() for g in torch.autograd.grad(loss, given.leaves)]


def agree(found: tuple[Tensor, list[Tensor]], wanted: tuple[Tensor, list[Tensor]], tolerance: float) -> None:
    torch.testing.assert_close(found[0], wanted[0], atol=tolerance, rtol=tolerance)
    assert len(found[1]) == len(wanted[1])
    # A gradient that cancels out (of the gate of one component, say) is off by the rounding of the terms that cancel.
    terms = max(float(want.abs().max()) for want in wanted[1])
    for got, want in zip(found[1], wanted[1], strict=True):
        scale = max(1e-3, 1e-2 * terms, float(want.abs().max()))
        torch.testing.assert_close(got, want, atol=tolerance * scale, rtol=0)


EVERY_GATE = list(
    itertools.product(
        (20, 0, None),
        ("glu_silu", "glu_silu_ln", "sum"),
        itertools.product((True, False), (True, False)),
        (GateDropout(), GateDropout(0.3, 0.2, seed=5)),
    )
)


@needs_library
@pytest.mark.parametrize(("hidden", "combination", "parts", "dropout"), EVERY_GATE)
def test_every_gate_agrees_with_the_formula_in_double_precision(hidden, combination, parts, dropout):
    given = pairs(hidden=hidden, combination=combination, parts=parts)
    wanted = differentiated(literal, given, torch.float64, dropout)
    agree(differentiated(mixture_loss, given, torch.float32, dropout), wanted, 3e-5)
    agree(differentiated(plain_mixture_loss, given, torch.float64, dropout), wanted, 1e-10)


@needs_library
@pytest.mark.parametrize("groups", [(8, 4, 64), (8, 4, 128), (8, 8, 32), (4, 4, 96)], ids=str)
def test_published_sizes_agree_with_the_formula(groups):
    given = pairs(t=5, n=300, candidates=129, groups=groups, hidden=128)
    dropout = GateDropout(0.2, 0.0, seed=11)
    wanted = differentiated(literal, given, torch.float64, dropout)
    agree(differentiated(mixture_loss, given, torch.float32, dropout), wanted, 3e-5)


@needs_library
@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*(st.integers(1, most) for most in (5, 30, 70))),
    groups=st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 40)),
    hidden=st.one_of(st.none(), st.integers(0, 40)),
    drops=st.tuples(st.sampled_from([0.0, 0.5, 0.95]), st.sampled_from([0.0, 0.5])),
    biases=st.booleans(),
    seed=st.integers(0, 2**62),
)
def test_any_shape_agrees_with_the_plain_version(shape, groups, hidden, drops, biases, seed):
    t, n, candidates = shape
    given = pairs(t, n, candidates, groups, hidden, biases=biases, seed=seed % 1000)
    dropout = GateDropout(*drops, seed)
    wanted = differentiated(plain_mixture_loss, given, torch.float64, dropout)
    agree(differentiated(mixture_loss, given, torch.float32, dropout), wanted, 1e-4)


@needs_library
@pytest.mark.parametrize(("candidates", "width"), [(1, 1), (2, 50), (16, 16), (129, 50), (600, 130)])
def test_inner_products_agree_with_the_formula(candidates, width):
    given = pairs(9, 30, candidates, (1, 1, width), None, parts=(False, False))
    wanted = differentiated(literal, given, torch.float64, GateDropout())
    agree(differentiated(mixture_loss, given, torch.float32, GateDropout(0.3, 0.2, 1)), wanted, 3e-5)


@needs_library
def test_a_position_whose_candidates_are_all_its_positive_has_no_loss():
    given = pairs(1, 30, 20, (1, 1, 8), None, parts=(False, False))
    given.rows.fill_(4)
    loss, gradients = differentiated(mixture_loss, given, torch.float32, GateDropout())
    assert loss == 0 and not gradients[0].any()


def test_the_gradient_is_that_of_finite_differences():
    given = pairs(t=3, n=6, candidates=4, groups=(2, 2, 3), hidden=5).fresh(torch.float64)

    def loss(*leaves: Tensor) -> Tensor:
        f, q, g, x, w1, b1, w2, b2 = leaves
        gate = MixtureGate(((w1, b1), (w2, b2)), given.gate.combination)
        return plain_mixture_loss(f, q, g, x, gate, given.rows, GateDropout(0.4, 0.2, 3))

    assert torch.autograd.gradcheck(loss, tuple(given.leaves))


@needs_library
@pytest.mark.parametrize("sharpness", [1.0, 300.0])
def test_weights_of_which_dropout_leaves_next_to_nothing(sharpness):
    """Where the component that has all the weight is dropped, the rest is divided by 1e-6 and no longer by its sum."""
    given = pairs(hidden=None, combination="sum", parts=(True, False))
    assert given.query_gate is not None
    given = given._replace(query_gate=(given.query_gate * sharpness).detach().clamp(-14, 14))
    dropout = GateDropout(0.5, 0.0, seed=2)
    pi = given.query_gate.softmax(-1)[:, None] * kept(0.5, 2, torch.arange(7), (19, 12))
    assert bool(((pi.sum(-1) < 1e-6) & (pi.sum(-1) > 0)).any()) == (sharpness > 1)
    agree(
        differentiated(mixture_loss, given, torch.float32, dropout),
        differentiated(literal, given, torch.float64, dropout),
        3e-5,
    )


@needs_library
def test_a_run_of_as_many_threads_gives_the_same_bits():
    given, threads = pairs(t=50), torch.get_num_threads()
    found = []
    try:
        for count in (3, 3, 1):
            torch.set_num_threads(count)
            found.append(differentiated(mixture_loss, given, torch.float32, GateDropout(0.2, 0.1, 1)))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert torch.equal(one, other)
    agree(found[2], found[0], 1e-6)


@needs_library
def test_a_frozen_part_and_a_factor_on_the_loss():
    given = pairs().fresh(torch.float32)
    given.item_components.requires_grad_(False)
    (3 * mixture_loss(*given, GateDropout())).backward()
    assert given.item_components.grad is None
    wanted = differentiated(literal, given.fresh(torch.float64), torch.float64, GateDropout())
    torch.testing.assert_close(given.query_components.grad.double(), 3 * wanted[1][0], atol=1e-5, rtol=1e-4)


def test_dropout_leaves_its_share_and_does_not_repeat_itself():
    drawn = kept(0.2, 1, torch.arange(400), (129, 32))
    share = (drawn == 0).double().mean()
    assert abs(share - 0.2) < 5 * (0.2 * 0.8 / drawn.numel()) ** 0.5
    for size in (0, 1, 2):  # as even along each dimension as chance has it
        means = (drawn == 0).double().mean([d for d in range(3) if d != size])
        sigma = (0.2 * 0.8 * drawn.shape[size] / drawn.numel()) ** 0.5
        assert (means - 0.2).abs().max() < 5 * sigma
    dropped = (drawn == 0).double().flatten(1) - 0.2
    correlation = dropped @ dropped.T / (0.16 * dropped.shape[1])  # of positions
    assert correlation.fill_diagonal_(0).abs().max() < 6 / dropped.shape[1] ** 0.5
    assert not torch.equal(drawn, kept(0.2, 2, torch.arange(400), (129, 32)))
    assert torch.equal(drawn[7:9], kept(0.2, 1, torch.tensor([7, 8]), (129, 32)))


@needs_library
@pytest.mark.parametrize("row", [-1, 40])
def test_a_candidate_that_is_no_row_of_the_items_is_an_error(row):
    given = pairs()
    given.rows[3, 2] = row
    with pytest.raises(IndexError, match=r"0\.\.39"):
        mixture_loss(*given, GateDropout())


@needs_library
def test_tensors_that_do_not_go_together_are_refused():
    given = pairs()
    (weight, bias), last = given.gate.layers
    narrow = MixtureGate(((weight[:, :5], bias), last), given.gate.combination)
    with pytest.raises(ValueError, match="first_weight must be of shape"):
        mixture_loss(*given._replace(gate=narrow), GateDropout())
    with pytest.raises(ValueError, match="rows must be int64"):
        mixture_loss(*given._replace(rows=given.rows.int()), GateDropout())


@needs_library
def test_nothing_of_the_size_of_all_pairs_is_held():
    script = (
        "import resource, torch\n"
        "from workbench.kernels.mixture_loss import GateDropout, mixture_loss\n"
        "from workbench.kernels.mixture import MixtureGate\n"
        "torch.set_num_threads(2)\n"
        "layer = lambda o, i: (torch.randn(o, i).requires_grad_(), torch.zeros(o, requires_grad=True))\n"
        "gate = MixtureGate((layer(16, 32), layer(32, 16)), 'glu_silu')\n"
        "f, q = torch.randn(4000, 8, 16).requires_grad_(), torch.randn(4000, 32).requires_grad_()\n"
        "g, x = torch.randn(100, 4, 16).requires_grad_(), torch.randn(100, 32).requires_grad_()\n"
        "def step(t):\n"
        "    rows = torch.randint(100, (t, 600))\n"
        "    mixture_loss(f[:t], q[:t], g, x, gate, rows, GateDropout(0.2, 0.0, 1)).backward()\n"
        "step(10)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "step(4000)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    all_pairs = 4 * 4000 * 600 * 32
    assert int(done.stdout) < all_pairs / 4


# Products in bfloat16

needs_bf16 = pytest.mark.skipif(not module.has_bf16(), reason="the processor has no AVX-512 BF16")


def rounded(given: Pairs, dropout: GateDropout, on: bool = True) -> tuple[Tensor, list[Tensor]]:
    with runtime.bf16_products(on):
        return differentiated(mixture_loss, given, torch.float32, dropout)


def near_float32(given: Pairs, dropout: GateDropout) -> None:
    """The loss within 1 %; each gradient within 5 % of its length, or of 1 % of the longest's if it cancels out."""
    loss, gradients = rounded(given, dropout)
    wanted, exact = rounded(given, dropout, on=False)
    assert abs(loss - wanted) <= 1e-2 * wanted
    longest = max(float(g.norm()) for g in exact)
    for got, want in zip(gradients, exact, strict=True):
        assert float((got - want).norm()) <= 0.05 * max(float(want.norm()), 1e-2 * longest)


@needs_bf16
@pytest.mark.parametrize(("hidden", "combination", "parts", "dropout"), EVERY_GATE)
def test_bf16_is_near_float32_for_every_gate(hidden, combination, parts, dropout):
    near_float32(pairs(hidden=hidden, combination=combination, parts=parts), dropout)


@needs_bf16
def test_the_setting_selects_bf16():
    given = pairs()
    assert not torch.equal(rounded(given, GateDropout())[0], rounded(given, GateDropout(), on=False)[0])


@needs_bf16
@pytest.mark.parametrize("groups", [(8, 4, 64), (8, 4, 128), (8, 8, 32), (1, 3, 5)], ids=str)
@pytest.mark.parametrize("hidden", [128, 0, None])
@pytest.mark.parametrize("combination", ["glu_silu", "glu_silu_ln", "sum"])
def test_bf16_is_near_float32_at_published_sizes(groups, hidden, combination):
    given = pairs(t=5, n=300, candidates=129, groups=groups, hidden=hidden, combination=combination)
    near_float32(given, GateDropout(0.2, 0.0, seed=11))


@needs_bf16
@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*(st.integers(1, most) for most in (5, 30, 70))),
    groups=st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 40)),
    hidden=st.one_of(st.none(), st.integers(0, 40)),
    seed=st.integers(0, 1000),
)
def test_bf16_is_near_float32_for_any_shape(shape, groups, hidden, seed):
    t, n, candidates = shape
    near_float32(pairs(t, n, candidates, groups, hidden, seed=seed), GateDropout(0.5, 0.5, seed))


@needs_library
def test_bf16_is_float32_if_it_is_turned_off_or_the_processor_lacks_it(monkeypatch, tmp_path):
    given, dropout = pairs(), GateDropout(0.2, 0.1, seed=3)
    wanted = rounded(given, dropout, on=False)
    with monkeypatch.context() as patch:
        patch.setenv(module.SWITCH, "0")
        off = rounded(given, dropout)
    usual = native._flags()
    without = ["-mno-avx512bf16"] if os.uname().machine == "x86_64" else []
    monkeypatch.setattr(native, "_flags", lambda: [*usual, *without])
    lacking = ctypes.CDLL(str(native.built(module.SOURCE, tmp_path)))
    monkeypatch.setattr(module, "_library", lambda: lacking)
    assert not module.has_bf16()
    for found in (off, rounded(given, dropout)):
        assert all(
            torch.equal(a, b) for a, b in zip((found[0], *found[1]), (wanted[0], *wanted[1]), strict=True)
        )
