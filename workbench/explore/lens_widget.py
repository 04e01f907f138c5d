"""One query in detail: what a searcher found, what it missed, and its bound. May import bench."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go

from workbench.bench.lens import Seen, seen
from workbench.bench.live import LiveBench
from workbench.bench.methods import METHODS, SearcherSpec
from workbench.bench.plans import Plan, chosen_points
from workbench.bench.workloads import WorkloadSpec
from workbench.explore.lens_figure import under_the_lens
from workbench.explore.live_widget import LiveDashboard, Progress
from workbench.explore.search_widget import (
    camera,
    heading,
    ladder,
    lay_out,
    parameter_slider,
    show_parameters,
)

PAGE_QUERIES = 2
PAGE_PARAMETERS = ("per component", "average")
"""On a page: the number of queries, and the searchers whose parameters can be moved there."""


class QueryLens(LiveDashboard):
    """A query and a searcher: its list next to the true one, and every item by its bound and its score.

    A searcher without an index responds to every change of a control; one with an index is built by the button first. `plan`
    gives queries and seed, `workload` the corpus (default: the plan's first), `titles` name the items by id. `bench` caches
    corpora and indexes, and may be shared with an explorer.
    """

    def __init__(
        self,
        plan: Plan,
        titles: pd.Series | None = None,
        *,
        workload: WorkloadSpec | None = None,
        bench: LiveBench | None = None,
        query: int = 0,
        k: int = 10,
    ) -> None:
        self.plan, self.titles, self.bench = plan, titles, bench or LiveBench()
        self.workload = workload or plan.workloads[0]
        self._seen = lru_cache(maxsize=32)(self._search)
        items = self.workload.num_items()
        pool = self.bench.pool(self._plan(()))
        methods = [m for m in METHODS.values() if not m.own_score and m.installed]
        names = [m.name for m in methods]
        groups = {
            "Query": {
                "query": widgets.BoundedIntText(
                    value=query, min=0, max=len(pool.workload.queries) - 1, tooltip="number of the query"
                ),
                "k": ladder((1, 5, 10, 20, 50, 100), k, "results of the query"),
            },
            "Searcher": {
                "searcher": widgets.Dropdown(
                    options=names, value="per component", tooltip="its list is shown next to the true one"
                ),
            },
        }
        parameters = {
            heading(m): {f"{m.name} {p.name}": parameter_slider(p, items) for p in m.parameters}
            for m in methods
            if m.parameters
        }
        super().__init__("One query in detail", groups | parameters, "build and search")
        self._boxes = lay_out(self.widget, groups | parameters)
        self.controls["searcher"].observe(self._show_parameters, names="value")
        self._show_parameters()
        self.figure._config = camera("one-query")

    def _show_parameters(self, _change: object = None) -> None:
        show_parameters(self._boxes, [self.controls["searcher"].value])

    def page_values(self) -> Mapping[str, Sequence[Any]]:
        """Searchers that have no index to build, with their parameters, and the first queries; k stays."""
        ready = [
            name
            for name in self.controls["searcher"].options
            if self._ready({**self.values, "searcher": name})
        ]
        parameters = {
            name: [step for _, step in self.controls[name].options]
            for method in PAGE_PARAMETERS
            for name in self._parameters(method)
        }
        queries = range(min(PAGE_QUERIES, self.controls["query"].max + 1))
        return {"searcher": ready, **parameters, "query": [*queries, self.values["query"]]}

    def page_state(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Parameters of other searchers change nothing."""
        others = [method for method in PAGE_PARAMETERS if method != values["searcher"]]
        return {
            **values,
            **{name: self.values[name] for method in others for name in self._parameters(method)},
        }

    def _parameters(self, method: str) -> list[str]:
        """The controls of a searcher's parameters, by name."""
        return [f"{method} {parameter.name}" for parameter in METHODS[method].parameters]

    def page_groups(self) -> Mapping[str, tuple[str, Any]]:
        """The parameters of the chosen searcher."""
        return {heading(METHODS[name]): ("searcher", name) for name in self.controls["searcher"].options}

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """The query's items and lists."""
        point = self.point(values)
        if not self._ready(values):
            raise ValueError(f"the index of {point.method} is not built yet: press the button")
        return self._figure(point, values)

    def _ready(self, values: Mapping[str, Any]) -> bool:
        """Whether the searcher that these values name can search at once."""
        point = self.point(values)
        return self.bench.ready(self._plan((point,)), point)

    def work(self, values: Mapping[str, Any]) -> Iterator[Progress]:
        """Builds the index, if there is one, then shows what it finds."""
        point = self.point(values)
        yield Progress(0.1, f"building {point.text}")
        self._seen(point, values["query"], values["k"])
        yield Progress(1.0, "built and searched", self._figure(point, values))

    def point(self, values: Mapping[str, Any]) -> SearcherSpec:
        """The searcher that these values of the controls name; ValueError if it does not fit the corpus."""
        method = METHODS[values["searcher"]]
        point = SearcherSpec.of(
            method.name, **{p.name: values[f"{method.name} {p.name}"] for p in method.parameters}
        )
        point.check(self.workload.num_items())
        return point

    def seen(self) -> Seen:
        """What is shown, as tables."""
        return self._seen(self.point(self.values), self.values["query"], self.values["k"])

    def _figure(self, point: SearcherSpec, values: Mapping[str, Any]) -> go.Figure:
        one = self._seen(point, values["query"], values["k"])
        title = f"Query {values['query']}, {point.text}: {_verdict(one)}"
        return under_the_lens(one.items, one.places, one.s_k, one.outside, title, self.titles)

    def _search(self, point: SearcherSpec, query: int, k: int) -> Seen:
        plan = self._plan((point,))
        pool = self.bench.pool(plan)
        built = pool.get(point.entry(), batch_size=1)
        return seen(pool.workload, built, point, query, k)

    def _plan(self, points: tuple[SearcherSpec, ...]) -> Plan:
        return chosen_points(
            self.workload, points, batch_size=1, k=1, queries=self.plan.queries, seed=self.plan.seed
        )


def _verdict(one: Seen) -> str:
    """The outcome in one line."""
    missed = int(one.places["missed"].sum())
    if one.certified:
        verdict = "certified exact"
    elif missed:
        verdict = f"{missed} of {len(one.places)} missed"
    else:
        verdict = "exact, not certified"
    gap = "" if one.certified or not math.isfinite(one.gap) else f" (gap {one.gap:.2f})"
    return f"{verdict}{gap}; {one.scored:,} scored, {one.survivors:,} survive the bound"
