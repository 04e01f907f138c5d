"""Records of tensors: where they go, how they are cut, saved and read back, and what damaged files say."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from workbench.contracts import ItemState, QueryState, SequenceBatch, TopK


@dataclass(frozen=True)
class Vectors(ItemState):
    vectors: Float[Tensor, "N D"]
    gate: Float[Tensor, "N P"] | None = None


@dataclass(frozen=True)
class Users(QueryState):
    vectors: Float[Tensor, "B D"]


def topk(queries: int = 2, k: int = 3) -> TopK:
    return TopK(
        scores=torch.arange(queries * k, dtype=torch.float32).flip(0).reshape(queries, k),
        ids=torch.arange(queries * k).reshape(queries, k) + 1,
        exact=torch.ones(queries, dtype=torch.bool),
        gap=torch.zeros(queries),
        num_scored=torch.full((queries,), 7),
    )


def batch() -> SequenceBatch:
    return SequenceBatch(
        item_ids=torch.tensor([[5, 3, 0], [1, 2, 4]]),
        timestamps=torch.tensor([[10, 20, 0], [1, 2, 3]]),
        ratings=torch.tensor([[4.0, 3.5, 0.0], [1.0, 2.0, 5.0]]),
        lengths=torch.tensor([2, 3]),
        user_ids=torch.tensor([0, 1]),
        target_ids=torch.tensor([9, 9]),
        target_timestamps=torch.tensor([30, 4]),
    )


def test_dtype_moves_floating_point_fields_only():
    moved = topk().to("cpu", torch.float64)
    assert moved.scores.dtype == torch.float64
    assert (moved.ids.dtype, moved.exact.dtype) == (torch.int64, torch.bool)


def test_absent_fields_stay_absent():
    items = Vectors(torch.tensor([4, 2]), torch.ones(2, 3))
    assert items.to("cpu", torch.bfloat16).gate is None
    assert items[:1].gate is None


@pytest.mark.parametrize("rows", [slice(1, 2), torch.tensor([1]), torch.tensor([False, True])])
def test_rows_are_taken_from_every_field(rows):
    part = Vectors(
        torch.tensor([4, 2]), torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    )[rows]
    assert len(part) == 1
    assert (part.ids.tolist(), part.vectors.tolist(), part.gate.tolist()) == ([2], [[2.0]], [[5.0, 6.0]])


def test_length_counts_rows():
    assert (
        len(topk(4)),
        len(batch()),
        len(Users(torch.ones(5, 2))),
        len(Vectors(torch.ones(3).long(), torch.ones(3, 1))),
    ) == (
        4,
        2,
        5,
        3,
    )


def test_valid_marks_interactions_and_not_padding():
    assert batch().valid.tolist() == [[True, True, False], [True, True, True]]


def test_nbytes_counts_what_is_held():
    assert Vectors(torch.ones(3).long(), torch.ones(3, 2)).nbytes() == 3 * 8 + 3 * 2 * 4


def test_annotated_shapes_are_checked_in_tests():
    with pytest.raises(TypeCheckError):
        TopK(
            torch.zeros(2, 4),
            torch.zeros(2, 3).long(),
            torch.ones(2).bool(),
            torch.zeros(2),
            torch.ones(2).long(),
        )


def test_save_and_load_give_the_same_record(tmp_path):
    path = tmp_path / "batch.safetensors"
    batch().save(path)
    loaded = SequenceBatch.load(path)
    assert loaded.masked is None
    assert torch.equal(loaded.item_ids, batch().item_ids)
    assert torch.equal(loaded.ratings, batch().ratings)
    assert [p.name for p in tmp_path.iterdir()] == ["batch.safetensors"]


def test_a_view_is_saved_as_what_it_shows(tmp_path):
    items = Vectors(torch.arange(4) + 1, torch.arange(8.0).reshape(2, 4).T)
    items[1:3].save(tmp_path / "part")
    loaded = Vectors.load(tmp_path / "part")
    assert (loaded.ids.tolist(), loaded.vectors.tolist()) == ([2, 3], [[1.0, 5.0], [2.0, 6.0]])


def test_saving_over_a_record_replaces_it(tmp_path):
    topk(2).save(tmp_path / "top")
    topk(3).save(tmp_path / "top")
    assert len(TopK.load(tmp_path / "top")) == 3


def test_another_kind_of_record_is_refused(tmp_path):
    topk().save(tmp_path / "top")
    with pytest.raises(ValueError, match=r"top holds a TopK, not a SequenceBatch"):
        SequenceBatch.load(tmp_path / "top")


def test_a_file_without_a_record_name_is_refused(tmp_path):
    safetensors.torch.save_file({"ids": torch.ones(3)}, tmp_path / "weights")
    with pytest.raises(ValueError, match=r"weights holds a file without a record name"):
        TopK.load(tmp_path / "weights")


@pytest.mark.parametrize(
    "names", [("scores", "ids", "exact", "gap"), ("scores", "ids", "exact", "gap", "num_scored", "extra")]
)
def test_missing_and_unknown_fields_are_named(tmp_path, names):
    tensors = {name: torch.ones(2, 2) for name in names}
    safetensors.torch.save_file(tensors, tmp_path / "top", metadata={"record": "TopK"})
    with pytest.raises(ValueError, match=r"top and TopK differ in their fields: (num_scored|extra)$"):
        TopK.load(tmp_path / "top")


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_a_file_cut_short_is_named(tmp_path, kept):
    path = tmp_path / "top.safetensors"
    topk().save(path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"top\.safetensors is damaged"):
        TopK.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no TopK at .*nowhere"):
        TopK.load(tmp_path / "nowhere")


def test_a_missing_folder_is_made(tmp_path):
    topk().save(tmp_path / "nowhere" / "top")
    assert torch.equal(TopK.load(tmp_path / "nowhere" / "top").ids, topk().ids)


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    path = tmp_path / "top.safetensors"
    topk().save(path)
    whole = path.read_bytes()
    for place in range(0, 8 * len(whole), 7):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            read = TopK.load(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert torch.equal(read.ids, topk().ids) and torch.equal(read.scores, topk().scores)


def test_a_full_disk_leaves_the_previous_record_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "top"
    topk(2).save(path)

    def half_written(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        file.write_bytes(b"half")
        raise safetensors.SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", half_written)
    with pytest.raises(OSError, match=r"the disk is full: .*top could not be written; free some space"):
        topk(3).save(path)
    monkeypatch.undo()
    assert len(TopK.load(path)) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["top"]


def corpus(*ids: int) -> Vectors:
    return Vectors(torch.tensor(ids), torch.tensor([[float(i), -float(i)] for i in ids]))


def test_upsert_replaces_in_place_and_appends():
    new = Vectors(torch.tensor([9, 3, 8]), torch.tensor([[90.0, 0.0], [30.0, 0.0], [80.0, 0.0]]))
    found = corpus(7, 3, 5).upsert(new)
    assert found.ids.tolist() == [7, 3, 5, 9, 8]
    assert found.vectors[:, 0].tolist() == [7.0, 30.0, 5.0, 90.0, 80.0]
    assert found.gate is None


def test_without_keeps_the_order_of_the_others():
    found = corpus(7, 3, 5).without(torch.tensor([3]))
    assert (found.ids.tolist(), found.vectors[:, 0].tolist()) == ([7, 5], [7.0, 5.0])
    with pytest.raises(ValueError, match="item 4 is not in this corpus of 3 items"):
        corpus(7, 3, 5).without(torch.tensor([3, 4]))


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (lambda: corpus(3, 3), "repeat an id"),
        (lambda: Vectors(torch.tensor([3]), torch.ones(1, 5)), "vectors of the corpus"),
        (lambda: Vectors(torch.tensor([3]), torch.ones(1, 2), torch.ones(1, 4)), "gate of the corpus"),
        (lambda: ItemState(torch.tensor([3])), "made of Vectors, not of ItemState"),
    ],
)
def test_items_of_another_model_are_not_put_in(items, message):
    with pytest.raises(ValueError, match=message):
        corpus(7, 3, 5).upsert(items())


def test_a_batch_of_histories_needs_no_target_and_shows_what_it_lacks():
    batch = SequenceBatch.of_histories([[3, 1, 2], [5]], 2, timestamps=[[10, 20, 30], [7]])
    assert batch.item_ids.tolist() == [[1, 2], [5, 0]]
    assert batch.timestamps.tolist() == [[20, 30], [7, 0]]
    assert batch.lengths.tolist() == [2, 1]
    assert batch.at_last_interaction().need("target_timestamps").tolist() == [30, 7]
    for field in ("user_ids", "target_ids", "target_timestamps"):
        with pytest.raises(ValueError, match=f"the batch has no {field}"):
            batch.need(field)
    with pytest.raises(ValueError, match="at least one item"):
        SequenceBatch.of_histories([[1], []], 2)
    with pytest.raises(ValueError, match="one time for each item"):
        SequenceBatch.of_histories([[1, 2]], 2, timestamps=[[1]])
