"""The numbers that a searcher is set by: their range, the steps of a slider, what they mean; read off its settings' fields."""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any

MOST = 10**9
COUNTS = (5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000)
"""Steps of a number of items."""

FACTORS = (0.125, 0.25, 0.5, 1, 2, 4, 8)
"""Steps of a number that names none, as multiples of its default."""

_KEY = "searcher parameter"


@dataclass(frozen=True)
class Parameter:
    """A number that a searcher is set by: `low` to `high`, whole if `default` is; `steps` are those that a slider offers.

    `counts_items`: it cannot exceed the corpus.
    """

    name: str
    default: int | float
    low: int | float
    high: int | float
    steps: tuple[int | float, ...]
    meaning: str
    counts_items: bool = False

    def check(self, value: object) -> None:
        """Raise ValueError if `value` is of another type or out of range."""
        whole = isinstance(self.default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"{self.name} must be {kind}, not {value!r}")
        if not self.low <= value <= self.high:
            raise ValueError(f"{self.name} must lie in {self.low:,} to {self.high:,}, not {value:,}")

    def read(self, text: str) -> int | float:
        """The number in a text; ValueError if it holds none."""
        if re.fullmatch(r"[+-]?\d+", text):
            return int(text)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{self.name} must be a number, not {text!r}")
        return value


def number(
    default: int | float, meaning: str, steps: tuple[int | float, ...] = COUNTS, *, counts_items: bool = False
) -> Any:
    """A field of a searcher's settings with what a slider needs; any number from 1 is taken, `steps` are only offered."""
    given = {"meaning": meaning, "steps": steps, "counts_items": counts_items}
    return field(default=default, metadata={_KEY: given})


def fixed(default: Any) -> Any:
    """A field of a searcher's settings that is no parameter of it, such as a seed."""
    return field(default=default, metadata={_KEY: None})


def parameters(settings: type[Any]) -> tuple[Parameter, ...]:
    """The numeric fields of a class of settings, except those that are `fixed`; a field without `number` gets steps of its own.

    >>> @dataclass(frozen=True)
    ... class Mine:
    ...     width: int = 8
    >>> parameters(Mine)[0].steps
    (1, 2, 4, 8, 16, 32, 64)
    """
    found = []
    for one in dataclasses.fields(settings):
        given = one.metadata.get(_KEY, {})
        if given is None or isinstance(one.default, bool) or not isinstance(one.default, int | float):
            continue
        if given:
            found.append(Parameter(one.name, one.default, 1, MOST, **given))
        else:
            whole = isinstance(one.default, int)
            scaled = {round(one.default * f) if whole else one.default * f for f in FACTORS}
            found.append(Parameter(one.name, one.default, -MOST, MOST, tuple(sorted(scaled)), one.name))
    return tuple(found)
