import json
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from workbench.contracts import SequenceBatch
from workbench.encoders import (
    BERT4RecConfig,
    EncoderConfig,
    GRU4RecConfig,
    HSTUConfig,
    SASRecConfig,
    TwoTowerConfig,
)
from workbench.retriever import Retriever, RetrieverConfig, check_fit, not_finite, read_metadata
from workbench.search import BruteForce
from workbench.similarities import DotConfig, MoLConfig

ENCODERS: list[EncoderConfig] = [
    SASRecConfig(1, 2, 12, 0.1),
    HSTUConfig(1, 2, 4, 6, 0.1, request_time=False),
    GRU4RecConfig(hidden_dim=9),
    BERT4RecConfig(blocks=1, heads=2, ffn_dim=12),
    TwoTowerConfig(hidden_dims=(12, 9)),
]
SIMILARITIES = [
    DotConfig(temperature=0.1),
    MoLConfig(3, 2, 4, user_tables=(7, 5), query_hidden=6, gate_item=None),
]
CONFIG = RetrieverConfig(ENCODERS[0], SIMILARITIES[1], dim=8, max_length=5)
ITEMS = 20


def batch(ids: list[list[int]], users: tuple[int, ...] = (3, 9)) -> SequenceBatch:
    item_ids = torch.tensor(ids)
    lengths = (item_ids != 0).sum(1)
    times = torch.arange(item_ids.shape[1]).expand_as(item_ids) * 3600
    return SequenceBatch(
        item_ids=item_ids,
        timestamps=times,
        ratings=item_ids.float(),
        lengths=lengths,
        user_ids=torch.tensor(users[: len(ids)]),
        target_ids=torch.ones_like(lengths),
        target_timestamps=times.max() + lengths,
    )


BATCH = batch([[1, 20, 3], [7, 7, 0]])


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda c: c.kind)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda c: c.kind)
def test_the_seed_decides_the_weights_alone(encoder, similarity):
    config = replace(CONFIG, encoder=encoder, similarity=similarity)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        state = torch.get_rng_state()
        first = Retriever(config, ITEMS, seed=5)
        assert torch.equal(torch.get_rng_state(), state)  # nor does it move the global generator
        torch.manual_seed(2)
        assert same(first, Retriever(config, ITEMS, seed=5))
        assert not same(first, Retriever(config, ITEMS, seed=6))


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda c: c.kind)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda c: c.kind)
def test_what_is_saved_is_what_is_loaded(tmp_path, encoder, similarity):
    config = replace(CONFIG, encoder=encoder, similarity=similarity)
    retriever = Retriever(config, ITEMS, seed=1).eval()
    retriever.save(tmp_path / "a" / "b", data="mine", epochs=3)
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"model.safetensors", "config.json"}
    again = Retriever.load(tmp_path / "a" / "b")
    assert again.config == config and again.num_items == ITEMS and not again.training
    assert same(retriever, again)
    metadata = read_metadata(tmp_path / "a" / "b")
    assert (metadata["format"], metadata["data"], metadata["epochs"]) == (1, "mine", 3)
    with torch.no_grad():
        scores = [r.similarity.score(r.query_state(BATCH), r.item_state()) for r in (retriever, again)]
    assert torch.equal(*scores)
    found = BruteForce(again.similarity, again.item_state()).search(again.query_state(BATCH), 4)
    assert found.ids.shape == (2, 4)


@pytest.mark.parametrize("encoder", ENCODERS, ids=lambda c: c.kind)
@pytest.mark.parametrize("similarity", SIMILARITIES, ids=lambda c: c.kind)
def test_configurations_survive_json(encoder, similarity):
    config = replace(CONFIG, encoder=encoder, similarity=similarity)
    assert RetrieverConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path):
    retriever = Retriever(CONFIG, ITEMS, seed=1)
    retriever.save(tmp_path / "whole")
    for dtype, error in (("float16", 2**-11), ("bfloat16", 2**-8)):
        retriever.save(tmp_path / dtype, stored_dtype=dtype, dataset="shop")
        assert read_metadata(tmp_path / dtype)["stored_dtype"] == dtype
        assert all(
            t.element_size() <= 2
            for t in safetensors.torch.load_file(tmp_path / dtype / "model.safetensors").values()
        )
        loaded = Retriever.load(tmp_path / dtype).state_dict()
        for name, weight in retriever.state_dict().items():
            assert loaded[name].dtype == weight.dtype
            torch.testing.assert_close(loaded[name], weight, rtol=error, atol=1e-7)
    assert "stored_dtype" not in read_metadata(tmp_path / "whole")
    before = Retriever.load(tmp_path / "float16")
    with torch.no_grad():
        retriever.item_table.weight[1] = 70_000.0
    with pytest.raises(ValueError, match=r"item_table.weight holds 7e\+04, which float16 cannot hold"):
        retriever.save(tmp_path / "float16", stored_dtype="float16")
    assert same(Retriever.load(tmp_path / "float16"), before)


