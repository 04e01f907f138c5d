"""Text collections on disk: three Parquet tables and `text.json` in `data/<name>`, written whole or not at all."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from workbench import paths
from workbench.data.errors import DataError
from workbench.data.text.collection import Step, TextCollection
from workbench.files import Kind, check_name, new_folder, recover, write_text

META = "text.json"
TABLES = ("documents", "queries", "relevance")


def _settings(folder: Path) -> Mapping[str, Any] | None:
    if not (folder / META).is_file():
        return None
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    if not isinstance(meta, dict) or "name" not in meta:
        raise ValueError(f"{META} names no collection")
    return {"name": meta["name"]}


COLLECTION = Kind("text collection", (META, *(f"{name}.parquet" for name in TABLES)), _settings)


def save(collection: TextCollection, folder: Path) -> None:
    """Write a collection to `folder`, in the place of one of the same name.

    Raises ValueError if `folder` holds anything else, and OSError if it cannot be written.
    """
    check_name(collection.name, "a text collection")
    with new_folder(folder, COLLECTION, {"name": collection.name}) as temporary:
        for name in TABLES:
            getattr(collection, name).to_parquet(temporary / f"{name}.parquet", index=False)
        meta = {"name": collection.name, "steps": [asdict(step) for step in collection.steps]}
        write_text(json.dumps(meta, indent=2) + "\n", temporary / META)


def load_folder(folder: Path) -> TextCollection:
    """The collection that `save` wrote. Raises DataError for a damaged folder."""
    recover(folder)
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in TABLES}
        steps = tuple(Step(**step) for step in meta["steps"])
        return TextCollection(meta["name"], **tables, steps=steps)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{folder} is damaged ({error}); prepare it again") from None


def prepared_names() -> list[str]:
    """The names under which `data/` holds a text collection."""
    return sorted(meta.parent.name for meta in paths.data().glob(f"[!.]*/{META}"))
