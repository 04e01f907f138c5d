"""The study of text retrieval on the generated set: a mixture wins where it must, heads are kept, tables add up."""

from pathlib import Path

import numpy as np
import pytest

from workbench.studies.study import Models, study
from workbench.studies.text import TextRetrieval, fuse

pytest.importorskip("wordllama")
pytest.importorskip("tantivy")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    return tmp_path


def test_a_mixture_wins_on_the_generated_set_and_heads_are_kept(root: Path) -> None:
    chosen = TextRetrieval(
        data="embedded-text", heads=("zero-shot", "dot-2", "mol-2-random"), epochs=10, seeds=1
    )
    table = chosen.table(Models())
    everything = table[(table["subset"] == "all") & (table["metric"] == "NDCG@10")].set_index("way")
    assert set(everything.index) >= {"BM25", "zero-shot", "dot-2", "mol-2-random", "BM25 + mol-2-random"}
    assert everything.loc["mol-2-random", "difference_low"] > 0
    assert everything.loc["dot-2", "value"] > everything.loc["zero-shot", "high"]
    assert (table["low"] <= table["value"] + 1e-9).all() and (table["value"] <= table["high"] + 1e-9).all()
    folders = sorted(path.name for path in (root / "ckpts").glob("text-*"))
    assert len(folders) == 2
    again = chosen.table(Models(trained_only=True))  # nothing is trained: the heads are found
    np.testing.assert_array_equal(again["value"], table["value"])
    notes: list[str] = []
    other = TextRetrieval(data="embedded-text", heads=("zero-shot", "dot-1"), epochs=10, seeds=1)
    left = other.table(Models(trained_only=True, note=notes.append))
    assert notes == ["dot-1, seed 0, is not trained: left out"]
    assert "dot-1" not in set(left["way"])


def test_a_damaged_head_says_what_to_do(root: Path) -> None:
    chosen = TextRetrieval(data="embedded-text", heads=("dot-1",), epochs=1, seeds=1)
    chosen.table(Models())
    (folder,) = (root / "ckpts").glob("text-*")
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"is damaged.*delete it to train"):
        chosen.table(Models())


def test_fusion_prefers_what_both_lists_hold() -> None:
    first, second = np.array([[5, 6, 7], [-1, -1, -1]]), np.array([[7, 8, -1], [3, -1, -1]])
    assert fuse(first, second).tolist() == [[7, 5, 6], [3, -1, -1]]


def test_options_are_read_from_text_and_checked() -> None:
    chosen = study("text", {"data": "mine", "encoder": "minilm", "heads": "dot-1,mol-2", "seeds": "2"})
    assert chosen.file == "text-mine-minilm"
    with pytest.raises(ValueError, match="no head 'mol-9'"):
        study("text", {"heads": "mol-9"})
