"""Presets on equal terms: means over seeds, and differences paired by user."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from torch import nn

from workbench.studies import fair_studies
from workbench.studies.fair_studies import Fair, format_fair, last_next_to_others
from workbench.studies.study import study

BOTH = ("fair/hstu-dot", "fair/hstu-mol")


@dataclass
class Trained:
    """A model whose target has rank `rank` for the even users and 1000 for the others; users come in the order of `flip`."""

    rank: int
    flip: int
    metadata: dict = field(default_factory=lambda: {"best_epoch": 7})

    def ranks(self, sequences: object) -> pd.DataFrame:
        users = np.arange(100)[:: self.flip]
        rank = np.where(users % 2 == 0, self.rank, 1000)
        return pd.DataFrame({"user_id": users, "rank": rank, "target_excluded": False})

    def retriever(self) -> nn.Module:
        return nn.Linear(4, 1)


@dataclass
class Found:
    """The models of two presets: dot finds half of the targets at rank 12, MoL at rank 8; MoL has no seed 2."""

    trained_only: bool = True

    def find(self, chosen: SimpleNamespace, sequences: object, seed: int) -> Trained | None:
        if chosen.name.endswith("mol"):
            return None if seed == 2 else Trained(8, -1)
        return Trained(12, 1)


@pytest.fixture(autouse=True)
def lookups(monkeypatch):
    monkeypatch.setattr(fair_studies, "load", lambda name: None)
    monkeypatch.setattr(fair_studies, "preset", lambda name: SimpleNamespace(name=name))


def test_a_difference_is_paired_by_user_over_the_seeds_that_both_have():
    table = Fair(models=BOTH).table(Found())
    hits = table[table["metric"] == "HR@10"].set_index("model")
    dot, mol = hits.loc["fair/hstu-dot"], hits.loc["fair/hstu-mol"]
    assert dot[["value", "seeds", "ahead", "shared"]].tolist() == [0, 3, 0.5, 2]
    assert mol[["value", "seeds", "ahead", "shared"]].tolist() == [0.5, 2, 0, 2]
    assert mol["low"] == dot["ahead_low"] and 0.35 < mol["low"] < 0.5 < mol["high"] < 0.65
    assert mol["std"] == 0 and mol["parameters"] == 5 and mol["chosen"] == "7, 7"
    deep = table[table["metric"] == "HR@50"].set_index("model")
    assert deep["value"].tolist() == [0.5, 0.5]
    assert deep.loc["fair/hstu-dot", ["ahead", "ahead_low", "ahead_high"]].tolist() == [0, 0, 0]


def test_the_text_has_a_row_per_preset_and_one_per_difference():
    text = format_fair(Fair(models=BOTH).table(Found()))
    assert text["model"].tolist() == ["fair/hstu-dot", "fair/hstu-mol", "fair/hstu-mol − fair/hstu-dot"]
    assert text["HR@10"].iloc[2].startswith("+0.5000 ± 0.0000 (+0.")
    assert text["HR@50"].iloc[2] == "+0.0000 ± 0.0000 (+0.0000 to +0.0000)"
    assert text["seeds"].tolist() == ["3", "2", "2"]


def test_the_sentence_names_whom_the_last_is_ahead_of():
    assert last_next_to_others(Fair(models=BOTH).table(Found())).endswith(
        "fair/hstu-mol is ahead of fair/hstu-dot."
    )
    other_way = last_next_to_others(Fair(models=BOTH[::-1]).table(Found()))
    assert other_way.endswith("fair/hstu-dot is behind fair/hstu-mol.")


def test_one_preset_alone_and_none():
    assert Fair(models=("fair/hstu-mol",), seeds=1).table(Found())["ahead"].eq(0).all()
    with pytest.raises(ValueError, match="seeds be 1 or more"):
        study("fair", {"seeds": "0"})


def test_other_presets_than_the_usual_have_a_table_of_their_own() -> None:
    assert Fair().file == "fair-ml-1m"
    assert Fair(models=("fair/hstu-dot", "quick/hstu-mol")).file == "fair-ml-1m-hstu-dot-quick-hstu-mol"
