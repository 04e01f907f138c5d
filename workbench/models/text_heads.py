"""Trained heads for text retrieval: made once from a collection and an encoder, kept in `ckpts/`, found again."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from workbench import paths, text_encoders
from workbench.data.text.build import load_text
from workbench.data.text.collection import TextCollection
from workbench.evaluation.relevant import Relevant
from workbench.files import Kind, atomic_write, lock, new_folder, recover, write_text
from workbench.loading import read_json
from workbench.models.text_reranking import rerank
from workbench.search.brute_force import BruteForce
from workbench.text_encoders import (
    BertEncoder,
    EncodedTexts,
    TextEncoder,
    encode_cached,
    encode_tokens_cached,
    save_encoder,
)
from workbench.training.text_heads import HeadConfig, TextHead
from workbench.training.text_training import Examples, HeadTraining, train_head
from workbench.training.text_tuning import EncoderTuning, tune_encoder

MINED, MINED_FROM = 60, 30_000
"""Hard negative candidates per query, the best by cosine, and the number of random documents they are chosen from. (The
nearest of all documents are often answers that nobody wrote down.)"""
QUERIES_AT_ONCE = 512
RETRAIN = "delete its folder to train the head again"
_WEIGHTS, _CONFIG, _LISTS, _TUNED = "model.safetensors", "head.json", "lists-*.npy", "tuning.json"


class EncodedCollection:
    """A collection and what its encoder makes of it: vectors, and the states of tokens, from the cache or encoded now."""

    def __init__(self, collection: TextCollection, encoder: TextEncoder, *, progress: bool = True) -> None:
        self.collection, self.encoder, self.progress = collection, encoder, progress
        self._encoded: dict[tuple[str, bool], EncodedTexts] = {}

    def documents(self, *, tokens: bool = False) -> EncodedTexts:
        """All documents; with the states of their tokens if `tokens`."""
        return self._texts("documents", self.collection.documents["text"], tokens)

    def queries(self, split: str, *, tokens: bool = False) -> EncodedTexts:
        """The queries of the split; with the states of their tokens if `tokens`."""
        return self._texts(split, self.collection.of_split(split)["text"], tokens)

    def relevant(self, split: str) -> Relevant:
        """The rows of the documents that answer each query of the split."""
        return Relevant(*self.collection.relevant_rows(self.collection.of_split(split)))

    @cached_property
    def digest(self) -> str:
        """Of everything that training reads: encoder, documents, training queries and their answers."""
        digest = hashlib.sha256(self.encoder.digest.encode())
        train = self.collection.of_split("train")
        answers = self.collection.relevance
        answers = answers[answers["query_id"].isin(train["query_id"])]
        for table in (self.collection.documents, train, answers):
            digest.update(table.to_csv(index=False).encode())
        return digest.hexdigest()[:16]

    def examples(self, *, tokens: bool = False) -> Examples:
        """Training queries with their answers and mined documents, which are stored next to the vectors."""
        queries, relevant = self.queries("train", tokens=tokens), self.relevant("train")
        path = paths.data() / "encoded" / f"mined-{self.digest}-{MINED}-{MINED_FROM}.npy"
        if path.is_file():
            hard: NDArray[np.int64] = np.load(path, allow_pickle=False)
        else:
            hard = _mined(queries, self.documents())
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.save(file, hard)
        return Examples(queries, relevant.offsets, relevant.ids, hard)

    def _texts(self, part: str, texts: pd.Series, tokens: bool) -> EncodedTexts:
        if (part, tokens) not in self._encoded:
            states = (
                encode_tokens_cached(self.encoder, list(texts), progress=self.progress) if tokens else None
            )
            vectors = encode_cached(self.encoder, list(texts), progress=self.progress)
            of_part = torch.from_numpy(np.asarray(vectors, dtype=np.float32))
            self._encoded[part, tokens] = EncodedTexts(of_part, states)
        return self._encoded[part, tokens]


@dataclass(frozen=True)
class TrainedHead:
    """A trained head and its folder; `seconds` is its training time."""

    head: TextHead
    folder: Path | None
    seconds: float

    def floats(self, encoded: EncodedCollection) -> float:
        """How many numbers are stored per document: those of its state, or on average of all its tokens."""
        texts = encoded.documents(tokens=self.head.reads_tokens[1])
        if self.head.config.tokens == "all":
            assert texts.tokens is not None
            return texts.tokens.states.size / len(texts)
        with torch.inference_mode():
            state = self.head.documents(*texts.batch(np.arange(1)))
        return sum(
            part.numel()
            for part in vars(state).values()
            if torch.is_tensor(part) and part.is_floating_point()
        )

    def lists(self, encoded: EncodedCollection, split: str, k: int) -> NDArray[np.int64]:
        """Rows (Q, k) of the best documents for each query of a split, as `search`, or as `rerank` of a head of all tokens;
        stored next to the head."""
        texts = list(encoded.collection.of_split(split)["text"])
        path = None
        if self.folder is not None:
            made_from = [encoded.digest, head_identity(self.folder), k, *texts]
            digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
            path = self.folder / _LISTS.replace("*", digest)
        if path is not None and path.is_file():
            kept: NDArray[np.int64] = np.load(path, allow_pickle=False)
            return kept
        on_query, on_document = self.head.reads_tokens
        queries = encoded.queries(split, tokens=on_query)
        ranked = rerank if self.head.config.tokens == "all" else search
        found = ranked(self.head, queries, encoded.documents(tokens=on_document), k)
        if path is not None:
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                np.save(file, found)
        return found


def find_or_tune(
    encoded: EncodedCollection, tuning: EncoderTuning, seed: int = 0, *, trained_only: bool = False
) -> BertEncoder | None:
    """The encoder of `encoded` tuned on its training queries: the one in `ckpts/`, or tuned now (None if `trained_only`).

    It is a folder in transformers' layout, which `text_encoders.load` takes by its path, too. An interrupted run continues.
    Raises ValueError for an encoder that is not of transformers, and as `tune_encoder`.
    """
    base = encoded.encoder
    if not isinstance(base, BertEncoder):
        raise ValueError(f"{base.name} has no layers to tune: choose an encoder of transformers")
    settings = {"data": encoded.digest, "encoder": base.loaded_as, "tuning": asdict(tuning), "seed": seed}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    folder = recover(paths.checkpoints() / f"encoder-{encoded.collection.name}-seed{seed}-{key}")
    if not (folder / _TUNED).is_file():
        if trained_only:
            return None
        with lock(folder):
            state = folder.with_name(f".{folder.name}.state")
            tuned = BertEncoder(replace(base.config, precision="float32"), base.device)
            texts = (
                list(encoded.collection.of_split("train")["text"]),
                list(encoded.collection.documents["text"]),
            )
            examples = encoded.examples()
            with tqdm(desc="tuning", unit="step", disable=None if encoded.progress else True) as bar:

                def show(step: int, steps: int, loss: float) -> None:
                    bar.total = steps
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                    bar.update(step - bar.n)

                frozen = getattr(torch, base.config.precision)
                tune_encoder(tuned, *texts, examples, tuning, state, seed, show, frozen)
            with new_folder(folder, _TUNED_KIND, settings) as temporary:
                save_encoder(tuned, temporary)
                write_text(json.dumps(settings, indent=2), temporary / _TUNED)
            state.unlink(missing_ok=True)
    return BertEncoder(replace(base.config, model=str(folder)), base.device)


def find_or_train(
    encoded: EncodedCollection,
    config: HeadConfig,
    training: HeadTraining,
    seed: int = 0,
    *,
    trained_only: bool = False,
) -> TrainedHead | None:
    """The head in `ckpts/`, shipped or trained before; trained now if it is missing (None if `trained_only`).

    What it was made from (texts, encoder, settings, seed) decides, not the name of its folder. Zero-shot has nothing to keep.
    Raises ValueError for a damaged head.
    """
    head = TextHead(config, encoded.encoder.dim, seed)
    if config.kind == "zero-shot":
        return TrainedHead(head.eval(), None, 0.0)
    settings = {
        "data": encoded.digest,
        "collection": encoded.collection.name,
        "encoder": encoded.encoder.loaded_as,
        "documents": len(encoded.collection.documents),
        "train_queries": len(encoded.collection.of_split("train")),
        "head": asdict(config),
        "training": asdict(training),
        "seed": seed,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    name = f"text-{encoded.collection.name}-{config.name}"
    own = recover(paths.checkpoints() / f"{name}-seed{seed}-{key}")
    for folder in (own, paths.checkpoints() / name):
        if (folder / _CONFIG).is_file() and (folder == own or _settings(folder) == settings):
            seconds = _load(head, folder)
            return TrainedHead(head.eval(), folder, seconds)
    if trained_only:
        return None
    on_query, on_document = head.reads_tokens
    with lock(own):
        examples, documents = encoded.examples(tokens=on_query), encoded.documents(tokens=on_document)
        start = time.perf_counter()
        train_head(head, examples, documents, training, seed)
        seconds = time.perf_counter() - start
        with new_folder(own, _KIND, settings) as temporary:
            safetensors.torch.save_file(head.state_dict(), temporary / _WEIGHTS)
            write_text(json.dumps(settings | {"seconds": seconds}, indent=2), temporary / _CONFIG)
    return TrainedHead(head, own, seconds)


def head_folder(head: str | Path) -> Path:
    """The folder of a trained head, given by its folder or by its name in `ckpts/`.

    Raises FileNotFoundError if there is none.
    """
    for folder in (Path(head), paths.checkpoints() / head):
        if (recover(folder) / _CONFIG).is_file():
            return folder
    raise FileNotFoundError(
        f"{head} is neither the folder of a text head (with {_CONFIG}) nor a name in {paths.checkpoints()};"
        " `workbench study run text` trains heads"
    )


def documents_of(head: str | Path) -> int:
    """How many documents a trained head was trained over.

    Raises as `open_head` does for a missing or damaged head, and ValueError if the number is not stored.
    """
    folder = head_folder(head)
    count = read_json(folder / _CONFIG, RETRAIN).get("documents")
    if type(count) is not int or count < 1:
        raise ValueError(f"{folder / _CONFIG} does not say how many documents there are; {RETRAIN}")
    return count


def head_identity(head: str | Path) -> str:
    """A digest of a trained head's weights and of what it was trained from."""
    folder = head_folder(head)
    digest = hashlib.sha256((folder / _CONFIG).read_bytes())
    digest.update((folder / _WEIGHTS).read_bytes())
    return digest.hexdigest()[:16]


