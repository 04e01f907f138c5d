"""A small text set that is made, not collected: each query word has two unrelated meanings.

Documents name a subject and a place ("a fox in the harbour"). A query is an invented word inside a phrase; the word stands for
two documents that have nothing in common. One vector per query has to lie near both, which a dot product of small width cannot
give to many words at once, while a mixture can hold a meaning per component. So a mixture wins here by construction: the set
tests and teaches, and is evidence of nothing else.
"""

import numpy as np
import pandas as pd

from workbench.data.text.collection import Step, TextCollection

SUBJECTS = [
    "fox",
    "heron",
    "beetle",
    "whale",
    "sailor",
    "baker",
    "judge",
    "miller",
    "piano",
    "kettle",
    "lantern",
    "compass",
    "apple",
    "walnut",
    "thistle",
    "mushroom",
    "comet",
    "river",
    "glacier",
    "thunder",
]
PLACES = [
    "harbour",
    "desert",
    "library",
    "orchard",
    "tunnel",
    "palace",
    "market",
    "forest",
    "island",
    "kitchen",
    "theatre",
    "quarry",
    "meadow",
    "prison",
    "factory",
    "chapel",
    "attic",
    "swamp",
    "stadium",
    "bakery",
]
PHRASES = (
    "what is a {}", "the old {}", "a {} in winter", "they spoke of the {}", "my first {}", "one more {}", "every {} we saw",
    "nobody knows the {}", "about a {}", "this {} again", "find me a {}", "the name of a {}",
)  # fmt: skip
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"


def generate(seed: int, words: int = 150) -> TextCollection:
    """400 documents, and 12 queries for each of `words` invented words: 8 phrases train, 2 validate, 2 test.

    Raises ValueError if `words` exceeds the pairs of invented subjects and places, or is below 1.
    """
    if not 1 <= words <= len(SUBJECTS) * len(PLACES) // 2:
        raise ValueError(f"words must lie in 1..{len(SUBJECTS) * len(PLACES) // 2}, not {words}")
    random = np.random.default_rng(seed)
    documents = pd.DataFrame(
        [(f"d{i}-{j}", f"a {s} in the {p}", s) for i, s in enumerate(SUBJECTS) for j, p in enumerate(PLACES)],
        columns=["document_id", "text", "word"],
    )
    names: dict[str, None] = {}
    while len(names) < words:
        letters = [random.choice(list(kind)) for kind in (_CONSONANTS, _VOWELS) * 3]
        names["".join(letters)] = None
    meanings = _unrelated_pairs(random, words)
    rows, pairs = [], []
    for word, meaning in zip(names, meanings, strict=True):
        for place, phrase in enumerate(PHRASES):
            split = "train" if place < 8 else "validation" if place < 10 else "test"
            rows.append((f"{word}-{place}", phrase.format(word), split, word, 2))
            pairs += [(f"{word}-{place}", documents["document_id"].iloc[row]) for row in meaning]
    queries = pd.DataFrame(rows, columns=["query_id", "text", "split", "group", "answers"])
    relevance = pd.DataFrame(pairs, columns=["query_id", "document_id"])
    steps = (Step("generated", len(queries), words),)
    return TextCollection("embedded-text", documents, queries, relevance, steps)


def _unrelated_pairs(random: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Pairs of documents with different subjects and different places."""
    size = len(SUBJECTS) * len(PLACES)
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        first, second = (int(row) for row in random.choice(size, 2, replace=False))
        if first // len(PLACES) != second // len(PLACES) and first % len(PLACES) != second % len(PLACES):
            pairs.append((first, second))
    return pairs
