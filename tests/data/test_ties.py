"""Ties in time: what may change places and what may not."""

from dataclasses import replace

import numpy as np
from worlds import cyclic

from workbench.data.ties import moved_targets, shuffle_ties


def test_only_interactions_of_one_user_at_one_time_change_places():
    sequences = cyclic()
    users = np.repeat(np.arange(sequences.num_users), sequences.lengths)
    places = np.arange(len(users)) - np.repeat(sequences.offsets[:-1], sequences.lengths)
    times = places // 3  # ties of up to three
    tied = replace(sequences, timestamps=times)
    shuffled = shuffle_ties(tied, np.random.default_rng(1))
    assert (shuffled.item_ids != tied.item_ids).any()
    np.testing.assert_array_equal(shuffled.timestamps, tied.timestamps)
    before, after = (sorted(zip(users, times, s.item_ids, strict=True)) for s in (tied, shuffled))
    assert before == after
    again = shuffle_ties(tied, np.random.default_rng(1))
    np.testing.assert_array_equal(shuffled.item_ids, again.item_ids)


def test_without_ties_nothing_moves():
    sequences = replace(cyclic(), timestamps=np.arange(len(cyclic().item_ids)))
    shuffled = shuffle_ties(sequences, np.random.default_rng(0))
    np.testing.assert_array_equal(shuffled.item_ids, sequences.item_ids)
    assert (
        len(np.unique(sequences.timestamps)) == len(sequences.timestamps)
        and moved_targets(sequences, shuffled) == 0
    )


def test_every_order_is_equally_likely():
    sequences = cyclic()
    one = replace(sequences, timestamps=np.zeros_like(sequences.timestamps))
    assert (one.timestamps == 0).all()
    first = [shuffle_ties(one, np.random.default_rng(seed)).item_ids[0] for seed in range(400)]
    own = sequences.item_ids[: sequences.offsets[1]]
    counts = np.array([first.count(item) for item in own]) / 400
    expected = 1 / len(own)
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected / 400)  # four standard errors
