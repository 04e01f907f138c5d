"""Published RAILS checkpoints into retrievers.

The checkpoint is the published code's `torch.save`d dictionary, read with `weights_only=True`. Widths, depths, groups and
table sizes follow from shapes; the rest (heads, temperatures, dropouts, the kind of GLU) comes from a JSON file with the
published code's parameter names. If it has two gate dropouts, the item's is used (dropout only affects training).
"""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.data import Sequences
from workbench.data.packed import check_zip
from workbench.encoders import EncoderConfig, HSTUConfig, SASRecConfig
from workbench.encoders.inputs import OUTPUT_SLOTS
from workbench.loading import one_line, read_json
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import DotConfig, MoLConfig, SimilarityConfig

IGNORED = ("_attn_mask",)
ITEM_TABLE = "_embedding_module._item_emb.weight"
MOL = "_ndp_module."
QUERY = MOL + "_query_embeddings_fn."
ITEM = MOL + "_item_embeddings_fn."
GATE = MOL + "_gating_fn."


def import_rails(
    checkpoint: Path, settings: Path | None = None, sequences: Sequences | None = None
) -> Retriever:
    """The retriever in a published checkpoint, in evaluation mode.

    The published code's rows are the source's own numbers. With `sequences`, the dataset it was trained on, the rows of items
    and users are put in the order of its dense ids, so that the retriever can be evaluated on it; without, they stay.

    `settings`: JSON with `max_sequence_length` and groups `hstu` or `sasrec`, `mol`, in the published names (by default the
    file next to the checkpoint with the suffix .json, if there is one). Raises ValueError if the file is not such a
    checkpoint, if a tensor is missing or left over, if settings and tensors disagree, if neither gives what is needed,
    or if the dataset's ids have no rows. Nothing in the file is executed.
    Raises FileNotFoundError if there is no such file.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"no checkpoint at {checkpoint}")
    default = checkpoint.with_suffix(".json")
    if settings is None and default.is_file():
        settings = default
    given = _read_settings(settings)
    check_zip(checkpoint)
    try:
        loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{checkpoint} is damaged, or holds more than tensors; it was not executed ({one_line(error)})"
        ) from error
    tensors = loaded.get("model_state_dict") if isinstance(loaded, dict) else None
    if not isinstance(tensors, dict):
        raise ValueError(f"{checkpoint} is not a published RAILS checkpoint: it has no model_state_dict")
    if not all(isinstance(k, str) and isinstance(v, Tensor) and _is_plain(v) for k, v in tensors.items()):
        raise ValueError(f"{checkpoint}: model_state_dict must hold plain tensors by name")
    state: dict[str, Tensor] = {k.removeprefix("module."): v for k, v in tensors.items()}
    state = {k: v for k, v in state.items() if k not in IGNORED}
    try:
        config = RetrieverConfig.from_dict(
            _config(state, given).to_dict()
        )  # the settings' types are checked so
        renamed = _renamed(state)
    except Exception as error:
        raise ValueError(
            f"{checkpoint}, with its settings, is no model of the published code: {one_line(error)}"
        ) from error
    items = state[ITEM_TABLE].shape[0] - 1
    if sequences is not None:
        items, renamed = sequences.num_items, _reordered(renamed, config.similarity, sequences, checkpoint)
    return Retriever.of_weights(config, items, renamed, str(checkpoint))


def _reordered(
    weights: dict[str, Tensor], similarity: SimilarityConfig, sequences: Sequences, checkpoint: Path
) -> dict[str, Tensor]:
    """The weights with rows of items and users by dense id instead of the source's."""
    table = weights["item_table.weight"]
    items = _numbers(sequences, "item")
    if unknown := sorted({int(i) for i in items[(items < 1) | (items >= len(table))]}):
        raise ValueError(
            f"{checkpoint} has rows for items 1..{len(table) - 1}, and {sequences.name} has {len(unknown)} others"
            f" ({', '.join(map(str, unknown[:3]))}, …): it was trained on other data, or its rows are not the source's ids"
        )
    moved = {"item_table.weight": torch.cat([table[:1], table[torch.from_numpy(items)]])}
    for number, rows in enumerate(similarity.user_tables if isinstance(similarity, MoLConfig) else ()):
        name = f"similarity.user_tables.{number}.table.weight"
        source = torch.from_numpy(_numbers(sequences, "user")) % rows + 1
        dense = torch.arange(len(source)) % rows + 1
        moved[name] = weights[name].clone()
        moved[name][dense] = weights[name][source]
        if not torch.equal(moved[name][dense], weights[name][source]):
            raise ValueError(
                f"{checkpoint} gives {rows} rows to users by their own numbers, and those of the {len(source)} users of"
                f" {sequences.name} do not follow each other: two users that share a row here would not there"
            )
    return weights | moved


