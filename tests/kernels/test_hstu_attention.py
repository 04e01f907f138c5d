"""The attention of HSTU in C++: value and gradient against the formula in double precision, and the encoder with it."""

import itertools
import subprocess
import sys
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.contracts import SequenceBatch
from workbench.encoders import HSTU, HSTUConfig
from workbench.encoders import hstu as encoder_module
from workbench.kernels import hstu_attention as module
from workbench.kernels.dropout import kept
from workbench.kernels.hstu_attention import AttentionShape, Events, events, hstu_attention

needs_library = pytest.mark.skipif(module._library() is None, reason="there is no C++ compiler here")
BOUNDS = torch.tensor([1, 2, 5, 20, 100, 5000])


class Given(NamedTuple):
    projected: Tensor
    position: Tensor
    time: Tensor
    events: Events
    shape: AttentionShape
    seen_at: Tensor
    happened_at: Tensor


def problem(
    lengths: list[int], shape: AttentionShape, ordered: bool = True, seed: int = 0, scale: float = 1.0
) -> Given:
    generator = torch.Generator().manual_seed(seed)

    def randn(*size: int) -> Tensor:
        return scale * torch.randn(size, generator=generator)

    rows = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    seen, happened = torch.zeros(2, rows, dtype=torch.long)
    for start, end in itertools.pairwise(offsets.tolist()):
        times = torch.randint(0, 3000, (end - start + 1,), generator=generator)
        if ordered:
            times = times.sort().values
        happened[start:end], seen[start:end] = times[:-1], times[1:]
    return Given(
        randn(rows, 2 * shape.heads * (shape.qk_dim + shape.v_dim)),
        randn(2 * shape.padded_length - 1),
        randn(len(BOUNDS) + 1),
        events(offsets, seen, happened, BOUNDS),
        shape,
        seen,
        happened,
    )


def literal(
    projected: Tensor, position: Tensor, time: Tensor, events: Events, shape: AttentionShape, *times: Tensor
) -> Tensor:
    """The formula, history by history and head by head."""
    values, keys = shape.heads * shape.v_dim, shape.heads * shape.qk_dim
    u, v, q, k = F.silu(projected).split([values, values, keys, keys], dim=1)
    parts = [u[:0]]
    bounds = events.offsets.tolist()
    for start, end in itertools.pairwise(bounds):
        rows, steps = slice(start, end), torch.arange(end - start)
        apart = (times[0][rows, None] - times[1][None, rows]).abs()
        bucket = (apart[:, :, None] >= BOUNDS).sum(2)
        bias = position[steps[None] - steps[:, None] + shape.padded_length - 1] + time[bucket]
        heads = []
        for h in range(shape.heads):
            of_keys = slice(h * shape.qk_dim, (h + 1) * shape.qk_dim)
            weights = F.silu(q[rows, of_keys] @ k[rows, of_keys].T + bias).tril() / shape.padded_length
            heads.append(weights @ v[rows, h * shape.v_dim : (h + 1) * shape.v_dim])
        parts.append(torch.cat(heads, dim=1))
    gated = u * F.layer_norm(torch.cat(parts), (values,), eps=shape.eps)
    if not shape.dropout:
        return gated
    return gated * kept(shape.dropout, shape.seed, torch.arange(len(gated)), (values,)).to(gated.dtype)


def differentiated(function, problem: Given, dtype: torch.dtype) -> list[Tensor]:
    """The value, and the gradient of a weighted sum of it for projection, position and time."""
    leaves = [t.to(dtype).requires_grad_() for t in problem[:3]]
    times = (problem.seen_at, problem.happened_at) if function is literal else ()
    value = function(*leaves, problem.events, problem.shape, *times)
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(
        (value * weights.to(dtype)).sum(), leaves, allow_unused=True, materialize_grads=True
    )
    return [t.detach().double() for t in (value, *gradients)]


