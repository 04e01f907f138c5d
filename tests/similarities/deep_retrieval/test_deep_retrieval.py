"""Deep Retrieval: its settings, its parts of the loss, and its turns of learning paths."""

import math

import pytest
import torch
from torch import Tensor

from workbench import similarities
from workbench.similarities import DeepRetrieval, DeepRetrievalConfig, DotConfig, DotProduct
from workbench.similarities.deep_retrieval.similarity import DeepRetrievalItems, DeepRetrievalQueries
from workbench.similarities.deep_retrieval.structure import decode_paths

SMALL = {
    "depth": 2,
    "width": 4,
    "paths": 2,
    "node_dim": 3,
    "hidden": 8,
    "candidates": 8,
    "candidate_beam": 16,
    "beam": 4,
}
DIM, ITEMS = 6, 30


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def model(**changes: object) -> DeepRetrieval:
    torch.manual_seed(0)
    return DeepRetrieval(DeepRetrievalConfig(**{**SMALL, **changes}), DIM, ITEMS)  # type: ignore[arg-type]


def states(m: DeepRetrieval, queries: int = 5) -> tuple[DeepRetrievalQueries, DeepRetrievalItems]:
    q = m.queries(randn(queries, DIM), torch.zeros(queries, dtype=torch.long))
    return q, m.items(randn(ITEMS, DIM, seed=1), torch.arange(1, ITEMS + 1))


@pytest.mark.parametrize("normalize", [True, False])
def test_the_score_is_the_rerankers(normalize):
    m = model(normalize=normalize, temperature=0.5)
    dot = DotProduct(DotConfig(normalize, 0.5))
    q, x = states(m)
    plain = (
        dot.queries(randn(5, DIM), torch.zeros(5, dtype=torch.long)),
        dot.items(randn(ITEMS, DIM, seed=1), x.ids),
    )
    torch.testing.assert_close(m.score(q, x), dot.score(*plain))
    rows = torch.tensor([[0, 7]] * 5)
    torch.testing.assert_close(m.score_candidates(q, x, rows), m.score(q, x).gather(1, rows))
    assert m.pair_bytes == 4 and torch.equal(m.paths_of(x), m.paths[1:]) and m.shape == (2, 4)


def test_an_output_table_stands_in_for_the_item_embeddings():
    m = model(output_table=True)
    q, x = states(m)
    assert m.output is not None
    again = m.items(randn(ITEMS, DIM, seed=9), torch.arange(1, ITEMS + 1))
    assert torch.equal(x.vectors, again.vectors)
    m.score(q, x).sum().backward()
    assert m.output.weight.grad is not None and bool((m.output.weight.grad[1:] != 0).any())


def test_the_structure_loss_is_the_logarithm_of_a_sum_over_paths():
    m = model(structure_weight=0.25)
    q, x = states(m)
    rows = torch.tensor([0, 3, 3, 29, 11])
    every = m.structure.log_probs(q.users, torch.arange(16).expand(5, -1)).exp()
    expected = (
        -sum(
            math.log(float(every[b, m.paths[1 + row]].sum().detach())) for b, row in enumerate(rows.tolist())
        )
        / 5
    )
    losses = m.regularizers(q, x, rows)
    assert losses.keys() == {"structure"} and float(losses["structure"].detach()) == pytest.approx(
        expected / 4, rel=1e-5
    )


def test_the_reranker_learns_alone_after_the_joint_epochs():
    m = model(joint_epochs=2, output_table=True).train()
    before = m.paths.clone()
    for epoch, joint in ((1, True), (2, True), (3, False)):
        m.on_epoch_start(epoch)
        embeddings = randn(5, DIM).requires_grad_()
        q = m.queries(embeddings, torch.zeros(5, dtype=torch.long))
        x = m.items(randn(ITEMS, DIM, seed=1), torch.arange(1, ITEMS + 1))
        assert bool(m.regularizers(q, x, torch.zeros(5, dtype=torch.long))) == joint
        m.zero_grad()
        m.score(q, x).sum().backward()
        assert (embeddings.grad is not None) == joint
        assert m.output is not None and m.output.weight.grad is not None
    m.on_epoch_start(3)
    assert m.on_epoch_end([(randn(50, DIM), torch.arange(50) % ITEMS + 1)]) == {}
    assert torch.equal(m.paths, before)


@pytest.mark.parametrize(("width", "depth", "paths"), [(2, 1, 2), (3, 1, 3), (4, 2, 2), (50, 3, 3)])
def test_every_item_begins_with_distinct_paths(width, depth, paths):
    torch.manual_seed(0)
    config = DeepRetrievalConfig(depth=depth, width=width, paths=paths)
    m = DeepRetrieval(config, DIM, 300)
    assert m.paths.shape == (301, paths)
    assert all(
        len(set(row)) == paths and min(row) >= 0 and max(row) < width**depth for row in m.paths.tolist()
    )
    nodes = decode_paths(m.paths, depth, width)
    assert len(nodes[..., 0].unique()) == width


