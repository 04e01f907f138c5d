"""Published checkpoints give the published code's outputs."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.encoders import HSTUConfig, SASRecConfig
from workbench.models.import_rails import import_rails
from workbench.retriever import Retriever
from workbench.search import BruteForce
from workbench.similarities import DotConfig, MoLConfig


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def normed(outputs: Tensor, retriever: Retriever) -> Tensor:
    """The published code's output norm: a LayerNorm without weights before MoL, L2 before the dot product."""
    if isinstance(retriever.config.similarity, MoLConfig):
        return F.layer_norm(outputs, outputs.shape[-1:], eps=1e-6)
    return F.normalize(outputs, dim=-1, eps=1e-6)


@pytest.fixture
def retriever(reference) -> Retriever:
    return import_rails(reference.checkpoint)


@torch.no_grad()
def test_embeddings_agree(reference, retriever, jagged_path):
    batch, out = reference.batch, reference.out
    assert batch.lengths.min() < batch.lengths.max()  # the fixture has padding
    outputs = normed(retriever(batch), retriever)
    close(outputs[batch.valid], out["sequence_embeddings"][:, : outputs.shape[1]][batch.valid], 1e-5)
    embedded = retriever.encoder.encode(retriever.embed(batch), batch)
    close(normed(embedded, retriever), out["query_embeddings"], 1e-5)
    items = retriever.item_table.weight[1:]
    items = items if "mol" in reference.name else F.normalize(items, dim=-1, eps=1e-6)
    close(items, out["item_embeddings"], 1e-5)


@torch.no_grad()
def test_states_agree(reference, retriever, jagged_path):
    queries, items = retriever.query_state(reference.batch), retriever.item_state()
    temperature = retriever.config.similarity.temperature
    assert items.ids.tolist() == list(range(1, 301))
    if "mol" in reference.name:
        close(queries.components * temperature, reference.out["query_components"], 1e-5)
        close(items.components, reference.out["item_components"], 1e-5)
    else:
        close(queries.vectors * temperature, reference.out["query_embeddings"], 1e-5)
        close(items.vectors, reference.out["item_embeddings"], 1e-5)


@torch.no_grad()
def test_scores_and_the_best_fifty_agree(reference, retriever, jagged_path):
    queries, items = retriever.query_state(reference.batch), retriever.item_state()
    # The published scores of the dot product are cosines; ours are divided by the temperature, as its loss does.
    scale = 1.0 if "mol" in reference.name else retriever.config.similarity.temperature
    scores = retriever.similarity.score(queries, items) * scale
    close(scores, reference.out["scores"], 1e-4)
    rows = torch.arange(300).expand(len(queries), -1)
    close(retriever.similarity.score_candidates(queries, items, rows) * scale, scores, 1e-5)
    found = BruteForce(retriever.similarity, items).search(queries, 50)
    close(found.scores * scale, reference.out["top50_scores"], 1e-4)
    assert torch.equal(found.ids, reference.out["top50_ids"])


def test_the_target_time_is_seen_by_hstu_alone(reference, retriever):
    later = reference.batch.target_timestamps + 10_000_000
    with torch.no_grad():
        before = retriever.query_state(reference.batch)
        moved = reference.batch.to("cpu")
        object.__setattr__(moved, "target_timestamps", later)
        after = retriever.query_state(moved)
    name = "components" if "mol" in reference.name else "vectors"
    same = torch.allclose(getattr(before, name), getattr(after, name), atol=1e-4)
    assert same == reference.name.startswith("sasrec")


def test_the_configuration_is_that_of_the_settings(reference, retriever):
    given = json.loads(reference.checkpoint.with_suffix(".json").read_text())
    config = retriever.config
    assert (config.dim, config.max_length, retriever.num_items) == (32, 20, 300)
    if "hstu" in given:
        assert config.encoder == HSTUConfig(blocks=2, heads=2, qk_dim=16, v_dim=16, dropout=0.2)
    else:
        assert config.encoder == SASRecConfig(blocks=2, heads=2, ffn_dim=32, dropout=0.2)
    if "mol" not in given:
        assert config.similarity == DotConfig(normalize=True, temperature=0.05)
        return
    assert config.similarity == MoLConfig(
        query_groups=4,
        item_groups=2,
        component_dim=16,
        query_projection="swiglu",
        query_hidden=64,
        item_projection="linear",
        item_hidden=0,
        user_tables=(100,),
        gate_query=32,
        gate_item=32,
        gate_pair=32,
    )
    assert not retriever.training


def test_an_imported_retriever_saves_and_loads(reference, retriever, tmp_path):
    retriever.save(tmp_path, source="import")
    again = Retriever.load(tmp_path)
    assert again.config == retriever.config
    with torch.no_grad():
        pairs = [(r.query_state(reference.batch), r.item_state()) for r in (retriever, again)]
        first, second = (retriever.similarity.score(*pair) for pair in pairs)
    assert torch.equal(first, second)
