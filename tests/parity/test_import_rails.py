"""What an import infers from tensors and settings, and how it refuses what it cannot trust."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.contracts import SequenceBatch
from workbench.data import Sequences
from workbench.models.import_rails import import_rails

D, D_P, PQ, PX = 12, 6, 3, 2


def published(
    *,
    groups: int = PQ,
    query_hidden: int = 8,
    item_hidden: int = 0,
    tables: tuple[int, ...] = (),
    gate_query: int | None = 5,
    gate_item: int | None = 5,
    gate_pair: int | None = 5,
    encoder: str = "sasrec",
) -> dict[str, Tensor]:
    """Tensors in the published naming, of a model with these options; 0 hidden units: a linear layer, None: no part."""
    generator, p = torch.Generator().manual_seed(1), groups * PX
    shapes: dict[str, tuple[int, ...]] = {
        "_embedding_module._item_emb.weight": (31, D),
        "_input_features_preproc._pos_emb.weight": (7 + 11, D),
    }
    if encoder == "sasrec":
        shapes |= {
            "attention_layers.0.in_proj_weight": (3 * D, D),
            "attention_layers.0.in_proj_bias": (3 * D,),
            "attention_layers.0.out_proj.weight": (D, D),
            "attention_layers.0.out_proj.bias": (D,),
            "forward_layers.0._conv1d.0.weight": (10, D, 1),
            "forward_layers.0._conv1d.0.bias": (10,),
            "forward_layers.0._conv1d.3.weight": (D, 10, 1),
            "forward_layers.0._conv1d.3.bias": (D,),
        }
    else:  # two heads, queries and keys of width 3, values of width 4
        shapes |= {
            "_hstu._attention_layers.0._uvqk": (D, 2 * 2 * (3 + 4)),
            "_hstu._attention_layers.0._o.weight": (D, 8),
            "_hstu._attention_layers.0._o.bias": (D,),
            "_hstu._attention_layers.0._rel_attn_bias._ts_w": (129,),
            "_hstu._attention_layers.0._rel_attn_bias._pos_w": (2 * 18 - 1,),
        }
    sides = {"query": (query_hidden, D_P * (groups - len(tables))), "item": (item_hidden, D_P * PX)}
    for side, (hidden, width) in sides.items():
        prefix = f"_ndp_module._{side}_embeddings_fn._{side}_emb_proj_module."
        if hidden:
            shapes |= {f"{prefix}1._w": (D, 2 * hidden), f"{prefix}1._b": (1, 2 * hidden)}
        last = 2 if hidden else 1
        shapes |= {f"{prefix}{last}.weight": (width, hidden or D), f"{prefix}{last}.bias": (width,)}
    for i, rows in enumerate(tables):
        shapes[f"_ndp_module._query_embeddings_fn._uid_embeddings_{i}.weight"] = (rows + 1, D_P)
    gates = {"query_only": (gate_query, D, 0), "item_only": (gate_item, D, 1), "qi": (gate_pair, p, 1)}
    for part, (units, width, first) in gates.items():
        prefix = f"_ndp_module._gating_fn._{part}_partial_module."
        if units is None:
            continue
        if units:
            shapes |= {f"{prefix}{first}.weight": (units, width), f"{prefix}{first}.bias": (units,)}
        last = first + 2 if units else first
        shapes[f"{prefix}{last}.weight"] = (p, units or width)
        if part == "qi":
            shapes[f"{prefix}{last}.bias"] = (p,)
    tensors = {f"module.{n}": torch.randn(shape, generator=generator) for n, shape in shapes.items()}
    return tensors | {"module._attn_mask": torch.ones(18, 18, dtype=torch.bool)}


def written(folder: Path, state: dict[str, Tensor], settings: dict[str, Any] | None) -> Path:
    path = folder / "published.pt"
    torch.save({"epoch": 3, "batch_id": 0, "model_state_dict": state, "optimizer_state_dict": {}}, path)
    if settings is not None:
        path.with_suffix(".json").write_text(json.dumps(settings))
    return path


SASREC = {"sasrec": {"num_heads": 2}}


def test_geglu_on_both_sides(tmp_path):
    state = published(query_hidden=8, item_hidden=9)
    settings = SASREC | {"mol": {"query_nonlinearity": "geglu", "item_nonlinearity": "swiglu"}}
    retriever = import_rails(written(tmp_path, state, settings))
    config = retriever.config.similarity
    assert (config.query_projection, config.query_hidden) == ("geglu", 8)
    assert (config.item_projection, config.item_hidden) == ("swiglu", 9)
    prefix = "module._ndp_module._item_embeddings_fn._item_emb_proj_module."
    x = retriever.item_table.weight[1:]
    left, right = (x @ state[f"{prefix}1._w"] + state[f"{prefix}1._b"]).split(9, dim=1)
    expected = (F.silu(left) * right) @ state[f"{prefix}2.weight"].T + state[f"{prefix}2.bias"]
    expected = F.normalize(expected.reshape(30, PX, D_P), dim=-1)
    torch.testing.assert_close(retriever.item_state().components, expected)


def test_geglu_is_the_published_default(tmp_path):
    config = import_rails(written(tmp_path, published(item_hidden=9), SASREC)).config.similarity
    assert (config.query_projection, config.item_projection) == ("geglu", "geglu")


def test_several_user_tables(tmp_path):
    settings = SASREC | {"mol": {"uid_embedding_level_dropout": True, "uid_dropout_rate": 0.8}}
    state = published(tables=(4, 9))
    retriever = import_rails(written(tmp_path, state, settings))
    config = retriever.config.similarity
    assert config.user_tables == (4, 9)
    assert (config.query_groups, config.item_groups, config.component_dim) == (PQ, PX, D_P)
    assert config.user_dropout_whole and config.user_dropout == 0.8
    queries = retriever.similarity.queries(torch.zeros(1, D), torch.tensor([14]))
    for i, row in enumerate((14 % 4 + 1, 14 % 9 + 1)):
        table = state[f"module._ndp_module._query_embeddings_fn._uid_embeddings_{i}.weight"]
        torch.testing.assert_close(queries.components[0, 1 + i] * 0.05, F.normalize(table[row], dim=0))


def test_more_than_ten_user_tables_keep_their_order(tmp_path):
    sizes = tuple(range(3, 15))
    state = published(groups=13, tables=sizes)
    assert import_rails(written(tmp_path, state, SASREC)).config.similarity.user_tables == sizes


def test_no_user_table_and_a_linear_query_projection(tmp_path):
    state = published(query_hidden=0)
    settings = SASREC | {"mol": {"query_hidden_dim": -1, "uid_embedding_hash_sizes": None}}
    retriever = import_rails(written(tmp_path, state, settings))
    config = retriever.config.similarity
    assert (config.query_groups, config.item_groups, config.component_dim) == (PQ, PX, D_P)
    assert config.query_projection == "linear" and config.user_tables == ()
    prefix = "module._ndp_module._query_embeddings_fn._query_emb_proj_module.1."
    q = torch.randn(2, D, generator=torch.Generator().manual_seed(0))
    expected = F.layer_norm(q, (D,), eps=1e-6) @ state[prefix + "weight"].T + state[prefix + "bias"]
    expected = F.normalize(expected.reshape(2, PQ, D_P), dim=-1)
    components = retriever.similarity.queries(q, torch.zeros(2, dtype=torch.long)).components
    torch.testing.assert_close(components * 0.05, expected)


@pytest.mark.parametrize("query", [None, 0, 5])
@pytest.mark.parametrize("item", [None, 0, 5])
@pytest.mark.parametrize("pair", [None, 0, 5])
def test_gates_linear_hidden_or_absent(tmp_path, query, item, pair):
    state = published(gate_query=query, gate_item=item, gate_pair=pair)
    path = written(tmp_path, state, SASREC)
    if (query, item, pair) == (None, None, None):  # no published gate is without a part
        with pytest.raises(ValueError, match="_gating_fn"):
            import_rails(path)
        return
    retriever = import_rails(path)
    config = retriever.config.similarity
    assert (config.gate_query, config.gate_item, config.gate_pair) == (query, item, pair)
    assert (config.query_groups, config.item_groups, config.component_dim) == (PQ, PX, D_P)
    if query is not None:
        prefix = "module._ndp_module._gating_fn._query_only_partial_module."
        q = torch.randn(2, D, generator=torch.Generator().manual_seed(0))
        x = F.layer_norm(q, (D,), eps=1e-6)
        if query:
            hidden = F.silu(x @ state[prefix + "0.weight"].T + state[prefix + "0.bias"])
            expected = hidden @ state[prefix + "2.weight"].T
        else:
            expected = x @ state[prefix + "0.weight"].T
            assert not any(n.startswith(prefix) and n.endswith("bias") for n in state)
        gate = retriever.similarity.queries(q, torch.zeros(2, dtype=torch.long)).gate
        torch.testing.assert_close(gate, expected)


@pytest.mark.parametrize(("published_name", "ours"), [("none", "sum"), ("glu_silu_ln", "glu_silu_ln")])
def test_the_kind_of_gate(tmp_path, published_name, ours):
    settings = SASREC | {"mol": {"gating_combination_type": published_name, "softmax_dropout_rate": 0.4}}
    config = import_rails(written(tmp_path, published(), settings)).config.similarity
    assert (config.gate_combination, config.gate_dropout) == (ours, 0.4)


def test_hstu_with_other_value_and_key_widths(tmp_path):
    settings = {"hstu": {"num_heads": 2, "dqk": 3, "dv": 4, "num_blocks": 1, "linear_dropout_rate": 0.5}}
    config = import_rails(written(tmp_path, published(encoder="hstu"), settings)).config
    encoder = config.encoder
    assert (encoder.heads, encoder.qk_dim, encoder.v_dim, encoder.blocks) == (2, 3, 4, 1)
    assert encoder.dropout == 0.5
    assert (config.dim, config.max_length) == (D, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_items": 31}, "num_items = 31.*30"),
        ({"D": 13}, "D = 13"),
        ({"max_sequence_length": 8}, "max_sequence_length = 8.*7"),
        ({"max_output_length": 12}, "max_output_length is 12"),
        ({"encoder": "hstu"}, "encoder = hstu.*sasrec"),
        ({"similarity": "dot"}, "similarity = dot.*mol"),
        ({"sasrec": {"num_heads": 2, "num_blocks": 2}}, r"sasrec\.num_blocks = 2.*1"),
        ({"sasrec": {"num_heads": 2, "ffn_hidden_dim": 12}}, r"sasrec\.ffn_hidden_dim = 12.*10"),
        (
            {"sasrec": {"num_heads": 2, "ffn_activation_fn": "tanh"}},
            "activation",
        ),
        ({"sasrec": {"num_heads": 5}}, "12 is not a multiple of 5 heads"),
        ({"sasrec": {"num_heads": 0}}, r"sasrec\.num_heads"),
        ({"sasrec": {}}, r"number of heads.*sasrec\.num_heads"),
        ({"mol": {"query_dot_product_groups": 4}}, r"mol\.query_dot_product_groups = 4.*3"),
        ({"mol": {"item_dot_product_groups": 4}}, r"mol\.item_dot_product_groups = 4.*2"),
        ({"mol": {"dot_product_dimension": 4}}, r"mol\.dot_product_dimension = 4.*6"),
        ({"mol": {"query_hidden_dim": 9}}, r"mol\.query_hidden_dim = 9.*8"),
        ({"mol": {"item_hidden_dim": 9}}, r"mol\.item_hidden_dim = 9.*0"),
        ({"mol": {"gating_qi_hidden_dim": -1}}, r"mol\.gating_qi_hidden_dim = 0.*5"),
        ({"mol": {"uid_embedding_hash_sizes": [7]}}, r"mol\.uid_embedding_hash_sizes = \[7\].*\[\]"),
        ({"mol": {"gating_item_fn": False}}, r"mol\.gating_item_fn = False"),
        ({"mol": {"query_nonlinearity": "relu"}}, "relu"),
        ({"mol": {"temperature": 0}}, "temperature"),
        ({"mol": 3}, "objects"),
    ],
)
def test_settings_that_disagree_are_refused(tmp_path, change, message):
    agreeing = SASREC | {"num_items": 30, "D": D, "max_sequence_length": 7, "max_output_length": 11}
    path = written(tmp_path, published(), agreeing)
    assert import_rails(path).num_items == 30
    with pytest.raises(ValueError, match=message):
        import_rails(written(tmp_path, published(), agreeing | change))


def test_settings_may_lie_elsewhere(tmp_path):
    path = written(tmp_path, published(), None)
    with pytest.raises(ValueError, match="num_heads"):
        import_rails(path)
    elsewhere = tmp_path / "other.json"
    elsewhere.write_text(json.dumps({"sasrec": {"num_heads": 3}}))
    assert import_rails(path, elsewhere).config.encoder.heads == 3
    elsewhere.write_text("{")
    with pytest.raises(ValueError, match=r"other\.json is damaged"):
        import_rails(path, elsewhere)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("module._extra.weight", torch.zeros(2), r"_extra\.weight is not part"),
        ("module._ndp_module._item_proj_module.1.weight", torch.zeros(2, 2), "_item_proj_module"),
        ("module._embedding_module._item_emb.weight", None, r"_item_emb\.weight"),
        ("module._input_features_preproc._pos_emb.weight", None, r"_pos_emb\.weight"),
        ("module.attention_layers.0.out_proj.bias", None, "project_out.bias is missing"),
        ("module.attention_layers.0.out_proj.bias", torch.zeros(5), r"project_out.bias is \(5,\).*\(12,\)"),
        ("module._ndp_module._gating_fn._qi_partial_module.3.bias", None, "gate_pair.3.bias is missing"),
        (
            "module._ndp_module._query_embeddings_fn._query_emb_proj_module.2.weight",
            torch.zeros(19, 8),
            "fit together",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path, name, tensor, message):
    state = published()
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    with pytest.raises(ValueError, match=message):
        import_rails(written(tmp_path, state, SASREC))


class Malice:
    """Unpickled by an unwary reader, it would make a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_nothing_in_a_checkpoint_is_executed(tmp_path, form):
    target, path = tmp_path / "touched", tmp_path / "evil.pt"
    content = {"model_state_dict": published(), "epoch": Malice(target)}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(ValueError, match=r"evil\.pt.*not executed"):
        import_rails(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(Malice(target)))  # noqa: S301  (the trap does work)
    assert target.exists()


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(tmp_path, reference, kept):
    whole = reference.checkpoint.read_bytes()
    size = int(len(whole) * kept) if isinstance(kept, float) else kept
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[:size])
    with pytest.raises(ValueError, match=r"cut\.pt is damaged"):
        import_rails(path)


