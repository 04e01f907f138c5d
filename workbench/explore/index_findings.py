"""Findings on learned indexes: how sparse they can be, the ladder to SparCode, paths and their null models, growth."""

from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from workbench.explore.findings import crossing, finding
from workbench.studies.deep_retrieval_studies import TITLES, Similarities
from workbench.studies.study import Study

SEARCHED_BY = {
    "BruteForce": "brute force",
    "PathBeam": "a beam of paths",
    "InvertedIndex": "an inverted index",
}


def not_stored(study: Study) -> Markdown:
    """What stands in place of the table of a study that was not run yet: the command that runs it, and how long it trains.

    How long is not known with other options than the usual.
    """
    usual = study == type(study)()
    training = (
        f", and trains its models in about {study.minutes:g} minutes" if usual and study.minutes else ""
    )
    return Markdown(f"*Not measured here yet:* `{study.command}` computes this table{training}.")


def ladder(table: pd.DataFrame, control: str, unquantized: str, fine_tuned: str) -> Markdown:
    """What each step from a two-tower to SparCode changes; `table` is from the study `sparcode-ladder`, the two-tower first.

    `control`, `unquantized` and `fine_tuned`: its rows of the control, of All-to-All, and of a SparCode trained after it.
    """
    rows = table.set_index("row")
    sentences = []
    for label, name in ((control, "The control"), (unquantized, "All-to-All"), (fine_tuned, "SparCode")):
        if label not in rows.index:
            continue
        row = rows.loc[label]
        verdict = (
            "above" if row["difference_low"] > 0 else "below" if row["difference_high"] < 0 else "no different from"
        )  # fmt: skip
        sentences.append(
            f"{name} ({row['NDCG@10']:.4f}) is {verdict} the two-tower ({rows['NDCG@10'].iloc[0]:.4f}):"
            f" {row['difference']:+.4f}, 95 % interval {row['difference_low']:+.4f} to {row['difference_high']:+.4f}."
        )
    if unquantized in rows.index and fine_tuned in rows.index:
        lost = 1 - rows["NDCG@10"][fine_tuned] / rows["NDCG@10"][unquantized]
        sentences.append(
            f"What codes {'cost' if lost > 0 else 'win'}: the SparCode that starts from All-to-All has {abs(lost):.0%}"
            f" {'less' if lost > 0 else 'more'} NDCG@10."
        )
    untrained = table[table["row"].str.startswith("k-means")]["NDCG@10"]
    if len(untrained):
        sentences.append(
            f"All-to-All's tokens rounded by k-means, without training after it, have {untrained.min():.4f} to"
            f" {untrained.max():.4f}."
        )
    coded = table[table["seen"].notna()].sort_values("NDCG@10")
    if len(coded):
        best = coded.iloc[-1]
        sentences.append(
            f"Of the rows with codes the best in NDCG@10 is *{best['row']}*; {best['seen']:.0%} of the test tokens have a"
            " code that training has seen, and only these find a list in an index."
        )
    return finding(*sentences)


def thresholds(table: pd.DataFrame) -> Markdown:
    """What is left of NDCG@10 by how the threshold was learned; `table` is from the study `sparcode-sparsity`."""
    sentences = []
    ways: list[str] = list(dict.fromkeys(table["threshold_by"].astype(str)))
    for how in ways:
        rows = table[table["threshold_by"] == how]
        at = rows.set_index("index")
        learned, whole = at.loc["learned threshold"], float(at["NDCG@10"]["brute force"])
        cut = rows[rows["sparsity"].notna()].iloc[(rows["sparsity"].dropna() - 0.95).abs().argmin()]
        sentences.append(
            f"By {how} the threshold leaves out {learned['sparsity']:.1%} of the scores, with an NDCG@10 of"
            f" {learned['NDCG@10']:.4f}; cut at {cut['sparsity']:.0%} it is {cut['NDCG@10']:.4f}, and {whole:.4f} if every"
            " score is computed."
        )
        if "two-tower, flat scan" in at.index:
            scan = at.loc["two-tower, flat scan"]
            sentences.append(
                f"The two-tower's flat scan has {scan['NDCG@10']:.4f}, in {scan['p50_ms'] / cut['p50_ms']:.1f} times the time"
                " of that index."
            )
    return finding(*sentences)


def similarities(table: pd.DataFrame) -> pd.DataFrame:
    """The table of the study `similarities` as a reader wants it: models and their indexes by name, units in the headings."""
    return pd.DataFrame(
        {
            "model": [TITLES.get(name, name) for name in table["model"]],
            "NDCG@10": table["NDCG@10"],
            "HR@50": table["HR@50"],
            "searched by": [SEARCHED_BY.get(name, name) for name in table["searched_by"]],
            "ms per query": table["p50_ms"],
            "MiB": table["mebibytes"],
            "ms to build": 1e3 * table["build_seconds"],
            "share scored": table["share_scored"],
        }
    )


