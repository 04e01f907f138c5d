"""Ids as the source writes them, whole numbers or text, and the way from them to dense ids and back."""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.data.errors import DataError

WHOLE_NUMBER = r"^(?:0|-?[1-9][0-9]*)$"
"""Text that a whole number is written as: no leading zero, no plus, no point. "7" matches, "007" does not."""
_LISTED, _SUGGESTED, _SEARCHED = 5, 3, 50_000


def source_ids(values: pd.Series, name: str, column: str) -> "pd.Series[Any]":
    """Ids as int64 if the type is an integer of at most 64 bits, and as text (`str`) otherwise, each kept exactly.

    Fractional numbers count as integers if all of them are whole. Unsigned integers beyond 63 bits become text.
    Raises DataError with the row for an id that is missing, empty, or of a type that identifies nothing (a truth value,
    a fraction, a date). `name` and `column` begin its message.
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    missing = values.isna().to_numpy()
    if not missing.any() and not pd.api.types.is_numeric_dtype(values):
        missing = (values == "").to_numpy(dtype=np.bool_, na_value=False)
    if missing.any():
        row = int(missing.argmax())
        raise DataError(f"{name}: {column} is missing in row {row}", row)
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
        raise DataError(
            f"{name}: {column} must hold whole numbers or text, but its type is {values.dtype}", 0
        )
    if pd.api.types.is_float_dtype(values):
        numbers = values.to_numpy(dtype=np.float64)
        wrong = ~(np.abs(numbers) <= 2**53) | (numbers != np.trunc(numbers))
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(
                f"{name}: {column} must hold whole numbers or text, found {numbers[row]} in row {row}", row
            )
        return pd.Series(numbers.astype(np.int64), index=values.index)
    if pd.api.types.is_integer_dtype(values):
        if str(values.dtype).lower() == "uint64" and (values > np.iinfo(np.int64).max).any():
            return values.astype("str")
        return pd.Series(values.to_numpy(dtype=np.int64), index=values.index)
    if values.dtype == object:
        values = values.map(lambda value: value.decode() if isinstance(value, bytes) else value)
    return values.astype("str")


def same_kind(first: "pd.Series[Any]", second: "pd.Series[Any]") -> tuple["pd.Series[Any]", "pd.Series[Any]"]:
    """Both as they are if both are integers or both text; otherwise both as text."""
    if first.dtype == second.dtype:
        return first, second
    return first.astype("str"), second.astype("str")


@dataclass(frozen=True)
class SourceIds:
    """The source's ids in dense order: row i belongs to dense id `first` + i. `kind` is "item" or "user".

    Ids are looked up by what they say: 7 and "7" are the same id, "007" is another one.

    >>> ids = SourceIds("item", "my-shop", pd.Index(["007", "7", "sku-1"]), first=1)
    >>> ids.to_dense(["7", "sku-1"]).tolist(), ids.to_source([1]).tolist()
    ([2, 3], ['007'])
    """

    kind: str
    dataset: str
    ids: pd.Index
    first: int

    def find(self, ids: Iterable[object]) -> NDArray[np.int64]:
        """The dense id of each source id, int64 in their order; `first` − 1 for one that the dataset does not have."""
        values = ids if isinstance(ids, np.ndarray) else np.array(list(ids), dtype=object)
        if not pd.api.types.is_integer_dtype(self.ids.dtype):
            return self.ids.get_indexer(pd.Index([str(value) for value in values], dtype="str")) + self.first
        if values.dtype.kind != "i":
            numbers = [_number(value) for value in values]
            known = np.array([number is not None for number in numbers], dtype=np.bool_)
            values = np.array([number or 0 for number in numbers], dtype=np.int64)
            return np.where(known, self.ids.get_indexer(pd.Index(values)), -1) + self.first
        return self.ids.get_indexer(pd.Index(values)) + self.first

    def to_dense(self, ids: Iterable[object]) -> NDArray[np.int64]:
        """The dense id of each source id, int64 in their order.

        Raises DataError that lists the ids which the dataset does not have, with a similar one if there is any.
        """
        given = list(ids)
        dense = self.find(given)
        unknown = [value for value, found in zip(given, dense, strict=True) if found < self.first]
        if unknown:
            raise DataError(self._unknown(list(dict.fromkeys(map(str, unknown)))))
        return dense

    def to_source(self, dense: Iterable[int] | NDArray[np.int64]) -> NDArray[Any]:
        """The source's id of each dense id: int64, or objects of type str.

        Raises IndexError for a dense id outside `first`..`first` + n − 1.
        """
        rows = np.asarray(dense if isinstance(dense, np.ndarray) else list(dense), dtype=np.int64)
        rows = rows - self.first
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self.ids):
            raise IndexError(
                f"dense {self.kind} ids of {self.dataset} lie in {self.first}..{self.first + len(self.ids) - 1}"
            )
        return self.ids.to_numpy()[rows]

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The ids as plain arrays, from which a fingerprint is computed: int64 (n,), or UTF-8 bytes and their ends."""
        if pd.api.types.is_integer_dtype(self.ids.dtype):
            return (self.ids.to_numpy(np.int64),)
        encoded = [text.encode() for text in self.ids]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        return np.frombuffer(b"".join(encoded), dtype=np.uint8), ends

    def _unknown(self, unknown: list[str]) -> str:
        listed = ", ".join(map(repr, unknown[:_LISTED]))
        more = f" and {len(unknown) - _LISTED:,} more" if len(unknown) > _LISTED else ""
        plural = "s" if len(unknown) > 1 else ""
        near = [(value, self._similar(value)) for value in unknown[:_SUGGESTED]]
        hints = ", ".join(
            repr(similar) if len(unknown) == 1 else f"{similar!r} for {value!r}"
            for value, similar in near
            if similar is not None
        )
        return f"{self.dataset} has no {self.kind}{plural} {listed}{more}" + (
            f" (did you mean {hints}?)" if hints else ""
        )

    def _similar(self, value: str) -> str | None:
        """An id that differs in case, spaces or leading zeros, or by a slip of the pen; None if there is none."""
        texts = self.ids.astype("str")
        plain = texts.str.strip().str.casefold().str.lstrip("0") == value.strip().casefold().lstrip("0")
        if plain.any():
            return str(texts[int(plain.argmax())])
        if len(texts) > _SEARCHED:
            return None
        return next(iter(difflib.get_close_matches(value, texts.tolist(), n=1, cutoff=0.8)), None)


def _number(value: object) -> int | None:
    """The 64-bit integer that a source id represents; None if it represents none."""
    text = isinstance(value, str) and re.fullmatch(WHOLE_NUMBER, value)
    if not text and (isinstance(value, bool) or not isinstance(value, int | np.integer)):
        return None
    number = int(value)  # type: ignore[call-overload]
    return number if -(2**63) <= number < 2**63 else None
