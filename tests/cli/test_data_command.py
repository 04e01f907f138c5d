import re
import zipfile

import pandas as pd
import pytest
from typer.testing import CliRunner

from workbench import data
from workbench.cli.data import app
from workbench.data import storage


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path / "root"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "ml-latest-small"
    folder.mkdir()
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,5,3.5,10\n1,7,0.5,20\n4,5,5.0,15\n"
    )
    (folder / "movies.csv").write_text("movieId,title,genres\n5,A,Action\n7,B,Drama\n8,C,Drama\n")
    return folder


def run(*arguments, code=0, typed=None):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=typed)
    assert result.exit_code == code, result.output
    message = f" error: {result.exception}" if isinstance(result.exception, ValueError | OSError) else ""
    return re.sub(r"\s+", " ", result.output + message)


def test_help_has_examples():
    assert "list" in run("--help")
    for command in ("list", "fetch", "prepare"):
        assert f"workbench data {command}" in run(command, "--help")


def test_list_shows_counts_licences_and_what_is_prepared(root, folder):
    before = run("list")
    assert "ml-1b 2,197,225 855,776 1,223,962,043" in before
    assert "ml-1m 6,040 3,883 1,000,209 research, no sharing" in before
    run("prepare", "ml-latest-small", "--from", folder)
    assert "ml-latest-small 610 9,742 100,836 yes research, share alike" in run("list")


def test_prepare_prints_counts_next_to_the_published_ones(root, folder):
    output = run("prepare", "ml-latest-small", "--from", folder)
    assert "as read 2 2 3 3" in output
    assert "as read users 2 610 -608 README.txt" in output
    assert "ml-latest-small: 2 users, 3 items, 3 interactions" in output
    assert data.load("ml-latest-small").num_items == 3


def test_prepare_takes_options_and_archives(root, folder, tmp_path):
    archive = tmp_path / "small.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for member in folder.iterdir():
            file.write(member, f"ml-latest-small/{member.name}")
    output = run("prepare", "ml-latest-small", "--from", archive, "--corpus", "rated", "--drop-duplicates")
    assert "note:" in output
    assert "is not the published archive byte for byte" in output
    assert "without duplicates" in output
    assert data.load("ml-latest-small").num_items == 2
    output = run("prepare", "ml-latest-small", "--k-core", 2, "--passes", 1, "--min-length", 0, code=1)
    assert "prepared dataset of other settings" in output and "--replace" in output
    assert data.load("ml-latest-small").num_items == 2
    given = ("--k-core", 2, "--passes", 1, "--min-length", 0, "--replace")
    output = run("prepare", "ml-latest-small", *given)
    assert "replaced the prepared dataset in" in output
    assert "2-core, 1 pass" in output
    output = run("prepare", "ml-latest-small", "--k-core", 9, "--replace", code=1)
    assert output.endswith("leaves no interaction; require fewer per user and item")


def test_own_data(root, tmp_path):
    orders, items = tmp_path / "orders.csv", tmp_path / "items.csv"
    pd.DataFrame({"user_id": [5, 5], "item_id": [2, 1], "timestamp": [9, 8]}).to_csv(orders, index=False)
    pd.DataFrame({"item_id": [1], "title": ["one"]}).to_csv(items, index=False)
    run("prepare", "my-shop", "--from", orders, "--items", items)
    assert data.load("my-shop").items["title"].tolist() == ["one", "2"]
    assert "my-shop 1 2 2 yes your own" in run("list")


def test_own_data_as_it_comes(root, tmp_path):
    orders = tmp_path / "orders.csv"
    orders.write_text("Customer;SKU;Bought\nann@x.org;007;2024-01-02\nann@x.org;7;2024-01-01\n")
    output = run("prepare", "my-shop", "--from", orders, "--time-col", "Bought")
    assert "note: columns recognised: users in 'Customer', items in 'SKU', times in 'Bought'" in output
    assert "note: Bought holds dates, from 2024-01-01T00:00:00 to 2024-01-02T00:00:00 UTC" in output
    sequences = data.load("my-shop")
    assert sequences.item_lookup.to_source(sequences.item_ids).tolist() == ["7", "007"]
    assert sequences.user_lookup.to_dense(["ann@x.org"]).tolist() == [0]
    assert storage.read_meta(root / "data" / "my-shop")["remarks"][0].startswith("columns recognised")


