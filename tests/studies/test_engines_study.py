"""The study of engines on a small model: at equal candidates every engine gives the lists of the scan."""

from pathlib import Path

import pytest
import torch

from workbench.bench.workloads import Inflated, build
from workbench.search.engines.catalog import ENGINES
from workbench.studies.engines import compare
from workbench.studies.study import study


def test_engines_agree_at_equal_candidates(workbench_root: Path) -> None:
    spec = Inflated("cycles-sasrec-mol", 300)
    workload = build(spec, 24, 0, torch.device("cpu"))
    chosen = [ENGINES[name] for name in ("flat", "faiss", "usearch", "lancedb", "graph")]
    table = compare(workload, chosen, n2=60, ef=60, k=10).set_index("engine")
    assert table.loc[["flat", "faiss", "usearch", "lancedb"], "overlap"].tolist() == [1.0, 1.0, 1.0, 1.0]
    assert table.loc["graph", "recall"] > 0.9
    assert (table.drop(index="graph")["candidates"] == 60).all() and table.loc["flat", "recall"] < 1
    assert (table[["ms_per_query", "build_s", "open_s"]] > 0).all(axis=None)
    assert table.loc["usearch", "files_mb"] > 0 and table.loc["flat", "version"] == "own"


def test_options_are_named() -> None:
    with pytest.raises(ValueError, match="there is no engine 'faisss': did you mean faiss"):
        study("engines", {"engines": "flat,faisss"}).table(None)  # type: ignore[arg-type]
    assert study("engines", {"items": "100000"}).file == "engines-100000"
