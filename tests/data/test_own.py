"""Files as people have them; those in `faults/` are small inputs that once failed."""

import gzip
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workbench.data.columns import ColumnNames
from workbench.data.errors import DataError
from workbench.data.own import read_own
from workbench.data.prepare import prepare

FAULTS = Path(__file__).parent / "faults"
ROWS = [(user, item, 1000 * user + item - user) for user in range(1, 7) for item in range(user, user + 6)]


def rows(interactions):
    table = interactions.table[["user_id", "item_id", "timestamp"]]
    return list(table.itertuples(index=False, name=None))


@pytest.mark.parametrize(
    "name", ["base.csv", "base.csv.gz", "cr.csv", "twice_unnamed.csv", "PLAIN.PARQUET", "index.parquet"]
)
def test_every_row_arrives_from_every_kind_of_file(name):
    assert rows(read_own(FAULTS / name)) == ROWS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "unterminated_end.csv",
            r"unterminated_end\.csv, line 32: a quote opens in this record and never closes",
        ),
        (
            "review_newline_bad.csv",
            r"review_newline_bad\.csv, line 28: timestamp must be a date .*, found 'x'",
        ),
        ("dup_cols.parquet", r"dup_cols\.parquet: column 'user_id' stands 2 times; leave one of them"),
    ],
)
def test_files_that_cannot_be_read_are_named(name, message):
    with pytest.raises(DataError, match=message):
        read_own(FAULTS / name)


def test_milliseconds_are_recognised_and_said():
    interactions = read_own(FAULTS / "ms_ts.csv")
    assert interactions.table["timestamp"].between(1_700_000_001, 1_700_000_006).all()
    assert "timestamp holds milliseconds since 1970, from 2023-11-14T22:13:21 to" in " ".join(
        interactions.remarks
    )
    seconds = read_own(FAULTS / "ms_ts.csv", columns=ColumnNames(time_unit="s"))
    assert seconds.table["timestamp"].min() == 1_700_000_001_000


def test_a_header_and_reviews_with_line_breaks(tmp_path):
    assert rows(read_own(FAULTS / "header_quoted_newline.csv")) == [(1, 1, 1), (1, 2, 4)]
    text = "line of text\n" * 30
    lines = [f'{user},{item},{item},"{text}"\n' for user in range(50) for item in range(20)]
    (tmp_path / "reviews.csv").write_text("user_id,item_id,timestamp,review\n" + "".join(lines))
    assert len(read_own(tmp_path / "reviews.csv")) == 1000


def test_leading_zeros_make_another_item():
    path = FAULTS / "leading_zero_clash.csv"
    written = {line.split(",")[1] for line in path.read_text().split()[1:]}
    assert {"7", "007"} <= written
    assert read_own(path).items["item_id"].tolist() == sorted(written)


def test_users_who_came_once_are_said():
    remarks = prepare(read_own(FAULTS / "singles.csv"), "singles").remarks
    assert "no user of singles has two interactions: nothing can be held out" in remarks[-1]


@pytest.mark.parametrize(
    ("name", "titles", "genres"),
    [
        ("it_nulltitle.parquet", ["F3", "4"], "A|B"),
        ("it_listgenres.parquet", ["F3", "F4"], "A|B"),
        ("it_extra_cols_dup.csv", ["F3", "F4"], None),
    ],
)
def test_item_tables(name, titles, genres):
    items = read_own(FAULTS / "base.csv", FAULTS / name).items
    assert items["title"].tolist()[2:4] == titles
    assert (items["genres"][0] if genres else None) == genres
    assert "tag" not in items


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("it_dup.csv", r"it_dup\.csv, line 13: item_id 3 stands in an earlier row too"),
        (
            "it_bytestitle.parquet",
            r"it_bytestitle\.parquet has 11 problems: row 1: title must be UTF-8, found the bytes",
        ),
    ],
)
def test_bad_item_tables_are_named(name, message):
    with pytest.raises(DataError, match=message):
        read_own(FAULTS / "base.csv", FAULTS / name)


