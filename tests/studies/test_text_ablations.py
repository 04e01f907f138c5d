"""The study of single changes: its table on the generated set, and what its columns mean."""

from pathlib import Path

import numpy as np
import pytest

from workbench.models.text_heads import find_or_train
from workbench.studies.study import Models, study
from workbench.studies.text import HEADS, TextRetrieval
from workbench.studies.text_ablations import TextAblations, _shared, components_in_use
from workbench.training.text_training import HeadTraining

pytest.importorskip("wordllama")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    return tmp_path


def test_one_row_per_change_and_the_dot_product_is_not_changed_by_the_gate(root: Path) -> None:
    wanted = ("the defaults", "random start", "uniform gate")
    chosen = TextAblations(data="embedded-text", encoder="wordllama", changes=wanted, epochs=6)
    table = chosen.table(Models()).set_index("change")
    assert tuple(table.index) == wanted
    np.testing.assert_allclose(table["difference"], table["mixture"] - table["dot"])
    assert (table["difference_low"] <= table["difference"]).all()
    assert table.loc["uniform gate", "dot"] == table.loc["the defaults", "dot"]
    assert table.loc["uniform gate", "components"] == pytest.approx(4, abs=1e-4)
    assert 1 <= table.loc["random start", "components"] < 4
    assert table["shared"].between(0, 1).all() and table.loc["random start", "shared"] < 1
    notes: list[str] = []
    empty = TextAblations(data="embedded-text", encoder="wordllama", epochs=1)
    assert not len(empty.table(Models(trained_only=True, note=notes.append)))
    assert "mol-2-uniform, uniform gate, is not trained: left out" in notes


def test_only_a_mixture_has_components_in_use(root: Path) -> None:
    encoded = TextRetrieval(data="embedded-text", encoder="wordllama").encoded()
    head = find_or_train(encoded, HEADS["dot-1"], HeadTraining(epochs=0))
    assert head is not None
    with pytest.raises(ValueError, match="dot-1 has no components"):
        components_in_use(head.head, encoded)


def test_what_two_lists_share_is_counted_by_query() -> None:
    assert _shared(np.array([[1, 2], [3, 4]]), np.array([[2, 9], [4, 3]])) == 0.75


def test_changes_are_chosen_by_name() -> None:
    chosen = study("text-ablations", {"changes": "uniform gate,temperature .1", "data": "mine"})
    assert (
        chosen.changes == ("uniform gate", "temperature .1")
        and chosen.file == "text-ablations-mine-minilm-bfloat16"
    )
    with pytest.raises(ValueError, match="no change 'none of these'; there are the defaults,"):
        study("text-ablations", {"changes": "none of these"})
