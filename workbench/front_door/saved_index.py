"""What a saved index says of itself: its manifest, the digests of its files, and the memory that it takes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import psutil

from workbench import tensor_files
from workbench.files import Kind
from workbench.loading import from_json, one_line, read_json
from workbench.models.catalogue import ITEMS
from workbench.models.query_table import QUERIES
from workbench.registry import Settings
from workbench.retriever import CONFIG, WEIGHTS
from workbench.search import registry
from workbench.search.engines.catalog import engine_of

MANIFEST, STATE = "index.json", "items.safetensors"
ADVICE = "build the index again"

ENGINE_FILES = (
    "*.faiss",
    "*.usearch",
    "graph.safetensors",
    "milvus.db",
    "lancedb",
    "tantivy",
    "tantivy.safetensors",
)
"""What engines write into the folder; each compares its own files with the items that it is opened for."""


@dataclass(frozen=True)
class Contents:
    """What an index is of: the settings of its `searcher`, the name of its `model`, its number of `items`.

    `weights`: a digest of the model's configuration and weights. `corpus`: a digest of the items' ids and their order.
    `made_by`: engine and machine, as in `engines.catalog`. Raises ValueError if there is no such searcher or setting.
    """

    searcher: dict[str, Any]
    model: str
    weights: str
    items: int
    corpus: str
    made_by: dict[str, str]

    def __post_init__(self) -> None:
        _ = self.settings

    @property
    def settings(self) -> Settings:
        """The settings that the searcher is built with."""
        settings: Settings = registry.SEARCHERS.from_dict(self.searcher)
        return settings


@dataclass(frozen=True)
class Manifest(Contents):
    """What `index.json` holds: the contents, a digest of each file by name, and the bytes that are held when it is open.

    `held_bytes`: of the searcher, the catalogue and the data, without the weights and what an engine allocates. Raises
    ValueError if it is negative.
    """

    files: dict[str, str]
    held_bytes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.held_bytes < 0:
            raise ValueError(f"held_bytes must be at least 0, not {self.held_bytes}")

    @classmethod
    def of(cls, contents: Contents, folder: Path, held_bytes: int) -> "Manifest":
        """The manifest of an index whose other files are in `folder`."""
        return cls(**asdict(contents), files=digests(folder), held_bytes=held_bytes)

    def save(self, folder: Path) -> None:
        """Write it into the folder of its index."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def check_files(self, folder: Path) -> None:
        """Raise ValueError that names the first file of `folder` which is not the one that was saved.

        Of the item state, the digest that the file carries is compared: whoever reads its tensors compares their every byte
        with it. Of the other files every byte is read here.
        """
        found = digests(folder)
        for name in sorted(found.keys() | self.files.keys()):
            if found.get(name) != self.files.get(name):
                wrong = (
                    "is missing" if name not in found else "is not the file that was saved with this index"
                )
                raise ValueError(f"{folder / name} {wrong}; {ADVICE}")


def digests(folder: Path) -> dict[str, str]:
    """A digest of each file in the folder of an index that model, catalogue and item state are read from, by name."""
    found = {}
    for name in (STATE, WEIGHTS, CONFIG, ITEMS, QUERIES):
        if (path := folder / name).is_file():
            if name == STATE:
                found[name] = tensor_files.stored_digest(path, ADVICE)
            else:
                with path.open("rb") as file:
                    found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def described_index(folder: Path | str) -> Manifest:
    """The manifest of an index on disk; nothing is loaded.

    Raises FileNotFoundError if there is none, ValueError if it is damaged, or of an earlier version that kept no digests.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {MANIFEST}: it is no index of this workbench")
    found = read_json(path, ADVICE)
    if "searcher" in found and "files" not in found:
        raise ValueError(f"{path} was written by an earlier version, without digests of its files; {ADVICE}")
    try:
        return from_json(Manifest, found)
    except ValueError as error:
        raise ValueError(f"{path} describes no index ({one_line(error)}); {ADVICE}") from error


def contents(folder: Path) -> Mapping[str, Any] | None:
    """The contents of the index in a folder, or of a build that was begun there, as JSON; None if there is neither."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    names = {field.name for field in fields(Contents)}
    return {name: value for name, value in read_json(path, ADVICE).items() if name in names}


KIND = Kind("searchable index", (MANIFEST, STATE, ITEMS, QUERIES, WEIGHTS, CONFIG, *ENGINE_FILES), contents)


@dataclass(frozen=True)
class Footprint:
    """What an index takes before it is loaded, in bytes.

    `held` in memory while it is open, about, and `loading` more until it is open; `mapped` bytes are read from disk as they
    are needed. Lists and scores of a search come on top.
    """

    held: int
    loading: int
    mapped: int

    def __str__(self) -> str:
        return (
            f"{_shown(self.held)} in memory, {_shown(self.held + self.loading)} while it is loaded,"
            f" {_shown(self.mapped)} read from disk as needed"
        )

    def check(self) -> None:
        """Raise MemoryError if less memory is free than loading takes."""
        free, needed = psutil.virtual_memory().available, self.held + self.loading
        if needed > free:
            raise MemoryError(
                f"this index needs {_shown(needed)} of memory and {_shown(free)} are free: take an engine"
                " that reads from disk (lancedb, usearch), or a larger machine"
            )


def _shown(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"


def footprint(folder: Path | str) -> Footprint:
    """The memory that the index in `folder` will take, from its manifest and the sizes of its files.

    Held: the weights, what searcher and catalogue held when it was built, and the files of an engine that loads them; mapped:
    the items' state, and the files that are read during a search. While it is loaded, files are mapped that are held already,
    and there are temporaries, here as large as the weights.
    Raises what `described_index` raises.
    """
    source, manifest = Path(folder), described_index(folder)
    engine = engine_of(manifest.searcher["kind"])
    sizes = {path.relative_to(source): path.stat().st_size for path in source.rglob("*") if path.is_file()}
    own = {name: sizes.pop(Path(name), 0) for name in (STATE, WEIGHTS, CONFIG, ITEMS, QUERIES, MANIFEST)}
    engine_files = sum(sizes.values())
    loads = engine is not None and bool(engine.package) and not engine.mapped
    loaded = own[WEIGHTS] + own[QUERIES] + (engine_files if loads else 0)
    return Footprint(
        held=loaded + manifest.held_bytes,
        loading=loaded + own[WEIGHTS],
        mapped=own[STATE] + (0 if loads else engine_files),
    )