def own_indexes(table: pd.DataFrame, base: str, others: Sequence[str]) -> Markdown:
    """Models with their own index next to one that is scanned, by checkpoint; `table` is from the study `similarities`."""
    rows = table.set_index("model")
    if base not in rows.index or not set(others) & set(rows.index):
        return not_stored(Similarities())
    scan, parts, idle = rows.loc[base], [], []
    for name in others:
        if name in rows.index:
            row, title = rows.loc[name], f"*{TITLES.get(name, name)}*"
            share, times, bytes_ = (
                row[column] / scan[column] for column in ("NDCG@10", "p50_ms", "mebibytes")
            )
            parts.append(
                f"{title} has {share:.0%}, in {times:.1f} times the time and {bytes_:.1f} times the memory"
            )
            if share <= 1 and times >= 1 and bytes_ >= 1:
                idle.append(title)
    said = f"Of the NDCG@10 of *{TITLES.get(base, base)}*, {'; '.join(parts)}."
    if not idle:
        return finding(said)
    return finding(
        said, f"Neither quality nor time nor memory is a reason to choose {' or '.join(idle)} at this size."
    )


def paths_and_nulls(table: pd.DataFrame) -> Markdown:
    """Whether paths beat a popularity cut at equal work, and FAISS; `table` is from the study `deep-retrieval`."""
    paths = table[table["popular_of_brute_force"].notna() & (table["share_scored"] < 1)]
    ahead = int((paths["of_brute_force"] > paths["popular_of_brute_force"]).sum())
    sentences = [
        f"In {ahead} of {len(paths)} settings the paths find more than a cut to as many of the most popular items.",
    ]
    if len(paths):
        fastest = paths["times_brute_force"].min()
        sentences.append(
            f"The fastest of them takes {fastest:.1f} times the time of brute force over all items."
        )
    own = paths[~paths["index"].str.contains("own reranker")]
    near = own[own["recall@10"] >= 0.9]
    faiss = table[table["index"].str.startswith("FAISS") & (table["recall@10"] >= 0.9)]
    for found, name in ((near, "Paths on these queries"), (faiss, "FAISS's cells")):
        if found.empty:
            sentences.append(f"{name} reach no recall of 90 % here.")
        else:
            least = found.sort_values("share_scored").iloc[0]
            sentences.append(
                f"{name} reach a recall of 90 % by scoring {least['share_scored']:.0%} of the items (*{least['index']}*,"
                f" {least['effort']}), in {least['times_brute_force']:.1f} times the time of brute force."
            )
    return finding(*sentences)


def followed(walked: pd.DataFrame, shown: pd.DataFrame) -> Markdown:
    """Whether a user's beam reached the held-out item and the reranker showed it; from `walk` and `recommendations`."""
    paths = [int(place) + 1 for place in walked["holds_next"].to_numpy().nonzero()[0]]
    places = shown.loc[shown["held_out"], "place"]
    if not paths:
        return finding(
            f"The held-out item is on none of the {len(walked)} paths of this beam, so it was never scored and cannot be found."
        )
    numbers = " and ".join(map(str, paths))
    reached = f"Of the {len(walked)} paths of this beam, the most probable first, the held-out item is on number {numbers};"
    if places.empty:
        return finding(
            reached, f"among all items found there the reranker does not place it in the first {len(shown)}."
        )
    return finding(reached, f"the reranker puts it in place {places.iloc[0]}.")


def path_growth(table: pd.DataFrame, recall: float = 0.95) -> Markdown:
    """The fastest setting of each index at a recall, by corpus size; `table` is from the study `deep-retrieval-growth`."""
    sentences = []
    for items, rows in table.groupby("items"):
        parts = []
        for name in ("path beam", "FAISS IVF"):
            enough = rows[(rows["searcher"] == name) & (rows["recall@10"] >= recall)]
            if enough.empty:
                parts.append(f"{name} does not reach it")
                continue
            best = enough.sort_values("p50_ms").iloc[0]
            parts.append(
                f"{name} takes {best['of_brute_force']:.2f} times the time of brute force ({best['setting']},"
                f" {best['share_scored']:.1%} scored)"
            )
        sentences.append(f"At {items:,} items and a recall of {recall:.0%}, {' and '.join(parts)}.")
    return finding(*sentences)


