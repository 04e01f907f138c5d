import dataclasses
import errno
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from workbench import data
from workbench.data import storage
from workbench.data.errors import DataError


def same(left, right):
    for field in dataclasses.fields(left):
        one, other = getattr(left, field.name), getattr(right, field.name)
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other)
        else:
            np.testing.assert_array_equal(one, other)
            assert not isinstance(one, np.ndarray) or (one.dtype == other.dtype and other.flags.writeable)
    return left.fingerprint() == right.fingerprint()


def test_what_is_saved_is_loaded(tmp_path, sequences):
    unrated = dataclasses.replace(
        sequences,
        ratings=np.where(np.arange(len(sequences.ratings)) % 2, sequences.ratings, np.float32("nan")),
        items=sequences.items.assign(genres=["a|b", ""] * 10),
    )
    storage.save(unrated, tmp_path / "there" / "random", {"seed": 3})
    assert same(unrated, storage.load_folder(tmp_path / "there" / "random"))
    meta = storage.read_meta(tmp_path / "there" / "random")
    assert meta["seed"] == 3
    assert meta["fingerprint"] == unrated.fingerprint()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["random"]


def test_saving_again_replaces_only_the_same_dataset(tmp_path, sequences):
    folder = tmp_path / "random"
    made_from = {"preparation": {"k_core": 2}, "sources": {"a.csv": {"bytes": 3, "sha256": "ab"}}}
    storage.save(sequences, folder, made_from)
    later = dataclasses.replace(sequences, timestamps=sequences.timestamps + 1)
    storage.save(later, folder, made_from)
    assert same(later, storage.load_folder(folder))
    for other in ({}, made_from | {"preparation": {"k_core": 3}}, made_from | {"sources": {}}):
        with pytest.raises(ValueError, match=r"prepared dataset of other settings: .*--replace"):
            storage.save(sequences, folder, other)
    assert same(later, storage.load_folder(folder))
    storage.save(sequences, folder, {}, replace=True)
    assert same(sequences, storage.load_folder(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["random"]


def test_saving_never_deletes_what_is_not_ours(tmp_path, sequences):
    folder = tmp_path / "random"
    storage.save(sequences, folder, {})
    (folder / "orders.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"random holds orders\.csv, not written by this program"):
        storage.save(sequences, folder, {}, replace=True)
    assert (folder / "orders.csv").read_text() == "mine"


@pytest.mark.parametrize("name", ["../victim/x", "/tmp/x", ".hidden", ""])
def test_a_name_that_is_a_path_is_refused(tmp_path, sequences, name):
    storage.save(sequences, tmp_path / "random", {})
    meta = tmp_path / "random" / storage.META
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"name": name}))
    with pytest.raises(DataError, match="cannot name a dataset"):
        storage.load_folder(tmp_path / "random")


def test_a_dataset_that_a_killed_process_moved_aside_is_found(root, sequences):
    folder = root / "data" / "random"
    storage.save(sequences, folder, {})
    folder.rename(folder.with_name(".random.previous-999999999"))
    assert same(sequences, data.load("random"))


def test_a_full_disk_leaves_the_old_dataset_and_nothing_else(tmp_path, sequences, monkeypatch):
    folder = tmp_path / "random"
    storage.save(sequences, folder, {})
    calls = []

    def write_table(table, path, **options):
        calls.append(path)
        path.write_bytes(b"half")
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", write_table)
    with pytest.raises(
        OSError, match=r"the disk is full: .*random could not be written; free some space"
    ) as error:
        storage.save(sequences, folder, {})
    assert error.value.errno == errno.ENOSPC
    assert same(sequences, storage.load_folder(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["random"]


def test_an_interrupted_save_leaves_the_old_dataset(tmp_path, sequences, monkeypatch):
    storage.save(sequences, tmp_path / "random", {})
    with pytest.raises(TypeError):
        storage.save(sequences, tmp_path / "random", {"not": {1, 2}})
    assert same(sequences, storage.load_folder(tmp_path / "random"))
    assert [path.name for path in tmp_path.iterdir()] == ["random"]


@pytest.mark.parametrize("name", ["interactions", "items", "users"])
def test_damage_is_noticed(tmp_path, sequences, name):
    folder = tmp_path / "random"
    path = folder / f"{name}.parquet"
    storage.save(sequences, folder, {})
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:60] + bytes([whole[60] ^ 255]) + whole[61:], b""):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is damaged"):
            storage.load_folder(folder)
    path.unlink()
    with pytest.raises(DataError, match="is damaged"):
        storage.load_folder(folder)