def test_the_item_table_is_drawn_narrow_and_its_padding_is_zero():
    table = Retriever(replace(CONFIG, dim=64), 500).item_table.weight
    assert (table[0] == 0).all()
    assert table[1:].std().item() == pytest.approx(0.02, rel=0.03)
    assert table.abs().max() < 0.15


def test_states_of_some_items_are_rows_of_all():
    retriever = Retriever(CONFIG, ITEMS).eval()
    ids = torch.tensor([20, 1, 7])
    some, whole = retriever.item_state(ids), retriever.item_state()
    assert torch.equal(some.ids, ids) and whole.ids.tolist() == list(range(1, ITEMS + 1))
    torch.testing.assert_close(some.components, whole.components[ids - 1])


@pytest.mark.parametrize(
    ("ids", "wrong"), [([[1, 21], [1, 1]], 21), ([[1, 2], [-1, 3]], -1), ([[999, 0], [-5, 1]], -5)]
)
def test_an_unknown_item_in_a_history_is_an_error(ids, wrong):
    retriever = Retriever(CONFIG, ITEMS)
    for call in (retriever.embed, retriever, retriever.query_state):
        with pytest.raises(ValueError, match=rf"item id {wrong} is outside this retriever's items 1\.\.20"):
            call(batch(ids))


@pytest.mark.parametrize("wrong", [0, 21, -1])
def test_an_unknown_item_in_the_corpus_is_an_error(wrong):
    with pytest.raises(ValueError, match=f"item id {wrong} is outside"):
        Retriever(CONFIG, ITEMS).item_state(torch.tensor([1, wrong]))


def test_too_long_a_history_is_an_error():
    with pytest.raises(ValueError, match="up to 6 items, but this encoder reads 5"):
        Retriever(CONFIG, ITEMS).query_state(batch([[1, 2, 3, 4, 5, 6]]))


def test_no_histories_give_no_queries():
    empty = BATCH[torch.tensor([], dtype=torch.long)]
    assert len(Retriever(CONFIG, ITEMS).query_state(empty)) == 0
    assert Retriever(CONFIG, ITEMS).item_state(torch.tensor([], dtype=torch.long)).components.shape[0] == 0


@pytest.mark.parametrize(
    ("items", "change", "message"),
    [(0, {}, "at least one item"), (5, {"dim": 0}, "dim"), (5, {"max_length": 0}, "max_length")],
)
def test_impossible_sizes_are_refused(items, change, message):
    with pytest.raises(ValueError, match=message):
        Retriever(replace(CONFIG, **change), items)


# What is wrong with a checkpoint


@pytest.fixture
def saved(tmp_path) -> Path:
    Retriever(CONFIG, ITEMS).save(tmp_path)
    return tmp_path


def rewrite(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    metadata = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in metadata.items() if value is not None}))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds no {name}"):
        Retriever.load(saved)
    with pytest.raises(FileNotFoundError, match=r"nowhere holds no config\.json"):
        Retriever.load(saved / "nowhere")


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.99])
def test_a_truncated_file_of_weights_is_named(saved, kept):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        Retriever.load(saved)


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00", b'{"format": 1,'])
def test_an_unreadable_configuration_is_named(saved, content):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        Retriever.load(saved)


@pytest.mark.parametrize("content", ['{"format": 2}', "{}", '{"format": "1"}', '{"format": [1]}'])
def test_another_format_is_refused(saved, content):
    (saved / "config.json").write_text(content)
    with pytest.raises(ValueError, match="this version reads format 1"):
        Retriever.load(saved)


