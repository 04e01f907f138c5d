"""Dashboards of a mixture's parts: one score, two lists, who uses which component, a map of items. May import anatomy."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from workbench import anatomy
from workbench.anatomy import Change, Dissection, ModelView, Pairs
from workbench.explore.anatomy import recommended, score_parts
from workbench.explore.component_figures import component_map, usage_heatmap
from workbench.explore.tables import table
from workbench.explore.widgets import Dashboard
from workbench.visible import html_text, visible

MOST_MATCHES = 50
"""Titles that a search offers at most."""
MOST_LISTED = 30
PAGE_USERS, PAGE_COMPONENTS = 5, 4
"""On a page: users next to the first one in the lists side by side, and components that can be switched off."""
LEAST_PAIRS = 10
"""A mean over fewer pairs is hidden at first, if there are enough other groups."""


class ScoreAnatomy(Dashboard):
    """One score decomposed: a user and an item, two temperatures, components to switch off.

    `subject` holds a mixture; the first view shows `user` with `item` (a dense id; by default the one that came next). Raises
    ValueError if the similarity is not a mixture, or the user has no history.
    """

    def __init__(self, subject: ModelView, user: int, item: int | None = None) -> None:
        self.subject = subject
        self._titles = _unique_titles(subject.sequences.items["title"].astype(str))
        self._popular = np.argsort(-anatomy.popularity(subject.sequences), kind="stable") + 1
        self._names = anatomy.component_names(subject.retriever.similarity)
        self._offers = lru_cache(maxsize=16)(self._offered)
        self._whole = lru_cache(maxsize=16)(self._dissected)
        self._curve = lru_cache(maxsize=16)(self._by_temperature)
        trained = anatomy.mixture_of(subject.retriever.similarity).config.temperature
        self._user = widgets.BoundedIntText(value=user, min=0, max=subject.sequences.num_users - 1)
        wide = {"width": "380px"}  # for titles
        self._find = widgets.Text(
            placeholder="part of a title, then Enter", continuous_update=False, layout=wide
        )
        self._item = widgets.Dropdown(
            options=[""], layout=wide
        )  # a dropdown without options never selects one
        self._search()
        if item is not None:
            self._find.value = self._titles[item - 1]
            self._search()
        self._user.observe(self._ask, names="value")
        self._find.observe(self._search, names="value")
        tau, gate = _log_slider(trained, 5), _log_slider(1.0, 20)
        off = widgets.SelectMultiple(options=self._names, rows=3)
        super().__init__(
            "Anatomy of one score",
            {
                "User and item (search by title)": {
                    "user": self._user,
                    "find": self._find,
                    "item": self._item,
                },
                "τ divides the component scores, T the gate's logits; the others share the weight of components that are off": {
                    "τ": tau,
                    "T": gate,
                    "off": off,
                },
            },
        )

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """History, heatmaps, sum, the score without each component, and the score against τ."""
        user, ids = int(values["user"]), self._choices(values)
        if values["item"] not in ids:
            raise ValueError(f"no title contains {values['find']!r}")
        item = ids[values["item"]]
        off = tuple(self._names.index(name) for name in values["off"])
        change = Change(float(values["τ"]), float(values["T"]), off)
        whole = self._whole(user, change)
        parts = anatomy.components(self.subject, user, item, change, whole)
        curve = self._curve(user, item, change.gate_temperature, off)
        scores, unseen = whole.scores.cpu().numpy(), self.subject.unseen(user)
        place = anatomy.rank(scores, item, unseen)
        title = f"φ(user {user}, {self._titles[item - 1]}) = {scores[item - 1]:.2f}, "
        title += f"rank {place:,} of {unseen.sum():,}" if unseen[item - 1] else "in the history"
        return score_parts(parts, curve, _history(self.subject, user), title, float(values["τ"]))

    def _dissected(self, user: int, change: Change) -> Dissection:
        return self.subject.dissect(user, change)

    def _by_temperature(self, user: int, item: int, gate: float, off: tuple[int, ...]) -> pd.DataFrame:
        return anatomy.by_temperature(self.subject, user, item, Change(None, gate, off))

    def _ask(self, _change: object = None) -> None:
        """Another user has other items to choose from."""
        self._find.value = ""
        self._search()

    def _search(self, _change: object = None) -> None:
        if found := self._choices({"user": self._user.value, "find": self._find.value}):
            self._item.options = list(found)

    def _choices(self, values: Mapping[str, Any]) -> dict[str, int]:
        """The items to choose from: those that a search finds, else those that the user is offered."""
        return self._matches(values["find"]) if values["find"] else self._offers(int(values["user"]))

    def _matches(self, text: str) -> dict[str, int]:
        """Titles that contain `text`, in any case, by popularity."""
        wanted = text.casefold()
        hits = (int(i) for i in self._popular if wanted in self._titles[i - 1].casefold())
        return {self._titles[i - 1]: i for i, _ in zip(hits, range(MOST_MATCHES), strict=False)}

    def _offered(self, user: int) -> dict[str, int]:
        """The item that came next, and what the mixture would have recommended."""
        offered = {f"came next: {self._titles[(target := self.subject.target(user)) - 1]}": target}
        try:
            scores = np.where(
                self.subject.unseen(user), self._whole(user, Change()).scores.cpu().numpy(), -np.inf
            )
        except ValueError:  # no history before the item: `draw` raises the error
            scores = np.zeros(0)
        best = np.argsort(-scores, kind="stable")[:10] + 1
        offered |= {f"{place}. {self._titles[i - 1]}": int(i) for place, i in enumerate(best, start=1)}
        return offered

    def page_values(self) -> Mapping[str, Sequence[Any]]:
        """Gate and components for this user and the next one, whose item is the one that came next; two other temperatures."""
        tau = self.values["τ"]
        return {
            "T": [1 / 16, 1 / 4, 1.0, 4.0, 16.0],
            "off": [(), *((name,) for name in self._names[:PAGE_COMPONENTS] if len(self._names) > 1)],
            "user": [self.values["user"], *_others(self.subject, self.values["user"], 1)],
            "τ": [float(f"{tau / 3:.3g}"), tau, float(f"{3 * tau:.3g}")],
        }

    def page_state(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Another user's item is the one that came next."""
        if values["user"] == self.values["user"]:
            return values
        return {**values, "find": "", "item": next(iter(self._offers(int(values["user"]))))}

    def page_fixed(self) -> Mapping[str, str]:
        """The figure's title names the item."""
        return {**super().page_fixed(), "find": "", "item": ""}


