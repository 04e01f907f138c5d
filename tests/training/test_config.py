import json
from dataclasses import replace

import pytest

from workbench.training.config import METRICS, TrainingConfig
from workbench.training.losses import LossConfig


def test_a_configuration_survives_json():
    config = TrainingConfig(
        epochs=3, betas=(0.5, 0.6), clip_norm=1.0, loss=LossConfig("bce", "mixed", 7, log_q=True), patience=2
    )
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_published_defaults():
    config = TrainingConfig()
    assert (config.learning_rate, config.betas, config.batch_size) == (1e-3, (0.9, 0.98), 128)
    assert (config.warmup_steps, config.clip_norm, config.weight_decay) == (0, None, 0.0)
    assert config.loss == LossConfig("sampled softmax", "uniform", 128, log_q=False)


def test_what_is_held_out():
    assert TrainingConfig(choose_on="validation").part == "train"
    assert TrainingConfig(choose_on="test").part == "train and validation"


@pytest.mark.parametrize(
    "change", [{"unknown": 1}, {"loss": {"kind": "bce", "margin": 1}}, {"loss": 3}, {"betas": 1}]
)
def test_another_versions_settings_are_refused(change):
    with pytest.raises(ValueError, match="not a training configuration"):
        TrainingConfig.from_dict(TrainingConfig().to_dict() | change)
    missing = {k: v for k, v in TrainingConfig().to_dict().items() if k != "loss"}
    with pytest.raises(ValueError, match="loss"):
        TrainingConfig.from_dict(missing)


@pytest.mark.parametrize("metric", METRICS)
def test_the_metrics_that_may_choose(metric):
    assert replace(TrainingConfig(), metric=metric).metric == metric


NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("validate_every", 0),
        ("positions_per_step", 0),
        ("patience", 0),
        ("learning_rate", 0.0),
        ("learning_rate", NAN),
        ("weight_decay", -0.1),
        ("weight_decay", NAN),
        ("warmup_steps", -1),
        ("clip_norm", 0.0),
        ("clip_norm", NAN),
        ("mask_probability", 1.0),
        ("mask_last_only", 1.5),
        ("metric", "recall@10"),
    ],
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        replace(TrainingConfig(), **{name: value})
