"""What stored metrics and ranks of a checkpoint belong to: weights, settings, data, protocol, and the code that measured."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from workbench import source
from workbench.evaluation.protocol import STRICT
from workbench.retriever import WEIGHTS, read_metadata

MEASURED_ON, MEASURED_BY = "measured_on", "measured_by"
"""Columns of a stored table: a digest of what it was measured on (see `digest`), and the code that measured it, in words."""
ROOMS = (
    *("contracts", "data", "encoders", "evaluation", "kernels", "retriever"),
    *("runtime", "search", "similarities", "tensor_files"),
)
"""The code that decides a metric."""
EARLIER = "code of an earlier version"


def labelled(table: pd.DataFrame, folder: Path, fingerprint: str | None) -> pd.DataFrame:
    """A table that was measured now on the checkpoint in `folder`, with the columns that say so."""
    return table.assign(**{MEASURED_ON: digest(folder, fingerprint), MEASURED_BY: source.words(*ROOMS)})


def is_of(table: pd.DataFrame, folder: Path, fingerprint: str | None) -> bool:
    """Whether a stored table was measured on the checkpoint that `folder` holds, on these data."""
    return MEASURED_ON in table and bool((table[MEASURED_ON] == digest(folder, fingerprint)).all())


def other_code(table: pd.DataFrame) -> str:
    """The code that measured a stored table, in words, if it is not the code that runs now; empty if it is."""
    if MEASURED_BY not in table or not len(table):
        return EARLIER
    stamp = str(table[MEASURED_BY].iloc[0])
    return "" if source.is_this(stamp, *ROOMS) and table[MEASURED_BY].nunique() == 1 else stamp


def digest(folder: Path, fingerprint: str | None) -> str:
    """A digest of what numbers measured in `folder` belong to: weights, configuration, data, protocol."""
    with (folder / WEIGHTS).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    config = read_metadata(folder).get("retriever")
    rules = {k: v for k, v in asdict(STRICT).items() if k not in ("name", "ties")}  # of the data
    text = json.dumps([weights, config, fingerprint, rules], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