def test_a_damaged_dataset_is_listed_as_such(root, folder):
    run("prepare", "ml-latest-small", "--from", folder)
    for name, content in (("mine", "{"), ("yours", '{"format": 1}'), ("ml-latest-small", "")):
        (root / "data" / name).mkdir(exist_ok=True)
        (root / "data" / name / storage.META).write_text(content)
    output = run("list")
    assert "mine damaged your own" in output
    assert "yours damaged your own" in output
    assert "ml-latest-small 610 9,742 100,836 damaged" in output
    assert "note: mine:" in output
    assert "ml-1m 6,040" in output


def test_fetch_shows_the_licence_and_asks(root):
    output = run("fetch", "ml-1m", code=1, typed="n\n")
    assert "do not redistribute the data" in output
    assert "Please cite: F. Maxwell Harper" in output
    assert "Do you accept these terms?" in output
    assert not root.exists()


def test_fetch_takes_a_local_folder(root, folder):
    assert "next: workbench data prepare ml-latest-small" in run("fetch", "ml-latest-small", "--from", folder)
    assert "3 interactions" in run("prepare", "ml-latest-small")


def test_fetch_with_yes_does_not_ask(root, monkeypatch):
    from workbench.cli import data as command

    fetched = []

    def fetch(dataset, source):
        fetched.append((dataset.name, source))
        return command.locate(dataset, source) if source else _there(root)

    monkeypatch.setattr(command, "fetch", fetch)
    output = run("fetch", "ml-20m", "--yes")
    assert "Do you accept" not in output
    assert "MovieLens 20M" in output
    assert fetched == [("ml-20m", None)]


def _there(root):
    from workbench.data.build import Fetched

    return Fetched(root, ("a remark",))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "ml1m"], "error: no dataset is called 'ml1m'; did you mean ml-1m?"),
        (["fetch", "zzz"], "error: no dataset is called 'zzz' (known: ml-latest-small, ml-1m"),
        (
            ["fetch", "embedded-tiny"],
            "error: embedded-tiny is generated on first use; there is nothing to fetch",
        ),
        (["prepare", "ml-1m"], "run `workbench data fetch ml-1m` first"),
        (["prepare", "ml-1m", "--from", "/nowhere"], "error: /nowhere does not exist"),
        (
            ["prepare", "ml-1m", "--items", "x.csv"],
            "--items, --encoding, --time-unit and --*-col go with data of your own",
        ),
        (["prepare", "embedded-tiny", "--k-core", "5"], "it takes --seed and no other option"),
        (["prepare", "ml-1m", "--user-col", "x"], "--*-col go with data of your own"),
        (["prepare", "embedded-tiny", "--time-unit", "ms"], "it takes --seed and no other option"),
        (["prepare", "Bad/Name", "--from", "x.csv"], "cannot name a dataset of your own"),
        (["prepare", "mine", "--from", "/nowhere.csv"], "error: /nowhere.csv does not exist"),
    ],
)
def test_bad_requests_end_in_an_error(root, arguments, message):
    assert message in run(*arguments, code=1)


def test_unparsable_data_is_named_with_file_and_line(root, folder):
    with (folder / "ratings.csv").open("a") as file:
        file.write("1,5,good,7\n")
    output = run("prepare", "ml-latest-small", "--from", folder, code=1)
    assert "ratings.csv, line 5: rating must be a number, finite as float32, found 'good'" in output


@pytest.mark.movielens
def test_real_movielens_1m(root, movielens_1m):
    output = run("prepare", "ml-1m", "--from", movielens_1m)
    assert "prepared catalogue 3,883 3,883 none published RAILS code" in output
    assert "ml-1m: 6,040 users, 3,883 items, 1,000,209 interactions" in output
