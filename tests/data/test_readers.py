import gzip
import io
import zipfile

import numpy as np
import pandas as pd
import pytest

from workbench.data import storage
from workbench.data.errors import DataError
from workbench.data.prepare import Preparation, prepare
from workbench.data.readers import (
    read_amazon_ratings,
    read_book_crossing,
    read_movielens_1m,
    read_movielens_10m,
    read_movielens_csv,
    read_movielens_expansion,
)


def test_movielens_1m(ml_1m):
    interactions = read_movielens_1m(ml_1m)
    assert interactions.table["user_id"].tolist() == [1, 1, 1, 2, 2, 9]
    assert interactions.table["rating"].tolist() == [5, 4, 3, 1, 2, 5]
    assert interactions.items["title"].tolist() == ["Heat (1995)", "Amélie (2001)", "Alien: A", "Unseen"]
    assert interactions.items["genres"].tolist() == ["Action|Crime", "Comedy", "Horror", "Drama"]
    assert interactions.users["age"].tolist() == ["under 18", "56 and over", "25–34"]
    assert interactions.users["zip_code"][0] == "48067"


def test_movielens_10m_is_utf_8_and_has_half_stars(ml_1m):
    (ml_1m / "movies.dat").write_text(
        "10::Amélie::Comedy\n20::B::(no genres listed)\n30::C::Drama\n", "utf-8"
    )
    (ml_1m / "ratings.dat").write_text("7::10::3.5::5\n")
    interactions = read_movielens_10m(ml_1m)
    assert interactions.table["rating"].tolist() == [3.5]
    assert interactions.items["title"][0] == "Amélie"
    assert interactions.items["genres"].tolist() == ["Comedy", "", "Drama"]
    assert interactions.users["user_id"].tolist() == [7]


def test_latin_1_titles_are_no_utf_8(ml_1m):
    with pytest.raises(
        DataError, match=r"movies\.dat, line 2: not UTF-8 \(invalid continuation byte: byte 0xe9"
    ):
        read_movielens_10m(ml_1m)


def test_movielens_csv(ml_csv):
    interactions = read_movielens_csv(ml_csv)
    assert interactions.table[["user_id", "item_id", "rating"]].values.tolist() == [
        [1, 5, 3.5],
        [1, 7, 0.5],
        [4, 5, 5],
    ]
    assert interactions.items["title"].tolist() == ['Matrix, The "1999"', "Misérables", "Unseen"]
    assert interactions.items["genres"].tolist() == ["Action|Sci-Fi", "", "Drama"]


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("ratings.dat", "1::77::5::100", r"ratings\.dat, line 7: .*item_id 77 .* is not in the item table"),
        ("ratings.dat", "1::10::5::-4", r"ratings\.dat, line 7: .*timestamp -4 .* is negative"),
        ("ratings.dat", "3::10::5::4", r"ratings\.dat, line 7: .*user_id 3 .* is not in the user table"),
        (
            "ratings.dat",
            "1::10::inf::4",
            r"ratings\.dat, line 7: .*rating must be a number, finite as float32, found 'inf'",
        ),
        (
            "ratings.dat",
            "1::10::5",
            r"ratings\.dat, line 7: 3 fields but 4 belong \('user_id', 'item_id', 'rating', 'timestamp'\)",
        ),
        ("movies.dat", "5::A", r"movies\.dat, line 5: 2 fields but 3 belong"),
        ("movies.dat", "x::A::B", r"movies\.dat, line 5: item_id must be an integer of 64 bits, found 'x'"),
        ("movies.dat", "10::A::B", r"item table: item_id 10 appears twice"),
        (
            "users.dat",
            "4::M::old::1::2",
            r"users\.dat, line 4: age must be an integer of 64 bits, found 'old'",
        ),
    ],
)
def test_bad_lines_are_named(ml_1m, file, line, message):
    with (ml_1m / file).open("a") as target:
        target.write(line + "\n")
    with pytest.raises(DataError, match=message):
        read_movielens_1m(ml_1m)


def test_lines_are_counted_past_empty_ones(ml_1m):
    path = ml_1m / "ratings.dat"
    path.write_text("\n\n" + path.read_text() + "\n1::77::5::100\n")
    with pytest.raises(DataError, match=r"line 10: .*item_id 77"):
        read_movielens_1m(ml_1m)


