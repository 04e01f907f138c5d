"""Cost against corpus size, as the page of results shows it."""

import pandas as pd

from workbench.bench.growth import readme_growth


def test_a_method_that_was_not_measured_at_an_end_has_its_size_in_brackets():
    sizes = [1_000, 10_000, 100_000]
    rows = [(items, label, 8, items / 1_000) for label in ("a", "b") for items in sizes]
    table = pd.DataFrame(rows, columns=["items", "label", "batch_size", "p50_ms"])
    shown = readme_growth(table[(table["label"] == "a") | (table["items"] < 100_000)]).set_index("method")
    assert shown["ms at the largest"].tolist() == ["100.0", "10.0 (10,000 items)"]
    assert shown["ms at the smallest"].tolist() == ["1.0", "1.0"]
