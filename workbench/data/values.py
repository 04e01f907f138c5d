"""Numbers of an Arrow column, whether they come as numbers or as text, and which of them parse."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_INTEGER = r"^-?[0-9]+$"
_NUMBER = r"^-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"


def is_text(column: pa.ChunkedArray) -> bool:
    """Whether a column holds text."""
    return pa.types.is_string(column.type) or pa.types.is_large_string(column.type)


def empty_of(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Whether each value is missing: null, NaN or blank text. Shape (rows,)."""
    empty = pc.is_null(column, nan_is_null=True)
    if is_text(column):
        empty = pc.or_(empty, pc.equal(pc.utf8_trim_whitespace(pc.fill_null(column, "")), ""))
    return _numpy(empty)


def integers_of(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The values as int64, 0 for one that is none, and which are: whole numbers of 64 bits. Shapes (rows,)."""
    if pa.types.is_integer(column.type) and column.type != pa.uint64():
        return _numpy(pc.fill_null(column.cast(pa.int64()), 0)), ~empty_of(column)
    if not is_text(column):
        values, right = numbers_of(column)
        right &= (values == np.trunc(values)) & (np.abs(values) < 2**63)
        exact = column.cast(pa.int64(), safe=False) if column.type == pa.uint64() else None
        whole = values if exact is None else _numpy(pc.fill_null(exact, 0))
        return np.where(right, whole, 0).astype(np.int64), right
    text, right = _matching(column, _INTEGER)
    try:
        return _numpy(pc.fill_null(text.cast(pa.int64()), 0)), right
    except pa.ArrowInvalid:  # some have more than 64 bits
        numbers = [int(value or 0) for value in text.to_pylist()]
        right &= np.array([-(2**63) <= number < 2**63 for number in numbers])
        return np.array([number if fits else 0 for number, fits in zip(numbers, right, strict=True)]), right


def numbers_of(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The values as float64, NaN for one that is none, and which are. Shapes (rows,)."""
    if is_text(column):
        text, right = _matching(column, _NUMBER)
        return _numpy(pc.fill_null(text.cast(pa.float64()), np.nan)).copy(), right
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return np.full(len(column), np.nan), np.zeros(len(column), dtype=np.bool_)
    values = _numpy(pc.fill_null(column.cast(pa.float64(), safe=False), np.nan)).copy()
    return values, ~empty_of(column)


def _matching(column: pa.ChunkedArray, pattern: str) -> tuple[pa.ChunkedArray, NDArray[np.bool_]]:
    """Text without the spaces around it, null for what does not match, and what does."""
    text = pc.utf8_trim_whitespace(column)
    right = pc.fill_null(pc.match_substring_regex(text, pattern), False)
    return pc.if_else(right, text, pa.scalar(None, text.type)), _numpy(right)


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    values: NDArray[Any] = column.to_numpy()
    return values
