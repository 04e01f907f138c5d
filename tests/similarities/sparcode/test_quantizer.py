import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.similarities.sparcode.quantizer import QuantizerConfig, VectorQuantizer, rotated


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ready(config: QuantizerConfig, dim: int = 6, seed: int = 0) -> VectorQuantizer:
    """A quantizer that has seen one batch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        quantizer = VectorQuantizer(config, dim).train()
        quantizer(randn(50, dim, seed=9))
    return quantizer


@given(m=st.integers(1, 3), n=st.integers(2, 6), residual=st.booleans(), seed=st.integers(0, 20))
@settings(deadline=None, max_examples=30)
def test_each_piece_goes_to_its_nearest_codeword_and_codes_say_which(m, n, residual, seed):
    quantizer = ready(QuantizerConfig(m, n, residual=residual), seed=seed).eval()
    tokens = randn(4, 3, 6, seed=seed)
    found = quantizer(tokens)
    for token, quantized, code, error in zip(
        tokens.flatten(0, 1),
        found.tokens.flatten(0, 1),
        found.codes.flatten(),
        found.errors.flatten(),
        strict=True,
    ):
        left, chosen = token, []
        pieces = [token] * m if residual else list(token.chunk(m))
        for book, piece in zip(quantizer.codewords, pieces, strict=True):
            here = left if residual else piece
            best = min(range(n), key=lambda j, h=here, b=book: float((h - b[j]).square().sum()))
            chosen.append(best)
            left = left - book[best] if residual else left
        words = [quantizer.codewords[i, c] for i, c in enumerate(chosen)]
        expected = sum(words) if residual else torch.cat(words)
        torch.testing.assert_close(quantized, expected)
        torch.testing.assert_close(error, (token - expected).square().mean())
        number = 0
        for c in chosen:
            number = number * n + c
        assert int(code) == number
    torch.testing.assert_close(quantizer.lookup(found.codes), found.tokens)
    assert quantizer.digits(found.codes).shape == (4, 3, m)


def test_codebooks_follow_their_tokens_by_moving_averages():
    quantizer = ready(QuantizerConfig(1, 3, decay=0.9, restart_below=0.0))
    counts, sums, words = quantizer.counts.clone(), quantizer.sums.clone(), quantizer.codewords.clone()
    tokens = randn(20, 6, seed=3)
    found = quantizer(tokens)
    assert torch.equal(found.tokens.detach(), words[0][found.codes])  # as they were before the batch
    for j in range(3):
        mine = tokens[found.codes == j]
        n = 0.9 * counts[0, j] + 0.1 * len(mine)
        total = 0.9 * sums[0, j] + 0.1 * mine.sum(0)
        torch.testing.assert_close(quantizer.counts[0, j], n)
        torch.testing.assert_close(quantizer.codewords[0, j], total / n)


def test_nothing_moves_without_training():
    quantizer = ready(QuantizerConfig(2, 4)).eval()
    before = quantizer.codewords.clone()
    quantizer(randn(9, 6))
    with torch.no_grad():
        quantizer.train()(randn(9, 6))
    assert torch.equal(quantizer.codewords, before)
    assert not list(quantizer.parameters())
    assert set(quantizer.state_dict()) == {"counts", "sums", "codewords"}


def test_gradients_are_those_that_were_asked_for():
    tokens, weights = randn(7, 6, seed=4), randn(7, 6, seed=5)
    gradients = {}
    for kind in ("commitment", "straight-through", "rotation"):
        quantizer = ready(QuantizerConfig(2, 4, gradient=kind)).eval()
        leaf = tokens.clone().requires_grad_()
        found = quantizer(leaf)
        torch.testing.assert_close(found.tokens, quantizer.lookup(found.codes))
        if kind == "commitment":
            assert not found.tokens.requires_grad
            found.errors.sum().backward()
            torch.testing.assert_close(leaf.grad, 2 * (tokens - found.tokens) / 6)
            continue
        (found.tokens * weights).sum().backward()
        gradients[kind] = leaf.grad
    assert torch.equal(gradients["straight-through"], weights)
    assert not torch.allclose(gradients["rotation"], weights)


def test_the_rotation_trick_turns_tokens_into_codewords_and_gradients_back():
    t, e = randn(5, 4), randn(5, 4, seed=1)
    leaf = t.clone().requires_grad_()
    turned = rotated(leaf, e)
    torch.testing.assert_close(turned, e, rtol=1e-4, atol=1e-5)
    # The gradient keeps its length but for λ, and its angle to t̂ becomes the angle to t.
    turned.backward(e)
    scale = e.norm(dim=1, keepdim=True) / t.norm(dim=1, keepdim=True)
    torch.testing.assert_close(leaf.grad, t * scale * scale, rtol=1e-4, atol=1e-5)


def test_dead_codewords_are_restarted_among_the_tokens():
    quantizer = ready(QuantizerConfig(1, 4, decay=0.5, restart_below=0.1))
    with torch.no_grad():
        quantizer.codewords[0, 1] = 1e3  # nothing is near it, and its count fades
    near = randn(40, 6, seed=7)
    for _ in range(12):
        quantizer(near)
    assert bool((quantizer.codewords[0].norm(dim=1) < 50).all())
    usage, perplexity = quantizer.usage()
    assert usage.tolist() == [1.0] and 2 < float(perplexity) <= 4.001
    still = ready(QuantizerConfig(1, 4, decay=0.5, restart_below=0.0))
    with torch.no_grad():
        still.codewords[0, 1] = 1e3
        still.sums[0, 1] = 1e3 * still.counts[0, 1]
    for _ in range(12):
        still(near)
    assert float(still.codewords[0, 1].norm()) > 50 and still.usage()[0].item() < 1


def test_usage_is_undefined_before_the_first_batch():
    usage, perplexity = VectorQuantizer(QuantizerConfig(2, 4), 6).usage()
    assert usage.isnan().all() and perplexity.isnan().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codebooks": 0}, "1 codebook and 2 codewords or more, not 0"),
        ({"codewords": 1}, "not 2 and 1"),
        ({"codebooks": 9, "codewords": 256}, "more codes than int64"),
        ({"decay": 1.0}, "decay"),
        ({"commitment": -0.1}, "commitment must be at least 0"),
        ({"commitment": 0.0}, "nothing would train the tokenizer"),
        ({"restart_below": 1.0}, "restart_below"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        QuantizerConfig(**settings)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="width 5 cannot be cut into 2"):
        VectorQuantizer(QuantizerConfig(2, 4), 5)
    quantizer = ready(QuantizerConfig(2, 4))
    with pytest.raises(ValueError, match=r"codes lie in 0\.\.15"):
        quantizer.lookup(torch.tensor([16]))
    assert quantizer.lookup(torch.zeros(0, dtype=torch.int64)).shape == (0, 6)
    assert quantizer(torch.zeros(0, 6)).tokens.shape == (0, 6)


@pytest.mark.parametrize("residual", [False, True])
def test_k_means_finds_separate_groups_and_training_goes_on_from_them(residual):
    centres = torch.tensor([[8.0, 0, 0, 0], [0, 8, 0, 0], [0, 0, 8, 0]])
    tokens = centres.repeat(40, 1) + 0.01 * randn(120, 4)
    quantizer = VectorQuantizer(QuantizerConfig(1, 3, residual=residual), 4)
    quantizer.fit(tokens, torch.Generator().manual_seed(0))
    assert float(quantizer.eval()(tokens).errors.mean()) < 0.01
    torch.testing.assert_close(quantizer.counts.sum(), torch.tensor(3.0))
    before = quantizer.codewords.clone()
    quantizer.train()(tokens)
    assert float((quantizer.codewords - before).abs().max()) < 0.1  # nothing was restarted
    with pytest.raises(ValueError, match="at least as many tokens"):
        quantizer.fit(tokens[:2], torch.Generator())
