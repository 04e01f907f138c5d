"""The verbs one starts with: load data, train, load a model, take embeddings from anywhere."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from workbench.data import Preparation, Sequences, prepare
from workbench.data import load as load_prepared
from workbench.data.columns import ColumnNames
from workbench.data.ids import source_ids
from workbench.data.own import read_own
from workbench.encoders import TwoTowerConfig
from workbench.front_door.recommender import Recommender
from workbench.models.catalogue import Catalogue
from workbench.models.model_store import load_or_train
from workbench.models.query_table import QueryTable, as_vectors
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import DotConfig
from workbench.training.config import TrainingConfig
from workbench.training.preset import Preset
from workbench.training.presets import preset as preset_of

HISTORY = 200
"""Items of a history that a retriever of given embeddings averages, the latest."""


def load_data(
    source: str | Path | pd.DataFrame,
    *,
    items: Path | str | pd.DataFrame | None = None,
    name: str | None = None,
    preparation: Preparation | None = None,
    columns: ColumnNames | None = None,
    seed: int = 0,
) -> Sequences:
    """Interactions ready to train on: a dataset by name, a file of your own, or a table.

    `source`: a prepared dataset (`workbench data list`), a DataFrame, or the path of a file: text with separated columns (CSV,
    TSV, …), also packed, Parquet, or a folder of Parquet files. `columns`: which columns hold users, items, times and ratings
    (`wb.ColumnNames`); by default they are recognised by their usual names, and times by their size. What was recognised is
    printed to stderr. Ids are integers or text of any kind, and are kept as they are. `items`: a file or table with the items'
    ids, titles and more. `name`: of your own data, by default the file's, or "my-data". `preparation`: filters, and what is
    held out (`data.Preparation(split="temporal")`: by time). `seed`: of the embedded datasets, which are generated.
    Raises FileNotFoundError, with what to do, if there is no such dataset or file, and DataError (a ValueError) that names
    the line or row of what is wrong.

    >>> import pandas as pd, workbench as wb
    >>> table = pd.DataFrame({"user_id": ["ann", "ann"], "item_id": ["007", "7"], "timestamp": [1, 2]})
    >>> wb.load_data(table).items["item_id"].tolist()
    ['007', '7']
    """
    if not isinstance(source, pd.DataFrame):
        source = Path(source)
        if not source.is_file():
            try:
                return load_prepared(source, seed=seed)
            except FileNotFoundError:
                if not source.is_dir():
                    raise
    interactions = read_own(source, Path(items) if isinstance(items, str) else items, columns)
    for remark in interactions.remarks:
        print(f"note: {remark}", file=sys.stderr)
    given = "my-data" if isinstance(source, pd.DataFrame) else source.stem
    return prepare(interactions, name or given, preparation).sequences


def train(
    preset: str | Preset | RetrieverConfig,
    data: Sequences | str | Path | pd.DataFrame | None = None,
    *,
    training: TrainingConfig | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> Recommender:
    """The trained model of a preset on `data` (default: the preset's dataset), from `ckpts/` if it is there already.

    `preset`: its name (`workbench model list`), or a retriever's configuration, trained by `training`. `epochs`: passes
    over the users, instead of the preset's. `seed` decides weights, order, negatives and dropout: the same seed gives the
    same model. The model is measured and stored in `ckpts/`; a training that was stopped continues.
    Raises ValueError if there is no such preset, or the data has no user with enough interactions.

    Example: `wb.train("cpu/hstu-mol", wb.load_data("orders.csv"))`.
    """
    chosen = preset_of(preset) if isinstance(preset, str) else preset
    if data is None:
        if isinstance(chosen, RetrieverConfig):
            raise ValueError("a configuration has no dataset of its own: give the data")
        data = chosen.dataset
    sequences = data if isinstance(data, Sequences) else load_data(data)
    if isinstance(chosen, RetrieverConfig):
        name = f"own/{chosen.encoder.kind}-{chosen.similarity.kind}"
        chosen = Preset(name, sequences.name, chosen, training or TrainingConfig(), "your own settings")
    elif training is not None:
        chosen = replace(chosen, training=training)
    if epochs is not None:
        chosen = replace(chosen, training=replace(chosen.training, epochs=epochs))
    model = load_or_train(chosen, sequences, seed=seed, device=device, progress=progress)
    return load(model.folder, sequences)


def load(
    model: str | Path, data: Sequences | str | Path | pd.DataFrame | None = None, *, device: str = "cpu"
) -> Recommender:
    """A saved model, by its name in `ckpts/` or its folder; see `Recommender.load`.

    Example: `wb.load("ml-1m-cpu-hstu-mol").recommend(user=42)`.
    """
    sequences = data if data is None or isinstance(data, Sequences) else load_data(data)
    return Recommender.load(model, sequences, device)


def from_embeddings(
    items: Any,
    ids: Sequence[object] | None = None,
    *,
    titles: Sequence[str] | None = None,
    queries: Any = None,
    query_ids: Sequence[object] | None = None,
    normalize: bool = False,
    name: str = "embeddings",
) -> Recommender:
    """Embeddings from anywhere as a retriever: `index().search_embeddings(queries, k)`, `recommend`, `similar_items`.

    `items`: numbers (N, D); `ids`: the N source ids (default 0..N−1); `titles`: default the ids. A score is the inner product
    ⟨query, item⟩, or with `normalize` the cosine; the query of a history is the mean of its items' embeddings.
    `queries`: embeddings (Q, D) of the users or queries too, with `query_ids` (default 0..Q−1), or a DataFrame whose index or
    column `query_id` holds the ids and whose other columns hold the numbers. Then `recommend(user=…)` and `recommend_all` take
    a query's id.
    Raises ValueError if the embeddings are no finite matrices of one width, or ids and titles are not one each or repeat.

    >>> import workbench as wb
    >>> model = wb.from_embeddings([[1.0, 0.0], [0.0, 1.0]], ids=["left", "up"])
    >>> model.index().search_embeddings([[0.1, 0.9]], k=1).to_source()["item_id"].tolist()
    ['up']
    >>> model = wb.from_embeddings([[1.0, 0.0], [0.0, 1.0]], ids=["left", "up"], queries=[[0.1, 0.9]], query_ids=["ann"])
    >>> model.recommend(user="ann", k=1)["item_id"].tolist()
    ['up']
    """
    vectors = as_vectors(items, "item embeddings")
    count, width = vectors.shape
    known = pd.Series(range(count) if ids is None else list(ids))
    shown = known.astype("str") if titles is None else pd.Series(list(titles))
    if len(known) != count or len(shown) != count:
        raise ValueError(
            f"{count:,} embeddings, {len(known):,} ids and {len(shown):,} titles: give one of each for each item"
        )
    table = pd.DataFrame({"item_id": source_ids(known, "ids", "item_id"), "title": shown.astype("str")})
    if (repeated := table["item_id"].duplicated()).any():
        raise ValueError(f"ids: {table['item_id'][int(repeated.argmax())]!r} appears twice")
    config = RetrieverConfig(
        TwoTowerConfig(hidden_dims=(), dropout=0.0, last_item=False),
        DotConfig(normalize=normalize, temperature=1.0),
        dim=width,
        max_length=HISTORY,
    )
    retriever = Retriever(config, count)
    with torch.no_grad():
        retriever.item_table.weight[1:] = vectors
        for layer in retriever.encoder.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.eye_(layer.weight)
                torch.nn.init.zeros_(layer.bias)
    asked = None if queries is None else QueryTable.of(name, queries, query_ids)
    if asked is None and query_ids is not None:
        raise ValueError("query_ids without queries: give the embeddings of the queries too")
    return Recommender(name, retriever, Catalogue(name, table), queries=asked)
