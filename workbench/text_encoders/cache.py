"""Encoded texts on disk, vectors and token states: written in steps, resumed, memory-mapped."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from workbench import paths
from workbench.files import atomic_write, lock, swap, write_text
from workbench.text_encoders.base import TextEncoder
from workbench.text_encoders.encoded import TokenStates

CHUNK = 2048
"""Texts that are encoded between two writes."""
STEP = 16
"""Batches of token states between two notes of progress."""
_VECTORS, _STATES, _OFFSETS, _PROGRESS = "vectors.npy", "states.npy", "offsets.npy", "progress.json"


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


def encode_tokens_cached(
    encoder: TextEncoder,
    texts: Sequence[str],
    folder: Path | None = None,
    *,
    batch_size: int = 32,
    progress: bool = True,
) -> TokenStates:
    """The token states of `texts`, float16, memory-mapped and read-only: 768 bytes a token at width 384.

    Kept, found and resumed as by `encode_cached`; texts are encoded in the order of their lengths, so that little padding is
    read. The pooled vectors come out of the same pass: they are kept too if they are missing.
    Raises ValueError for an empty text and for an entry of another shape, which was damaged.
    """
    base = folder or paths.data() / "encoded"
    home, pooled = base / _key(encoder, texts, "tokens-"), base / _key(encoder, texts)
    if not (home / _STATES).is_file():
        for entry in (home, pooled):
            entry.mkdir(parents=True, exist_ok=True)
        with lock(home, wait=True), lock(pooled, wait=True):
            if not (home / _STATES).is_file():
                _encode_tokens(encoder, texts, home, pooled, batch_size, progress)
    offsets = _checked(home / _OFFSETS, (len(texts) + 1,))
    return TokenStates(_checked(home / _STATES, (int(offsets[-1]), encoder.dim)), offsets)


def _bar(encoder: TextEncoder, total: int, done: int, progress: bool) -> "tqdm[Any]":
    """Texts that are encoded, `done` of them before; on terminals and in kernels only."""
    disable = None if progress else True
    return tqdm(total=total, initial=done, desc=encoder.name, unit=" texts", disable=disable)


def _encode(encoder: TextEncoder, texts: Sequence[str], home: Path, progress: bool) -> None:
    partial = home / f"partial-{_VECTORS}"
    done = _done(home, partial)
    with (
        _filling(partial, home / _VECTORS, (len(texts), encoder.dim), fresh=done == 0) as vectors,
        _bar(encoder, len(texts), done, progress) as bar,
    ):
        while done < len(texts):
            chunk = texts[done : done + CHUNK]
            vectors[done : done + len(chunk)] = encoder.encode(chunk).to(torch.float16).numpy()
            done += len(chunk)
            _note(home, done, vectors)
            bar.update(len(chunk))
    (home / _PROGRESS).unlink(missing_ok=True)


def _encode_tokens(
    encoder: TextEncoder, texts: Sequence[str], home: Path, pooled: Path, batch_size: int, progress: bool
) -> None:
    counts = np.asarray(encoder.count_tokens(texts), dtype=np.int64)
    offsets = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
    order = np.argsort(counts, kind="stable")
    with atomic_write(home / _OFFSETS) as temporary, temporary.open("wb") as file:
        np.save(file, offsets)
    partials = home / f"partial-{_STATES}", home / f"partial-{_VECTORS}"
    done = _done(home, *partials)
    shapes = (int(offsets[-1]), encoder.dim), (len(texts), encoder.dim)
    with (
        _filling(partials[0], home / _STATES, shapes[0], fresh=done == 0) as states,
        _filling(partials[1], pooled / _VECTORS, shapes[1], fresh=done == 0) as vectors,
        _bar(encoder, len(texts), done, progress) as bar,
    ):
        for number, start in enumerate(range(done, len(texts), batch_size), start=1):
            rows = order[start : start + batch_size]
            found, present = encoder.token_states([texts[row] for row in rows])
            vectors[rows] = encoder.pool(found, present).cpu().to(torch.float16).numpy()
            short = found.cpu().to(torch.float16).numpy()
            for row, of_text, there in zip(rows, short, present.cpu().numpy(), strict=True):
                states[offsets[row] : offsets[row + 1]] = of_text[there]
            bar.update(len(rows))
            if number % STEP == 0 or start + batch_size >= len(texts):
                _note(home, start + len(rows), states, vectors)
    (home / _PROGRESS).unlink(missing_ok=True)


@contextmanager
def _filling(
    partial: Path, path: Path, shape: tuple[int, int], *, fresh: bool
) -> Iterator[NDArray[np.float16]]:
    """The array that becomes `path` at the end of the block: as it was left in `partial`, or a `fresh` one."""
    if fresh:
        np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape).flush()
    _checked(partial, shape)
    yield np.load(partial, mmap_mode="r+")
    swap(partial, path)


def _note(home: Path, done: int, *arrays: NDArray[np.float16]) -> None:
    for array in arrays:
        assert isinstance(array, np.memmap)
        array.flush()
    write_text(json.dumps({"texts": done}), home / _PROGRESS)


def _key(encoder: TextEncoder, texts: Sequence[str], kind: str = "") -> str:
    digest = hashlib.sha256(encoder.digest.encode())
    for text in texts:
        digest.update(len(text).to_bytes(8, "little"))
        digest.update(text.encode())
    return f"{Path(encoder.name).name}-{kind}{digest.hexdigest()[:24]}"


def _done(home: Path, *partials: Path) -> int:
    """How many texts the partial arrays of an entry hold."""
    if not all(path.is_file() for path in partials):
        return 0
    try:
        return int(json.loads((home / _PROGRESS).read_text(encoding="utf-8"))["texts"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _checked(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete its folder to encode the texts again"
        ) from None
    if array.shape != shape:
        raise ValueError(
            f"{path} holds {array.shape}, not {shape}; delete its folder to encode the texts again"
        )
    return array
