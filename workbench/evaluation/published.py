"""Published results, each with its source, to compare with measured ones."""

from collections.abc import Collection
from functools import cache
from importlib.resources import files

import pandas as pd

from workbench.evaluation.metrics import MRR, MRR_CUT

COLUMNS = ["source", "dataset", "method", "metric", "value"]


@cache
def _table() -> pd.DataFrame:
    with (files("workbench.evaluation") / "published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={**dict.fromkeys(COLUMNS, "str"), "value": "float64"})


def published(
    dataset: str | None = None,
    methods: Collection[str] | None = None,
    metrics: Collection[str] | None = None,
    source: str | None = None,
) -> pd.DataFrame:
    """The published results as `source`, `dataset`, `method`, `metric`, `value`; every argument given narrows them.

    `dataset` is compared without case ("ml-1m" finds ML-1M); `source` is any part of a source's name. A dataset without
    published results gives an empty table. Sources differ for some models: look at `source`.
    """
    rows = _table()
    if dataset is not None:
        rows = rows[rows["dataset"].str.casefold() == dataset.casefold()]
    if methods is not None:
        rows = rows[rows["method"].isin(methods)]
    if metrics is not None:
        rows = rows[rows["metric"].isin(metrics)]
    if source is not None:
        rows = rows[rows["source"].str.contains(source, regex=False)]
    return rows.reset_index(drop=True)


def comparable(rows: pd.DataFrame) -> pd.DataFrame:
    """The same results with our labels: RAILS' MRR on its recommendation datasets is the one cut at 2500.

    Its code counts a target beyond rank 2500 as rank 2501 (see `reciprocal_ranks_cut`).
    """
    theirs = rows["source"].str.startswith("RAILS") & (rows["dataset"] != "NQ320K") & (rows["metric"] == MRR)
    return rows.assign(metric=rows["metric"].mask(theirs, MRR_CUT))


def with_published(summary: pd.DataFrame, dataset: str, methods: Collection[str]) -> pd.DataFrame:
    """A summary (see `summarize`) with one more column for each published source and method of `methods`.

    Columns: those of `summary`, then "method · source", NaN if that source does not print the metric. The order of
    the rows is the summary's. With no published figures the summary comes back as it is.
    """
    rows = comparable(published(dataset, methods))
    if rows.empty:
        return summary
    columns = rows["method"] + " · " + rows["source"]
    wide = rows.assign(column=columns).pivot(index="metric", columns="column", values="value")
    joined = summary.join(wide[columns.unique()], on="metric")
    joined.attrs = dict(summary.attrs)
    return joined