@pytest.mark.parametrize(
    "content", [[1, 2], {"epoch": 1}, {"model_state_dict": [1]}, {"model_state_dict": {"a": 1}}]
)
def test_another_file_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt.*model_state_dict"):
        import_rails(tmp_path / "other.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt"):
        import_rails(tmp_path / "nowhere.pt")


def test_the_import_runs_without_the_optimizer_state(tmp_path, reference):
    loaded = torch.load(reference.checkpoint, weights_only=True)
    path = tmp_path / "bare.pt"
    torch.save({"model_state_dict": loaded["model_state_dict"]}, path)
    shutil.copy(reference.checkpoint.with_suffix(".json"), path.with_suffix(".json"))
    retriever = import_rails(path)
    whole = import_rails(reference.checkpoint)
    assert retriever.config == whole.config
    assert all(
        torch.equal(tensor, whole.state_dict()[name]) for name, tensor in retriever.state_dict().items()
    )


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("module._embedding_module._item_emb.weight", torch.full((21, 12), float("nan")), "NaN or infinite"),
        ("module._embedding_module._item_emb.weight", torch.ones(1, 1).expand(10**9, 12), "plain tensors"),
        ("module._embedding_module._item_emb.weight", torch.eye(12).to_sparse(), "plain tensors"),
        ("module._embedding_module._item_emb.weight", torch.tensor(1.0), "no model of the published code"),
    ],
)
def test_tensors_that_are_not_what_they_seem_are_refused(tmp_path, name, tensor, message):
    with pytest.raises(ValueError, match=message):
        import_rails(written(tmp_path, published() | {name: tensor}, SASREC))


