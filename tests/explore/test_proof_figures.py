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
    levels = [t for t in figure.data if t.name]
    assert [t.y[0] for t in levels] == [3.5, 3.0]
    assert len(figure.data) == 2 * 2 + 2
    assert len(figures.component_lists(LISTS, float("-inf"), float("-inf")).data) == 4


def test_proofs_are_drawn_by_count_and_gate():
    figure = figures.proofs_by_n1(SHARES)
    solid = [t for t in figure.data if t.line.dash == "solid" and t.x[0] is not None]
    assert [list(t.y) for t in solid] == [[0.0, 0.2], [0.5, 1.0]]


def test_survivors_are_drawn_once_per_gate():
    (bars,) = figures.survivors_by_sharpness(SHARES).data
    assert [name.split("<br>") for name in bars.x] == [
        ["× 0", "4.0 in use"],
        ["× 1", "1.5 in use"],
    ]
    assert list(bars.y) == [0.9, 0.1]


@pytest.mark.parametrize("draw", [figures.proofs_by_n1, figures.survivors_by_sharpness])
def test_a_table_without_its_columns_is_refused(draw):
    with pytest.raises(ValueError, match="factor"):
        draw(SHARES.drop(columns="factor"))
