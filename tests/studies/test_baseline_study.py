"""The study of plain recommenders takes the best setting on validation targets, and resumes where it was killed."""

from pathlib import Path

import pandas as pd
import pytest

from workbench import paths
from workbench.baselines.baseline import Baseline
from workbench.baselines.ranking import rank_users
from workbench.data import Sequences, load
from workbench.evaluation.metrics import metrics
from workbench.evaluation.protocol import STRICT, STRICT_VALIDATION, Protocol, effective_ranks
from workbench.studies import baseline_studies
from workbench.studies.baseline_studies import GRIDS, BaselineStudy
from workbench.studies.study import Models

STUDY = BaselineStudy("cycles", (), ("popularity", "item-CF"))


def test_the_setting_is_the_best_on_validation_targets() -> None:
    sequences = load("cycles")
    name = "item-CF, {:g} neighbours"
    make, grid = GRIDS[name]
    found = {
        name.format(value): [
            metrics(effective_ranks(rank_users(make(sequences, value), sequences, rules)), ks=(10,))[
                "NDCG@10"
            ]
            for rules in (STRICT_VALIDATION, STRICT)
        ]
        for value in grid
    }
    best = max(found, key=lambda title: found[title][0])
    table = STUDY.table(Models()).set_index("method")
    assert list(table.index) == ["popularity", best]
    assert table.loc[best, "NDCG@10"] == pytest.approx(found[best][1])


def test_it_resumes_where_it_was_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "checkpoints", lambda: tmp_path)
    whole = STUDY.table(Models())
    kept = sorted(tmp_path.rglob("*.parquet"))
    assert len(kept) == 6  # popularity, and five numbers of neighbours
    notes: list[str] = []
    monkeypatch.setattr(baseline_studies, "rank_users", None)  # nothing is made again
    pd.testing.assert_frame_equal(STUDY.table(Models(note=notes.append)), whole)
    assert len(notes) == 6 and notes[0].startswith("popularity: ranks of an earlier run, from ")

    kept[2].write_bytes(b"PAR1")  # damaged
    made: list[str] = []

    def counted(baseline: Baseline, sequences: Sequences, rules: Protocol) -> pd.DataFrame:
        made.append(rules.part)
        return rank_users(baseline, sequences, rules)

    monkeypatch.setattr(baseline_studies, "rank_users", counted)
    pd.testing.assert_frame_equal(STUDY.table(Models(note=notes.append)), whole)
    assert made == ["validation", "test"]
    monkeypatch.setattr(baseline_studies.source, "digest", lambda *rooms: "of other code")
    STUDY.table(Models())
    assert len(made) == 14 and len(list(tmp_path.rglob("*.parquet"))) == 12