@pytest.mark.parametrize(
    "change",
    [
        {"mol": {"temperature": "cold"}}, {"mol": {"temperature": [1]}}, {"mol": {"query_dropout_rate": None}},
        {"mol": {"query_hidden_dim": "wide"}}, {"sasrec": {"num_heads": 10**30}}, {"mol": {"gating_combination_type": 3}},
    ],
)  # fmt: skip
def test_settings_of_another_type_are_refused(tmp_path, change):
    settings = {
        group: values | change.get(group, {}) if isinstance(values, dict) else values
        for group, values in SASREC.items()
    }
    with pytest.raises(ValueError, match=r"\.pt") as caught:
        import_rails(written(tmp_path, published(), {**change, **settings}))
    assert "\n" not in str(caught.value)


def test_sasrec_with_gelu_is_the_same_network_with_another_activation(tmp_path):
    names = ("relu", "gelu")
    settings = [{"sasrec": {"num_heads": 2, "ffn_activation_fn": name}} for name in names]
    relu, gelu = (import_rails(written(tmp_path, published(), given)) for given in settings)
    assert gelu.config.encoder.activation == "gelu"
    assert all(torch.equal(a, b) for a, b in zip(relu.parameters(), gelu.parameters(), strict=True))
    x = torch.randn(5, D, generator=torch.Generator().manual_seed(0))
    block = gelu.encoder.blocks[0]
    first, last = block.ffn[0], block.ffn[3]
    hidden = first(x)
    wanted = last(0.5 * hidden * (1 + torch.erf(hidden / 2**0.5)))
    torch.testing.assert_close(block.ffn(x), wanted)
    assert not torch.allclose(relu.encoder.blocks[0].ffn(x), wanted)


