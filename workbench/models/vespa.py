"""A Mixture-of-Logits for Vespa: a schema with tensors, a rank profile in two phases, the gate as ONNX, the items to feed.

Vespa (vespa.ai) stores an item's components and its part of the gate as tensors. Its first phase ranks by the average
component, its second computes φ of the best: Σ_p π_p s_p, the inner products in its own expressions, the gate by ONNX Runtime.
The gate as ONNX is compared with the model before anything is written; no Vespa is needed for that, or run.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench import files
from workbench.loading import read_json
from workbench.models.export import example, onnx_function, write_onnx
from workbench.retriever import Retriever
from workbench.runtime import require
from workbench.similarities.mol import MixtureOfLogits, MoLItems, MoLQueries

GATE, SCHEMA, FEED, QUERY, ABOUT = "gate.onnx", "item.sd", "feed.jsonl", "query.json", "vespa.json"
TOLERANCE = 1e-4
"""How far scores may be from the model's, relative to the largest."""

CHECKED = 64
"""Items of the check."""


class Gate(nn.Module):
    """π (1, P) of one pair, from its component scores and the parts of the gate that the similarity has."""

    def __init__(self, similarity: MixtureOfLogits) -> None:
        super().__init__()
        self.similarity = similarity
        query, item = similarity.gate_query is not None, similarity.gate_item is not None
        self.inputs = ["logits", *(["query_gate"] if query else []), *(["item_gate"] if item else [])]

    def forward(self, *parts: Tensor) -> Tensor:
        """The weights; `parts` in the order of `inputs`."""
        given = dict(zip(self.inputs, parts, strict=True))
        # Without gradients and dropout, as the similarity is in evaluation; logits always take part, so that they are an input.
        weights = self.similarity.gates(given["logits"], given.get("query_gate"), given.get("item_gate"))
        return weights + 0 * given["logits"]


def write(
    retriever: Retriever,
    item_ids: Sequence[object],
    folder: Path,
    *,
    rerank: int = 1_000,
    described: Mapping[str, Any] | None = None,
) -> Path:
    """Write an application package for Vespa into `folder`, which must be new or such a package.

    `schemas/item.sd`, `models/gate.onnx`, `services.xml`; `feed.jsonl` with a document for each of `item_ids`, in dense order;
    `query.json`, a request for the encoder's output of a random history. `rerank`: items that the second phase scores.
    Raises ValueError if the similarity is no Mixture-of-Logits, RuntimeError if what was written computes something else,
    ImportError without the packages of the extra onnx.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package)
    retriever = retriever.cpu().eval()
    mol = retriever.similarity
    if not isinstance(mol, MixtureOfLogits):
        raise ValueError(f"an export to Vespa needs a Mixture-of-Logits, not {type(mol).__name__}")
    if len(item_ids) != retriever.num_items:
        raise ValueError(f"{len(item_ids)} ids for {retriever.num_items} items: give one each")
    with torch.no_grad():
        items, queries = retriever.item_state(), retriever.query_state(example(retriever, 1))
    assert isinstance(items, MoLItems) and isinstance(queries, MoLQueries)
    about = {**(described or {}), "num_items": retriever.num_items, "rerank": rerank}
    with files.new_folder(folder, KIND, about, replace=True) as temporary:
        for name in ("schemas", "models"):
            (temporary / name).mkdir()
        gate = Gate(mol).eval()
        path = temporary / "models" / GATE
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what torch itself does while it traces
            program = torch.export.export(gate, _gate_inputs(gate, mol, queries, items))
        write_onnx(program, gate.inputs, ["weights"], path)
        (temporary / "schemas" / SCHEMA).write_text(schema(mol, rerank), encoding="utf-8")
        (temporary / "services.xml").write_text(SERVICES, encoding="utf-8")
        with (temporary / FEED).open("w", encoding="utf-8") as feed:
            for row, item in enumerate(item_ids):
                feed.write(json.dumps(document(item, items[row : row + 1])) + "\n")
        (temporary / QUERY).write_text(
            json.dumps(request(queries, rerank), indent=2) + "\n", encoding="utf-8"
        )
        (temporary / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        _check(mol, gate, path, queries, items)
    return folder


def schema(mol: MixtureOfLogits, rerank: int) -> str:
    """The schema and its rank profile; d0 and d1 are the names that Vespa gives to the dimensions of ONNX tensors."""
    c = mol.config
    pairs = f"tensor<float>(d0[1],d1[{c.components}])"
    has_query, has_item = mol.gate_query is not None, mol.gate_item is not None
    item_gate = (
        f"        field gate type {pairs} {{\n            indexing: attribute\n        }}\n"
        if has_item
        else ""
    )
    inputs = "        input logits: logits\n"
    inputs += "        input query_gate: query(gate)\n" if has_query else ""
    inputs += "        input item_gate: attribute(gate)\n" if has_item else ""
    query_gate = f"            query(gate) {pairs}\n" if has_query else ""
    pair = f"query(components){{i:(floor(d1 / {c.item_groups}))}} * attribute(components){{j:(fmod(d1, {c.item_groups}))}}"
    return f"""schema item {{
    document item {{
        field item_id type string {{
            indexing: attribute | summary
        }}
        field components type tensor<float>(j[{c.item_groups}],d[{c.component_dim}]) {{
            indexing: attribute
        }}
{item_gate}        field average type tensor<float>(d[{c.component_dim}]) {{
            indexing: attribute | index
            attribute {{
                distance-metric: dotproduct
            }}
        }}
    }}

    onnx-model gate {{
        file: models/{GATE}
{inputs}        output weights: weights
    }}

    rank-profile mol {{
        inputs {{
            query(components) tensor<float>(i[{c.query_groups}],d[{c.component_dim}])
{query_gate}            query(average) tensor<float>(d[{c.component_dim}])
        }}
        function logits() {{
            expression: {pairs}(reduce({pair}, sum))
        }}
        first-phase {{
            expression: reduce(query(average) * attribute(average), sum)
        }}
        second-phase {{
            expression: reduce(logits * onnx(gate).weights, sum)
            rerank-count: {rerank}
        }}
    }}
}}
"""


def document(item: object, state: MoLItems) -> dict[str, Any]:
    """One item as Vespa's feed takes it."""
    fields = {"item_id": str(item), "components": _values(state.components[0])}
    if state.gate is not None:
        fields["gate"] = _values(state.gate[0])
    fields["average"] = _values(state.components[0].mean(0))
    return {"put": f"id:item:item::{item}", "fields": fields}


