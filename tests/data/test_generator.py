"""The embedded dataset: the same from a seed, valid, skewed, drifting, and of a rank that small vectors do not reach."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from workbench.data import load
from workbench.data.generator import SIZES, GeneratorConfig, generate, generate_with, truth


@pytest.fixture(scope="module")
def small():
    return generate("small", 0)


def digest(table: pd.DataFrame) -> str:
    return hashlib.sha256(
        table[["user_id", "item_id", "timestamp"]].to_numpy(np.int64).tobytes()
    ).hexdigest()[:16]


def test_the_same_seed_gives_the_same_table_and_another_seed_another() -> None:
    assert digest(generate("tiny", 3).table) == digest(generate("tiny", 3).table)
    assert digest(generate("tiny", 3).table) != digest(generate("tiny", 4).table)


def test_tables_are_of_the_stated_sizes_and_in_time_order(small) -> None:
    config = SIZES["small"]
    assert len(small.items) == config.items
    assert small.table["user_id"].nunique() == config.users
    lengths = small.table.groupby("user_id").size()
    assert (lengths.min(), lengths.max()) == (config.shortest, config.longest)
    assert (small.table.groupby("user_id")["timestamp"].diff().dropna() > 0).all()
    assert (
        small.table["timestamp"].max() - small.table["timestamp"].min()
        <= config.days * 86_400 + config.longest
    )


def test_titles_are_unique_and_readable(small) -> None:
    assert small.items["title"].is_unique
    assert small.items["title"].str.fullmatch(r"The [A-Z][a-z]+ [A-Z][a-z]+").all()
    assert (small.items["genres"].str.count(r"\|") == 1).all()
    assert small.items["genres"].nunique() == SIZES["small"].niches


def test_a_tenth_of_the_items_has_a_third_of_the_interactions(small) -> None:
    counts = small.table["item_id"].value_counts().to_numpy()
    assert counts[: len(small.items) // 10].sum() > 0.3 * counts.sum()


def test_what_is_popular_changes(small) -> None:
    """Items of the first and the last quarter of the period differ more than two halves of the users do."""
    time = small.table["timestamp"]
    early, late = time <= time.quantile(0.25), time >= time.quantile(0.75)
    odd = small.table["user_id"] % 2 == 1

    def share(rows: pd.Series) -> np.ndarray:
        counts = np.bincount(small.table.loc[rows, "item_id"], minlength=len(small.items) + 1)
        return counts / counts.sum()

    drift = np.abs(share(early) - share(late)).sum()
    chance = np.abs(share((early | late) & odd) - share((early | late) & ~odd)).sum()
    assert drift > 2 * chance


def test_transitions_follow_the_stated_matrix() -> None:
    """With one interest and no noise, the pairs of niches that follow each other are drawn from R."""
    config = GeneratorConfig(
        users=4_000, items=64, shortest=40, longest=40, niches=16, interests=1, switch=0.0, noise=0.0
    )
    known = truth(config, 5)
    made = generate_with(config, 5).table
    niche = known.niche[made["item_id"].to_numpy() - 1].reshape(4_000, 40)
    counts = np.zeros((16, 16))
    np.add.at(counts, (niche[:, :-1].ravel(), niche[:, 1:].ravel()), 1)
    rows = counts.sum(axis=1, keepdims=True)
    expected = known.transitions * rows
    spread = np.sqrt(expected * (1 - known.transitions) + 1)
    assert rows.min() > 1_000
    assert (np.abs(counts - expected) < 6 * spread).all()


def test_the_rank_is_far_above_the_trained_width() -> None:
    known = truth(SIZES["small"], 0)
    np.testing.assert_allclose(known.transitions.sum(axis=1), 1)
    assert np.linalg.matrix_rank(known.transitions) == SIZES["small"].niches
    assert known.floor(8) > 0.7
    assert known.floor(SIZES["small"].niches) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"users": 0}, {"items": 5}, {"shortest": 2}, {"longest": 5}, {"niches": 129}, {"latent": 1}, {"ways": 0},
        {"sharpness": 0.0}, {"switch": 1.5}, {"noise": -0.1}, {"half_width": 0.0}, {"interests": 0},
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(change: dict) -> None:
    settings = {"users": 10, "items": 200, "shortest": 6, "longest": 20} | change
    with pytest.raises(ValueError, match="must"):
        GeneratorConfig(**settings)


def test_an_embedded_dataset_is_generated_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    first = load("embedded-tiny")
    assert load("embedded-tiny").fingerprint() == first.fingerprint()
    assert load("embedded-tiny", seed=1).fingerprint() != first.fingerprint()
    assert first.num_items == SIZES["tiny"].items