def _numbers(sequences: Sequences, what: str) -> NDArray[np.int64]:
    """The source's ids of items or users in dense order; ValueError if they are no whole numbers."""
    ids = (sequences.items if what == "item" else sequences.users)[f"{what}_id"]
    if not pd.api.types.is_integer_dtype(ids):
        raise ValueError(
            f"the {what} ids of {sequences.name} are no whole numbers, as a published checkpoint's are"
        )
    return ids.to_numpy(dtype=np.int64, copy=True)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is what it seems: dense, on the CPU, with every one of its numbers in the file."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def _read_settings(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    given = read_json(path, "correct it")
    groups = ("hstu", "sasrec", "mol")
    if not all(isinstance(given.get(g, {}), dict) for g in groups):
        raise ValueError(f"{path} must hold a JSON object, and its groups {', '.join(groups)} objects too")
    return given


def _agree(given: dict[str, Any], found: dict[str, Any], group: str = "") -> None:
    """ValueError if the settings contradict the shapes of the tensors."""
    for name, value in found.items():
        if given.get(name, value) != value:
            raise ValueError(f"the settings say {group}{name} = {given[name]}, but the tensors {value}")


def _config(state: dict[str, Tensor], given: dict[str, Any]) -> RetrieverConfig:
    table = state[ITEM_TABLE]
    slots = given.get("max_output_length", OUTPUT_SLOTS)
    if slots != OUTPUT_SLOTS:
        raise ValueError(
            f"max_output_length is {slots}; published checkpoints, and this reader, use {OUTPUT_SLOTS}"
        )
    max_length = state["_input_features_preproc._pos_emb.weight"].shape[0] - OUTPUT_SLOTS
    encoder, similarity = _encoder_config(state, given), _similarity_config(state, given)
    found = {"max_sequence_length": max_length, "num_items": table.shape[0] - 1, "D": table.shape[1]}
    _agree(given, found | {"encoder": encoder.kind, "similarity": similarity.kind})
    return RetrieverConfig(encoder, similarity, dim=table.shape[1], max_length=max_length)


def _heads(values: dict[str, Any], group: str) -> int:
    if "num_heads" not in values:
        raise ValueError(
            f"the number of heads does not follow from the tensors: give {group}.num_heads in the settings"
        )
    heads = values["num_heads"]
    if not isinstance(heads, int) or heads < 1:
        raise ValueError(f"{group}.num_heads must be a positive number, not {heads!r}")
    return heads