def described(**changes: Any) -> dict[str, Any]:
    values = CONFIG.to_dict()
    for name, change in changes.items():
        values[name] = values[name] | change if isinstance(change, dict) else change
    return values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_items": None}, "num_items"),
        ({"num_items": "many"}, "num_items"),
        ({"retriever": None}, "describes no retriever"),
        ({"retriever": {}}, "needs 'encoder'"),
        ({"retriever": []}, "describes no retriever"),
        ({"retriever": described(encoder={"kind": "caser"})}, "unknown encoder 'caser'.*hstu.*sasrec"),
        (
            {"retriever": described(similarity={"kind": "cosine"})},
            "unknown similarity 'cosine'.*dot.*maxsim, mol",
        ),
        ({"retriever": described(encoder="sasrec")}, "unknown encoder None"),
        ({"retriever": described(encoder={"layers": 2})}, "'sasrec' has no setting layers; it has.*blocks"),
        ({"retriever": described(encoder={"dropout": 2.0})}, "dropout must lie in"),
        ({"retriever": described(dim="wide")}, "dim must be a whole number"),
        ({"retriever": described(dim=8.0)}, "dim must be a whole number"),
        ({"retriever": described(max_length=True)}, "max_length must be a whole number"),
        ({"retriever": described(similarity={"item_groups": "two"})}, "item_groups.*integer"),
        ({"retriever": described(similarity={"item_groups": 2.0})}, "item_groups.*integer"),
        ({"retriever": described(encoder={"kind": ["sasrec"]})}, "unknown encoder"),
        ({"retriever": described(encoder={"dropout": None})}, "dropout.*number"),
        ({"num_items": 2.5}, "num_items"),
        ({"num_items": -1}, "num_items"),
        ({"dataset": ["ml-1m"]}, "its dataset is no text"),
    ],
)
def test_a_configuration_that_is_not_understood_is_named(saved, changes, message):
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        Retriever.load(saved)
    assert str(saved / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_items": 21}, r"item_table\.weight is \(21, 8\), the model's is \(22, 8\)"),
        ({"retriever": described(dim=10)}, r"does not fit the model \(\d+ tensors\)"),
        ({"retriever": described(encoder={"blocks": 2})}, r"encoder\.blocks\.1.*is missing"),
        ({"retriever": described(similarity={"gate_query": None})}, r"gate_query.*is not part of this model"),
    ],
)
def test_weights_of_another_shape_are_named(saved, changes, message):
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=message):
        Retriever.load(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_items": 10**12},
        {"num_items": 10**30},
        {"retriever": described(encoder={"blocks": 100_000_000})},
        {"retriever": described(dim=10**15)},
        {"retriever": described(similarity={"query_hidden": 10**11})},
        {"retriever": described(similarity={"query_groups": 10**9})},
    ],
)
def test_sizes_are_compared_with_the_weights_before_anything_is_allocated(saved, changes):
    rewrite(saved, **changes)
    with pytest.raises(ValueError, match=r"does not fit|describes no retriever") as caught:
        Retriever.load(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(saved, value):
    weights = safetensors.torch.load_file(saved / "model.safetensors")
    weights["similarity.item_network.linear.bias"][1] = value
    safetensors.torch.save_file(weights, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"similarity\.item_network\.linear\.bias holds NaN or infinite"):
        Retriever.load(saved)


def test_the_first_parameter_that_is_not_finite_is_found():
    layer = nn.Linear(2, 2)
    assert not_finite(layer.state_dict()) is None
    with torch.no_grad():
        layer.bias[1] = torch.inf
    assert not_finite(layer.state_dict()) == "bias"


def test_weights_fit_whole_or_not_at_all():
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"here does not fit the model.*bias is missing"):
        check_fit(layer.state_dict(), {"weight": torch.zeros(2, 2)}, "here")
    check_fit(layer.state_dict(), {"weight": torch.ones(2, 2), "bias": torch.ones(2)}, "here")
    with pytest.raises(ValueError, match=r"bias is torch\.int64, the model's is torch\.float32"):
        check_fit(layer.state_dict(), {"weight": torch.ones(2, 2), "bias": torch.ones(2).long()}, "here")


def test_a_full_disk_leaves_the_checkpoint_before_whole(saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    retriever = Retriever(CONFIG, ITEMS, seed=9)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # no file may grow beyond 1,000 bytes
    try:
        with pytest.raises(OSError, match=r"model\.safetensors|large"):
            retriever.save(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_facts_that_cannot_be_written_leave_the_checkpoint_before_whole(saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(TypeError):
        Retriever(CONFIG, ITEMS, seed=9).save(saved, when=object())
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


@pytest.mark.parametrize(
    ("encoder", "similarity", "missing"),
    [
        (HSTUConfig(1, 1, 4, 4, 0.0), DotConfig(), "time of the request"),
        (
            SASRecConfig(1, 1, 8, 0.0),
            MoLConfig(2, 1, 4, user_tables=(5,), query_hidden=8, gate_query=4),
            "give the user",
        ),
    ],
)
def test_a_history_alone_is_enough_unless_the_model_uses_more(encoder, similarity, missing):
    histories = SequenceBatch.of_histories([[1, 2, 3], [4]], 8)
    plain = Retriever(RetrieverConfig(SASRecConfig(1, 1, 8, 0.0), DotConfig(), 8, 8), 9).eval()
    assert len(plain.query_state(histories)) == 2
    retriever = Retriever(RetrieverConfig(encoder, similarity, 8, 8), 9).eval()
    with pytest.raises(ValueError, match=missing):
        retriever.query_state(histories)
    known = replace(histories.at_last_interaction(), user_ids=torch.tensor([0, 1]))
    assert len(retriever.query_state(known)) == 2
