"""Figures of paths hold the numbers of their tables."""

import numpy as np
import pandas as pd
import pytest

from workbench.explore.path_figures import beam_curve, path_fill, path_learning


def test_learning_is_drawn_in_three_panels_without_the_epochs_of_the_reranker_alone():
    history = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "structure": [4.0, 3.0, np.nan],
            "stability": [0.2, 0.9, np.nan],
            "paths in use": [50.0, 40.0, np.nan],
        }
    )
    figure = path_learning(history)
    assert [list(trace.x) for trace in figure.data] == [[1, 2]] * 3
    assert [list(trace.y) for trace in figure.data] == [[4.0, 3.0], [0.2, 0.9], [50.0, 40.0]]
    with pytest.raises(ValueError, match="no epoch of the table assigned paths"):
        path_learning(history.assign(structure=np.nan))
    with pytest.raises(ValueError, match="lacks the column stability"):
        path_learning(history.drop(columns="stability"))


def test_fullness_shows_every_path_by_its_size():
    sizes = pd.DataFrame({"items": [1, 5], "paths": [2, 1], "variant": ["α = 1", "α = 1"]})
    (trace,) = path_fill(sizes).data
    assert (list(trace.x), list(trace.y), trace.name) == ([1, 2, 3], [5, 1, 1], "α = 1")
    (alone,) = path_fill(sizes.drop(columns="variant")).data
    assert alone.showlegend is False


def test_beams_stand_where_they_score_and_find():
    table = pd.DataFrame(
        {"beam": [4, 1], "recall": [0.9, 0.5], "scored": [0.4, 0.1], "of_brute_force": [1.1, 0.8]}
    )
    figure = beam_curve(table)
    assert [list(t.x) for t in figure.data] == [[0.1, 0.4]] * 2
    assert list(figure.data[0].text) == ["beam 1", "beam 4"]
    near = beam_curve(pd.concat([table, table.tail(1).assign(beam=2, scored=0.15)])).data[0]
    assert list(near.text) == ["beam 1", "", "beam 4"] and list(near.customdata) == [1, 2, 4]
    assert list(figure.data[1].y) == [0.8, 1.1]
    assert figure.layout.yaxis.range[1] > 1.1
    assert len(beam_curve(table.drop(columns="of_brute_force")).data) == 1
    popular = beam_curve(table.assign(popular_of_brute_force=[0.7, 0.6])).data[2]
    assert list(popular.y) == [0.6, 0.7] and "most popular" in popular.name
