"""The reference implementation of a training step: the loop's loss, computed as the published code does."""

import pytest
import torch

from workbench import runtime
from workbench.bench.training import batch, reference_loss
from workbench.encoders import GRU4RecConfig, HSTUConfig, SASRecConfig
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import DotConfig, MaxSimConfig, MoLConfig
from workbench.training.losses import LossConfig, draw
from workbench.training.objectives import next_item
from workbench.training.step import TrainingStep

MOL = MoLConfig(3, 2, 4, query_hidden=6, balance_weight=0.0)
BATCH = batch(5, 24, 12, seed=0)


@pytest.mark.parametrize(
    "encoder", [SASRecConfig(2, 2), HSTUConfig(2, 2, 3, 4), HSTUConfig(1, request_time=False)]
)
@pytest.mark.parametrize("similarity", [DotConfig(), MOL])
def test_the_reference_implementation_computes_the_same_loss_and_gradient(encoder, similarity):
    retriever = Retriever(RetrieverConfig(encoder, similarity, 8, BATCH.item_ids.shape[1]), 12).eval()
    targets = next_item(BATCH)
    candidates = draw(LossConfig(count=5), targets.target_ids, 12, runtime.generator(3))
    ours = TrainingStep(retriever, LossConfig(count=5))(BATCH, targets, candidates).total
    positions = int(BATCH.lengths.sum())
    other = reference_loss(retriever, BATCH, 5, positions, runtime.generator(3))
    torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-5)
    parameters = list(retriever.parameters())
    found, wanted = (torch.autograd.grad(x, parameters, allow_unused=True) for x in (ours, other))
    for name, one, two in zip(dict(retriever.named_parameters()), found, wanted, strict=True):
        if one is not None and two is not None:
            torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-3, msg=name)


def test_what_has_no_reference_implementation_is_refused():
    length = BATCH.item_ids.shape[1]
    for encoder, similarity in ((GRU4RecConfig(), DotConfig()), (SASRecConfig(), MaxSimConfig())):
        retriever = Retriever(RetrieverConfig(encoder, similarity, 8, length), 12)
        with pytest.raises(ValueError, match="no reference implementation of"):
            reference_loss(retriever, BATCH, 5, 10, runtime.generator(0))
