"""What is searched: trained, random, inflated; the same for the same seed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from workbench.bench import workloads
from workbench.bench.reference_implementation import ReferenceImplementation, pair_bytes
from workbench.bench.workloads import (
    SIZES,
    Inflated,
    RandomWeights,
    Trained,
    build,
    inflate,
    nearest_distances,
)
from workbench.data import DataError
from workbench.search import BruteForce

CPU = torch.device("cpu")


def test_a_checkpoint_comes_with_its_users_histories_and_targets(checkpoint: str, cycles) -> None:
    workload = build(Trained(checkpoint), 1000, 0, CPU)
    assert workload.name == "cycles-sasrec-mol"
    assert len(workload.items) == 30 and len(workload.queries) == 20 and len(workload.sample) == 20
    sequences = cycles()
    whole = [*sequences.history(np.arange(40)).tolist()]
    rows = [whole.index(history) for history in workload.exclude.tolist()]
    last = sequences.item_ids[sequences.offsets[1:] - 1]
    assert workload.targets.tolist() == last[rows].tolist()


def test_searchers_learn_from_users_who_are_not_measured(checkpoint: str) -> None:
    workload = build(Trained(checkpoint), 1000, 0, CPU)
    mine, others = workload.queries.components.flatten(1), workload.sample.components.flatten(1)
    starts = torch.arange(40) % 30  # users who start at the same item ask the same: 10 of them do
    assert len(starts.unique()) == len(torch.cat([mine, others]).round(decimals=4).unique(dim=0))


def test_fewer_queries_are_a_draw_of_users(checkpoint: str) -> None:
    workloads = [build(Trained(checkpoint), 10, seed, CPU) for seed in (0, 0, 1)]
    histories = [w.exclude.tolist() for w in workloads]
    assert histories[0] == histories[1] != histories[2]
    assert all(len(w.queries) == len(w.targets) == 10 for w in workloads)


def test_batches_start_over_and_histories_are_trimmed(checkpoint: str) -> None:
    workload = build(Trained(checkpoint), 5, 0, CPU)
    padded = replace(workload, exclude=torch.nn.functional.pad(workload.exclude, (0, 7)))
    rows, queries, exclude = padded.batch(4, 3)
    assert rows.tolist() == [4, 0, 1] and len(queries) == 3
    assert torch.equal(exclude, workload.exclude[rows])


def test_an_inflated_corpus_begins_with_its_own_items_and_keeps_its_targets(checkpoint: str) -> None:
    own = build(Trained(checkpoint), 10, 0, CPU)
    grown = build(Inflated(checkpoint, 100), 10, 0, CPU)
    assert grown.name == "cycles-sasrec-mol, 100 items"
    assert torch.equal(grown.embeddings[:30], own.embeddings) and len(grown.items) == 100
    assert torch.equal(grown.targets, own.targets)
    fewer = build(Inflated(checkpoint, 10), 10, 0, CPU)
    assert len(fewer.items) == 10 and (fewer.targets == 0).all()
    assert all((own.embeddings == row).all(1).any() for row in fewer.embeddings)


def test_noise_is_as_large_as_stated() -> None:
    base = 100 * torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    grown = inflate(base, 4050, 0.1, torch.Generator().manual_seed(1))[50:]
    distances, origins = torch.cdist(grown, base).min(1)
    ratio = distances / nearest_distances(base)[origins]
    assert ratio.square().mean().sqrt() == pytest.approx(0.1, rel=0.02)
    assert len(origins.unique()) == 50


def test_a_single_item_has_no_neighbour() -> None:
    assert nearest_distances(torch.ones(1, 3)).tolist() == [0]


def test_random_weights_have_the_published_size() -> None:
    workload = build(RandomWeights("ml-1m"), 4, 0, CPU)
    assert len(workload.items) == 3883 and workload.exclude.shape == (4, 200)
    assert workload.similarity.config == SIZES["ml-1m"].similarity
    again = build(RandomWeights("ml-1m"), 4, 0, CPU)
    assert torch.equal(workload.items.components, again.items.components)
    assert (workload.targets == 0).all()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _: RandomWeights("huge"), "no published size 'huge'; there are ml-1m"),
        (lambda c: Inflated(c, 0), "must be positive"),
        (lambda c: Inflated(c, 10, noise=0.0), "must be positive"),
        (lambda c: build(Trained(c), 0, 0, CPU), "at least 1 query"),
    ],
)
def test_impossible_workloads_are_refused(checkpoint: str, make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(checkpoint)


def test_data_that_changed_are_noticed(checkpoint: str, root, monkeypatch, tmp_path, cycles) -> None:
    from workbench.data import storage

    (tmp_path / "data").mkdir()
    storage.save(cycles(7), tmp_path / "data" / "cycles", {})
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    with pytest.raises(ValueError, match="trained on other data"):
        build(Trained(checkpoint), 10, 0, CPU)


def test_the_reference_implementation_finds_what_brute_force_finds(checkpoint: str) -> None:
    workload = build(Inflated(checkpoint, 60), 10, 0, CPU)
    _, queries, exclude = workload.batch(0, 10)
    published = ReferenceImplementation(workload, 10)
    assert published.fraction == 1
    found = published.search(queries, 7, exclude)
    true = BruteForce(workload.similarity, workload.items).search(queries, 7, exclude)
    assert torch.equal(found.ids, true.ids)
    assert torch.allclose(found.scores, true.scores, atol=1e-5)


def test_the_reference_implementation_takes_as_many_items_as_memory_allows(checkpoint: str) -> None:
    workload = build(Inflated(checkpoint, 60), 10, 0, CPU)
    part = ReferenceImplementation(workload, 2, held_bytes=2 * pair_bytes(workload.similarity) * 15)
    assert (part.rows, part.fraction) == (15, 0.25)
    _, queries, exclude = workload.batch(0, 2)
    found = part.search(queries, 5, exclude)
    assert found.ids.max() <= 15 and found.num_scored.tolist() == [15, 15]
    assert not (found.ids[..., None] == exclude[:, None]).logical_and(exclude[:, None] > 0).any()


def test_a_state_computed_in_parts_is_the_whole(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workload = build(Trained(checkpoint), 4, 0, CPU)
    monkeypatch.setattr(workloads, "EMBEDDED_TOGETHER", 7)
    state = workloads.item_state(workload.similarity, workload.embeddings)
    assert state.ids.tolist() == list(range(1, 31))
    torch.testing.assert_close(state.components, workload.items.components)
    torch.testing.assert_close(state.gate, workload.items.gate)


def test_users_who_have_met_every_item_ask_nothing(cycles) -> None:
    whole = cycles(users=3, items=5, length=6)
    with pytest.raises(DataError, match="every user of cycles has met all items"):
        workloads._users_with_items_left(whole)
    some = cycles(users=3, items=6, length=6)  # five items before the test item
    assert workloads._users_with_items_left(some).tolist() == [0, 1, 2]
    longest = replace(
        some,
        offsets=np.array([0, 9, 13, 18]),
        item_ids=np.array([1, 2, 3, 4, 5, 6, 1, 2, 3, 1, 2, 3, 4, 6, 5, 4, 3, 2]),
    )
    assert workloads._users_with_items_left(longest).tolist() == [1, 2]
