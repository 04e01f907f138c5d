"""Every derived number, from raw tables that are small enough to check by hand."""

import numpy as np
import pandas as pd
import pytest

from workbench.bench.entries import chosen
from workbench.bench.run import Raw
from workbench.bench.tables import (
    latency,
    overlap,
    per_query,
    published_searches,
    quality,
    readme,
    shown,
    summary,
)

CALLS = pd.DataFrame(
    [
        ("w", "brute force", 2, 3, 0, 0, 0.010, 1.0),
        ("w", "brute force", 2, 3, 1, 0, 0.030, 1.0),
        ("w", "brute force", 2, 3, 2, 0, 0.020, 1.0),
        ("w", "reference implementation", 2, 3, 0, 0, 0.010, 0.125),
        ("w", "reference implementation", 2, 3, 1, 0, 0.010, 0.125),
        ("w", "fast (n=1)", 2, 3, 0, 0, 0.002, 1.0),
        ("v", "fast (n=1)", 2, 3, 0, 0, 0.002, 1.0),
    ],
    columns=["workload", "label", "batch_size", "k", "round", "call", "seconds", "fraction"],
)


def test_latency_is_percentiles_rates_and_ratios_of_medians_with_a_part_scaled_to_the_whole():
    table = latency(CALLS).set_index(["workload", "label"])
    brute = table.loc[("w", "brute force")]
    assert (brute["calls"], brute["p50_ms"], brute["p95_ms"]) == (3, pytest.approx(20), pytest.approx(29))
    assert brute["qps"] == pytest.approx(2 * 3 / 0.060)
    assert table.loc[("w", "reference implementation"), "p50_ms"] == pytest.approx(80)
    assert table["speed_up"].tolist() == pytest.approx([4, 1, 40, np.nan], nan_ok=True)
    assert table["vs_brute_force"].tolist() == pytest.approx([1, 0.25, 10, np.nan], nan_ok=True)


@pytest.mark.parametrize(
    ("ids", "scores", "recall"),
    [
        ([1, 2, 3], [9.0, 8.0, 7.0], 1),
        ([3, 1, 2], [7.0, 9.0, 8.0], 1),
        ([1, 2, 4], [9.0, 8.0, 7.0], 1),  # 4 ties with 3
        ([1, 2, 4], [9.0, 8.0, 6.9], 2 / 3),
        ([4, 5, 6], [7.0, 7.0, 7.0], 1),  # impossible, but capped at k
        ([4, 5, 6], [9.5, 9.4, 9.3], 0),  # better than the best: a wrong score, no merit
        ([1, -1, -1], [9.0, -np.inf, -np.inf], 1 / 3),
    ],
)
def test_overlap_counts_ties_by_score(ids, scores, recall):
    found = overlap(np.array([ids]), np.array([scores]), np.array([[1, 2, 3]]), np.array([[9.0, 8.0, 7.0]]))
    assert found.tolist() == [pytest.approx(recall)]


def test_overlap_where_less_than_k_can_be_found():
    true, inf = np.array([[1, -1], [-1, -1]]), np.inf
    scores = np.array([[2.0, -inf], [-inf, -inf]])
    assert overlap(true, scores, true, scores).tolist() == [1, 1]
    assert overlap(np.array([[-1, -1], [-1, -1]]), scores * np.inf, true, scores).tolist() == [0, 1]


def answers(label: str, *rows: tuple[int, int, list[int], list[float], bool, int]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["query", "target", "ids", "scores", "exact", "num_scored"])
    frame["ids"] = [np.array(ids) for ids in frame["ids"]]
    frame["scores"] = [np.array(scores) for scores in frame["scores"]]
    return frame.assign(workload="w", label=label, batch_size=1, k=2, round=0, call=0, gap=0.0)


ANSWERS = pd.concat(
    [
        answers("brute force",
                (0, 5, [5, 6], [2.0, 1.0], True, 9), (1, 7, [8, 7], [2.0, 1.0], True, 9), (2, 3, [1, 2], [2.0, 1.0], True, 9)),
        answers("fast", (0, 5, [5, 6], [2.0, 1.0], True, 4), (1, 7, [8, 9], [2.0, 0.5], False, 2)),
        answers("liar", (2, 3, [1, 4], [2.0, 0.5], True, 1)),
    ],
    ignore_index=True,
)  # fmt: skip


