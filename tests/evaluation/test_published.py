"""Published figures: read whole, found by name, and put next to measured ones under the right label."""

import numpy as np
import pandas as pd
import pytest

from workbench.evaluation import STRICT, published, summarize, with_published
from workbench.evaluation.published import comparable

V4 = "RAILS v4 (arXiv 2407.15462v4) Table 3"


def test_all_figures_are_there_with_their_sources():
    rows = published()
    assert len(rows) == 586
    assert list(rows.columns) == ["source", "dataset", "method", "metric", "value"]
    assert rows.notna().all(axis=None)
    assert not rows.duplicated(["source", "dataset", "method", "metric"]).any()


@pytest.mark.parametrize("name", ["ML-1M", "ml-1m"])
def test_a_dataset_is_found_whatever_its_case(name):
    rows = published(name, methods=["HSTU+MoL"], source=V4)
    assert rows.set_index("metric")["value"].to_dict() == {
        "HR@1": 0.0884,
        "HR@10": 0.3465,
        "HR@50": 0.6022,
        "HR@200": 0.7935,
        "MRR": 0.1712,
    }


def test_an_unpublished_dataset_has_no_figures():
    assert published("embedded").empty


def test_filters_narrow():
    rows = published("ml-20m", metrics=["MRR"], source="Table 3")
    assert set(rows["metric"]) == {"MRR"}
    assert len(rows) == 5


def test_only_the_recommendation_rows_of_rails_are_relabelled():
    rows = comparable(published())
    cut = rows[rows["metric"] == "MRR (cut at 2500)"]
    assert cut["source"].str.startswith("RAILS").all()
    assert "NQ320K" not in set(cut["dataset"])
    assert len(cut) == (published(metrics=["MRR"])["dataset"] != "NQ320K").sum()


def ranks() -> pd.DataFrame:
    count = 50
    return pd.DataFrame(
        {
            "user_id": range(count),
            "target_id": 1,
            "rank": np.arange(1, count + 1),
            "target_excluded": False,
        }
    )


def test_measured_and_published_stand_side_by_side():
    summary = summarize(ranks(), STRICT, ks=(10, 50))
    both = with_published(summary, "ml-1m", ["HSTU+MoL", "HSTU-large+MoL"])
    assert both.columns[:6].tolist() == summary.columns.tolist()
    column = f"HSTU+MoL · {V4}"
    readme = [name for name in both.columns if name.startswith("HSTU-large+MoL · RAILS README")]
    assert len(readme) == 1
    values = both.set_index("metric")
    assert values.at["HR@10", column] == 0.3465
    assert values.at["MRR (cut at 2500)", column] == 0.1712
    assert np.isnan(values.at["MRR", column])
    assert np.isnan(values.at["NDCG@10", column])
    assert values.at["HR@10", readme[0]] == 0.3412
    pd.testing.assert_series_equal(both["value"], summary["value"])
    assert both.attrs == summary.attrs


def test_without_published_figures_the_summary_stays_as_it_is():
    summary = summarize(ranks(), STRICT)
    pd.testing.assert_frame_equal(with_published(summary, "embedded", ["HSTU"]), summary)
