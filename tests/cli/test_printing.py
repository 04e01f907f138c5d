"""Tables on a terminal: whole, however narrow it is."""

import pandas as pd
import pytest

from workbench.cli.data import list_datasets
from workbench.cli.printing import print_table
from workbench.data import CATALOG, EMBEDDED


def test_a_table_wider_than_the_terminal_is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    words = "two-tower, inner product"
    print_table(pd.DataFrame({"method": [words, "SparCode"], "NDCG@10": [0.09204, 1], "seconds": [12, 3.0]}))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["method", "NDCG@10", "seconds"],
        [*words.split(), "0.0920", "12.0000"],
        ["SparCode", "1.0000", "3.0000"],
    ]


def test_the_list_of_datasets_keeps_a_line_each_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    list_datasets()
    lines = capsys.readouterr().out.splitlines()
    assert {*EMBEDDED, *CATALOG} <= {line.split()[0] for line in lines}
    assert any(line.split()[0] == "ml-1b" and line.rstrip().endswith("research, see page") for line in lines)