def frame(**columns):
    return pd.DataFrame({"user_id": ["a", "b"], "item_id": [1, 2], "timestamp": [5, 6]} | columns)


def test_items_as_lists_numbers_and_bytes():
    items = pd.DataFrame(
        {
            "sku": [1, 2, 3, 3],
            "name": [b"caf\xc3\xa9", None, "x", "x"],
            "categories": [["a", 1], None, [], []],
            "year": [1999.0, np.nan, 2001.0, 2001.0],
        }
    )
    items["name"] = [b"caf\xc3\xa9", None, b"x", b"x"]
    items["categories"] = [["a", "b"], None, [], []]
    found = read_own(frame(), items.assign(categories=items["categories"].map(str)))
    assert found.items["title"].tolist() == ["café", "2", "x"]
    assert found.items["year"].tolist()[0] == 1999
    assert "1 rows repeat another one in every column" in " ".join(found.remarks)
    numbers = read_own(frame(), pd.DataFrame({"item_id": [1, 2], "genre": [3.0, np.nan]}))
    assert numbers.items["genres"].tolist() == ["3", ""]
    assert numbers.items["title"].tolist() == ["1", "2"]


def test_an_item_table_with_no_item_in_common_is_refused():
    with pytest.raises(DataError, match=r"table has none of the items .* \(ids as written: '1' and '001'\)"):
        read_own(frame(), pd.DataFrame({"item_id": ["001", "002"], "title": ["a", "b"]}))
    found = read_own(frame(), pd.DataFrame({"item_id": [2, 9], "title": ["b", "c"]}))
    assert "lacks 1 of 2 items (such as '1')" in " ".join(found.remarks)
    assert found.items["title"].tolist() == ["b", "c", "1"]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "userId,movieId,rating,timestamp",
            "users in 'userId', items in 'movieId', ratings in 'rating', times in 'timestamp'",
        ),
        ("Customer ID,SKU,Stars,Order Date", "users in 'Customer ID', items in 'SKU', ratings in 'Stars'"),
        (
            "User-ID,ISBN,Book-Rating,ts",
            "users in 'User-ID', items in 'ISBN', ratings in 'Book-Rating', times in 'ts'",
        ),
        (
            "customer,product_id,score,date",
            "users in 'customer', items in 'product_id', ratings in 'score', times in 'date'",
        ),
        ("reviewerID,asin,overall,unixReviewTime", "users in 'reviewerID', items in 'asin'"),
    ],
)
def test_usual_spellings_are_recognised_and_said(tmp_path, header, said):
    path = tmp_path / "orders.csv"
    path.write_text(f"{header}\nann@x.org,007,4.5,2024-02-01\nbob@x.org,7,,2024-01-01\n")
    interactions = read_own(path)
    assert said in interactions.remarks[0]
    assert interactions.table["user_id"].tolist() == ["ann@x.org", "bob@x.org"]
    assert interactions.table["item_id"].tolist() == ["007", "7"]
    assert interactions.table["timestamp"].tolist() == [1706745600, 1704067200]
    assert interactions.table["rating"].tolist()[0] == 4.5


