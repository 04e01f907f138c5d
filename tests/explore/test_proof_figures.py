import numpy as np
import pandas as pd
import pytest

from workbench.explore import proof_figures as figures

ITEMS = pd.DataFrame(
    {
        "item": [1, 2, 3],
        "score": [5.0, 1.0, -2.0],
        "bound": [6.0, 4.5, 0.0],
        "outcome": ["top k", "survives", "ruled out"],
    }
)
LISTS = pd.DataFrame(
    {
        "component": [0, 0, 1, 1],
        "place": [1, 2, 1, 2],
        "score": [6.0, 1.0, 4.0, 3.0],
        "item": [1, 2, 2, 1],
        "listed": [True, False, True, False],
    }
)
SHARES = pd.DataFrame(
    {
        "factor": [0.0, 0.0, 1.0, 1.0],
        "components": [4.0, 4.0, 1.5, 1.5],
        "queries": 32,
        "n1": [10, 100, 10, 100],
        "certified": [0.0, 0.2, 0.5, 1.0],
        "matches_brute_force": [0.5, 1.0, 0.9, 1.0],
        "surviving": [0.9, 0.9, 0.1, 0.1],
    }
)


def test_every_item_is_drawn_once_in_its_outcome_and_titles_are_escaped():
    figure = figures.bound_and_score(ITEMS, 4.0, pd.Series({1: "<b>x</b>", 2: "b", 3: "c"}))
    drawn = {t.name: list(t.x) for t in figure.data if t.type == "scattergl"}
    assert drawn == {"ruled out: 1": [0.0], "survives: 1": [4.5], "top k: 1": [6.0]}
    assert all("<b>" not in text for t in figure.data if t.type == "scattergl" for text in t.text)
    assert figure.layout.shapes[0].x0 == 4.0


def test_lists_are_drawn_with_the_two_levels():
    figure = figures.component_lists(LISTS, 3.5, 3.0)
    every, listed, *levels = figure.data
    assert [level.y[0] for level in levels] == [3.5, 3.0]
    assert np.array_equal(every.y, [6.0, 1.0, np.nan, 4.0, 3.0, np.nan], equal_nan=True)
    assert np.array_equal(listed.y, [6.0, np.nan, 4.0, np.nan], equal_nan=True)
    assert not {every.line.color, listed.line.color} & {level.line.color for level in levels}
    assert len(figures.component_lists(LISTS, float("-inf"), float("-inf")).data) == 2


@pytest.mark.parametrize(("s_k", "outside"), [(3.5, 3.0), (3.0, 3.5)])
def test_the_levels_of_one_query_are_named_away_from_the_curves(s_k, outside):
    above, *names = figures.proof_of_one(ITEMS, LISTS, s_k, outside, "").layout.annotations
    assert (above.x, above.y, above.yref) == (s_k, 1, "y domain")
    assert [note.text.rpartition(" ")[2] for note in names] == [f"{s_k:.2f}", f"{outside:.2f}"]
    assert all((note.xref, note.yref) == ("x2 domain", "y2 domain") and note.y < 0.2 for note in names)


def test_every_gate_is_seen_where_lines_coincide():
    same = [SHARES[SHARES["factor"] == 1].assign(factor=factor) for factor in (0.5, 1.0, 2.0, 8.0)]
    lines = [t for t in figures.proofs_by_n1(pd.concat(same)).data if t.showlegend]
    assert "as trained" in lines[-1].name
    assert [t.line.width for t in lines] == sorted({t.line.width for t in lines}, reverse=True)


def test_proofs_are_drawn_by_count_and_gate():
    figure = figures.proofs_by_n1(SHARES)
    certified, matching = ([t for t in figure.data if t.xaxis == axis] for axis in ("x", "x2"))
    assert [list(t.y) for t in certified] == [[0.0, 0.2], [0.5, 1.0]]
    assert [list(t.y) for t in matching] == [[0.5, 1.0], [0.9, 1.0]]
    assert "32 queries" in figure.layout.yaxis.title.text


def test_survivors_are_drawn_once_per_gate_as_far_as_they_reach():
    figure = figures.survivors_by_sharpness(SHARES.assign(surviving=SHARES["surviving"] / 10))
    (bars,) = figure.data
    assert list(bars.y) == ["× 0: 4.0", "× 1: 1.5"]
    assert list(bars.x) == pytest.approx([0.09, 0.01])
    assert 0.09 < figure.layout.xaxis.range[1] < 0.13


@pytest.mark.parametrize("draw", [figures.proofs_by_n1, figures.survivors_by_sharpness])
def test_a_table_without_its_columns_is_refused(draw):
    with pytest.raises(ValueError, match="factor"):
        draw(SHARES.drop(columns="factor"))
