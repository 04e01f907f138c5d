import doctest

import numpy as np
import pandas as pd
import pytest

from workbench.explore import tables
from workbench.explore.index_findings import not_stored
from workbench.explore.tables import table
from workbench.studies.study import study


def test_examples_hold():
    assert doctest.testmod(tables).failed == 0


def test_a_table_reads_well():
    frame = pd.DataFrame(
        {
            "held_out": np.array([True, False]),
            "score": [8.810549, 12.0],
            "title": ["<script>x</script>", "a & b"],
        }
    )
    page = table(frame).to_html()
    for part in ("held out", "●", "8.811", ">12<", "&lt;script&gt;x", "a &amp; b"):
        assert part in page
    assert "<script>" not in page and "row_heading" not in page


def test_numbers_that_are_written_out_stand_below_each_other():
    page = table(
        pd.DataFrame({"method": ["a", "b"], "ms": ["1,804", ""], "share": ["0.50 %", "1 %"]})
    ).to_html()
    assert page.count("text-align: right") == 3  # of two headings, and of all their cells together


def test_named_rows_stay_and_are_escaped():
    page = table(pd.DataFrame({"value": [1, 2]}, index=["<i>", "b"])).to_html()
    assert "&lt;i&gt;" in page and "<i>" not in page


def test_the_best_of_each_column_is_bold():
    page = table(pd.DataFrame({"a": [1.5, 2.5], "name": ["x", "y"]}), best="columns").to_html()
    assert page.count("font-weight: bold") == 1
    with pytest.raises(ValueError, match="best must be"):
        table(pd.DataFrame({"a": [1]}), best="rows")


def test_a_table_without_rows_or_columns_is_shown():
    assert "<table" in table(pd.DataFrame({"a": []})).to_html()
    assert "<table" in table(pd.DataFrame()).to_html()


def test_row_names_that_repeat_become_a_column():
    frame = pd.DataFrame({"value": [1, 2]}, index=pd.Index(["a", "a"], name="pair"))
    page = table(frame, best="columns").to_html()
    assert "row_heading" not in page and page.count(">a<") == 2


def test_a_study_that_was_not_run_names_its_command_and_its_time() -> None:
    long, short = (not_stored(study(name)).data for name in ("sparcode-sparsity", "deep-retrieval-growth"))
    assert (
        "`workbench study run sparcode-sparsity` computes this table, and trains its models in about" in long
    )
    assert short.endswith("`workbench study run deep-retrieval-growth` computes this table.")
    other = not_stored(study("sparcode-towers", {"family": "sparcode-quick"})).data
    assert other.endswith("`workbench study run sparcode-towers family=sparcode-quick` computes this table.")