def test_missing_columns_and_files_are_named(ml_csv):
    (ml_csv / "movies.csv").write_text("movieId,name\n5,A\n")
    with pytest.raises(DataError, match=r"movies\.csv: column 'title' is missing"):
        read_movielens_csv(ml_csv)
    (ml_csv / "movies.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"movies\.csv does not exist"):
        read_movielens_csv(ml_csv)


def expansion(folder, parts):
    for number, pairs in enumerate(parts):
        np.savez(folder / f"trainx16x32_{number}.npz", np.array(pairs, dtype=np.int32))


def test_the_expansion_counts_positions_as_time(tmp_path):
    expansion(tmp_path, [[[0, 5], [0, 0], [2, 5]], [[2, 7], [0, 5], [9, 1]]])
    interactions = read_movielens_expansion(tmp_path, parts=2)
    assert interactions.table["user_id"].tolist() == [0, 0, 2, 2, 0, 9]
    assert interactions.table["timestamp"].tolist() == [0, 1, 0, 1, 2, 0]
    assert interactions.items["item_id"].tolist() == [0, 1, 5, 7]
    assert "rating" not in interactions.table
    assert len(read_movielens_expansion(tmp_path, parts=1)) == 3


def test_a_pickle_in_the_expansion_is_refused(tmp_path):
    np.savez(tmp_path / "trainx16x32_0.npz", np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"trainx16x32_0\.npz is damaged.*allow_pickle"):
        read_movielens_expansion(tmp_path, parts=1)


def test_a_damaged_expansion_is_named(tmp_path):
    path = tmp_path / "trainx16x32_0.npz"
    for pairs in ([1, 2, 3], [[1.5, 2.0]], [[1, 2, 3]]):
        np.savez(path, np.array(pairs))
        with pytest.raises(DataError, match=r"expected integers of shape \(rows, 2\)"):
            read_movielens_expansion(tmp_path, parts=1)
    np.savez(path, other=np.zeros((1, 2), int))
    with pytest.raises(DataError, match="not a part of the expansion"):
        read_movielens_expansion(tmp_path, parts=1)
    expansion(tmp_path, [[[k, k] for k in range(99)]])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"is damaged .* not a part of the expansion"):
        read_movielens_expansion(tmp_path, parts=1)
    with pytest.raises(FileNotFoundError, match=r"trainx16x32_1\.npz"):
        expansion(tmp_path, [[[1, 2]]])
        read_movielens_expansion(tmp_path, parts=2)
    with pytest.raises(ValueError, match="parts must lie in"):
        read_movielens_expansion(tmp_path, parts=17)


def test_a_part_that_is_no_npz_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "trainx16x32_0.npz", "w") as file:
        file.writestr("arr_0.npy", io.BytesIO(b"\x93NUMPY\x01\x00garbage").getvalue())
    with pytest.raises(DataError, match="not a part of the expansion"):
        read_movielens_expansion(tmp_path, parts=1)


def test_amazon_ids_are_kept_as_written(tmp_path):
    path = tmp_path / "ratings_Books.csv"
    path.write_text("AZ9,0000013714,5.0,100\nA1,B000X,4.0,50\nAZ9,0000000116,1.0,70\na2,B000X,2.0,60\n")
    interactions = read_amazon_ratings(path)
    assert interactions.users["user_id"].tolist() == ["A1", "AZ9", "a2"]
    assert interactions.items["item_id"].tolist() == ["0000000116", "0000013714", "B000X"]
    assert interactions.items["title"].tolist() == interactions.items["item_id"].tolist()
    assert interactions.table["item_id"].tolist() == ["0000013714", "B000X", "0000000116", "B000X"]


def test_movielens_1m_saved_as_utf_8(ml_1m):
    expected = read_movielens_1m(ml_1m).items
    path = ml_1m / "movies.dat"
    path.write_text(path.read_text("latin-1"), encoding="utf-8")
    pd.testing.assert_frame_equal(read_movielens_1m(ml_1m).items, expected)


def test_a_bad_amazon_line_is_named(tmp_path):
    path = tmp_path / "ratings_Books.csv"
    path.write_text("AZ9,0000013714,5.0,100\n,0000013714,5.0,100\n")
    with pytest.raises(DataError, match="line 2: user_id is missing"):
        read_amazon_ratings(path)


