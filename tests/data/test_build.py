import dataclasses
import errno
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from holder import held

from workbench import data
from workbench.data import storage
from workbench.data.archives import MARK, ArchiveError
from workbench.data.build import build, build_own, comparison, fetch, find_files, locate, raw_folder
from workbench.data.catalog import CATALOG
from workbench.data.download import Checksum, DownloadError
from workbench.data.errors import DataError
from workbench.data.prepare import Preparation


def archive_of(folder, path):
    with zipfile.ZipFile(path, "w") as file:
        for member in sorted(folder.iterdir()):
            file.write(member, f"ml-1m/{member.name}")
    return path


@pytest.fixture
def served(site, ml_1m, tmp_path):
    """MovieLens 1M as in the catalogue, but tiny and at the local site."""
    content = archive_of(ml_1m, tmp_path / "served.zip").read_bytes()
    address = site.serve("/ml-1m.zip", content)
    return dataclasses.replace(
        CATALOG["ml-1m"],
        addresses=(site.serve("/gone.zip", status=404), address),
        size=len(content),
        checksum=Checksum("sha256", sha256(content)),
    )


def sha256(content):
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_a_dataset_is_fetched_from_a_mirror_prepared_and_loaded(root, served, site):
    fetched = fetch(served, progress=False)
    assert fetched.folder == root / "data" / "raw" / "ml-1m"
    assert fetched.remarks == ()
    assert sorted(path.name for path in fetched.folder.iterdir()) == sorted([*served.files, MARK])
    assert [path.name for path in (root / "data" / "raw").iterdir()] == ["ml-1m"]
    prepared = build("ml-1m", locate(served).folder)
    sequences = data.load("ml-1m")
    assert sequences.fingerprint() == prepared.sequences.fingerprint()
    assert sequences.items["title"].tolist() == ["Heat (1995)", "Amélie (2001)", "Alien: A", "Unseen"]
    assert sequences.item_ids.tolist() == [2, 3, 1, 1, 3, 2]
    meta = storage.read_meta(root / "data" / "ml-1m")
    assert meta["sources"]["ratings.dat"] == {
        "bytes": 80,
        "sha256": sha256((fetched.folder / "ratings.dat").read_bytes()),
    }
    assert meta["preparation"]["corpus"] == "catalogue"
    assert meta["stages"][0]["interactions"] == 6
    requests = len(site.requests)
    assert "already" in fetch(served, progress=False).remarks[0]
    assert len(site.requests) == requests


def test_a_truncated_or_hostile_download_leaves_no_dataset(root, served, site, tmp_path):
    site.pages["/ml-1m.zip"].cuts.extend([50] + [0] * 9)
    with pytest.raises(DownloadError, match="broke off after 50"):
        fetch(served, progress=False)
    assert not raw_folder(served).exists()
    hostile = tmp_path / "hostile.zip"
    with zipfile.ZipFile(hostile, "w") as file:
        file.writestr("../../ratings.dat", "evil")
    content = hostile.read_bytes()
    evil = dataclasses.replace(
        served,
        addresses=(site.serve("/evil.zip", content),),
        size=len(content),
        checksum=Checksum("sha256", sha256(content)),
    )
    with pytest.raises(ArchiveError, match="leads out"):
        fetch(evil, progress=False)
    assert not raw_folder(served).exists()
    assert list(root.rglob("ratings.dat")) == []


def test_a_checksum_next_to_the_archive_is_used(root, served, site):
    import hashlib

    content = site.pages["/ml-1m.zip"].content
    good = site.serve("/good.md5", f"MD5 (ml-1m.zip) = {hashlib.md5(content).hexdigest()}\n".encode())
    bad = site.serve("/bad.md5", b"0123456789abcdef0123456789abcdef  ml-1m.zip\n")
    none = site.serve("/none.md5", status=404)
    unsigned = dataclasses.replace(served, checksum=None, checksum_address=bad)
    with pytest.raises(DownloadError, match="its md5 is not the published one"):
        fetch(unsigned, progress=False)
    assert fetch(dataclasses.replace(unsigned, checksum_address=good), progress=False).remarks == ()
    shutil.rmtree(raw_folder(served))
    remarks = fetch(dataclasses.replace(unsigned, checksum_address=none), progress=False).remarks
    assert remarks == ("no checksum is published for ml-1m.zip: it could not be verified",)


