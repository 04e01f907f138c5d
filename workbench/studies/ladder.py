"""From a two-tower model to SparCode: quality, memory, latency, and how many of the codes are known before they are needed."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.contracts import ItemState, QueryState
from workbench.data import Sequences
from workbench.evaluation.bootstrap import intervals
from workbench.evaluation.latency import in_turns
from workbench.evaluation.protocol import STRICT, metrics_of_users
from workbench.evaluation.retrievers import rank_users
from workbench.models.model_store import TrainedModel
from workbench.models.recommend import queries
from workbench.retriever import Retriever
from workbench.search.brute_force import BruteForce
from workbench.similarities import SparCode, SparCodeConfig
from workbench.similarities.sparcode.quantizer import QuantizerConfig
from workbench.studies.sparsity import served, training_codes
from workbench.training.config import TrainingConfig
from workbench.training.warm_start import started_from

LADDER = {
    "two-tower": "two-tower: an inner product",
    "tokens": "inner product of aligned tokens (control)",
    "all-to-all": "All-to-All: … and an MLP",
    "sparcode": "SparCode, end to end, M = 2, N = 128",
    "sparcode-warm": "SparCode from All-to-All, M = 2, N = 128",
    "sparcode-warm-4": "SparCode from All-to-All, M = 4, N = 256",
    "sparcode-sparse": "…, M = 2, N = 128, positive scores have a price",
}
"""The rows, by the last part of their presets' names."""
AFTER_THE_FACT = ((2, 128), (2, 256), (4, 128), (4, 256))
"""M and N of codebooks that are the k-means of All-to-All's tokens, without any training after it."""
SHOWN = ("HR@10", "HR@50", "NDCG@10")
TIMED = 100
"""Users whose queries are timed."""


def ladder(found: Mapping[str, TrainedModel], sequences: Sequences) -> pd.DataFrame:
    """One row per trained model of `LADDER` (by name), and per k-means of All-to-All's tokens, if that is among them.

    `row`, the metrics of `SHOWN` on test targets under the strict protocol, `low` and `high` of NDCG@10, `difference` to the
    two-tower with the ends of its interval, paired by user; `validation` NDCG@10 of the chosen epoch, `epochs` up to it, with
    those of the model that it started from; `floats` of an item; `p50_ms` of brute force for one query at a time, all in turns;
    `codes` that training positions have, and `seen`, the share of test tokens whose code is among them.
    """
    rows: dict[str, tuple[Retriever, pd.DataFrame, dict[str, object]]] = {}
    chosen = {name: int(trained.metadata["best_epoch"]) for name, trained in found.items()}
    for name, trained in found.items():
        training = TrainingConfig.from_dict(trained.metadata["training"])
        before = chosen.get((training.warm_start or "").rpartition("/")[2], 0)
        values: dict[str, object] = {
            "validation": trained.metadata["best"]["NDCG@10"],
            "epochs": before + chosen[name],
        }
        rows[LADDER[name]] = trained.retriever(), trained.ranks(sequences), values
        if name == "all-to-all":
            for (books, words), made in after_the_fact(trained, sequences).items():
                label = f"k-means of All-to-All's tokens, M = {books}, N = {words}"
                rows[label] = made, rank_users(made, sequences, STRICT), {"epochs": chosen[name]}
    training = TrainingConfig.from_dict(next(iter(found.values())).metadata["training"])
    times = _latency({label: retriever for label, (retriever, *_) in rows.items()}, sequences)
    first = LADDER["two-tower"]
    ndcg = {label: metrics_of_users(ranks, SHOWN) for label, (_, ranks, _) in rows.items()}
    table = []
    for label, (retriever, _, values) in rows.items():
        own = ndcg[label]
        row: dict[str, object] = {"row": label, **own.mean()}
        row["low"], row["high"] = _interval(own["NDCG@10"])
        if label != first and first in ndcg:
            over = own["NDCG@10"] - ndcg[first]["NDCG@10"]
            row["difference"] = over.mean()
            row["difference_low"], row["difference_high"] = _interval(over)
        row |= values | {"floats": _floats(retriever), "p50_ms": float(np.median(times[label]))}
        if isinstance(retriever.similarity, SparCode) and retriever.similarity.quantizer is not None:
            known = training_codes(retriever, sequences, training)
            asked = served(retriever, sequences).queries.codes
            assert asked is not None
            row |= {"codes": len(known), "seen": float(torch.isin(asked, known).double().mean())}
        table.append(row)
    columns = [
        "row", *SHOWN, "low", "high", "difference", "difference_low", "difference_high", "validation", "epochs",
        "floats", "p50_ms", "codes", "seen",
    ]  # fmt: skip
    return pd.DataFrame(table).reindex(columns=columns)


def after_the_fact(trained: TrainedModel, sequences: Sequences) -> dict[tuple[int, int], Retriever]:
    """All-to-All with codebooks that are the k-means of its tokens, for each of `AFTER_THE_FACT`."""
    base = trained.retriever()
    config = base.config.similarity
    assert isinstance(config, SparCodeConfig)
    training = TrainingConfig.from_dict(trained.metadata["training"])
    return {
        (books, words): started_from(
            base,
            replace(base.config, similarity=replace(config, quantizer=QuantizerConfig(books, words))),
            sequences,
            training,
            training.seed,
        )
        for books, words in AFTER_THE_FACT
    }


def _interval(values: "pd.Series[float]") -> tuple[float, float]:
    low, high = intervals(np.asarray(values, dtype=np.float64)[:, None], np.ones(len(values), dtype=np.int64))
    return float(low[0]), float(high[0])


def _floats(retriever: Retriever) -> int:
    """What brute force reads of an item, in floats."""
    with torch.no_grad():
        items = retriever.item_state()
    return (items.nbytes() - items.ids.nbytes) // (4 * len(items))


def _latency(retrievers: Mapping[str, Retriever], sequences: Sequences) -> dict[str, list[float]]:
    asked = sequences.users_with("test")[:TIMED]
    exclude = torch.from_numpy(sequences.history(asked))
    ways = {}
    for name, retriever in retrievers.items():
        with torch.no_grad():
            items = retriever.item_state()
        ways[name] = _scan(retriever, items, queries(retriever, sequences, asked), exclude)
    for find in ways.values():
        find(0)  # warms it up
    return in_turns(ways, len(asked), 1)


def _scan(retriever: Retriever, items: ItemState, states: QueryState, exclude: Tensor):  # type: ignore[no-untyped-def]
    searcher = BruteForce(retriever.similarity, items)
    return lambda query: searcher.search(states[query : query + 1], 10, exclude[query : query + 1])
