"""One reader per source format: files of a folder in, Interactions out."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.data.columns import Reading
from workbench.data.errors import DataError
from workbench.data.interactions import Interactions
from workbench.data.packed import check_zip
from workbench.data.tables import Table, TextFormat, open_table
from workbench.loading import reading

Kind = Literal["integer", "number", "text", "id"]
_RATINGS: dict[str, Kind] = {
    "user_id": "integer",
    "item_id": "integer",
    "rating": "number",
    "timestamp": "integer",
}
_MOVIES: dict[str, Kind] = {"item_id": "integer", "title": "text", "genres": "text"}
_USERS: dict[str, Kind] = {
    "user_id": "integer",
    "gender": "text",
    "age": "integer",
    "occupation": "text",
    "zip_code": "text",
}
_AMAZON: dict[str, Kind] = {"user_id": "id", "item_id": "id", "rating": "number", "timestamp": "integer"}
_BOOKS = {
    "ISBN": "item_id",
    "Book-Title": "title",
    "Book-Author": "author",
    "Year-Of-Publication": "year",
    "Publisher": "publisher",
}
_BOOK_RATING_KINDS: dict[str, Kind] = {"User-ID": "integer", "ISBN": "text", "Book-Rating": "number"}
_BOOK_RATINGS = {"User-ID": "user_id", "ISBN": "item_id", "Book-Rating": "rating"}
_AGES = {1: "under 18", 18: "18–24", 25: "25–34", 35: "35–44", 45: "45–49", 50: "50–55", 56: "56 and over"}
_EXPANSION_PARTS = 16


def read_movielens_1m(folder: Path) -> Interactions:
    """MovieLens 1M: `ratings.dat`, `movies.dat`, `users.dat`; "::" between fields, titles in Latin-1 (or saved as UTF-8).

    `items` has `title` and `genres`; `users` has `gender`, `age` (the band's name), `occupation` (the
    source's code) and `zip_code`.
    Raises FileNotFoundError, and DataError that names file and line.
    """
    _, users = _typed(folder / "users.dat", TextFormat("::", tuple(_USERS)), _USERS)
    users["age"] = [_AGES.get(age, str(age)) for age in users["age"].tolist()]
    return _movielens_dat(folder, users, encodings=("utf-8", "latin-1"))


def read_movielens_10m(folder: Path) -> Interactions:
    """MovieLens 10M: `ratings.dat` and `movies.dat`; "::" between fields, UTF-8 titles, half-star ratings.

    Raises FileNotFoundError, and DataError that names file and line.
    """
    return _movielens_dat(folder, users=None, encodings=("utf-8",))


def read_movielens_csv(folder: Path) -> Interactions:
    """MovieLens latest-small or 20M: `ratings.csv` and `movies.csv`, UTF-8, the first line names the columns.

    Raises FileNotFoundError, and DataError that names file and line.
    """
    kinds: dict[str, Kind] = {"movieId": "integer", "title": "text", "genres": "text"}
    _, movies = _typed(folder / "movies.csv", TextFormat(","), kinds)
    kinds = {"userId": "integer", "movieId": "integer", "rating": "number", "timestamp": "integer"}
    table, ratings = _typed(folder / "ratings.csv", TextFormat(","), kinds)
    ratings, movies = (
        frame.rename(columns={"userId": "user_id", "movieId": "item_id"}) for frame in (ratings, movies)
    )
    return _checked(table, ratings, _without_genre_note(movies), None)


def read_movielens_expansion(folder: Path, parts: int = _EXPANSION_PARTS) -> Interactions:
    """MovieLens 1B, the fractal expansion of 20M by 16 × 32: `trainx16x32_<i>.npz`, users and items alone.

    Reads the first `parts` of the 16 training parts; the published code reads all, and neither reads the
    `testx16x32_*` parts. The source has no times: `timestamp` is the position of a row among its user's rows.
    There are no ratings and no titles. All parts together hold 1,223,962,043 rows, for which to plan 100 GB of
    memory (an estimate from 8 bytes a value, not a measurement); one part holds a sixteenth.
    Raises FileNotFoundError, and DataError for a part of another shape; pickled arrays are refused.
    Raises ValueError if `parts` is not one of 1 to 16.
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

    Ids are text, kept as written; an item's is its title too.
    Raises FileNotFoundError, and DataError that names file and line.
    """
    table, ratings = _typed(path, TextFormat(",", tuple(_AMAZON)), _AMAZON)
    return _checked(table, ratings, None, None)


def read_book_crossing(folder: Path) -> Interactions:
    """Book-Crossing (2004): `BX-Book-Ratings.csv` and `BX-Books.csv`, as published or gzipped: ";", quotes, Latin-1.

    Editions of a book become one item: those whose title (without parentheses) and author have the same words, whatever case
    and punctuation. Its `item_id` is the first of their ISBNs in order; `title`, `author`, `year` and `publisher` are that
    edition's. A user's rows of several editions become one, with the highest rating. Ratings are 1 to 10, NaN for an implicit
    one (0 in the source). Rows of ISBNs that `BX-Books.csv` lacks are left out; a remark counts them.

    The source has no times, and a user's rows are in the order of ISBNs. So the result is not `ordered`, its timestamps are
    0, and its rows are shuffled (always in the same way): holding out a user's last row holds out any. Raises
    FileNotFoundError, and DataError that names and counts the lines which do not fit.
    """
    text = TextFormat(";", encodings=("latin-1",), escape="\\")
    _, books = _typed(stored(folder, "BX-Books.csv"), text, dict.fromkeys(_BOOKS, "text"))
    books = books.rename(columns=_BOOKS).sort_values("item_id", ignore_index=True)
    _, ratings = _typed(stored(folder, "BX-Book-Ratings.csv"), text, _BOOK_RATING_KINDS)
    ratings = ratings.rename(columns=_BOOK_RATINGS)
    book = pd.Index(books["item_id"]).get_indexer(pd.Index(ratings["item_id"]))
    titles, authors = books["title"].str.replace(r"\([^)]*\)", "", regex=True), books["author"]
    works, firsts = pd.factorize(_words(titles) + "|" + _words(authors))
    first_of = np.full(len(firsts), len(books))
    np.minimum.at(first_of, works, np.arange(len(books)))
    known = book >= 0
    ratings = ratings[known].assign(
        item_id=books["item_id"].to_numpy()[first_of[works[book[known]]]], timestamp=0
    )
    ratings["rating"] = ratings["rating"].where(ratings["rating"] > 0)
    ratings = ratings.sort_values("rating", ascending=False, kind="stable")
    once = ratings.drop_duplicates(["user_id", "item_id"]).sort_index()
    remarks = (
        f"rows of books without a title, left out: {np.count_nonzero(~known):,} of {len(known):,}",
        f"{len(books):,} editions are {len(firsts):,} books; a user's rows of several editions became one:"
        f" {len(ratings) - len(once):,} fewer",
        "the source has no order in time: rows are shuffled, and holding out the last one holds out any",
    )
    order = np.random.default_rng(0).permutation(len(once))
    once = once.iloc[order].reset_index(drop=True)
    items = books.iloc[np.sort(first_of)]
    return Interactions.complete(once, items, ordered=False, remarks=remarks)


def stored(folder: Path, name: str) -> Path:
    """The file `name` of a dataset, or that file gzipped if only that is there."""
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() and not (folder / name).is_file() else folder / name


def _words(texts: "pd.Series[str]") -> "pd.Series[str]":
    return texts.str.lower().str.replace(r"\W+", " ", regex=True).str.strip()


def _typed(path: Path, text: TextFormat, kinds: dict[str, Kind]) -> tuple[Table, pd.DataFrame]:
    """The columns of `kinds` of a published table. Raises DataError that names file, line and column of every problem."""
    found = Reading(open_table(path, text))
    columns: dict[str, object] = {}
    positions = {name: found.named(name) for name in kinds}
    found.load(list(positions.values()))
    for name, kind in kinds.items():
        position = positions[name]
        match kind:
            case "integer":
                columns[name] = found.integers(position)
            case "number":
                columns[name] = found.numbers(position, required=True)
            case "text":
                columns[name] = found.texts(position)
            case "id":
                columns[name] = found.ids(position)
    found.finish()
    return found.table, pd.DataFrame(columns)


def _movielens_dat(folder: Path, users: pd.DataFrame | None, encodings: tuple[str, ...]) -> Interactions:
    _, movies = _typed(folder / "movies.dat", TextFormat("::", tuple(_MOVIES), encodings), _MOVIES)
    table, ratings = _typed(folder / "ratings.dat", TextFormat("::", tuple(_RATINGS)), _RATINGS)
    return _checked(table, ratings, _without_genre_note(movies), users)


def _without_genre_note(movies: pd.DataFrame) -> pd.DataFrame:
    """MovieLens writes "(no genres listed)" for none: an empty text here."""
    return movies.assign(genres=movies["genres"].replace("(no genres listed)", ""))


def _expansion_part(path: Path) -> NDArray[np.integer]:
    """The (rows, 2) array of one part; nothing in it is unpickled."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    check_zip(path)
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
    table: Table, ratings: pd.DataFrame, items: pd.DataFrame | None, users: pd.DataFrame | None
) -> Interactions:
    """Interactions of a published table, with the line number in any error about a row; it has no item that `items` lacks."""
    try:
        if items is None:
            return Interactions.complete(ratings, items, users)
        if users is None:
            users = pd.DataFrame({"user_id": np.sort(ratings["user_id"].unique())})
        return Interactions(ratings, items, users)
    except DataError as error:
        if error.row is None or not str(error).startswith("interactions"):
            raise DataError(f"{table.name}: {error}", error.row) from None
        place = table.places([error.row])[error.row]
        raise DataError(f"{table.name}, {place}: {error}", error.row) from None