def test_a_local_archive_is_taken_with_a_remark_on_its_checksum(root, ml_1m, tmp_path, served):
    archive = archive_of(ml_1m, tmp_path / "local.zip")
    assert fetch(served, archive).remarks == ()
    remarks = locate(CATALOG["ml-1m"], archive).remarks
    assert remarks == (f"{archive} is not the published archive byte for byte (sha256 differs)",)
    assert archive.exists()
    assert not find_missing(root / "data" / "raw" / "ml-1m")


def find_missing(folder):
    return [name for name in CATALOG["ml-1m"].files if not (folder / name).is_file()]


def test_one_process_fetches_a_dataset_at_a_time(root, served):
    archive = root / "data" / "raw" / served.archive
    refused = pytest.raises(BlockingIOError, match=r"ml-1m.zip is in use by process \d+ on")
    with held(archive), refused:
        fetch(served, progress=False)
    assert fetch(served, progress=False).folder.is_dir()


def test_a_local_folder_is_copied_by_fetch_and_read_in_place_by_prepare(root, ml_1m):
    dataset = CATALOG["ml-1m"]
    assert locate(dataset, ml_1m).folder == ml_1m
    assert locate(dataset, ml_1m.parent).folder == ml_1m
    assert not (root / "data").exists()
    fetch(dataset, ml_1m)
    assert (root / "data/raw/ml-1m/movies.dat").read_bytes() == (ml_1m / "movies.dat").read_bytes()
    assert locate(dataset).folder == root / "data" / "raw" / "ml-1m"


def test_a_full_disk_leaves_no_raw_folder(root, ml_1m, monkeypatch):
    def copyfile(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(OSError, match="the disk is full"):
        fetch(CATALOG["ml-1m"], ml_1m)
    assert list((root / "data" / "raw").iterdir()) == []


def test_what_is_not_there_is_named(root, ml_1m, tmp_path):
    dataset = CATALOG["ml-1m"]
    with pytest.raises(
        FileNotFoundError,
        match=r"lacks ratings\.dat, movies\.dat, users\.dat: run `workbench data fetch ml-1m`",
    ):
        locate(dataset)
    with pytest.raises(FileNotFoundError, match="does not exist; --from takes an archive or a folder"):
        locate(dataset, tmp_path / "nowhere")
    (ml_1m / "users.dat").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"lacks users\.dat: it is not an unpacked copy of MovieLens 1M"
    ):
        find_files(ml_1m, dataset)


def test_counts_stand_next_to_the_published_ones(root, ml_1m):
    stages = build("ml-1m", ml_1m).stages
    table = comparison(CATALOG["ml-1m"], stages)
    users = table[(table["stage"] == "as read") & (table["count"] == "users")]
    assert users[["here", "published"]].values.tolist() == [[3, 6_040]]
    assert set(table["count"]) == {"users", "items", "catalogue", "interactions"}


def test_the_published_preparation_is_the_default(root, tmp_path):
    path = tmp_path / "ratings_Books.csv"
    users, items = np.divmod(np.arange(8 * 6), 6)
    rows = [f"U{user},I{item},3.0,{item}" for user, item in zip(users, items, strict=True)]
    path.write_text("\n".join([*rows, "U9,I0,1.0,5", "U0,I9,1.0,5"]))
    prepared = build("amazon-books", tmp_path)
    assert [stage.name for stage in prepared.stages] == ["as read", "5-core, 1 pass", "users of 5 or more"]
    assert (prepared.sequences.num_users, prepared.sequences.num_items) == (8, 6)
    assert prepared.sequences.items["item_id"].tolist() == [f"I{item}" for item in range(6)]
    whole = build("amazon-books", tmp_path, Preparation(), replace=True)
    assert (whole.sequences.num_users, whole.sequences.num_items) == (9, 7)


