"""Causal attention in C++: value and gradient against the formula in double precision, and SASRec with and without it."""

import itertools
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.contracts import SequenceBatch
from workbench.encoders import SASRec, SASRecConfig
from workbench.encoders import self_attention as encoder_module
from workbench.kernels import causal_attention as module
from workbench.kernels.causal_attention import WeightDropout, causal_attention

needs_library = pytest.mark.skipif(module._library() is None, reason="there is no C++ compiler here")


def literal(qkv: Tensor, offsets: Tensor, heads: int, dropout: WeightDropout) -> Tensor:
    """The formula, history by history and head by head."""
    width = qkv.shape[1] // 3
    parts = [qkv[:0, :width]]
    for start, end in itertools.pairwise(offsets.tolist()):
        q, k, v = (t.unflatten(1, (heads, -1)).transpose(0, 1) for t in qkv[start:end].split(width, dim=1))
        later = torch.ones(end - start, end - start, dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(later, float("-inf"))
        weights = scores.softmax(-1)  # (H, L, L)
        if dropout.probability:
            mask = dropout.mask(torch.arange(start, end), heads, end - start)  # (L, H, L)
            weights = weights * mask.transpose(0, 1).to(weights.dtype)
        parts.append((weights @ v).transpose(0, 1).flatten(1))
    return torch.cat(parts)


def differentiated(function, qkv: Tensor, dtype: torch.dtype, *given) -> list[Tensor]:
    """The value, and the gradient of a weighted sum of it."""
    leaf = qkv.to(dtype).requires_grad_()
    value = function(leaf, *given)
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((value * weights.to(dtype)).sum(), leaf)
    return [value.detach().double(), gradient.double()]


def agree(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for got, want in zip(found, wanted, strict=True):
        scale = max(1e-3, float(want.abs().max())) if want.numel() else 1.0
        torch.testing.assert_close(got, want, atol=tolerance * scale, rtol=0)


def rows(lengths: list[int], width: int, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(sum(lengths), width, generator=generator), torch.tensor([0, *lengths]).cumsum(
        0
    )


@needs_library
@pytest.mark.parametrize(("heads", "dim"), [(1, 50), (4, 64), (4, 16)])
@pytest.mark.parametrize("dropout", [WeightDropout(), WeightDropout(0.2, seed=3)])
@pytest.mark.parametrize("scale", [1.0, 8.0])  # flat weights, and weights that pick one key
def test_published_shapes_agree_with_the_formula_in_double_precision(heads, dim, dropout, scale):
    # Lengths around vectors, strips and blocks, and the longest.
    qkv, offsets = rows([200, 97, 96, 49, 48, 47, 17, 16, 12, 1], 3 * heads * dim, scale=scale)
    wanted = differentiated(literal, qkv, torch.float64, offsets, heads, dropout)
    found = differentiated(causal_attention, qkv, torch.float32, offsets, heads, dropout)
    agree(found, wanted, 2e-5 * scale)


@needs_library
@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=5),
    heads=st.integers(1, 4),
    dim=st.integers(1, 35),
    dropout=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 2**62),
)
def test_any_shape_agrees_with_the_formula(lengths, heads, dim, dropout, seed):
    qkv, offsets = rows(lengths, 3 * heads * dim, seed % 1000)
    given = offsets, heads, WeightDropout(dropout, seed)
    wanted = differentiated(literal, qkv, torch.float64, *given)
    agree(differentiated(causal_attention, qkv, torch.float32, *given), wanted, 1e-4)


@needs_library
def test_the_number_of_threads_does_not_change_a_bit():
    (qkv, offsets), threads = rows([60, 100, 3, 41, 7, 88], 150), torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(
                differentiated(causal_attention, qkv, torch.float32, offsets, 2, WeightDropout(0.2, 1))
            )
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def encoded(native: bool, dropout: float, dtype: torch.dtype) -> list[Tensor]:
    """Outputs of a training encoder and all gradients, with the C++ version or without."""
    lengths = torch.tensor([3, 40, 1, 25] * 5)
    generator = torch.Generator().manual_seed(1)
    embeddings = torch.randn(20, 40, 8, generator=generator).to(dtype).requires_grad_()
    ids = torch.ones(20, 40, dtype=torch.long)
    batch = SequenceBatch(ids, ids, ids.float(), lengths, lengths * 0, lengths, lengths)
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr(encoder_module, "serves", lambda *_: False)
        torch.manual_seed(0)
        encoder = SASRec(SASRecConfig(2, 2, dropout=dropout), 8, 40).to(dtype).train()
        outputs = encoder(embeddings, batch)
    weights = torch.randn(outputs.shape, generator=generator)
    (outputs * weights * batch.valid[..., None]).sum().backward()
    return [outputs[batch.valid].detach(), embeddings.grad, *(p.grad for p in encoder.parameters())]


@needs_library
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_the_encoder_computes_the_same_with_and_without_a_compiler(dropout):
    found, plain, exact = (
        encoded(native, dropout, dtype)
        for native, dtype in ((True, torch.float32), (False, torch.float32), (False, torch.float64))
    )
    for got, other, want in zip(found, plain, exact, strict=True):
        scale = max(1.0, float(want.abs().max()))
        torch.testing.assert_close(got, other, atol=2e-5 * scale, rtol=0)
        torch.testing.assert_close(got.double(), want, atol=2e-5 * scale, rtol=0)


@needs_library
def test_tensors_that_do_not_go_together_are_refused():
    qkv, offsets = rows([5, 3], 12)
    with pytest.raises(ValueError, match="3 · 3 equal parts"):
        causal_attention(qkv, offsets, 3, WeightDropout())
    for wrong in (offsets.int(), torch.tensor([0, 9]), torch.tensor([1, 8]), torch.tensor([0, 9, 8])):
        with pytest.raises(ValueError, match="rise from 0 to 8"):
            causal_attention(qkv, wrong, 2, WeightDropout())


@needs_library
def test_nothing_of_the_size_of_all_pairs_is_held():
    script = (
        "import resource, torch\n"
        "from workbench.kernels.causal_attention import WeightDropout, causal_attention\n"
        "torch.set_num_threads(2)\n"
        "def step(length):\n"
        "    qkv = torch.randn(2 * length, 24).requires_grad_()\n"
        "    offsets = torch.tensor([0, length, 2 * length])\n"
        "    causal_attention(qkv, offsets, 2, WeightDropout(0.2)).sum().backward()\n"
        "step(10)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "step(4000)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    all_pairs = 4 * 2 * 2 * 4000 * 4000
    assert int(done.stdout) < all_pairs / 6
