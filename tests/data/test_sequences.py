import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data.sequences import HELD_OUT, Batches, Cuts, batch_of

parts = st.sampled_from(sorted(HELD_OUT))


def history_of(sequences, user, held_out):
    items = sequences.item_ids[sequences.offsets[user] : sequences.offsets[user + 1]]
    return items[: len(items) - 1 - held_out].tolist()


@given(st.lists(st.integers(0, 29), min_size=1, unique=True), parts)
def test_history_is_everything_before_the_target(sequences, users, part):
    users = np.array([user for user in users if user < sequences.num_users])
    if not len(users) or sequences.lengths[users].min() < HELD_OUT[part] + 1:
        return
    histories = sequences.history(users, part)
    expected = [history_of(sequences, user, HELD_OUT[part]) for user in users]
    assert histories.shape == (len(users), max(map(len, expected)))
    for row, items in zip(histories.tolist(), expected, strict=True):
        assert row == items + [0] * (len(row) - len(items))


def test_history_of_a_user_without_target_is_refused(sequences):
    short = dataclasses.replace(
        sequences, offsets=np.concatenate([[0, 1], sequences.offsets[1:]]), users=sequences.users
    )
    with pytest.raises(ValueError, match=r"users \[0\] have no train target"):
        short.history(np.array([0, 1]), "train")


def test_history_agrees_with_a_batch_that_is_wide_enough(sequences):
    users = sequences.users_with("test")
    batch = batch_of(sequences, users, "test", max_length=1000)
    assert batch.item_ids.tolist() == sequences.history(users).tolist()


@settings(max_examples=25)
@given(parts, st.integers(1, 40), st.integers(1, 12))
def test_batches_cover_every_user_once(sequences, part, batch_size, max_length):
    batches = Batches(sequences, part, batch_size, max_length)
    seen = [user for batch in batches for user in batch.user_ids.tolist()]
    assert seen == sequences.users_with(part).tolist()
    assert len(batches) == len(list(batches))
    for batch in batches:
        for row, user in enumerate(batch.user_ids.tolist()):
            length = int(batch.lengths[row])
            history = history_of(sequences, user, HELD_OUT[part])
            assert batch.item_ids[row, :length].tolist() == history[-max_length:]
            assert batch.item_ids[row, length:].eq(0).all()
            position = sequences.offsets[user + 1] - 1 - HELD_OUT[part]
            assert int(batch.target_ids[row]) == sequences.item_ids[position]
            assert int(batch.target_timestamps[row]) == sequences.timestamps[position]


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_shuffles_repeat_by_seed_and_share_users_among_processes(sequences, seed, world):
    def users(**changes):
        batches = Batches(sequences, "train", 4, 10, seed=seed, **changes)
        return [tuple(batch.user_ids.tolist()) for batch in batches]

    whole = users()
    assert whole == users() != users(epoch=1)
    assert sorted(itertools.chain(*whole)) == sequences.users_with("train").tolist()
    shares = [users(rank=rank, world=world) for rank in range(world)]
    assert sorted(itertools.chain(*shares)) == sorted(whole)
    assert Batches(sequences, "train", 4, 10, seed=seed).at(1).epoch == 1


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_windows_anywhere_are_parts_of_the_training_history_as_long_as_they_can_be(sequences, seed, longest):
    def windows(**changes):
        batches = Batches(sequences, "train", 4, longest, seed=seed, window="anywhere", **changes)
        return {
            int(u): (*items[:n].tolist(), int(target))
            for b in batches
            for u, items, n, target in zip(b.user_ids, b.item_ids, b.lengths, b.target_ids, strict=True)
        }

    whole = windows()
    assert sorted(whole) == sequences.users_with("train").tolist()
    for user, found in whole.items():
        trained = tuple(
            sequences.item_ids[sequences.offsets[user] : sequences.offsets[user + 1] - 2].tolist()
        )
        assert len(found) == min(longest + 1, len(trained))
        assert any(trained[i : i + len(found)] == found for i in range(len(trained)))
    assert windows(rank=0, world=2) | windows(rank=1, world=2) == whole == windows()


