"""A dashboard's states for a page without a kernel: each drawn by the dashboard itself, compressed. May import the template.

A page looks a state up and computes nothing, so what it shows is what the dashboard draws.
"""

import base64
import gzip
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.explore.template import plain
from workbench.visible import visible

MIME = "application/vnd.workbench.dashboard+json"
"""The kind of output that a report's page turns into controls and a figure."""

LARGEST = 330_000
"""Characters that the states of a dashboard may take: the six dashboards of the largest page stay below two megabytes."""

MOST_STATES, MOST_PLACES = 150, 4000
"""Figures drawn for a dashboard at most, so that this takes seconds; and combinations of its controls that lead to them."""

_SHORTEST = 48
"""Characters of JSON from which on a part of a figure is stored once for all states that share it."""

_FEW = 64
"""Numbers in an array up to which it keeps its double precision."""


@dataclass(frozen=True)
class Choice:
    """A control that a page can move: its values in order with their `labels`, and the place `start` of the first view.

    `ordered` values stand on a slider. A slider may lose some of its values to make the states fit.
    """

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    start: int
    ordered: bool

    def thinned(self) -> "Choice":
        """Every second value, the present one among them."""
        kept = [place for place in range(len(self.values)) if place % 2 == self.start % 2]
        return self._of(kept)

    def fixed(self) -> "Choice":
        """The present value alone."""
        return self._of([self.start])

    def _of(self, places: Sequence[int]) -> "Choice":
        return replace(
            self,
            values=tuple(self.values[place] for place in places),
            labels=tuple(self.labels[place] for place in places),
            start=list(places).index(self.start),
        )


def store(
    draw: Callable[[Mapping[str, Any]], go.Figure],
    choices: Sequence[Choice],
    complete: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    largest: int = LARGEST,
) -> tuple[list[Choice], str]:
    """The choices that fit, and their states: gzip of JSON in base64, `largest` characters at most if more than one state.

    A state is the figure that `draw` gives for what `complete` makes of the chosen values by name, or the error it raises;
    states that complete to the same values are drawn once. They are in the order of `itertools.product` over the choices. If
    they are too many, or too large, the longest slider loses every second value, and once all sliders are short the last
    choices stay at their present value.
    """
    kept = list(choices)
    figures: dict[str, Any] = {}
    while True:
        if not (last := all(len(choice.values) == 1 for choice in kept)) and _count(kept) > MOST_PLACES:
            kept = _shrunk(kept)
            continue
        states = [dict(complete(state)) for state in _states(kept)]
        if last or len({repr(state) for state in states}) <= MOST_STATES:
            text = _packed(_drawn(draw, state, figures) for state in states)
            if last or len(text) <= largest:
                return kept, text
        kept = _shrunk(kept)


def unpack(text: str) -> list[Any]:
    """The states that `store` wrote, whole again: figures as plotly's JSON, or {"error": message}."""
    content = json.loads(gzip.decompress(base64.b64decode(text)))

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(part) for part in value]
        if isinstance(value, dict):
            if value.keys() == {"$"}:
                return whole(content["parts"][value["$"]])
            return {name: whole(part) for name, part in value.items()}
        return value

    return [whole(state) for state in content["states"]]


def only(figure: go.Figure, every: Iterable[object], chosen: Iterable[object]) -> go.Figure:
    """The figure without the traces and annotations of those of `every` that are not `chosen`.

    A trace belongs to the one that its legend group names, or else its name; an annotation to the one of its name.
    """
    left_out = {plain(name) for name in every} - {plain(name) for name in chosen}
    figure.data = [trace for trace in figure.data if (trace.legendgroup or trace.name) not in left_out]
    figure.layout.annotations = [note for note in figure.layout.annotations if note.name not in left_out]
    return figure


def slug(title: str) -> str:
    """A dashboard's name in an address.

    >>> slug("The same user, twice")
    'the-same-user-twice'
    """
    return re.sub(r"[^a-z0-9]+", "-", title.casefold()).strip("-")


def address(label: str) -> str:
    """A value's label in an address: numbers have no commas.

    >>> address("1,000"), address("f1, f2")
    ('1000', 'f1, f2')
    """
    return re.sub(r"(?<=\d),(?=\d{3})", "", label)


def problem(error: Exception) -> str:
    """What a status line shows of an error."""
    return visible(f"{type(error).__name__}: {error}")


def _count(choices: Sequence[Choice]) -> int:
    return math.prod(len(choice.values) for choice in choices)


def _states(choices: Sequence[Choice]) -> Iterable[dict[str, Any]]:
    for values in itertools.product(*(choice.values for choice in choices)):
        yield {choice.name: value for choice, value in zip(choices, values, strict=True)}


def _drawn(
    draw: Callable[[Mapping[str, Any]], go.Figure], state: Mapping[str, Any], known: dict[str, Any]
) -> Any:
    """The state as plotly's JSON, drawn once, however many choices are left."""
    key = repr(state)
    if key not in known:
        try:
            drawn = draw(state).update_layout(width=None)  # the page has a width to give
            known[key] = json.loads(drawn.to_json())
        except Exception as error:  # as in the live dashboard, whose status line shows it
            known[key] = {"error": problem(error)}
    return known[key]


def _shrunk(choices: Sequence[Choice]) -> list[Choice]:
    sliders = [choice for choice in choices if choice.ordered and len(choice.values) > 4]
    if sliders:
        longest = max(sliders, key=lambda choice: len(choice.values))
        return [choice.thinned() if choice is longest else choice for choice in choices]
    last = [choice for choice in choices if len(choice.values) > 1][-1]
    return [choice.fixed() if choice is last else choice for choice in choices]


def _packed(states: Iterable[Any]) -> str:
    """Each part that is longer than its number is stored once, as {"$": number}."""
    parts: list[Any] = []
    places: dict[str, int] = {}

    def shared(value: Any) -> Any:
        if isinstance(value, dict):
            value = {name: shared(part) for name, part in _single(value).items()}
        elif isinstance(value, list):
            value = [shared(part) for part in value]
        else:
            return value
        text = json.dumps(value)
        if len(text) < _SHORTEST:
            return value
        if text not in places:
            places[text] = len(parts)
            parts.append(value)
        return {"$": places[text]}

    packed = [shared(state) for state in states]
    content = json.dumps({"parts": parts, "states": packed}, separators=(",", ":"))
    return base64.b64encode(gzip.compress(content.encode(), 9, mtime=0)).decode()


def _single(value: dict[str, Any]) -> dict[str, Any]:
    """Plotly's array of many doubles in single precision, seven digits, and a matrix, whose numbers are colours, to three."""
    if value.get("dtype") == "f8" and "bdata" in value:
        numbers = np.frombuffer(base64.b64decode(value["bdata"]), dtype="<f8").astype("<f4")
        if "shape" in value:
            numbers = (numbers.view("<u4") + np.uint32(1 << 12) & np.uint32(0xFFFFE000)).view("<f4")
        if len(numbers) > _FEW:
            return {**value, "dtype": "f4", "bdata": base64.b64encode(numbers.tobytes()).decode()}
    return value
