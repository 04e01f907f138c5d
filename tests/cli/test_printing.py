"""Tables on a terminal: whole, however narrow it is."""

import pandas as pd
import pytest

from workbench.cli.printing import print_table


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
