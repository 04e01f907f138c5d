"""What a saved index is said to take of memory, next to what a process takes that loads and searches it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import workbench as wb
from workbench.bench.memory import RESET
from workbench.front_door.index import build
from workbench.front_door.saved_index import footprint
from workbench.search.memory import held_bytes

N, D = 100_000, 64

LOADED = """
import json, re, sys
from pathlib import Path
import numpy as np
import torch
import workbench as wb
from workbench.bench.memory import measured
from workbench.front_door import Index

folder, warm, item = sys.argv[1:]

def loaded(folder, item):
    index = Index.load(folder)
    index.search([[item]], 3)
    return index

loaded(warm, "item-1")  # imports and buffers, which no index adds to
def held():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = held()
kept, used = measured(lambda: loaded(folder, item), torch.device("cpu"))
print(json.dumps({"held": held() - before, "peak": used.peak}))
"""


def model(size: int) -> wb.Recommender:
    vectors = np.random.default_rng(0).normal(size=(size, D)).astype(np.float32)
    return wb.from_embeddings(vectors, ids=[f"item-{row}" for row in range(size)])


@pytest.fixture(scope="module")
def models() -> tuple[wb.Recommender, wb.Recommender]:
    return model(500), model(N)


@pytest.mark.skipif(not RESET.exists(), reason="the peak of a process is known on Linux alone")
@pytest.mark.parametrize(
    "searcher", ["brute-force", "exact", "per-component", "combined", "h-indexer", "faiss-flat"]
)
def test_memory_is_predicted(models, searcher, tmp_path: Path) -> None:
    small, large = models
    folders = [
        build(one, one.searcher_settings(searcher), tmp_path / name)
        for one, name in ((small, "warm"), (large, "large"))
    ]
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(folders[1]), str(folders[0]), "item-7"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # what more threads take is not the index's
    )
    found, needs = json.loads(done.stdout), footprint(folders[1])
    assert 0.8 * found["held"] <= needs.held <= 2 * found["held"]
    assert 0.8 * found["peak"] <= needs.held + needs.loading + needs.mapped <= 2 * found["peak"]


def test_what_is_shared_and_what_is_reached_twice_is_counted_once(models) -> None:
    index = models[0].index("per-component")
    own = held_bytes(index.searcher, index.corpus, index.model.retriever)
    assert 0 < own < held_bytes(index.searcher) <= own + index.corpus.nbytes()
    assert held_bytes([index.searcher, {"again": index.searcher}]) == held_bytes(index.searcher)
