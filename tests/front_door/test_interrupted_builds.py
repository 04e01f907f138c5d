"""An index whose build is killed: the same call continues it, and what was written is not written again."""

import importlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench as wb
from workbench.front_door import Index, Recommender
from workbench.front_door.index import build

N, PART = 40, 10
ENGINES = {
    "usearch": ("usearch", "ROWS_TOGETHER", "UsearchLists._add"),
    "faiss-flat": ("faiss", "ROWS_TOGETHER", "_array"),
    "lancedb": ("lancedb", "ROWS_TOGETHER", "_rows"),
    "milvus": ("milvus", "KEPT_AFTER", "MilvusLists._put"),
}
"""By searcher: the engine's module, its constant, and what is called for each part, the vectors last."""


def embedded() -> Recommender:
    vectors = np.random.default_rng(0).normal(size=(N, 6))
    return wb.from_embeddings(vectors, ids=[f"{i:03d}" for i in range(N)])


def watched(searcher: str, patch: Any, before: Any) -> None:
    """Cut the vectors into parts of 10, and call `before` with each part that is to be written."""
    module, constant, called = ENGINES[searcher]
    room = importlib.import_module(f"workbench.search.engines.{module}")
    owner, name = room, called
    if "." in called:
        owner, name = getattr(room, called.split(".")[0]), called.split(".")[1]
    real = getattr(owner, name)

    def writing(*given: Any) -> Any:
        before(given[-1])
        return real(*given)

    patch.setattr(room, constant, PART)
    patch.setattr(owner, name, writing)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import pytest
from test_interrupted_builds import PART, build, embedded, watched

written = []

def before(vectors):
    if len(vectors) == PART and len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if len(vectors) == PART:
        written.append(len(vectors))

watched(sys.argv[2], pytest.MonkeyPatch(), before)
model = embedded()
build(model, model.searcher_settings(sys.argv[2], n2=40), sys.argv[3])
"""


@pytest.mark.parametrize("searcher", ENGINES)
def test_a_killed_build_is_continued(searcher, tmp_path, monkeypatch):
    out = tmp_path / "index"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(Path(__file__).parent), searcher, str(out)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists() and (tmp_path / ".index.building").is_dir()
    written: list[int] = []
    model = embedded()
    with monkeypatch.context() as patch:
        watched(searcher, patch, lambda vectors: written.append(len(vectors)))
        build(model, model.searcher_settings(searcher, n2=40), out)
    assert written[:2] == [PART, PART]  # the other two parts; opening the index reads it once more
    assert sum(size == PART for size in written) == 2
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["index"]
    found = Index.load(out).search([["003"], ["010", "011"]], k=5).to_source()
    expected = model.index("brute-force").search([["003"], ["010", "011"]], k=5).to_source()
    assert found["item_id"].tolist() == expected["item_id"].tolist()


def test_what_another_build_left_is_cleared(tmp_path, monkeypatch):
    model = embedded()

    def killed(vectors: object) -> None:
        raise KeyboardInterrupt

    for damage in (False, True):
        out = tmp_path / f"index-{damage}"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            watched("lancedb", patch, killed)
            build(model, model.searcher_settings("lancedb", n2=7 + damage), out)
        building = tmp_path / f".{out.name}.building"
        assert (building / "pieces" / "lancedb").is_dir()
        if damage:
            (building / "index.json").write_text("{")
        build(model, model.searcher_settings("usearch", n2=9), out)
        assert not building.exists() and not (out / "lancedb").exists()
        assert Index.load(out).settings == model.searcher_settings("usearch", n2=9)
    with pytest.raises(ValueError, match="searchable index of other settings"):
        build(model, model.searcher_settings("usearch", n2=8), out)


@pytest.mark.parametrize("searcher", ENGINES)
def test_an_engine_that_stops_in_an_update_leaves_the_index(searcher, tmp_path, monkeypatch):
    model = embedded()
    folder = build(model, model.searcher_settings(searcher, n2=40), tmp_path / "index")
    expected = Index.load(folder).search([["003"]], k=5).to_source()
    opened = Index.load(folder)

    def stops(vectors: object) -> None:
        raise OSError("the engine went away")

    with monkeypatch.context() as patch:
        watched(searcher, patch, stops)
        with pytest.raises((OSError, ValueError), match="the engine went away"):
            opened.add(["new"], np.ones((1, 6))).save(folder, replace=True)
    assert Index.load(folder).search([["003"]], k=5).to_source().equals(expected)
    assert opened.search([["003"]], k=5).to_source().equals(expected)
