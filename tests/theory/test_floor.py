"""The floor is what the best factors reach, and nothing of that width goes below it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workbench.runtime import generator
from workbench.theory.floor import (
    best_factors,
    floor,
    floor_curve,
    rank,
    relative_error,
    sign_agreement,
    spectrum,
    width_of_floats,
)
from workbench.theory.targets import TARGETS, block, random_signs, similar_not_identical


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("width", [0, 1, 5, 24, 30])
def test_the_best_factors_reach_the_floor(name: str, width: int) -> None:
    scores = TARGETS[name](24, 0).scores
    query, item = best_factors(scores, width)
    assert query.shape == item.shape == (24, width)
    assert relative_error(query @ item.T, scores) == pytest.approx(floor(scores, width), abs=1e-7)


@given(
    seed=st.integers(0, 1000), rows=st.integers(2, 12), columns=st.integers(2, 12), width=st.integers(0, 12)
)
def test_no_product_of_a_width_goes_below_its_floor(seed: int, rows: int, columns: int, width: int) -> None:
    g = generator(seed)
    scores = torch.randn(rows, columns, generator=g, dtype=torch.float64)
    query, item = best_factors(scores, width)
    query = query + 0.1 * torch.randn(query.shape, generator=g, dtype=torch.float64)
    assert relative_error(query @ item.T, scores) >= floor(scores, width) - 1e-12


def test_the_floor_starts_at_one_falls_and_ends_at_the_rank() -> None:
    scores = block(24, 6).scores
    curve = floor_curve(scores)
    assert curve.shape == (25,)
    assert float(curve[0]) == pytest.approx(1)
    assert (curve.diff() <= 0).all()
    assert float(curve[5]) > 0.01
    assert float(curve[6]) < 1e-7
    with pytest.raises(ValueError, match="0 or more"):
        floor(scores, -1)


def test_published_floors_of_random_signs_and_of_the_sphere() -> None:
    signs, sphere = random_signs(128, 0).scores, similar_not_identical(256, 0).scores
    found = [floor(signs, d) for d in (4, 8, 16)] + [floor(block(128, 128).scores, 4), floor(sphere, 4)]
    assert found == pytest.approx([0.943, 0.890, 0.790, 0.174, 0.772], abs=0.01)
    query, item = best_factors(sphere, 14)
    assert sign_agreement(query @ item.T, sphere) == pytest.approx(0.905, abs=0.01)
    assert rank(sphere) == 256


def test_rank_and_spectrum_are_those_of_the_matrix() -> None:
    scores = torch.diag(torch.tensor([3.0, 2.0, 0.0]))
    assert spectrum(scores).tolist() == [3.0, 2.0, 0.0]
    assert rank(scores) == 2


def test_widths_of_equal_floats_are_those_of_the_published_experiment() -> None:
    floats = {4: 4976, 8: 5904}
    assert [width_of_floats(256 * d + shared, 128, 128) for d, shared in floats.items()] == [23, 31]
    assert width_of_floats(512 * 4 + 4976, 256, 256) == 14
    assert width_of_floats(1, 128, 128) == 1
