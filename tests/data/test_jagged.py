import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.data.jagged import flatten, jagged, unflatten
from workbench.data.sequences import batch_of


@settings(max_examples=25)
@given(st.lists(st.integers(0, 29), min_size=1, unique=True), st.integers(1, 20))
def test_jagged_and_padded_batches_hold_the_same(sequences, users, max_length):
    users = np.array([user for user in users if user < sequences.num_users and sequences.lengths[user] > 1])
    if not len(users):
        return
    batch = batch_of(sequences, users, "test", max_length)
    values, offsets = jagged(batch)
    assert offsets.tolist() == [0, *np.cumsum(batch.lengths.tolist())]
    for row in range(len(batch)):
        history = batch.item_ids[row, : batch.lengths[row]]
        assert values[offsets[row] : offsets[row + 1]].tolist() == history.tolist()
    width = batch.item_ids.shape[1]
    assert torch.equal(unflatten(values, batch.lengths, width), batch.item_ids)
    times = flatten(batch.timestamps, batch.lengths)
    assert torch.equal(unflatten(times, batch.lengths, width), batch.timestamps)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6), st.integers(5, 7), st.integers(0, 1000))
def test_flatten_and_unflatten_are_inverse_in_any_width(lengths, length, seed):
    counts = torch.tensor(lengths)
    values = torch.randn(sum(lengths), 3, 2, generator=torch.Generator().manual_seed(seed))
    padded = unflatten(values, counts, length)
    assert padded.shape == (len(lengths), length, 3, 2)
    assert torch.equal(flatten(padded, counts), values)
    assert padded.count_nonzero() == values.count_nonzero()


def test_gradients_flow_through():
    values = torch.ones(3, 2, requires_grad=True)
    lengths = torch.tensor([1, 2])
    flatten(unflatten(values, lengths, 4) * 2, lengths).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[2, 2]] * 3


def test_lengths_that_do_not_fit_are_refused():
    for lengths, length in (([1, 1], 2), ([3], 2)):
        with pytest.raises(ValueError, match="do not describe 3 values in rows of 2"):
            unflatten(torch.ones(3), torch.tensor(lengths), length)
