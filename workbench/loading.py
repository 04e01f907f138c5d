"""Reading files that may be damaged or hostile: any failure is one line that names the file. Imports nothing of ours."""

import json
import warnings
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

T = TypeVar("T")

LONGEST = 300
"""Characters of a parser's own words that an error repeats."""


@contextmanager
def reading(path: Path, advice: str, error_type: type[ValueError] = ValueError) -> Iterator[None]:
    """Turn whatever fails in the block into one line: the file, what is wrong with it, and the `advice` on what to do.

    Errors of the operating system (no such file, no permission, a full disk) name the file themselves and pass, except that a
    folder `path` is damaged if it lacks a file. Keep the block to what parses the file: a fault of this program in it would be
    blamed on the file.
    """
    try:
        yield
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        if (missing or error.filename is not None) and not (missing and path.is_dir()):
            raise
        raise error_type(f"{path} is damaged ({one_line(error)}); {advice}") from error
    except MemoryError as error:
        raise error_type(f"{path} needs more memory than there is, or is damaged; {advice}") from error
    except Exception as error:
        raise error_type(f"{path} is damaged ({one_line(error)}); {advice}") from error


def one_line(error: BaseException | str) -> str:
    """The message of an error, or a text, in a line of at most 300 characters.

    >>> one_line(KeyError("epoch")), one_line(ValueError("two\\nlines")), one_line(EOFError())
    ("'epoch' is missing", 'two lines', 'EOFError')
    """
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join(str(error).split())
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    text = text or type(error).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def read_json(path: Path, advice: str, error_type: type[ValueError] = ValueError) -> dict[str, Any]:
    """The JSON object in a file; `error_type` if it is damaged, FileNotFoundError if there is none."""
    with reading(path, advice, error_type):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a JSON {type(found).__name__}, not an object")
    return found


def read_tensors(path: Path, advice: str) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """The tensors of a safetensors file and its metadata; ValueError if it is damaged, FileNotFoundError if there is none."""
    import safetensors

    with reading(path, advice), safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_csv(
    path: Path, columns: Mapping[str, str], advice: str, optional: Mapping[str, str] | None = None
) -> "pd.DataFrame":
    """The table in a CSV file: `columns` (names to dtypes) must be there, `optional` ones need not, all further ones are kept.

    Raises ValueError if it is damaged, lacks a column or holds a value of another type; FileNotFoundError if there is none.
    """
    import pandas as pd

    with (
        reading(path, advice),
        warnings.catch_warnings(action="error"),
    ):  # a number that does not fit its type
        table = pd.read_csv(path, dtype={**columns, **(optional or {})})
        if lacking := sorted(columns.keys() - set(table.columns)):
            raise ValueError(f"it lacks the column {', '.join(lacking)}")
        return table


def from_json(kind: type[T], values: Any) -> T:
    """An instance of the dataclass `kind` with the values of a JSON object, settings within settings too.

    Types are strict: 8.0 and true are no whole numbers, and a name that `kind` does not have is an error. Raises ValueError
    of one line that names each wrong value; what the class itself refuses is part of it.
    """
    import pydantic

    try:
        return _adapter(cast(Hashable, kind)).validate_json(json.dumps(values), strict=True, extra="forbid")
    except pydantic.ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}" if e["loc"] else e["msg"]
            for e in error.errors(include_url=False, include_input=False)
        ]
        shown = "; ".join(text.replace("Value error, ", "") for text in wrong[:5])
        raise ValueError(shown) from error


@cache
def _adapter(kind: Any) -> Any:
    import pydantic

    return pydantic.TypeAdapter(cast(type, kind))
