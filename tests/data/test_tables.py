import bz2
import csv
import gzip
import io
import lzma
import zipfile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.data.errors import DataError
from workbench.data.tables import FrameTable, TextFormat, open_table

CONTENT = "user,item\nann,7\nbob,007\n"
ROWS = [["ann", "bob"], ["7", "007"]]


def columns(table):
    return [column.to_pylist() for column in table.read(range(len(table.names)))]


def write(folder, content, name="table.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_separators_and_line_ends_are_found(tmp_path, separator, end, quote):
    lines = [
        separator.join(f"{quote}{field}{quote}" for field in line.split(",")) for line in CONTENT.split()
    ]
    table = open_table(write(tmp_path, end.join(lines)))
    assert table.names == ("user", "item")
    assert columns(table) == ROWS
    assert table.places([1]) == {1: "line 3"}


def packed(kind):
    content = CONTENT.encode()
    if kind == "zip":
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr("__MACOSX/._a.csv", b"\0")
            archive.writestr("folder/a.csv", content)
        return target.getvalue()
    if kind == "zstd":
        return pa.compress(content, codec="zstd", asbytes=True)
    return {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind](content)


@pytest.mark.parametrize("kind", ["gzip", "zip", "zstd", "xz", "bz2"])
def test_files_are_unpacked_by_content(tmp_path, kind):
    content = packed(kind)
    assert columns(open_table(write(tmp_path, content, "any.thing"))) == ROWS
    with pytest.raises(DataError, match=r"any\.thing is damaged"):
        open_table(write(tmp_path, content[: len(content) - 9], "any.thing"))


@pytest.mark.parametrize(
    ("content", "encodings"),
    [
        (b"\xef\xbb\xbf" + "a,ü\n1,é\n".encode(), ("utf-8",)),
        ("a,ü\n1,é\n".encode("utf-16"), ("utf-8",)),
        ("a,ü\n1,é\n".encode("latin-1"), ("utf-8", "latin-1")),
        ("a,ü\n1,é\n".encode(), ("utf-8", "latin-1")),
    ],
)
def test_encodings(tmp_path, content, encodings):
    table = open_table(write(tmp_path, content), TextFormat(encodings=encodings))
    assert table.names == ("a", "ü")
    assert columns(table) == [["1"], ["é"]]


FIELDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@given(
    st.lists(st.tuples(FIELDS, FIELDS, FIELDS), min_size=1, max_size=8), st.sampled_from(["\n", "\r\n", "\r"])
)
def test_what_is_quoted_is_read_whole(tmp_path_factory, rows, end):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator=end).writerows([("x", "y", "z"), *rows])
    assert columns(open_table(path, TextFormat(","))) == [list(column) for column in zip(*rows, strict=True)]


@given(st.lists(st.lists(st.sampled_from(["", "a", " ", "\x0b", "\u2028", "é"]), min_size=2, max_size=2)))
def test_the_fast_parser_and_the_strict_one_agree(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text("x,y\n" + "".join(",".join(row) + "\n\n" for row in rows), encoding="utf-8", newline="")
    table = open_table(path)
    strict = [column.to_pylist() for column in table._strict([0, 1])]
    assert columns(table) == strict == [[row[0] for row in rows], [row[1] for row in rows]]


def test_long_fields_and_line_breaks_in_quotes(tmp_path):
    long = "line\n" * 60_000
    table = open_table(write(tmp_path, f'a,"b\nc"\n1,"{long}"\n2,x\n'))
    assert table.names == ("a", "b\nc")
    assert columns(table) == [["1", "2"], [long, "x"]]
    assert table.places([0, 1]) == {0: "line 3", 1: "line 60004"}


def test_a_double_colon_separates_without_quotes(tmp_path):
    path = write(tmp_path, '1::A: "B"::x\n\n2::C:::y\n')
    assert columns(open_table(path, TextFormat("::", ("id", "title", "kind")))) == [
        ["1", "2"],
        ['A: "B"', "C"],
        ["x", ":y"],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('a,b\n1,"x\n2,y\n3,z\n', r"table\.csv, line 2: a quote opens in this record and never closes"),
        ('a,b\n1,"x\n2,y\n3,"z\n', r"line 2: the quotes of this record do not pair up"),
        ('a,b\n1,"two\nlines"\n3,"z"z\n', r"line 4: the quotes of this record do not pair up"),
        ('"a,b\n1,2\n', r"line 1: a quote opens"),
        ("a,b\n1,2\n3\n", r"line 3: 1 fields but 2 belong \('a', 'b'\): '3'"),
        (
            'a,b\n1,"x\ny"\n3\n1,2,3\n',
            r"has 2 problems: line 4: 1 fields .*; line 5: 3 fields but 2 belong",
        ),
        ("a,b\n" + "1\n" * 12, r"has 12 problems: (line \d+: 1 fields [^;]*; ){3}and 9 more$"),
        (b"a,b\n1,2\n1,\xe9\n", r"line 3: not UTF-8 .*0xe9.*save it as UTF-8, or name its encoding"),
        ("", "the file is empty"),
        (" \n\n", "the file is empty"),
        (b"a\0\0b", "is neither text nor Parquet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is a spreadsheet; save it as CSV"),
        (b"PAR1 no", "is damaged .* it is no Parquet file"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        columns(open_table(write(tmp_path, content)))


def test_archives_of_several_files_are_refused(tmp_path):
    for members, message in (
        (["a.csv", "b.csv"], r"holds 2 files \('a\.csv', 'b\.csv'\)"),
        (["[Content_Types].xml"], "spreadsheet"),
    ):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for member in members:
                archive.writestr(member, CONTENT)
        with pytest.raises(DataError, match=message):
            open_table(tmp_path / "x.zip")


def test_a_folder_of_parquet_keeps_what_its_subfolders_say(tmp_path):
    for day, item in (("01", "b"), ("02", "a")):
        folder = tmp_path / "data" / f"day={day}"
        folder.mkdir(parents=True)
        pa.parquet.write_table(pa.table({"item": [item]}), folder / "part-0.parquet")
    (tmp_path / "data" / "_SUCCESS").touch()
    table = open_table(tmp_path / "data")
    assert table.names == ("item", "day")
    assert columns(table) == [["b", "a"], ["01", "02"]]
    (tmp_path / "data" / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="every file of the folder must be a Parquet file"):
        open_table(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is a folder without files"):
        open_table(tmp_path / "empty")


def test_an_index_with_a_name_is_a_column():
    frame = pd.DataFrame({"item": ["x"]}, index=pd.Index([5], name="user"))
    assert FrameTable(frame).names == ["user", "item"]
    assert columns(FrameTable(frame)) == [[5], ["x"]]
    with pytest.raises(DataError, match="column 'a' holds values of several types"):
        columns(FrameTable(pd.DataFrame({"a": [1, "x"]})))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv does not exist"):
        open_table(tmp_path / "none.csv")
