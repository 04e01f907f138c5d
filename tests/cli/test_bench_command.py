"""`workbench bench search`, run as a user runs it."""

from pathlib import Path

import pandas as pd
import pytest

from workbench.cli import main


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["bench", "search", *arguments])
    return int(end.value.code or 0)


def test_it_measures_stores_and_prints(tmp_path: Path, capsys) -> None:
    out, runs = tmp_path / "tables" / "x.csv", tmp_path / "runs"
    arguments = ("--size", "ml-1m", "--method", "baseline", "--batch-size", "2", "-k", "10", "--rounds", "1",
                 "--queries", "6", "--threads", "1", "--runs", str(runs), "--out", str(out))  # fmt: skip
    assert call(*arguments) == 0
    table = pd.read_csv(out)
    assert table["label"].tolist() == ["baseline", "brute force"]
    assert {"p50_ms", "speed_up", "recall", "of_roofline", "machine", "commit"} <= set(table.columns)
    assert table["recall"].tolist() == [1.0, 1.0]
    printed = capsys.readouterr().out
    assert "ml-1m, random weights, 2 queries a call, k = 10" in printed
    assert "GFLOP/s" in printed and str(out) in printed
    (folder,) = runs.iterdir()
    assert folder.name.startswith("custom-") and len(list(folder.rglob("*.parquet"))) == 6
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert call(*arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--preset", "nothing"), "no preset 'nothing'"),
        (("--size", "huge"), "no published size 'huge'"),
        (("--size", "ml-1m", "--method", "magic"), "no method 'magic'"),
        (("--size", "ml-1m", "-k", "0"), "ks must be"),
        (("--checkpoint", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_one_clear_line(capsys, arguments: tuple[str, ...], said: str) -> None:
    assert call(*arguments) == 1
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
