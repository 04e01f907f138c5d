"""The switchboard: the same numbers as an evaluation under each protocol by itself."""

import pytest
import torch
from worlds import DIM, ENCODERS, KINDS, LENGTH, SIMILARITIES, cyclic, retriever_config

from workbench.evaluation.metrics import metrics
from workbench.evaluation.protocol import STRICT, effective_ranks
from workbench.evaluation.retrievers import rank_users
from workbench.evaluation.switchboard import KS, SHOWN, SWITCHES, one_switch, protocols, switchboard
from workbench.retriever import Retriever, RetrieverConfig


@pytest.mark.parametrize("kind", ["hstu-mol", "gru4rec-dot", "gru4rec-paths"])
def test_each_row_is_what_an_evaluation_under_that_protocol_gives(kind):
    torch.manual_seed(3)
    encoder, similarity = kind.split("-", 1)
    config = RetrieverConfig(ENCODERS[encoder], SIMILARITIES[similarity], DIM, LENGTH)
    retriever, sequences = Retriever(config, 25), cyclic()
    table = switchboard(retriever, sequences)
    assert retriever.training  # as it was
    assert len(table) == len(protocols()) == 24
    for protocol, (_, row) in zip(
        protocols(), table.sort_values(list(SWITCHES), key=_place).iterrows(), strict=True
    ):
        assert all(row[name] == getattr(protocol, name) for name in SWITCHES)
        expected = metrics(effective_ranks(rank_users(retriever, sequences, protocol)), ks=KS)
        assert [row[name] for name in SHOWN] == pytest.approx([expected[name] for name in SHOWN]), str(
            protocol
        )


def _place(column):
    return column.map({value: i for i, value in enumerate(SWITCHES[column.name])})


def test_one_switch_at_a_time_starts_from_the_strict_protocol():
    torch.manual_seed(0)
    retriever, sequences = Retriever(retriever_config(KINDS[0]), 25), cyclic()
    table = switchboard(retriever, sequences).assign(method="m")
    found = one_switch(table, "MRR")
    strict = metrics(effective_ranks(rank_users(retriever, sequences, STRICT)), ks=KS)["MRR"]
    assert found.loc[0, "m"] == pytest.approx(strict)
    assert found["switch"].tolist() == [
        "strict",
        "targets",
        "target time",
        "history mask",
        "history mask",
        "corpus",
    ]
    assert found["value"].tolist() == ["", "validation", "visible", "none", "window", "rated"]
