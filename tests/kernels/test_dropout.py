import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.kernels.dropout import Dropout, dropout

PROBABILITIES = [0.1, 0.2, 0.25, 0.5, 0.8, 0.999]


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        yield


def seeded_dropout(x: Tensor, probability: float, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return dropout(x, probability, training=True)


def test_evaluation_and_probability_zero_hand_back_the_input():
    x = torch.randn(5, 3)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
    module = Dropout(0.5)
    assert module(x) is not x
    assert module.eval()(x) is x


@pytest.mark.parametrize("probability", PROBABILITIES)
def test_the_share_of_zeros_is_the_probability(probability):
    n = 1_000_003  # not a multiple of four
    zeros = (dropout(torch.ones(n), probability, training=True) == 0).double().mean().item()
    deviation = (probability * (1 - probability) / n) ** 0.5
    assert abs(zeros - probability) < 5 * deviation + 2**-17


@pytest.mark.parametrize("probability", PROBABILITIES)
def test_what_stays_is_divided_by_the_share_that_stays(probability):
    x = torch.randn(4001, dtype=torch.float64)
    y = dropout(x, probability, training=True)
    kept = 1 - round(probability * 65536) / 65536
    assert abs(kept - (1 - probability)) <= 2**-17
    torch.testing.assert_close(y[y != 0], x[y != 0] / kept, atol=0, rtol=1e-15)
    assert 0 < (y != 0).sum() < len(x)


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.8])
def test_the_mean_is_preserved(probability):
    y = dropout(torch.ones(1_000_000), probability, training=True)
    deviation = (probability / (1 - probability) / y.numel()) ** 0.5
    assert abs(y.mean().item() - 1) < 5 * deviation


def test_the_four_elements_of_a_draw_are_independent():
    y = (dropout(torch.ones(400_000), 0.5, training=True) != 0).double().view(-1, 4)
    correlations = torch.corrcoef(y.T) - torch.eye(4)
    assert correlations.abs().max() < 0.02
    shifted = torch.corrcoef(torch.stack([y[:-1, 3], y[1:, 0]]))
    assert shifted[0, 1].abs() < 0.02


def test_the_seed_decides():
    x = torch.randn(1000)
    assert torch.equal(seeded_dropout(x, 0.3, 1), seeded_dropout(x, 0.3, 1))
    assert not torch.equal(seeded_dropout(x, 0.3, 1), seeded_dropout(x, 0.3, 2))


@given(shape=st.lists(st.integers(0, 5), max_size=4), probability=st.floats(0.01, 0.99))
@settings(deadline=None)
def test_any_shape(shape, probability):
    x = torch.full(shape, 3.0)
    y = seeded_dropout(x, probability, 0)
    assert y.shape == x.shape and y.dtype == x.dtype
    kept = 1 - round(probability * 65536) / 65536
    assert ((y == 0) | ((y - 3 / kept).abs() <= 1e-6 * 3 / kept)).all()


def test_strided_input_is_dropped_where_it_is_read():
    x = torch.arange(1.0, 13.0).view(3, 4).T
    y = seeded_dropout(x, 0.5, 0)
    assert torch.equal(y, seeded_dropout(x.contiguous(), 0.5, 0))
    assert set((y / x).flatten().tolist()) == {0.0, 2.0}


def test_the_gradient_is_the_mask():
    x = torch.randn(50, requires_grad=True)
    y = dropout(x, 0.5, training=True)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, 2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_type_stays(dtype):
    assert dropout(torch.ones(9, dtype=dtype), 0.5, training=True).dtype == dtype


@pytest.mark.parametrize("probability", [1e-7, 1 - 1e-7])
def test_probabilities_beyond_sixteen_bits_are_left_to_torch(probability):
    y = dropout(torch.ones(1000), probability, training=True)
    assert (y == 0).float().mean().item() == pytest.approx(probability, abs=0.01)


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_an_impossible_probability_is_refused(probability):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        Dropout(probability)
