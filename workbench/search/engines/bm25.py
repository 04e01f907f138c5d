"""BM25 over words by tantivy: what every learned head must be compared with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workbench import runtime

WRITER_BYTES = 64 * 2**20


class BM25:
    """Documents under BM25 (k1 = 1.2, b = 0.75) with lower-cased, stemmed English words.

    Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009).
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._tantivy = runtime.require("tantivy")
        builder = self._tantivy.SchemaBuilder()
        builder.add_unsigned_field("row", stored=True)
        builder.add_text_field("text", tokenizer_name="en_stem", index_option="freq")
        self._index: Any = self._tantivy.Index(builder.build())
        writer = self._index.writer(WRITER_BYTES, 1)
        for row, text in enumerate(texts):
            document = self._tantivy.Document()
            document.add_unsigned("row", row)
            document.add_text("text", text)
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()
        self._searcher = self._index.searcher()

    def search(self, texts: Sequence[str], k: int) -> NDArray[np.int64]:
        """Rows (Q, k) of the best documents that share a word with the text, −1 past the last."""
        found = np.full((len(texts), k), -1, dtype=np.int64)
        for place, text in enumerate(texts):
            words = "".join(c if c.isalnum() else " " for c in text).lower()
            if words.strip():
                query = self._index.parse_query(words, ["text"])
                hits = self._searcher.search(query, limit=k).hits
                rows = [(-score, self._searcher.doc(address)["row"][0]) for score, address in hits]
                found[place, : len(rows)] = [row for _, row in sorted(rows)]
        return found
