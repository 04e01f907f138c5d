"""Watch a search: one query, one searcher, step by step over the item map. May import bench, anatomy."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go

from workbench.anatomy.map import principal_plane
from workbench.bench.watching import LEARNED, WATCHABLE, Watched, learned, watch
from workbench.bench.workloads import Asked, Workload
from workbench.explore.search_widget import ladder
from workbench.explore.watch_figures import watched_step
from workbench.explore.widgets import Dashboard
from workbench.search.certificates import CorpusSearcher

LENGTHS = (10, 20, 30, 50, 100, 200)
START = 30
MOST_PATHS = 8
"""Paths of Deep Retrieval's beam: a step each."""


class SearchWatch(Dashboard):
    """The steps of a search, as the searcher records them: played, one by one, or by moving the slider.

    `workload` is the catalogue with its queries; `titles` name the items by id; `checkpoints`, of a SparCode and a Deep
    Retrieval of the same data by the names of `watching.LEARNED`, can be watched too. The first view is in the middle of the
    search of `searcher`.
    """

    plays = "step"
    page_largest = 500_000

    def __init__(
        self,
        workload: Workload,
        titles: pd.Series | None = None,
        checkpoints: Mapping[str, str] | None = None,
        *,
        query: int = 0,
        k: int = 10,
        searcher: str = "exact with a bound",
    ) -> None:
        self.workload, self.titles, self.checkpoints = workload, titles, dict(checkpoints or {})
        vectors = workload.similarity.item_components(workload.items).flatten(1).float()
        places, self.explained = principal_plane(vectors)
        self.places = places.cpu().numpy().astype("float32")
        self._built = lru_cache(maxsize=64)(self._build)
        self._watched = lru_cache(maxsize=64)(self._watch)
        names = [*WATCHABLE, *(name for name in LEARNED if name in self.checkpoints)]
        most = len(workload.items) // 2
        groups: dict[str, dict[str, Any]] = {
            "Query": {
                "query": widgets.BoundedIntText(
                    value=query, min=0, max=len(workload.queries) - 1, tooltip="number of the query"
                ),
                "k": ladder((1, 5, 10, 20), k, "results of the query"),
            },
            "Searcher": {
                "searcher": widgets.Dropdown(options=names, value=searcher, tooltip="whose steps are shown"),
                "length": ladder(
                    [n for n in LENGTHS if n <= most] or [1], min(START, most), "items of a list, or kept while walking"
                ),
            },
            "Steps (arrow keys move the slider)": {
                "step": widgets.IntSlider(value=0, min=0, max=1, tooltip="steps of the search so far"),
            },
        }  # fmt: skip
        (self._step,) = groups["Steps (arrow keys move the slider)"].values()
        self._choices = {**groups["Query"], **groups["Searcher"]}
        for control in self._choices.values():
            control.observe(self._limit, names="value")
        self._limit()
        self._step.value = self._step.max // 2
        super().__init__("Watch a search", groups)

    def _limit(self, _change: object = None) -> None:
        """The slider ends with the search."""
        try:
            seen = self.watched({name: control.value for name, control in self._choices.items()})
        except ValueError:  # the status line will show it
            return
        self._step.max = len(seen.moments) - 1

    def page_values(self) -> Mapping[str, Sequence[Any]]:
        """Every searcher with all its steps, for this query."""
        seen = (self.watched({**self.values, "searcher": name}) for name in self.searchers)
        longest = max(len(one.moments) for one in seen)
        return {"searcher": self.searchers, "step": list(range(longest))}

    def page_state(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """After its last step a search stays as it is."""
        return {**values, "step": min(values["step"], len(self.watched(values).moments) - 1)}

    @property
    def searchers(self) -> list[str]:
        """The names of those that can be watched."""
        return list(self.controls["searcher"].options)

    def watched(self, values: Mapping[str, Any]) -> Watched:
        """The search that these values of the controls name."""
        return self._watched(values["searcher"], values["query"], values["k"], values["length"])

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """The map and the proof after the chosen step."""
        seen = self.watched(values)
        last = len(seen.moments) - 1
        number = min(values["step"], last)
        title = f"{values['searcher']}: {seen.moments[number].num_scored:,} scored"
        return watched_step(seen, number, self.places, title, self.titles, self.explained)

    def _build(self, searcher: str, length: int, k: int) -> tuple[Asked, CorpusSearcher]:
        if searcher in self.checkpoints:
            return learned(self.workload, self.checkpoints[searcher], min(length, MOST_PATHS))
        return self.workload, WATCHABLE[searcher](self.workload, length, k)

    def _watch(self, searcher: str, query: int, k: int, length: int) -> Watched:
        asked, built = self._built(searcher, length, k)
        return watch(asked, built, query, k)
