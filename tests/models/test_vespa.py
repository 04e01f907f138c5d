"""An export to Vespa: what its rank profile computes from the files alone is the model's score."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from worlds import ENCODERS, SIMILARITIES

from workbench.models import vespa
from workbench.models.export import example
from workbench.retriever import Retriever, RetrieverConfig
from workbench.runtime import optional
from workbench.similarities import MoLConfig

pytestmark = pytest.mark.skipif(
    any(optional(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra onnx",
)
ITEMS = 12


@pytest.fixture(autouse=True)
def shapes_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def retriever(**changes: object) -> Retriever:
    mol = replace(MoLConfig(3, 2, 4, query_hidden=8, gate_query=8, gate_item=8, gate_pair=8), **changes)
    return Retriever(RetrieverConfig(ENCODERS["two_tower"], mol, 8, 6), ITEMS, seed=1).eval()


def ranked(folder: Path) -> np.ndarray:
    """The second phase for every document of the feed, from the text of the schema: inner products, gate, sum."""
    import onnxruntime

    text = (folder / "schemas" / "item.sd").read_text()
    shapes = {
        name: [int(n) for n in re.findall(r"\[(\d+)\]", of)]
        for name, of in re.findall(r"(?:field |query\()(\w+)\)?(?: type)? (tensor<float>\([^)]*\))", text)
    }
    query = json.loads((folder / "query.json").read_text())
    asked = {
        name: np.array(query[f"input.query({name})"]["values"], dtype=np.float32)
        for name in ("components", "gate", "average")
        if f"input.query({name})" in query
    }
    groups = re.search(r"query\(components\) tensor<float>\(i\[(\d+)\],d\[(\d+)\]\)", text)
    divisor, modulus = re.search(r"i:\(floor\(d1 / (\d+)\)\).*j:\(fmod\(d1, (\d+)\)\)", text).groups()
    pairs = int(re.search(r"expression: tensor<float>\(d0\[1\],d1\[(\d+)\]\)", text).group(1))
    f = asked["components"].reshape(int(groups[1]), int(groups[2]))
    gate = onnxruntime.InferenceSession(folder / "models" / "gate.onnx")
    sources = dict(re.findall(r"input (\w+): ([\w()]+)", text))
    assert [one.name for one in gate.get_inputs()] == list(sources)
    scores = []
    for line in (folder / "feed.jsonl").read_text().splitlines():
        fields = json.loads(line)["fields"]
        item = {name: np.array(fields[name]["values"], np.float32) for name in fields if name != "item_id"}
        g = item["components"].reshape(shapes_of(text, "components"))
        logits = np.array([f[d1 // int(divisor)] @ g[d1 % int(modulus)] for d1 in range(pairs)], np.float32)[
            None
        ]
        known = {"logits": logits, "query(gate)": asked.get("gate"), "attribute(gate)": item.get("gate")}
        given = {name: known[source].reshape(1, pairs) for name, source in sources.items()}
        scores.append(float((logits * gate.run(["weights"], given)[0]).sum()))
        first = asked["average"] @ item["average"]
        np.testing.assert_allclose(first, logits.sum() / g.shape[0], rtol=1e-4, atol=1e-4)
    assert shapes["average"] == [g.shape[1]]
    return np.array(scores)


def shapes_of(text: str, field: str) -> list[int]:
    return [
        int(n) for n in re.findall(r"\[(\d+)\]", re.search(rf"field {field} type (.*) {{", text).group(1))
    ]


@pytest.mark.parametrize(
    "changes",
    [{}, {"gate_query": None, "gate_combination": "sum"}],
    ids=["whole gate", "no query part, a sum"],
)
def test_the_rank_profile_computes_the_score(tmp_path, changes) -> None:
    made = retriever(**changes)
    folder = vespa.write(made, [f"sku {i}" for i in range(ITEMS)], tmp_path / "app")
    with torch.no_grad():
        expected = made.similarity.score(made.query_state(example(made, 1)), made.item_state())[0]
    np.testing.assert_allclose(ranked(folder), expected, rtol=1e-4, atol=1e-4)
    first = json.loads((folder / "feed.jsonl").read_text().splitlines()[0])
    assert first["put"] == "id:item:item::sku 0" and first["fields"]["item_id"] == "sku 0"
    text = (folder / "schemas" / "item.sd").read_text()
    assert text.count("{") == text.count("}") and "rerank-count: 1000" in text


def test_what_cannot_be_exported_is_said(tmp_path, monkeypatch) -> None:
    config = RetrieverConfig(ENCODERS["two_tower"], SIMILARITIES["dot"], 8, 6)
    with pytest.raises(ValueError, match="needs a Mixture-of-Logits, not DotProduct"):
        vespa.write(Retriever(config, ITEMS), range(ITEMS), tmp_path / "app")
    with pytest.raises(ValueError, match="3 ids for 12 items"):
        vespa.write(retriever(), [1, 2, 3], tmp_path / "app")
    monkeypatch.setattr(vespa, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="the gate as ONNX is off by"):
        vespa.write(retriever(), range(ITEMS), tmp_path / "app")
    assert not (tmp_path / "app").exists()
