"""Trained heads for text retrieval: made once from a collection and an encoder, kept in `ckpts/`, found again."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from workbench import paths
from workbench.data.text.collection import TextCollection
from workbench.evaluation.relevant import Relevant
from workbench.files import Kind, atomic_write, lock, new_folder, recover, write_text
from workbench.search.brute_force import BruteForce
from workbench.text_encoders import TextEncoder, encode_cached
from workbench.training.text_heads import Examples, HeadConfig, HeadTraining, TextHead, train_head

MINED = 30
"""Hard negatives per query: the best documents by cosine that are no answers."""
QUERIES_AT_ONCE = 512
_WEIGHTS, _CONFIG = "model.safetensors", "head.json"


class EncodedCollection:
    """A collection and its vectors: `documents` (N, D), and `queries(split)` (Q, D), from the cache or encoded now."""

    def __init__(self, collection: TextCollection, encoder: TextEncoder, *, progress: bool = True) -> None:
        self.collection, self.encoder, self.progress = collection, encoder, progress

    @cached_property
    def documents(self) -> Float[Tensor, "N D"]:
        """One vector per document."""
        return self._vectors(list(self.collection.documents["text"]))

    def queries(self, split: str) -> Float[Tensor, "Q D"]:
        """One vector per query of the split."""
        return self._vectors(list(self.collection.of_split(split)["text"]))

    def relevant(self, split: str) -> Relevant:
        """The rows of the documents that answer each query of the split."""
        return Relevant(*self.collection.relevant_rows(self.collection.of_split(split)))

    @cached_property
    def digest(self) -> str:
        """Of everything that training reads: encoder, texts, splits, relevance."""
        digest = hashlib.sha256(self.encoder.digest.encode())
        for table in (self.collection.documents, self.collection.queries, self.collection.relevance):
            digest.update(table.to_csv(index=False).encode())
        return digest.hexdigest()[:16]

    @cached_property
    def examples(self) -> Examples:
        """Training queries with their answers and hard negatives, mined by cosine and stored next to the vectors."""
        queries, relevant = self.queries("train"), self.relevant("train")
        path = paths.data() / "encoded" / f"hard-{self.digest}-{MINED}.npy"
        if path.is_file():
            hard: NDArray[np.int64] = np.load(path, allow_pickle=False)
        else:
            hard = _mined(queries, self.documents, relevant)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.save(file, hard)
        return Examples(queries, relevant.offsets, relevant.ids, hard)

    def _vectors(self, texts: list[str]) -> Float[Tensor, "N D"]:
        vectors = encode_cached(self.encoder, texts, progress=self.progress)
        return torch.from_numpy(np.asarray(vectors, dtype=np.float32))


@dataclass(frozen=True)
class TrainedHead:
    """A trained head and its folder; `seconds` is its training time."""

    head: TextHead
    folder: Path | None
    seconds: float


def find_or_train(
    encoded: EncodedCollection,
    config: HeadConfig,
    training: HeadTraining,
    seed: int = 0,
    *,
    trained_only: bool = False,
) -> TrainedHead | None:
    """The head in `ckpts/`, trained now if it is missing (None if `trained_only`). Zero-shot has nothing to keep."""
    head = TextHead(config, encoded.encoder.dim, seed)
    if config.kind == "zero-shot":
        return TrainedHead(head.eval(), None, 0.0)
    settings = {"data": encoded.digest, "head": asdict(config), "training": asdict(training), "seed": seed}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    data = encoded.collection.name
    folder = recover(paths.checkpoints() / f"text-{data}-{config.kind}-{config.groups}-seed{seed}-{key}")
    if folder.is_dir():
        seconds = _load(head, folder)
        return TrainedHead(head.eval(), folder, seconds)
    if trained_only:
        return None
    with lock(folder):
        start = time.perf_counter()
        train_head(head, encoded.examples, encoded.documents, training, seed)
        seconds = time.perf_counter() - start
        with new_folder(folder, _KIND, settings) as temporary:
            safetensors.torch.save_file(head.state_dict(), temporary / _WEIGHTS)
            write_text(json.dumps(settings | {"seconds": seconds}, indent=2), temporary / _CONFIG)
    return TrainedHead(head, folder, seconds)


@torch.inference_mode()
def search(
    head: TextHead, queries: Float[Tensor, "Q D"], documents: Float[Tensor, "N D"], k: int = 100
) -> NDArray[np.int64]:
    """Rows (Q, k) of the best documents, brute force over all of them; −1 past the end of a smaller corpus."""
    searcher = BruteForce(head.similarity, head.documents(documents))
    k_found = min(k, len(documents))
    parts = [searcher.search(head.queries(part), k_found).ids - 1 for part in queries.split(QUERIES_AT_ONCE)]
    found = torch.cat(parts).numpy()
    return np.pad(found, ((0, 0), (0, k - k_found)), constant_values=-1)


def _mined(
    queries: Float[Tensor, "Q D"], documents: Float[Tensor, "N D"], relevant: Relevant
) -> NDArray[np.int64]:
    """The best MINED documents (Q, MINED) by cosine that are no answers; fewer if the corpus is smaller."""
    most = int(np.diff(relevant.offsets).max())
    width = min(MINED + most, len(documents))
    zero_shot = TextHead(HeadConfig(kind="zero-shot"), documents.shape[1]).eval()
    found = search(zero_shot, queries, documents, width)
    base = len(documents)
    users = np.repeat(np.arange(len(relevant)), np.diff(relevant.offsets))
    answers = np.isin(np.arange(len(found))[:, None] * base + found, users * base + relevant.ids)
    order = np.argsort(answers, axis=1, kind="stable")  # answers go last
    return np.take_along_axis(found, order, axis=1)[:, : max(0, min(MINED, width - most))]


def _load(head: TextHead, folder: Path) -> float:
    try:
        head.load_state_dict(safetensors.torch.load_file(folder / _WEIGHTS))
        return float(json.loads((folder / _CONFIG).read_text(encoding="utf-8"))["seconds"])
    except (OSError, RuntimeError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder} is damaged ({error}); delete it to train the head again") from None


def _settings(folder: Path) -> Mapping[str, Any] | None:
    if not (folder / _CONFIG).is_file():
        return None
    stored: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    return {name: value for name, value in stored.items() if name != "seconds"}


_KIND = Kind("text head", (_WEIGHTS, _CONFIG), _settings)
