"""The best of every user over partitions of the corpus: here and on Ray, to the bit what one search of all items finds."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
from workbench import runtime
from workbench.cli import main
from workbench.front_door import Recommender, user_base
from workbench.front_door.user_base import OnRay, Partition, Request, answers, partitions
from workbench.search import BruteForce

ALL = ("-m", "workbench.cli", "recommend", "cycles-sasrec-mol", "--all", "-k", "12", "--out")


@pytest.fixture(scope="module")
def model() -> Recommender:
    """Items that tie, across partitions too."""
    chance = np.random.default_rng(0)
    items, queries = chance.integers(-2, 3, (50, 3)), chance.integers(-2, 3, (33, 3))
    return wb.from_embeddings(items, ids=[f"{i:02d}" for i in range(50)], queries=queries)


@pytest.mark.parametrize("count", [1, 4, 7, 80])
def test_partitions_find_what_one_search_finds(model, count):
    vectors = model.queries.vectors
    exclude = torch.arange(1, 34)[:, None]
    requests = [Request(None, vectors[i : i + 5], exclude[i : i + 5]) for i in range(0, 33, 5)]
    with partitions(model.retriever, model.item_state, count) as cut:
        assert cut.count == min(count, 50)
        found = list(answers(cut, iter(requests), 9))
    whole = BruteForce(model.retriever.similarity, model.item_state)
    expected = whole.search(model.embedded(vectors), 9, exclude)
    for name, tensor in expected.tensors().items():
        assert torch.equal(torch.cat([one.tensors()[name] for one in found]), tensor), name


def test_files_are_the_same_in_any_partitions(workbench_root, tmp_path, model):
    served = wb.load("cycles-sasrec-mol")
    tables = []
    for count in (None, 1, 4):
        path = tmp_path / f"{count}.parquet"
        served.recommend_all(k=12, path=path, batch_size=7, partitions=count, progress=False)
        tables.append(pd.read_parquet(path))
    assert len(tables[0]) == 40 * 12 and tables[0].equals(tables[1]) and tables[0].equals(tables[2])
    one = served.recommend(user=3, k=12)
    pd.testing.assert_frame_equal(
        tables[2].query("user_id == 3").drop(columns="user_id").reset_index(drop=True), one, rtol=1e-4
    )


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_ray_writes_the_same_file(workbench_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    for words in ([str(here)], [str(there), "--partitions", "3", "--on", "ray"]):
        done = subprocess.run(
            [sys.executable, *ALL, *words],
            env=os.environ | {"WORKBENCH_ROOT": str(workbench_root)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    expected = pd.read_parquet(here)
    assert len(expected) == 40 * 12 and pd.read_parquet(there).equals(expected)


def test_what_cannot_be_done_is_said(model, tmp_path, monkeypatch, capsys):
    path = tmp_path / "all.parquet"
    for given, message in (
        ({"partitions": 0}, "at least 1 partition, not 0"),
        ({"on": "spark"}, "computed on here or ray, not on 'spark'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.recommend_all(k=3, path=path, progress=False, **given)
    monkeypatch.setattr(user_base, "own_index", lambda similarity, items: BruteForce(similarity, items))
    with pytest.raises(ValueError, match="an index that it learned, which cannot be cut"):
        model.recommend_all(k=3, path=path, partitions=2, progress=False)
    monkeypatch.undo()
    with pytest.raises(SystemExit):
        main(["recommend", "any", "--user", "1", "--partitions", "2"])
    assert "--partitions and --on go with --all" in capsys.readouterr().err
    monkeypatch.setattr(runtime, "optional", lambda name: None)
    with pytest.raises(ImportError, match=r"ray is not installed; .*retrieval-workbench\[ray\]"):
        model.recommend_all(k=3, path=path, on="ray", progress=False)
    assert not list(tmp_path.iterdir())


class Stopped(Exception):
    pass


class Failed(Exception):
    cause = ValueError("k must be at least 1")


def test_failures_on_ray_are_one_line(model, monkeypatch):
    """Without a cluster: what is raised in its place."""

    def fails(*given: object, **named: object) -> None:
        tried.append(given)
        raise Exception("The current node timed out.\nmore")

    tried: list[object] = []
    ray = SimpleNamespace(is_initialized=lambda: False, init=fails, shutdown=lambda: None)
    monkeypatch.setattr(runtime, "require", lambda name: ray)
    with (
        pytest.raises(ConnectionError, match=r"none could be started here: The current node timed out\."),
        partitions(model.retriever, model.item_state, 2, "ray"),
    ):
        pass
    assert len(tried) == user_base.STARTS
    there = OnRay.__new__(OnRay)
    errors = SimpleNamespace(RayTaskError=Failed, RayError=Stopped)
    for error, kind, message in (
        (Failed(), ValueError, "k must be at least 1"),
        (Stopped(), RuntimeError, "a worker of Ray stopped .Stopped., and nothing is written"),
    ):
        there._ray = SimpleNamespace(get=lambda result, error=error: raising(error), exceptions=errors)
        with pytest.raises(kind, match=message):
            there.value(None)
    with pytest.raises(ValueError, match="k must be at least 1"):
        Partition(model.retriever, model.item_state, 0).best(
            model.embedded(model.queries.vectors), Request(None, None, None), 0
        )


def raising(error: Exception) -> None:
    raise error
