"""Figures of text retrieval, and the search box."""

import pandas as pd
import pytest

from workbench.explore.stored_states import unpack
from workbench.explore.text_figures import (
    answer_columns,
    component_shares,
    critical_sizes,
    token_attention,
    ways_with_intervals,
)
from workbench.explore.text_widget import SearchBox, WaysExplorer
from workbench.studies.text_search import TextSearch

HOSTILE = "<img src=x onerror=alert(1)>"
ANSWERS = pd.DataFrame(
    {
        "way": ["cosine"] * 2 + ["mixture"] * 2,
        "place": [1, 2] * 2,
        "document": ["one", "two", HOSTILE, "one"],
        "score": [3.0, 2.0, 9.0, 1.0],
    }
)
PARTS = pd.DataFrame(
    {
        "document": ["one", "one", HOSTILE, HOSTILE],
        "component": ["q1·d1", "q1·d2"] * 2,
        "weight": [0.25, 0.75] * 2,
        "cosine": [0.8, 0.4] * 2,
        "share": [4.0, 6.0] * 2,
    }
)
LOOKS = pd.DataFrame(
    {
        "place": [0, 1] * 2,
        "token": ["<b>a", "▁fox"] * 2,
        "group": ["q1"] * 2 + ["q2"] * 2,
        "weight": [0.5, 0.5, 0.1, 0.9],
    }
)


class Search(TextSearch):
    """Answers anything with the tables above; an empty text is an error."""

    mixtures = attentive = ("mixture",)

    def __init__(self) -> None: ...

    def answers(self, text: str, k: int = 8) -> pd.DataFrame:
        if not text:
            raise ValueError("text 0 is empty")
        return ANSWERS[ANSWERS["place"] <= k]

    def components(self, text: str, name: str, k: int = 5) -> pd.DataFrame:
        return PARTS

    def attention(self, text: str, name: str) -> pd.DataFrame:
        return LOOKS


def test_a_long_text_has_legible_tokens() -> None:
    """Of 130 tokens at most forty are written out, each at its own place."""
    places = range(130)
    long = pd.DataFrame(
        {"place": places, "token": [f"t{p}" for p in places], "group": "q1", "weight": 1 / 130}
    )
    axis = token_attention(long).layout.xaxis
    assert len(axis.tickvals) <= 40 and list(axis.ticktext) == [f"t{p}" for p in axis.tickvals]


def test_answers_stand_side_by_side_in_order_and_are_escaped() -> None:
    figure = answer_columns(ANSWERS)
    assert list(figure.data[0].header.values) == ["", "<b>cosine</b>", "<b>mixture</b>"]
    assert list(figure.data[0].cells.values[1]) == ["one", "two"]
    assert "<img" not in figure.to_json()


@pytest.mark.parametrize(
    ("ways", "rows", "text", "drawn"),
    [
        (6, 6, "a kettle in the desert", 325),
        (6, 12, "a kettle in the desert", 599),
        (5, 6, 4 * "a kettle in the desert ", 606),
    ],
)
def test_no_answer_is_hidden_below_the_others(ways: int, rows: int, text: str, drawn: int) -> None:
    """`drawn` is how high plotly makes these tables at the width of a phone's."""
    table = pd.DataFrame([(f"way {w}", p, text) for w in range(ways) for p in range(rows)])
    figure = answer_columns(table.set_axis(["way", "place", "document"], axis=1))
    assert drawn <= figure.layout.height <= 1.25 * drawn
    assert " " not in figure.data[0].cells.values[1][0]  # plotly would measure each word


def test_shares_of_a_document_stand_on_each_other() -> None:
    figure = component_shares(PARTS)
    assert [trace.name for trace in figure.data] == ["q1·d1", "q1·d2"]
    assert [trace.x[0] for trace in figure.data] == [4.0, 6.0]
    assert "<img" not in figure.to_json()


