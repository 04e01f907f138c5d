"""Published settings, trained here, next to the published figures."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from torch import nn

from workbench.data import load
from workbench.evaluation.metrics import MRR_CUT
from workbench.evaluation.protocol import Protocol
from workbench.studies import published_studies
from workbench.studies.published_studies import Published, as_published, format_published
from workbench.studies.study import study


@dataclass
class Trained:
    history: tuple[int, ...] = tuple(range(101))
    metadata: dict = field(default_factory=lambda: {"best_epoch": 77})

    def retriever(self) -> nn.Module:
        return nn.Linear(4, 1)


@dataclass
class Found:
    """Of the models, HSTU with a dot product is trained alone."""

    def find(self, chosen: SimpleNamespace, sequences: object) -> Trained | None:
        return Trained() if chosen.name == "ml-1m/hstu-dot" else None


@pytest.fixture(autouse=True)
def ranks_by_protocol(monkeypatch):
    """Every third target is among ten if its time is visible, every fourth if it is hidden."""

    def rank_users(retriever: nn.Module, sequences: object, protocol: Protocol) -> pd.DataFrame:
        users = np.arange(120)
        rank = np.where(users % (3 if protocol.request_time else 4) == 0, 10, 100)
        return pd.DataFrame({"user_id": users, "rank": rank, "target_excluded": False})

    monkeypatch.setattr(published_studies, "rank_users", rank_users)
    monkeypatch.setattr(published_studies, "preset", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(published_studies, "load", lambda name: load("embedded-small"))


def test_each_published_metric_has_a_row_under_both_protocols():
    table = Published().table(Found())
    assert set(table["model"]) == {"ml-1m/hstu-dot"} and set(table["epochs"]) == {101}
    assert table["metric"].tolist() == ["HR@1", "HR@10", "HR@50", "HR@200", MRR_CUT]
    ten = table.set_index("metric").loc["HR@10"]
    assert ten[["published", "value", "strict", "chosen"]].tolist() == [
        0.3332,
        pytest.approx(1 / 3),
        0.25,
        77,
    ]
    assert ten["low"] < 1 / 3 < ten["high"]
    assert "target time visible, model chosen on test" in table["protocol"].iloc[0]


def test_the_text_has_a_row_here_one_published_and_one_by_the_strict_protocol():
    text = format_published(Published().table(Found()))
    assert text["whose"].tolist() == ["here", "published", "here, strict"]
    assert text["epoch"].tolist() == ["77 of 101", "", ""]
    assert text["HR@10"].tolist()[1:] == ["0.3332", "0.2500"] and text["HR@10"][0].startswith("0.3333 (0.")


def test_the_sentence_says_which_figures_are_reached():
    assert as_published(Published().table(Found())).endswith("for ml-1m/hstu-dot (+0.0001).")
    far = pd.DataFrame({"model": ["a"], "metric": ["HR@10"], "value": [0.3], "published": [0.33]})
    assert as_published(far) == "HR@10 is within .005 of the published one for none: a (-0.0300)."


def test_the_highest_open_row_has_its_own_protocol(monkeypatch):
    monkeypatch.setattr(Found, "find", lambda self, chosen, sequences: Trained())
    table = Published(models=("ml-1m/hstu-dot", "visible/hstu-dot")).table(Found())
    highest = table[table["model"] == "visible/hstu-dot"].set_index("metric")
    assert highest["published"].to_dict() == {"HR@10": 0.3642, "NDCG@10": 0.2164}
    assert highest["value"]["HR@10"] == pytest.approx(1 / 3) and highest["strict"]["HR@10"] == 0.25
    assert "target time visible, model chosen on validation" in highest["protocol"].iloc[0]
    assert format_published(table)["NDCG@10"].tolist()[:3] == [""] * 3


def test_what_was_not_published_is_refused_by_name():
    with pytest.raises(
        ValueError, match="no published settings: cpu/gru4rec-dot; these have some: sasrec-dot"
    ):
        study("published", {"models": "cpu/gru4rec-dot"})


@pytest.mark.parametrize("end", published_studies.CHEAPER)
def test_a_cheaper_run_is_held_against_the_same_figures(monkeypatch, end):
    monkeypatch.setattr(Found, "find", lambda self, chosen, sequences: Trained())
    whole, cheaper = (Published(models=(f"ml-1m/hstu-mol{e}",)).table(Found()) for e in ("", end))
    assert whole["published"].tolist() == cheaper["published"].tolist() != []


def test_without_a_trained_model_the_command_is_named():
    with pytest.raises(ValueError, match="run `workbench train ml-1m/sasrec-mol` first"):
        Published(models=("ml-1m/sasrec-mol",)).table(Found())
