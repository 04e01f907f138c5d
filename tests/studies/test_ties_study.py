"""The tie lab: what is fitted for each order, and the summary over orders."""

from dataclasses import replace

import numpy as np
import pytest
from worlds import cyclic

from workbench.studies import tie_studies
from workbench.studies.study import Models, study
from workbench.studies.tie_studies import STABLE, Ties, format_orders, over_orders


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


def test_its_options_are_checked():
    with pytest.raises(ValueError, match="orders must be 2 or more"):
        study("ties", {"orders": "1"})
