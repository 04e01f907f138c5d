"""Embeddings of items in a file: ids, titles, numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet
from numpy.typing import NDArray

from workbench.loading import reading

ID, TITLE, EMBEDDING = "item_id", "title", "embedding"


def read_embeddings(path: Path) -> tuple[list[object], list[str] | None, NDArray[np.float32]]:
    """Item ids, titles (None if there is no column) and embeddings (M, D) of a Parquet or CSV file.

    A column `item_id`, perhaps `title`; the embedding is a list in a column `embedding`, or the numbers of all other columns in
    their order. Raises FileNotFoundError, and ValueError that names the file if it is damaged, lacks ids or holds no numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix == ".parquet":
        with reading(path, "write it again"):
            table = pyarrow.parquet.read_table(path).to_pandas()
    else:
        with reading(path, "write it again"):
            table = pd.read_csv(path)
    if ID not in table.columns:
        raise ValueError(f"{path} has no column {ID}; it has {', '.join(map(str, table.columns))}")
    titles = table[TITLE].astype("str").tolist() if TITLE in table.columns else None
    values = table.drop(columns=[name for name in (ID, TITLE) if name in table.columns])
    try:
        rows = np.array(
            table[EMBEDDING].tolist() if EMBEDDING in values.columns else values, dtype=np.float32
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} must hold rows of numbers of one length ({error})") from None
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"{path} holds no embeddings: give a row of numbers for each item")
    return pd.Series(table[ID]).tolist(), titles, rows
