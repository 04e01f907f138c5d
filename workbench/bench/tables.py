"""Tables derived from the raw ones of a run: latency, quality against brute force, and both side by side."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.bench.methods import PUBLISHED, REFERENCE
from workbench.bench.roofline import roofline
from workbench.bench.run import Raw
from workbench.evaluation.latency import percentiles
from workbench.evaluation.published import published

TIE = 1e-4
"""Scores within this of the k-th best, or this part of it, count as tied with it: rounding differs between kernels."""

GROUP = ["workload", "batch_size", "k"]


def latency(calls: pd.DataFrame) -> pd.DataFrame:
    """One row per workload, label, batch size and k: `calls`, `p50_ms`, `p95_ms`, `p99_ms`, `qps`, `fraction`, and the
    ratios of medians `speed_up` (over the reference implementation) and `vs_brute_force`, 1 or more if faster; NaN without the
    other.

    Times of a part of the corpus are divided by its `fraction` of the items: see `ReferenceImplementation`.
    """
    whole = calls.assign(seconds=calls["seconds"] / calls["fraction"])
    parts = []
    for size, rows in whole.groupby("batch_size", sort=False):
        parts.append(percentiles(rows, int(str(size)), ["workload", "label", "batch_size", "k"]))
    table = pd.concat(parts, ignore_index=True)
    fractions = calls.groupby(["workload", "label", "batch_size", "k"])["fraction"].first().reset_index()
    table = table.merge(fractions, on=["workload", "label", "batch_size", "k"])
    for name, label in (("speed_up", PUBLISHED), ("vs_brute_force", REFERENCE)):
        other = table[table["label"] == label][[*GROUP, "p50_ms"]].rename(columns={"p50_ms": "other"})
        table[name] = table[GROUP].merge(other, on=GROUP, how="left")["other"].to_numpy() / table["p50_ms"]
    return table


def overlap(
    ids: NDArray[np.int64],
    scores: NDArray[np.float64],
    true_ids: NDArray[np.int64],
    true_scores: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Recall@k of each query against the true top k: the share of the true places that are filled rightly.

    A returned item counts if it is one of the true ones or scores the same as the last of them (within `TIE`): which of
    equals is returned is no matter. All arrays are (Q, k), −1 and −inf past the end; 1 if there is nothing to find.

    >>> true, s = np.array([[1, 2]]), np.array([[5.0, 4.0]])
    >>> overlap(np.array([[1, 3]]), np.array([[5.0, 4.0]]), true, s), overlap(np.array([[1, 3]]), s - 1, true, s)
    (array([1.]), array([0.5]))
    """
    places = (true_ids >= 0).sum(1)
    last = np.where(true_ids >= 0, true_scores, np.inf).min(1, keepdims=True)
    last = np.where(np.isfinite(last), last, 0)
    tied = np.abs(scores - last) <= TIE * np.maximum(1, np.abs(last))
    own = np.sort(true_ids, axis=1)
    span = int(max(ids.max(initial=0), true_ids.max(initial=0))) + 2
    offsets = span * np.arange(len(ids))[:, None]
    member = np.isin(ids + offsets, (own + offsets)[own >= 0])  # one sorted set for all queries
    found = ((member | tied) & (ids >= 0)).sum(1)
    return np.where(places == 0, 1.0, np.minimum(found, places) / np.maximum(places, 1))


def per_query(answers: pd.DataFrame, references: Mapping[str, str] | None = None) -> pd.DataFrame:
    """A row for each answered query that its reference answered too: workload, label, k, query, `recall`, `exact`, `hit`,
    `true_hit` (the target was in the list, and in that of brute force; NaN without a target), `num_scored`, `gap`.

    `references`: by label, the one whose lists recall is against, if it is not brute force. A query that was answered
    more than once (in batches of several sizes) counts once, as it was answered last.
    """
    once = answers.drop_duplicates(["workload", "label", "k", "query"], keep="last")
    once = once.assign(reference=[(references or {}).get(label, REFERENCE) for label in once["label"]])
    at, lists = ["workload", "k", "query"], ["ids", "scores"]
    true = once[once["label"].isin(set(once["reference"]))][[*at, "label", *lists]]
    both = once.merge(
        true.rename(columns={"label": "reference"}), on=[*at, "reference"], suffixes=("", "_true")
    )
    first = once[once["label"] == REFERENCE][[*at, "ids"]]
    both = both.merge(first, on=at, suffixes=("", "_first"))
    parts = []
    for _, rows in both.groupby(["workload", "label", "k"], sort=False):
        ids, scores, true_ids, true_scores, first_ids = (
            np.stack(list(rows[name])) for name in ("ids", "scores", "ids_true", "scores_true", "ids_first")
        )
        target = rows["target"].to_numpy()
        known = target > 0
        parts.append(
            rows[["workload", "label", "k", "query", "exact", "gap", "num_scored"]].assign(
                recall=overlap(
                    ids.astype("int64"),
                    scores.astype("float64"),
                    true_ids.astype("int64"),
                    true_scores.astype("float64"),
                ),
                hit=np.where(known, (ids == target[:, None]).any(1), np.nan),
                true_hit=np.where(known, (first_ids == target[:, None]).any(1), np.nan),
            )
        )
    return pd.concat(parts, ignore_index=True)


