"""Findings on learned indexes say what the stored tables say."""

import pandas as pd
import pytest

from workbench.explore import index_findings


def text(finding) -> str:
    return finding.data.removeprefix("**In this run:** ")


def test_the_ladder_names_what_is_above_and_below() -> None:
    table = pd.DataFrame(
        {
            "row": ["two-tower", "control", "all", "codes"],
            "NDCG@10": [0.12, 0.121, 0.13, 0.1],
            "difference": [float("nan"), 0.001, 0.01, -0.02],
            "difference_low": [float("nan"), -0.001, 0.005, -0.03],
            "difference_high": [float("nan"), 0.003, 0.015, -0.01],
            "seen": [float("nan")] * 3 + [0.75],
        }
    )
    said = text(index_findings.ladder(table, "control", "all", "codes"))
    assert "The control (0.1210) is no different from the two-tower (0.1200)" in said
    assert "All-to-All (0.1300) is above" in said and "SparCode (0.1000) is below" in said
    assert "*codes*; 75% of the test tokens" in said
    assert "What codes cost: the SparCode that starts from All-to-All has 23% less NDCG@10." in said
    coded = table.assign(row=["two-tower", "control", "all", "k-means of tokens"])
    assert "without training after it, have 0.1000 to 0.1000." in text(
        index_findings.ladder(coded, "control", "all", "not trained")
    )
    assert "SparCode (" not in text(index_findings.ladder(table, "control", "all", "not trained"))


def test_models_next_to_one_that_is_scanned() -> None:
    table = pd.DataFrame(
        {"model": ["dot", "mol"], "NDCG@10": [0.1, 0.11], "p50_ms": [2.0, 5.0], "mebibytes": [1.0, 3.0]}
    )
    said = text(index_findings.own_indexes(table, "dot", ["mol", "absent"]))
    assert said == "Of the NDCG@10 of *dot*, *mol* has 110%, in 2.5 times the time and 3.0 times the memory."
    said = text(index_findings.own_indexes(table.assign(**{"NDCG@10": [0.1, 0.08]}), "dot", ["mol"]))
    assert said.endswith(
        "3.0 times the memory. Neither quality nor time nor memory is a reason to choose *mol* at this size."
    )
    assert "workbench study run similarities" in text(index_findings.own_indexes(table, "absent", []))


def test_paths_are_counted_against_popularity_at_equal_work() -> None:
    table = pd.DataFrame(
        {
            "index": ["paths, J = 1", "paths, J = 1", "own reranker", "FAISS IVF"],
            "effort": ["beam 1", "beam 5", "beam 1", "nprobe 4"],
            "of_brute_force": [0.5, 0.95, 0.4, 0.9],
            "popular_of_brute_force": [0.4, 0.97, 0.5, float("nan")],
            "share_scored": [0.05, 0.2, 0.1, 0.3],
            "recall@10": [0.4, 0.92, 0.3, 0.8],
            "times_brute_force": [2.0, 3.0, 2.0, 1.0],
        }
    )
    said = text(index_findings.paths_and_nulls(table))
    assert said.startswith("In 1 of 3 settings the paths find more than")
    assert "The fastest of them takes 2.0 times the time of brute force over all items." in said
    assert "reach a recall of 90 % by scoring 20% of the items (*paths, J = 1*, beam 5), in 3.0 times" in said
    assert "FAISS's cells reach no recall of 90 % here." in said


def test_a_table_of_models_has_names_and_units() -> None:
    table = pd.DataFrame(
        {
            "model": ["ml-1m-cpu-hstu-mol", "own"], "NDCG@10": [0.1, 0.2], "HR@50": [0.3, 0.4],
            "searched_by": ["PathBeam", "Mine"], "p50_ms": [1.0, 2.0], "mebibytes": [1.0, 3.0],
            "build_seconds": [0.0002087, 4.2531], "share_scored": [1.0, 0.5],
        }
    )  # fmt: skip
    shown = index_findings.similarities(table)
    assert shown["model"].tolist() == ["HSTU + MoL", "own"]
    assert shown["searched by"].tolist() == ["a beam of paths", "Mine"]
    assert shown["ms to build"].tolist() == pytest.approx([0.2087, 4253.1])


def test_a_beam_reaches_the_held_out_item_or_not() -> None:
    shown = pd.DataFrame({"place": [1, 2], "held_out": [False, False]})
    missed = text(index_findings.followed(pd.DataFrame({"holds_next": [False] * 3}), shown))
    assert missed.startswith("The held-out item is on none of the 3 paths of this beam")
    walked = pd.DataFrame({"holds_next": [False, True, True]})
    assert text(index_findings.followed(walked, shown)) == (
        "Of the 3 paths of this beam, the most probable first, the held-out item is on number 2 and 3;"
        " among all items found there the reranker does not place it in the first 2."
    )
    found = text(index_findings.followed(walked, shown.assign(held_out=[False, True])))
    assert found.endswith("the reranker puts it in place 2.")


