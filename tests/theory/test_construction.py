"""Two components and a free gate give any matrix; the printed construction does not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workbench.theory.construction import circle, rescaled_truncation, two_components
from workbench.theory.floor import floor, rank
from workbench.theory.targets import TARGETS, gaussian, identity


@given(arrays("float64", (3, 4), elements=st.floats(-1e6, 1e6)))
def test_two_components_give_any_matrix_to_rounding(values) -> None:
    target = torch.from_numpy(values)
    mixture = two_components(target)
    assert ((mixture.gate >= 0) & (mixture.gate <= 1)).all()
    error = (mixture.scores() - target).abs().max()
    assert float(error) <= 4 * torch.finfo(torch.float64).eps * mixture.level


@pytest.mark.parametrize("name", TARGETS)
def test_two_components_give_every_target_exactly(name: str) -> None:
    target = TARGETS[name](32, 0).scores
    assert torch.equal(two_components(target).scores(), target)


def test_two_components_give_real_numbers_to_rounding() -> None:
    target = gaussian(64, 0).scores
    error = float((two_components(target).scores() - target).abs().max())
    assert 0 < error < 1e-14


def test_the_printed_construction_gives_what_has_no_zeros_to_scale() -> None:
    target = TARGETS["random signs"](32, 0).scores
    assert float((rescaled_truncation(target, 4) - target).abs().max()) < 1e-12


@pytest.mark.parametrize("width", [1, 4, 31])
def test_the_printed_construction_is_off_by_one_on_the_identity(width: int) -> None:
    target = identity(32).scores
    for factors in (None, (target, target)):
        printed = rescaled_truncation(target, width, factors)
        assert float((printed - target).abs().max()) == 1.0
        assert float((printed - target).square().sum()) == 32 - width


def test_two_dimensions_rank_as_the_identity_though_they_are_far_from_it() -> None:
    query, item = circle(50)
    scores = query @ item.T
    assert scores.argmax(1).tolist() == list(range(50))
    assert rank(scores) == 2
    assert floor(identity(50).scores, 2) > 0.97
