"""The dashboard of exact search: one query, the lists of its components, and whether they prove the answer. May import
bench."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.bench.workloads import Workload
from workbench.explore.proof_figures import proof_of_one
from workbench.explore.widgets import Dashboard
from workbench.studies.proofs import one_query, sharpened
from workbench.studies.tour_experiments import steps

FACTORS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


class Proof(Dashboard):
    """A bound at work: longer lists, another query, a flatter or sharper gate.

    `titles` of items, by id, are shown on hovering. The first view shows query number `query` with lists of `n1` items.
    Raises ValueError if the similarity has no gate to sharpen, or the queries may find too few items.
    """

    page_largest = 900_000

    def __init__(
        self,
        workload: Workload,
        titles: pd.Series | None = None,
        query: int = 0,
        k: int = 10,
        n1: int = 50,
    ) -> None:
        self.titles = titles
        self._at = lru_cache(maxsize=len(FACTORS))(lambda factor: sharpened(workload, factor))
        self._at(1.0)
        fewest = len(workload.items) - int((workload.exclude != 0).sum(1).max())
        places = [int(n) for n in np.union1d(steps(fewest), [min(n1, fewest)])]
        wide = {"width": "360px"}
        super().__init__(
            "Which items can be ruled out, and is the list proved?",
            {
                "Query and number of results": {
                    "query": widgets.BoundedIntText(value=query, min=0, max=len(workload.queries) - 1),
                    "k": widgets.IntSlider(value=k, min=1, max=min(100, fewest), continuous_update=False),
                },
                "Items in the list of each component; factor of the gate's logits": {
                    "n1": widgets.SelectionSlider(
                        options=[(f"{n:,}", n) for n in places],
                        value=min(n1, fewest),
                        continuous_update=False,
                        layout=wide,
                    ),
                    "gate ×": widgets.SelectionSlider(
                        options=[(f"{f:g}", f) for f in FACTORS],
                        value=1.0,
                        continuous_update=False,
                        layout=wide,
                    ),
                },
            },
        )

    def page_values(self) -> Mapping[str, Sequence[Any]]:
        """Every length of the lists and every gate, for this query and the next; k stays."""
        query, last = self.values["query"], self.controls["query"].max
        return {
            "n1": [n for _, n in self.controls["n1"].options],
            "gate ×": list(FACTORS),
            "query": [query, query + 1 if query < last else query],
        }

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """The items of the query by bound and score, and the lists with the two levels that decide the proof."""
        k, n1 = int(values["k"]), int(values["n1"])
        one = one_query(self._at(values["gate ×"]), int(values["query"]), k, n1)
        outcomes = one.items["outcome"].value_counts()
        scored = int(outcomes.get("top k", 0) + outcomes.get("survives", 0))
        listed = set(one.lists.loc[one.lists["listed"], "item"])
        complete = set(one.items.loc[one.items["outcome"] == "top k", "item"]) <= listed
        if one.s_k >= one.outside:
            verdict = f"proved: the best {k} are in the lists"
        elif complete:
            verdict = f"not proved, although the best {k} are there"
        else:
            verdict = "neither proved nor complete"
        title = f"{verdict}; {scored:,} of {len(one.items):,} items not ruled out"
        return proof_of_one(one.items, one.lists, one.s_k, one.outside, title, self.titles)