class SideBySide(Dashboard):
    """What several retrievers recommend to one user, each score split into its largest components."""

    def __init__(self, subjects: Iterable[ModelView], user: int) -> None:
        self.subjects = list(subjects)
        last = self.subjects[0].sequences.num_users - 1
        super().__init__(
            "The same user, twice",
            {
                "User": {
                    "user": widgets.BoundedIntText(value=user, min=0, max=last),
                },
                "Length of the lists, number of components shown": {
                    "k": widgets.IntSlider(value=10, min=1, max=15, continuous_update=False),
                    "parts": widgets.IntSlider(value=3, min=1, max=6, continuous_update=False),
                },
            },
        )

    def page_values(self) -> Mapping[str, Sequence[Any]]:
        """A few users, lengths and numbers of components."""
        user = self.values["user"]
        return {
            "user": [user, *_others(self.subjects[0], user, PAGE_USERS)],
            "k": [5, 10, 15],
            "parts": [1, 3, 6],
        }

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """The lists side by side, the held-out item marked."""
        lists = anatomy.side_by_side(self.subjects, int(values["user"]), int(values["k"]))
        held_out = lists[lists["held_out"]].drop_duplicates("method")
        places = ", ".join(f"{row.place:,} with {row.method}" for row in held_out.itertuples())
        title = f"User {values['user']}, the item that came next: rank {places}"
        if held_out.empty:
            title = f"User {values['user']}: the item that came next was in the history before"
        return recommended(lists, title, int(values["parts"]))


class ComponentUsage(Dashboard):
    """Which components genres and deciles of popularity use, for one or several mixtures with their pairs."""

    MEASURES = {"gate weight": "weight", "weighs most": "dominant", "part of φ": "product"}  # noqa: RUF012
    TITLES = {  # noqa: RUF012
        "gate weight": "mean gate weight π",
        "weighs most": "share of pairs in which the component has the largest weight",
        "part of φ": "mean contribution π·s to the score",
    }

    def __init__(self, named: Mapping[str, tuple[ModelView, Pairs]]) -> None:
        if not named:
            raise ValueError("there is no mixture to show")
        self.named = dict(named)
        subject, pairs = next(iter(self.named.values()))
        least = LEAST_PAIRS if len(pairs.items) >= 20 * LEAST_PAIRS else 1
        groupings = anatomy.groupings(subject.sequences)
        super().__init__(
            "Who uses which component?",
            {
                "The mixture, over its users' held-out items": {
                    "model": widgets.Dropdown(options=list(self.named)),
                },
                "Groups of items, minimum size of a group": {
                    "group by": widgets.Dropdown(options=groupings, value="popularity"),
                    "pairs ≥": widgets.BoundedIntText(value=least, min=1, max=10**6),
                },
                "Measure of a component's use": {
                    "measure": widgets.Dropdown(options=list(self.MEASURES)),
                    "less mean": widgets.Checkbox(value=False, indent=True),
                },
            },
        )

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """A heatmap of groups and components."""
        subject, pairs = self.named[values["model"]]
        measure = values["measure"]
        use = anatomy.usage(
            subject, pairs, values["group by"], self.MEASURES[measure], int(values["pairs ≥"])  # type: ignore[arg-type]
        )  # fmt: skip
        if use.empty:
            raise ValueError(f"no group has {values['pairs ≥']:,} pairs: set a smaller number")
        return usage_heatmap(use, self.TITLES[measure], values["less mean"])