def open_head(head: str | Path) -> tuple[TextHead, EncodedCollection]:
    """A trained head and the texts that it was trained on, which are encoded now if they are not in the cache.

    Raises FileNotFoundError if the head or its collection is missing, and ValueError for a damaged head and for texts or an
    encoder that are not those it was trained with.
    """
    folder = head_folder(head)
    stored = read_json(folder / _CONFIG, RETRAIN)
    try:
        config, seed = HeadConfig(**stored["head"]), int(stored["seed"])
        name, encoder, digest = stored["collection"], stored["encoder"], stored["data"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / _CONFIG} describes no head ({error}); {RETRAIN}") from None
    encoded = EncodedCollection(load_text(name, seed=seed), text_encoders.load(encoder))
    trained_on = stored.get("train_queries")
    if isinstance(trained_on, int) and trained_on < len(encoded.collection.of_split("train")):
        encoded = EncodedCollection(encoded.collection.sampled({"train": trained_on}), encoded.encoder)
    if encoded.digest != digest:
        raise ValueError(
            f"{folder.name} was trained on other texts than the {name} that is prepared here, or with another {encoder}"
        )
    found = TextHead(config, encoded.encoder.dim, seed)
    _load(found, folder)
    return found.eval(), encoded


@torch.inference_mode()
def search(head: TextHead, queries: EncodedTexts, documents: EncodedTexts, k: int = 100) -> NDArray[np.int64]:
    """Rows (Q, k) of the best documents, brute force over all of them; −1 past the end of a smaller corpus."""
    searcher = BruteForce(head.similarity, head.corpus_state(documents))
    k_found = min(k, len(documents))
    parts = [
        searcher.search(
            head.queries(*queries.batch(np.arange(start, min(start + QUERIES_AT_ONCE, len(queries))))),
            k_found,
        ).ids
        - 1
        for start in range(0, len(queries), QUERIES_AT_ONCE)
    ]
    return np.pad(torch.cat(parts).numpy(), ((0, 0), (0, k - k_found)), constant_values=-1)


def _mined(queries: EncodedTexts, documents: EncodedTexts) -> NDArray[np.int64]:
    """The best MINED documents (Q, MINED) by cosine of MINED_FROM, fewer if the corpus is smaller."""
    drawn = np.sort(np.random.default_rng(0).permutation(len(documents))[:MINED_FROM])
    vectors = documents.vectors[torch.from_numpy(drawn)]
    found = [
        (part @ vectors.T).topk(min(MINED, len(drawn)), dim=1).indices
        for part in queries.vectors.split(QUERIES_AT_ONCE)
    ]
    return drawn[torch.cat(found).numpy()]


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


_KIND = Kind("text head", (_WEIGHTS, _CONFIG, _LISTS), _settings)


def _tuned_settings(folder: Path) -> Mapping[str, Any] | None:
    stored: dict[str, Any] | None = None
    if (folder / _TUNED).is_file():
        stored = json.loads((folder / _TUNED).read_text(encoding="utf-8"))
    return stored


_TUNED_KIND = Kind("tuned encoder", (_TUNED, "*.json", "*.safetensors", "*.txt"), _tuned_settings)