def taught(m: DeepRetrieval, rounds: int = 6) -> tuple[Tensor, Tensor]:
    """Three kinds of users, who choose among ten items each; the model learns by turns from them."""
    kinds = 4 * torch.eye(3, DIM)
    draws = torch.Generator().manual_seed(5)
    kind = torch.randint(3, (600,), generator=draws)
    users = kinds[kind] + 0.3 * torch.randn(600, DIM, generator=draws)
    ids = 10 * kind + torch.randint(10, (600,), generator=draws) + 1
    optimizer = torch.optim.Adam(m.structure.parameters(), 0.02)
    for epoch in range(1, rounds + 1):
        m.on_epoch_start(epoch)
        for start in range(0, 600, 60):
            q = m.queries(users[start : start + 60], ids[start : start + 60])
            x = m.items(randn(ITEMS, DIM, seed=1), torch.arange(1, ITEMS + 1))
            loss = m.regularizers(q, x, ids[start : start + 60] - 1)["structure"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            m.on_batch(q.users, ids[start : start + 60])
        m.on_epoch_end([(users, ids)])
    return users, ids


@pytest.mark.parametrize(
    "changes",
    [{}, {"decay": 0.5}, {"updates": "stream", "refresh": 4, "decay": 0.9}],
    ids=["afresh", "fading", "stream"],
)
def test_items_of_the_same_users_come_to_stand_on_the_same_paths(changes):
    m = model(alpha=1e-2, **changes)
    users, ids = taught(m)
    kinds = [m.paths[10 * kind + 1 : 10 * kind + 11] for kind in range(3)]
    on_path = torch.tensor([[int((of_kind == path).any(1).sum()) for path in range(16)] for of_kind in kinds])
    for kind in range(3):  # a path for all of them, and for nobody else
        assert bool(((on_path[kind] >= 9) & (on_path.sum(0) == on_path[kind])).any())
    assert all(len(set(row)) == 2 for row in m.paths.tolist())
    beams = m.structure.beam(users, 2).paths
    on = beams[:, :, None].eq(m.paths[ids][:, None]).any(2).any(1).float().mean()
    assert on > 0.9
    assert bool((m.list_counts[1:] > 0).all()) and m.list_counts[0] == 0


def test_a_turn_is_reported_and_reads_at_most_so_many_rows():
    m = model(rows=100)
    m.on_epoch_start(1)
    measures = m.on_epoch_end(
        [(randn(70, DIM), torch.arange(70) % 9 + 1), (randn(70, DIM, seed=2), torch.full((70,), 30))]
    )
    assert measures.keys() == {"paths in use", "largest path", "mean path", "stability", "path objective"}
    assert float(m.list_counts.sum()) == 100 and float(m.list_counts[30]) == 30
    unseen = m.list_counts == 0
    torch.manual_seed(0)
    assert torch.equal(
        m.paths[unseen], model().paths[unseen]
    )  # items that were not chosen stay where they were


def test_new_items_get_paths_and_nothing_else_moves():
    m = model(alpha=1e-4)
    users, ids = taught(m)
    before = {name: value.clone() for name, value in m.state_dict().items()}
    like_the_second = users[(ids > 10) & (ids <= 20)][:12]
    placed, paths = m.place(like_the_second, torch.tensor([ITEMS + 1] * 6 + [ITEMS + 2] * 6))
    assert placed.tolist() == [ITEMS + 1, ITEMS + 2] and paths.shape == (2, 2)
    theirs = set(m.paths[11:21].flatten().tolist())
    assert all(set(row) & theirs and len(set(row)) == 2 for row in paths.tolist())
    assert all(torch.equal(value, before[name]) for name, value in m.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 0}, "depth must be at least 1, not 0"),
        ({"width": 1}, "width K must be at least 2"),
        ({"width": 2**21, "depth": 2}, "more than the"),
        ({"paths": 0}, "paths must be at least 1"),
        ({"paths": 30}, "30 paths of an item cannot be chosen among 20 candidates"),
        ({"depth": 1, "width": 2, "paths": 3}, "3 distinct paths of an item do not fit 2"),
        ({"alpha": -1.0}, "alpha must be 0 or more"),
        ({"alpha": float("nan")}, "alpha must be 0 or more"),
        ({"decay": 1.5}, r"decay must lie in \[0, 1\]"),
        ({"beam": 0}, "beam must be at least 1"),
        ({"joint_epochs": 0, "output_table": True}, "joint_epochs must be at least 1"),
        ({"joint_epochs": 2}, "joint_epochs needs output_table"),
        ({"temperature": 0.0}, "temperature must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DeepRetrievalConfig(**changes)


def test_an_item_without_a_path_is_refused_by_name():
    with pytest.raises(ValueError, match=r"item 31 has no path: this model keeps paths for items 1\.\.30"):
        model().items(randn(1, DIM), torch.tensor([31]))
    with pytest.raises(ValueError, match="at least one item, not 0"):
        DeepRetrieval(DeepRetrievalConfig(), DIM, 0)
    with pytest.raises(ValueError, match="needs num_items"):
        similarities.build(DeepRetrievalConfig(), DIM)


def test_states_save_and_load(tmp_path):
    m = model()
    q, x = states(m)
    q.save(tmp_path / "q.safetensors")
    x.save(tmp_path / "x.safetensors")
    again = m.score(
        DeepRetrievalQueries.load(tmp_path / "q.safetensors"),
        DeepRetrievalItems.load(tmp_path / "x.safetensors"),
    )
    assert torch.equal(again, m.score(q, x))