def agree(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for got, want in zip(found, wanted, strict=True):
        scale = max(1e-3, float(want.abs().max())) if want.numel() else 1.0
        torch.testing.assert_close(got, want, atol=tolerance * scale, rtol=0)


PUBLISHED = AttentionShape(2, 25, 25, 211, 1e-6, 0.2, seed=3)


@needs_library
@pytest.mark.parametrize(
    "shape",
    [PUBLISHED, replace(PUBLISHED, dropout=0.0), AttentionShape(8, 32, 32, 211, 1e-6, 0.2),
     AttentionShape(16, 8, 8, 211, 1e-6, 0.5, seed=2**62 - 1), AttentionShape(1, 50, 50, 211, 1e-6, 0.2)],
    ids=["ml-1m", "no dropout", "ml-20m", "amazon-books", "cpu"],
)  # fmt: skip
@pytest.mark.parametrize("ordered", [True, False])
def test_published_shapes_agree_with_the_formula_in_double_precision(shape, ordered):
    # Lengths around vectors, strips and blocks, and the longest.
    given = problem([200, 97, 96, 49, 48, 47, 17, 16, 12, 1], shape, ordered, scale=0.7)
    wanted = differentiated(literal, given, torch.float64)
    agree(differentiated(hstu_attention, given, torch.float32), wanted, 2e-5)


@needs_library
@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 60), max_size=5),
    widths=st.tuples(st.integers(1, 4), st.integers(1, 35), st.integers(1, 35)),
    dropout=st.sampled_from([0.0, 0.3, 0.9]),
    ordered=st.booleans(),
    seed=st.integers(0, 2**62),
)
def test_any_shape_agrees_with_the_formula(lengths, widths, dropout, ordered, seed):
    shape = AttentionShape(*widths, max([1, *lengths]) + seed % 3, 1e-6, dropout, seed)
    given = problem(lengths, shape, ordered, seed % 1000)
    wanted = differentiated(literal, given, torch.float64)
    if (
        shape.v_dim * shape.heads == 1
    ):  # the layer norm of one number is 0, up to what rounding leaves divided by √ε
        wanted[1] = differentiated(hstu_attention, given, torch.float32)[1]
    agree(differentiated(hstu_attention, given, torch.float32), wanted, 1e-3)


@needs_library
def test_the_number_of_threads_does_not_change_a_bit():
    given, threads = problem([60, 100, 3, 41, 7, 88], PUBLISHED), torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(differentiated(hstu_attention, given, torch.float32))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@needs_library
def test_a_history_has_the_same_bits_in_any_company():
    given = problem([60, 100, 3], replace(PUBLISHED, dropout=0.0))
    alone = events(torch.tensor([0, 100]), given.seen_at[60:160], given.happened_at[60:160], BOUNDS)
    together = hstu_attention(*given[:5])
    assert torch.equal(
        hstu_attention(given.projected[60:160], given.position, given.time, alone, given.shape),
        together[60:160],
    )


def encoded(native: bool, request_time: bool, dropout: float, dtype: torch.dtype) -> list[Tensor]:
    """Outputs of a training encoder and all gradients, with the C++ version or without."""
    lengths = torch.tensor([3, 40, 1, 25] * 5)
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(20, 40, 8, generator=generator).to(dtype).requires_grad_()
    times = torch.randint(10**8, (20, 40), generator=generator).sort(1).values
    ids = torch.ones(20, 40, dtype=torch.long)
    batch = SequenceBatch(ids, times, ids.float(), lengths, lengths * 0, lengths, times[:, -1] + 7)
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr(encoder_module, "serves", lambda *_: False)
        torch.manual_seed(0)
        config = HSTUConfig(2, 2, qk_dim=4, v_dim=6, dropout=dropout, request_time=request_time)
        encoder = HSTU(config, 8, 40).to(dtype).train()
        outputs = encoder(embeddings, batch)
    weights = torch.randn(outputs.shape, generator=generator)
    (outputs * weights * batch.valid[..., None]).sum().backward()
    return [outputs[batch.valid].detach(), embeddings.grad, *(p.grad for p in encoder.parameters())]


