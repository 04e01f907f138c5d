"""Text retrieval: heads on one frozen encoder, BM25, and both together, judged on the same test queries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench import text_encoders
from workbench.data.text.build import load_text
from workbench.evaluation.text import clustered_intervals, query_metrics
from workbench.models.text_heads import EncodedCollection, find_or_train, search
from workbench.runtime import optional
from workbench.search.engines.bm25 import BM25
from workbench.studies.study import Models, Study, register
from workbench.training.text_heads import HeadConfig, HeadTraining

HEADS: dict[str, HeadConfig] = {
    "zero-shot": HeadConfig(kind="zero-shot"),
    "dot-1": HeadConfig(kind="dot", groups=1),
    "dot-2": HeadConfig(kind="dot", groups=2),
    "maxsim-2": HeadConfig(kind="maxsim", groups=2),
    "mol-2": HeadConfig(kind="mol", groups=2),
    "dot-2-random": HeadConfig(kind="dot", groups=2, start="random"),
    "mol-2-random": HeadConfig(kind="mol", groups=2, start="random"),
}
"""Heads by name; dot-2, maxsim-2 and mol-2 have the same number of projected weights."""
REFERENCE = "dot-2"
LENGTH = 100
FUSION = 60
_BM25, _UNION = "BM25", "BM25 + "


@register
@dataclass(frozen=True)
class TextRetrieval(Study):
    """Hit@1, Hit@10, Hit@100, MRR@100 and NDCG@10 of heads on one text encoder, and of BM25 alone and fused with each head.

    `data`: a prepared text collection; `encoder`: wordllama, minilm, minilm-bfloat16, or a folder of transformers. Every head
    is trained for `epochs` with each of `seeds` seeds from `first` on; values are means over seeds (embedded-text is
    generated from `first`). `train_queries` and `test_queries`: the maximum number of each, drawn at random, over all
    documents. Intervals are bootstrapped over words (groups of queries); `difference` is to dot-2, paired. Subsets: queries
    of one answer, of several, of which no answer was one in training ("unseen"), and without the name of an answer.
    """

    name: ClassVar[str] = "text"
    question: ClassVar[str] = "Can a mixture of logits read better than a dot product?"
    minutes: ClassVar[float] = 60
    data: str = "reverse-dictionary"
    encoder: str = "wordllama"
    heads: tuple[str, ...] = tuple(HEADS)
    epochs: int = 3
    rate: float = 1e-3
    seeds: int = 3
    first: int = 0
    train_queries: int | None = None
    test_queries: int | None = None

    def __post_init__(self) -> None:
        if unknown := [head for head in self.heads if head not in HEADS]:
            raise ValueError(f"no head {unknown[0]!r}; there are {', '.join(HEADS)}")
        if min(self.train_queries or 2, self.test_queries or 2) < 2:
            raise ValueError(f"train_queries and test_queries must be 2 or more: {self}")
        if not self.heads or self.seeds < 1 or self.first < 0:
            raise ValueError(f"there must be a head, seeds must be 1 or more, first 0 or more: {self}")

    @property
    def file(self) -> str:
        """One table per collection, encoder and number of training queries."""
        part = "" if self.train_queries is None else f"-{self.train_queries}"
        return f"{self.name}-{self.data}-{self.encoder.strip('/').replace('/', '-')}{part}"

    def table(self, models: Models) -> pd.DataFrame:
        """One row per subset of queries, way of searching and metric."""
        given = {"train": self.train_queries, "test": self.test_queries}
        limits = {split: limit for split, limit in given.items() if limit is not None}
        encoded = EncodedCollection(
            load_text(self.data, seed=self.first).sampled(limits), text_encoders.load(self.encoder)
        )
        test, relevant = encoded.collection.of_split("test"), encoded.relevant("test")
        vectors = encoded.queries("test")
        training = HeadTraining(epochs=self.epochs, learning_rate=self.rate)
        lexical = _lexical(encoded, list(test["text"]))
        values: dict[str, pd.DataFrame] = {}
        facts: dict[str, dict[str, float]] = {}
        if lexical is not None:
            values[_BM25] = query_metrics(lexical, relevant)
        for name in self.heads:
            config, each, fused, seconds = HEADS[name], [], [], []
            for seed in range(self.first, self.first + (1 if name == "zero-shot" else self.seeds)):
                found = find_or_train(encoded, config, training, seed, trained_only=models.trained_only)
                if found is None:
                    models.note(f"{name}, seed {seed}, is not trained: left out")
                    continue
                lists = search(found.head, vectors, encoded.documents, LENGTH)
                each.append(query_metrics(lists, relevant))
                seconds.append(found.seconds)
                if lexical is not None:
                    fused.append(query_metrics(fuse(lists, lexical), relevant))
                parameters = found.head.count_parameters()
            if each:
                facts[name] = {
                    "seeds": len(each),
                    "parameters": parameters,
                    "seconds": float(np.mean(seconds)),
                    "std": float(np.std([table["Hit@10"].mean() for table in each])),
                }
                values[name] = sum(each[1:], each[0]) / len(each)
            if fused:
                values[_UNION + name] = sum(fused[1:], fused[0]) / len(fused)
        table = summarize(values, test, subsets(encoded), facts)
        return table.assign(
            train_queries=len(encoded.collection.of_split("train")), epochs=self.epochs, rate=self.rate
        )


def fuse(first: NDArray[np.int64], second: NDArray[np.int64], constant: int = FUSION) -> NDArray[np.int64]:
    """Two lists (Q, K) of rows as one (Q, K), by Σ 1 / (constant + place); ties go to the first list.

    Source: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion" (SIGIR 2009).

    >>> fuse(np.array([[1, 2, 3]]), np.array([[3, 4, -1]])).tolist()
    [[3, 1, 2]]
    """
    weights = 1 / (constant + 1 + np.arange(first.shape[1]))
    fused = np.full_like(first, -1)
    for place, rows in enumerate(zip(first, second, strict=True)):
        scores: dict[int, float] = {}
        for row, weight in zip(np.concatenate(rows), np.concatenate([weights, weights]), strict=True):
            if row >= 0:
                scores[int(row)] = scores.get(int(row), 0.0) + weight
        best = sorted(scores, key=lambda row: -scores[row])[: first.shape[1]]
        fused[place, : len(best)] = best
    return fused


def subsets(encoded: EncodedCollection) -> dict[str, NDArray[np.bool_]]:
    """Masks (Q,) over the test queries by name; those that the collection does not distinguish are left out."""
    test = encoded.collection.of_split("test")
    relevant, trained = encoded.relevant("test"), np.unique(encoded.relevant("train").ids)
    seen = np.isin(relevant.ids, trained)
    single = test["answers"].to_numpy() == 1
    found = {
        "all": np.ones(len(test), dtype=np.bool_),
        "one answer": single,
        "several answers": ~single,
        "unseen": np.add.reduceat(seen, relevant.offsets[:-1]) == 0,
    }
    if "names_answer" in test:
        found["answer not named"] = ~test["names_answer"].to_numpy(dtype=np.bool_)
    return {name: mask for name, mask in found.items() if mask.any()}


def summarize(
    values: Mapping[str, pd.DataFrame],
    queries: pd.DataFrame,
    masks: Mapping[str, NDArray[np.bool_]],
    facts: Mapping[str, Mapping[str, float]],
) -> pd.DataFrame:
    """One row per subset, way and metric: `value`, `low`, `high`, and the same of the paired difference to dot-2."""
    rows = []
    for subset, mask in masks.items():
        groups = queries["group"].to_numpy()[mask]
        for way, table in values.items():
            own = table.to_numpy()[mask]
            low, high = clustered_intervals(own, groups)
            row = {"subset": subset, "queries": int(mask.sum()), "way": way, **facts.get(way, {})}
            difference = np.full((3, own.shape[1]), np.nan)
            if REFERENCE in values and way != REFERENCE:
                gaps = own - values[REFERENCE].to_numpy()[mask]
                difference = np.stack([gaps.mean(axis=0), *clustered_intervals(gaps, groups)])
            for column, metric in enumerate(table.columns):
                rows.append(
                    row
                    | {
                        "metric": metric,
                        "value": own[:, column].mean(),
                        "low": low[column],
                        "high": high[column],
                        "difference": difference[0, column],
                        "difference_low": difference[1, column],
                        "difference_high": difference[2, column],
                    }
                )
    return pd.DataFrame(rows)


def _lexical(encoded: EncodedCollection, texts: list[str]) -> NDArray[np.int64] | None:
    """BM25's lists, or None if tantivy is not installed."""
    if optional("tantivy") is None:
        return None
    return BM25(list(encoded.collection.documents["text"])).search(texts, LENGTH)
