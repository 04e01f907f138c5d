"""The reader of Deezer's dataset on small files in the published format."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workbench.data.deezer import as_deezer, read_deezer
from workbench.data.errors import DataError

SONGS = [500, 300, 400]
WIDTH = {"svd": 4, "mf": 6}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)

    def lists(rows: int, width: int) -> list[list[float]]:
        return random.normal(size=(rows, width)).tolist()

    songs = {"song_index": SONGS} | {f"features_{s}": lists(3, w) for s, w in WIDTH.items()}
    pd.DataFrame(songs).to_parquet(tmp_path / "song_embeddings.parquet")
    users = {"user_index": [3, 1, 2]} | {f"{s}_embeddings": lists(3, w) for s, w in WIDTH.items()}
    pd.DataFrame(users).to_parquet(tmp_path / "user_embeddings.parquet")
    parts = {
        "train": ([2, 3, 1], [[500], [300, 400], [400]]),
        "validation": ([11, 10], [[300, 300, 500], [400]]),
        "test": ([20], [[500, 400]]),
    }
    for part, (ids, listened) in parts.items():
        for source in WIDTH:
            table = pd.DataFrame({"user_index": ids, "d1d30_songs": listened, "age": 1.0 * np.array(ids)})
            table.assign(country=np.array([np.nan, 1.0, 1.0])[: len(ids)]).to_parquet(
                tmp_path / f"user_features_{part}_{source}.parquet"
            )
    return tmp_path


def rewrite(path: Path, change) -> None:
    change(pd.read_parquet(path)).to_parquet(path)


@pytest.mark.parametrize("source", ["svd", "mf"])
def test_songs_users_and_listening_are_read(folder, source):
    read = read_deezer(folder, source)
    assert read.song_ids.tolist() == SONGS
    assert read.songs.shape == read.users.shape == (3, WIDTH[source])
    assert read.songs.dtype == read.users.dtype == np.float32
    assert read.train.user_ids.tolist() == [1, 2, 3]  # by user_index, with their own embeddings
    embeddings = pd.read_parquet(folder / "user_embeddings.parquet").set_index("user_index")
    for user, vector in zip(read.train.user_ids, read.users, strict=True):
        np.testing.assert_allclose(vector, embeddings.loc[user, f"{source}_embeddings"], rtol=1e-6)
    assert read.validation.user_ids.tolist() == [10, 11]
    assert read.validation.offsets.tolist() == [0, 1, 3]
    assert read.validation.songs.tolist() == [2, 0, 1]  # rows of the song table, each once
    assert read.test.songs.tolist() == [0, 2] and len(read.test) == 1
    assert read.train.features.tolist() == [[1, 1], [2, 0], [3, 1]]  # what is missing is 0
    assert read.train.features.dtype == np.float32


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("song_embeddings", lambda t: t.drop(columns="features_svd"), "lacks the column features_svd"),
        ("song_embeddings", lambda t: t.assign(song_index=[1, 1, 2]), "song_index 1 stands in two rows"),
        ("song_embeddings", lambda t: t.assign(song_index=["a", "b", "c"]), "must hold integers"),
        ("song_embeddings", lambda t: t.iloc[:0], "has no rows"),
        (
            "song_embeddings",
            lambda t: t.assign(features_svd=[[0.0] * 4, [0.0] * 4, [0.0] * 3]),
            "row 2: features_svd has 3 numbers, the first row 4",
        ),
        ("user_embeddings", lambda t: t[t["user_index"] != 2], "training user 2 has no embedding"),
        ("user_embeddings", lambda t: t.assign(svd_embeddings=[[0.0]] * 3), "1 wide, of songs 4"),
        (
            "user_features_test_svd",
            lambda t: t.assign(d1d30_songs=[[500, 7]]),
            "user 20 listened to song 7, which song_embeddings",
        ),
        ("user_features_test_svd", lambda t: t.assign(user_index=[10]), "user 10 is in two parts"),
        ("user_features_test_svd", lambda t: t.assign(age=["old"]), "features must be numbers; age"),
        ("user_features_test_svd", lambda t: t.drop(columns="d1d30_songs"), "lacks the column d1d30_songs"),
    ],
)
def test_what_does_not_fit_is_named(folder, file, change, message):
    rewrite(folder / f"{file}.parquet", change)
    with pytest.raises(DataError, match=message):
        read_deezer(folder)


def test_missing_and_damaged_files_are_named(folder):
    (folder / "user_embeddings.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"user_embeddings.* is damaged"):
        read_deezer(folder)
    (folder / "song_embeddings.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="song_embeddings"):
        read_deezer(folder)


def test_another_dataset_in_the_same_shape(cycles):
    whole = cycles(users=40, items=30, length=12)
    known = whole.users.assign(
        age=["young", "old"] * 20, zip=[f"{i}" for i in range(40)], one=1, many=np.arange(40) % 5
    )
    made = as_deezer(dataclasses.replace(whole, users=known), width=6)
    again = as_deezer(dataclasses.replace(whole, users=known), width=6)
    assert (len(made.train), len(made.validation), len(made.test)) == (32, 4, 4)
    parts = [set(p.user_ids.tolist()) for p in (made.train, made.validation, made.test)]
    assert set().union(*parts) == set(range(40)) and sum(map(len, parts)) == 40
    assert made.train.features.shape[1] == 2 + 40 + 5  # "one" is constant
    assert made.songs.shape == (30, 6) and made.users.shape == (32, 6)
    for place, user in enumerate(made.test.user_ids):
        own = whole.item_ids[whole.offsets[user] : whole.offsets[user + 1]]
        found = made.test.songs[made.test.offsets[place] : made.test.offsets[place + 1]]
        assert found.tolist() == sorted(set((own - 1).tolist()))
        assert made.test.features[place].sum() == 3
    np.testing.assert_array_equal(made.songs, again.songs)
    wider = as_deezer(dataclasses.replace(whole, users=known), width=30)
    seen = np.zeros((32, 30))
    seen[np.repeat(np.arange(32), np.diff(made.train.offsets)), made.train.songs] = 1
    np.testing.assert_allclose(
        wider.users @ wider.songs.T, seen, atol=1e-3
    )  # all of it, where nothing is cut
    begun = as_deezer(dataclasses.replace(whole, users=known), width=6, known=3)
    assert begun.train.features.shape[1] == made.train.features.shape[1] + 6
    np.testing.assert_array_equal(begun.songs, made.songs)
    for place, user in enumerate(begun.test.user_ids):
        own = whole.item_ids[whole.offsets[user] : whole.offsets[user + 1]] - 1
        found = begun.test.songs[begun.test.offsets[place] : begun.test.offsets[place + 1]]
        assert found.tolist() == sorted(set(own[3:].tolist()))
        np.testing.assert_allclose(begun.test.features[place, -6:], begun.songs[own[:3]].mean(0), rtol=1e-5)
    with pytest.raises(ValueError, match="known must be at least 0"):
        as_deezer(dataclasses.replace(whole, users=known), known=-1)
    with pytest.raises(ValueError, match="have no column that could be a feature"):
        as_deezer(whole)
    with pytest.raises(ValueError, match="5 users"):
        as_deezer(cycles(users=5))
