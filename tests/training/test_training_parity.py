"""Twenty steps of training end where the published code's arithmetic does: same weights, batches and negatives, no dropout."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from workbench import runtime
from workbench.bench.training import batch, reference_loss
from workbench.contracts import SequenceBatch
from workbench.encoders import EncoderConfig, HSTUConfig, SASRecConfig
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import DotConfig, MixtureOfLogits, MoLConfig, SimilarityConfig
from workbench.training.losses import LossConfig, draw
from workbench.training.objectives import next_item
from workbench.training.step import TrainingStep

STEPS, ITEMS, USERS, LENGTH, NEGATIVES = 20, 60, 40, 30, 16
LOSS = LossConfig(count=NEGATIVES)
MOL = MoLConfig(
    4, 2, 8, query_hidden=16, gate_query=8, gate_item=8, gate_pair=8, user_tables=(USERS,),
    item_dropout=0.0, user_dropout=0.0, gate_dropout=0.0, balance_weight=0.01,
)  # fmt: skip
ENCODERS = {
    "hstu": HSTUConfig(2, 2, 6, 5, dropout=0.0),
    "sasrec": SASRecConfig(2, 2, 12, dropout=0.0),
}
SIMILARITIES = {"dot": DotConfig(), "mol": MOL}


def batches() -> list[SequenceBatch]:
    return [
        replace(b, user_ids=b.need("user_ids") % USERS)
        for b in (batch(6, LENGTH, ITEMS, seed) for seed in range(STEPS))
    ]


def published_regularizers(retriever: Retriever, b: SequenceBatch) -> Tensor:
    """The load-balancing loss and the user embeddings' norm, pair by pair from the parts of the model."""
    mol, targets = retriever.similarity, next_item(b)
    if not isinstance(mol, MixtureOfLogits):
        return torch.zeros(())
    outputs = retriever(b).flatten(0, 1)[targets.positions]
    queries = mol.queries(outputs, targets.user_ids)
    items = mol.items(retriever.item_table(targets.target_ids), targets.target_ids)
    logits = torch.einsum("tid,tjd->tij", queries.components, items.components).flatten(1)  # (T, P)
    a = queries.gate * items.gate + mol.gate_pair(logits)
    pi = (a * a.sigmoid()).softmax(1)
    mean = pi.mean(0)
    per_pair = -(pi * pi.clamp(min=1e-6).log()).sum(1).mean()
    balance = per_pair + (mean * mean.clamp(min=1e-6).log()).sum()
    (table,) = mol.user_tables
    user = table.table.weight[targets.user_ids % USERS + 1]
    return mol.config.balance_weight * balance + mol.config.user_norm_weight * user.square().sum(1).mean()


def trained(retriever: Retriever, published: bool) -> list[float]:
    """Twenty steps with AdamW; the losses."""
    retriever.train()
    optimizer = torch.optim.AdamW(retriever.parameters(), 1e-3, (0.9, 0.98), weight_decay=1e-3)
    step, losses = TrainingStep(retriever, LOSS), []
    for number, b in enumerate(batches()):
        draws = runtime.generator(number)
        if published:
            loss = reference_loss(retriever, b, NEGATIVES, int(b.lengths.sum()), draws)
            loss = loss + published_regularizers(retriever, b)
        else:
            targets = next_item(b)
            loss = step(b, targets, draw(LOSS, targets.target_ids, ITEMS, draws)).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def changes(retriever: Retriever, start: Retriever) -> Tensor:
    """How far each weight went, in one vector of double precision."""
    before = dict(start.named_parameters())
    return torch.cat(
        [(p.double() - before[name].double()).flatten() for name, p in retriever.named_parameters()]
    ).detach()


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
@pytest.mark.parametrize("similarity", SIMILARITIES.values(), ids=SIMILARITIES)
def test_loss_and_weights_after_twenty_steps_are_the_published_arithmetics(
    encoder: EncoderConfig, similarity: SimilarityConfig
) -> None:
    start = Retriever(RetrieverConfig(encoder, similarity, 12, LENGTH), ITEMS, seed=3)
    wanted = copy.deepcopy(start).double()
    expected = trained(wanted, published=True)
    went = changes(wanted, start)
    # In double precision (torch) the same weights. In single precision (C++ where it is) Adam takes whole steps along gradients
    # that are nothing but rounding, as those of the keys' biases in a softmax are.
    for dtype, of_loss, of_weights in ((torch.float64, 1e-9, 1e-7), (torch.float32, 2e-5, 5e-2)):
        found = copy.deepcopy(start).to(dtype)
        assert trained(found, published=False) == pytest.approx(expected, rel=of_loss)
        assert (changes(found, start) - went).norm() < of_weights * went.norm()
    assert expected[-1] < expected[0]


def test_a_change_of_the_loss_is_noticed() -> None:
    """The comparison can fail: without the load-balancing loss the weights end elsewhere."""
    config = RetrieverConfig(ENCODERS["hstu"], MOL, 12, LENGTH)
    start = Retriever(config, ITEMS, seed=3).double()
    one = copy.deepcopy(start)
    two = Retriever(replace(config, similarity=replace(MOL, balance_weight=0.0)), ITEMS, seed=3).double()
    for retriever in (one, two):
        trained(retriever, published=False)
    assert (changes(one, start) - changes(two, start)).norm() > 1e-3 * changes(one, start).norm()
