"""A retriever as torch programs and as ONNX computes what it computes itself."""

import json

import jaxtyping
import pytest
import torch
from worlds import ENCODERS, SIMILARITIES

from workbench import tensor_files
from workbench.models import export
from workbench.retriever import Retriever, RetrieverConfig
from workbench.runtime import optional

ITEMS, LENGTH = 12, 6


@pytest.fixture(autouse=True)
def shapes_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of annotated shapes compare sizes that a traced program keeps variable."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def retriever(encoder: str, similarity: str) -> Retriever:
    return Retriever(
        RetrieverConfig(ENCODERS[encoder], SIMILARITIES[similarity], 8, LENGTH), ITEMS, seed=1
    ).eval()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_is_a_program_for_any_number_of_queries(encoder: str) -> None:
    made = retriever(encoder, "dot")
    program = export.query_program(made).module()
    for size in (1, 5):
        batch = export.example(made, size, seed=size)
        with torch.no_grad():
            expected = made.query_state(batch)
        (found,) = program(*(getattr(batch, name) for name in export.QuerySide.inputs))
        torch.testing.assert_close(found, expected.vectors, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("similarity", [name for name in SIMILARITIES if name != "dot"])
def test_every_similarity_is_a_program_for_any_number_of_queries(similarity: str) -> None:
    made = retriever("two_tower", similarity)
    program, scorer = export.scorer_program(made).module(), export.Scorer(made)
    for size in (1, 5):
        queries = made.query_state(export.example(made, size, seed=size))
        items = made.item_state(torch.arange(3, 3 + 2 * size))
        with torch.no_grad():
            expected = made.similarity.score(queries, items)
            found = program(scorer.queries.tensors(queries), scorer.items.tensors(items))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    any(optional(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra onnx",
)
def test_onnx_is_written_and_serves_as_the_retriever(tmp_path) -> None:
    import onnxruntime

    made = retriever("hstu", "mol")
    folder = export.write(made, tmp_path / "exported", onnx=True)
    about = json.loads((folder / "export.json").read_text())
    batch = export.example(made, 4, seed=9)
    given = {name: getattr(batch, name).numpy() for name in about["query"]["inputs"]}
    query = onnxruntime.InferenceSession(folder / "query.onnx").run(about["query"]["outputs"], given)
    items, _ = tensor_files.load(folder / "items.safetensors", "")
    given = dict(zip(about["scorer"]["inputs"], [*query, *(items[n].numpy() for n in items)], strict=True))
    given |= {f"item_{name}": tensor.numpy() for name, tensor in items.items()}
    (scores,) = onnxruntime.InferenceSession(folder / "scorer.onnx").run(["scores"], given)
    with torch.no_grad():
        expected = made.similarity.score(made.query_state(batch), made.item_state())
    torch.testing.assert_close(torch.from_numpy(scores), expected, rtol=1e-4, atol=1e-4)


def test_what_computes_something_else_is_not_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="the query as torch program is off by"):
        export.write(retriever("two_tower", "dot"), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
