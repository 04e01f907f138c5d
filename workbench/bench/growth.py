"""How cost grows with the corpus: exponents fitted to measured latencies, and what they say about larger ones."""

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

T_975 = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
)
"""Student's t, 97.5 %, for 1, 2, … degrees of freedom; beyond, the normal's with its first correction."""


def exponents(table: pd.DataFrame, at_least: int = 0, of: str = "p50_ms") -> pd.DataFrame:
    """Of each `label` and `batch_size`: the least-squares line of log p50_ms, or another column `of`, on log items.

    p50_ms ≈ coefficient · items^exponent. Columns: label, batch_size, `points`, `exponent`, `low` and `high` (its 95 %
    interval, from the residuals; NaN below three points), `coefficient`. `table` is a summary with `items`; corpora below
    `at_least` items, where fixed costs rule, are left out, and so are labels measured at fewer than two sizes.

    >>> line = pd.DataFrame({"label": "a", "batch_size": 1, "items": [10, 100, 1000], "p50_ms": [2.0, 20.0, 200.0]})
    >>> round(float(exponents(line)["exponent"][0]), 6)
    1.0
    """
    rows = []
    large = table[table["items"] >= at_least]
    for (label, size), points in large.groupby(["label", "batch_size"], sort=False):
        if points["items"].nunique() < 2:
            continue
        x, y = np.log(points["items"].to_numpy(float)), np.log(points[of].to_numpy(float))
        centred = x - x.mean()
        spread = (centred**2).sum()
        slope = (centred * y).sum() / spread
        intercept = y.mean() - slope * x.mean()
        half = np.nan
        if (free := len(x) - 2) > 0:
            residuals = y - intercept - slope * x
            t = T_975[free - 1] if free <= len(T_975) else 1.96 + 2.4 / free
            half = t * np.sqrt((residuals**2).sum() / free / spread)
        rows.append((label, size, len(x), slope, slope - half, slope + half, np.exp(intercept)))
    return pd.DataFrame(
        rows, columns=["label", "batch_size", "points", "exponent", "low", "high", "coefficient"]
    )


def readme_growth(table: pd.DataFrame) -> pd.DataFrame:
    """What the README shows of cost against size: each method's exponent with its interval, and milliseconds at the ends.

    A method that was not measured at one of the ends has the size it was measured at in brackets.
    """
    fits = exponents(table)
    return pd.DataFrame(
        {
            "method": fits["label"],
            "exponent": fits["exponent"].map("{:.2f}".format),
            "95 % interval": [
                f"{low:.2f} to {high:.2f}" for low, high in zip(fits["low"], fits["high"], strict=True)
            ],
            "ms at the smallest": [_at_end(table, label, "min") for label in fits["label"]],
            "ms at the largest": [_at_end(table, label, "max") for label in fits["label"]],
        }
    )


def _at_end(table: pd.DataFrame, label: str, end: Literal["min", "max"]) -> str:
    rows = table[table["label"] == label].set_index("items")["p50_ms"]
    size, wanted = getattr(rows.index, end)(), getattr(table["items"], end)()
    return f"{rows[size]:,.1f}" + ("" if size == wanted else f" ({size:,} items)")


RIGHT = 0.99
"""Recall from which a search counts as right enough to be compared."""


def readme_crossing(table: pd.DataFrame) -> pd.DataFrame:
    """What the README shows of lists against walks: for each corpus and batch size, milliseconds of a call, recall, and items
    scored of each method, and the fastest one with a recall of at least `RIGHT`.

    >>> measured = pd.DataFrame({"items": 9, "batch_size": 1, "label": ["a", "b"], "p50_ms": [1.0, 2.0],
    ...                          "recall": [0.5, 1.0], "num_scored": [3.0, 5.0]})
    >>> readme_crossing(measured).values.tolist()
    [['9', '1', '1.00 (0.500, 3)', '2.00 (1.000, 5)', 'b']]
    """
    rows = []
    for (items, size), points in table.groupby(["items", "batch_size"], sort=True):
        cells = {
            p.label: f"{p.p50_ms:.2f} ({p.recall:.3f}, {p.num_scored:,.0f})" for p in points.itertuples()
        }
        right = points[points["recall"] >= RIGHT].sort_values("p50_ms")
        fastest = right["label"].iloc[0] if len(right) else "none"
        rows.append({"items": f"{items:,}", "queries": str(size), **cells, f"fastest at {RIGHT:g}": fastest})
    return pd.DataFrame(rows)


