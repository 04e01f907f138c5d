import pytest
import torch
from torch import nn

from workbench.similarities import MixtureOfLogits, MoLConfig
from workbench.similarities.projections import GLU, Projection, hidden_network, published_initialization


def test_a_glu_by_hand():
    glu = GLU("swiglu", 1, 1)
    with torch.no_grad():
        glu.weight.copy_(torch.tensor([[2.0, 3.0]]))
        glu.bias.copy_(torch.tensor([[1.0, -1.0]]))
    x = torch.tensor([[0.5], [-2.0]])
    left, right = 2 * x + 1, 3 * x - 1
    torch.testing.assert_close(glu(x), left * left.sigmoid() * right)
    glu.kind = "geglu"
    torch.testing.assert_close(glu(x), left * 0.5 * (1 + torch.erf(left / 2**0.5)) * right)


def test_hidden_networks_have_the_published_layers():
    hidden = hidden_network(4, 5, 6, 0.1, last_bias=False)
    assert [tuple(p.shape) for p in hidden.parameters()] == [(5, 4), (5,), (6, 5)]
    linear = hidden_network(4, 0, 6, 0.1, last_bias=True)
    assert [tuple(p.shape) for p in linear.parameters()] == [(6, 4), (6,)]


def test_the_published_draw():
    similarity = MixtureOfLogits(
        MoLConfig(8, 4, 64, user_tables=(3000,), item_projection="geglu", item_hidden=256), dim=50
    )
    for name, parameter in similarity.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == 0).all(), name
            continue
        fan = sum(parameter.shape)
        expected = (2 / fan) ** 0.5
        assert parameter.std().item() == pytest.approx(expected, rel=0.1), name
        assert abs(parameter.mean().item()) < 5 * expected / parameter.numel() ** 0.5, name
    # Unlike the modules' own: the row kept free is drawn too, and so are the GLU's biases, stored with two dimensions.
    assert (similarity.user_tables[0].table.weight[0] != 0).all()
    assert (similarity.query_network.glu.bias != 0).all()
    glu = similarity.query_network.glu.weight  # 50 to 2 × 512
    assert glu.std().item() == pytest.approx((2 / (50 + 1024)) ** 0.5, rel=0.05)


def test_the_draw_touches_what_it_is_given_alone():
    inner, outer = nn.Linear(3, 2), nn.Linear(3, 2)
    before = outer.weight.clone()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        published_initialization(inner)
    assert torch.equal(outer.weight, before)
    assert (inner.bias == 0).all()


@pytest.mark.parametrize("kind", ["swiglu", "linear"])
def test_a_projection_drops_its_input_in_training(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        projection = Projection(kind, 4, 5, 3, 0.5)
        published_initialization(projection)
        x = torch.randn(7, 4)
        assert not torch.equal(projection(x), projection(x))
        projection.eval()
        assert torch.equal(projection(x), projection(x))
    assert projection(x).shape == (7, 3)
