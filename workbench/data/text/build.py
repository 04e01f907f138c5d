"""Text collections by name: prepared from local files, generated, or loaded."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench import paths
from workbench.data.archives import unpack
from workbench.data.text import gcide, generator, wordnet
from workbench.data.text.beir import is_beir, read_beir
from workbench.data.text.collection import Step, TextCollection
from workbench.data.text.reverse_dictionary import reverse_dictionary, wordnet_examples
from workbench.data.text.storage import COLLECTION, META, load_folder, prepared_names, save
from workbench.files import check_folder, check_name, lock

EMBEDDED = "embedded-text"
REVERSE, EXAMPLES = "reverse-dictionary", "wordnet-examples"
DICTIONARIES = (REVERSE, EXAMPLES)
FIRST_TRIAL = Step("a first, rougher cleaning (2026)", 72_175, 37_641)
"""Queries and pairs of word and part of speech that it kept of the same files, to compare with."""
_SUBFOLDERS = (".", "wordnet", "dict", "dictd", "share/wordnet", "share/dictd")
_WORDNET_LIMIT = 1 << 28


def is_text(name: str, source: Path | None) -> bool:
    """Whether `name`, prepared from `source`, is a text collection."""
    return name in (*DICTIONARIES, EMBEDDED) or (source is not None and is_beir(source))


def prepare(name: str, source: Path | None, seed: int = 0) -> TextCollection:
    """The collection `name`, written to `data/<name>` (but `embedded-text`, which is generated whenever it is loaded).

    The dictionaries take a folder with WordNet's `data.*` files (or its archive `wordnet-3.0.tar.gz`) and, for
    reverse-dictionary, `gcide.dict.dz` and `gcide.index`: in the folder itself, or in `wordnet/` and `dictd/` of it, as
    Debian's wordnet-base and dict-gcide have them in `/usr/share`. Any other name takes a folder of BEIR's layout.
    Raises FileNotFoundError that names what is missing, DataError for what cannot be read, ValueError, before it reads, if
    `data/<name>` holds anything else, and BlockingIOError if another process prepares it.
    """
    if name == EMBEDDED:
        return generator.generate(seed)
    if source is None:
        raise FileNotFoundError(
            f"{name} is made from local files: give their folder with --from PATH (Debian's packages wordnet-base and"
            " dict-gcide have them: --from /usr/share)"
        )
    target = paths.data() / check_name(name, "a text collection")
    check_folder(target, COLLECTION, {"name": name}, sources=[source])
    with lock(target):
        collection = _read(name, source)
        save(collection, target)
    return collection


def _read(name: str, source: Path) -> TextCollection:
    if name not in DICTIONARIES:
        return read_beir(source, name)
    with _wordnet(source) as folder:
        synsets = wordnet.read_wordnet(folder)
    if name == EXAMPLES:
        return wordnet_examples(synsets)
    return reverse_dictionary(gcide.read_gcide(_holding(source, gcide.FILES)), synsets)


def load_text(name_or_path: str | Path, *, seed: int = 0) -> TextCollection:
    """The text collection of a name (`data/<name>`) or of a folder; `embedded-text` is generated from `seed`.

    Raises FileNotFoundError that names the command which makes it.
    """
    name = str(name_or_path)
    if name == EMBEDDED:
        return generator.generate(seed)
    for folder in (paths.data() / name, Path(name)):
        if (folder / META).is_file():
            return load_folder(folder)
    prepared = ", ".join(prepared_names()) or "none yet"
    raise FileNotFoundError(
        f"no text collection {name!r} is prepared: run `workbench data prepare {name} --from PATH` (prepared: {prepared})"
    )


def _holding(source: Path, files: tuple[str, ...]) -> Path:
    for folder in (source / sub for sub in _SUBFOLDERS):
        if all((folder / file).is_file() for file in files):
            return folder
    raise FileNotFoundError(f"{source} holds no {', '.join(files)}, neither itself nor in wordnet/ or dictd/")


@contextmanager
def _wordnet(source: Path) -> Iterator[Path]:
    """A folder with WordNet's files: their own, or one unpacked from an archive for the duration of the block."""
    archives = [source] if source.is_file() else sorted(source.glob("[Ww]ord[Nn]et*.tar*"))
    if not archives:
        yield _holding(source, wordnet.FILES)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield unpack(archives[0], Path(scratch) / "wordnet", wordnet.FILES, _WORDNET_LIMIT)