class ComponentMap(Dashboard):
    """Items in the plane; select some with a lasso or part of a title to list them."""

    COLORS = {"genre": "genre", "popularity decile": "decile", "dominant component": "dominant"}  # noqa: RUF012

    def __init__(self, subject: ModelView) -> None:
        self.subject = subject
        metadata = anatomy.item_facts(subject)
        self.metadata, self.chosen = metadata, None
        self._map = lru_cache(maxsize=16)(lambda group: anatomy.item_map(subject, group, metadata))
        groups = anatomy.mixture_of(subject.retriever.similarity).config.item_groups
        self._groups = {"all item groups": None} | (
            {f"g{j + 1}": j for j in range(groups)} if groups > 1 else {}
        )
        find = widgets.Text(placeholder="part of a title, then Enter", continuous_update=False)
        find.observe(self._search, names="value")
        self.listing = widgets.HTML()
        super().__init__(
            "A map of items",
            {
                "Projected embeddings g_j(x)": {
                    "vectors": widgets.Dropdown(options=list(self._groups)),
                },
                "Colour": {"colour": widgets.Dropdown(options=list(self.COLORS))},
                "List titles: draw a lasso or search": {"find": find},
            },
        )
        self.widget.children = [*self.widget.children, self.listing]
        self.select(None)

    def opened(self) -> None:
        """A lasso lists titles."""
        for trace in self.figure.data[:1]:
            trace.on_selection(self._lassoed)
            trace.on_deselect(lambda *_: self.select(None))

    chosen: NDArray[np.int64] | None
    """Positions of the selected points in `metadata`; None if nothing is selected."""

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """The items by their first two principal components."""
        found = self._map(self._groups[values["vectors"]])
        title = f"Items by their component embeddings, {values['vectors']}"
        column = self.COLORS[values["colour"]]
        return component_map(found.points, column, found.explained, self.chosen, title)

    def select(self, places: Iterable[int] | None) -> None:
        """List the titles at these positions; None or an empty selection clears the list."""
        chosen = np.asarray([] if places is None else list(places), dtype=np.int64)
        self.chosen = chosen if len(chosen) else None
        if self.chosen is None:
            self.listing.value = "<small>Nothing is selected.</small>"
            return
        rows = self.metadata.iloc[self.chosen].sort_values("interactions", ascending=False)
        common = rows["genre"].value_counts().head(3)
        most = ", ".join(f"{html_text(genre)} {count:,}" for genre, count in common.items())
        more = f", the {MOST_LISTED} most popular of them" if len(rows) > MOST_LISTED else ""
        listed = table(
            rows[["title", "genres", "interactions", "dominant"]].head(MOST_LISTED).reset_index(drop=True)
        )
        self.listing.value = f"<b>{len(rows):,} selected</b>{more} ({most})<br>{listed.to_html()}"

    def _lassoed(self, _trace: object, points: Any, _selector: object) -> None:
        self.select(points.point_inds)

    def _search(self, change: Mapping[str, Any]) -> None:
        wanted = change["new"].casefold()
        titles = self.metadata["title"].str.casefold()
        self.select(np.flatnonzero(titles.str.contains(wanted, regex=False)).tolist() if wanted else None)


def _log_slider(value: float, factor: float, step: float = 0.02) -> widgets.FloatLogSlider:
    """From value/factor to value·factor or slightly less. A browser rounds to steps from the lower end, so `value` is one of
    them."""
    reach = int(np.log10(factor) / step) * step
    middle = float(np.log10(value))
    return widgets.FloatLogSlider(
        value=value, min=middle - reach, max=middle + reach, step=step, readout_format=".3f"
    )


def _others(subject: ModelView, user: int, count: int) -> list[int]:
    """`count` users with a held-out item, or all if there are fewer, spread over all of them, without `user`."""
    users = [int(other) for other in subject.sequences.users_with("test") if other != user]
    return users[:: max(1, len(users) // count)][:count]


def _unique_titles(titles: pd.Series) -> list[str]:
    """Titles; those that several items share get the item's number."""
    twice = titles.duplicated(keep=False)
    return [
        f"{title} (item {place})" if again else title
        for place, (title, again) in enumerate(zip(map(visible, titles), twice, strict=True), start=1)
    ]


def _history(subject: ModelView, user: int, count: int = 6) -> pd.DataFrame:
    """The last items of a user's history and the one that came next: `title`, `held_out`."""
    last = int(subject.sequences.target_rows(np.array(user)))
    rows = np.arange(max(subject.sequences.offsets[user], last - count), last + 1)
    titles = subject.sequences.items["title"].astype(str).iloc[subject.sequences.item_ids[rows] - 1]
    return pd.DataFrame({"title": titles.to_numpy(), "held_out": rows == last})