def request(state: MoLQueries, rerank: int) -> dict[str, Any]:
    """One query as Vespa's search takes it."""
    asked = {
        "yql": f"select item_id from item where {{targetHits: {rerank}}}nearestNeighbor(average, average)",
        "ranking": "mol",
        "input.query(components)": _values(state.components[0]),
    }
    if state.gate is not None:
        asked["input.query(gate)"] = _values(state.gate[0])
    return asked | {"input.query(average)": _values(state.components[0].sum(0))}


def _values(tensor: Tensor) -> dict[str, list[float]]:
    return {"values": tensor.float().flatten().tolist()}


def _gate_inputs(
    gate: Gate, mol: MixtureOfLogits, queries: MoLQueries, items: MoLItems, row: int = 0
) -> tuple[Tensor, ...]:
    """The inputs of the gate for one pair, each (1, P)."""
    with torch.no_grad():
        logits = mol.component_logits(queries, items[row : row + 1])[0]
    known = {
        "logits": logits,
        "query_gate": queries.gate,
        "item_gate": None if items.gate is None else items.gate[row : row + 1],
    }
    return tuple(t for name in gate.inputs if (t := known[name]) is not None)


def _check(mol: MixtureOfLogits, gate: Gate, path: Path, queries: MoLQueries, items: MoLItems) -> None:
    """Raise RuntimeError if the rank profile would compute something else than the model."""
    run = onnx_function(path)
    rows = torch.arange(min(CHECKED, len(items)))
    with torch.no_grad():
        expected: Float[Tensor, N] = mol.score(queries, items[rows])[0]
    found = []
    for row in rows.tolist():
        given = _gate_inputs(gate, mol, queries, items, row)
        found.append((given[0] * run(*given)[0]).sum())
    off = float((torch.stack(found) - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    if not off <= TOLERANCE:
        raise RuntimeError(f"the gate as ONNX is off by {off:.2g}: nothing was written")


SERVICES = """<?xml version="1.0" encoding="utf-8" ?>
<services version="1.0">
    <container id="default" version="1.0">
        <search/>
        <document-api/>
    </container>
    <content id="items" version="1.0">
        <redundancy>1</redundancy>
        <documents>
            <document type="item" mode="index"/>
        </documents>
    </content>
</services>
"""


def _made_with(folder: Path) -> Mapping[str, Any] | None:
    path = folder / ABOUT
    return read_json(path, "export the model again") if path.is_file() else None


KIND = files.Kind("Vespa application", ("schemas", "models", "services.xml", FEED, QUERY, ABOUT), _made_with)
