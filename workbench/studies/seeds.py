"""Numbers of several seeds: mean, deviation, and how far a method is from the first of them on the same seeds."""

from collections.abc import Mapping

import pandas as pd


def over_seeds(values: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per method and metric: `method`, `metric`, `mean`, `std`, `over_first`, `difference_std`, `seeds`.

    `values` has a table for each method: a row per seed, the same seeds for all, and a column per metric. Deviations are those
    of a sample (n − 1), NaN for one seed; `over_first` is the mean difference to the first method, `difference_std` its
    deviation. Raises ValueError if there is no method or no seed, or the seeds differ.

    >>> scores = {"dot": pd.DataFrame({"MRR": [0.1, 0.3]}), "MoL": pd.DataFrame({"MRR": [0.2, 0.4]})}
    >>> over_seeds(scores).round(3)[["method", "mean", "over_first", "difference_std"]].values.tolist()
    [['dot', 0.2, 0.0, 0.0], ['MoL', 0.3, 0.1, 0.0]]
    """
    if not values or not len(next(iter(values.values()))):
        raise ValueError("there must be a method and a seed")
    first = next(iter(values.values()))
    if any(not table.index.equals(first.index) for table in values.values()):
        raise ValueError("all methods must have the same seeds")
    rows = []
    for name, table in values.items():
        for metric in table:
            difference = table[metric] - first[metric]
            rows.append(
                {
                    "method": name,
                    "metric": metric,
                    "mean": table[metric].mean(),
                    "std": table[metric].std(ddof=1),
                    "over_first": difference.mean(),
                    "difference_std": difference.std(ddof=1),
                    "seeds": len(table),
                }
            )
    return pd.DataFrame(rows)


def format_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """What `over_seeds` found as text: a row per method, and one per difference to the first; a column per metric.

    >>> scores = {"dot": pd.DataFrame({"MRR": [0.1, 0.3]}), "MoL": pd.DataFrame({"MRR": [0.2, 0.4]})}
    >>> format_seeds(over_seeds(scores)).values.tolist()
    [['dot', '2', '0.2000 ± 0.1414'], ['MoL', '2', '0.3000 ± 0.1414'], ['MoL − dot', '2', '+0.1000 ± 0.0000']]
    """
    methods = list(dict.fromkeys(table["method"]))
    own = [_row(m, table[table["method"] == m], "mean", "std", "{:.4f}") for m in methods]
    over = [
        _row(
            f"{m} − {methods[0]}",
            table[table["method"] == m],
            "over_first",
            "difference_std",
            "{:+.4f}",
        )
        for m in methods[1:]
    ]
    return pd.DataFrame(own + over)


def _row(name: str, rows: pd.DataFrame, mean: str, std: str, form: str) -> dict[str, str]:
    spread = [f" ± {d:.4f}" if pd.notna(d) else "" for d in rows[std]]
    values = zip(rows["metric"], rows[mean], spread, strict=True)
    cells = {metric: form.format(value) + more for metric, value, more in values}
    return {"model": name, "seeds": str(rows["seeds"].iloc[0])} | cells
