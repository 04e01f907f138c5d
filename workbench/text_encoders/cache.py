"""Encoded texts on disk: one folder per encoder and list of texts, written in steps, resumed, memory-mapped."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from workbench import paths
from workbench.files import lock, swap, write_text
from workbench.text_encoders.base import TextEncoder

CHUNK = 2048
"""Texts that are encoded between two writes."""
_VECTORS, _PARTIAL, _PROGRESS = "vectors.npy", "vectors.partial.npy", "progress.json"


def encode_cached(
    encoder: TextEncoder, texts: Sequence[str], folder: Path | None = None, *, progress: bool = True
) -> NDArray[np.float16]:
    """The vectors (N, D) of `texts`, float16, memory-mapped and read-only.

    They are kept in `folder` (default: `data/encoded`) under the digest of encoder and texts, so another model, setting or text
    makes another entry and a corpus that changed is never served from an old one. A run that was stopped continues after the
    last full chunk of texts.
    Raises ValueError for an empty text and for an entry of another shape, which was damaged.
    """
    home = (folder or paths.data() / "encoded") / _key(encoder, texts)
    shape = (len(texts), encoder.dim)
    if (home / _VECTORS).is_file():
        return _checked(home / _VECTORS, shape)
    home.mkdir(parents=True, exist_ok=True)
    with lock(home, wait=True):
        if not (home / _VECTORS).is_file():
            _encode(encoder, texts, home, progress)
    return _checked(home / _VECTORS, shape)


def _encode(encoder: TextEncoder, texts: Sequence[str], home: Path, progress: bool) -> None:
    shape = (len(texts), encoder.dim)
    partial, done = home / _PARTIAL, _done(home)
    if done == 0 or not partial.is_file():
        done = 0
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape).flush()
    _checked(partial, shape)
    vectors = np.load(partial, mmap_mode="r+")
    with tqdm(total=len(texts), initial=done, desc=encoder.name, unit=" texts", disable=not progress) as bar:
        while done < len(texts):
            chunk = texts[done : done + CHUNK]
            vectors[done : done + len(chunk)] = encoder.encode(chunk).to(torch.float16).numpy()
            vectors.flush()
            done += len(chunk)
            write_text(json.dumps({"texts": done}), home / _PROGRESS)
            bar.update(len(chunk))
    del vectors
    swap(partial, home / _VECTORS)
    (home / _PROGRESS).unlink(missing_ok=True)


def _key(encoder: TextEncoder, texts: Sequence[str]) -> str:
    digest = hashlib.sha256(encoder.digest.encode())
    for text in texts:
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text.encode())
    return f"{Path(encoder.name).name}-{digest.hexdigest()[:24]}"


def _done(home: Path) -> int:
    try:
        return int(json.loads((home / _PROGRESS).read_text(encoding="utf-8"))["texts"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _checked(path: Path, shape: tuple[int, int]) -> NDArray[np.float16]:
    try:
        vectors: NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete its folder to encode the texts again"
        ) from None
    if vectors.shape != shape:
        raise ValueError(
            f"{path} holds {vectors.shape}, not {shape}; delete its folder to encode the texts again"
        )
    return vectors
