"""Deezer's cold-start dataset (Briand et al., KDD 2021): songs and warm users as embeddings, cold users as features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from workbench.data.errors import DataError
from workbench.data.sequences import Sequences
from workbench.data.subsets import of_users

Source = Literal["svd", "mf"]
SOURCES: dict[Source, str] = {"svd": "TT-SVD, 128 wide", "mf": "UT-ALS, 256 wide"}
"""The published names of the two embeddings in file and column names."""

SONGS, USERS = "song_embeddings.parquet", "user_embeddings.parquet"
MOST_VALUES = 50
"""A column with more values than this identifies users rather than describing them."""
LISTENED = "d1d30_songs"
"""The column of songs that a user listened to from day 1 to day 30: what is to be predicted."""


@dataclass(frozen=True)
class Listeners:
    """U users of one part: `user_ids` (U,), `features` float32 (U, F), and what they listened to, end to end.

    User u listened to rows `songs[offsets[u]:offsets[u + 1]]` of the song table, each once.
    """

    user_ids: NDArray[np.int64]
    features: NDArray[np.float32]
    offsets: NDArray[np.int64]
    songs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user_ids)


@dataclass(frozen=True)
class Deezer:
    """`song_ids` (N,) and `songs` float32 (N, D), the songs' embeddings; `train` are warm users, `users` float32 (U, D) their
    embeddings; `validation` and `test` are cold: they have only features at query time.

    As published: 50,000 songs; 70,000 users to train, 20,000 to validate, 10,000 to test.
    """

    source: Source
    song_ids: NDArray[np.int64]
    songs: NDArray[np.float32]
    train: Listeners
    users: NDArray[np.float32]
    validation: Listeners
    test: Listeners


def as_deezer(sequences: Sequences, width: int = 64, seed: int = 0, known: int = 0) -> Deezer:
    """Another dataset in Deezer's shape: items have given embeddings, cold users other known features.

    Users 8 : 1 : 1, drawn by `seed`; their features are the values of the user table's columns that have at most 50, one
    number (0 or 1) each, and, if `known` is not 0, the mean embedding of their first `known` items; what they interacted with
    after these is what is listened to. Embeddings are the truncated singular value decomposition U S V of the training users'
    interactions (0 or 1): items √S V, users U √S, `width` wide (TT-SVD).

    Raises ValueError if no column of the user table can be a feature, there are fewer than 10 users, or `known` is negative.
    """
    if known < 0:
        raise ValueError(f"known must be at least 0, not {known}")
    if sequences.num_users < 10:
        raise ValueError(
            f"{sequences.name} has {sequences.num_users} users; a tenth of them is held out twice"
        )
    values = sequences.users.drop(columns="user_id").astype(str)
    values = values[[c for c in values if 2 <= values[c].nunique() <= MOST_VALUES]]
    if values.empty:
        raise ValueError(f"the users of {sequences.name} have no column that could be a feature")
    features = pd.get_dummies(values).to_numpy(dtype=np.float32)
    order = np.random.default_rng(seed).permutation(sequences.num_users)
    tenth = sequences.num_users // 10

    def part(users: NDArray[np.int64]) -> Listeners:
        own = of_users(sequences, users, sequences.name)
        owners = np.repeat(np.arange(len(users)), own.lengths)
        after = np.arange(len(owners)) - own.offsets[owners] >= known
        pairs = np.unique(owners[after] * sequences.num_items + own.item_ids[after] - 1)
        counts = np.bincount(pairs // sequences.num_items, minlength=len(users))
        offsets = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
        return Listeners(users, features[users], offsets, pairs % sequences.num_items)

    train = part(np.sort(order[2 * tenth :]))
    own = of_users(sequences, train.user_ids, sequences.name)
    matrix = torch.zeros(len(train), sequences.num_items)
    matrix[np.repeat(np.arange(len(train)), own.lengths), own.item_ids - 1] = 1
    width = min(width, *matrix.shape)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        left, sizes, right = torch.svd_lowrank(matrix, width, niter=4)
    songs, users = (right * sizes.sqrt()).numpy().copy(), (left * sizes.sqrt()).numpy().copy()
    if known:
        first = (
            np.arange(len(sequences.item_ids)) - np.repeat(sequences.offsets[:-1], sequences.lengths) < known
        )
        sums = np.zeros((sequences.num_users, width), dtype=np.float32)
        owners = np.repeat(np.arange(sequences.num_users), sequences.lengths)[first]
        np.add.at(sums, owners, songs[sequences.item_ids[first] - 1])
        means = sums / np.bincount(owners, minlength=sequences.num_users).clip(min=1)[:, None]
        features = np.concatenate([features, means.astype(np.float32)], axis=1)
        train = part(train.user_ids)
    held = part(np.sort(order[:tenth])), part(np.sort(order[tenth : 2 * tenth]))
    return Deezer("svd", np.arange(sequences.num_items), songs, train, users, *held)


def read_deezer(folder: Path, source: Source = "svd") -> Deezer:
    """The dataset in its published format, with the embeddings of `source`: "svd" (TT-SVD) or "mf" (UT-ALS).

    `song_embeddings.parquet`: `song_index` and a list `features_svd`, `features_mf`; `user_embeddings.parquet`: `user_index`
    and a list `svd_embeddings`, `mf_embeddings`; `user_features_{train,validation,test}_{svd,mf}.parquet`: `user_index`,
    `d1d30_songs` (a list of song_index) and numeric features. Missing numbers are 0, as in the published code, which
    (deezer/semi_perso_user_cold_start, data_generation.py and model_evaluation.py) is what this format was read off.

    Raises FileNotFoundError, and DataError that names file and column or row.
    Raises ValueError if `source` is neither svd nor mf.
    """
    if source not in SOURCES:
        raise ValueError(f"source must be svd or mf, not {source!r}")
    path = folder / SONGS
    table = _table(path, ("song_index", f"features_{source}"))
    song_ids = _distinct(table, "song_index", path)
    songs = _vectors(table, f"features_{source}", path)
    rows = pd.Index(song_ids)
    parts = {part: _listeners(folder, part, source, rows) for part in ("train", "validation", "test")}
    seen = pd.Index(np.concatenate([part.user_ids for part in parts.values()]))
    if not seen.is_unique:
        raise DataError(
            f"{folder}: user {seen[seen.duplicated()][0]} is in two parts; users of a part are of it alone"
        )
    path = folder / USERS
    table = _table(path, ("user_index", f"{source}_embeddings"))
    place = pd.Index(_distinct(table, "user_index", path)).get_indexer(pd.Index(parts["train"].user_ids))
    if (place < 0).any():
        raise DataError(f"{path}: training user {parts['train'].user_ids[place < 0][0]} has no embedding")
    users = _vectors(table, f"{source}_embeddings", path)[place]
    if users.shape[1] != songs.shape[1]:
        raise DataError(f"{path}: embeddings of users are {users.shape[1]} wide, of songs {songs.shape[1]}")
    return Deezer(source, song_ids, songs, parts["train"], users, parts["validation"], parts["test"])


def _listeners(folder: Path, part: str, source: Source, song_rows: pd.Index) -> Listeners:
    path = folder / f"user_features_{part}_{source}.parquet"
    listened = () if part == "train" else (LISTENED,)
    table = _table(path, ("user_index", *listened)).sort_values(
        "user_index", kind="stable", ignore_index=True
    )
    user_ids = _distinct(table, "user_index", path)
    columns = [c for c in table.columns if c not in ("user_index", LISTENED)]
    wrong = [c for c in columns if not pd.api.types.is_numeric_dtype(table[c])]
    if wrong or not columns:
        raise DataError(f"{path}: features must be numbers; {wrong[0] if wrong else 'there is none'}")
    features = table[columns].fillna(0).to_numpy(dtype=np.float32)
    lists = table[LISTENED] if LISTENED in table else pd.Series([[]] * len(table))
    rows = []
    for user, songs in zip(user_ids, lists, strict=True):
        found = song_rows.get_indexer(pd.Index(np.asarray(songs, dtype=np.int64)))
        if (found < 0).any():
            raise DataError(
                f"{path}: user {user} listened to song {np.asarray(songs)[found < 0][0]}, which {SONGS} lacks"
            )
        rows.append(np.unique(found))
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    return Listeners(user_ids, features, offsets, np.concatenate([*rows, np.zeros(0)]).astype(np.int64))


def _table(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: unpack the published archive into {path.parent}")
    try:
        table = pyarrow.parquet.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is damaged or no Parquet file ({error}); fetch it again") from error
    if missing := [c for c in columns if c not in table]:
        raise DataError(
            f"{path} lacks the column {missing[0]}; it has {', '.join(map(str, table.columns[:8]))}"
        )
    if table.empty:
        raise DataError(f"{path} has no rows")
    return table


def _distinct(table: pd.DataFrame, column: str, path: Path) -> NDArray[np.int64]:
    values = table[column]
    if not pd.api.types.is_integer_dtype(values):
        raise DataError(f"{path}: {column} must hold integers, not {values.dtype}")
    if values.duplicated().any():
        raise DataError(f"{path}: {column} {values[values.duplicated()].iloc[0]} stands in two rows")
    return values.to_numpy(dtype=np.int64)


def _vectors(table: pd.DataFrame, column: str, path: Path) -> NDArray[np.float32]:
    widths = table[column].map(len)
    if (widths != widths.iloc[0]).any():
        row = int(np.flatnonzero(widths != widths.iloc[0])[0])
        raise DataError(
            f"{path}, row {row}: {column} has {widths.iloc[row]} numbers, the first row {widths.iloc[0]}"
        )
    return np.nan_to_num(np.stack(table[column].to_list()).astype(np.float32))
