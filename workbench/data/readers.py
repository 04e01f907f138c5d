"""One reader per source format: files of a folder in, Interactions out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet
from numpy.typing import NDArray

from workbench.data.errors import DataError
from workbench.data.interactions import Interactions
from workbench.data.parsing import Layout, line_of, read_columns, read_text_table
from workbench.loading import reading

_DAT = Layout(
    separator="::",
    columns={"user_id": "int64", "item_id": "int64", "rating": "float32", "timestamp": "int64"},
    header=False,
)
_CSV = Layout(
    separator=",",
    columns={"userId": "int64", "movieId": "int64", "rating": "float32", "timestamp": "int64"},
    header=True,
)
_AMAZON = Layout(
    separator=",",
    columns={"user_id": "string", "item_id": "string", "rating": "float32", "timestamp": "int64"},
    header=False,
)
_AGES = {1: "under 18", 18: "18–24", 25: "25–34", 35: "35–44", 45: "45–49", 50: "50–55", 56: "56 and over"}
_EXPANSION_PARTS = 16


def read_movielens_1m(folder: Path) -> Interactions:
    """MovieLens 1M: `ratings.dat`, `movies.dat`, `users.dat`; "::" between fields, Latin-1 titles.

    `items` has `title` and `genres`; `users` has `gender`, `age` (the band's name), `occupation` (the
    source's code) and `zip_code`.
    Raises FileNotFoundError, and DataError that names file and line.
    """
    path = folder / "users.dat"
    columns = ("user_id", "gender", "age", "occupation", "zip_code")
    users = read_text_table(path, "::", columns, "latin-1", integers=("user_id", "age"))
    users["age"] = [_AGES.get(age, str(age)) for age in users["age"].tolist()]
    return _movielens_dat(folder, users, encoding="latin-1")


def read_movielens_10m(folder: Path) -> Interactions:
    """MovieLens 10M: `ratings.dat` and `movies.dat`; "::" between fields, UTF-8 titles, half-star ratings.

    Raises FileNotFoundError, and DataError that names file and line.
    """
    return _movielens_dat(folder, users=None, encoding="utf-8")


def read_movielens_csv(folder: Path) -> Interactions:
    """MovieLens latest-small or 20M: `ratings.csv` and `movies.csv`, UTF-8, the first line names the columns.

    Raises FileNotFoundError, and DataError that names file and line.
    """
    path = folder / "movies.csv"
    movies = _item_table(path, "movieId", ("title", "genres"))
    path = folder / "ratings.csv"
    ratings = read_columns(path, _CSV).rename(columns={"userId": "user_id", "movieId": "item_id"})
    return _checked(path, ratings, _without_genre_note(movies), None, header=True)


def read_movielens_expansion(folder: Path, parts: int = _EXPANSION_PARTS) -> Interactions:
    """MovieLens 1B, the fractal expansion of 20M by 16 × 32: `trainx16x32_<i>.npz`, users and items alone.

    Reads the first `parts` of the 16 training parts; the published code reads all, and neither reads the
    `testx16x32_*` parts. The source has no times: `timestamp` is the position of a row among its user's rows.
    There are no ratings and no titles. All parts together hold 1,223,962,043 rows, for which to plan 100 GB of
    memory (an estimate from 8 bytes a value, not a measurement); one part holds a sixteenth.
    Raises FileNotFoundError, and DataError for a part of another shape; pickled arrays are refused.
    """
    if not 1 <= parts <= _EXPANSION_PARTS:
        raise ValueError(f"parts must lie in 1..{_EXPANSION_PARTS}, not {parts}")
    pairs = [_expansion_part(folder / f"trainx16x32_{part}.npz") for part in range(parts)]
    user_ids = np.concatenate([part[:, 0] for part in pairs]).astype(np.int64)
    item_ids = np.concatenate([part[:, 1] for part in pairs]).astype(np.int64)
    del pairs
    table = pd.DataFrame({"user_id": user_ids, "item_id": item_ids, "timestamp": _positions(user_ids)})
    return Interactions.complete(table)


def read_amazon_ratings(path: Path) -> Interactions:
    """Amazon product ratings (2014), `ratings_Books.csv`: user, item, rating, timestamp, without a header.

    Ids are strings there: each is coded by its rank (from 1) among all of them in byte order, and kept as
    `source_id`, which for items is the title too.
    Raises FileNotFoundError, and DataError that names file and line.
    """
    table = read_columns(path, _AMAZON)
    tables: dict[str, pd.DataFrame] = {}
    for column in ("user_id", "item_id"):
        names = pa.array(table[column].cat.categories)
        order = pyarrow.compute.array_sort_indices(names)  # from rank to category
        codes = np.empty(len(names), dtype=np.int64)
        codes[order.to_numpy()] = np.arange(1, len(names) + 1)
        tables[column] = pd.DataFrame({column: np.arange(1, len(names) + 1)})
        tables[column]["source_id"] = names.take(order).to_pandas().astype("str")
        table[column] = codes[table[column].cat.codes.to_numpy()]
    tables["item_id"]["title"] = tables["item_id"]["source_id"]
    return _checked(path, table, tables["item_id"], tables["user_id"], header=False)


def read_table(path: Path, items: Path | None = None) -> Interactions:
    """One's own interactions: a CSV, TSV or Parquet file with `user_id`, `item_id`, `timestamp`[, `rating`].

    `items`: a file of the same kinds with `item_id`, `title` and further columns (`genres`, joined by "|");
    items that it lacks, or all without it, get their id as title. Ids are integers, timestamps whole seconds;
    more columns are ignored.
    Raises FileNotFoundError, and DataError that names file and line (row in Parquet).
    """
    item_table = None if items is None else _own_items(items)
    if path.suffix == ".parquet":
        table = _read_parquet(path)
        table = table[[name for name in ("user_id", "item_id", "rating", "timestamp") if name in table]]
    else:
        layout = Layout(
            separator=_separator(path),
            columns={
                "user_id": "int64",
                "item_id": "int64",
                "rating": "optional float32",
                "timestamp": "int64",
            },
            header=True,
            optional=frozenset({"rating"}),
        )
        table = read_columns(path, layout)
    return _checked(path, table, item_table, None, header=path.suffix != ".parquet", complete=True)


def _movielens_dat(folder: Path, users: pd.DataFrame | None, encoding: str) -> Interactions:
    path = folder / "movies.dat"
    movies = read_text_table(path, "::", ("item_id", "title", "genres"), encoding, integers=("item_id",))
    path = folder / "ratings.dat"
    return _checked(path, read_columns(path, _DAT), _without_genre_note(movies), users, header=False)


def _without_genre_note(movies: pd.DataFrame) -> pd.DataFrame:
    """MovieLens writes "(no genres listed)" where there is none: an empty text here."""
    return movies.assign(genres=movies["genres"].replace("(no genres listed)", ""))


def _item_table(path: Path, id_column: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """An item table from CSV, its id column renamed to `item_id`."""
    table = read_text_table(path, _separator(path), None, "utf-8-sig", integers=(id_column,))
    missing = [name for name in columns if name not in table]
    if missing:
        found = ", ".join(map(str, table))
        raise DataError(
            f"{path}, line 1: column {', '.join(map(repr, missing))} is missing (columns found: {found})"
        )
    return table.rename(columns={id_column: "item_id"})


def _own_items(path: Path) -> pd.DataFrame:
    return _read_parquet(path) if path.suffix == ".parquet" else _item_table(path, "item_id", ("title",))


def _separator(path: Path) -> str:
    return "\t" if path.suffix == ".tsv" else ","


def _read_parquet(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        frame: pd.DataFrame = pyarrow.parquet.read_table(path).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no Parquet file, or is damaged: {error}") from None
    return frame


def _expansion_part(path: Path) -> NDArray[np.integer]:
    """The (rows, 2) array of one part; nothing in it is unpickled."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    with (
        reading(path, "or is not a part of the expansion; get it again", DataError),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as part,
    ):
        pairs: NDArray[np.integer] = part["arr_0"]
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise DataError(f"{path}: expected integers of shape (rows, 2), found {pairs.dtype} {pairs.shape}")
    if pairs.size and int(pairs.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{path}: the id {pairs.max()} does not fit 64 bits with a sign")
    return pairs


def _positions(user_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row, how many rows of the same user come before it."""
    order = np.argsort(user_ids, kind="stable")
    of_user = user_ids[order]
    starts = np.flatnonzero(np.diff(of_user, prepend=of_user[0] - 1))
    positions = np.empty(len(user_ids), dtype=np.int64)
    positions[order] = np.arange(len(user_ids)) - np.repeat(starts, np.diff(starts, append=len(user_ids)))
    return positions


def _checked(
    path: Path,
    table: pd.DataFrame,
    items: pd.DataFrame | None,
    users: pd.DataFrame | None,
    header: bool,
    complete: bool = False,
) -> Interactions:
    """Interactions of the file `path`, any complaint about a row told with its line.

    Without `complete`, an item that the item table lacks is an error: a published dataset has none.
    """
    try:
        if complete or items is None:
            return Interactions.complete(table, items, users)
        if users is None:
            users = pd.DataFrame({"user_id": np.sort(table["user_id"].unique())})
        return Interactions(table, items, users)
    except DataError as error:
        text = str(error)
        if error.row is None or not text.startswith("interactions") or path.suffix == ".parquet":
            raise DataError(f"{path}: {text}", error.row) from None
        raise DataError(f"{path}, line {line_of(path, error.row, header)}: {text}", error.row) from None
