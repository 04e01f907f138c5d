"""Models that are trained again: each choice changes what it says, and nothing is trained twice."""

import pandas as pd
import pytest

from workbench.data import load
from workbench.evaluation.switchboard import AS_STRICT, one_switch
from workbench.models import model_store
from workbench.studies.choice_studies import CHOICES, Choices
from workbench.studies.result_formats import of_choices
from workbench.studies.study import Models
from workbench.training.presets import preset


@pytest.fixture
def measured(tmp_path, monkeypatch, brief) -> pd.DataFrame:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    return Choices(dataset="embedded-small", models=("quick/sasrec-dot",)).table(Models())


@pytest.fixture
def brief(monkeypatch):
    """Presets of one epoch."""
    from dataclasses import replace

    from workbench.studies import choice_studies

    def short(name):
        chosen = preset(name)
        return replace(chosen, training=replace(chosen.training, epochs=1))

    monkeypatch.setattr(choice_studies, "preset", short)


def test_each_choice_is_trained_once_and_says_whom_it_evaluates(measured, monkeypatch):
    assert list(measured["training"].unique()) == list(CHOICES)
    users = measured[measured["part"] == "test"].groupby("training")["users"].unique()
    source = load("embedded-small")
    assert users[AS_STRICT].tolist() == [len(source.users_with("test"))] == users["ties shuffled"].tolist()
    temporal = CHOICES["temporal split"].data(source)
    assert users["temporal split"].tolist() == [len(temporal.users_with("test"))]
    assert 0 < len(temporal.users_with("test")) < len(source.users_with("test"))
    folders = sorted(path.name for path in (model_store.paths.checkpoints()).iterdir())
    assert len(folders) == 4 and sum("temporal" in name for name in folders) == 1
    monkeypatch.setattr(model_store, "train", lambda *a, **k: pytest.fail("trained again"))
    again = Choices(dataset="embedded-small", models=("quick/sasrec-dot",)).table(Models())
    pd.testing.assert_frame_equal(again, measured)
    shown = of_choices(measured)
    assert list(shown["training"]) == list(CHOICES) and list(shown.index) == [0, 1, 2, 3]
    assert list(one_switch(measured, "MRR").query("switch == 'training'")["value"]) == list(CHOICES)[1:]
