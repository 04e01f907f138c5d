"""What training, evaluation and recommending do on a GPU, but for gradients: nothing mixes with tensors of the CPU."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from pretended_gpu import pretended_gpu
from worlds import DIM, ITEMS, KINDS, LENGTH, USERS, cyclic, retriever_config, training_config

from workbench import runtime
from workbench.contracts import AlternatingSimilarity
from workbench.data.sequences import Batches
from workbench.evaluation.protocol import STRICT
from workbench.evaluation.retrievers import rank_users
from workbench.kernels import mixture
from workbench.models.recommend import own_index, queries, recommendations
from workbench.retriever import Retriever
from workbench.training.loop import _settle, targets_of
from workbench.training.losses import draw
from workbench.training.step import TrainingStep


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[torch.device]:
    with pytest.MonkeyPatch.context() as patch, pretended_gpu() as there:
        patch.setattr(mixture, "_triton_version", lambda: None)
        yield there


def models(kind: str, device: torch.device) -> dict[str, Retriever]:
    return {
        name: Retriever(retriever_config(kind), ITEMS, seed=1).to(where)
        for name, where in (("cpu", torch.device("cpu")), ("cuda", device))
    }


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_step_of_training(kind, device):
    retriever = models(kind, device)["cuda"].train()
    config = training_config()
    step, draws = TrainingStep(retriever, config.loss), runtime.generator(0)
    batches = Batches(cyclic(), "train", config.batch_size, LENGTH, seed=0)
    if isinstance(retriever.similarity, AlternatingSimilarity):
        retriever.similarity.on_epoch_start(1)
    for cpu_batch in batches.at(1):
        batch, targets = targets_of(cpu_batch.to(device), retriever.encoder.objective, config, LENGTH, draws)
        losses = step(batch, targets, draw(config.loss, targets.target_ids, ITEMS, draws))
        assert losses.total.device == device
        assert math.isfinite(losses.parts["loss"])


@pytest.mark.parametrize("updates", ["epoch", "stream"])
@torch.no_grad()
def test_paths_settle(updates, device):
    base = retriever_config("sasrec-paths")
    similarity = replace(base.similarity, updates=updates, refresh=2)
    retriever = Retriever(replace(base, similarity=similarity), ITEMS, seed=1).to(device)
    config = training_config()
    batches = Batches(cyclic(), "train", config.batch_size, LENGTH, seed=0)
    retriever.similarity.on_epoch_start(1)
    before = retriever.similarity.list_paths.cpu()
    if updates == "stream":
        for seed in range(3):
            rows = torch.randn(40, DIM, generator=runtime.generator(seed)).to(device)
            retriever.similarity.on_batch(rows, torch.arange(40, device=device) % ITEMS + 1)
    measures = _settle(retriever, retriever.similarity, batches, config, 1)
    assert all(math.isfinite(value) for value in measures.values())
    assert retriever.similarity.list_paths.device == device
    assert not torch.equal(retriever.similarity.list_paths.cpu(), before)
    rows = torch.randn(6, DIM, generator=runtime.generator(5)).to(device)
    items, paths = retriever.similarity.place(rows, torch.tensor([3, 3, 40, 41, 41, 41], device=device))
    assert (items.device, paths.device, items.tolist()) == (device, device, [3, 40, 41])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_ranks_and_recommendations_are_those_of_the_cpu(kind, device):
    here, there = (model.eval() for model in models(kind, device).values())
    ranks = [rank_users(model, cyclic(), STRICT) for model in (here, there)]
    assert (ranks[0]["rank"] == ranks[1]["rank"]).mean() > 0.95  # rounding may decide between neighbours
    users, found = np.arange(USERS), []
    for model in (here, there):
        exclude = torch.from_numpy(cyclic().history(users)).to(model.device)
        index = own_index(model.similarity, model.item_state())
        if index is not None:
            found.append(index.search(queries(model, cyclic(), users), 5, exclude).scores.cpu())
        assert len(recommendations(model, cyclic(), 0, 5)) <= 5
    if found:
        torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