def test_own_data_is_built_under_its_name(root, tmp_path):
    path = tmp_path / "orders.csv"
    pd.DataFrame({"user_id": [5, 5], "item_id": [2, 1], "timestamp": [9, 8]}).to_csv(path, index=False)
    build_own("my-shop", path)
    sequences = data.load("my-shop")
    assert (sequences.name, sequences.item_ids.tolist()) == ("my-shop", [1, 2])
    assert list(storage.read_meta(root / "data" / "my-shop")["sources"]) == ["orders.csv"]


def test_own_data_in_a_folder_names_each_of_its_files(root, tmp_path):
    for day in ("01", "02"):
        (tmp_path / "orders" / f"day={day}").mkdir(parents=True)
        table = pd.DataFrame({"user": ["ann"], "item": [int(day)]})
        table.to_parquet(tmp_path / "orders" / f"day={day}" / "0.parquet")
    assert build_own("my-shop", tmp_path / "orders").sequences.items["item_id"].tolist() == [1, 2]
    sources = storage.read_meta(root / "data" / "my-shop")["sources"]
    assert list(sources) == ["orders/day=01/0.parquet", "orders/day=02/0.parquet"]


@pytest.mark.parametrize(
    "name", ["ml-1m", "embedded-tiny", "raw", "../up", "a/b", ".hidden", "", "Über", "a b"]
)
def test_unfit_names_are_refused(root, tmp_path, name):
    with pytest.raises(ValueError, match="cannot name a dataset of your own"):
        build_own(name, tmp_path / "orders.csv")


def test_bad_data_leaves_no_dataset(root, ml_1m):
    (ml_1m / "ratings.dat").write_text("1::10::5\n")
    with pytest.raises(DataError, match=r"ratings\.dat, line 1"):
        build("ml-1m", ml_1m)
    assert not (root / "data" / "ml-1m").exists()


@pytest.mark.movielens
def test_real_movielens_1m_is_built_from_its_folder(root, movielens_1m):
    stages = build("ml-1m", locate(CATALOG["ml-1m"], movielens_1m).folder).stages
    table = comparison(CATALOG["ml-1m"], stages)
    ours = table[table["source"] != "Ding & Zhai, Retrieval with Learned Similarities (RAILS), Table 2"]
    assert (ours["here"] == ours["published"]).all()
    assert len(ours) == 6
    sequences = data.load("ml-1m")
    assert (sequences.num_users, sequences.num_items) == (6_040, 3_883)


@pytest.mark.movielens
def test_real_latest_small_is_built_from_its_folder(root, movielens_small):
    table = comparison(CATALOG["ml-latest-small"], build("ml-latest-small", movielens_small).stages)
    assert (table["here"] == table["published"]).all()
    assert len(table) == 3


def test_the_source_in_the_folder_of_the_result_is_never_deleted(root):
    folder = root / "data" / "my-shop"
    folder.mkdir(parents=True)
    orders = folder / "orders.csv"
    orders.write_text(
        "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{i}\n" for u in range(5) for i in range(6))
    )
    (folder / "neighbour.txt").write_text("mine")
    with pytest.raises(
        ValueError, match=r"would be replaced while .*orders\.csv in it is read; move that file"
    ):
        build_own("my-shop", orders)
    assert sorted(path.name for path in folder.iterdir()) == ["neighbour.txt", "orders.csv"]


def test_another_preparation_replaces_only_on_request_and_reports_it(root, tmp_path):
    orders = tmp_path / "orders.csv"
    orders.write_text(
        "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{i}\n" for u in range(5) for i in range(6))
    )
    build_own("my-shop", orders)
    build_own("my-shop", orders)
    with pytest.raises(ValueError, match=r"preparation\.min_length \d+ there, 6 here; .*--replace"):
        build_own("my-shop", orders, preparation=Preparation(min_length=6))
    made = build_own("my-shop", orders, preparation=Preparation(min_length=6), replace=True)
    assert any("replaced the prepared dataset" in remark for remark in made.remarks)