def quality(answers: pd.DataFrame, references: Mapping[str, str] | None = None) -> pd.DataFrame:
    """One row per workload, label and k: how its lists compare with those of brute force on the same queries.

    `queries`; `recall`, the mean overlap, under a score of its own with brute force under that score (see `per_query`);
    `hit_rate`, the share of queries whose label it found; `relative_hr`, its label hits over the `label_hits` of brute force
    (the measure of the published tables; NaN without labels or hits, and rough if hits are few); `certified`, the share
    with a proof; `matches_brute_force`, the share with recall 1; `false_certificates`, proofs of what was wrong (a bug, if not
    0); `num_scored`, the mean number of pairs scored in full.
    """
    rows = per_query(answers, references)
    rows = rows.assign(
        matches_brute_force=rows["recall"] == 1, false_certificates=rows["exact"] & (rows["recall"] < 1)
    )
    grouped = rows.groupby(["workload", "label", "k"], sort=False)
    table = grouped.agg(
        queries=("query", "size"), recall=("recall", "mean"), certified=("exact", "mean"),
        matches_brute_force=("matches_brute_force", "mean"), false_certificates=("false_certificates", "sum"),
        num_scored=("num_scored", "mean"),
        hit_rate=("hit", "mean"),
    )  # fmt: skip
    hits, true = grouped["hit"].sum(min_count=1), grouped["true_hit"].sum(min_count=1)
    table["relative_hr"], table["label_hits"] = hits / true.where(true > 0), true
    return table.reset_index()


def summary(raw: Raw) -> pd.DataFrame:
    """Everything of a run in one table: one row per workload, batch size, k, and entry, in the order of measurement.

    The columns of `side_by_side` and those of `roofline`.
    """
    table = side_by_side(raw.calls, raw.answers, raw.builds, raw.memory, raw.entries, raw.shapes)
    return roofline(table, raw.shapes, raw.ceilings)


def side_by_side(
    calls: pd.DataFrame,
    answers: pd.DataFrame,
    builds: pd.DataFrame,
    memory: pd.DataFrame,
    entries: pd.DataFrame,
    shapes: pd.DataFrame,
) -> pd.DataFrame:
    """The raw tables of a run (see `Raw`) in one, less what a machine's ceilings say.

    Columns: those of `latency` and `quality`, the entry's `method` and `setting`, `own_score` (it searches under a score
    of its own, and its recall is against brute force under that), the corpus's `items` and
    `item_bytes` (the item state, per item), `index_mb` (held beyond the
    item state), `call_mb` (the peak of a call) and `memory_mb`, their sum; `build_s`, and `build_mb`, the peak of the build.
    """
    references = None
    if "reference" in entries:  # which runs that were stored before did not have
        references = dict(zip(entries["label"], entries["reference"], strict=True))
    settings = entries.drop(columns="reference", errors="ignore")
    table = latency(calls).merge(settings, on="label", how="left")
    table["own_score"] = [(references or {}).get(label, REFERENCE) != REFERENCE for label in table["label"]]
    table = table.merge(quality(answers, references), on=["workload", "label", "k"], how="left")
    builds = builds.rename(columns={"seconds": "build_s"})
    builds["index_mb"] = builds.pop("kept_bytes") / 1e6
    if "peak_bytes" in builds:  # which runs that were stored before did not have
        builds["build_mb"] = builds.pop("peak_bytes") / 1e6
    any_size = builds[builds["batch_size"] == 0].drop(columns="batch_size")
    table = table.merge(any_size, on=["workload", "label"], how="left")
    peaks = memory.assign(call_mb=memory["peak_bytes"] / 1e6).drop(columns="peak_bytes")
    table = table.merge(peaks, on=["workload", "label", "batch_size", "k"], how="left")
    table = table.merge(shapes[["workload", "items", "item_bytes"]], on="workload", how="left")
    table["index_mb"] = table["index_mb"].fillna(0.0)
    table["memory_mb"] = table["index_mb"] + table["call_mb"]
    # The reference implementation on a part: its memory grows with N as its time does.
    for name in ("call_mb", "memory_mb"):
        table[name] = table[name] / table["fraction"]
    places = {name: place for place, name in enumerate(calls["workload"].unique())}  # as they were measured
    table = table.assign(place=table["workload"].map(places))
    table = table.sort_values(["place", "batch_size", "k"], kind="stable", ignore_index=True)
    return table.drop(columns="place")


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of a summary that a reader wants, as text: what the command prints and the README shows."""
    speed = pd.DataFrame(
        {
            "workload": table["workload"],
            "B": table["batch_size"].astype(str),
            "k": table["k"].astype(str),
            "method": table["label"].where(
                table["fraction"] == 1, table["label"] + _scaled(table["fraction"])
            ),
            "p50 ms": table["p50_ms"].map(_three),
            "p95 ms": table["p95_ms"].map(_three),
            "× reference implementation": table["speed_up"].map(_three),
            "recall": table["recall"].map(_share),
            "relative HR": table["relative_hr"].map(_share),
            "certified": table["certified"].map(_share),
            "matches brute force": table["matches_brute_force"].map(_share),
            "scored": table["num_scored"].map(lambda w: "" if np.isnan(w) else f"{w:,.0f}"),
            "MB": table["memory_mb"].map(_three),
            "of roofline": table["of_roofline"].map(_share),
        }
    )
    return speed


def readme(table: pd.DataFrame, workload: str, batch_size: int = 32, k: int = 100) -> pd.DataFrame:
    """What the README shows of a stored summary: `shown` for one workload, batch size and k, without columns that are the
    same in all rows."""
    rows = table[(table["workload"] == workload) & (table["batch_size"] == batch_size) & (table["k"] == k)]
    return shown(rows).drop(columns=["workload", "B", "k", "p95 ms"]).reset_index(drop=True)


PUBLISHED_SPEED = 66
"""How many times as fast as brute force the average's 100 best were on NQ320K, with no loss (RAILS, Table 5)."""


