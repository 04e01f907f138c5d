"""The tree of items: its shape, and what a beam narrower than the corpus finds."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.search import BruteForce
from workbench.search.tree import TreeBeam, cluster
from workbench.similarities.dot import DotConfig, DotProduct
from workbench.similarities.mol import MixtureOfLogits, MoLConfig


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def groups(count: int, each: int, dim: int = 8) -> Tensor:
    """Items in `count` tight groups."""
    centres = 5 * torch.randn(count, dim, generator=seeded(1))
    return (centres[:, None] + 0.1 * torch.randn(count, each, dim, generator=seeded(2))).flatten(0, 1)


@given(n=st.integers(1, 70), seed=st.integers(0, 5), tied=st.booleans())
@settings(deadline=None, max_examples=40)
def test_a_tree_is_balanced_and_holds_every_item_once(n, seed, tied):
    x = torch.zeros(n, 3) if tied else torch.randn(n, 3, generator=seeded(seed))
    tree = cluster(x, seeded(seed))
    assert sorted(tree.order.tolist()) == list(range(n))
    assert tree.levels == (n - 1).bit_length()
    for level, bounds in enumerate(tree.bounds):
        assert len(bounds) == 2**level + 1 and bounds[0] == 0 and bounds[-1] == n
        lengths = bounds.diff()
        assert (lengths >= 0).all() and lengths.max() - lengths.min() <= 1
    assert tree.bounds[-1].diff().max() == 1


def test_means_are_those_of_the_items_below():
    x = torch.randn(11, 3, generator=seeded())
    tree = cluster(x, seeded())
    means = tree.means(x)
    expected = [
        x[tree.order[a:b]].mean(0) if b > a else torch.zeros(3)
        for bounds in tree.bounds[1:-1]
        for a, b in pairwise(bounds)
    ]
    torch.testing.assert_close(means, torch.stack(expected))


def test_items_of_a_group_share_a_subtree():
    tree = cluster(groups(8, 16), seeded())
    leaves = tree.order.view(8, 16) // 16  # level 3: eight nodes of sixteen items
    assert (leaves == leaves[:, :1]).float().mean() > 0.95


def searcher(similarity, x: Tensor, beam: int, **settings: int) -> TreeBeam:
    tree = cluster(x, seeded())
    means = tree.means(x)
    with torch.no_grad():
        items = similarity.items(x, torch.arange(1, len(x) + 1))
        nodes = similarity.items(means, torch.arange(1, len(means) + 1))
    return TreeBeam(similarity, items, tree, nodes, beam, **settings)


@pytest.mark.parametrize("kind", ["dot", "mol"])
def test_a_narrow_beam_finds_what_lies_together_and_a_wide_one_everything(kind):
    torch.manual_seed(0)
    similarity = (
        DotProduct(DotConfig()) if kind == "dot" else MixtureOfLogits(MoLConfig(2, 2, 4, query_hidden=8), 8)
    ).eval()
    x = groups(16, 32)
    with torch.no_grad():
        q = similarity.queries(x[::40] + 0.1, torch.zeros(13, dtype=torch.int64))
        items = similarity.items(x, torch.arange(1, 513))
    truth = BruteForce(similarity, items).search(q, 10)
    recalls = []
    for beam in (8, 32, 128, 512):
        found = searcher(similarity, x, beam).search(q, 10)
        recalls.append(float((found.ids[:, :, None] == truth.ids[:, None]).any(2).float().mean()))
        assert found.exact.all() == (beam == 512)
        assert torch.equal(found.gap == 0, found.exact)
        assert (found.scores <= truth.scores + 1e-5).all()
        if beam == 8:
            assert (found.num_scored <= 2 * 8 * 9).all()
    assert recalls == sorted(recalls) and recalls[-1] == 1.0
    assert recalls[1] > 0.5


def test_the_budget_changes_nothing():
    similarity = DotProduct(DotConfig()).eval()
    x = groups(8, 16)
    q = similarity.queries(torch.randn(7, 8, generator=seeded()), torch.zeros(7, dtype=torch.int64))
    whole = searcher(similarity, x, 16).search(q, 5, torch.full((7, 2), 3))
    cut = searcher(similarity, x, 16, memory_budget=1).search(q, 5, torch.full((7, 2), 3))
    assert torch.equal(whole.ids, cut.ids) and torch.equal(whole.num_scored, cut.num_scored)


def test_fewer_items_under_the_beam_than_asked_for():
    similarity = DotProduct(DotConfig()).eval()
    q = similarity.queries(torch.randn(2, 8, generator=seeded()), torch.zeros(2, dtype=torch.int64))
    found = searcher(similarity, groups(8, 16), beam=2).search(q, 10)
    assert found.ids.shape == (2, 10)
    assert (found.ids[:, 4:] == -1).all() and (found.scores[:, 4:] == -torch.inf).all()
    assert not found.exact.any()


def test_bad_input_is_named():
    similarity = DotProduct(DotConfig()).eval()
    x = groups(2, 4)
    with pytest.raises(ValueError, match="finite"):
        cluster(x * torch.inf, seeded())
    with pytest.raises(ValueError, match="beam must be at least 1"):
        searcher(similarity, x, 0)
    with pytest.raises(ValueError, match="memory_budget"):
        searcher(similarity, x, 1, memory_budget=0)
    with pytest.raises(ValueError, match=r"cannot serve 7 items and 6 nodes"):
        tree = cluster(x, seeded())
        items = similarity.items(x, torch.arange(1, 9))
        TreeBeam(similarity, items[:7], tree, items[:6], 4)
