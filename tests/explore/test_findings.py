"""Findings say what the tables say, whatever the data."""

import pandas as pd
import pytest

from workbench.explore import findings
from workbench.theory import targets
from workbench.theory.fitting import FitConfig, fitted
from workbench.theory.floor import floor, floor_curve


def text(finding) -> str:
    assert finding.data.startswith("**In this run:** ")
    return finding.data.removeprefix("**In this run:** ")


def curve(name: str, *y: float) -> pd.DataFrame:
    return pd.DataFrame({"curve": name, "x": [1, 10, 50][: len(y)], "y": y})


def test_the_list_for_everybody() -> None:
    name = "of the users' next items"
    assert text(findings.popular_list(curve(name, 0.01, 0.05, 0.6), 50)) == (
        "The first 10 items contain 5.0% of the next items. Half of them are in the list between 10 and 50 items: it then holds"
        " up to 100% of the catalogue."
    )
    assert "Even the whole catalogue contains less than half" in text(
        findings.popular_list(curve(name, 0.0, 0.1, 0.4), 50)
    )


def test_levels_that_curves_reach_or_do_not() -> None:
    curves = pd.concat([curve("found", 0.2, 0.9, 1.0), curve("proved", 0.0, 0.1, 0.3)])
    said = text(findings.levels(curves, "candidates", [("found", 0.9), ("proved", 0.5)]))
    assert said == (
        "*found* reaches 90% at 10 candidates. *proved* stays below 50%: its most is 30%, at 50 candidates."
    )
    assert text(findings.values_at(curves, 20, "candidates")) == (
        "With 20 candidates: 90% (found), 10% (proved)."
    )


def test_what_codewords_and_groups_keep_and_cost() -> None:
    kept = pd.concat(
        [curve("query as it is", 0.2, 0.2, 0.2), curve("query rounded to a codeword", 0.1, 0.16, 0.19)]
    )
    assert text(findings.codewords(kept, 1000)) == (
        "90% of NDCG@10, 0.200, is kept between 10 and 50 codewords; with 50 of them, 50,000 scores are stored for 1,000 items."
    )
    none = kept.assign(y=[0.2, 0.2, 0.2, 0.1, 0.1, 0.1])
    assert "No number of codewords keeps 90%" in text(findings.codewords(none, 1000))
    walked = pd.concat([curve("found", 0.5, 0.9, 0.95), curve("scored", 0.1, 0.3, 1.0)])
    assert text(findings.groups_searched(walked, "found", "scored")) == (
        "Nine tenths of the best items are found at 10 groups, with up to 30% of the catalogue scored. All of the best items"
        " are found with no number of groups."
    )


def test_from_how_many_negatives_on_a_method_fails_more_often() -> None:
    said = text(findings.even_odds(pd.concat([curve("A", 0.9, 0.4, 0.1), curve("B", 0.9, 0.8, 0.7)])))
    assert said == (
        "Failures begin to outnumber successes as follows. A: between 1 and 10 negatives. B succeeds more often with any"
        " number."
    )


@pytest.mark.parametrize(
    ("other", "said"),
    [((0.2, 0.3), "B is above A at every k."), ((0.2, 0.1), "B is above A at k = 1, of 1, 10."),
     ((0.1, 0.2), "B is above A at no k.")],
)  # fmt: skip
def test_where_one_method_is_ahead(other: tuple[float, float], said: str) -> None:
    rows = [("A", "HR@1", 0.1), ("A", "HR@10", 0.2), ("B", "HR@1", other[0]), ("B", "HR@10", other[1])]
    results = pd.DataFrame(rows, columns=["method", "metric", "value"])
    assert text(findings.ahead(results, [("A", "B")])) == said
    both = pd.DataFrame([(m, f"HR@{k}", 0.2) for m in "AB" for k in (50, 100)], columns=results.columns)
    both.loc[both["method"] == "B", "value"] = 0.3
    if said.endswith("of 1, 10."):
        longer = text(findings.ahead(pd.concat([results, both]), [("A", "B")]))
        assert longer == "B is above A at every k but 10."


@pytest.mark.parametrize(
    ("tied", "again", "said"),
    [
        (0.0, 0.0, "No two interactions of a user fall in the same second: the order is known. No user"),
        (
            0.34,
            0.0,
            "34.0% of all interactions fall in the same second as the previous one: their order means little.",
        ),
        (0.0, 0.75, "75.0% of the users have an item twice"),
    ],
)
def test_order_in_time(tied: float, again: float, said: str) -> None:
    measures = ["interactions in the same second as the previous one", "users with a repeated item"]
    assert said in text(findings.order_in_time(pd.DataFrame({"measure": measures, "share": [tied, again]})))