def average_claim(table: pd.DataFrame, n2: int = 100) -> str:
    """Sentences: whether the `n2` best by the average of the components, rescored, lose nothing on text, as was published.

    `table` is a summary of one workload, batch size and k, with that row.
    """
    row = table.set_index("label").loc[f"average (n2={n2})"]
    kept = f"{row['recall']:.1%} of the true top {row['k']:.0f}"
    hits = (
        ""
        if np.isnan(row["relative_hr"])
        else f", find {row['relative_hr']:.1%} of the answers that it finds,"
    )
    full, fast = row["recall"] >= 0.99, row["vs_brute_force"] >= PUBLISHED_SPEED
    verdict = (
        "The claim holds here."
        if full and fast
        else f"Here the recall is {'full' if full else 'not full'}, and the speed {'is' if fast else 'is not'} reached."
    )
    ratio = row["vs_brute_force"]
    pace = f"are {ratio:.2f} times as fast" if ratio >= 1 else f"take {1 / ratio:.2f} times as long"
    return (
        f"The {n2} best by the average, rescored, hold {kept} of brute force{hits} and {pace}"
        f" ({row['p50_ms']:.3g} ms for {row['batch_size']:.0f} queries). Published for NQ320K on a GPU: no loss at"
        f" {PUBLISHED_SPEED} times the speed. {verdict}"
    )


def readme_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Brute force next to the reference implementation at the published sizes with random weights, by size and batch."""
    random = table[
        table["workload"].str.endswith(", random weights") & table["method"].isin([PUBLISHED, REFERENCE])
    ]
    text = shown(random).assign(items=random["items"].map("{:,}".format))
    published, brute = (
        text[random["method"] == name].reset_index(drop=True) for name in (PUBLISHED, REFERENCE)
    )
    return pd.DataFrame(
        {
            "size": brute["workload"].str.removesuffix(", random weights"),
            "items": brute["items"],
            "queries": brute["B"],
            "reference implementation ms": published["p50 ms"],
            "brute force ms": brute["p50 ms"],
            "× reference implementation": brute["× reference implementation"],
            "MB": brute["MB"],
            "of roofline": brute["of roofline"],
        }
    )


def _scaled(fractions: pd.Series) -> pd.Series:
    return fractions.map(lambda f: f", from {f:.1%} of the items")


def _three(value: float) -> str:
    """Three digits: 0.0123, 1.23, 123, 12,300."""
    if not np.isfinite(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def _share(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else ""


METHODS_OF = {
    "BruteForce": REFERENCE,
    "TopKPerEmbd": "per component",
    "TopKAvg": "average",
    "CombTopK": "combined",
}
"""What the published tables call our methods."""


def published_searches(dataset: str, k: int) -> pd.DataFrame:
    """The published Table 5 for a dataset ("ML-20M", "Amazon-Books", "NQ320K") in the columns of a summary.

    label, method, setting, k, `relative_hr` (at k, against labels; not an overlap with the true top k) and `p50_ms` (per
    batch of 32, on an RTX 6000 Ada). Empty if nothing was published.
    """
    rows = published(dataset, source="Table 5")
    wide = rows.pivot(index="method", columns="metric", values="value").reindex(rows["method"].unique())
    if f"relHR@{k}" not in wide:
        wide = wide.iloc[:0].assign(
            **{f"relHR@{k}": pd.Series(dtype=float), "latency_ms": pd.Series(dtype=float)}
        )
    names = wide.index.to_series().str.extract(r"^(?P<name>\D+)(?P<setting>.*)$")
    return pd.DataFrame(
        {
            "label": wide.index,
            "method": names["name"].map(METHODS_OF).fillna(names["name"]).to_numpy(),
            "setting": names["setting"].to_numpy(),
            "k": k,
            "relative_hr": wide[f"relHR@{k}"].to_numpy(),
            "p50_ms": wide["latency_ms"].to_numpy(),
        }
    )
