"""Whole or not at all, only our own, one at a time; each also with processes killed at every touch of the disk."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from holder import held
from safetensors import SafetensorError

from workbench import files

PRELUDE = """
import json, os, signal, sys, time
from pathlib import Path
from workbench import files

def settings(folder):
    path = folder / "made.json"
    return json.loads(path.read_text()) if path.is_file() else None

THING = files.Kind("thing", ("made.json", "part-*"), settings)

def build(folder, number, **options):
    with files.new_folder(folder, THING, {"number": number}, **options) as new:
        (new / "part-1").write_text(str(number) * 10)
        (new / "part-2").write_text(str(number) * 10)
        (new / "made.json").write_text(json.dumps({"number": number}))

def kill_at(count):
    left = [count]
    def hook(event, arguments):
        if event in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
"""
exec(PRELUDE)  # the same kind of folder here and in the processes that are killed


def in_process(text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PRELUDE + text, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def number_in(folder: Path) -> int | None:
    """The number that a whole folder was built with; None for no folder. Anything between fails."""
    if not folder.exists():
        return None
    assert sorted(path.name for path in folder.iterdir()) == ["made.json", "part-1", "part-2"]
    number = json.loads((folder / "made.json").read_text())["number"]
    assert (folder / "part-1").read_text() == (folder / "part-2").read_text() == str(number) * 10
    return number


# Files.


def test_a_file_is_whole_or_what_it_was(tmp_path):
    path = tmp_path / "there" / "table.csv"
    files.write_text("old", path)
    with pytest.raises(RuntimeError), files.atomic_write(path) as temporary:
        assert temporary.parent == path.parent and str(os.getpid()) in temporary.name
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names_in(path.parent) == ["table.csv"]
    files.write_text("new", path)
    assert path.read_text() == "new"


def test_a_killed_write_leaves_the_old_file_and_the_next_write_sweeps(tmp_path):
    path = tmp_path / "table.csv"
    for count in range(1, 30):
        path.write_text("old")
        done = in_process(
            "kill_at(int(sys.argv[2])); files.write_text('new', Path(sys.argv[1]))", path, count
        )
        assert path.read_text() in ("old", "new")
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:
        pytest.fail("never ended")
    assert count > 4
    files.write_text("newest", path)
    assert names_in(tmp_path) == ["table.csv"]


def test_what_another_process_is_writing_is_left_alone(tmp_path):
    other = tmp_path / f".table.csv.partial-{os.getppid()}"
    other.write_text("being written")
    files.write_text("ours", tmp_path / "table.csv")
    assert other.exists()


def test_a_link_stays_a_link_and_a_device_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "real" / "table.csv")
    files.write_text("x", link)
    assert link.is_symlink() and (tmp_path / "real" / "table.csv").read_text() == "x"
    for path in (Path("/dev/null"), tmp_path):
        with pytest.raises(ValueError, match="folder or a device"):
            files.check_file(path)
        with pytest.raises(ValueError, match="folder or a device"), files.atomic_write(path):
            pass


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left"),
        OSError(errno.EDQUOT, "Quota"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_explained(tmp_path, failure):
    with (
        pytest.raises(OSError, match=r"disk is full: .*table.csv .*free some space"),
        files.atomic_write(tmp_path / "table.csv"),
    ):
        raise failure
    assert names_in(tmp_path) == []


def test_whether_a_path_can_be_written_is_checked_before_the_work(tmp_path):
    files.check_file(tmp_path / "new" / "deep" / "ranks.parquet")
    assert names_in(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written"):
        files.check_file(tmp_path / "file" / "ranks.parquet")
    with pytest.raises(OSError, match="cannot be written"):
        files.check_file(Path("/proc/ranks.parquet"))
    with pytest.raises(OSError, match="cannot be written"):
        files.check_folder(Path("/proc/model"), THING, {})


# Folders.


def test_a_folder_of_the_same_settings_is_built_again(tmp_path):
    folder = tmp_path / "there" / "thing"
    build(folder, 1)
    assert files.check_folder(folder, THING, {"number": 1}) == ""
    build(folder, 1)
    assert number_in(folder) == 1
    assert names_in(folder.parent) == ["thing"]


def test_a_folder_of_other_settings_is_replaced_only_on_request(tmp_path):
    folder = tmp_path / "thing"
    build(folder, 1)
    with pytest.raises(ValueError, match=r"thing of other settings: number 1 there, 2 here; .*--replace"):
        build(folder, 2)
    assert number_in(folder) == 1
    assert "number 1 there, 2 here" in files.check_folder(folder, THING, {"number": 2}, replace=True)
    build(folder, 2, replace=True)
    assert number_in(folder) == 2


@pytest.mark.parametrize("replace", [False, True])
def test_what_this_program_did_not_make_is_never_replaced(tmp_path, replace):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    build(thesis, 1, replace=replace)  # nothing in it: nothing is lost
    (thesis / "notes.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"thesis holds notes.txt, not written by this program"):
        build(thesis, 1, replace=replace)
    (thesis / "made.json").unlink()
    with pytest.raises(ValueError, match=r"thesis holds notes.txt, not written"):
        build(thesis, 1, replace=replace)
    assert (thesis / "notes.txt").read_text() == "years of work"
    with pytest.raises(ValueError, match="is a file"):
        build(thesis / "notes.txt", 1, replace=replace)


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_that_is_read_is_never_replaced(tmp_path, replace):
    folder = tmp_path / "thing"
    build(folder, 1)
    for source in (folder, folder / "part-1"):
        with pytest.raises(ValueError, match=r"would be replaced while .* is read"):
            build(folder, 1, sources=[tmp_path / "elsewhere", source], replace=replace)
    assert number_in(folder) == 1


def test_a_damaged_folder_is_replaced_only_on_request(tmp_path):
    folder = tmp_path / "thing"
    build(folder, 1)
    (folder / "made.json").write_text("{")
    with pytest.raises(ValueError, match=r"holds a damaged thing .*--replace"):
        build(folder, 1)
    (folder / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds notes\.txt, not written by this program"):
        build(folder, 1, replace=True)
    (folder / "notes.txt").unlink()
    assert files.check_folder(folder, THING, {"number": 1}, replace=True) == f"the damaged thing in {folder}"
    build(folder, 1, replace=True)
    assert number_in(folder) == 1


def test_a_failed_build_leaves_the_old_folder_and_nothing_else(tmp_path):
    folder = tmp_path / "thing"
    build(folder, 1)
    with pytest.raises(OSError, match="disk is full"), files.new_folder(folder, THING, {"number": 1}) as new:
        (new / "part-1").write_text("half")
        raise OSError(errno.ENOSPC, "No space left")
    assert number_in(folder) == 1
    assert names_in(tmp_path) == ["thing"]


@pytest.mark.parametrize("before", [None, 1])
def test_a_kill_at_any_moment_leaves_the_old_folder_or_the_new(tmp_path, before):
    folder = tmp_path / "thing"
    states = set()
    for count in range(1, 100):
        if before is not None:
            build(folder, before, replace=True)
        elif folder.exists():
            files.remove(folder)
        done = in_process(
            "kill_at(int(sys.argv[2])); build(Path(sys.argv[1]), 2, replace=True)", folder, count
        )
        found = number_in(files.recover(folder))
        assert found in (before, 2)
        states.add(found)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:
        pytest.fail("never ended")
    assert count > 15 and states == {before, 2}
    build(folder, 3, replace=True)
    assert names_in(tmp_path) == ["thing"]


def test_a_kill_while_work_of_several_runs_takes_its_place_leaves_the_old_or_the_new(tmp_path):
    folder, made = tmp_path / "thing", tmp_path / ".thing.unfinished"
    for count in range(1, 60):
        files.remove(folder)
        build(folder, 1)
        if not made.exists():
            build(made, 2)
        done = in_process(
            "kill_at(int(sys.argv[3])); files.swap(Path(sys.argv[1]), Path(sys.argv[2]))", made, folder, count
        )
        assert number_in(files.recover(folder)) in (1, 2)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    else:
        pytest.fail("never ended")
    assert count > 8 and number_in(folder) == 2 and names_in(tmp_path) == ["thing"]


def test_a_file_of_several_runs_takes_its_place(tmp_path):
    made, path = tmp_path / "a.zip.partial", tmp_path / "a.zip"
    path.write_text("old")
    made.write_text("new")
    files.swap(made, path)
    assert path.read_text() == "new" and names_in(tmp_path) == ["a.zip"]


def test_a_half_deleted_folder_is_never_put_back(tmp_path):
    folder = tmp_path / "thing"
    for count in range(1, 30):
        build(folder, 1)
        done = in_process("kill_at(int(sys.argv[2])); files.remove(Path(sys.argv[1]))", folder, count)
        assert number_in(files.recover(folder)) in (None, 1)
        if done.returncode == 0:
            break
    assert count > 2
    assert not folder.exists()


# Locks.


def test_one_process_at_a_time_and_the_error_names_the_holder(tmp_path):
    path = tmp_path / "run"
    with files.lock(path):
        done = in_process("with files.lock(Path(sys.argv[1])): pass", path)
        assert f"run is in use by process {os.getpid()} on" in done.stderr.splitlines()[-1]
        with files.lock(tmp_path / "other"):
            pass
    with files.lock(path):
        pass
    assert names_in(tmp_path) == []


def test_threads_exclude_each_other_and_a_thread_not_itself(tmp_path):
    folder = tmp_path / "thing"
    with held(folder), pytest.raises(BlockingIOError, match="thing is in use by process"), files.lock(folder):
        pass
    with files.lock(folder):
        with files.lock(folder), files.lock(folder / "part", wait=True):
            build(folder, 1)
        assert names_in(tmp_path) == [".thing.lock", "thing"]  # the outer lock is still held
    assert names_in(tmp_path) == ["thing"] and number_in(folder) == 1


def test_a_lock_where_nothing_can_be_written_names_the_place(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            OSError, match=r"file/thing cannot be written \(Not a directory\); choose another place"
        ),
        files.lock(tmp_path / "file" / "thing"),
    ):
        pass


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "run"
    text = "with files.lock(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    assert in_process(text, path).returncode == -signal.SIGKILL
    with files.lock(path):
        pass


def test_processes_that_wait_take_turns(tmp_path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    text = (
        "path = Path(sys.argv[1])\nfor _ in range(50):\n"
        "    with files.lock(path, wait=True): path.write_text(str(int(path.read_text()) + 1))"
    )
    command = [sys.executable, "-c", PRELUDE + text, str(counter)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert counter.read_text() == "150"


def test_processes_that_build_one_folder_all_succeed(tmp_path):
    folder = tmp_path / "thing"
    text = "for _ in range(20): build(Path(sys.argv[1]), 1)"
    command = [sys.executable, "-c", PRELUDE + text, str(folder)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert number_in(folder) == 1
    assert names_in(tmp_path) == ["thing"]


# Names.


@pytest.mark.parametrize("name", ["ml-1m", "a", "A.b_c-9", "9" * 128])
def test_a_name_is_one_component_of_a_path(name):
    assert files.check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../victim/x", "a/b", "a\\b", "/etc", ".hidden", "-rf", "a b", "a\n", "é", "9" * 129, None, 3, ["x"]],
)  # fmt: skip
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="cannot name a dataset"):
        files.check_name(name, "a dataset")
