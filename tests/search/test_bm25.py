"""BM25 by tantivy."""

import numpy as np
import pytest

pytest.importorskip("tantivy")

from workbench.search.engines.bm25 import BM25

TEXTS = ["a loud noise in the street", "noises", "the anchor of a ship", "a ship"]


def test_words_are_stemmed_and_rare_ones_count_more() -> None:
    found = BM25(TEXTS).search(["Noise!", "anchored ship (old)", "zebra", "…"], 3)
    assert found.dtype == np.int64 and found.shape == (4, 3)
    assert found[0].tolist() == [1, 0, -1]  # the shorter document first
    assert found[1].tolist() == [2, 3, -1]
    assert found[2:].tolist() == [[-1, -1, -1], [-1, -1, -1]]


def test_scores_are_those_of_the_formula() -> None:
    """Both documents hold "ship" once; the ranking by length is what b = 0.75 gives, and words of syntax are only words."""
    assert BM25(TEXTS).search(["ship AND -anchor text:noise"], 4)[0, 0] == 2