@needs_library
@pytest.mark.parametrize("request_time", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_encoder_computes_the_same_with_and_without_a_compiler(request_time, dropout):
    found, plain, exact = (
        encoded(native, request_time, dropout, dtype)
        for native, dtype in ((True, torch.float32), (False, torch.float32), (False, torch.float64))
    )
    for got, other, want in zip(found, plain, exact, strict=True):
        scale = float(want.abs().max())
        torch.testing.assert_close(got, other, atol=2e-5 * scale, rtol=0)
        if not dropout:  # in double precision the inputs' dropout draws other bits
            torch.testing.assert_close(got.double(), want, atol=2e-5 * scale, rtol=0)


def test_the_gradient_of_the_torch_version_is_that_of_finite_differences():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = HSTU(HSTUConfig(1, 2, 2, 3, dropout=0.0), 4, 5).double()
    lengths = torch.tensor([5, 2])
    times = torch.tensor([[0, 10, 10, 500, 9000], [3, 4, 0, 0, 0]])
    batch = SequenceBatch(times, times, times.double(), lengths, lengths, lengths, times.amax(1) + 9)
    embeddings = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    position, time = encoder.blocks[0].bias.position, encoder.blocks[0].bias.time
    assert torch.autograd.gradcheck(lambda *_: encoder(embeddings, batch), (embeddings, position, time))


def test_the_least_seconds_of_a_bucket_are_those_of_the_published_formula():
    least = encoder_module._least_seconds()
    apart = torch.randint(-(10**9), 10**9, (100_000,), generator=torch.Generator().manual_seed(0))
    apart[:256] = torch.cat([least, 1 - least])  # either side of every bound
    wanted = (apart.abs()[:, None] >= least).sum(1)
    assert torch.equal(encoder_module.time_buckets(apart, torch.zeros_like(apart)), wanted)


@needs_library
def test_every_time_difference_is_in_its_bucket():
    """One query and one key at a time, apart by what lies next to the published bounds, either way."""
    least, draws = encoder_module._least_seconds(), torch.Generator().manual_seed(0)
    apart = torch.cat(
        [least, least - 1, torch.tensor([0, 2**63 - 1]), torch.randint(2**62, (1000,), generator=draws)]
    )
    apart = torch.cat([apart, -apart, torch.tensor([-(2**63)])])
    zeros = torch.zeros_like(apart)
    found = events(torch.arange(len(apart) + 1), apart, zeros, least).buckets
    assert torch.equal(found.long(), encoder_module.time_buckets(apart, zeros))


@needs_library
def test_times_and_bounds_that_have_no_buckets_are_refused():
    offsets, times = torch.tensor([0, 2]), torch.tensor([3, 4])
    for bounds in ([1, 2, 100, 101], [1, 20, 5], [-1, 2]):
        with pytest.raises(ValueError, match="bounds must rise"):
            events(offsets, times, times, torch.tensor(bounds))
    with pytest.raises(ValueError, match="256 time buckets"):
        events(offsets, times, times, torch.arange(256))
    with pytest.raises(ValueError, match="must be int64"):
        events(offsets, times.int(), times, BOUNDS)
    for wrong in ([0, 3], [1, 2], [0, 4, 2]):
        with pytest.raises(ValueError, match="offsets must rise from 0 to the number of rows"):
            events(torch.tensor(wrong), times, times, BOUNDS)


@needs_library
def test_tensors_that_do_not_go_together_are_refused():
    given = problem([5, 3], PUBLISHED)
    for changes, message in (
        ({"projected": given.projected[:, :-1]}, "projected must be of shape"),
        ({"projected": given.projected[:-1]}, "offsets must rise"),
        ({"position": given.position[:-1]}, "position must be of shape"),
        ({"time": given.time[:2]}, "a place for each of"),
        ({"shape": replace(PUBLISHED, padded_length=4), "position": torch.zeros(7)}, "at most 4"),
    ):
        with pytest.raises(ValueError, match=message):
            hstu_attention(*given._replace(**changes)[:5])


@needs_library
def test_nothing_of_the_size_of_all_pairs_is_held():
    script = (
        "import resource, torch\n"
        "from workbench.kernels.hstu_attention import AttentionShape, events, hstu_attention\n"
        "torch.set_num_threads(2)\n"
        "shape = AttentionShape(2, 4, 4, 4000, 1e-6, 0.2)\n"
        "def step(length):\n"
        "    times, bounds = torch.arange(2 * length), torch.tensor([1, 100])\n"
        "    happened = events(torch.tensor([0, length, 2 * length]), times, times, bounds)\n"
        "    tables = torch.randn(7999).requires_grad_(), torch.randn(3).requires_grad_()\n"
        "    projected = torch.randn(2 * length, 32).requires_grad_()\n"
        "    hstu_attention(projected, *tables, happened, shape).sum().backward()\n"
        "step(10)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "step(4000)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    all_pairs = 4 * 2 * 2 * 4000 * 4000
    assert int(done.stdout) < all_pairs / 6
