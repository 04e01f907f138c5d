"""Means and deviations over seeds, and differences on the same seeds."""

import pandas as pd
import pytest

from workbench.studies.seeds import over_seeds

DOT = pd.DataFrame({"HR@10": [0.1, 0.2, 0.3], "MRR": [0.5, 0.5, 0.5]})
MOL = pd.DataFrame({"HR@10": [0.2, 0.3, 0.7], "MRR": [0.4, 0.5, 0.6]})


def test_a_row_for_each_method_and_metric():
    table = over_seeds({"dot": DOT, "MoL": MOL}).set_index(["method", "metric"])
    assert table["mean"].tolist() == pytest.approx([0.2, 0.5, 0.4, 0.5])
    assert table.loc[("MoL", "HR@10"), "deviation"] == pytest.approx(0.07**0.5)
    assert table["over_first"].tolist() == pytest.approx([0, 0, 0.2, 0])
    assert table.loc[("MoL", "HR@10"), "difference_deviation"] == pytest.approx(0.03**0.5)
    assert set(table["seeds"]) == {3}


def test_one_seed_has_no_deviation():
    table = over_seeds({"dot": DOT[:1], "MoL": MOL[:1]})
    assert table["deviation"].isna().all() and table["mean"].notna().all()


@pytest.mark.parametrize("values", [{}, {"dot": DOT[:0]}, {"dot": DOT, "MoL": MOL[:2]}])
def test_seeds_that_do_not_match_are_an_error(values):
    with pytest.raises(ValueError, match="seed"):
        over_seeds(values)
