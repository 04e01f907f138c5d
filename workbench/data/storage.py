"""Sequences on disk: a folder of Parquet tables and a `meta.json`, written whole or not at all."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from workbench import files
from workbench.data.errors import DataError
from workbench.data.sequences import Cuts, Sequences, Ties
from workbench.data.temporal import SHARE
from workbench.loading import read_json, reading

FORMAT = 1
_BEFORE = {"ties": "source", "split": "leave-one-out", "share": SHARE}
"""How everything was prepared before there was a choice."""
META = "meta.json"


def save(
    sequences: Sequences,
    folder: Path,
    meta: dict[str, Any],
    *,
    sources: Iterable[Path] = (),
    replace: bool = False,
) -> None:
    """Write sequences as `interactions.parquet`, `items.parquet`, `users.parquet` and `meta.json` in
    `folder`.

    `interactions.parquet` holds `user` and `item` (dense), `timestamp` and `rating`, in sequence order; the
    two tables hold the source's ids in dense order. `meta` (JSON values) joins the counts and the fingerprint
    in `meta.json`. `folder` is replaced whole or not at all, and only if it holds a dataset of the same settings (see
    `settings_in`; `replace`: a dataset), and none of `sources`, the files that were read.
    Raises ValueError if `folder` must not be replaced, and OSError, with what to do, if the disk is full.
    """
    settings = settings_in({"fingerprint": sequences.fingerprint()} | meta)
    with files.new_folder(folder, DATASET, settings, sources=sources, replace=replace) as new:
        _write(sequences, new, meta)


def load_folder(folder: Path) -> Sequences:
    """The sequences that `save` wrote. Raises FileNotFoundError, and DataError (a ValueError) for a damaged folder."""
    meta = read_meta(folder)
    advice = f"prepare {meta['name']} again"
    with reading(folder, advice, DataError):
        table, items, users = (
            pyarrow.parquet.read_table(folder / f"{name}.parquet", page_checksum_verification=True)
            for name in TABLES
        )
        codes = table["user"].to_numpy()
        columns = [_writable(table[name].to_numpy()) for name in ("item", "timestamp", "rating")]
        for values, wanted in zip([codes, *columns], ("int32", "int32", "int64", "float32"), strict=True):
            if values.dtype != wanted:
                raise ValueError(f"a column of its interactions is {values.dtype}, not {wanted}")
    counts = {"interactions": len(codes), "items": items.num_rows, "users": users.num_rows}
    if any(meta[name] != count for name, count in counts.items()):
        raise DataError(
            f"{folder} is damaged: its tables have {counts}, which differs from {META}; prepare it again"
        )
    with reading(folder, advice, DataError):
        if (
            (codes[1:] < codes[:-1]).any()
            or codes.min(initial=0) < 0
            or codes.max(initial=0) >= users.num_rows
        ):
            raise ValueError("its users are out of order, or unknown")
        return Sequences(
            name=meta["name"],
            offsets=np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=users.num_rows))]),
            item_ids=columns[0].astype(np.int64),
            timestamps=columns[1],
            ratings=columns[2],
            items=items.to_pandas(),
            users=users.to_pandas(),
            ordered=meta.get("ordered", True),
            ties=_ties(meta),
            cuts=_cuts(meta),
        )


def _ties(meta: Mapping[str, Any]) -> Ties:
    """The order of ties that the dataset was prepared with; ValueError if its meta.json holds none that exists."""
    preparation = meta.get("preparation") or {}
    ties = preparation.get("ties", "source") if isinstance(preparation, dict) else None
    if ties not in get_args(Ties):
        raise ValueError(f"its preparation's ties are {ties!r:.50}, not one of {get_args(Ties)}")
    return cast(Ties, ties)


def _cuts(meta: Mapping[str, Any]) -> Cuts | None:
    """The times of a temporal split, None for leave-one-out; ValueError if meta.json holds anything else."""
    found = meta.get("cuts")
    if found is None:
        return None
    if not isinstance(found, dict) or not all(
        type(found.get(name)) is int for name in ("validation", "test")
    ):
        raise ValueError(f"its cuts are {found!r:.80}, not the two times of a temporal split")
    return Cuts(found["validation"], found["test"])


def read_meta(folder: Path) -> dict[str, Any]:
    """`meta.json` of a prepared dataset. Raises FileNotFoundError, and DataError if it is no such file."""
    path = files.recover(folder) / META
    meta = read_json(path, "prepare the dataset again", DataError)
    if meta.get("format") != FORMAT:
        raise DataError(f"{path} is not of format {FORMAT}; prepare the dataset again with this version")
    missing = {"name", "users", "items", "interactions", "fingerprint"} - set(meta)
    if missing:
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}; prepare the dataset again")
    for name, kind in {
        "name": str,
        "fingerprint": str,
        "users": int,
        "items": int,
        "interactions": int,
    }.items():
        if type(meta[name]) is not kind:
            raise DataError(f"{path}: its {name} is {meta[name]!r:.50}; prepare the dataset again")
    try:
        files.check_name(meta["name"], "a dataset")
    except ValueError as error:
        raise DataError(f"{path}: {error}; prepare the dataset again") from None
    return meta


def settings_in(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a prepared dataset was made from, of its `meta`: preparation, contents of the sources, generator and seed.

    A dataset of neither source nor generator is identified by its fingerprint.
    """
    settings = {
        key: meta[key] for key in ("preparation", "columns", "encoding", "generator", "seed") if key in meta
    }
    if isinstance(
        settings.get("preparation"), dict
    ):  # what was prepared before there was a choice has the default
        settings["preparation"] = _BEFORE | settings["preparation"]
    if "sources" in meta:
        settings["sources (SHA-256)"] = sorted(source["sha256"] for source in meta["sources"].values())
    return settings or {"fingerprint": meta["fingerprint"]}


def _settings_of(folder: Path) -> dict[str, Any] | None:
    path = folder / META
    if not path.is_file() or "fingerprint" not in read_json(path, "prepare it again", DataError):
        return None
    return settings_in(read_meta(folder))


TABLES = ("interactions", "items", "users")
DATASET = files.Kind("prepared dataset", (META, *(f"{name}.parquet" for name in TABLES)), _settings_of)


def _write(sequences: Sequences, folder: Path, meta: dict[str, Any]) -> None:
    tables = {
        "interactions": pa.table(
            {
                "user": np.repeat(np.arange(sequences.num_users, dtype=np.int32), sequences.lengths),
                "item": sequences.item_ids.astype(np.int32),
                "timestamp": sequences.timestamps,
                "rating": sequences.ratings,
            }
        ),
        "items": _arrow(sequences.items),
        "users": _arrow(sequences.users),
    }
    for name, table in tables.items():
        pyarrow.parquet.write_table(
            table, folder / f"{name}.parquet", compression="zstd", write_page_checksum=True
        )
    counts: dict[str, Any] = {
        "format": FORMAT,
        "name": sequences.name,
        "users": sequences.num_users,
        "items": sequences.num_items,
        "interactions": len(sequences.item_ids),
        "fingerprint": sequences.fingerprint(),
        "ordered": sequences.ordered,
    }
    if sequences.cuts is not None:
        counts["cuts"] = asdict(sequences.cuts)
    text = json.dumps(counts | meta, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / META).write_text(text + "\n", encoding="utf-8")


def _arrow(table: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(table, preserve_index=False)


def _writable(values: NDArray[Any]) -> NDArray[Any]:
    """Arrow hands out read-only views, which torch would warn about."""
    return values if values.flags.writeable else values.copy()
