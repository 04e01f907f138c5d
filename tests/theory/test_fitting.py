"""Fits: a dot product reaches its floor and stays, MoL goes below, and the gate decides the rank."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from workbench.theory.comparisons import by_components, by_gate, by_start, by_width, compare, over_seeds
from workbench.theory.fitting import GATES, Fit, FitConfig, fitted, outcome
from workbench.theory.floor import floor, rank
from workbench.theory.targets import (
    block,
    circulant,
    identity,
    parse_matrix,
    random_signs,
    similar_not_identical,
)

SIGNS = random_signs(32, 0)
DOT = FitConfig("dot", width=4, steps=300)
MOL = FitConfig("mol", width=4, gate_hidden=16, steps=150)


@pytest.mark.parametrize("target", [SIGNS, identity(32), circulant(32), block(32)], ids=lambda t: t.name)
def test_a_trained_dot_product_reaches_the_floor_and_stays(target) -> None:
    fit = fitted(target, DOT)
    assert fit.error() == pytest.approx(floor(target.scores, 4), abs=2e-3)
    assert fit.error() >= floor(target.scores, 4) - 1e-9
    assert rank(fit.scores()) <= 4


def test_mol_of_the_same_width_goes_below_and_is_of_higher_rank() -> None:
    found = outcome(fitted(SIGNS, MOL))
    assert found["error"] < floor(SIGNS.scores, 4) - 0.1
    assert found["rank"] > 4
    assert found["signs"] > 0.8


def test_without_a_gate_the_rank_is_the_width_and_a_querys_gate_gives_px_times_as_much() -> None:
    config = replace(MOL, query_groups=2, item_groups=3, steps=30)
    ranks = {name: rank(fitted(SIGNS, c).scores()) for name, c in by_gate(config).items()}
    assert ranks == {"uniform": 4, "query only": 12, "pair only": 32, "full": 32}


def test_steps_in_pieces_are_steps_in_one_go() -> None:
    whole, pieces = fitted(SIGNS, replace(MOL, steps=25)), Fit(SIGNS, replace(MOL, steps=25))
    for steps in (1, 10, 3, 100):
        assert not pieces.done
        pieces.advance(steps)
    assert pieces.done
    assert pieces.step == 25
    assert torch.equal(pieces.scores(), whole.scores())
    assert pieces.curve.equals(whole.curve)
    assert whole.curve["step"].tolist() == [0, 10, 20, 25]
    pieces.advance(5)
    assert len(pieces.curve) == 4


def test_the_loss_is_the_square_of_the_error_it_shows() -> None:
    fit = Fit(SIGNS, MOL)
    before = fit.error()
    fit.advance(1)
    assert fit.curve["error"][0] == pytest.approx(before, rel=1e-5)


def test_a_fit_that_was_made_is_not_made_again() -> None:
    config = replace(MOL, steps=1)
    assert fitted(SIGNS, config) is fitted(SIGNS, replace(config))
    assert fitted(SIGNS, config) is not fitted(random_signs(32, 0), config)


def test_looking_does_not_disturb() -> None:
    looked, left = Fit(SIGNS, replace(MOL, steps=20)), fitted(SIGNS, replace(MOL, steps=20))
    while not looked.done:
        looked.advance(3)
        looked.scores()
    assert torch.equal(looked.scores(), left.scores())


def test_seeds_decide_and_nothing_outside_is_touched() -> None:
    state = torch.get_rng_state()
    a, b, c = (Fit(SIGNS, replace(MOL, seed=seed)).scores() for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


def test_scores_are_in_the_targets_units() -> None:
    big = parse_matrix(b"100,200,-50\n-100,30,400\n", "big.csv")
    fit = fitted(big, FitConfig("dot", width=2, steps=20, learning_rate=0.001, start="spectral"))
    assert torch.allclose(fit.scores(), big.scores, atol=0.5)
    assert outcome(fit)["floats"] == 2 * (2 + 3)


def test_floats_are_counted_whole() -> None:
    target = random_signs(128, 0)
    fits = [Fit(target, FitConfig("mol", width=d)) for d in (4, 8)]
    assert [fit.parameters - 256 * fit.config.width for fit in fits] == [4976, 5904]
    assert [fit.equal_width for fit in fits] == [23, 31]
    assert Fit(target, FitConfig("dot", width=8)).equal_width == 8


def test_from_every_start_mol_goes_below_the_floor() -> None:
    target = similar_not_identical(48, 0)
    config = replace(MOL, steps=60)
    found = compare(target, by_start(config, target)).set_index("fit")
    assert list(found.index) == ["random", "spectral", "latents"]
    assert found["error"].nunique() == 3
    assert (found["error"] < found["floor"] - 0.05).all()


def test_a_spectral_start_of_a_dot_product_is_at_its_floor() -> None:
    fit = Fit(SIGNS, replace(DOT, start="spectral"))
    assert fit.error() == pytest.approx(floor(SIGNS.scores, 4), abs=1e-6)


def test_studies_are_tables_of_all_their_fits() -> None:
    tiny = replace(MOL, steps=2)
    assert [c.query_groups * c.item_groups for c in by_components(tiny).values()] == [2, 4, 8, 16]
    fits = compare(SIGNS, by_width(tiny, (2, 3)), seeds=(0, 1))
    assert len(fits) == 8
    assert fits["components"].tolist() == [1, 16] * 4
    assert (fits.loc[fits["fit"] == "dot, d = 3", "floor"] == floor(SIGNS.scores, 3)).all()
    whole = over_seeds(fits)
    assert whole["fit"].tolist() == ["dot, d = 2", "MoL, d = 2", "dot, d = 3", "MoL, d = 3"]
    assert (whole["seeds"] == 2).all()
    assert ((whole["low"] < whole["error"]) & (whole["error"] < whole["high"])).all()
    assert set(by_start(tiny, SIGNS)) == {"random", "spectral"}
    assert set(by_gate(tiny)) == set(GATES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "at least 1"),
        ({"steps": 0}, "at least 1"),
        ({"learning_rate": 0.0}, "positive"),
        ({"level": -1.0}, "positive"),
        ({"gate": ("user",)}, "not user"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MOL, **changes)


def test_a_start_from_latents_needs_latents_of_that_width() -> None:
    with pytest.raises(ValueError, match="was not made from latents"):
        Fit(SIGNS, replace(MOL, start="latents"))
    with pytest.raises(ValueError, match="have width 4, the embeddings 8"):
        Fit(similar_not_identical(16, 0), replace(MOL, start="latents", width=8))