def test_ways_are_drawn_with_their_intervals() -> None:
    row = {"subset": "all", "queries": 9, "metric": "Hit@10"}
    rows = [
        row | {"way": w, "value": v, "low": v - 0.1, "high": v + 0.2}
        for w, v in (("mol-2", 0.5), ("BM25", 0.3))
    ]
    figure = ways_with_intervals(pd.DataFrame(rows))
    assert list(figure.data[0].y) == ["BM25", "mol-2"]
    assert figure.data[0].error_x.array == pytest.approx([0.2, 0.2])
    with pytest.raises(ValueError, match="no MRR"):
        ways_with_intervals(pd.DataFrame(rows), "MRR")


def test_the_search_box_searches_shows_parts_and_shows_what_is_wrong() -> None:
    box = SearchBox(Search(), "noise")
    assert box.figure.data[0].type == "table"
    box.controls["show"].value = "parts of mixture"
    assert [trace.type for trace in box.figure.data] == ["bar", "bar"]
    box.controls["show"].value = "answers"
    box.controls["k"].value = 1
    assert len(box.figure.data[0].cells.values[1]) == 1
    box.controls["text"].value = ""
    assert "text 0 is empty" in box.status.value


def test_critical_sizes_are_means_over_seeds_with_their_range() -> None:
    rows = [("dot", 2, 0, 3), ("dot", 2, 1, 3), ("dot", 4, 0, 8), ("dot", 4, 1, 10), ("mol", 4, 0, 9)]
    table = pd.DataFrame(rows, columns=["similarity", "floats", "seed", "documents"]).assign(largest=32)
    dot, mixture = critical_sizes(table).data
    assert list(dot.y) == [3, 9] and list(dot.error_y.array) == [0, 1] and list(mixture.x) == [4]


def test_tokens_are_drawn_with_the_weight_that_each_group_gives_them() -> None:
    figure = token_attention(LOOKS)
    assert figure.data[0].z.tolist() == [[0.5, 0.5], [0.1, 0.9]]
    assert list(figure.layout.xaxis.ticktext) == ["&lt;b&gt;a", "fox"]
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 0.9)  # plotly uses neither without the other


def test_the_search_box_shows_what_a_head_looks_at() -> None:
    box = SearchBox(Search(), "a fox")
    box.controls["show"].value = "tokens of mixture"
    assert box.figure.data[0].type == "heatmap"


def test_a_page_offers_the_texts_that_were_searched_for_it() -> None:
    page = SearchBox(Search(), "noise", k=2, examples=["a fox", "<b>"]).page()
    found = {control["name"]: control for group in page["groups"] for control in group["controls"]}
    assert found["text"]["kind"] == "choice" and found["text"]["labels"] == ["noise", "a fox", "<b>"]
    assert found["k"]["labels"] == ["2", "3", "6", "12"]
    assert len(unpack(page["states"])) == 3 * 3 * 4


def test_ways_are_explored_by_metric_and_kind_of_query() -> None:
    rows = [
        {"subset": s, "queries": n, "metric": m, "way": w, "value": v / n, "low": 0.0, "high": 1.0}
        for s, n in (("all", 9), ("short", 4))
        for m in ("Hit@10", "MRR@10")
        for w, v in (("mol-2", 2), ("BM25", 1))
        if (s, m) != ("short", "MRR@10")
    ]
    ways = WaysExplorer(pd.DataFrame(rows), "MRR@10")
    assert ways.figure.layout.title.text == "MRR@10, all (9 queries)"
    ways.controls["queries"].value = "short"
    assert "the table has no MRR@10 of the subset" in ways.status.value
    ways.controls["metric"].value = "Hit@10"
    assert list(ways.figure.data[0].x) == [0.25, 0.5]
    with pytest.raises(ValueError, match="the table has no HR; it has Hit@10, MRR@10"):
        WaysExplorer(pd.DataFrame(rows), "HR")
