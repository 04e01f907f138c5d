"""Words that are almost never right do not come back: not in docstrings, comments, messages, names, notebooks or pages."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WORDS = {
    "anew": "again",
    "alike": "the same, equally",
    "goes on": "continues, resumes",
    "asks": "takes, requires",
    "tells": "prints, returns, shows",
    "is told": "is given, is recognised, receives",
    "beside": "next to, besides",
    r"\w*(?:Error|Errors|Exception|code|log|figure|title|table|note)`? (?:which |that )?says": "names, shows, records",
    r"so many(?! more)": "n, this many",
    r"mend(?:s|ed)?": "fix",
    "in fact exact": "matches brute force",
    r"raises? \w+ where": "raises … if",
    r"(?:\w*Error|None|NaN),? where": "… if",
}
"""Patterns and what to write instead."""
NAMES = re.compile(
    r"telling_user|shel(?:f|ves|ved)|on_shelf|obtain|ledger|lessons|anew|alike|_?(?:told|tells|says|beside)(?:_\w+)?"
    r"|contenders?|ReadOff|read_off"
)
RIGHT = ("research, share alike", "asks to cite", "`--own` and `--anew`")
"""The name of a licence, what a publisher really does, and old names of options."""
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "Makefile",
    "reports/results.md",
    "reports/gallery/README.md",
)
SOURCES = sorted(
    path for folder in ("workbench", "tests", "notebooks") for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__).resolve()
)  # fmt: skip
FOUND = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)
TEXTS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def complaints(text: str) -> list[str]:
    """The words of `text` that are almost never right, each with what to write instead."""
    text = re.sub(r"\s+(?:# ?)?", " ", text)
    for right in RIGHT:
        text = text.replace(right, "")
    return [
        f"{hit.group()!r}: write {next(better for word, better in WORDS.items() if re.fullmatch(word, hit.group(), re.I))}"
        for hit in FOUND.finditer(text)
    ]


def problems(source: str) -> Iterator[str]:
    """The complaints about a module: comments on consecutive lines are one text, and names are looked at alone."""
    comments: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.append(token.string)
        elif token.type in TEXTS:
            yield from (f"line {token.start[0]}: {found}" for found in complaints(token.string))
        elif token.type == tokenize.NAME and NAMES.fullmatch(token.string):
            yield f"line {token.start[0]}: the name {token.string}"
    yield from complaints("\n".join(comments))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_has_none_of_them(path: Path) -> None:
    assert list(problems(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_none_of_them(name: str) -> None:
    assert complaints((ROOT / name).read_text(encoding="utf-8")) == []


def test_they_are_found_where_they_stand() -> None:
    module = '# It is built\n# anew.\ndef shelf():\n    """Raises ValueError where k < 1."""\n    x = f"it asks {0}"\n'
    assert list(problems(module)) == [
        "line 3: the name shelf",
        "line 4: 'Raises ValueError where': write raises … if",
        "line 5: 'asks': write takes, requires",
        "'anew': write again",
    ]
    assert complaints("research, share alike; so many more; tasks") == []
