"""The protocol of held-out users on data, its baseline Item-CF, and paths for a frozen retriever."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import DIM, ENCODERS, LENGTH, SIMILARITIES, cyclic, training_config

from workbench.baselines.item_cf import ItemCF
from workbench.contracts import SequenceBatch
from workbench.evaluation.user_split import HeldOutUsers, ask, by_searcher, judge, relevant_items, split_users
from workbench.retriever import Retriever, RetrieverConfig
from workbench.search import BruteForce
from workbench.similarities import DeepRetrieval, DeepRetrievalConfig, DotConfig, MoLConfig
from workbench.studies.frozen_paths import PathFit, fit_paths, with_paths

RULES = HeldOutUsers(min_items=6, validation_users=8, test_users=9, history=5)


def test_every_user_has_one_place():
    sequences = cyclic()
    test, validation = (
        split_users(sequences, RULES),
        split_users(sequences, replace(RULES, part="validation")),
    )
    parts = [s.users["user_id"].tolist() for s in (test.training, test.held_out, validation.held_out)]
    assert [len(parts[1]), len(parts[2])] == [
        9,
        8,
    ] and validation.training.fingerprint() == test.training.fingerprint()
    everyone = [user for part in parts for user in part]
    assert len(set(everyone)) == len(everyone) == int((sequences.lengths >= 6).sum())
    assert (test.held_out.lengths >= 6).all()
    with pytest.raises(ValueError, match="hold out fewer"):
        split_users(sequences, replace(RULES, test_users=60))


def test_the_first_half_is_asked_and_the_second_is_relevant():
    held_out = split_users(cyclic(), RULES).held_out
    seen: list[tuple[SequenceBatch, torch.Tensor]] = []

    def find(batch: SequenceBatch, exclude: torch.Tensor, k: int) -> torch.Tensor:
        seen.append((batch, exclude))
        return torch.full((len(batch), k), -1)

    assert ask(find, held_out, 3, RULES).shape == (9, 3)
    relevant = relevant_items(held_out, RULES)
    ((batch, exclude),) = seen
    for u in range(9):
        items = held_out.item_ids[held_out.offsets[u] : held_out.offsets[u + 1]].tolist()
        half = (len(items) + 1) // 2
        assert batch.item_ids[u, : batch.lengths[u]].tolist() == items[:half][-RULES.history :]
        assert [i for i in exclude[u].tolist() if i] == items[:half]
        assert sorted(relevant.ids[relevant.offsets[u] : relevant.offsets[u + 1]]) == sorted(items[half:])
        assert (
            batch.target_timestamps[u] == batch.timestamps[u, batch.lengths[u] - 1]
        )  # no time of what came next


def test_a_find_that_knows_the_answer_is_perfect():
    held_out = split_users(cyclic(), RULES).held_out

    def find(batch: SequenceBatch, exclude: torch.Tensor, k: int) -> torch.Tensor:
        last = batch.item_ids.gather(1, batch.lengths[:, None] - 1)
        return (last - 1 + torch.arange(1, k + 1)) % 25 + 1  # in this world the next items follow in order

    values = judge(find, held_out, RULES, (2,))
    assert (values["P@2"] == 1).all()


def test_item_cf_is_cosines_summed_over_the_history():
    sequences = split_users(cyclic(), RULES).training
    met = np.zeros((sequences.num_users, sequences.num_items))
    for u in range(sequences.num_users):
        met[u, sequences.item_ids[sequences.offsets[u] : sequences.offsets[u + 1]] - 1] = 1
    counts = met.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = np.nan_to_num(met.T @ met / np.sqrt(np.outer(counts, counts)))
    np.fill_diagonal(cosine, 0)
    exclude = torch.tensor([[3, 4, 0], [9, 0, 0]])
    batch = SequenceBatch(
        exclude, exclude * 0, exclude * 0.0, torch.tensor([2, 1]), torch.arange(2), torch.ones(2, dtype=torch.long),
        torch.zeros(2, dtype=torch.long),
    )  # fmt: skip
    found = ItemCF(sequences, neighbours=sequences.num_items, part=None).find(batch, exclude, 25)
    for row, history in zip(found.tolist(), ([3, 4], [9]), strict=True):
        scores = cosine[np.array(history) - 1].sum(0)
        scores[np.array(history) - 1] = 0
        present = [i for i in row if i > 0]
        assert len(present) == (scores > 0).sum() and not set(present) & set(history)
        np.testing.assert_allclose(
            [scores[i - 1] for i in present], sorted(scores[scores > 0])[::-1], rtol=1e-5
        )
    few = ItemCF(sequences, neighbours=1, part=None).find(batch, exclude, 25)
    assert int((few[1] > 0).sum()) == 1
    with pytest.raises(ValueError, match="neighbours must be at least 1"):
        ItemCF(sequences, neighbours=0)


def base(similarity: object) -> Retriever:
    retriever = Retriever(RetrieverConfig(ENCODERS["gru4rec"], similarity, DIM, LENGTH), 25)  # type: ignore[arg-type]
    with torch.no_grad():
        retriever.item_table.weight.mul_(20)
    return retriever.eval()


@pytest.mark.parametrize(
    "similarity", [DotConfig(temperature=0.1), replace(SIMILARITIES["paths"], output_table=True)]
)
def test_paths_are_fitted_to_a_frozen_retriever(similarity):
    config = SIMILARITIES["paths"]
    assert isinstance(config, DeepRetrievalConfig)
    frozen = base(similarity)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    fit = PathFit(rounds=4, batch_size=32)
    made, history = fit_paths(frozen, cyclic(), training_config(), config, fit)
    assert (
        history["round"].tolist() == [1, 2, 3, 4]
        and history["structure"].iloc[-1] < history["structure"].iloc[0]
    )
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    again, _ = fit_paths(frozen, cyclic(), training_config(), config, fit)
    assert all(
        torch.equal(a, b)
        for a, b in zip(made.state_dict().values(), again.state_dict().values(), strict=True)
    )
    held_out = split_users(cyclic(), RULES).held_out
    with torch.no_grad():
        one, other = (
            ask(by_searcher(r, BruteForce(r.similarity, r.item_state())), held_out, 5, RULES)
            for r in (frozen, made)
        )
    assert torch.equal(one, other)  # the reranker is the same
    assert isinstance(made.similarity, DeepRetrieval) and math.isfinite(history["path objective"].iloc[-1])


def test_paths_need_a_dot_product():
    config = SIMILARITIES["paths"]
    assert isinstance(config, DeepRetrievalConfig)
    with pytest.raises(ValueError, match="reranked by a dot product, not by MixtureOfLogits"):
        with_paths(base(MoLConfig(2, 2, 4, query_hidden=8, gate_query=4, gate_item=4, gate_pair=4)), config)
    with pytest.raises(ValueError, match="rounds, rows and batch_size"):
        PathFit(rounds=0)
