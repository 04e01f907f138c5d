"""Codebooks that follow by moving averages are part of a run's state."""

import dataclasses

import pytest
import torch
from worlds import cyclic, retriever_config, training_config

from workbench import paths
from workbench.models.model_store import load_or_train
from workbench.retriever import Retriever
from workbench.runtime import derived_seed, generator
from workbench.similarities import SparCode
from workbench.training import presets
from workbench.training.loop import train
from workbench.training.preset import Preset
from workbench.training.rows import training_rows
from workbench.training.warm_start import ROWS, started_from


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


@pytest.fixture
def warm(monkeypatch, tmp_path):
    """The presets of All-to-All and of a SparCode that starts from it, and a place for their models."""
    monkeypatch.setattr(paths, "checkpoints", lambda: tmp_path / "ckpts")
    config = retriever_config("sasrec-sparcode")
    bare = dataclasses.replace(config, similarity=dataclasses.replace(config.similarity, quantizer=None))
    first = Preset("world/all-to-all", "cyclic", bare, training_config(epochs=1), "for this test")
    after = dataclasses.replace(training_config(epochs=2), warm_start=first.name)
    second = Preset("world/warm", "cyclic", config, after, "for this test")
    monkeypatch.setattr(presets, "PRESETS", {p.name: p for p in (first, second)})
    return first, second


def test_a_warm_start_has_the_weights_of_its_base_and_the_k_means_of_its_tokens(warm, tmp_path):
    first, second = warm
    base = load_or_train(first, cyclic(), seed=3, progress=False).retriever()
    made = started_from(base, second.retriever, cyclic(), second.training, 3)
    given, own = base.state_dict(), made.state_dict()
    assert all(torch.equal(own[name], value) for name, value in given.items())
    again = started_from(base, second.retriever, cyclic(), second.training, 3)
    assert torch.equal(made.similarity.quantizer.codewords, again.similarity.quantizer.codewords)
    rows, _ = training_rows(base, cyclic(), second.training, ROWS, 3)
    with torch.no_grad():
        tokens = made.similarity._tokens(rows).flatten(0, 1)
        found = made.similarity.quantizer(tokens)
        random = tokens[torch.randperm(len(tokens), generator=generator(derived_seed(3, 1)))[:6]]
        again.similarity.quantizer.codewords.copy_(torch.stack(random.chunk(2, dim=1)))
        assert float(found.errors.mean()) < float(again.similarity.quantizer(tokens).errors.mean())
    digits = made.similarity.quantizer.digits(found.codes)
    for m, book in enumerate(made.similarity.quantizer.codewords):  # each is the mean of its tokens
        piece = tokens.chunk(2, dim=1)[m]
        for n in digits[:, m].unique().tolist():
            torch.testing.assert_close(book[n], piece[digits[:, m] == n].mean(0), atol=0.1, rtol=0)


def test_a_warm_start_is_found_trained_and_resumed(warm, tmp_path):
    first, second = warm
    whole = load_or_train(second, cyclic(), seed=3, progress=False)
    assert load_or_train(first, cyclic(), seed=3, progress=False).folder.is_dir()
    assert load_or_train(second, cyclic(), seed=3, progress=False).folder == whole.folder
    base = load_or_train(first, cyclic(), seed=3, progress=False)
    start = started_from(base.retriever(), second.retriever, cyclic(), second.training, 3)
    for epochs in (1, 2):  # stopped after the first
        training = dataclasses.replace(second.training, epochs=epochs)
        train(cyclic(), second.retriever, training, tmp_path / "parts", progress=False, start=start)
    ours, theirs = Retriever.load(tmp_path / "parts").state_dict(), whole.retriever().state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    cold = dataclasses.replace(second.training, warm_start=None)
    with pytest.raises(ValueError, match=r"another training\.warm_start"):
        train(cyclic(), second.retriever, cold, tmp_path / "parts", progress=False)


def test_a_start_that_does_not_fit_is_named(warm, tmp_path):
    first, second = warm
    dot = Retriever(retriever_config("sasrec-dot"), cyclic().num_items)
    with pytest.raises(ValueError, match="a model of the same encoder, width and similarity"):
        started_from(dot, second.retriever, cyclic(), second.training)
    with pytest.raises(ValueError, match="start from world/all-to-all, and no model is given"):
        train(cyclic(), second.retriever, second.training, tmp_path, progress=False)
    with pytest.raises(ValueError, match="of its own configuration"):
        train(cyclic(), second.retriever, second.training, tmp_path, progress=False, start=dot)
    with pytest.raises(ValueError, match="start from None, and a model is given"):
        train(cyclic(), first.retriever, first.training, tmp_path, progress=False, start=dot)


def test_a_price_on_positive_scores_makes_zeros(tmp_path):
    config = retriever_config("sasrec-sparcode")
    zeros = {}
    for weight in (None, 3.0):
        priced = dataclasses.replace(config.similarity, sparsity=weight, threshold=1.0)
        chosen = dataclasses.replace(config, similarity=priced)
        run = train(cyclic(), chosen, training_config(epochs=20), tmp_path / str(weight), progress=False)
        assert ("sparsity" in run.history) == bool(weight)
        model = Retriever.load(run.folder)
        rows, _ = training_rows(model, cyclic(), training_config(), 500, 0)
        with torch.no_grad():
            tokens = model.similarity.queries(rows).tokens.flatten(0, 1)
            f = model.similarity.interactions(tokens, model.item_state())
        zeros[weight] = float((f + model.similarity.threshold <= 0).float().mean())
    assert zeros[3.0] > zeros[None] + 0.2