def test_the_plainest_spelling_comes_first(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text("user,userId,user_id,item,item_id,time,timestamp\na,b,c,1,2,3,4\n")
    assert rows(read_own(path)) == [("c", 2, 4)]


def test_columns_by_name(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text("user;buyer;code;points;when\n1;x;a;3;1700000000000\n")
    columns = ColumnNames("buyer", "code", "points", "when", "ms")
    interactions = read_own(path, columns=columns)
    assert rows(interactions) == [("x", "a", 1_700_000_000)]
    with pytest.raises(DataError, match=r"no column 'nope' \(columns found: 'user', 'buyer', 'code'"):
        read_own(path, columns=ColumnNames(user="nope", item="code"))
    with pytest.raises(DataError, match="column 'code' cannot be two things at once"):
        read_own(path, columns=ColumnNames("code", "code"))
    with pytest.raises(
        DataError, match=r"no column is recognised as item .* name it with --item-col \(in Python .*item=…"
    ):
        read_own(path)
    with pytest.raises(
        (ValueError, TypeError), match=r"time_unit|one of s, ms"
    ):  # TypeError: if types are checked
        ColumnNames(time_unit="h")  # type: ignore[arg-type]


def test_titles_of_items_are_in_the_interactions(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text(
        "customer,sku,day,product_name,price\na,007,2024-01-01,,1\nb,007,2024-01-02,Lamp,1\nb,05,2024-01-03,Mug,2\n"
        "c,007,2024-01-04,Old lamp,1\n"
    )
    found = read_own(path, columns=ColumnNames(time="day"))
    assert found.items.to_dict("list") == {"item_id": ["007", "05"], "title": ["Lamp", "Mug"]}
    assert len(found) == 4
    assert "titles in 'product_name'" in found.remarks[0] and found.remarks[1] == "columns not used: 'price'"
    assert "items with several titles, called by the first: 1" in found.remarks
    products = pd.DataFrame({"sku": ["007"], "title": ["From the table of items"]})
    kept = read_own(path, products, ColumnNames(time="day"))
    assert kept.items["title"].tolist() == ["From the table of items", "05"]


def test_a_column_of_titles_by_name(tmp_path):
    path = tmp_path / "orders.csv"
    path.write_text("user,item,time,name\n1,7,1700000000,Mug\n")
    unnamed = read_own(path)
    assert unnamed.items["title"].tolist() == ["7"]  # a name may be the customer's
    assert "columns not used: 'name' (--title-col names the one of items' titles)" in unnamed.remarks
    assert read_own(path, columns=ColumnNames(title="name")).items["title"].tolist() == ["Mug"]
    with pytest.raises(DataError, match="no column 'label'"):
        read_own(path, columns=ColumnNames(title="label"))


def test_without_times_the_order_of_rows_is_taken_and_said():
    interactions = read_own(frame().drop(columns="timestamp"))
    assert interactions.table["timestamp"].tolist() == [0, 1]
    assert "no column of times is recognised" in interactions.remarks[-1]


def test_fractions_of_a_second_order_the_rows():
    times = [1_700_000_000_900, 1_700_000_000_100, 1_600_000_000_000]
    table = pd.DataFrame({"user": [1, 1, 1], "item": ["late", "early", "first"], "ts": times})
    interactions = read_own(table)
    assert interactions.table["item_id"].tolist() == ["first", "early", "late"]
    assert interactions.table["timestamp"].tolist() == [1_600_000_000, 1_700_000_000, 1_700_000_000]


def test_all_problems_are_reported_at_once(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text('user,item,rating,time\n,1,2,3\n1,,1e300,x\n"1",2,good,-3\n')
    with pytest.raises(DataError) as error:
        read_own(path)
    assert str(error.value) == (
        f"{path} has 6 problems: line 2: user is missing; line 3: item is missing;"
        " line 3: rating must be a number, finite as float32, found '1e300'; and 3 more"
    )


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1,2,3,x", "time must be a date like 2024-01-31 or 2024-01-31T18:30:00Z, or a number of seconds, ms, us"),
        ("1,2,good,5", "rating must be a number, finite as float32, found 'good'"),
        ("1,2,3,-3", "time is negative or before 1970, found '-3'"),
    ],
)  # fmt: skip
def test_each_problem_is_reported_with_what_is_expected(tmp_path, row, problem):
    path = tmp_path / "own.csv"
    path.write_text(f"user,item,rating,time\n{row}\n")
    with pytest.raises(DataError) as error:
        read_own(path)
    assert problem in str(error.value)


def test_an_error_stays_one_line_whatever_the_columns_are_called(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text('"user\x1b[31m\nid",item,"\u202e' + "x" * 500 + '"\n1\n1,2,3,4\n' + "y" * 5000 + ",2\n")
    with pytest.raises(DataError) as error:
        read_own(path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1200
    path.write_text("user,item\n" + ",5\n" * 30)
    with pytest.raises(DataError, match=r"has 30 problems: (line \d+: user is missing; ){3}and 27 more$"):
        read_own(path)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (["7", "-3", "0"], [7, -3, 0]),
        (["7", "18446744073709551615"], ["7", "18446744073709551615"]),
        (["7", "-0"], ["7", "-0"]),
        (["7", "7.0"], ["7", "7.0"]),
        (["7", "+7"], ["7", "+7"]),
        ([" 7 ", "8"], [7, 8]),
        (["é", "e"], ["é", "e"]),
    ],
)
@pytest.mark.parametrize("quote", ["", '"'])
def test_ids_of_a_text_are_numbers_only_if_nothing_is_lost(tmp_path, written, kept, quote):
    path = tmp_path / "own.csv"
    path.write_text(
        "user,item\n" + "".join(f"1,{quote}{item}{quote}\n" for item in written), encoding="utf-8"
    )
    assert read_own(path).table["item_id"].tolist() == kept


def test_ids_in_parquet_keep_their_type(tmp_path):
    path = tmp_path / "own.pq"
    users = [str(uuid.UUID(int=1)), str(uuid.UUID(int=2))]
    frame(user_id=users, item_id=np.array([2**64 - 1, 7], np.uint64)).to_parquet(path)
    interactions = read_own(path)
    assert interactions.table["user_id"].tolist() == users
    assert interactions.table["item_id"].tolist() == [str(2**64 - 1), "7"]
    frame(item_id=["1", "2"]).to_parquet(path)
    assert read_own(path).items["item_id"].tolist() == ["1", "2"]
    frame(item_id=[1.5, 2]).to_parquet(path)
    with pytest.raises(
        DataError, match=r"own\.pq, row 1: item_id must hold whole numbers or text, found 1\.5"
    ):
        read_own(path)


def test_an_empty_table_and_a_missing_file(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("user,item,time\n")
    with pytest.raises(DataError, match=r"own\.csv: interactions: the table is empty"):
        read_own(path)
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        read_own(tmp_path / "none.csv")


def test_an_encoding_that_is_named(tmp_path):
    path = tmp_path / "own.csv.gz"
    path.write_bytes(gzip.compress("user,item,time\nJosé,1,2\n".encode("latin-1")))
    with pytest.raises(DataError, match="line 2: not UTF-8"):
        read_own(path)
    assert read_own(path, encoding="latin-1").table["user_id"].tolist() == ["José"]
    with pytest.raises(DataError, match="there is no encoding 'klingon'"):
        read_own(path, encoding="klingon")


def test_reading_leaves_the_limit_of_fields_as_it_was():
    code = (
        "import csv, pathlib, sys; before = csv.field_size_limit(); from workbench.data.own import read_own;"
        "read_own(pathlib.Path(sys.argv[1])); assert csv.field_size_limit() == before"
    )
    subprocess.run([sys.executable, "-c", code, str(FAULTS / "header_quoted_newline.csv")], check=True)


@pytest.mark.parametrize("order", [["customer", "product", "sku"], ["customer", "sku", "product"]])
def test_a_column_of_codes_is_the_item_and_the_one_of_names_its_title(tmp_path, order):
    path = tmp_path / "orders.csv"
    orders = {"customer": ["a", "a"], "sku": ["S-1", "S-2"], "product": ["Tea", "Cup"]}
    pd.DataFrame(orders)[order].to_csv(path, index=False)
    found = read_own(path)
    assert list(found.table["item_id"]) == ["S-1", "S-2"] and list(found.items["title"]) == ["Tea", "Cup"]
    assert "items in 'sku'" in found.remarks[0] and "titles in 'product'" in found.remarks[0]
    pd.DataFrame(orders)[["customer", "product"]].to_csv(path, index=False)
    alone = read_own(path)
    assert list(alone.table["item_id"]) == ["Tea", "Cup"] and set(alone.items["title"]) == {"Tea", "Cup"}