def test_tables_of_two_datasets_are_not_mixed(tmp_path, sequences, random_interactions):
    storage.save(sequences, tmp_path / "a", {})
    other = data.prepare(random_interactions(1, users=5), "b").sequences
    storage.save(other, tmp_path / "b", {})
    shutil.copy(tmp_path / "b" / "users.parquet", tmp_path / "a")
    with pytest.raises(DataError, match="is damaged: its tables have"):
        storage.load_folder(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda meta: meta | {"format": 99}, "not of format 1"),
        (lambda meta: {key: value for key, value in meta.items() if key != "users"}, "lacks users"),
        (lambda meta: [meta], "is damaged"),
        (lambda meta: meta | {"items": 3.0}, "its items is 3.0"),
        (lambda meta: meta | {"name": ["a"]}, "its name is"),
        (lambda meta: meta | {"users": True}, "its users is True"),
    ],
)
def test_another_meta_is_refused(tmp_path, sequences, change, message):
    storage.save(sequences, tmp_path / "a", {})
    path = tmp_path / "a" / storage.META
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=message):
        storage.load_folder(tmp_path / "a")
    path.write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        storage.load_folder(tmp_path / "a")


def test_datasets_load_by_name_and_by_path(root, sequences, tmp_path):
    storage.save(sequences, root / "data" / "random", {})
    storage.save(sequences, tmp_path / "elsewhere", {})
    assert same(sequences, data.load("random"))
    assert same(sequences, data.load(tmp_path / "elsewhere"))
    assert data.prepared_names() == ["random"]


def test_a_missing_dataset_names_the_commands(root):
    with pytest.raises(
        FileNotFoundError, match=r"run `workbench data fetch ml-1m` and then `workbench data prepare"
    ):
        data.load("ml-1m")
    with pytest.raises(
        FileNotFoundError, match=r"no dataset is called 'nothing'.*known: embedded-tiny, .*ml-1m"
    ):
        data.load("nothing")


def test_a_misspelt_dataset_is_suggested(root, sequences):
    storage.save(sequences, root / "data" / "my-shop", {})
    with pytest.raises(FileNotFoundError, match=r"'my-shpo'.*: did you mean my-shop\?"):
        data.load("my-shpo")
    with pytest.raises(FileNotFoundError, match=r": did you mean ml-1m.*\?"):
        data.load("ml1m")


def test_the_order_of_ties_is_kept_and_an_unknown_one_is_damage(tmp_path, sequences):
    folder = tmp_path / "random"
    storage.save(dataclasses.replace(sequences, ties="pandas"), folder, {"preparation": {"ties": "pandas"}})
    assert storage.load_folder(folder).ties == "pandas"
    meta = json.loads((folder / "meta.json").read_text())
    for wrong in ("stable", 3, None):
        meta["preparation"]["ties"] = wrong
        (folder / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(DataError, match=r"ties are .*prepare random again"):
            storage.load_folder(folder)


def test_what_was_prepared_without_a_choice_of_ties_has_the_default(tmp_path, sequences):
    folder = tmp_path / "random"
    storage.save(sequences, folder, {"preparation": {"k_core": 2}})
    assert storage.load_folder(folder).ties == "source"
    storage.save(sequences, folder, {"preparation": {"k_core": 2, "ties": "source"}})
    with pytest.raises(ValueError, match="--replace"):
        storage.save(sequences, folder, {"preparation": {"k_core": 2, "ties": "pandas"}})
