import json
import shutil
from pathlib import Path

import pytest
import torch
from worlds import ITEMS, retriever_config

from workbench.retriever import Retriever
from workbench.training import checkpoints
from workbench.training.checkpoints import Progress


def model(seed: int = 0, steps: int = 0) -> tuple[Retriever, torch.optim.Optimizer]:
    retriever = Retriever(retriever_config("sasrec-mol"), ITEMS, seed)
    optimizer = torch.optim.AdamW(retriever.parameters(), 0.1)
    for _ in range(steps):
        sum(p.square().sum() for p in retriever.parameters()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return retriever, optimizer


def test_a_state_comes_back_as_it_was(tmp_path):
    retriever, optimizer = model(steps=3)
    progress = Progress(2, 8, 1, 0.1 + 0.2, 1, [{"loss": 1 / 3, "epoch": 1}, {"loss": 0.1, "epoch": 2}])
    checkpoints.save(tmp_path, retriever, optimizer, Progress(1, best_epoch=1))
    checkpoints.save(tmp_path, retriever, optimizer, progress, note="x")
    again, other = model(seed=1)
    assert checkpoints.resume(tmp_path, again, other) == progress
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in retriever.state_dict().items())
    for mine, its in zip(retriever.parameters(), again.parameters(), strict=True):
        assert optimizer.state[mine].keys() == other.state[its].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(
            torch.equal(optimizer.state[mine][key], other.state[its][key]) for key in optimizer.state[mine]
        )
    # And the next step is the same.
    for r, o in ((retriever, optimizer), (again, other)):
        sum(p.square().sum() for p in r.parameters()).backward()
        o.step()
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in retriever.state_dict().items())


def test_an_empty_folder_is_a_fresh_start(tmp_path):
    retriever, optimizer = model()
    before = {name: tensor.clone() for name, tensor in retriever.state_dict().items()}
    assert checkpoints.resume(tmp_path, retriever, optimizer) == Progress()
    assert all(torch.equal(tensor, before[name]) for name, tensor in retriever.state_dict().items())
    assert not optimizer.state


def test_the_last_and_the_best_stay(tmp_path):
    retriever, optimizer = model()
    for epoch, best in ((1, 1), (2, 2), (3, 2), (4, 2)):
        checkpoints.save(tmp_path, retriever, optimizer, Progress(epoch, best_epoch=best))
    assert checkpoints.epochs(tmp_path) == [2, 4]
    assert checkpoints.best(tmp_path, Progress(4, best_epoch=2)) == tmp_path / "epoch-0002"
    checkpoints.save(tmp_path, retriever, optimizer, Progress(5, best_epoch=0))  # nothing was measured yet
    assert checkpoints.epochs(tmp_path) == [5]


def test_other_names_are_no_epochs(tmp_path):
    for name in ("epoch-0003.partial", "epoch-12", "epoch-abcd", "epoch-0002x"):
        (tmp_path / name).mkdir()
    (tmp_path / "epoch-0009").write_text("a file")
    (tmp_path / "epoch-12345").mkdir()
    assert checkpoints.epochs(tmp_path) == [12345]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    retriever, optimizer = model()
    left = tmp_path / ".epoch-0001.partial-999999999"
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    (left / "unknown").write_text("?")
    checkpoints.save(tmp_path, retriever, optimizer, Progress(1, best_epoch=1))
    assert {path.name for path in tmp_path.iterdir()} == {"epoch-0001"}
    assert not (tmp_path / "epoch-0001" / "unknown").exists()
    assert checkpoints.resume(tmp_path, *model()).epoch == 1


@pytest.mark.parametrize("name", ["state.json", "optimizer.safetensors", "model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "noise"])
def test_a_damaged_state_is_named(tmp_path, name, damage):
    checkpoints.save(tmp_path, *model(steps=1), Progress(1, best_epoch=1))
    path: Path = tmp_path / "epoch-0001" / name
    if damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_text(json.dumps({"epoch": 1, "unknown": 2}))
    with pytest.raises(ValueError, match=r"epoch-0001 is damaged.*remove the folder"):
        checkpoints.resume(tmp_path, *model())


def test_a_missing_best_epoch_is_named_before_the_run_goes_on(tmp_path):
    for epoch in (1, 2):
        checkpoints.save(tmp_path, *model(steps=1), Progress(epoch, best_epoch=1))
    shutil.rmtree(tmp_path / "epoch-0001")
    with pytest.raises(ValueError, match=r"epoch-0001, the best epoch of this run, is missing; remove"):
        checkpoints.resume(tmp_path, *model())
