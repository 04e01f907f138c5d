"""What keeps a mixture of logits from leaving the dot product behind on text: one change at a time, on validation queries."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from workbench.data.text.build import REVERSE
from workbench.evaluation.relevant import Relevant
from workbench.evaluation.text import clustered_intervals, query_metrics
from workbench.models.text_heads import EncodedCollection, TrainedHead, find_or_train, search
from workbench.similarities import MixtureOfLogits
from workbench.similarities.mol import MoLItems, MoLQueries
from workbench.studies.study import Models, Study, register
from workbench.studies.text import LENGTH, TextRetrieval
from workbench.text_encoders import EncodedTexts
from workbench.training.text_heads import HeadConfig, TextHead
from workbench.training.text_training import HeadTraining

METRIC = "Hit@10"
TRAINED = 1_000
"""Training queries that are searched to see what was fitted."""


@dataclass(frozen=True)
class Change:
    """One setting that differs from the defaults, for both heads, or for the mixture alone if it is `mixture_only`."""

    name: str
    head: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    mixture_only: bool = False


CHANGES = (
    Change("the defaults"),
    Change("temperature .02", head={"temperature": 0.02}),
    Change("temperature .1", head={"temperature": 0.1}),
    Change("negatives refreshed each epoch", training={"refresh": 1}),
    Change("4 hard negatives per query", training={"negatives": 4}),
    Change("learning rate .003", training={"learning_rate": 3e-3}),
    Change("12 epochs", training={"epochs": 12}),
    Change("4 groups", head={"groups": 4}),
    Change("random start", head={"start": "random"}),
    Change("gate of dot products alone", head={"gate": "pair"}, mixture_only=True),
    Change("uniform gate", head={"gate": "uniform"}, mixture_only=True),
    Change("gate of 128 units", head={"gate_hidden": 128}, mixture_only=True),
)


@register
@dataclass(frozen=True)
class TextAblations(Study):
    """Hit@10 on validation queries of a mixture and a dot product of as many groups, with one setting changed for both.

    One row per change. `difference`: mixture minus dot product, paired, with its interval over words. `dot_train` and
    `mixture_train`: Hit@10 on 1,000 training queries, to separate what a head fits from what it carries over.
    `components`: exp of the mean entropy of π over pairs of a query and an answer, out of `of_components`. `shared`: the
    share of the mixture's ten best that are among the dot product's. Heads are trained with one seed on `train_queries`.
    """

    name: ClassVar[str] = "text-ablations"
    question: ClassVar[str] = "Which setting, if any, takes a mixture of logits past a dot product on text?"
    minutes: ClassVar[float] = 60
    data: str = REVERSE
    encoder: str = "minilm-bfloat16"
    train_queries: int | None = 30_000
    validation_queries: int | None = 4_000
    changes: tuple[str, ...] = tuple(change.name for change in CHANGES)
    epochs: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        names = [change.name for change in CHANGES]
        if unknown := [name for name in self.changes if name not in names]:
            raise ValueError(f"no change {unknown[0]!r}; there are {', '.join(names)}")

    @property
    def file(self) -> str:
        """One table per collection and encoder."""
        return f"{self.name}-{self.data}-{self.encoder.strip('/').replace('/', '-')}"

    def table(self, models: Models) -> pd.DataFrame:
        """One row per change."""
        encoded = TextRetrieval(
            data=self.data, encoder=self.encoder, first=self.seed, train_queries=self.train_queries,
            validation_queries=self.validation_queries,
        ).encoded()  # fmt: skip
        groups = encoded.collection.of_split("validation")["group"].to_numpy()
        dots: dict[str, _Judged] = {}
        rows = []
        for change in (c for c in CHANGES if c.name in self.changes):
            base = CHANGES[0] if change.mixture_only else change
            dot = dots.get(base.name) or self._judged("dot", base, encoded, models)
            mixture = self._judged("mol", change, encoded, models)
            if dot is None or mixture is None:
                continue
            dots[base.name] = dot
            gaps = (mixture.hits - dot.hits)[:, None]
            low, high = clustered_intervals(gaps, groups)
            rows.append(
                {
                    "change": change.name,
                    "dot": dot.hits.mean(),
                    "mixture": mixture.hits.mean(),
                    "difference": gaps.mean(),
                    "difference_low": low[0],
                    "difference_high": high[0],
                    "dot_train": dot.train,
                    "mixture_train": mixture.train,
                    "components": components_in_use(mixture.found.head, encoded),
                    "of_components": mixture.found.head.config.groups**2,
                    "shared": _shared(mixture.lists[:, :10], dot.lists[:, :10]),
                }
            )
        table = pd.DataFrame(rows)
        return table.assign(
            queries=len(groups), train_queries=len(encoded.collection.of_split("train")), seed=self.seed
        )

    def _judged(
        self, kind: str, change: Change, encoded: EncodedCollection, models: Models
    ) -> "_Judged | None":
        config = HeadConfig(**({"kind": kind} | change.head))
        training = HeadTraining(**({"epochs": self.epochs, "learning_rate": 1e-3} | change.training))
        found = find_or_train(encoded, config, training, self.seed, trained_only=models.trained_only)
        if found is None:
            models.note(f"{config.name}, {change.name}, is not trained: left out")
            return None
        lists = found.lists(encoded, "validation", LENGTH)
        hits = query_metrics(lists, encoded.relevant("validation"))[METRIC].to_numpy()
        return _Judged(found, lists, hits, _fitted(found.head, encoded))


@dataclass(frozen=True)
class _Judged:
    """A head, its lists (Q, K) and hits (Q,) on validation, and its Hit@10 on training queries."""

    found: TrainedHead
    lists: NDArray[np.int64]
    hits: NDArray[np.float64]
    train: float


@torch.inference_mode()
def components_in_use(head: TextHead, encoded: EncodedCollection) -> float:
    """exp of the mean entropy of π over validation queries and their first answers: from 1 to P (equal weights).

    Raises ValueError if the head is no mixture.
    """
    if not isinstance(head.similarity, MixtureOfLogits):
        raise ValueError(f"{head.config.name} has no components with weights")
    relevant = encoded.relevant("validation")
    answers = torch.from_numpy(relevant.ids[relevant.offsets[:-1]])
    queries = head.query_state(encoded.queries("validation"))
    items = head.documents(encoded.documents().vectors[answers])
    assert isinstance(queries, MoLQueries) and isinstance(items, MoLItems)
    logits = torch.einsum("bid,bjd->bij", queries.components, items.components).flatten(1)  # (Q, P)
    pi = head.similarity.gates(logits, queries.gate, items.gate)
    entropy = -(pi * pi.clamp(min=1e-12).log()).sum(1)
    return float(entropy.mean().exp())


def _fitted(head: TextHead, encoded: EncodedCollection) -> float:
    """Hit@10 on `TRAINED` training queries, spread over all of them."""
    texts, relevant = encoded.queries("train"), encoded.relevant("train")
    rows = np.unique(np.linspace(0, len(texts) - 1, TRAINED).astype(np.int64))
    found = search(head, EncodedTexts(texts.vectors[torch.from_numpy(rows)]), encoded.documents(), 10)
    answers = [relevant.ids[relevant.offsets[row] : relevant.offsets[row + 1]] for row in rows]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in answers])])
    return float(query_metrics(found, Relevant(offsets, np.concatenate(answers)))[METRIC].mean())


def _shared(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """The mean share of the rows of `first` (Q, K) that are in the same row of `second`."""
    return float((first[:, :, None] == second[:, None, :]).any(2).mean())
