"""Published files come in copies that differ in times, or in the order of ties: what of a checkpoint holds for them."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from workbench import front_door
from workbench.bench.workloads import Trained, build
from workbench.data import Sequences, storage
from workbench.models import training_data
from workbench.models.model_store import TrainedModel, find_trained, halve, load_or_train
from workbench.training.presets import preset

CHOSEN = preset("quick/hstu-mol")
SMALL = replace(CHOSEN, training=replace(CHOSEN.training, epochs=1, batch_size=8))


@pytest.fixture
def trained(tmp_path: Path, cycles, monkeypatch) -> TrainedModel:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    return load_or_train(SMALL, cycles(), device="cpu", progress=False)


def retimed(data: Sequences) -> Sequences:
    return replace(data, timestamps=data.timestamps * 7)


def reordered(data: Sequences) -> Sequences:
    """The last two items of every user the other way round: another target, which the training has seen."""
    ids = data.item_ids.reshape(40, 12).copy()
    ids[:, -2:] = ids[:, [-1, -2]]
    return replace(data, item_ids=ids.ravel())


def renumbered(data: Sequences) -> Sequences:
    return replace(data, items=data.items.assign(item_id=data.items["item_id"] + 1))


def prepared(data: Sequences, root: Path) -> None:
    storage.save(data, root / "data" / data.name, {})


def test_a_checkpoint_stores_what_it_was_trained_on(trained: TrainedModel, cycles) -> None:
    config = json.loads((trained.folder / "config.json").read_text())
    assert training_data.described(cycles()).items() <= config.items()


def test_other_times_leave_a_model_usable_and_measured_on_them(trained: TrainedModel, cycles, caplog) -> None:
    before = (trained.folder / "metrics.csv").read_bytes()
    with caplog.at_level(logging.WARNING):
        found = find_trained(SMALL, retimed(cycles()))
    assert found is not None and found.folder == trained.folder
    assert "a copy of cycles whose times or ratings differ" in caplog.text
    ranks = found.ranks(retimed(cycles()))
    share = (ranks["rank"] <= 10).mean()
    assert found.metrics.set_index("metric")["value"]["HR@10"] == pytest.approx(share)
    assert (trained.folder / "metrics.csv").read_bytes() == before


def test_metrics_of_other_times_are_not_the_stored_ones(trained: TrainedModel, cycles, monkeypatch) -> None:
    """HSTU reads times: a copy with others gets numbers of its own, even if the code is the same."""
    seen = []
    stored = pd.read_parquet(trained.folder / "ranks.parquet")
    monkeypatch.setattr(TrainedModel, "ranks", lambda self, data: seen.append(data.fingerprint()) or stored)
    for data in (cycles(), retimed(cycles())):
        assert find_trained(SMALL, data) is not None
    assert seen == [retimed(cycles()).fingerprint()]


def test_another_order_is_trained_for_and_says_why(trained: TrainedModel, cycles, capsys) -> None:
    """Its targets were trained on: the model's metrics would be too good."""
    assert find_trained(SMALL, reordered(cycles())) is None
    other = load_or_train(SMALL, reordered(cycles()), device="cpu")
    assert other.folder != trained.folder
    assert f"({trained.folder} was trained on another cycles: users have other" in capsys.readouterr().out


def test_a_checkpoint_that_does_not_say_its_data_is_not_taken(trained: TrainedModel, cycles) -> None:
    config = trained.folder / "config.json"
    stored = json.loads(config.read_text())
    config.write_text(
        json.dumps({k: v for k, v in stored.items() if k not in ("fingerprint", "order", "ids")})
    )
    assert find_trained(SMALL, cycles()) is None is find_trained(SMALL, retimed(cycles()))


def test_the_same_data_are_preferred_to_a_copy(trained: TrainedModel, cycles) -> None:
    copy = retimed(cycles())
    own = load_or_train(SMALL, copy, seed=1, device="cpu", progress=False)
    assert find_trained(SMALL, cycles(), seed=1) is not None  # there is no other
    exact = find_trained(SMALL, copy, seed=1)
    assert exact is not None and exact.folder == own.folder


@pytest.mark.parametrize("changed", [retimed, reordered])
def test_a_model_recommends_to_the_users_of_any_copy(
    trained: TrainedModel, cycles, tmp_path, changed
) -> None:
    data = changed(cycles())
    prepared(data, tmp_path)
    for model in (front_door.load(trained.folder, data=data), front_door.load(trained.folder)):
        assert len(model.recommend(user=3, k=4)) == 4
    assert len(build(Trained(str(trained.folder)), 4, 0, torch.device("cpu")).items) == 30


def test_other_items_are_refused(trained: TrainedModel, cycles, tmp_path) -> None:
    data = renumbered(cycles())
    prepared(data, tmp_path)
    with pytest.raises(ValueError, match="was trained on cycles"):
        front_door.load(trained.folder, data=data)
    with pytest.raises(ValueError, match="other items or users"):
        build(Trained(str(trained.folder)), 4, 0, torch.device("cpu"))


def test_targets_that_were_trained_on_are_not_measured_by_chance(
    trained: TrainedModel, cycles, tmp_path
) -> None:
    data = reordered(cycles())
    prepared(data, tmp_path)
    with pytest.raises(ValueError, match="it may have seen targets"):
        front_door.load(trained.folder).evaluate()
    assert np.isfinite(front_door.load(trained.folder).evaluate(data)["value"]).all()
    assert len(front_door.load(trained.folder, data=retimed(cycles())).evaluate())


def test_what_is_stored_with_a_model_is_of_its_own_data(trained: TrainedModel, cycles) -> None:
    with pytest.raises(ValueError, match="was trained on other data than the cycles"):
        halve(trained.folder, retimed(cycles()))
