"""Users known by features alone: learning from published embeddings, on data in which features decide the songs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from workbench.data.deezer import Deezer, Listeners
from workbench.similarities import DotConfig, SparCodeConfig
from workbench.similarities.sparcode.quantizer import QuantizerConfig
from workbench.studies.cold_start import (
    COLD,
    ColdConfig,
    judge_cold,
    judge_popularity,
    positives,
    train_cold,
)
from workbench.training.losses import LossConfig

GROUPS, EACH, WIDTH = 4, 10, 8


def world(listening: bool = True) -> Deezer:
    """Four tastes, given by a user's features; songs of a taste lie together."""
    random = np.random.default_rng(0)
    centres = 2 * np.linalg.qr(random.normal(size=(WIDTH, GROUPS)))[0].T
    songs = np.repeat(centres, EACH, 0) + 0.3 * random.normal(size=(GROUPS * EACH, WIDTH))

    def part(first: int, users: int, known: bool = True) -> Listeners:
        taste = np.arange(users) % GROUPS
        features = np.eye(GROUPS)[taste] + 0.1 * random.normal(size=(users, GROUPS))
        own = [np.sort(random.choice(EACH, 5, replace=False)) + t * EACH for t in taste] if known else []
        offsets = np.arange(users + 1) * (5 if known else 0)
        return Listeners(
            np.arange(first, first + users),
            features.astype(np.float32),
            offsets,
            np.concatenate([*own, np.zeros(0)]).astype(np.int64),
        )

    train = part(0, 80, listening)
    users = centres[np.arange(80) % GROUPS].astype(np.float32)
    return Deezer(
        "svd", np.arange(GROUPS * EACH), songs.astype(np.float32), train, users, part(100, 20), part(200, 20)
    )


SMALL = ColdConfig(
    DotConfig(normalize=False, temperature=1.0),
    hidden=(16,),
    dropout=0.0,
    epochs=60,
    batch_size=20,
    learning_rate=0.01,
    loss=LossConfig(negatives="shared", count=16),
    positives=10,
)
CODES = SparCodeConfig(
    2, 2, 8, hidden=(8,), dropout=0.0, aligned=True, threshold=4.0,
    quantizer=QuantizerConfig(1, 8, decay=0.9, gradient="straight-through"),
)  # fmt: skip


@pytest.mark.parametrize("similarity", [SMALL.similarity, CODES, replace(CODES, quantizer=None)])
@pytest.mark.parametrize("listening", [True, False])
def test_features_of_unseen_users_find_the_songs_of_their_taste(similarity, listening):
    data = world(listening)
    model = train_cold(data, replace(SMALL, similarity=similarity))
    found = judge_cold(model, data.test, (10,))["R@10"].mean()
    assert found > 0.8 > judge_popularity(data, data.test, (10,))["R@10"].mean() + 0.3
    torch.testing.assert_close(model.songs, torch.from_numpy(data.songs))  # as published, after training too


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    data, short = world(), replace(SMALL, epochs=2)
    one, same, other = (train_cold(data, c).state_dict() for c in (short, short, replace(short, seed=1)))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["tower.0.weight"], other["tower.0.weight"])


def test_where_nothing_is_listened_to_the_nearest_songs_stand_for_it():
    data = world(listening=False)
    offsets, songs = positives(data, SMALL)
    assert offsets.tolist() == list(range(0, 810, 10))
    nearest = data.users[3] @ data.songs.T
    assert sorted(songs[30:40]) == sorted(np.argsort(-nearest)[:10])
    heard = world()
    assert positives(heard, SMALL)[1] is heard.train.songs


def test_users_without_a_song_are_not_asked_for():
    data = world()
    offsets = np.concatenate([[0, 0], np.arange(1, 20) * 5])
    silent = replace(data.test, offsets=offsets, songs=data.test.songs[5:])
    model = train_cold(data, replace(SMALL, epochs=1))
    assert len(judge_cold(model, silent, (10,))) == 19
    nobody = replace(data, train=replace(data.train, offsets=np.zeros(81, dtype=np.int64)))
    with pytest.raises(ValueError, match="no training user has a song"):
        train_cold(nobody, SMALL)


def test_the_published_settings():
    assert all(
        c.hidden == (256, 256, 256) and c.dropout == 0.1 and c.learning_rate == 1e-3 for c in COLD.values()
    )
    for wrong in ({"epochs": 0}, {"dropout": 1.0}, {"learning_rate": 0.0}, {"hidden": (0,)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(SMALL, **wrong)
