"""Tables as a reader wants them: figures of four digits, marks for yes, no row numbers, text that stays text."""

import math
import numbers
from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from workbench.visible import html_text


def table(frame: pd.DataFrame, digits: int = 4, best: str | None = None) -> Styler:
    """`frame` for display: whole numbers with thousands, others to `digits` significant digits, a mark for True.

    Underscores in headings become spaces (and _gb becomes GB), an unnamed range of row numbers is hidden, row names that
    repeat become a column, all text is escaped, texts that are all numbers are aligned as numbers are. `best` ("columns") sets
    the largest number of each column in bold.
    """
    if best not in (None, "columns"):
        raise ValueError(f"best must be None or 'columns', not {best!r}")
    if not frame.index.is_unique:
        frame = frame.reset_index()  # a style needs rows that can be told apart
    named = frame.rename(columns=_heading)
    named = named.rename_axis(index=None, columns=None)  # names of axes would take a heading row of their own
    styler = named.style.format(lambda value: _shown(value, digits))
    numeric: list[Hashable] = [
        column
        for column, kind in zip(named.columns, named.dtypes, strict=True)
        if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
    ]
    right: list[Hashable] = [
        column for column in named.columns if column in numeric or _written_numbers(named[column])
    ]
    styler = styler.set_properties(subset=right, **{"text-align": "right"})
    headings: dict[Any, Any] = {c: [{"selector": "th", "props": "text-align: right"}] for c in right}
    styler = styler.set_table_styles(headings)
    styler = styler.set_table_attributes(
        'class="mathjax_ignore"'
    )  # a dollar sign is no formula in JupyterLab either
    styler = styler.format_index(lambda value: _shown(value, digits), axis=0)
    if isinstance(frame.index, pd.RangeIndex) and frame.index.name is None:
        styler = styler.hide(axis="index")
    if best:
        styler = styler.highlight_max(subset=numeric, axis=0, props="font-weight: bold")
    return styler


def settings(parts: Mapping[str, Mapping[str, Any]], digits: int = 4) -> Styler:
    """Settings side by side: a row for each but `kind`, a column for each of `parts`; yes, no and none in words.

    >>> settings({"a": {"kind": "x", "bias": False, "gate": None, "width": 1}}).data.to_dict()
    {'a': {'bias': 'no', 'gate': 'none', 'width': '1'}}
    """
    return table(pd.DataFrame(parts).drop("kind", errors="ignore").map(lambda value: _setting(value, digits)))


def _setting(value: object, digits: int) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None or value == () else _shown(value, digits)


def _written_numbers(column: pd.Series) -> bool:
    """
    >>> [_written_numbers(pd.Series(texts)) for texts in (["1,804", "", "0.50 %"], ["1", "1 (of 2)"], ["", ""])]
    [True, False, False]
    """
    if not pd.api.types.is_string_dtype(column):
        return False
    given = column[column != ""].dropna()
    return len(given) > 0 and bool(given.str.fullmatch(r"[-+−]?[\d.,]+ ?%?").all())


def _heading(name: Hashable) -> str:
    """
    >>> _heading("state_gb"), _heading("<b>")
    ('state GB', '&lt;b&gt;')
    """
    words = html_text(name).split("_")
    return " ".join(word.upper() if word in ("gb", "mb") else word for word in words)


def _shown(value: object, digits: int) -> str:
    """
    >>> [_shown(v, 4) for v in (True, 1000209.0, 3, 0.63412, 1234.56, 1e-7, None, float("nan"), "<b>")]
    ['●', '1,000,209', '3', '0.6341', '1,235', '1e-07', '', '', '&lt;b&gt;']
    """
    if isinstance(value, bool) or type(value).__name__ == "bool":  # numpy's bool is no number
        return "●" if value else ""
    if value is None or value is pd.NaT or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, numbers.Real):
        number = float(value)
        if number.is_integer() and abs(number) < 1e15:
            return f"{int(number):,}"
        if 10 ** (digits - 1) <= abs(number) < 1e15:
            return f"{number:,.0f}"
        return f"{number:.{digits}g}" if abs(number) < 1e-3 else f"{number:#.{digits}g}".rstrip(".")
    return html_text(value)