def readme_books(table: pd.DataFrame) -> pd.DataFrame:
    """What the README shows of the largest corpus of a growing one: for each method and batch size, milliseconds of a call,
    how often the reference implementation takes that time, recall, the share of the items whose full score was computed, MB
    beyond the item state, and the exponents of the growth of milliseconds and of scored items.

    >>> measured = pd.DataFrame({"label": "a", "batch_size": 1, "items": [100, 10000], "p50_ms": [1.0, 10.0], "speed_up": 7.0,
    ...                          "recall": 0.995, "num_scored": [50.0, 50.0], "memory_mb": 2.5})
    >>> readme_books(measured).values.tolist()
    [['a', '1', '10.0', '7', '0.995', '0.50 %', '2', '0.50', '0.00']]
    """
    last = table[table["items"] == table["items"].max()]
    keys = ["label", "batch_size"]
    for of in ("p50_ms", "num_scored"):
        fits = exponents(table.dropna(subset=of), of=of)[[*keys, "exponent"]]
        fits["exponent"] = fits["exponent"].round(2) + 0.0  # not "-0.00"
        last = last.merge(fits.rename(columns={"exponent": f"{of} growth"}), on=keys, how="left")

    def text(column: str, form: str, factor: float = 1.0) -> pd.Series:
        return last[column].map(lambda v: "" if np.isnan(v) else form.format(factor * v))

    return pd.DataFrame(
        {
            "method": last["label"],
            "queries per call": last["batch_size"].astype(str),
            "ms per call": text("p50_ms", "{:,.1f}"),
            "speed-up": text("speed_up", "{:,.0f}"),
            "recall": text("recall", "{:.3f}"),
            "items scored": (last["num_scored"] / last["items"]).map(
                lambda v: "" if np.isnan(v) else f"{v:.2%}".replace("%", " %")
            ),
            "index MB": text("memory_mb", "{:,.0f}"),
            "exponent of ms": text("p50_ms growth", "{:.2f}"),
            "exponent of scored": text("num_scored growth", "{:.2f}"),
        }
    )


def books_line(table: pd.DataFrame, batch_size: int = 32) -> str:
    """Of the largest corpus of a growing one, the sentence on the fastest method whose recall is at least `RIGHT`.

    >>> measured = pd.DataFrame({"label": ["a", "b"], "batch_size": 32, "items": 1000, "recall": [0.99, 0.5],
    ...                          "p50_ms": [2.0, 1.0], "speed_up": [4.4, 9.0], "num_scored": [20.0, 5.0]})
    >>> books_line(measured)  # doctest: +NORMALIZE_WHITESPACE
    'Over 1,000 items, a is the fastest whose recall is at least .99: 2.0 ms for 32 queries, 1/4 of the reference
    implementation, with 2.00 % of the items scored.'
    >>> books_line(measured[1:])
    'Over 1,000 items, no method has a recall of at least .99; b comes nearest, with 0.500.'
    """
    rows = table[(table["items"] == table["items"].max()) & (table["batch_size"] == batch_size)]
    rows = rows[rows["recall"].notna()]
    start = f"Over {rows['items'].max():,} items, "
    right = rows[rows["recall"] >= RIGHT].sort_values("p50_ms")
    if right.empty:
        best = rows.sort_values("recall").iloc[-1]
        return (
            f"{start}no method has a recall of at least .99; {best['label']} comes nearest,"
            f" with {best['recall']:.3f}."
        )
    best = right.iloc[0]
    return (
        f"{start}{best['label']} is the fastest whose recall is at least .99: {best['p50_ms']:,.1f} ms for {batch_size}"
        f" queries, 1/{best['speed_up']:.0f} of the reference implementation, with"
        f" {100 * best['num_scored'] / best['items']:.2f} % of the items scored."
    )


