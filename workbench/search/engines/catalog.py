"""The engines by name: which searcher uses each, what must be installed, what it reads from disk as it searches."""

import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from workbench import runtime
from workbench.registry import did_you_mean


@dataclass(frozen=True)
class Engine:
    """What holds the items of an index.

    `searchers`: the kinds of registered searchers that it serves, the default first. `package`: the module that must be there,
    "" for none; `distributions`: those that may bring it. `mapped`: its files are read while it is searched, not loaded.
    """

    name: str
    meaning: str
    searchers: tuple[str, ...]
    package: str = ""
    distributions: tuple[str, ...] = ()
    mapped: bool = False

    def version(self) -> str:
        """The installed version of its package, "" for an engine of our own; ImportError that names what to install."""
        if not self.package:
            return ""
        runtime.require(self.package)
        for distribution in self.distributions:
            try:
                return metadata.version(distribution)
            except metadata.PackageNotFoundError:
                continue
        return "unknown"


ENGINES = {
    engine.name: engine
    for engine in (
        Engine("flat", "own: every vector is looked at", ("average",)),
        Engine("graph", "own: a graph walked by the learned score", ("graph",)),
        Engine(
            "faiss", "FAISS", ("faiss-flat", "faiss-ivf", "faiss-hnsw"), "faiss", ("faiss-cpu", "faiss-gpu")
        ),
        Engine("usearch", "usearch, a graph in one file", ("usearch",), "usearch", ("usearch",), mapped=True),
        Engine(
            "milvus",
            "Milvus, embedded or a cluster",
            ("milvus",),
            "milvus_lite",
            ("milvus-lite",),
            mapped=True,
        ),
        Engine("lancedb", "LanceDB, embedded", ("lancedb",), "lancedb", ("lancedb",), mapped=True),
        Engine(
            "tantivy", "tantivy, for SparCode's codes", ("tantivy",), "tantivy", ("tantivy",), mapped=True
        ),
    )
}


def engine(name: str) -> Engine:
    """The engine of this name; ValueError that lists them if there is none."""
    if name not in ENGINES:
        raise ValueError(
            f"there is no engine {name!r}{did_you_mean(name, ENGINES)}; choose one of {', '.join(ENGINES)}"
        )
    return ENGINES[name]


def engine_of(kind: str) -> Engine | None:
    """The engine that serves a registered searcher; None for those that search the items themselves."""
    return next((engine for engine in ENGINES.values() if kind in engine.searchers), None)


def made_by(kind: str) -> dict[str, Any]:
    """What an index of this searcher depends on besides its settings: the engine with its version, and the machine."""
    found = engine_of(kind)
    used = {} if found is None else {"engine": found.name, "engine_version": found.version()}
    return {**used, "byte_order": sys.byteorder, "processor": platform.machine()}


def check_made_by(kind: str, described: dict[str, Any], where: str) -> None:
    """Raise ValueError if an index was made by another engine, another version of it, or for another kind of machine.

    Versions may differ in what comes after the second number. ImportError if the engine is not installed.
    """
    here = made_by(kind)
    for name, value in here.items():
        found = described.get(name, value)
        if name == "engine_version":
            found, value = (".".join(str(v).split(".")[:2]) for v in (found, value))
        if found != value:
            raise ValueError(
                f"{where} was made with {name.replace('_', ' ')} {described.get(name)}, here is {here[name]}:"
                " build the index again, or install that version"
                if name.startswith("engine")
                else f"{where} was made on a machine with {name.replace('_', ' ')} {found}, this one has {value}:"
                " build the index again here"
            )
