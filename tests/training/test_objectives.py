import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.contracts import SequenceBatch
from workbench.training.objectives import TrainingTargets, later_item, masked_item, next_item


def batch_of(runs: list[list[int]]) -> SequenceBatch:
    """A batch of training sequences, each ending in its target; item i was rated i % 5 at second 100 i."""
    width = max(map(len, runs)) - 1
    item_ids = torch.tensor([run[:-1] + [0] * (width + 1 - len(run)) for run in runs])
    targets = torch.tensor([run[-1] for run in runs])
    return SequenceBatch(
        item_ids=item_ids,
        timestamps=100 * item_ids,
        ratings=(item_ids % 5).float(),
        lengths=torch.tensor([len(run) - 1 for run in runs]),
        user_ids=torch.arange(len(runs)) + 70,
        target_ids=targets,
        target_timestamps=100 * targets,
    )


def pairs(targets: TrainingTargets, width: int) -> list[tuple[int, int, int, int]]:
    """(row, position, item, user) of each target."""
    return [
        (position // width, position % width, item, user)
        for position, item, user in zip(
            targets.positions.tolist(), targets.target_ids.tolist(), targets.user_ids.tolist(), strict=True
        )
    ]


RUNS = st.lists(st.lists(st.integers(1, 50), min_size=2, max_size=9), min_size=1, max_size=6)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_position_predicts_its_successor():
    targets = next_item(batch_of([[5, 6, 7, 8], [3, 4]]))
    assert pairs(targets, 3) == [(0, 0, 6, 70), (0, 1, 7, 70), (0, 2, 8, 70), (1, 0, 4, 71)]
    assert len(targets) == 4
    assert targets.positions.dtype == targets.target_ids.dtype == targets.user_ids.dtype == torch.int64


@given(RUNS)
def test_next_items_are_the_runs_themselves(runs):
    batch = batch_of(runs)
    expected = [(b, i, run[i + 1], b + 70) for b, run in enumerate(runs) for i in range(len(run) - 1)]
    assert pairs(next_item(batch), batch.item_ids.shape[1]) == expected


@given(RUNS, st.floats(0, 0.9), st.floats(0, 1), st.integers(2, 12), st.integers(0, 99))
@settings(deadline=None)
def test_hidden_items_are_the_targets(runs, probability, last_only, max_length, seed):
    sequence, targets = masked_item(batch_of(runs), probability, generator(seed), max_length, last_only)
    kept = [run[-max_length:] for run in runs]
    assert sequence.lengths.tolist() == [len(run) for run in kept]
    assert sequence.item_ids.shape[1] <= max_length
    for row, run in enumerate(kept):
        padding = [0] * (sequence.item_ids.shape[1] - len(run))
        assert sequence.item_ids[row].tolist() == run + padding
        assert sequence.timestamps[row].tolist() == [100 * item for item in run] + padding
        assert sequence.ratings[row, : len(run) - 1].tolist() == [item % 5 for item in run[:-1]]
        assert sequence.ratings[row, len(run) - 1].isnan()
    assert sequence.masked is not None
    assert sequence.masked.any(dim=1).all()  # at least one of each row
    assert not (sequence.masked & ~sequence.valid).any()
    found = pairs(targets, sequence.item_ids.shape[1])
    assert [(row, position) for row, position, _, _ in found] == list(
        map(tuple, sequence.masked.nonzero().tolist())
    )
    assert all(kept[row][position] == item and user == row + 70 for row, position, item, user in found)


def test_the_share_of_hidden_items_is_the_probability():
    batch = batch_of([list(range(1, 52))] * 200)
    sequence, targets = masked_item(batch, 0.3, generator(), max_length=51)
    assert len(targets) / sequence.valid.sum().item() == pytest.approx(0.3, abs=0.02)
    by_position = sequence.masked.float().mean(dim=0)
    assert by_position.min() > 0.15 and by_position.max() < 0.45  # the last is hidden as often as the first


def test_with_probability_zero_one_item_of_each_row_is_hidden_uniformly():
    sequence, targets = masked_item(batch_of([[1, 2, 3, 4]] * 2000), 0.0, generator(), max_length=9)
    assert (sequence.masked.sum(dim=1) == 1).all()
    assert torch.bincount(targets.target_ids)[1:].tolist() == pytest.approx([500] * 4, abs=80)


def test_last_only_hides_what_search_will_ask_for():
    batch = batch_of([[1, 2, 3, 4], [5, 6]] * 500)
    sequence, targets = masked_item(batch, 0.5, generator(), max_length=3, last_only=1.0)
    assert targets.target_ids.tolist() == [4, 6] * 500
    assert sequence.item_ids[0].tolist() == [2, 3, 4]
    some, _ = masked_item(batch, 0.5, generator(), max_length=9, last_only=0.4)
    alone = (some.masked.sum(dim=1) == 1) & some.masked[:, 3]
    by_chance = 0.5**4  # a long row hides its last item alone without being asked to
    assert alone[::2].float().mean().item() == pytest.approx(0.4 + 0.6 * by_chance, abs=0.06)


def test_a_generator_decides_alone():
    batch = batch_of([list(range(1, 30))] * 8)

    def hidden(seed: int) -> torch.Tensor:
        sequence, _ = masked_item(batch, 0.3, generator(seed), max_length=29, last_only=0.2)
        assert sequence.masked is not None
        return sequence.masked

    state = torch.random.get_rng_state()
    assert torch.equal(hidden(1), hidden(1))
    assert not torch.equal(hidden(1), hidden(2))
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is left alone


def test_the_given_batch_is_left_alone():
    batch = batch_of([[1, 2, 3], [4, 5]])
    masked_item(batch, 0.5, generator(), max_length=2)
    assert batch.item_ids.tolist() == [[1, 2], [4, 0]]
    assert batch.masked is None


@pytest.mark.parametrize(
    ("probability", "max_length", "last_only", "message"),
    [
        (1.0, 5, 0.0, "probability"),
        (-0.1, 5, 0.0, "probability"),
        (0.3, 5, 1.1, "last_only"),
        (0.3, 1, 0.0, "max_length"),
    ],
)
def test_bad_settings_are_refused(probability, max_length, last_only, message):
    with pytest.raises(ValueError, match=message):
        masked_item(batch_of([[1, 2]]), probability, generator(), max_length, last_only)


def test_a_later_item_is_any_of_those_that_follow(tiny_batch):
    following = next_item(tiny_batch)
    drawn = [later_item(tiny_batch, generator(seed)) for seed in range(200)]
    assert all(torch.equal(d.positions, following.positions) for d in drawn)
    assert torch.equal(drawn[0].target_ids, later_item(tiny_batch, generator(0)).target_ids)
    width = tiny_batch.item_ids.shape[1]
    for place, position in enumerate(following.positions.tolist()):
        b, i = divmod(position, width)
        length = int(tiny_batch.lengths[b])
        after = [*tiny_batch.item_ids[b, i + 1 : length].tolist(), int(tiny_batch.target_ids[b])]
        seen = {int(d.target_ids[place]) for d in drawn}
        assert seen <= set(after)
        if len(after) <= 4:
            assert seen == set(after)