def test_quality_is_recall_label_hits_proofs_and_work_over_the_same_queries():
    table = quality(ANSWERS).set_index("label")
    assert table["queries"].to_dict() == {"brute force": 3, "fast": 2, "liar": 1}
    assert table["recall"].to_dict() == {"brute force": 1, "fast": 0.75, "liar": 0.5}
    assert table["relative_hr"].to_dict() == pytest.approx(
        {"brute force": 1, "fast": 0.5, "liar": np.nan}, nan_ok=True
    )
    assert table["label_hits"].to_dict() == {"brute force": 2, "fast": 2, "liar": 0}
    assert table["certified"].to_dict() == {"brute force": 1, "fast": 0.5, "liar": 1}
    assert table["matches_brute_force"].to_dict() == {"brute force": 1, "fast": 0.5, "liar": 0}
    assert table["false_certificates"].to_dict() == {"brute force": 0, "fast": 0, "liar": 1}
    assert table["num_scored"].to_dict() == {"brute force": 9, "fast": 3, "liar": 1}


def test_a_query_counts_once_and_unknown_targets_are_neither_hit_nor_miss():
    again = pd.concat([ANSWERS, ANSWERS.assign(batch_size=8)], ignore_index=True)
    assert quality(again)["queries"].tolist() == quality(ANSWERS)["queries"].tolist()
    nobody = ANSWERS.assign(target=0)
    assert per_query(nobody)["hit"].isna().all()
    assert quality(nobody)["relative_hr"].isna().all()


def test_a_summary_has_a_row_for_each_contender_and_group_in_order(finished: Raw):
    table = summary(finished)
    labels = {items: [c.label for c in chosen(items, ())] for items in (30, 60)}
    assert table["label"].tolist() == labels[30] * 2 + labels[60] * 2
    groups = table[["items", "batch_size"]].drop_duplicates().to_numpy().tolist()
    assert groups == [[30, 1], [30, 4], [60, 1], [60, 4]]
    assert (table["p50_ms"] > 0).all() and (table["p95_ms"] >= table["p50_ms"]).all()
    assert (table["roofline_ms"] > 0).sum() == (table["scan"] != "unknown").sum()


def test_brute_force_and_the_reference_implementation_agree_and_no_certificate_is_false(finished: Raw):
    table = quality(finished.answers)
    exact = table[table["label"].isin(["reference implementation", "brute force"])]
    assert (exact["recall"] == 1).all() and (exact["matches_brute_force"] == 1).all()
    assert (table["false_certificates"] == 0).all()
    assert table["recall"].between(0, 1).all()


def test_what_a_reader_sees_is_text_without_missing_numbers(finished: Raw):
    table = shown(summary(finished))
    assert not table.isin(["nan", "inf"]).any().any()
    assert table["B"].unique().tolist() == ["1", "4"]
    part = summary(finished).assign(fraction=0.125)
    assert shown(part)["method"].str.endswith("from 12.5% of the items").all()


def test_published_searches_read_as_ours_do():
    table = published_searches("ML-20M", 100).set_index("label")
    assert table.loc["TopKPerEmbd5", ["method", "setting", "relative_hr", "p50_ms"]].tolist() == [
        "per component",
        "5",
        0.40,
        1.61,
    ]
    assert table.loc["CombTopK5_200", ["method", "setting"]].tolist() == ["combined", "5_200"]
    assert table.loc["BruteForce", "method"] == "brute force"
    assert published_searches("MovieLens", 100).empty


def test_the_readme_shows_one_group(finished: Raw, tmp_path):
    table = summary(finished)
    table.to_csv(tmp_path / "table.csv", index=False)
    name = table["workload"].iloc[-1]
    found = readme(pd.read_csv(tmp_path / "table.csv"), name, batch_size=4, k=5)
    wanted = table[(table["batch_size"] == 4) & (table["workload"] == name)]
    assert found["method"].tolist() == wanted["label"].tolist()
    pd.testing.assert_frame_equal(found, readme(table, name, batch_size=4, k=5))
