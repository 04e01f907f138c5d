"""GCIDE, the GNU version of the 1913 Webster, as dictd serves it: `gcide.dict.dz` (dictzip) and `gcide.index`.

Dictzip is gzip with an index of its blocks in the header, so gzip reads it. A line of the index holds a headword, an offset and
a length in the unpacked text, the numbers in base 64; several headwords may point to one entry. Formats: dictd(8), dictzip(1).
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.data.errors import DataError

FILES = ("gcide.dict.dz", "gcide.index")
LIMIT = 1 << 28
"""Bytes that the dictionary may unpack to; the published one has 40 million."""
_DIGITS = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
_HEADWORD = re.compile(r"([^\\]+?) *\\[^\\]*\\")
_POS = re.compile(r"\W*(?:\([^)]*\)\W*)?(?:imp\. & )?(n|v|a|adj|adv)\.")
_PARTS = {"n": "n", "v": "v", "a": "a", "adj": "a", "adv": "r"}
_SOURCE = re.compile(
    r"\[(?=[^\]]*(?:Web|WordNet|PJC|Century|AS|MED|WP|RDH|RH|ACD|RP|NG)\b)[^\]]*\]|\[[^\]]*Webster[^\]]*\]"
)
_NUMBER = re.compile(r"^(?:\d+\.|\([a-z]\))\s+")
_QUOTE_INDENT = 9


@dataclass(frozen=True)
class Sense:
    """One definition as printed: its headword, its part of speech (n, v, a, r) and its source's tag ("1913 Webster")."""

    headword: str
    part_of_speech: str | None
    text: str
    source: str


def read_gcide(folder: Path) -> Iterator[Sense]:
    """The senses of every entry, in the order of the dictionary.

    Raises FileNotFoundError if a file is missing; DataError for a damaged or oversized dictionary, a line of the index that is
    not of the format or points past the end.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)} of GCIDE")
    content = _unpacked(folder / FILES[0])
    for start, length in _entries(folder / FILES[1], len(content)):
        yield from parse_entry(_decoded(content[start : start + length]))


def parse_entry(text: str) -> list[Sense]:
    r"""The senses of one entry; none if it has no headword with a pronunciation.

    Quotations, synonyms, notes and the etymology are left out.

    >>> parse_entry('Orchitis \\Or*chi"tis\\, n. [NL.]\n   Inflammation of the testicles.\n   [1913 Webster]\n')
    [Sense(headword='Orchitis', part_of_speech='n', text='Inflammation of the testicles.', source='1913 Webster')]
    """
    head, body = _split_head(text.splitlines())
    first = _HEADWORD.match(head)
    if first is None:
        return []
    found = _POS.match(head[head.rfind("\\") + 1 :])
    part = _PARTS[found[1]] if found else None
    return [Sense(first[1].strip(), part, sense, source) for sense, source in _senses(body)]


def _decoded(entry: bytes) -> str:
    """The text of an entry: UTF-8, or Windows-1252 for the three entries of the published file that are not UTF-8."""
    try:
        return entry.decode("utf-8")
    except UnicodeDecodeError:
        return entry.decode("cp1252", errors="replace")


def _unpacked(path: Path) -> bytes:
    try:
        with gzip.open(path) as file:
            content = file.read(LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or no dictzip file ({error}); get it again") from None
    if len(content) > LIMIT:
        raise DataError(f"{path} unpacks to more than {LIMIT:,} bytes; it is not GCIDE")
    return content


def _entries(path: Path, size: int) -> list[tuple[int, int]]:
    """Offset and length of each entry once, in the order of the dictionary."""
    entries = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            fields = line.rstrip(b"\n").split(b"\t")
            try:
                _, start, length = (field.decode("utf-8") for field in fields)
                entry = (_number(start), _number(length))
            except (ValueError, KeyError):
                raise DataError(
                    f"{path}, line {number}: expected a headword, an offset and a length"
                ) from None
            if sum(entry) > size:
                raise DataError(
                    f"{path}, line {number}: points past the end of the dictionary; get both again"
                )
            if not fields[0].startswith(b"00-"):  # entries of dictd about the dictionary itself
                entries.add(entry)
    return sorted(entries)


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS[digit]
    return value


def _split_head(lines: list[str]) -> tuple[str, list[str]]:
    """The head of an entry on one line, without its brackets, and the lines below it."""
    depth, slashes = 0, 0
    head: list[str] = []
    for row, line in enumerate(lines):
        if row and depth <= 0 and slashes % 2 == 0:
            return _without_brackets(" ".join(head)), lines[row:]
        depth += line.count("[") - line.count("]")
        slashes += line.count("\\")
        head.append(line.strip())
    return _without_brackets(" ".join(head)), []


def _without_brackets(text: str) -> str:
    kept: list[str] = []
    depth = 0
    for character in text:
        depth += character == "["
        if depth == 0:
            kept.append(character)
        depth -= character == "]" and depth > 0
    return "".join(kept)


def _senses(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Text and source of each definition among the lines of a body; one without a source has that of the next."""
    source = ""
    found: list[tuple[str, str]] = []
    for paragraph in reversed(list(_paragraphs(lines))):
        tags = _SOURCE.findall(paragraph)
        source = " ".join(tag.strip("[]") for tag in tags) or source
        text = " ".join(_SOURCE.sub(" ", paragraph).split())
        if text and not re.match(r"(?:Syn|Note|Usage)\b", text):
            found.append((_NUMBER.sub("", text), source))
    return reversed(found)


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """Paragraphs other than quotations, each with the source below it; a numbered line begins a new one."""
    current: list[str] = []
    for line in [*lines, ""]:
        text = line.strip()
        if current and (not text or _NUMBER.match(text)):
            yield "\n".join(current)
            current = []
        if text and (current or len(line) - len(line.lstrip()) < _QUOTE_INDENT):
            current.append(text)