BOOKS = (
    '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S"\r\n'
    '"2";"Emma (Classics)";"JANE AUSTEN";"1999";"P";"u"\r\n'
    '"1X";"Emma";"Jane Austen";"1815";"M";"u"\r\n'
    '"3";"The Word \\"Desire\\"; a story";"Ren\xe9e";"1997";"H &amp; C";"u"\r\n'
    '"4";"Never rated";"A";"1";"B";"u"\r\n'
)
BOOK_RATINGS = (
    '"User-ID";"ISBN";"Book-Rating"\r\n"7";"1X";"0"\r\n"7";"2";"8"\r\n"7";"3";"0"\r\n'
    '"9";"2";"5"\r\n"9";"\\"5";"5"\r\n'
)


@pytest.fixture(params=[False, True])
def book_crossing(tmp_path, request):
    for name, content in (("BX-Books.csv", BOOKS), ("BX-Book-Ratings.csv", BOOK_RATINGS)):
        data = content.encode("latin-1")
        (tmp_path / (f"{name}.gz" if request.param else name)).write_bytes(
            gzip.compress(data) if request.param else data
        )
    return tmp_path


def test_book_crossing_merges_editions_and_has_no_order(book_crossing):
    interactions = read_book_crossing(book_crossing)
    assert interactions.items["item_id"].tolist() == ["1X", "3", "4"]
    assert interactions.items["title"].tolist() == ["Emma", 'The Word "Desire"; a story', "Never rated"]
    assert interactions.items["author"].tolist() == ["Jane Austen", "Renée", "A"]
    table = interactions.table.sort_values(["user_id", "item_id"])
    assert table["user_id"].tolist() == [7, 7, 9]
    assert table["item_id"].tolist() == ["1X", "3", "1X"]
    assert table["rating"].fillna(-1).tolist() == [8, -1, 5]
    assert not interactions.ordered
    assert "left out: 1 of 5" in interactions.remarks[0]
    assert "4 editions are 3 books" in interactions.remarks[1]


def test_order_that_is_not_there_is_required_in_vain(book_crossing, tmp_path):
    prepared = prepare(read_book_crossing(book_crossing), "books")
    storage.save(prepared.sequences, tmp_path / "saved", {})
    sequences = storage.load_folder(tmp_path / "saved")
    assert storage.read_meta(tmp_path / "saved")["ordered"] is False
    with pytest.raises(DataError, match=r"training sasrec needs the order .* which books does not have"):
        sequences.require_order("training sasrec")


def test_broken_lines_of_book_crossing_are_named_and_counted(tmp_path):
    (tmp_path / "BX-Books.csv").write_text(
        BOOKS + '"5";"a"\r\n"6";"b"b";"c";"1";"2";"3"\r\n', "latin-1", newline=""
    )
    with pytest.raises(
        DataError, match=r"has 2 problems: line 6: 2 fields but 6 belong .*; line 7: the quotes"
    ):
        read_book_crossing(tmp_path)


@pytest.mark.movielens
def test_real_book_crossing_in_its_5_core(movielens_1m):
    folder = movielens_1m.parent / "book-crossing"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    prepared = prepare(read_book_crossing(folder), "book-crossing", Preparation(k_core=5))
    assert (prepared.stages[-1].interactions, prepared.stages[-1].users, prepared.stages[-1].items) == (
        607_976,
        16_085,
        34_075,
    )
    assert not prepared.sequences.ordered
    assert "left out: 118,605 of 1,149,780" in prepared.remarks[0]


@pytest.mark.movielens
def test_real_movielens_1m_has_the_published_counts(movielens_1m):
    interactions = read_movielens_1m(movielens_1m)
    assert (interactions.num_users, interactions.num_items, len(interactions)) == (6_040, 3_706, 1_000_209)
    assert (len(interactions.items), int(interactions.items["item_id"].max())) == (3_883, 3_952)
    assert interactions.items["title"].str.contains("é").any()
    assert set(interactions.table["rating"].unique()) <= {1, 2, 3, 4, 5}


@pytest.mark.movielens
def test_real_latest_small_has_the_published_counts(movielens_small):
    interactions = read_movielens_csv(movielens_small)
    assert (interactions.num_users, interactions.num_items, len(interactions)) == (610, 9_724, 100_836)
    assert len(interactions.items) == 9_742
    assert interactions.table["rating"].min() == 0.5
