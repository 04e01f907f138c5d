"""The text heads in `ckpts/` are whole: their settings describe the weights that lie next to them."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from workbench.loading import read_json
from workbench.studies.text import HEADS, TextRetrieval
from workbench.training.text_heads import HeadConfig, TextHead

CHECKPOINTS = Path(__file__).resolve().parents[2] / "ckpts"
SHIPPED = [path for path in sorted(CHECKPOINTS.glob("text-*/head.json")) if "-seed" not in path.parent.name]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.parent.name)
def test_a_shipped_head_scores(path: Path) -> None:
    stored = read_json(path, "restore it")
    config = HeadConfig(**stored["head"])
    assert config.temperature in TextRetrieval.temperatures and stored["documents"] == 117_659
    assert HEADS[config.name] == replace(config, temperature=HeadConfig.temperature)
    assert path.parent.name == f"text-{stored['collection']}-{config.name}"
    head = TextHead(config, 384)
    start = {name: weight.clone() for name, weight in head.state_dict().items()}
    head.load_state_dict(safetensors.torch.load_file(path.parent / "model.safetensors"))
    assert all(
        not torch.equal(weight, start[name]) for name, weight in head.state_dict().items() if weight.dim() > 1
    )


def test_heads_are_shipped() -> None:
    assert {path.parent.name.removeprefix("text-reverse-dictionary-") for path in SHIPPED} >= {
        "dot-2",
        "mol-2",
    }