def dataset_of(items: list[int] | list[str], users: list[int]) -> Sequences:
    """One interaction with each item by each user; ids of the source in any order."""
    rows = [(u, i) for u in range(len(users)) for i in range(len(items))]
    return Sequences(
        name="shop",
        offsets=np.arange(len(users) + 1) * len(items),
        item_ids=np.array([i + 1 for _, i in rows]),
        timestamps=np.arange(len(rows)),
        ratings=np.zeros(len(rows), np.float32),
        items=pd.DataFrame({"item_id": items, "title": list(map(str, items))}),
        users=pd.DataFrame({"user_id": users}),
    )


def test_rows_are_put_in_the_order_of_a_datasets_ids(tmp_path):
    path = written(tmp_path, published(tables=(7,)), SASREC)
    raw = import_rails(path)
    items, users = [30, 2, 17, 5, 9, 11, 3], [12, 3, 20, 9]
    retriever = import_rails(path, sequences=dataset_of(items, users))
    assert retriever.num_items == len(items)
    table = retriever.item_table.weight
    assert torch.equal(table[1:], raw.item_table.weight[torch.tensor(items)])
    lengths, ids = torch.tensor([3, 2]), torch.tensor([[1, 2, 3], [6, 7, 0]])
    source = torch.cat([torch.zeros(1, dtype=torch.long), torch.tensor(items)])[ids]
    people = torch.tensor([2, 0])

    def scores(model, ids, people):
        b = SequenceBatch(ids, ids, ids.float(), lengths, people, lengths, lengths)
        return model.similarity.score(model.query_state(b), model.item_state())

    found = scores(retriever, ids, people)
    wanted = scores(raw, source, torch.tensor(users)[people])[:, torch.tensor(items) - 1]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("items", "users", "message"),
    [
        ([30, 31, 2], [1], r"rows for items 1\.\.30.*1 others \(31, …\)"),
        ([0, 2], [1], r"1 others \(0"),
        (["a", "b"], [1], "item ids of shop are no whole numbers"),
        ([1, 2], [5, 6, 7, 8, 9, 10, 11, 13], "two users that share a row here would not there"),
    ],
)
def test_a_dataset_of_other_ids_is_refused(tmp_path, items, users, message):
    path = written(tmp_path, published(tables=(7,)), SASREC)
    with pytest.raises(ValueError, match=message):
        import_rails(path, sequences=dataset_of(items, users))
