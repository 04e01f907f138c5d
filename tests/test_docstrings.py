"""Public functions and classes have a docstring, which names the errors that they raise themselves."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "workbench"
ROOMS = ("front_door", "bench", "search", "similarities", "encoders", "models", "data", "evaluation")
FILES = [
    *(PACKAGE / f"{name}.py" for name in ("__init__", "contracts", "registry", "retriever")),
    *(path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py"))),
]
ELSEWHERE = re.compile(r"See `|[Rr]aises? (?:as|what)|Arguments and errors are those of")
"""The words with which a docstring leaves its errors to that of another function."""
CHECKS = ("__init__", "__post_init__")
"""Their errors may stand in the docstring of the class."""


def problems(source: str) -> Iterator[str]:
    """A line for each public function or class without a docstring, or whose docstring lacks an error."""
    yield from _problems(ast.parse(source).body, "", "")


def _problems(body: list[ast.stmt], owner: str, described: str) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef):
            continue
        text = (ast.get_docstring(node) or "") + (described if node.name in CHECKS else "")
        if node.name.startswith("_") and node.name not in CHECKS:
            continue
        if not text:
            yield f"{owner}{node.name} has no docstring"
        elif isinstance(node, ast.ClassDef):
            yield from _problems(node.body, f"{owner}{node.name}.", text)
        elif not ELSEWHERE.search(text):
            yield from (f"{owner}{node.name} raises {error}" for error in _raised(node) if error not in text)


def _raised(function: ast.FunctionDef) -> list[str]:
    """The names of the exceptions that a function raises in its own statements, those of functions inside it left out."""
    inner = {
        id(n)
        for f in ast.walk(function)
        if isinstance(f, ast.FunctionDef) and f is not function
        for n in ast.walk(f)
    }
    calls = (
        node.exc.func.id
        for node in ast.walk(function)
        if isinstance(node, ast.Raise) and id(node) not in inner
        if isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    )
    return sorted({name for name in calls if name.endswith("Error")})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_docstring_names_the_errors(path: Path) -> None:
    assert list(problems(path.read_text(encoding="utf-8"))) == []


def test_what_is_missing_is_found() -> None:
    source = (
        'def f():\n    """One."""\n    raise ValueError("x")\n\ndef g():\n    pass\n\ndef _h():\n    raise OSError("x")\n\n'
        'class A:\n    """Two. Raises TypeError if x."""\n    def __init__(self):\n        raise TypeError("x")\n'
        '    def m(self):\n        """See `B.m`."""\n        raise KeyError("x")\n'
    )
    assert list(problems(source)) == ["f raises ValueError", "g has no docstring"]
