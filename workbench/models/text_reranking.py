"""MaxSim over every token of a document, for a few candidates of each query: a whole corpus of tokens is never scored."""

import numpy as np
import torch
from numpy.typing import NDArray

from workbench.text_encoders import EncodedTexts, TokenStates
from workbench.training.text_heads import AT_ONCE, TextHead

CANDIDATES = 1000
"""Documents that are ranked again, the best by the encoder's cosine."""
QUERIES_AT_ONCE = 512


@torch.inference_mode()
def rerank(
    head: TextHead, queries: EncodedTexts, documents: EncodedTexts, k: int = 100, candidates: int = CANDIDATES
) -> NDArray[np.int64]:
    """Rows (Q, k) of the best documents of each query's `candidates` by cosine, −1 past the end of a smaller corpus.

    The components of all tokens of all documents are held, in float16. Raises ValueError for texts without token states.
    """
    if queries.tokens is None or documents.tokens is None:
        raise ValueError(f"{head.config.name} ranks by all tokens: give the states of both sides")
    kept = min(candidates, len(documents))
    tokens = _components(head, documents.tokens)
    found = np.full((len(queries), k), -1, dtype=np.int64)
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        batch = np.arange(start, min(start + QUERIES_AT_ONCE, len(queries)))
        vectors, padded = queries.batch(batch)
        first = (vectors @ documents.vectors.T).topk(kept, dim=1).indices.sort(dim=1).values.numpy()
        components = head.queries(vectors, padded).components  # type: ignore[attr-defined]
        assert padded is not None
        for query, rows, of_query, present in zip(batch, first, components, padded.present, strict=True):
            scores = _max_sums(of_query[present].numpy(), tokens, rows)
            best = np.argsort(-scores, kind="stable")[:k]
            found[query, : len(best)] = rows[best]
    return found


def _components(head: TextHead, tokens: TokenStates) -> TokenStates:
    states = np.empty(tokens.states.shape, dtype=np.float16)
    for start in range(0, len(states), AT_ONCE):
        part = torch.from_numpy(np.asarray(tokens.states[start : start + AT_ONCE], dtype=np.float32))
        states[start : start + AT_ONCE] = head.document_tokens(part).numpy()
    return TokenStates(states, tokens.offsets)


def _max_sums(
    query: NDArray[np.float32], tokens: TokenStates, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Σ_i max_j ⟨f_i, g_j⟩ (C,) of a query's components (L, D) with those of the documents `rows` (C,)."""
    counts = tokens.offsets[rows + 1] - tokens.offsets[rows]
    begins = np.concatenate([[0], counts.cumsum()[:-1]])
    places = np.arange(counts.sum()) + np.repeat(tokens.offsets[rows] - begins, counts)
    products = tokens.states[places].astype(np.float32) @ query.T  # (tokens, L)
    sums: NDArray[np.float32] = np.maximum.reduceat(products, begins, axis=0).sum(axis=1)
    return sums