def needed(table: pd.DataFrame, items: int) -> pd.DataFrame:
    """What a corpus of `items` would need: label, `largest` (corpus measured), `state_gb`, `index_gb`, `fixed_ms` of a call,
    `ns_per_item` of each of its queries, and `seconds_per_query`.

    The latency of a call of B queries is taken to be fixed_ms + B · ns_per_item · items, fitted to all corpora by least
    squares on relative errors, neither below 0; bytes per item are those of the largest corpus. So nothing is said of caches
    outgrown, nor of an index whose share looked at shrinks as it grows. Where the fixed part is still more than half of a call
    at the largest corpus, what an item costs has not been measured: NaN. `table` is a summary of one batch size with `items`
    and `item_bytes`.
    """
    rows = []
    for label, points in table.groupby("label", sort=False):
        n, ms = points["items"].to_numpy(float), points["p50_ms"].to_numpy(float)
        fixed, slope = _line(n, ms)
        if slope * n.max() < fixed:
            slope = np.nan
        last = points.sort_values("items").iloc[-1]
        rows.append(
            {
                "label": label,
                "largest": int(last["items"]),
                "state_gb": last["item_bytes"] * items / 1e9,
                "index_gb": last["index_mb"] / 1e3 * items / last["items"],
                "fixed_ms": fixed,
                "ns_per_item": 1e6 * slope / last["batch_size"],
                "seconds_per_query": (fixed + slope * items) / 1e3 / last["batch_size"],
            }
        )
    return pd.DataFrame(rows)


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """a and b of y ≈ a + b·x, of the least relative errors, neither negative.

    >>> [round(v, 6) for v in _line(np.array([1.0, 10.0, 100.0]), np.array([5.0, 23.0, 203.0]))]
    [3.0, 2.0]
    """
    columns = np.stack([1 / y, x / y], axis=1)
    a, b = (float(v) for v in np.linalg.lstsq(columns, np.ones_like(y), rcond=None)[0])
    if a >= 0 and b >= 0:
        return a, b
    one = columns[:, 1] if a < 0 else columns[:, 0]
    alone = float(one.sum() / (one**2).sum())
    return (0.0, alone) if a < 0 else (alone, 0.0)


def per_item(table: pd.DataFrame, shapes: pd.DataFrame) -> pd.DataFrame:
    """Bytes kept for an item by each entry at the largest corpus of `table`: a row per label and part.

    Columns: label, `part`, `bytes`. Parts: the item's `components` (fp32), what the state holds besides (`gate and id`), and
    the searcher's own `index`, as measured when it was built; memory is counted in pages, so a small corpus shows little.
    """
    largest = table[table["items"] == table["items"].max()].drop_duplicates("label")
    wide = largest[["label", "workload", "index_mb", "items"]].merge(
        shapes.drop(columns="items"), on="workload"
    )
    components = 4 * wide["item_groups"] * wide["width"]
    parts = {
        "components": components,
        "gate and id": wide["item_bytes"] - components,
        "index": 1e6 * wide["index_mb"] / wide["items"],
    }
    return pd.concat(
        [pd.DataFrame({"label": wide["label"], "part": part, "bytes": b}) for part, b in parts.items()],
        ignore_index=True,
    )


STORED = {"fp32": 4, "bf16": 2, "int8": 1}
"""Bytes of a number in each way of storing components."""


def state_sizes(shapes: pd.DataFrame, items: int) -> pd.DataFrame:
    """GB of an item state of this many items, its components stored in each of `STORED`, the rest as it is: one row each.

    Columns: `components stored as`, `components_gb`, `gate_and_id_gb`, `total_gb`. `shapes` describes one similarity.
    """
    one = shapes.iloc[0]
    numbers = one["item_groups"] * one["width"]
    rest = (one["item_bytes"] - STORED["fp32"] * numbers) * items / 1e9
    table = pd.DataFrame(
        {
            "components stored as": list(STORED),
            "components_gb": [size * numbers * items / 1e9 for size in STORED.values()],
            "gate_and_id_gb": rest,
        }
    )
    return table.assign(total_gb=table["components_gb"] + table["gate_and_id_gb"])
