"""One text at a time: what each head finds for it, and which components decide."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import torch

from workbench.contracts import QueryState
from workbench.models.text_heads import EncodedCollection
from workbench.search.brute_force import BruteForce
from workbench.similarities import MixtureOfLogits
from workbench.similarities.mol import MoLItems, MoLQueries
from workbench.text_encoders import PaddedTokens
from workbench.training.text_heads import TextHead


@dataclass(frozen=True)
class TextSearch:
    """Heads by name over one encoded collection, each with its documents' state computed once."""

    encoded: EncodedCollection
    heads: Mapping[str, TextHead]
    _searchers: dict[str, BruteForce] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not self.heads:
            raise ValueError("a search needs at least one head")

    @property
    def mixtures(self) -> tuple[str, ...]:
        """The names of the heads that `components` takes apart."""
        return tuple(n for n, head in self.heads.items() if isinstance(head.similarity, MixtureOfLogits))

    @torch.inference_mode()
    def answers(self, text: str, k: int = 8) -> pd.DataFrame:
        """The best k documents of every head: `way`, `place` (from 1), `document`, `score`.

        Raises ValueError for an empty text and k below 1.
        """
        texts = self.encoded.collection.documents["text"]
        k = min(k, len(texts))
        rows = []
        for name, head in self.heads.items():
            found = self._searcher(name).search(self._queries(head, text), k)
            for place, (row, score) in enumerate(
                zip((found.ids[0] - 1).tolist(), found.scores[0].tolist(), strict=True), start=1
            ):
                rows.append((name, place, texts.iloc[row], score))
        return pd.DataFrame(rows, columns=["way", "place", "document", "score"])

    @torch.inference_mode()
    def components(self, text: str, name: str, k: int = 5) -> pd.DataFrame:
        """The best k documents of a mixture and its parts: `document`, `component` ("q1·d2"), `weight` π, `cosine`, `share` π·s
        of the score. Raises ValueError if `name` is no mixture."""
        head = self.heads[name]
        similarity = head.similarity
        if not isinstance(similarity, MixtureOfLogits):
            raise ValueError(f"{name} is no mixture: it has no components to show")
        queries = self._queries(head, text)
        searcher = self._searcher(name)
        assert isinstance(queries, MoLQueries) and isinstance(searcher.items, MoLItems)
        rows = searcher.search(queries, min(k, len(searcher.items))).ids[0] - 1
        items = searcher.items[rows]
        logits = similarity.component_logits(queries, items)  # (1, K, P)
        query_part = None if queries.gate is None else queries.gate[:, None]
        weights = similarity.gates(logits, query_part, items.gate)[0]
        groups = similarity.config.item_groups
        texts = self.encoded.collection.documents["text"]
        return pd.DataFrame(
            [
                {
                    "document": texts.iloc[row],
                    "component": f"q{p // groups + 1}·d{p % groups + 1}",
                    "weight": float(weights[place, p]),
                    "cosine": float(logits[0, place, p]) * similarity.config.temperature,
                    "share": float(weights[place, p] * logits[0, place, p]),
                }
                for place, row in enumerate(rows.tolist())
                for p in range(similarity.config.components)
            ]
        )

    @property
    def attentive(self) -> tuple[str, ...]:
        """The names of the heads that `attention` opens."""
        return tuple(name for name, head in self.heads.items() if head.query_attention is not None)

    @torch.inference_mode()
    def attention(self, text: str, name: str) -> pd.DataFrame:
        """What each query group of a head looks at: `place`, `token`, `group` ("q1"), `weight`, which add up to 1 per group.

        Raises ValueError for an empty text, and if the head does not look at tokens.
        """
        attention = self.heads[name].query_attention
        if attention is None:
            raise ValueError(f"{name} looks at no tokens")
        _check(text)
        weights = attention.weights(self._tokens(text))[0]
        tokens = self.encoded.encoder.split(text)
        return pd.DataFrame(
            [
                {
                    "place": place,
                    "token": token,
                    "group": f"q{group + 1}",
                    "weight": float(weights[place, group]),
                }
                for group in range(weights.shape[1])
                for place, token in enumerate(tokens)
            ]
        )

    def _tokens(self, text: str) -> PaddedTokens:
        return PaddedTokens(*self.encoded.encoder.token_states([text]))

    def _queries(self, head: TextHead, text: str) -> QueryState:
        _check(text)
        tokens = self._tokens(text) if head.reads_tokens[0] else None
        return head.queries(self.encoded.encoder.encode([text]), tokens)

    def _searcher(self, name: str) -> BruteForce:
        if name not in self._searchers:
            head = self.heads[name]
            documents = self.encoded.documents(tokens=head.reads_tokens[1])
            self._searchers[name] = BruteForce(head.similarity, head.corpus_state(documents))
        return self._searchers[name]


def _check(text: str) -> None:
    if not text.strip():
        raise ValueError("the text is empty: type at least one word")
