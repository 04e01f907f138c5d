"""Where commands write: looked at before the work, held by one process at a time, and never somebody else's."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from holder import held

from workbench.bench import run as bench_run
from workbench.bench import training as bench_training
from workbench.cli import index, main, models
from workbench.cli.printing import new_table
from workbench.models.model_store import TrainedModel
from workbench.studies import seed_studies

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = "cycles-sasrec-mol"
TRAIN = ("train", "quick/sasrec-dot", "--dataset", "cycles", "--epochs", "1", "--device", "cpu")
SEEDS = ("study", "run", "seeds", "models=quick/sasrec-dot", "dataset=cycles", "seeds=1")
SEARCH = ("bench", "search", "--checkpoint", MODEL, "--searcher", "average n2=5", "-k", "5", "--out")
INDEX = ("index", "build", MODEL, "--searcher", "exact", "--out")

Call = Callable[..., str]


@pytest.fixture
def fails(workbench_root: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command that must fail; its one line."""

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        error = capsys.readouterr().err
        assert ended.value.code == 1 and error.count("\n") == 1, error
        return error

    return call


@pytest.fixture
def orders(tmp_path: Path) -> str:
    path = tmp_path / "orders.csv"
    path.write_text("user_id,item_id,timestamp\na,x,1\na,y,2\n")
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "holds"),
    [
        (TRAIN, "ckpts/runs/cycles-quick-sasrec-dot"),
        (SEEDS, "reports/tables/seeds-cycles-quick-sasrec-dot.csv"),
        (("data", "fetch", "ml-latest-small", "--yes"), "data/raw/ml-latest-small.zip"),
        (("data", "prepare", "my-shop", "--from", "ORDERS"), "data/my-shop"),
        ((*SEARCH, "FREE"), "free"),
        (("bench", "train", "--out", "FREE"), "free"),
        ((*INDEX, "FREE"), "free"),
        (("evaluate", MODEL, "--ranks", "FREE"), "free"),
        (("recommend", MODEL, "--user", "1", "--out", "FREE"), "free"),
        (("report", "--only", "00"), "reports/quick-embedded-small"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_the_second_process_shows_what_holds_the_place_and_ends(
    workbench_root: Path, fails: Call, orders: str, tmp_path: Path, arguments: tuple[str, ...], holds: str
) -> None:
    free = tmp_path / "free"
    (workbench_root / "notebooks").mkdir(exist_ok=True)
    for tour in (REPOSITORY / "notebooks").glob("00_tour.*"):
        shutil.copy(tour, workbench_root / "notebooks")
    place = free if holds == "free" else workbench_root / holds
    with held(place):
        error = fails(*({"ORDERS": orders, "FREE": str(free)}.get(word, word) for word in arguments))
    assert f"{place} is in use by process {os.getpid()} on " in error and "wait for it to end" in error
    assert not place.exists()


def test_the_first_of_two_trainings_ends_unharmed(workbench_root: Path, fails: Call) -> None:
    out = workbench_root / "ckpts" / "twice"
    command = [*TRAIN[:-4], "--epochs", "3", "--device", "cpu", "--out", str(out)]
    lock = workbench_root / "ckpts" / "runs" / ".twice.lock"
    first = subprocess.Popen(
        [sys.executable, "-m", "workbench.cli", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (lock.exists() and lock.stat().st_size) and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # not to end before the second begins
    try:
        assert f"twice is in use by process {first.pid} on" in fails(*command)
    finally:
        first.send_signal(signal.SIGCONT)
        _, messages = first.communicate(timeout=300)
    assert first.returncode == 0, messages
    assert len(TrainedModel.load(out).history) == 3


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def worked(*_: object, **__: object) -> None:
        raise AssertionError("worked before the place was looked at")

    for module, name in (
        (bench_run, "_run"),
        (bench_training, "compare"),
        (models, "rank_users"),
        (models, "open_model"),
        (models, "with_published"),
        (seed_studies.Seeds, "table"),
    ):
        monkeypatch.setattr(module, name, worked)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    "arguments",
    [
        SEARCH,
        ("bench", "train", "--out"),
        ("evaluate", MODEL, "--ranks"),
        ("evaluate", MODEL, "--metrics"),
        ("recommend", MODEL, "--user", "1", "--out"),
        ("model", "compare", MODEL, "--csv"),
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[1]} {arguments[-1]}",
)
def test_the_place_of_a_table_is_looked_at_before_the_work(
    fails: Call, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    theirs, folder, binary = tmp_path / "theirs.csv", tmp_path / "folder", tmp_path / "thesis.doc"
    theirs.write_text("chapter,words\n1,5000\n")
    binary.write_bytes(b"\x00\xff\xfe thesis\n" * 3)
    folder.mkdir()
    for path, message in (
        (folder, "is a folder or a device; give the path of a file"),
        (theirs, "is not a table of this command (with columns "),
        (binary, "and is not replaced; choose another path, or move it away"),
        (theirs / "below", "cannot be written (Not a directory); choose another place"),
    ):
        error = fails(*arguments, str(path))
        assert str(path) in error and message in error
    assert theirs.read_text() == "chapter,words\n1,5000\n" and len(list(tmp_path.iterdir())) == 3


@pytest.mark.usefixtures("no_work")
def test_the_place_of_a_study_is_looked_at_before_the_work(fails: Call, workbench_root: Path) -> None:
    table = workbench_root / "reports" / "tables" / "seeds-cycles-quick-sasrec-dot.csv"
    table.mkdir(parents=True)
    error = fails(*SEEDS)
    table.rmdir()
    assert f"{table} is a folder or a device; give the path of a file" in error


def test_one_table_over_the_other_is_refused(fails: Call, tmp_path: Path) -> None:
    path = str(tmp_path / "x.csv")
    assert "both name" in fails("evaluate", MODEL, "--ranks", path, "--metrics", path)


def test_our_own_table_is_replaced(tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1], "machine": "m", "commit": "c"})
    for path, write in ((tmp_path / "a", table.to_csv), (tmp_path / "b", table.to_parquet)):
        write(path, index=False)
        with new_table(path):
            pass
        with pytest.raises(ValueError, match="is not a table of this command"), new_table(path, ("b",)):
            pass
    (tmp_path / "empty").touch()
    with new_table(tmp_path / "empty"), new_table(None):
        pass


def test_the_place_of_an_index_is_looked_at_before_it_is_built(
    fails: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter").write_text("mine")
    monkeypatch.setattr(index.Index, "save", lambda *_: pytest.fail("built"))
    assert "thesis holds chapter, not written by this program" in fails(*INDEX, str(folder))
    assert (folder / "chapter").read_text() == "mine"
