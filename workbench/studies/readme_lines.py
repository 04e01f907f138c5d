"""The first table and the sentences of README, computed from the tables of `reports/tables`."""

from pathlib import Path
from typing import Any

import pandas as pd

from workbench.studies.fair_studies import Fair, over_seeds
from workbench.studies.sections import FAIR, FAIR_TEMPERATURE, ORDER_FREE, TEXT
from workbench.studies.seeds import format_seeds

GLANCE = (
    ("MovieLens 1M, HSTU, 24 epochs", "seeds-ml-1m-cpu-hstu-dot"),
    ("embedded data, HSTU", "seeds-embedded-small-quick-hstu-dot"),
    ("embedded data, SASRec", "seeds-embedded-small-quick-sasrec-dot"),
)
"""The comparisons of a dot product with a mixture in the README, and the tables they come from."""


PUBLISHED_SIZE = {
    "MovieLens 1M, HSTU of the published size": (FAIR, "dot", "mol"),
    "… a dot product of as many floats per item": (FAIR, "dot-wide", "mol"),
    "… both at twice the temperature": (FAIR_TEMPERATURE, "dot-temperature-0.1", "mol-temperature-0.1"),
}
"""The study of equal terms, and the dot product and the mixture in it, that each of the README's first rows holds."""


def _ends(row: Any) -> str:
    return f"{row['ahead_low']:+.4f} to {row['ahead_high']:+.4f}"


def at_a_glance(tables: Path) -> pd.DataFrame:
    """NDCG@10 of a dot product and of MoL over seeds, their paired difference, and the number of seeds; as text."""
    text = _of_text_heads(tables, "NDCG@10")
    dot, mixture = text.loc["dot-2"], text.loc["mol-2"]
    low, high = mixture["difference_low"], mixture["difference_high"]
    row = {"setting": "reverse dictionary, MiniLM", "seeds": f"{mixture['seeds']:.0f}"}
    row |= {"dot product": f"{dot['value']:.4f}", "MoL": f"{mixture['value']:.4f}"}
    rows = [row | {"difference": f"{mixture['difference']:+.4f} ({low:+.4f} to {high:+.4f} over words)"}]
    for title, (study, *kinds) in PUBLISHED_SIZE.items():
        fair = _fair_ranking(tables, study)
        dot, mol = (fair.loc[f"fair/hstu-{kind}"] for kind in kinds)
        row = {"setting": title, "seeds": f"{dot['shared']:.0f}"}
        shared = _of_seeds(mol) if dot["shared"] == mol["seeds"] else f"{dot['value'] + dot['ahead']:.4f}"
        row |= {"dot product": _of_seeds(dot), "MoL": shared}
        gap = f"{dot['ahead']:+.4f}{over_seeds(dot['ahead_std'])}"
        rows.append(row | {"difference": f"{gap} ({_ends(dot)} over users)"})
    for title, file in GLANCE:
        table = format_seeds(pd.read_csv(tables / f"{file}.csv"))
        dot, mixture = table["model"][:2]
        dot, mixture, difference = table.set_index("model")["NDCG@10"][[dot, mixture, f"{mixture} − {dot}"]]
        row = {"setting": title, "seeds": table["seeds"].iloc[0], "dot product": dot, "MoL": mixture}
        rows.append(row | {"difference": difference})
    return pd.DataFrame(rows).rename(columns={"dot product": "NDCG@10, dot product", "MoL": "NDCG@10, MoL"})


def _fair_ranking(tables: Path, study: Fair) -> pd.DataFrame:
    """The NDCG@10 of a table of the study `fair`, by model."""
    table = pd.read_csv(tables / f"{study.file}.csv")
    return table[table["metric"] == "NDCG@10"].set_index("model")


