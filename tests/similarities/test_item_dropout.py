"""Item dropout drawn for each candidate, as the published code does, and once for each item of a step."""

from dataclasses import replace

import pytest
import torch

from workbench.similarities import MixtureOfLogits, MoLConfig

CONFIG = MoLConfig(
    2, 2, 8, query_hidden=8, item_projection="linear", gate_query=4, gate_item=4, gate_pair=4,
    item_dropout=0.5, gate_dropout=0.0, dropout_per_candidate=True,
)  # fmt: skip


def built(config: MoLConfig) -> MixtureOfLogits:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MixtureOfLogits(config, 6)


def states(similarity: MixtureOfLogits):
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(1, 6, generator=generator).expand(40, -1)
    items = torch.randn(5, 6, generator=generator).requires_grad_()
    return similarity.queries(queries), similarity.items(items, torch.arange(1, 6)), items


def scores(config: MoLConfig) -> torch.Tensor:
    """Of one query, 40 times, with one item, three times."""
    similarity = built(config).train()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        queries, items, _ = states(similarity)
        return similarity.score_candidates(queries, items, torch.full((40, 3), 2)).detach()


def test_each_candidate_has_a_mask_of_its_own():
    found = scores(CONFIG)
    assert len(found.flatten().unique()) > 30
    once = scores(replace(CONFIG, dropout_per_candidate=False))
    torch.testing.assert_close(once, once[:1, :1].expand_as(once))


def test_the_same_scores_without_dropout_and_in_evaluation():
    rows = torch.randint(5, (40, 3), generator=torch.Generator().manual_seed(3))
    for config in (replace(CONFIG, item_dropout=0.0), CONFIG):
        similarity = built(config).train(config.item_dropout == 0)
        plain = built(replace(config, dropout_per_candidate=False)).train(similarity.training)
        found, wanted = (s.score_candidates(*states(s)[:2], rows) for s in (similarity, plain))
        torch.testing.assert_close(found, wanted)


def test_the_gradient_is_that_of_the_masks_that_were_drawn():
    """With its masks held still, the loss is a function whose slope along a step the gradient gives."""
    similarity = built(CONFIG).double().train()
    generator = torch.Generator().manual_seed(1)
    embedded = torch.randn(5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    queries = torch.randn(9, 6, generator=generator, dtype=torch.float64)
    rows = torch.randint(5, (9, 4), generator=generator)

    def loss(x: torch.Tensor) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            return similarity.sampled_softmax(
                similarity.queries(queries), similarity.items(x, torch.arange(1, 6)), rows
            )

    weight = similarity.item_network.linear.weight
    to_items, to_weight = torch.autograd.grad(loss(embedded), (embedded, weight))
    step = 1e-6 * torch.randn(5, 6, generator=generator, dtype=torch.float64)
    slope = (loss(embedded + step) - loss(embedded - step)).detach() / 2
    assert slope == pytest.approx(float((to_items * step).sum()), rel=1e-5)
    assert to_weight.abs().sum() > 0