def sparsity(sweep: pd.DataFrame, metric: str = "NDCG@10") -> Markdown:
    """How much of an index can be left out; `sweep` is from `sparsity_sweep`, brute force last."""
    whole = float(sweep[metric].iloc[-1])
    rows = sweep[sweep["sparsity"].notna()]
    kept = rows[rows[metric] >= 0.95 * whole]
    sentences = []
    if kept.empty:
        sentences.append(f"No index here keeps 95 % of brute force's {metric}.")
    else:
        sentences.append(
            f"95 % of brute force's {metric} is kept up to a sparsity of {kept['sparsity'].max():.1%}:"
            f" {'most' if kept['sparsity'].max() > 0.5 else 'less than half'} of the index can be left out."
        )
    for level in (0.9, 0.99):
        near = rows.iloc[(rows["sparsity"] - level).abs().argsort().iloc[:1]].iloc[0]
        sentences.append(f"At {near['sparsity']:.1%} it is {near[metric] / whole:.0%} of brute force's.")
    learned = sweep[sweep["index"] == "learned threshold"] if "index" in sweep else rows.iloc[:0]
    if len(learned):
        sentences.append(f"The learned threshold leaves out {learned['sparsity'].iloc[0]:.1%}.")
    times = rows["p50_ms"] / sweep["p50_ms"].iloc[-1]
    spread = f"{times.min():.2f} to {times.max():.2f} times the time of brute force"
    faster = int((times < 1).sum())
    sentences.append(
        f"A query takes {spread}: {faster} of the {len(rows)} indexes are faster."
        if faster
        else f"A query takes {spread}: no index is faster at this size."
    )
    return finding(*sentences)


def list_lengths(curves: pd.DataFrame, items: int) -> Markdown:
    """How long a code's lists must be to keep nine tenths of NDCG@10 and HR@50; `curves` have `curve`, `x`, `y`."""
    sentences = []
    for metric in ("NDCG@10", "HR@50"):
        length = crossing(curves[curves["curve"] == metric], "x", "y", 0.9)
        took = (
            "none of these lists"
            if length is None
            else f"lists of {length.x:,.0f} items, {length.x / items:.0%} of the catalogue"
        )
        sentences.append(f"Nine tenths of {metric} are kept by {took}.")
    return finding(*sentences)


def towers(
    table: pd.DataFrame,
    control: str = "inner product of aligned tokens",
    base_model: str = "two-tower, inner product",
) -> Markdown:
    """Behind which encoders All-to-All and SparCode beat the control without an MLP and without codes, in NDCG@10.

    Also whether the published order appears, and whether the control is above the two-tower. `table` has `tower`, `method`,
    `NDCG@10`, `low`, `high`; a difference counts if the intervals do not overlap.
    """
    sentences, published, scaled = [], [], []
    for tower, rows in table[table["tower"] != "none"].groupby("tower", sort=False):
        found = rows.set_index("method")
        if not {control, base_model} <= set(found.index):
            continue
        base, parts = found.loc[control], []
        two_tower = found.loc[base_model]
        if found["NDCG@10"]["All-to-All"] > found["NDCG@10"]["SparCode"] > two_tower["NDCG@10"]:
            published.append(str(tower))
        if base["low"] > two_tower["high"]:
            scaled.append(str(tower))
        for method in ("All-to-All", "SparCode"):
            row = found.loc[method]
            verdict = (
                "above"
                if row["low"] > base["high"]
                else "below"
                if row["high"] < base["low"]
                else "no different from"
            )
            parts.append(f"{method} ({row['NDCG@10']:.4f}) is {verdict} the control")
        sentences.append(
            f"Behind {tower}, where the control has {base['NDCG@10']:.4f}, {' and '.join(parts)}."
        )
    where = f"appears behind {' and '.join(published)}" if published else "does not appear"
    sentences.insert(0, f"The published order, All-to-All before SparCode before the two-tower, {where}.")
    if scaled:
        sentences.append(
            f"Behind {' and '.join(scaled)} the control itself is above the two-tower: there, how inputs are scaled and"
            " initialised lifts a model without any interaction."
        )
    return finding(*sentences)


def beams(found: pd.DataFrame) -> Markdown:
    """How wide a beam finds nine tenths of brute force's list and of its hits; `found` is from `beam_recall`."""
    sentences = []
    for column, what in (("recall", "best ten"), ("of_brute_force", "hits")):
        width = crossing(found, "beam", column, 0.9)
        if width is None:
            sentences.append(f"No beam here finds nine tenths of brute force's {what}.")
        else:
            scored = found.set_index("beam")["scored"][width.x]
            sentences.append(
                f"Nine tenths of brute force's {what} need a beam of {width.x:,.0f}, which scores {scored:.0%} of the corpus."
            )
    partial = found[found["scored"] < 1]  # over the whole corpus both are brute force
    behind = int((partial["of_brute_force"] < partial["popular_of_brute_force"]).sum())
    sentences.append(
        f"At {behind} of the {len(partial)} beams that score less than everything, the same reranker finds more hits among an"
        " equal number of the most popular items than on the paths."
    )
    if (found["of_brute_force"] > 1).any():
        sentences.append(
            "Some beams have more hits than brute force: the items that the paths leave out include its mistakes."
        )
    return finding(*sentences)
