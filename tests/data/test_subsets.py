"""Parts of a dataset keep what they are parts of."""

import numpy as np
import pytest

from workbench.data.subsets import first_part, keep, of_users, rated_at_least


def test_some_users_are_numbered_again_and_keep_their_histories(cycles):
    whole = cycles()
    part = of_users(whole, np.array([7, 2]), "part")
    assert part.num_users == 2 and part.name == "part" and part.num_items == whole.num_items
    for new, old in enumerate((7, 2)):
        mine = slice(part.offsets[new], part.offsets[new + 1])
        theirs = slice(whole.offsets[old], whole.offsets[old + 1])
        assert (part.item_ids[mine] == whole.item_ids[theirs]).all()
        assert (part.timestamps[mine] == whole.timestamps[theirs]).all()
    assert part.users["user_id"].tolist() == [7, 2]


def test_interactions_are_kept_by_mark_and_by_rating(cycles):
    whole = cycles(users=3, length=4)
    marks = np.array([1, 0, 1, 0] + [0] * 4 + [1] * 4, dtype=bool)
    part = keep(whole, marks, "part")
    assert part.lengths.tolist() == [2, 0, 4]
    assert (part.item_ids == whole.item_ids[marks]).all()
    assert rated_at_least(whole, 4).lengths.tolist() == [4, 4, 4]  # nothing was rated
    rated = type(whole)(**{**vars(whole), "ratings": np.tile(np.array([1, 4, 5, 3], dtype=np.float32), 3)})
    assert rated_at_least(rated, 4).lengths.tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="3 marks for 12 interactions"):
        keep(whole, marks[:3], "part")


@pytest.mark.parametrize(("length", "first"), [(4, 2), (5, 3), (2, 1)])
def test_the_first_half_has_the_middle(cycles, length, first):
    whole = cycles(users=2, length=length)
    assert first_part(whole).tolist() == ([True] * first + [False] * (length - first)) * 2


@pytest.mark.parametrize(
    ("length", "share", "first"), [(10, 0.8, 8), (11, 0.8, 9), (2, 0.8, 1), (3, 0.1, 1), (1, 0.5, 0)]
)
def test_another_first_part_is_rounded_up_and_leaves_one(cycles, length, share, first):
    whole = cycles(users=2, length=length)
    assert first_part(whole, share).tolist() == ([True] * first + [False] * (length - first)) * 2
    with pytest.raises(ValueError, match="between 0 and 1"):
        first_part(whole, 1.0)