def _count(state: dict[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _encoder_config(state: dict[str, Tensor], given: dict[str, Any]) -> EncoderConfig:
    if blocks := _count(state, r"_hstu\._attention_layers\.(\d+)\."):
        values = given.get("hstu", {})
        heads = _heads(values, "hstu")
        v_width = state["_hstu._attention_layers.0._o.weight"].shape[1]
        both = state["_hstu._attention_layers.0._uvqk"].shape[1] // 2
        if v_width % heads or both % heads:
            raise ValueError(
                f"hstu.num_heads = {heads} does not divide the tensors' widths {v_width} and {both}"
            )
        v_dim, qk_dim = v_width // heads, (both - v_width) // heads
        _agree(values, {"num_blocks": blocks, "dqk": qk_dim, "dv": v_dim}, "hstu.")
        return HSTUConfig(blocks, heads, qk_dim, v_dim, values.get("linear_dropout_rate", 0.2))
    if blocks := _count(state, r"attention_layers\.(\d+)\."):
        values = given.get("sasrec", {})
        ffn_dim = state["forward_layers.0._conv1d.0.weight"].shape[0]
        _agree(values, {"num_blocks": blocks, "ffn_hidden_dim": ffn_dim}, "sasrec.")
        dropout, activation = values.get("ffn_dropout_rate", 0.2), values.get("ffn_activation_fn", "relu")
        return SASRecConfig(blocks, _heads(values, "sasrec"), ffn_dim, dropout, activation)
    raise ValueError("there is neither an HSTU nor a SASRec encoder in it")


def _similarity_config(state: dict[str, Tensor], given: dict[str, Any]) -> SimilarityConfig:
    if not any(name.startswith(MOL) for name in state):
        return DotConfig(normalize=True, temperature=given.get("temperature", 0.05))
    values = given.get("mol", {})
    query_glu, item_glu = (_find(state, prefix, r"\._w$") for prefix in (QUERY, ITEM))
    tables = sorted((n for n in state if n.startswith(QUERY + "_uid_embeddings_")), key=_table)
    query_out = state[_last_weight(state, QUERY + "_query_emb_proj_module.")].shape[0]
    item_out = state[_last_weight(state, ITEM + "_item_emb_proj_module.")].shape[0]
    gate = state[_last_weight(state, GATE)].shape[0]
    width = state[tables[0]].shape[1] if tables else math.isqrt(query_out * item_out // gate)
    if (
        gate * width**2 != (query_out + len(tables) * width) * item_out
        or query_out % width
        or item_out % width
    ):
        raise ValueError(
            f"the widths of its query side {query_out}, item side {item_out}, {len(tables)} user tables and gate {gate}"
            " do not fit together"
        )
    config = MoLConfig(
        query_groups=query_out // width + len(tables),
        item_groups=item_out // width,
        component_dim=width,
        temperature=values.get("temperature", 0.05),
        normalize=values.get("dot_product_l2_norm", True),
        query_projection=_glu(query_glu, values.get("query_nonlinearity", "geglu")),
        query_hidden=_glu_width(state, query_glu),
        query_dropout=values.get("query_dropout_rate", 0.0),
        item_projection=_glu(item_glu, values.get("item_nonlinearity", "geglu")),
        item_hidden=_glu_width(state, item_glu),
        item_dropout=values.get("item_dropout_rate", 0.1),
        user_tables=tuple(state[n].shape[0] - 1 for n in tables),
        user_dropout=values.get("uid_dropout_rate", 0.5),
        user_dropout_whole=values.get("uid_embedding_level_dropout", False),
        gate_input_dropout=values.get("gating_item_dropout_rate", 0.0),
        gate_combination=values.get("gating_combination_type", "glu_silu").replace("none", "sum"),
        gate_dropout=values.get("softmax_dropout_rate", 0.2),
        gate_query=_hidden(state, f"{GATE}_query_only_partial_module."),
        gate_item=_hidden(state, f"{GATE}_item_only_partial_module."),
        gate_pair=_hidden(state, f"{GATE}_qi_partial_module."),
    )
    found = {
        "query_dot_product_groups": config.query_groups,
        "item_dot_product_groups": config.item_groups,
        "dot_product_dimension": config.component_dim,
        "uid_embedding_hash_sizes": list(config.user_tables),
        "gating_query_fn": config.gate_query is not None,
        "gating_item_fn": config.gate_item is not None,
    }
    if values.get("uid_embedding_hash_sizes", ()) is None:
        values = values | {"uid_embedding_hash_sizes": []}
    _agree(values, found, "mol.")
    widths = {
        "query_hidden_dim": config.query_hidden,
        "item_hidden_dim": config.item_hidden,
        "gating_query_hidden_dim": config.gate_query,
        "gating_item_hidden_dim": config.gate_item,
        "gating_qi_hidden_dim": config.gate_pair,
    }
    # The published code writes a linear part as -1 or 0, and keeps a width even if the part is off.
    stated = {name: max(int(values[name]), 0) for name in widths if name in values}
    _agree(stated, {name: width for name, width in widths.items() if width is not None}, "mol.")
    return config


def _find(state: dict[str, Tensor], prefix: str, pattern: str) -> str | None:
    return next((n for n in state if n.startswith(prefix) and re.search(pattern, n)), None)


def _last_weight(state: dict[str, Tensor], prefix: str) -> str:
    names = [n for n in state if n.startswith(prefix) and n.endswith(".weight")]
    if not names:
        raise KeyError(prefix + "*.weight")
    return max(names, key=_layer)


def _layer(name: str) -> int:
    return int(name.rsplit(".", 2)[-2])


def _table(name: str) -> int:
    return int(name.removeprefix(QUERY + "_uid_embeddings_").split(".")[0])


def _hidden(state: dict[str, Tensor], prefix: str) -> int | None:
    """Hidden units of one part of the gate: None if it is absent, 0 if it is one linear layer."""
    layers = sorted((n for n in state if n.startswith(prefix) and n.endswith(".weight")), key=_layer)
    if not layers:
        return None
    return state[layers[0]].shape[0] if len(layers) > 1 else 0


def _glu(name: str | None, kind: str) -> Any:
    if kind not in ("swiglu", "geglu"):
        raise ValueError(f"a nonlinearity must be swiglu or geglu, not {kind!r}")
    return "linear" if name is None else kind


def _glu_width(state: dict[str, Tensor], name: str | None) -> int:
    return 0 if name is None else state[name].shape[1] // 2


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under this workbench's names; a name that no rule covers stays, and is then reported as left over."""
    rules: list[tuple[str, str]] = [
        (r"_embedding_module\._item_emb\.weight", "item_table.weight"),
        (r"_input_features_preproc\._pos_emb\.weight", "encoder.inputs.positions"),
        (r"_hstu\._attention_layers\.(\d+)\._uvqk", r"encoder.blocks.\1.project_in"),
        (r"_hstu\._attention_layers\.(\d+)\._o\.", r"encoder.blocks.\1.project_out."),
        (r"_hstu\._attention_layers\.(\d+)\._rel_attn_bias\._ts_w", r"encoder.blocks.\1.bias.time"),
        (r"_hstu\._attention_layers\.(\d+)\._rel_attn_bias\._pos_w", r"encoder.blocks.\1.bias.position"),
        (r"attention_layers\.(\d+)\.in_proj_", r"encoder.blocks.\1.project_in."),
        (r"attention_layers\.(\d+)\.out_proj\.", r"encoder.blocks.\1.project_out."),
        (r"forward_layers\.(\d+)\._conv1d\.", r"encoder.blocks.\1.ffn."),
        (r"_ndp_module\._query_embeddings_fn\._uid_embeddings_(\d+)\.", r"similarity.user_tables.\1.table."),
        (r"_ndp_module\._gating_fn\._query_only_partial_module\.(\d+)\.", r"similarity.gate_query.\1."),
        (r"_ndp_module\._gating_fn\._item_only_partial_module\.(\d+)\.", r"similarity.gate_item.\1."),
        (r"_ndp_module\._gating_fn\._qi_partial_module\.(\d+)\.", r"similarity.gate_pair.\1."),
    ]
    for side in ("query", "item"):
        prefix = rf"_ndp_module\._{side}_embeddings_fn\._{side}_emb_proj_module\.\d+\."
        rules += [
            (prefix + r"_w$", f"similarity.{side}_network.glu.weight"),
            (prefix + r"_b$", f"similarity.{side}_network.glu.bias"),
            (prefix + r"(weight|bias)$", rf"similarity.{side}_network.linear.\1"),
        ]
    renamed = {}
    for name, tensor in state.items():
        new = next((re.sub(p, r, name) for p, r in rules if re.match(p, name)), name)
        if new.startswith("similarity.gate_query."):  # the published query part has no leading dropout
            new = re.sub(r"gate_query\.(\d+)", lambda m: f"gate_query.{int(m[1]) + 1}", new)
        renamed[new] = tensor.squeeze(-1) if ".ffn." in new and tensor.dim() == 3 else tensor
    return renamed
