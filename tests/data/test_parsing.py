import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.data.errors import DataError
from workbench.data.parsing import Layout, line_of, read_columns, read_text_table

DAT = Layout(
    "::", {"user_id": "int64", "item_id": "int64", "rating": "float32", "timestamp": "int64"}, header=False
)
CSV = Layout(
    ",",
    {"user_id": "int64", "item_id": "int64", "rating": "optional float32", "timestamp": "int64"},
    header=True,
    optional=frozenset({"rating"}),
)
int64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(int64, int64, st.integers(1, 10), int64), min_size=1))
def test_fast_parsing_keeps_every_number(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("dat") / "ratings.dat"
    path.write_text("".join(f"{user}::{item}::{half / 2}::{time}\n" for user, item, half, time in rows))
    table = read_columns(path, DAT)
    expected = [(user, item, half / 2, time) for user, item, half, time in rows]
    assert list(table.itertuples(index=False, name=None)) == expected
    assert table.dtypes.astype(str).tolist() == ["int64", "int64", "float32", "int64"]


def test_a_header_may_hold_more_columns_in_any_order(tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(b'\xef\xbb\xbfnote,timestamp,"item_id",user_id\r\nx,5,20,1\r\n"y,z",6,30,2\r\n\r\n')
    table = read_columns(path, CSV)
    assert table.to_dict("list") == {"timestamp": [5, 6], "item_id": [20, 30], "user_id": [1, 2]}


def test_an_optional_number_may_be_empty(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("user_id,item_id,rating,timestamp\n1,2,,3\n1,2,4.5,4\n")
    assert np.isnan(read_columns(path, CSV)["rating"][0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1::2::3::4\n1::2::3\n", r"line 2: expected user_id::item_id::rating::timestamp, found '1::2::3'"),
        (b"1::2::3::4\n\n\n1::2::3::4::5\n", "line 4: expected"),
        (b"1:2:3:4\n", "line 1: expected"),
        (b"1::2::3::4\n1:x:2::3::4\n", "line 2: expected"),
        (b"1::2::3::4\n1::2::3::late\n", "line 2: timestamp must be an integer of 64 bits, found 'late'"),
        (b"1::2.5::3::4\n", r"line 1: item_id must be an integer of 64 bits, found '2\.5'"),
        (b"1::2::good::4\n", "line 1: rating must be a number, found 'good'"),
        (b"1::2::::4\n", "line 1: rating must be a number, found ''"),
        (b"1::::3::4\n", "line 1: item_id must be an integer"),
        (b"1::NA::3::4\n", "line 1: item_id must be an integer"),
        (b"9223372036854775808::2::3::4\n", "line 1: user_id must be an integer of 64 bits"),
        (b"1::2::3::4\n1::2::3::\xff\xfe\n", "line 2: not UTF-8"),
        (b"", "the file is empty"),
    ],
)
def test_the_wrong_line_is_named(tmp_path, content, message):
    path = tmp_path / "ratings.dat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_columns(path, DAT)
    assert str(path) in str(error.value)


def test_the_wrong_line_is_named_far_into_a_file(tmp_path):
    path = tmp_path / "ratings.dat"
    path.write_text("1::2::3::4\n" * 800_000 + "1::2::3::x\n" + "1::2::3::4\n" * 10_000)
    with pytest.raises(DataError, match="line 800001: timestamp must be an integer"):
        read_columns(path, DAT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "user_id,timestamp\n1,2\n",
            r"line 1: column 'item_id' is missing \(columns found: user_id, timestamp\)",
        ),
        ("user_id,item_id,item_id,timestamp\n", "line 1: column 'item_id' appears twice"),
        (
            "user_id,item_id,timestamp\n1,2,3\n1,2\n",
            "line 3: expected user_id,item_id,timestamp, found '1,2'",
        ),
        ("user_id,item_id,timestamp\n1,a2,3\n", "line 2: item_id must be an integer"),
    ],
)
def test_the_wrong_line_of_a_csv_is_named(tmp_path, content, message):
    path = tmp_path / "own.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_columns(path, CSV)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        read_columns(tmp_path / "none.csv", CSV)
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        read_text_table(tmp_path / "none.csv", ",", None, "utf-8")


def test_a_header_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes("user_id,größe\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 1: not UTF-8"):
        read_columns(path, CSV)


def test_text_tables_keep_quotes_and_line_breaks(tmp_path):
    path = tmp_path / "movies.csv"
    path.write_text('id,title\n1,"A ""B"", C"\n2,"two\nlines"\n', encoding="utf-8")
    assert read_text_table(path, ",", None, "utf-8")["title"].tolist() == ['A "B", C', "two\nlines"]


@pytest.mark.parametrize(
    ("content", "separator", "columns", "message"),
    [
        (b"1::a\n2::b::c\n", "::", ("id", "title"), "line 2: 3 fields where 2 belong"),
        (b"1::a\n\n2::\xe9\n", "::", ("id", "title"), "line 3: not utf-8"),
        (b"id,title\n1,a\n2,b,c\n", ",", None, "line 3: 3 fields where 2 belong"),
        (b'id,title\n1,a\n2,"b\n', ",", None, "line 3: unexpected end of data"),
        (b"id,title\n1,a\n2,\xe9\n", ",", None, "line 3: not utf-8"),
        (b"", ",", None, "the file is empty"),
    ],
)
def test_the_wrong_line_of_a_text_table_is_named(tmp_path, content, separator, columns, message):
    path = tmp_path / "movies"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_text_table(path, separator, columns, "utf-8")


def test_line_of_skips_the_header_and_empty_lines(tmp_path):
    path = tmp_path / "file"
    path.write_text("head\na\n\n\r\nb\nc\n")
    assert [line_of(path, row, header=True) for row in range(3)] == [2, 5, 6]
    assert line_of(path, 0, header=False) == 1
    with pytest.raises(ValueError, match="has no row 3"):
        line_of(path, 3, header=True)


def test_a_layout_separates_by_one_character():
    with pytest.raises(ValueError, match="one character"):
        Layout(";;", {}, header=False)