def fair_line(tables: Path) -> str:
    """What the study of equal terms shows of MoL at the published temperature and at twice that, as the sentences of README."""
    published = _fair_ranking(tables, FAIR).loc["fair/hstu-dot"]
    higher = _fair_ranking(tables, FAIR_TEMPERATURE).loc["fair/hstu-dot-temperature-0.1"]
    first, second = (
        bool(row["ahead_low"] > 0 and row["ahead"] > row["ahead_std"]) for row in (published, higher)
    )
    head = {
        (True, True): "the mixture is ahead of the dot product",
        (False, True): "the mixture is a little ahead, at twice the published temperature",
        (True, False): "the mixture is ahead at the published temperature alone",
        (False, False): "no lead of the mixture is shown that is larger than what seeds differ by",
    }
    return (
        f"**MovieLens 1M: {head[first, second]}.** At the published size the mixture minus the dot product is"
        f" {_difference(published)}; if both are trained at twice the temperature, {_difference(higher)}."
    )


def _difference(row: Any) -> str:
    seeds = "one seed" if row["shared"] == 1 else f"{row['shared']:.0f} seeds"
    more = "more" if row["ahead"] > row["ahead_std"] else "less"
    verdict = "" if row["shared"] == 1 else f": {more} than seeds differ"
    return f"{row['ahead']:+.4f}{over_seeds(row['ahead_std'])} over {seeds} (95 % interval {_ends(row)} over users){verdict}"


def _of_seeds(row: Any) -> str:
    return f"{row['value']:.4f}{over_seeds(row['std'])}"


def order_free_line(tables: Path) -> str:
    """What data without order show, as the sentences of README."""
    table = pd.read_csv(tables / f"{ORDER_FREE.file}.csv").set_index("method")
    is_trained = table.index.isin(ORDER_FREE.models)
    trained, plain = table[is_trained], table[~is_trained].sort_values("NDCG@10", ascending=False)
    names = [name.partition(",")[0] for name in plain.index]
    verdict = (
        "ahead of every trained model" if (trained["ahead_high"] < 0).all() else "not ahead of every one"
    )
    values = ", ".join(f"{value:.3f} by {name}" for name, value in zip(names, plain["NDCG@10"], strict=True))
    return (
        f"**Book-Crossing, without order: {names[0]} is {verdict}.** NDCG@10 is {values}, and {trained['NDCG@10'].max():.3f} by"
        f" the best model trained for minutes, `{trained['NDCG@10'].idxmax()}`."
    )


def text_line(tables: Path) -> str:
    """The sentences of the README on text retrieval, from the stored table."""
    rows = _of_text_heads(tables, "Hit@10")
    value = rows["value"].map("{:.3f}".format)
    mixture, late, pooled = (rows.loc[way] for way in ("mol-2", "maxsim-1-all-tokens", "dot-1"))
    ahead = {
        "the mixture": bool(mixture["difference_low"] > 0),
        "late interaction": bool(late["difference_low"] > 0),
    }
    return (
        f"**Text: {_leads(ahead)}.** From a definition to its sense among 117,659 (MiniLM, frozen), Hit@10 is {value['BM25']}"
        f" by BM25, {value['zero-shot']} by the cosine, {value['dot-2']} by a trained dot product, {value['mol-2']} by a"
        f" mixture of its size ({_paired(mixture)}) and {value['maxsim-1-all-tokens']} by MaxSim over all tokens"
        f" ({_paired(late)}, at {late['floats'] / pooled['floats']:.0f} times the floats per document)."
    )


def _of_text_heads(tables: Path, metric: str) -> pd.DataFrame:
    """The rows of all test queries, by way of searching."""
    table = pd.read_csv(tables / f"{TEXT.file}.csv")
    return table[(table["subset"] == "all") & (table["metric"] == metric)].set_index("way")


def _leads(ahead: dict[str, bool]) -> str:
    """Who is ahead of a dot product, and who is not.

    >>> _leads({"a": True, "b": True}), _leads({"a": False, "b": True}), _leads({"a": False, "b": False})
    ('a and b are ahead of a dot product', 'b is ahead of a dot product, a is not', 'nothing is ahead of a dot product')
    """
    first, rest = (
        [name for name, is_ahead in ahead.items() if is_ahead == wanted] for wanted in (True, False)
    )
    if not first:
        return "nothing is ahead of a dot product"
    verb = "are" if len(first) > 1 else "is"
    return f"{' and '.join(first)} {verb} ahead of a dot product" + "".join(
        f", {name} is not" for name in rest
    )


def _paired(row: Any) -> str:
    low, high = row["difference_low"], row["difference_high"]
    return f"{row['difference']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
