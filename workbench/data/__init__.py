"""Datasets to interactions to sequences to batches. May import contracts, registry, runtime, paths, files."""

import hashlib
import inspect
from pathlib import Path
from typing import Literal, get_args

from workbench import files, paths
from workbench.data import storage
from workbench.data.catalog import CATALOG
from workbench.data.errors import DataError
from workbench.data.interactions import Interactions
from workbench.data.prepare import Preparation, prepare
from workbench.data.sequences import Batches, Sequences, batch_of
from workbench.data.temporal import split_by_time
from workbench.registry import did_you_mean

__all__ = [
    "CATALOG",
    "EMBEDDED",
    "Batches",
    "DataError",
    "Interactions",
    "Preparation",
    "Sequences",
    "batch_of",
    "load",
    "prepare",
    "prepared_names",
    "split_by_time",
]

EmbeddedSize = Literal["tiny", "small", "large"]
EMBEDDED: dict[str, EmbeddedSize] = {f"embedded-{size}": size for size in get_args(EmbeddedSize)}
"""Datasets that are generated on this machine, by name."""


def load(name_or_path: str | Path, *, seed: int = 0) -> Sequences:
    """The prepared dataset of a name (`data/<name>`), or of a folder.

    `embedded-tiny`, `embedded-small` and `embedded-large` are generated from `seed` on first use and kept in
    `data/<name>-seed<seed>` until the generator changes; no other dataset depends on `seed`.
    Raises FileNotFoundError that names the command which makes the dataset, and DataError for a damaged one.
    """
    name = str(name_or_path)
    if name in EMBEDDED:
        return _embedded(name, seed)
    for folder in (paths.data() / name, Path(name)):
        if (files.recover(folder) / storage.META).is_file():
            return storage.load_folder(folder)
    raise FileNotFoundError(_not_prepared(name))


def prepared_names() -> list[str]:
    """The names under which `data/` holds a prepared dataset."""
    return sorted(meta.parent.name for meta in paths.data().glob(f"[!.]*/{storage.META}"))


def _embedded(name: str, seed: int) -> Sequences:
    from workbench.data import generator  # imported here: reading a real dataset needs no generator

    folder = paths.data() / f"{name}-seed{seed}"
    source = hashlib.sha256(inspect.getsource(generator).encode()).hexdigest()[:16]
    try:
        if storage.read_meta(folder).get("generator") == source:
            return storage.load_folder(folder)
    except (FileNotFoundError, DataError):
        pass  # not there yet, or damaged: either way it is generated below
    sequences = prepare(generator.generate(EMBEDDED[name], seed), name).sequences
    storage.save(sequences, folder, {"generator": source, "seed": seed}, replace=True)
    return sequences


def _not_prepared(name: str) -> str:
    prepared = ", ".join(prepared_names()) or "none yet"
    if name in CATALOG:
        return (
            f"{name} is not prepared in {paths.data()}: run `workbench data fetch {name}` and then `workbench data"
            f" prepare {name}`, or only the latter with --from PATH for a local copy (prepared: {prepared})"
        )
    known = ", ".join([*EMBEDDED, *CATALOG])
    close = did_you_mean(name, [*EMBEDDED, *CATALOG, *prepared_names()])
    return f"no dataset is called {name!r}, and there is no such file or folder{close} (known: {known}; prepared: {prepared})"