def test_who_leads_when() -> None:
    history = pd.DataFrame(
        {
            "run": ["a", "a", "a", "b", "b", "b"],
            "epoch": [1, 2, 3] * 2,
            "NDCG@10": [0.2, None, 0.3, 0.1, None, 0.4],
        }
    )
    assert text(findings.learning(history, [("a", "b")])) == (
        "Of a and b, a is ahead at epoch 1, and b is ahead at epoch 3."
    )
    assert text(findings.learning(history[history["epoch"] < 3], [("a", "b")])) == (
        "Of a and b, a is ahead at the last measurement (epoch 1), as at the first."
    )
    assert "both have the same NDCG@10" in text(
        findings.learning(history.assign(**{"NDCG@10": 0.0}), [("a", "b")])
    )


@pytest.mark.parametrize(
    ("low", "said"), [(0.01, "which excludes 0."), (-0.01, "which includes 0: no conclusion.")]
)
def test_which_differences_are_more_than_luck(low: float, said: str) -> None:
    row = {"comparison": "b − a", "metric": "NDCG@10", "difference": 0.02, "low": low, "high": 0.03}
    found = text(findings.significance(pd.DataFrame([row, {**row, "metric": "MRR"}])))
    assert found == f"b − a: +0.0200 NDCG@10, with an interval of {low:+.4f} to +0.0300, {said}"


def test_for_whom_a_method_gains() -> None:
    split = pd.DataFrame(
        {"method": ["a"] * 3 + ["b"] * 3, "group": [1, 2, 3] * 2, "NDCG@10": [0.1, 0.2, 0.3, 0.2, 0.2, 0.4]}
    )
    assert text(findings.gains(split, [("a", "b"), ("a", "a")])) == (
        "b is ahead of a in groups 1, 3 of 3 (1 is the rarest). a is ahead of a in no group."
    )


def test_which_grouping_the_components_follow() -> None:
    both = {"deciles of popularity": 0.2, "genres": 0.1234}
    assert text(findings.component_use(both, 4)) == (
        "The distance of a group's mean weights from the overall mean (root mean square over the pairs) is 0.2 for deciles of"
        " popularity and 0.12 for genres; an even weight is 0.25. The components separate deciles of popularity more."
    )
    assert "genres more" in text(findings.component_use({**both, "genres": 0.3}, 4))
    equal = text(findings.component_use({"deciles of popularity": 0.01, "genres": 0.02}, 4))
    assert equal.endswith("All groups use the components almost equally.")
    assert "separate" not in text(findings.component_use({"deciles of popularity": 0.2}, 4))


def test_what_balancing_does_to_the_weights() -> None:
    models = pd.DataFrame(
        {
            "model": ["balanced", "plain"], "components": 4, "in_use_on_average": [3.84, 3.99],
            "in_use_per_pair": [1.22, 3.37],
        }
    )  # fmt: skip
    assert text(findings.balance(models)) == (
        "The mixture *balanced* uses 3.84 of 4 components on average, and 1.22 for each pair."
        " The mixture *plain* uses 3.99 of 4 components on average, and 3.37 for each pair."
        " The weights of a pair are most concentrated in *balanced*, the mean weights most even in *plain*."
    )
    assert "most" not in text(findings.balance(models.iloc[:1]))


def test_what_lists_prove() -> None:
    shares = pd.DataFrame(
        {"factor": 1.0, "n1": [10, 30], "matches_brute_force": [0.5, 0.95], "certified": [0.0, 0.4]}
    )
    assert text(findings.proofs(shares)) == (
        "Lists of 30 contain the true answer for 95% of the queries, and prove it for 40%."
        " Nine of ten are correct with lists of 30, but none of these lengths proves nine of ten."
    )
    assert text(findings.proofs(shares.assign(certified=[0.9, 1.0]))).endswith("and proved with lists of 10.")
    assert "No list is long enough" in text(findings.proofs(shares.assign(matches_brute_force=0.1)))


def test_what_tighter_bounds_gain() -> None:
    table = pd.DataFrame(
        [
            ("fp32", 0.5, False),
            ("clusters", 0.9, False),
            ("bf16", 0.2, False),
            ("gate", 0.1, True),
            ("the best k", 0.02, True),
        ],
        columns=["bound", "share left", "oracle"],
    )
    assert text(findings.bounds(table)) == (
        "The plain bound leaves 50.0% of the corpus. The tightest bound without an oracle (*bf16*) leaves 20.0%."
        " The tightest oracle (*gate*) leaves 10.0%. The best k are 2.0%."
    )
    assert "tightest oracle" not in text(findings.bounds(table.iloc[[0, 4]]))
    assert "leaves 50.0% of the corpus. No bound without an oracle is tighter." in text(
        findings.bounds(table.iloc[[0, 1, 4]])
    )


