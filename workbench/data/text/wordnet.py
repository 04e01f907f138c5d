"""WordNet 3.0: the synsets of `data.noun`, `data.verb`, `data.adj` and `data.adv`.

Format: wndb(5WN), https://wordnet.princeton.edu/documentation/wndb5wn.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.data.errors import DataError

FILES = ("data.noun", "data.verb", "data.adj", "data.adv")
_MARKER = re.compile(r"\((?:p|a|ip)\)$")  # the positions an adjective may have: "galore(ip)"
_EXAMPLE = re.compile(r'"([^"]*)"?')


@dataclass(frozen=True)
class Synset:
    """One sense: `id` is its part of speech (n, v, a, r) and its offset in the file; `lemmas` are the words that share it."""

    id: str
    lemmas: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]

    @property
    def part_of_speech(self) -> str:
        """n, v, a or r; satellite adjectives count as a."""
        return self.id[0]

    @property
    def text(self) -> str:
        """The document: "lemmas: definition"."""
        return f"{', '.join(self.lemmas)}: {self.definition}"


def read_wordnet(folder: Path) -> list[Synset]:
    """All synsets of the four data files in `folder`, in the order of the files.

    Raises FileNotFoundError if a file is missing, and DataError that names file and line for a line that is not of the format
    or not UTF-8.
    """
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)} of WordNet")
    return [synset for name in FILES for synset in _read(folder / name)]


def parse_synset(line: str) -> Synset:
    """The synset of one line of a data file. Raises ValueError if the line is not of the format.

    >>> parse_synset('00014358 00 s 02 abounding 0 galore(ip) 0 000 | existing in abundance; "whiskey galore"  ')
    Synset(id='a00014358', lemmas=('abounding', 'galore'), definition='existing in abundance', examples=('whiskey galore',))
    """
    fields, bar, gloss = line.partition(" | ")
    words = fields.split(" ")
    if not bar or len(words) < 6 or not re.fullmatch(r"\d{8}", words[0]) or words[2] not in tuple("nvars"):
        raise ValueError("expected an offset, a file number, a part of speech, words, pointers and '| gloss'")
    count = int(words[3], 16)
    raw = words[4 : 4 + 2 * count : 2]
    if not count or len(raw) != count:
        raise ValueError(f"it promises {count} words and holds {len(raw)}")
    lemmas = tuple(_MARKER.sub("", word).replace("_", " ") for word in raw)
    definition, _, quoted = gloss.strip().partition('; "')
    examples = tuple(text for text in _EXAMPLE.findall(f'"{quoted}') if text.strip())
    return Synset(
        "a" + words[0] if words[2] == "s" else words[2] + words[0], lemmas, definition.rstrip("; "), examples
    )


def _read(path: Path) -> Iterator[Synset]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.startswith(b"  "):  # the licence at the head of the file
                continue
            try:
                yield parse_synset(raw.decode("utf-8").rstrip("\n"))
            except UnicodeDecodeError:
                raise DataError(f"{path}, line {number}: not UTF-8 text") from None
            except ValueError as error:
                raise DataError(f"{path}, line {number}: no synset of WordNet: {error}") from None