def test_growth_takes_the_fastest_setting_that_finds_enough() -> None:
    table = pd.DataFrame(
        {
            "items": [1000] * 3,
            "searcher": ["path beam", "path beam", "FAISS IVF"],
            "setting": ["beam 4", "beam 16", "nprobe 1"],
            "recall@10": [0.96, 0.99, 0.5],
            "p50_ms": [1.0, 2.0, 0.1],
            "of_brute_force": [0.5, 1.0, 0.05],
            "share_scored": [0.1, 0.2, 0.01],
        }
    )
    said = text(index_findings.path_growth(table))
    assert said == (
        "At 1,000 items and a recall of 95%, path beam takes 0.50 times the time of brute force (beam 4, 10.0% scored) and"
        " FAISS IVF does not reach it."
    )


def test_thresholds_learned_in_two_ways() -> None:
    one = pd.DataFrame(
        {
            "index": [
                "0.0% sparse",
                "95.0% sparse",
                "learned threshold",
                "two-tower, flat scan",
                "brute force",
            ],
            "sparsity": [0.0, 0.95, 0.01, float("nan"), float("nan")],
            "NDCG@10": [0.1, 0.09, 0.1, 0.12, 0.1],
            "p50_ms": [1.0, 0.5, 1.0, 0.25, 2.0],
        }
    )
    table = pd.concat(
        [one.assign(threshold_by="gradient"), one.assign(threshold_by="quantile")], ignore_index=True
    )
    said = text(index_findings.thresholds(table))
    assert (
        "By gradient the threshold leaves out 1.0% of the scores, with an NDCG@10 of 0.1000; cut at 95% it is 0.0900"
        in said
    )
    assert "flat scan has 0.1200, in 0.5 times the time" in said and said.count("By ") == 2


def test_how_much_of_an_index_can_be_left_out() -> None:
    sweep = pd.DataFrame(
        {
            "sparsity": [0.5, 0.9, 0.99, None],
            "NDCG@10": [0.099, 0.085, 0.05, 0.1],
            "p50_ms": [3.0, 2.2, 2.1, 2.0],
        }
    )
    assert text(index_findings.sparsity(sweep)) == (
        "95 % of brute force's NDCG@10 is kept up to a sparsity of 50.0%: less than half of the index can be left out."
        " At 90.0% it is 85% of brute force's."
        " At 99.0% it is 50% of brute force's."
        " A query takes 1.05 to 1.50 times the time of brute force: no index is faster at this size."
    )
    faster = text(index_findings.sparsity(sweep.assign(p50_ms=[3.0, 1.0, 0.5, 2.0])))
    assert faster.endswith(
        "A query takes 0.25 to 1.50 times the time of brute force: 2 of the 3 indexes are faster."
    )
    assert text(index_findings.sparsity(sweep.drop(index=0))).startswith("No index here keeps 95 %")
    named = sweep.assign(index=["50.0% sparse", "90.0% sparse", "learned threshold", "brute force"])
    assert "The learned threshold leaves out 99.0%." in text(index_findings.sparsity(named))


def test_how_long_lists_must_be() -> None:
    values = {"NDCG@10": [0.5, 0.95, 1.0], "HR@50": [0.1, 0.2, 0.3]}
    curves = pd.concat(
        [pd.DataFrame({"curve": name, "x": [1, 10, 50], "y": y}) for name, y in values.items()]
    )
    assert text(index_findings.list_lengths(curves, 100)) == (
        "Nine tenths of NDCG@10 are kept by lists of 10 items, 10% of the catalogue."
        " Nine tenths of HR@50 are kept by none of these lists."
    )


def test_how_wide_a_beam_must_be() -> None:
    found = pd.DataFrame(
        {"beam": [1, 4], "recall": [0.5, 0.8], "of_brute_force": [0.95, 1.1], "scored": [0.1, 0.3]}
    ).assign(popular_of_brute_force=[0.97, 1.0])
    assert text(index_findings.beams(found)) == (
        "No beam here finds nine tenths of brute force's best ten. Nine tenths of brute force's hits need a beam of 1,"
        " which scores 10% of the corpus. At 1 of the 2 beams that score less than everything, the same reranker finds"
        " more hits among an equal number of the most popular items than on the paths. Some beams have more hits than"
        " brute force: the items that the paths leave out include its mistakes."
    )


def test_each_tower_is_compared_with_its_control():
    rows = [
        ("GRU", "All-to-All", 0.07, 0.065, 0.075),
        ("GRU", "SparCode", 0.05, 0.045, 0.055),
        ("GRU", "inner product of aligned tokens", 0.072, 0.067, 0.077),
        ("GRU", "two-tower, inner product", 0.04, 0.035, 0.045),
        ("DNN", "SparCode", 0.05, 0.045, 0.055),
        ("none", "popularity", 0.01, 0.01, 0.01),
    ]
    table = pd.DataFrame(rows, columns=["tower", "method", "NDCG@10", "low", "high"])
    assert text(index_findings.towers(table)) == (
        "The published order, All-to-All before SparCode before the two-tower, appears behind GRU."
        " Behind GRU, where the control has 0.0720, All-to-All (0.0700) is no different from the control and"
        " SparCode (0.0500) is below the control."
        " Behind GRU the control itself is above the two-tower: there, how inputs are scaled and initialised lifts a model"
        " without any interaction."
    )
    two_tower_ahead = table.assign(
        **{"NDCG@10": table["NDCG@10"].where(table["method"] != "two-tower, inner product", 0.06)}
    )
    two_tower_ahead["high"] = two_tower_ahead["high"] + 0.03
    said = text(index_findings.towers(two_tower_ahead))
    assert "does not appear" in said and "without any interaction" not in said