def test_the_choice_of_protocol_that_moves_most_is_named():
    effect = pd.DataFrame(
        {
            "switch": ["strict", "targets", "history mask"],
            "value": ["", "validation", "none"],
            "a": [0.2, 0.01, -0.1],
            "b": [0.25, 0.03, -0.06],
        }
    )
    assert text(findings.protocol(effect)) == (
        "The choice that moves the mean most is *history mask: none* (-0.0800 on average). The best and the worst of these"
        " 2 methods are 0.0500 apart under the strict protocol."
    )


def scores_of(*rows: tuple[str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["method", "metric", "value"])


@pytest.mark.parametrize(
    ("other", "said"),
    [((0.3, 0.2), "B leads A most at k = 1: +50% in HR@1."),
     ((0.1, 0.19), "B is nowhere above A, and nearest at k = 10: -5% in HR@10.")],
)  # fmt: skip
def test_where_a_lead_is_largest(other: tuple[float, float], said: str) -> None:
    rows = scores_of(
        ("A", "HR@1", 0.2), ("A", "HR@10", 0.2), ("B", "HR@1", other[0]), ("B", "HR@10", other[1])
    )
    assert text(findings.largest_leads(rows, [("A", "B")])) == said
    nothing = scores_of(("A", "HR@1", 0.0), ("B", "HR@1", 0.1))
    assert "no lead over it is defined" in text(findings.largest_leads(nothing, [("A", "B")]))


def test_how_wide_a_dot_product_must_be() -> None:
    target = targets.TARGETS["block"](16, 0)
    config = FitConfig(width=2, gate_hidden=4, steps=20, start="spectral", seed=0)
    fit = fitted(target, config)
    said = text(findings.widths({"block": fit}))
    curve = floor_curve(target.scores)
    width = int((curve <= fit.error() + findings.EXACT).nonzero()[0])
    assert (
        f"a dot product of width {width} matches the error of the mixture of width 2, {fit.error():.2f}"
        in said
    )
    assert ("is still below it" in said) == (floor(target.scores, fit.equal_width) < fit.error())


def test_fits_against_what_dot_products_reach() -> None:
    names = ["dot, d = 4", "MoL, d = 4", "MoL, d = 8"]
    fits = pd.DataFrame(
        {"fit": names, "error": [0.95, 0.5, 0.4], "floor": [0.9, 0.9, 0.8], "equal_floor": [0.9, 0.6, 0.3]}
    )
    assert text(findings.against_floors(fits)) == (
        "2 of 2 mixtures are below the floor of the same width; their errors are 0.50 to 0.56 times this floor."
        " 1 of 2 mixtures (MoL, d = 4) are below the floor of equal parameters; their errors are 0.83 to 1.33"
        " times this floor."
    )
    worse = fits.assign(floor=0.1, equal_floor=0.0)
    said = text(findings.against_floors(worse))
    assert said.startswith("0 of 2 mixtures are below the floor of the same width")
    assert said.endswith("0 of 2 mixtures are below the floor of equal parameters.")


def test_how_far_two_kinds_of_list_go() -> None:
    table = pd.DataFrame(
        {
            "method": ["average", "average", "per component", "graph"],
            "relative_hr": [0.9, 1.0, 0.75, 1.0], "p50_ms": [1.0, 2.5, 4.0, 1.0], "roofline_ms": [0.1, 0.2, 0.3, None],
        }
    )  # fmt: skip
    unlabelled = table.assign(relative_hr=float("nan"))
    assert text(findings.average_or_components({"Here": table, "There": unlabelled})) == (
        "Here, the best relative hit rates are: lists by the average reach 1.00 (2.5 ms) and"
        " lists per component reach 0.75 (4 ms)."
    )
    assert text(findings.without_roofline(table)).endswith("are not drawn: *graph*.")
    assert text(findings.without_roofline(table.dropna())) == "Every method has a shortest time."


def test_where_a_mixture_ends_from_its_starts() -> None:
    fits = pd.DataFrame(
        {"fit": ["random", "spectral", "latents"], "error": [0.5, 0.101, 0.1], "equal_floor": 0.3}
    )
    assert text(findings.starts(fits)) == (
        "The smallest error is 0.10, from *latents*: the mixture can represent at least that much. From *random* training"
        " ends at 0.50. From *spectral* training comes as near."
        " From *random* training ends above the floor of equal parameters (0.30)."
    )
    turned = text(findings.starts(fits.assign(error=[0.1, 0.2, 0.5], equal_floor=0.9)))
    assert "from *random*" in turned and "From *latents* training ends at 0.50." in turned
    assert turned.endswith("From every start training ends below the floor of equal parameters (0.90).")


def test_what_searchers_cost_and_prove() -> None:
    table = pd.DataFrame(
        {
            "label": ["brute force", "fast", "listed", "own"], "own_score": [False, False, False, True],
            "recall": [1.0, 0.995, 0.7, 1.0], "p50_ms": [4.0, 1.0, 0.5, 0.1], "vs_brute_force": [1.0, 4.0, 8.0, 40.0],
            "relative_hr": [1.0, 0.99, 0.9, 1.0],
            "matches_brute_force": [1.0, 0.8, 0.2, 1.0], "certified": [1.0, 0.1, 0.1, 1.0],
        }
    )  # fmt: skip
    assert text(findings.searchers(table)) == (
        "The fastest whose recall is at least .99: *fast*, 1 ms, 4.00 times as fast as brute force."
        " The relative hit rate is above the overlap recall in 1 of 3 settings."
        " Furthest from proving what is correct: *fast*, 80% of its lists match brute force, and 10% are certified."
    )
    slow = text(findings.searchers(table.assign(p50_ms=[0.3, 1.0, 0.5, 0.1])))
    assert slow.startswith("No searcher whose recall is at least .99 is faster than brute force, 0.3 ms.")
    proved = table.assign(certified=table["matches_brute_force"], relative_hr=float("nan"))
    assert text(findings.searchers(proved)).endswith("Every list that matches brute force is certified.")
    assert "hit rate" not in text(findings.searchers(proved))


def test_the_published_claim_on_the_average_is_held_against_what_was_measured() -> None:
    table = pd.DataFrame(
        {
            "label": ["brute force", "average (n2=100)"], "batch_size": 32, "k": 10, "p50_ms": [400.0, 100.0],
            "vs_brute_force": [1.0, 4.0], "recall": [1.0, 0.9], "relative_hr": [1.0, 0.98],
        }
    )  # fmt: skip
    found = text(findings.average_claim(table))
    assert (
        "hold 90.0% of the true top 10 of brute force, find 98.0% of the answers that it finds, and" in found
    )
    assert "4.00 times as fast (100 ms for 32 queries)." in found
    assert found.endswith("Here the recall is not full, and the speed is not reached.")
    slow = table.assign(vs_brute_force=0.4)
    assert "and take 2.50 times as long (100 ms" in text(findings.average_claim(slow))
    full = table.assign(recall=1.0, relative_hr=float("nan"))
    assert text(findings.average_claim(full)).endswith(
        "Here the recall is full, and the speed is not reached."
    )
    assert "answers" not in text(findings.average_claim(full))
    fast = full.assign(vs_brute_force=[1.0, 70.0])
    assert text(findings.average_claim(fast)).endswith("The claim holds here.")


def test_recall_falls_or_rises_with_the_corpus() -> None:
    sizes = {"items": [1, 2, 3], "k": 9}
    parts = [
        pd.DataFrame({"label": label, **sizes, "recall": values})
        for label, values in (("list", [1.0, 0.8, 0.5]), ("cells", [0.2, 0.9, 0.7]), ("all", [1.0] * 3))
    ]
    assert text(findings.recall_by_size(pd.concat(parts))) == (
        "Recall@9 falls from the smallest corpus to the largest in 1 of 3 methods: *list*, 1.000 to 0.500."
        " Recall@9 rises from the smallest corpus to the largest in 1 of 3 methods: *cells*, 0.200 to 0.700."
    )
    assert text(findings.recall_by_size(parts[2])) == "Recall@9 is the same over all corpora."


def test_what_each_change_does_to_a_mixture_on_text() -> None:
    table = pd.DataFrame(
        {
            "change": ["the defaults", "a", "b"], "dot": [0.46, 0.40, 0.45], "mixture": [0.46, 0.42, 0.43],
            "difference_low": [-0.01, 0.01, -0.03], "difference_high": [0.01, 0.03, -0.01],
            "dot_train": 0.6, "mixture_train": 0.7, "components": 3.9, "of_components": 4, "shared": 0.9,
        }
    )  # fmt: skip
    found = findings.ablations(table).data
    assert found.startswith("**In the stored table:** Of 3 settings")
    assert "ahead of the dot product in 1 (*a*), behind in 1 (*b*); the others are not apart." in found
    assert (
        "best with *the defaults*: its Hit@10 on validation is then 0.460, the dot product's 0.460." in found
    )
    assert (
        "With *the defaults*, on training queries, the mixture's Hit@10 is 0.700 and the dot product's 0.600"
        in found
    )
    assert "uses 3.9 of 4 components, and 90% of the ten best" in found
    assert "ahead of the dot product in 0, behind in 0" in findings.ablations(table[:1]).data
