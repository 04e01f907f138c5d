"""Text retrieval: heads on one frozen encoder, BM25, and both together, judged on the same test queries."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench import text_encoders
from workbench.data.text.build import load_text
from workbench.evaluation.text import clustered_intervals, query_metrics
from workbench.models.text_heads import EncodedCollection, TrainedHead, find_or_train, find_or_tune
from workbench.runtime import optional
from workbench.search.engines.bm25 import BM25
from workbench.studies.study import Models, Study, register
from workbench.training.text_heads import HeadConfig
from workbench.training.text_training import HeadTraining
from workbench.training.text_tuning import EncoderTuning

_CONFIGS = (
    HeadConfig(kind="zero-shot"),
    *(HeadConfig(kind="dot", groups=g) for g in (1, 2, 4)),
    *(HeadConfig(kind="maxsim", groups=g) for g in (2, 4)),
    *(HeadConfig(kind="mol", groups=g) for g in (2, 4)),
    *(HeadConfig(kind=kind, groups=g) for kind in ("lite", "hypencoder") for g in (2, 4)),
    *(HeadConfig(kind=kind, tokens="query") for kind in ("dot", "maxsim", "mol", "lite")),
    *(HeadConfig(kind=kind, tokens="both") for kind in ("dot", "mol")),
    *(HeadConfig(kind=kind, groups=1, tokens="all") for kind in ("zero-shot", "maxsim")),
    HeadConfig(gate="pair"),
    HeadConfig(gate="uniform"),
    HeadConfig(kind="dot", start="random"),
    HeadConfig(kind="mol", start="random"),
)
HEADS: dict[str, HeadConfig] = {config.name: config for config in _CONFIGS}
"""Heads by name. Those of as many groups have the same number of projected weights."""
MAIN = (
    *("zero-shot", "dot-1", "dot-2", "mol-2", "hypencoder-2", "lite-2"),
    *("dot-2-tokens", "mol-2-tokens", "zero-shot-all-tokens", "maxsim-1-all-tokens"),
)
ALL_TOKENS: dict[str, Any] = {"epochs": 1, "batch_size": 64}
"""How a head of all tokens is trained instead: a pair costs some hundred inner products."""
LENGTH = 100
FUSION = 60
_BM25, _UNION = "BM25", "BM25 + "


@register
@dataclass(frozen=True)
class TextRetrieval(Study):
    """Hit@1, Hit@10, Hit@100, MRR@100 and NDCG@10 of heads on one text encoder, and of BM25 alone and fused with each head.

    `data`: a prepared text collection; `encoder`: wordllama, minilm, minilm-bfloat16, or a folder of transformers. Every head
    is trained for `epochs` with each of `seeds` seeds from `first` on, at the one of `rates` and `temperatures` (each for
    itself: what suits a dot product need not suit a mixture) whose head of the first seed has the best Hit@10 on at most
    `validation_queries` validation queries; values are means over seeds (embedded-text is generated
    from `first`), `std` the deviation of Hit@10 over them; `floats` is what is stored per document. `train_queries` and
    `test_queries`: the maximum number of each, drawn at random over all documents. `tuned_layers`: top layers of the encoder
    that are trained first, for one epoch with the seed `first` (0: all of it; None: it stays as it is). Intervals
    are bootstrapped over words (groups of queries); `difference` is paired, to the row that `against` names: a mixture is held
    against the dot product of as many groups and the same start, a dot product from the identity against zero-shot. Heads of
    all tokens rank the 1,000 best by cosine again, and are trained for one epoch. Subsets: queries of one answer, of several,
    of which no answer was one in training ("unseen"), and with and without the name of an answer.
    """

    name: ClassVar[str] = "text"
    question: ClassVar[str] = "Can a mixture of logits read better than a dot product?"
    minutes: ClassVar[float] = 120
    data: str = "reverse-dictionary"
    encoder: str = "minilm-bfloat16"
    heads: tuple[str, ...] = MAIN
    epochs: int = 4
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    temperatures: tuple[float, ...] = (0.05, 0.1)
    seeds: int = 3
    first: int = 0
    train_queries: int | None = None
    validation_queries: int | None = 2000
    test_queries: int | None = None
    tuned_layers: int | None = None

    def __post_init__(self) -> None:
        if unknown := [head for head in self.heads if head not in HEADS]:
            raise ValueError(f"no head {unknown[0]!r}; there are {', '.join(HEADS)}")
        if min(self.train_queries or 2, self.validation_queries or 2, self.test_queries or 2) < 2:
            raise ValueError(f"train, validation and test queries must be 2 or more: {self}")
        if not self.heads or not self.rates or not self.temperatures or self.seeds < 1 or self.first < 0:
            raise ValueError(
                f"there must be a head, a rate, a temperature, 1 or more seeds, and first be 0 or more: {self}"
            )

    @property
    def file(self) -> str:
        """One table per collection, encoder and number of training queries."""
        part = "" if self.train_queries is None else f"-{self.train_queries}"
        tuned = "" if self.tuned_layers is None else f"-tuned-{self.tuned_layers or 'all'}"
        return f"{self.name}-{self.data}-{self.encoder.strip('/').replace('/', '-')}{part}{tuned}"

    def encoded(self) -> EncodedCollection:
        """The collection with as many queries as the study takes, and its encoder."""
        limits = {
            "train": self.train_queries,
            "validation": self.validation_queries,
            "test": self.test_queries,
        }
        given = {split: limit for split, limit in limits.items() if limit is not None}
        collection = load_text(self.data, seed=self.first).sampled(given)
        return EncodedCollection(collection, text_encoders.load(self.encoder))

    def table(self, models: Models) -> pd.DataFrame:
        """One row per subset of queries, way of searching and metric."""
        encoded = self.encoded()
        if self.tuned_layers is not None:
            tuned = find_or_tune(
                encoded, EncoderTuning(self.tuned_layers), self.first, trained_only=models.trained_only
            )
            if tuned is None:
                raise ValueError("the encoder is not tuned yet: run the study without --trained-only")
            encoded = EncodedCollection(encoded.collection, tuned)
        test, relevant = encoded.collection.of_split("test"), encoded.relevant("test")
        for what, texts in (
            ("documents", encoded.collection.documents["text"]),
            ("test queries", test["text"]),
        ):
            if cut := encoded.encoder.count_truncated(list(texts)):
                models.note(
                    f"{cut:,} {what} are longer than {encoded.encoder.name} reads: only their beginnings are encoded"
                )
        lexical = _lexical(encoded, list(test["text"]))
        values: dict[str, pd.DataFrame] = {}
        facts: dict[str, dict[str, float]] = {}
        if lexical is not None:
            values[_BM25] = query_metrics(lexical, relevant)
        for name in self.heads:
            setting, trained = self.trained(name, encoded, models)
            lists = [found.lists(encoded, "test", LENGTH) for found in trained]
            each = [query_metrics(found, relevant) for found in lists]
            if not each:
                continue
            values[name] = sum(each[1:], each[0]) / len(each)
            facts[name] = {
                "seeds": len(each),
                "parameters": trained[0].head.count_parameters(),
                "floats": trained[0].floats(encoded),
                "rate": setting.rate,
                "temperature": setting.temperature,
                "seconds": float(np.mean([found.seconds for found in trained])),
                "std": float(pd.Series([table["Hit@10"].mean() for table in each]).std()),
            }
            if lexical is not None:
                fused = [query_metrics(fuse(found, lexical), relevant) for found in lists]
                values[_UNION + name] = sum(fused[1:], fused[0]) / len(fused)
        table = summarize(values, test, subsets(encoded), facts)
        return table.assign(train_queries=len(encoded.collection.of_split("train")), epochs=self.epochs)

    def trained(
        self, name: str, encoded: EncodedCollection, models: Models
    ) -> tuple["Setting", list[TrainedHead]]:
        """The setting that is best on validation, and the head of every seed at it; missing ones are noted."""
        if HEADS[name].kind == "zero-shot":
            found = self.head(name, encoded, Setting(), self.first)
            return Setting(float("nan"), float("nan")), [found] if found is not None else []

        def of(setting: Setting, seed: int) -> TrainedHead | None:
            found = self.head(name, encoded, setting, seed, trained_only=models.trained_only)
            if found is None:
                models.note(f"{name}, seed {seed}, {setting}, is not trained: left out")
            return found

        settings = [Setting(*values) for values in product(self.rates, self.temperatures)]
        best = settings[0]
        if len(settings) > 1:
            relevant = encoded.relevant("validation")
            tried = {s: found for s in settings if (found := of(s, self.first)) is not None}
            scores = {
                setting: query_metrics(found.lists(encoded, "validation", LENGTH), relevant)["Hit@10"].mean()
                for setting, found in tried.items()
            }
            if not scores:
                return best, []
            best = max(scores, key=lambda setting: scores[setting])
        seeds = range(self.first, self.first + self.seeds)
        return best, [found for seed in seeds if (found := of(best, seed)) is not None]

    def head(
        self, name: str, encoded: EncodedCollection, setting: "Setting", seed: int, trained_only: bool = False
    ) -> TrainedHead | None:
        """The head of that name, setting and seed, trained now if it is missing; None if it is and `trained_only`."""
        config = replace(HEADS[name], temperature=setting.temperature)
        training = HeadTraining(epochs=self.epochs, learning_rate=setting.rate)
        if config.kind == "zero-shot":
            config, training = HEADS[name], HeadTraining(epochs=0)
        elif config.tokens == "all":
            training = replace(training, **ALL_TOKENS)
        return find_or_train(encoded, config, training, seed, trained_only=trained_only)

    def setting(self, name: str) -> "Setting":
        """What the stored table of this study says was chosen for a head; the defaults if it says nothing."""
        stored = self.stored()
        rows = None if stored is None else stored[(stored["way"] == name) & stored["rate"].notna()]
        if rows is None or rows.empty:
            return Setting()
        first = rows.iloc[0]
        return Setting(float(first["rate"]), float(first.get("temperature", HeadConfig.temperature)))


class Setting(NamedTuple):
    """What is chosen on validation for each head."""

    rate: float = 1e-3
    temperature: float = HeadConfig.temperature

    def __str__(self) -> str:
        return f"rate {self.rate:g}, temperature {self.temperature:g}"


def reference(way: str, ways: Collection[str]) -> str | None:
    """What a way of searching is held against, if it is one of `ways`: see `TextRetrieval`."""
    if way.startswith(_UNION):
        other = reference(way.removeprefix(_UNION), ways)
        return None if other is None or _UNION + other not in ways else _UNION + other
    if way not in HEADS or way == "zero-shot":
        return None
    config = HEADS[way]
    plain = config.kind == "dot" and config.start == "identity" and config.tokens == "none"
    pooled = config.kind == "dot" or config.tokens == "all"
    start = config.start if config.kind == "mol" else "identity"
    kin = HeadConfig(
        kind="dot", groups=config.groups, tokens="none" if pooled else config.tokens, start=start
    )
    name = "zero-shot" if plain or config.kind == "zero-shot" else kin.name
    return name if name in ways else None


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
        named = test["names_answer"].to_numpy(dtype=np.bool_)
        found |= {"answer named": named, "answer not named": ~named}
    return {name: mask for name, mask in found.items() if mask.any()}


def summarize(
    values: Mapping[str, pd.DataFrame],
    queries: pd.DataFrame,
    masks: Mapping[str, NDArray[np.bool_]],
    facts: Mapping[str, Mapping[str, float]],
) -> pd.DataFrame:
    """One row per subset, way and metric: `value`, `low`, `high`, and the same of the paired difference to
    the way `against`."""
    rows = []
    for subset, mask in masks.items():
        groups = queries["group"].to_numpy()[mask]
        for way, table in values.items():
            own = table.to_numpy()[mask]
            low, high = clustered_intervals(own, groups)
            row = {"subset": subset, "queries": int(mask.sum()), "way": way, **facts.get(way, {})}
            difference = np.full((3, own.shape[1]), np.nan)
            other = reference(way, values.keys())
            if other is not None:
                gaps = own - values[other].to_numpy()[mask]
                difference = np.stack([gaps.mean(axis=0), *clustered_intervals(gaps, groups)])
            for column, metric in enumerate(table.columns):
                rows.append(
                    row
                    | {
                        "metric": metric,
                        "value": own[:, column].mean(),
                        "low": low[column],
                        "high": high[column],
                        "against": other or "",
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
