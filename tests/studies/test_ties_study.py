"""The tie lab: what is fitted for each order, and the summary over orders."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from worlds import cyclic

from workbench.studies import tie_studies
from workbench.studies.study import Models, study
from workbench.studies.tie_studies import STABLE, Ties, format_orders, over_orders, published_gaps


def test_each_order_has_every_method_and_the_source_comes_first(monkeypatch):
    sequences = cyclic()
    tied = replace(sequences, timestamps=np.zeros_like(sequences.timestamps))
    monkeypatch.setattr(tie_studies, "load", lambda name: tied)
    table = Ties("any", models=(), orders=2).table(Models())
    assert table["order"].unique().tolist() == [STABLE, "1", "2"]
    assert table["method"].unique().tolist() == ["popularity", "item-CF", "EASE^R"]
    moved = table.groupby("order")["moved"].first()
    assert moved[STABLE] == 0 and 0 < moved["1"] < 1
    summary = over_orders(table).set_index(["method", "metric"])
    values = table[table["order"] != STABLE].pivot(index="order", columns="method", values="MRR")
    assert summary.loc[("EASE^R", "MRR"), "mean"] == pytest.approx(values["EASE^R"].mean())
    assert summary.loc[("EASE^R", "MRR"), "over_first"] == pytest.approx(
        (values["EASE^R"] - values["popularity"]).mean()
    )
    assert summary.xs("MRR", level="metric")["leads"].sum() == 1
    text = format_orders(table)
    assert text["method"].tolist() == ["popularity", "item-CF", "EASE^R"]
    assert (
        text["HR@10, random orders"]
        .str.fullmatch(r"(\d\.\d{4}) ± \d\.\d{4} \(\d\.\d{4} to \d\.\d{4}\)")
        .all()
    )


def test_published_differences_are_held_against_ties():
    rows = [
        (order, method, value + move)
        for order, move in (("1", 0.01), ("2", -0.01), (STABLE, 0.5))
        for method, value in (("a", 0.3), ("b", 0.3))
    ]
    table = published_gaps(pd.DataFrame(rows, columns=["order", "method", "HR@10"]))
    mol = table[(table["better"] == "HSTU+MoL") & (table["than"] == "HSTU")].iloc[0]
    assert mol["HR@10"] == "+0.0133"  # RAILS, Table 3: .3465 and .3332
    own = 0.02 / 2**0.5 * np.hypot((0.3465 * 0.6535) ** 0.5, (0.3332 * 0.6668) ** 0.5) / 0.21**0.5
    assert mol["ties, same order"] == "± 0.0000: survives"  # both move together
    assert mol["ties, own orders"] == f"± {own:.4f}: does not"


def test_its_options_are_checked():
    with pytest.raises(ValueError, match="orders must be 2 or more"):
        study("ties", {"orders": "1"})
