"""The study of text retrieval on the generated set: a mixture wins where it must, heads are kept, tables add up."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

from workbench.evaluation.relevant import Relevant
from workbench.models.text_heads import EncodedCollection, find_or_train
from workbench.studies.study import Models, study
from workbench.studies.text import HEADS, Setting, TextRetrieval, fuse, reference
from workbench.training.text_training import HeadTraining

pytest.importorskip("wordllama")
pytest.importorskip("tantivy")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    return tmp_path


def test_a_mixture_wins_on_the_generated_set_and_heads_are_kept(root: Path) -> None:
    chosen = TextRetrieval(
        data="embedded-text",
        encoder="wordllama",
        heads=("zero-shot", "dot-2", "dot-2-random", "mol-2-random"),
        epochs=10,
        rates=(1e-3, 3e-3),
        temperatures=(0.05,),
        seeds=1,
    )
    table = chosen.table(Models())
    everything = table[(table["subset"] == "all") & (table["metric"] == "NDCG@10")].set_index("way")
    assert set(everything.index) >= {"BM25", "zero-shot", "dot-2", "mol-2-random", "BM25 + mol-2-random"}
    assert everything.loc["mol-2-random", "difference_low"] > 0
    assert everything.loc["dot-2", "value"] > everything.loc["zero-shot", "high"]
    assert (table["low"] <= table["value"] + 1e-9).all() and (table["value"] <= table["high"] + 1e-9).all()
    folders = sorted(path.name for path in (root / "ckpts").glob("text-*"))
    assert len(folders) == 6  # three heads at two rates
    assert set(table["rate"].dropna()) <= {1e-3, 3e-3}
    width = everything.loc["zero-shot", "floats"]
    assert everything.loc["dot-2", "floats"] == 2 * width < everything.loc["mol-2-random", "floats"]
    against = everything["against"].to_dict()
    assert against["mol-2-random"] == "dot-2-random" and against["dot-2"] == "zero-shot"
    assert against["BM25 + mol-2-random"] == "BM25 + dot-2-random" and against["BM25"] == ""
    again = chosen.table(Models(trained_only=True))  # nothing is trained: the heads are found
    np.testing.assert_array_equal(again["value"], table["value"])
    notes: list[str] = []
    other = dataclasses.replace(chosen, heads=("zero-shot", "dot-1"))
    left = other.table(Models(trained_only=True, note=notes.append))
    assert notes == [
        f"dot-1, seed 0, rate {rate}, temperature 0.05, is not trained: left out" for rate in (0.001, 0.003)
    ]
    assert "dot-1" not in set(left["way"])


def test_a_head_of_all_tokens_is_trained_with_every_seed_and_says_what_it_stores(root: Path) -> None:
    chosen = TextRetrieval(
        data="embedded-text",
        encoder="wordllama",
        heads=("maxsim-1-all-tokens",),
        rates=(1e-3,),
        temperatures=(0.05,),
        seeds=2,
    )
    table = chosen.table(Models()).set_index("way").loc["maxsim-1-all-tokens"]
    tokens = chosen.encoded().documents(tokens=True).tokens
    assert tokens is not None and set(table["seeds"]) == {2}
    assert table["floats"].iloc[0] == tokens.states.size / len(tokens)
    assert table["std"].iloc[0] >= 0


def test_a_damaged_head_says_what_to_do(root: Path) -> None:
    chosen = TextRetrieval(
        data="embedded-text",
        encoder="wordllama",
        heads=("dot-1",),
        epochs=1,
        rates=(1e-3,),
        temperatures=(0.05,),
        seeds=1,
    )
    chosen.table(Models())
    (folder,) = (root / "ckpts").glob("text-*")
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"is damaged.*delete it to train"):
        chosen.table(Models())


def test_texts_that_are_too_long_are_counted(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "workbench.text_encoders.wordllama.WordLlamaEncoder.count_truncated", lambda _, texts: len(texts)
    )
    notes: list[str] = []
    chosen = TextRetrieval(data="embedded-text", encoder="wordllama", heads=("zero-shot",))
    chosen.table(Models(note=notes.append))
    assert notes == [
        f"{count} {what} are longer than wordllama reads: only their beginnings are encoded"
        for count, what in ((400, "documents"), (300, "test queries"))
    ]


def test_fusion_prefers_what_both_lists_hold() -> None:
    first, second = np.array([[5, 6, 7], [-1, -1, -1]]), np.array([[7, 8, -1], [3, -1, -1]])
    assert fuse(first, second).tolist() == [[7, 5, 6], [3, -1, -1]]


def test_each_head_is_held_against_its_kin() -> None:
    ways = set(HEADS)
    assert reference("mol-2-tokens", ways) == "dot-2-tokens" and reference("dot-2-tokens", ways) == "dot-2"
    random = {"dot-2", "dot-2-random"}
    assert (
        reference("mol-2-random", random) == "dot-2-random" and reference("dot-2-random", random) == "dot-2"
    )
    assert reference("zero-shot-all-tokens", ways) == "zero-shot" and reference("zero-shot", ways) is None
    assert reference("maxsim-1-all-tokens", ways) == "dot-1"
    assert reference("BM25 + mol-2", {"BM25 + mol-2"}) is None


def test_options_are_read_from_text_and_checked() -> None:
    chosen = study("text", {"data": "mine", "encoder": "minilm", "heads": "dot-1,mol-2", "seeds": "2"})
    assert chosen.file == "text-mine-minilm"
    assert study("text", {"data": "mine", "train_queries": "300"}).file == "text-mine-minilm-bfloat16-300"
    assert study("text", {"rates": "0.001,0.01"}).rates == (0.001, 0.01)
    with pytest.raises(ValueError, match="validation and test queries must be 2 or more"):
        study("text", {"test_queries": "1"})
    with pytest.raises(ValueError, match="no head 'mol-9'"):
        study("text", {"heads": "mol-9"})


def test_lists_belong_to_the_weights_that_found_them(root: Path) -> None:
    """Weights that are replaced (a shipped head that is trained again, say) do not answer with the lists of the old ones."""
    encoded = TextRetrieval(data="embedded-text", encoder="wordllama").encoded()
    training = HeadTraining(epochs=1)
    head = find_or_train(encoded, HEADS["dot-1"], training)
    assert head is not None and head.folder is not None
    before = head.lists(encoded, "test", 5)
    np.testing.assert_array_equal(head.lists(encoded, "test", 5), before)
    path = head.folder / "model.safetensors"
    weights = {name: torch.roll(w, 1, 0) for name, w in safetensors.torch.load_file(path).items()}
    weights["query_tower.linear.weight"] *= -1
    safetensors.torch.save_file(weights, path)
    again = find_or_train(encoded, HEADS["dot-1"], training)
    assert again is not None and not np.array_equal(again.lists(encoded, "test", 5), before)


def test_the_setting_is_chosen_on_validation_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two rates and two temperatures those that win on validation are taken, though others would win on test."""
    chosen = TextRetrieval(
        data="embedded-text", encoder="wordllama", heads=("dot-1",), epochs=1, rates=(1e-3, 1e-2), seeds=1
    )
    encoded = chosen.encoded()
    good = {split: encoded.relevant(split) for split in ("validation", "test")}
    monkeypatch.setattr(
        "workbench.studies.text.find_or_train",
        lambda _, config, training, seed, **__: Fake(training.learning_rate, config.temperature, good),
    )
    setting, heads = chosen.trained("dot-1", encoded, Models())
    assert setting == (1e-2, 0.1) and [(head.rate, head.temperature) for head in heads] == [setting]


