"""How the tables of `reports/tables` are shown on the page of results: as text, fewer columns, one row per method."""

from collections.abc import Callable

import pandas as pd

from workbench.bench.certificates import totals
from workbench.bench.tables import average_claim, readme, shown
from workbench.bench.training import summary
from workbench.evaluation.switchboard import AS_STRICT, one_switch, switches_of, under
from workbench.models.measurements import MEASURED_BY

ORIGIN = ["machine", "commit"]
"""The columns with the origin of a table."""


def as_measured(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: fractions with four significant digits, columns of one long text left out.

    >>> as_measured(pd.DataFrame({"method": ["dot"], "HR@10": [0.26887], "scored": [3883.0]})).values.tolist()
    [['dot', '0.2689', '3,883']]
    """
    kept = table.drop(columns=[c for c in table if c in ("protocol", MEASURED_BY, *ORIGIN)])
    return pd.DataFrame({str(c).replace("_", " "): [_number(v) for v in kept[c]] for c in kept})


def by_metric(table: pd.DataFrame) -> pd.DataFrame:
    """A table of one row per method and metric with a row per method: `mean ± deviation`, or the value alone.

    >>> by_metric(pd.DataFrame({"method": ["a"], "metric": ["MRR"], "value": [0.5]})).values.tolist()
    [['a', '0.5000']]
    """
    cells = (
        table["value"].map("{:.4f}".format)
        if "value" in table
        else table["mean"].map("{:.4f}".format) + table["std"].map(" ± {:.4f}".format)
    )
    wide = table.assign(cell=cells).pivot(index="method", columns="metric", values="cell")
    order = list(dict.fromkeys(table["method"])), list(dict.fromkeys(table["metric"]))
    return wide.loc[order[0], order[1]].rename_axis(columns=None).reset_index()


def of_text(table: pd.DataFrame) -> pd.DataFrame:
    """All test queries: a row per way of searching, a column per metric, and the paired difference of Hit@10."""
    rows = table[table["subset"] == "all"]
    wide = rows.pivot(index="way", columns="metric", values="value").map("{:.3f}".format)
    ten = rows[rows["metric"] == "Hit@10"].set_index("way")
    wide["Hit@10, 95 %"] = ten["low"].map("{:.3f}".format) + "–" + ten["high"].map("{:.3f}".format)
    interval = (
        ten["difference_low"].map("{:+.3f}".format) + " to " + ten["difference_high"].map("{:+.3f}".format)
    )
    wide["difference"] = (ten["difference"].map("{:+.3f}".format) + " (" + interval + ")").where(
        ten["against"].notna(), ""
    )
    wide["against"] = ten["against"].fillna("")
    facts = [column for column in ("seeds", "parameters", "floats") if column in ten]
    for column in facts:
        wide[column] = ten[column].map("{:,.0f}".format, na_action="ignore").fillna("")
    order = list(dict.fromkeys(rows["way"]))
    metrics = ["Hit@1", "Hit@10", "Hit@10, 95 %", "Hit@100", "MRR@100", "NDCG@10"]
    return (
        wide.loc[order, [*metrics, "difference", "against", *facts]].rename_axis(columns=None).reset_index()
    )


def of_text_subsets(table: pd.DataFrame) -> pd.DataFrame:
    """Hit@10 by way of searching and kind of query, with the number of queries of each kind."""
    rows = table[table["metric"] == "Hit@10"]
    counts = rows.drop_duplicates("subset").set_index("subset")["queries"]
    wide = rows.pivot(index="way", columns="subset", values="value").map("{:.3f}".format)
    wide = wide.loc[list(dict.fromkeys(rows["way"])), list(counts.index)]
    named = {subset: f"{subset} ({count:,})" for subset, count in counts.items()}
    return wide.rename(columns=named).rename_axis(columns=None).reset_index()


def of_search(workload: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The rows of one workload of `workbench bench search`, 32 queries per call, k = 100."""
    return lambda table: readme(table, workload)


def of_text_search(table: pd.DataFrame) -> pd.DataFrame:
    """The searchers of a text head, with their speed over brute force: 32 queries per call, k = 10."""
    rows = table[(table["batch_size"] == 32) & (table["k"] == 10)].reset_index(drop=True)
    columns = ["method", "p50 ms", "recall", "relative HR", "certified", "scored", "MB"]
    return shown(rows)[columns].assign(**{"× brute force": rows["vs_brute_force"].map("{:.2f}".format)})


def text_search_findings(table: pd.DataFrame) -> str:
    """What became of the published claim on text, for the best 10 and the best 100 of 32 queries per call."""
    rows = table[table["batch_size"] == 32]
    return " ".join(average_claim(rows[rows["k"] == k]) for k in (10, 100))


def of_protocols(table: pd.DataFrame) -> pd.DataFrame:
    """What each choice of protocol adds to NDCG@10 or takes from it."""
    found = one_switch(table, "NDCG@10")
    for method in found.columns[2:]:
        found[method] = [f"{v:.4f}" if row == 0 else f"{v:+.4f}" for row, v in enumerate(found[method])]
    return found


def of_choices(table: pd.DataFrame) -> pd.DataFrame:
    """The same of choices that needed training again, with the users that are evaluated."""
    found = of_protocols(table)
    counts = {
        name: under(table, {"training": name})["users"].iloc[0] for name in switches_of(table)["training"]
    }
    found = found[found["switch"].isin(["strict", "training"])].drop(columns="switch").reset_index(drop=True)
    found["value"] = found["value"].replace("", AS_STRICT)
    return found.assign(users=[f"{counts[name]:,}" for name in found["value"]]).rename(
        columns={"value": "training"}
    )


def of_certificates(table: pd.DataFrame) -> pd.DataFrame:
    """What came of the searches of each searcher, of all similarities together."""
    return as_measured(totals(table))


def of_training(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds per training step by preset and implementation, and how many times faster than the published code."""
    found = summary(table)
    theirs = found[found["implementation"] == "published code"].set_index("preset")["median"]
    if len(theirs):
        found["over published"] = (found["preset"].map(theirs) / found["median"]).map("{:.2f}".format)
    for column in ("median", "min", "max", "speed-up"):
        found[column] = found[column].map("{:.2f}".format)
    return found.assign(memory_gib=found["memory_gib"].map("{:.1f}".format))


def _number(value: object) -> str:
    if isinstance(value, float):
        if pd.isna(value):
            return ""
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
