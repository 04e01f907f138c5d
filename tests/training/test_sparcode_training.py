"""Codebooks that follow by moving averages are part of a run's state."""

import dataclasses

import pytest
import torch
from worlds import cyclic, retriever_config, training_config

from workbench.retriever import Retriever
from workbench.similarities import SparCode
from workbench.training.loop import train


def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(tmp_path):
    config = retriever_config("sasrec-sparcode")
    train(cyclic(), config, training_config(epochs=2), tmp_path / "whole", progress=False)
    train(cyclic(), config, training_config(epochs=1), tmp_path / "parts", progress=False)
    train(cyclic(), config, training_config(epochs=2), tmp_path / "parts", progress=False)
    for name in ("model.safetensors", "epoch-0002/model.safetensors", "epoch-0002/optimizer.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name


@pytest.mark.parametrize("kind", ["full softmax", "bce"])
@pytest.mark.parametrize("negatives", ["in-batch", "mixed"])
def test_every_loss_and_negatives_train_it(tmp_path, kind, negatives):
    training = training_config(epochs=1)
    loss = dataclasses.replace(training.loss, kind=kind, negatives=negatives)
    run = train(
        cyclic(),
        retriever_config("sasrec-sparcode"),
        dataclasses.replace(training, loss=loss),
        tmp_path,
        progress=False,
    )
    similarity = Retriever.load(run.folder).similarity
    assert isinstance(similarity, SparCode) and similarity.quantizer is not None
    assert float(similarity.quantizer.counts.sum()) > 0
    assert run.history["commitment"].notna().all()


def test_all_to_all_trains_without_codebooks(tmp_path):
    config = retriever_config("sasrec-sparcode")
    assert hasattr(config.similarity, "quantizer")
    bare = dataclasses.replace(config, similarity=dataclasses.replace(config.similarity, quantizer=None))
    run = train(cyclic(), bare, training_config(epochs=1), tmp_path, progress=False)
    assert "commitment" not in run.history
    similarity = Retriever.load(run.folder).similarity
    assert isinstance(similarity, SparCode) and similarity.quantizer is None
    assert all(torch.isfinite(p).all() for p in similarity.parameters())
