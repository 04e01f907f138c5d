"""`workbench sparcode` on a checkout without trained models."""

import pandas as pd
import pytest
from typer.testing import CliRunner

from workbench import paths
from workbench.cli import sparcode


@pytest.fixture
def empty(tmp_path, monkeypatch, cycles):
    monkeypatch.setattr(paths, "checkpoints", lambda: tmp_path / "ckpts")
    monkeypatch.setattr(paths, "reports", lambda: tmp_path / "reports")
    monkeypatch.setattr(sparcode, "load", lambda name: cycles())
    return tmp_path


def test_towers_leave_out_what_is_not_trained(empty):
    result = CliRunner().invoke(sparcode.app, ["towers", "--trained-only"])
    assert result.exit_code == 0, result.output
    assert "sparcode-cpu/gru-all-to-all is not trained: left out" in result.output
    table = pd.read_csv(empty / "reports" / "tables" / "sparcode-towers.csv")
    assert table["method"].tolist() == ["popularity"]
    assert {"machine", "commit", "HR@10"} <= set(table.columns)


def test_an_unknown_family_lists_presets(empty):
    result = CliRunner().invoke(sparcode.app, ["ablation", "--family", "nothing"])
    assert isinstance(result.exception, ValueError) and "no preset 'nothing/sa-sparcode'" in str(
        result.exception
    )
