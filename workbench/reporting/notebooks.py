"""The notebooks that make up a report: which there are, what parameters they take, what each waits for."""

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import nbformat

from workbench.loading import one_line

REQUIRED = ("dataset", "profile", "seed")
"""What every notebook takes."""

_NAME = re.compile(r"\d\d_[a-z0-9_]+")


@dataclass(frozen=True)
class Notebook:
    """A notebook of the report.

    `cells` holds the kind, text and tags of each cell; `parameters` the defaults of its parameters cell; `after` the
    names of the notebooks that it waits for when several run at once, None if it does not say (then it waits for every
    notebook before it).
    """

    path: Path
    title: str
    cells: Sequence[tuple[str, str, Sequence[str]]]
    parameters: Mapping[str, Any]
    after: tuple[str, ...] | None

    @property
    def name(self) -> str:
        """The file's name without its ending, such as `00_tour`."""
        return self.path.stem


def catalog(folder: Path) -> list[Notebook]:
    """Every notebook of the report, in the order of its number: the files `NN_name.ipynb` of `folder`.

    Other files of the folder (a scratch notebook, say) are no part of the report. Raises ValueError if there is none, or if
    one has no source next to it, no kernelspec, not exactly one `parameters` cell, lacks one of the parameters `dataset`,
    `profile` and `seed`, or waits for a notebook that does not come before it.
    """
    found = [read(path) for path in sorted(folder.glob("*.ipynb")) if _NAME.fullmatch(path.stem)]
    if not found:
        raise ValueError(f"no notebooks in {folder}: a report is made of files named like 00_tour.ipynb")
    for position, notebook in enumerate(found):
        earlier = {other.name for other in found[:position]}
        if unknown := sorted(set(notebook.after or ()) - earlier):
            raise ValueError(
                f"{notebook.path}: its metadata say that it comes after {', '.join(unknown)}, which does not come before it"
            )
    return found


def read(path: Path) -> Notebook:
    """The notebook at `path`; ValueError if it cannot be part of a report (see `catalog`)."""
    if not path.with_suffix(".py").is_file():
        raise ValueError(f"{path} has no pair: its source {path.with_suffix('.py').name} is missing")
    try:
        document = nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a notebook: {error}") from error
    if "kernelspec" not in document.metadata:
        raise ValueError(f"{path} names no kernel; write it again with: workbench pairs --write")
    cells = [(cell.cell_type, cell.source, tuple(cell.metadata.get("tags", []))) for cell in document.cells]
    tagged = [source for kind, source, tags in cells if kind == "code" and "parameters" in tags]
    if len(tagged) != 1:
        raise ValueError(
            f"{path} has {len(tagged)} code cells tagged 'parameters'; a notebook has exactly one"
        )
    parameters = _assignments(path, tagged[0])
    if missing := [name for name in REQUIRED if name not in parameters]:
        raise ValueError(f"{path}: its parameters cell does not set {', '.join(missing)}")
    after = document.metadata.get("workbench", {}).get("after")
    return Notebook(path, _title(path, cells), cells, parameters, None if after is None else tuple(after))


def select(notebooks: Sequence[Notebook], only: Iterable[str]) -> list[Notebook]:
    """The notebooks that `only` names, by number (`00`) or by name (`00_tour`), in their order; all if it is empty.

    Raises ValueError, with the names there are, for one that is not there.
    """
    by_key = {key: notebook for notebook in notebooks for key in (notebook.name, notebook.name[:2])}
    wanted = list(only)
    for key in wanted:
        if key not in by_key:
            names = [notebook.name for notebook in notebooks]
            raise ValueError(f"no notebook {key!r}{_suggestion(key, names)}; there are: {', '.join(names)}")
    chosen = {by_key[key].name for key in wanted}
    return [notebook for notebook in notebooks if not wanted or notebook.name in chosen]


def bind(notebooks: Sequence[Notebook], given: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Of each notebook, those of the `given` parameters that it takes, as values of the type of their defaults.

    Raises ValueError for a parameter that none of `notebooks` takes, for `dataset`, `profile` and `seed` (they have options
    of their own), and for a value that does not read as the type of the default.
    """
    for name in given:
        if name in REQUIRED:
            raise ValueError(f"give --{name} instead of -p {name}=…")
    known = sorted({name for notebook in notebooks for name in notebook.parameters} - set(REQUIRED))
    for name in given:
        if name not in known:
            listed = f"there are: {', '.join(known)}" if known else "these notebooks take none"
            raise ValueError(f"no parameter {one_line(name)!r}{_suggestion(name, known)}; {listed}")
    return {
        notebook.name: {
            name: _value(notebook, name, text) for name, text in given.items() if name in notebook.parameters
        }
        for notebook in notebooks
    }


def _assignments(path: Path, source: str) -> dict[str, Any]:
    """What a parameters cell assigns: names to literal values."""
    parameters = {}
    for statement in ast.parse(source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                raise ValueError(
                    f"{path}: line {statement.lineno} of the parameters cell is not of the form name = value"
                )
        try:
            parameters[name] = ast.literal_eval(value)
        except ValueError:
            raise ValueError(f"{path}: the default of parameter {name!r} is not a literal") from None
    return parameters


def _value(notebook: Notebook, name: str, text: str) -> Any:
    default = notebook.parameters[name]
    if isinstance(default, str):
        return text
    lowered = {"True": "true", "False": "false", "None": "null"}.get(text, text)
    try:
        value = json.loads(lowered)
    except (ValueError, RecursionError):
        value = text
    number = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
    if number:
        value = float(value)
    if default is not None and type(value) is not type(
        list(default) if isinstance(default, tuple) else default
    ):
        kind = {int: "a whole number", float: "a number", bool: "true or false"}.get(
            type(default), "a JSON value"
        )
        raise ValueError(
            f"parameter {name} of {notebook.name} is {kind} (default {default!r}), got {text!r:.80}"
        )
    return value


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _title(path: Path, cells: Sequence[tuple[str, str, Sequence[str]]]) -> str:
    """The first heading of the notebook without its markup, or the file's name."""
    texts = (source for kind, source, _ in cells if kind == "markdown")
    headings = (
        re.sub(r"[`*$]", "", line[2:]).strip()
        for text in texts
        for line in text.splitlines()
        if line.startswith("# ")
    )
    return next(headings, path.stem)
