"""What results came from, and what counts as a change of it."""

import os
import subprocess
from pathlib import Path

import pytest
import torch

import workbench
from workbench.models.model_store import RANKS
from workbench.reporting.provenance import code_digest, inputs, provenance, text_digest, versions


@pytest.fixture
def root(tmp_path: Path) -> Path:
    names = (
        "data/ml/a.parquet",
        "data/other/b",
        "data/gen-seed0/c",
        "ckpts/ours/model",
        "ckpts/theirs/model",
        "ckpts/silent/model",
    )
    for name in (*names, "ckpts/runs/ours/model"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "ckpts/ours/config.json").write_text('{"dataset": "ml"}')
    (tmp_path / "ckpts/theirs/config.json").write_text('{"dataset": "gen"}')
    (tmp_path / "ckpts/silent/config.json").write_text("not JSON")
    (tmp_path / "ckpts/empty").mkdir()
    (tmp_path / "ckpts/README.md").touch()
    return tmp_path


def test_inputs_are_the_dataset_and_its_finished_checkpoints(root: Path) -> None:
    assert set(inputs(root, "ml")) == {"data/ml", "ckpts/ours", "ckpts/silent"}
    assert set(inputs(root, "gen")) == {"data/gen-seed0", "ckpts/theirs", "ckpts/silent"}
    assert set(inputs(root, "missing")) == {"ckpts/silent"}
    assert inputs(root / "nowhere", "ml") == {}


def test_contents_and_names_count_and_times_do_not(root: Path) -> None:
    file = root / "data/ml/a.parquet"
    before = inputs(root, "ml")
    os.utime(file, (1, 1))
    assert inputs(root, "ml") == before
    file.write_text("data/ml/a.parqueT")
    changed = inputs(root, "ml")
    assert {name for name in before if before[name] != changed[name]} == {"data/ml"}
    file.rename(root / "data/ml/b.parquet")
    assert inputs(root, "ml")["data/ml"] != changed["data/ml"]


def test_ranks_measured_from_a_checkpoint_are_no_input(root: Path) -> None:
    before = inputs(root, "ml")
    checkpoint = next(root / name for name in before if name.startswith("ckpts/"))
    (checkpoint / RANKS).write_text("measured when a notebook needed them")
    assert inputs(root, "ml") == before


def test_code_of_notebooks_counts_and_that_of_reports_does_not(tmp_path: Path) -> None:
    for name in ("search/topk.py", "reporting/pages.py", "cli/data.py", "search/__pycache__/topk.pyc"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    before = code_digest(tmp_path)
    for name in ("reporting/pages.py", "cli/data.py", "search/__pycache__/topk.pyc"):
        (tmp_path / name).write_text("2")
    assert code_digest(tmp_path) == before
    (tmp_path / "search/topk.py").write_text("2")
    assert code_digest(tmp_path) != before


def test_texts_are_distinguished() -> None:
    assert text_digest("ab", "c") != text_digest("a", "bc")
    assert text_digest("a") == text_digest("a")


def test_versions_are_those_that_notebooks_use() -> None:
    found = versions()
    assert found["torch"] == torch.__version__
    assert {"python", "numpy", "pandas", "plotly"} <= set(found)
    assert "pytest" not in found


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_and_whether_there_are_changes(tmp_path: Path) -> None:
    assert provenance(tmp_path).commit is None
    git(tmp_path, "init", "-q")
    (tmp_path / "a").touch()
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-q", "-m", "a")
    clean = provenance(tmp_path)
    assert (clean.commit, clean.dirty) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "a").write_text("changed")
    assert provenance(tmp_path).dirty is True


def test_what_a_run_makes_is_no_change_but_a_changed_checkpoint_is_one(tmp_path: Path) -> None:
    for name in ("a.py", "reports/tables/t.csv", "ckpts/shipped/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("as committed")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "a")
    (tmp_path / "reports/tables/t.csv").write_text("measured again")
    (tmp_path / "reports/new.csv").write_text("measured")
    (tmp_path / "ckpts/new").mkdir()
    (tmp_path / "ckpts/new/config.json").write_text("trained")
    assert provenance(tmp_path).dirty is False
    (tmp_path / "ckpts/shipped/config.json").write_text("trained again")
    assert provenance(tmp_path).dirty is True
    git(tmp_path, "checkout", "-q", "ckpts")
    (tmp_path / "new.py").write_text("read by a run")
    assert provenance(tmp_path).dirty is True


def test_the_machine_is_described_and_not_named(tmp_path: Path) -> None:
    found = provenance(tmp_path)
    assert found.machine.cores >= 1
    assert found.machine.memory_gib > 0.1
    assert os.uname().nodename not in str(found.as_json()).split("'")
    assert found.code == code_digest(Path(workbench.__file__).parent)