def test_windows_move_from_epoch_to_epoch_and_reach_every_interaction(sequences):
    user = int(sequences.lengths.argmax())
    trained = sequences.item_ids[sequences.offsets[user] : sequences.offsets[user + 1] - 2].tolist()
    seen = set()
    for epoch in range(200):
        for batch in Batches(sequences, "train", 1, 2, seed=0, epoch=epoch, window="anywhere"):
            if batch.user_ids.item() == user:
                seen.update(batch.item_ids[0].tolist(), batch.target_ids.tolist())
    assert seen == set(trained) and len(trained) > 3


def test_copies_with_other_times_or_orders_share_what_does_not_differ(sequences):
    def digests(**changes):
        changed = dataclasses.replace(sequences, **changes)
        return changed.fingerprint(), changed.order_fingerprint(), changed.id_fingerprint()

    whole, order, ids = digests()
    assert len({whole, order, ids}) == 3
    for changes in ({"timestamps": sequences.timestamps + 1}, {"ratings": sequences.ratings + 1}):
        other, *rest = digests(**changes)
        assert other != whole and rest == [order, ids]
    rolled = digests(item_ids=np.roll(sequences.item_ids, 1))
    assert rolled[1] != order and rolled[2] == ids
    renamed = digests(items=sequences.items.assign(item_id=sequences.items["item_id"] + 1))
    assert not {whole, order, ids} & set(renamed)


def test_fingerprints_tell_datasets_apart(sequences):
    def changed(**changes):
        return dataclasses.replace(sequences, **changes).fingerprint()

    fingerprint = sequences.fingerprint()
    assert len(fingerprint) == 16
    assert int(fingerprint, 16) >= 0
    assert changed(name="other", items=sequences.items.assign(title="other")) == fingerprint
    different = {
        fingerprint,
        changed(item_ids=np.roll(sequences.item_ids, 1)),
        changed(timestamps=sequences.timestamps + 1),
        changed(ratings=sequences.ratings + 1),
        changed(items=sequences.items.assign(item_id=sequences.items["item_id"] + 1)),
        changed(users=sequences.users.assign(user_id=sequences.users["user_id"] + 1)),
        changed(offsets=np.append(sequences.offsets[:-2], sequences.offsets[-1:])),
    }
    assert len(different) == 7


def test_broken_sequences_are_refused(sequences):
    for changes, message in (
        ({"offsets": sequences.offsets[:-1]}, "offsets must rise"),
        ({"offsets": np.insert(sequences.offsets, 1, sequences.offsets[-1])}, "offsets must rise"),
        ({"timestamps": sequences.timestamps[:-1]}, "differ in length"),
        ({"item_ids": sequences.item_ids - 1}, "item ids must lie in 1..20"),
        ({"items": sequences.items[:-1]}, "item ids must lie in 1..19"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(sequences, **changes)


def test_batches_are_refused_where_they_cannot_be(sequences):
    with pytest.raises(ValueError, match="batch_size and max_length"):
        Batches(sequences, "test", 0, 10)
    with pytest.raises(ValueError, match="give a seed"):
        Batches(sequences, "train", 4, 10, window="anywhere")
    with pytest.raises(ValueError, match=r"users \[0\] have no target with an interaction before it"):
        batch_of(dataclasses.replace(sequences, cuts=Cuts(0, 0)), np.array([0]), "test", 10)


def test_targets_follow_the_history(sequences):
    users = sequences.users_with("validation")
    for part in ("test", "validation"):
        held_out = HELD_OUT[part]
        rows = sequences.target_rows(users, part)
        assert rows.tolist() == [int(sequences.offsets[u + 1]) - 1 - held_out for u in users]
        assert np.array_equal(sequences.targets(users, part), sequences.item_ids[rows])
        batch = batch_of(sequences, users, part, 5)
        assert batch.target_ids.tolist() == sequences.targets(users, part).tolist()
    assert int(sequences.targets(np.array(users[0]))) == sequences.targets(users)[0]