@dataclasses.dataclass(frozen=True)
class Fake:
    """A head that finds every answer on validation at rate 0.01 and temperature 0.1, and on test at 0.001."""

    rate: float
    temperature: float
    good: dict[str, Relevant]

    def lists(self, encoded: EncodedCollection, split: str, k: int) -> np.ndarray:
        relevant = self.good[split]
        right = (split == "validation") == ((self.rate, self.temperature) == (1e-2, 0.1))
        found = np.full((len(relevant), k), -1)
        found[:, 0] = relevant.ids[relevant.offsets[:-1]] if right else -1
        return found


def test_the_setting_of_a_head_is_the_one_that_the_stored_table_names(root: Path) -> None:
    chosen = TextRetrieval(data="embedded-text", encoder="wordllama")
    assert chosen.setting("mol-2") == Setting(1e-3, 0.05)
    folder = root / "reports" / "tables"
    folder.mkdir(parents=True)
    stored = pd.DataFrame({"way": ["BM25", "mol-2", "dot-2"], "rate": [np.nan, 3e-3, 3e-4]})
    stored.to_csv(folder / f"{chosen.file}.csv", index=False)
    assert chosen.setting("mol-2") == Setting(3e-3, 0.05)  # as tables were before there was a choice
    stored.assign(temperature=[np.nan, 0.1, 0.05]).to_csv(folder / f"{chosen.file}.csv", index=False)
    assert chosen.setting("mol-2") == Setting(3e-3, 0.1) and chosen.setting("lite-2") == Setting()
    assert str(Setting(3e-3, 0.1)) == "rate 0.003, temperature 0.1"
