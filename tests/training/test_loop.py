import errno
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from worlds import DIM, ENCODERS, KINDS, LENGTH, cyclic, retriever_config, training_config

from workbench import runtime
from workbench.encoders import SASRecConfig, TwoTowerConfig
from workbench.kernels.mixture_loss import has_bf16
from workbench.retriever import Retriever, RetrieverConfig, read_metadata
from workbench.runtime import derived_seed, generator
from workbench.similarities import DotConfig
from workbench.training import checkpoints, loop
from workbench.training.config import TrainingConfig
from workbench.training.losses import LossConfig, draw
from workbench.training.objectives import next_item
from workbench.training.step import TrainingStep

QUICK = replace(training_config(), warmup_steps=0, positions_per_step=None)


def trained(folder: Path, kind: str = "sasrec-mol", config: TrainingConfig | None = None, **rest):
    return loop.train(
        cyclic(),
        retriever_config(kind),
        config or training_config(),
        folder,
        device="cpu",
        progress=False,
        **rest,
    )


def same_states(one: Path, other: Path) -> None:
    """Weights and optimizer states of two folders are bit for bit the same."""
    names = sorted(path.name for path in one.glob("*.safetensors"))
    assert names and names == sorted(path.name for path in other.glob("*.safetensors"))
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> loop.Run:
    """An uninterrupted run of four epochs."""
    return trained(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoder_and_similarity_trains(tmp_path, kind):
    run = trained(tmp_path, kind, training_config(epochs=1))
    before = Retriever(retriever_config(kind), 25, seed=derived_seed(3, 0))
    after = Retriever.load(run.folder)
    assert after.config == before.config and not after.training
    changed = [
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    ]
    assert changed == [name for name, _ in before.named_parameters()]
    assert (after.item_table.weight[0] == 0).all()  # padding stays padding
    row = run.history.iloc[0]
    own = {"dot": set(), "mol": {"balance", "user norm"}, "sparcode": {"commitment"}}
    parts = {"loss"} | own.get(kind.partition("-")[2], set())
    assert parts | {"epoch", "seconds", "HR@10", "NDCG@10", "MRR"} <= set(run.history.columns)
    assert all(math.isfinite(value) for value in row)
    assert (run.best_epoch, run.best_metric) == (1, row["NDCG@10"])


@pytest.mark.parametrize("kind", ["sasrec-dot", "hstu-mol"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_falls_and_the_metric_rises(tmp_path, kind, precision):
    # At half as many epochs the metric of hstu-mol rises or not by the seed, with the kernels and without.
    run = trained(tmp_path, kind, replace(QUICK, epochs=20, learning_rate=0.02, precision=precision))
    losses = run.history["loss"]
    assert losses.iloc[-1] < 0.7 * losses.iloc[0]
    assert run.best_metric > 1.15 * run.history["NDCG@10"].iloc[0]
    assert all(p.dtype == torch.float32 for p in Retriever.load(run.folder).parameters())


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig("full softmax"),
        LossConfig("bce", count=8),
        LossConfig("gbce", count=8),
        LossConfig(negatives="in-batch", log_q=True),
        LossConfig(negatives="mixed", count=8),
    ],
    ids=lambda loss: f"{loss.kind}, {loss.negatives}",
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_falls_whatever_it_is(tmp_path, loss, precision):
    config = replace(QUICK, epochs=5, learning_rate=0.02, loss=loss, precision=precision)
    losses = trained(tmp_path, "sasrec-mol", config).history["loss"]
    assert losses.iloc[-1] < 0.95 * losses.iloc[0]


def test_the_same_seed_gives_the_same_weights_whatever_ran_before(tmp_path, whole):
    with torch.random.fork_rng():
        torch.manual_seed(99)
        state = torch.get_rng_state()
        again = trained(tmp_path / "again")
        assert torch.equal(torch.get_rng_state(), state)
    same_states(again.folder, whole.folder)
    other = trained(tmp_path / "other", config=replace(training_config(), seed=4))
    first, second = (safetensors.torch.load_file(r.folder / "model.safetensors") for r in (whole, other))
    assert not torch.equal(first["item_table.weight"], second["item_table.weight"])


def test_a_run_that_was_stopped_goes_on(tmp_path, whole):
    short = trained(tmp_path, config=training_config(epochs=2))
    assert checkpoints.epochs(tmp_path)[-1] == 2 and len(short.history) == 2
    run = trained(tmp_path)
    same_states(tmp_path / "epoch-0004", whole.folder / "epoch-0004")
    same_states(tmp_path, whole.folder)
    columns = whole.history.columns.drop("seconds")
    assert run.history[columns].equals(whole.history[columns])
    assert (run.best_epoch, run.best_metric) == (whole.best_epoch, whole.best_metric)
    # Whoever looks at the folder is settings of the run as it is now.
    assert json.loads((tmp_path / loop.RUN).read_text())["training"]["epochs"] == 4
    assert read_metadata(tmp_path)["training"]["epochs"] == 4
    assert loop.load_history(tmp_path)["loss"].tolist() == run.history["loss"].tolist()


def test_a_finished_run_is_handed_back(tmp_path, monkeypatch):
    first = trained(tmp_path, config=training_config(epochs=1))
    monkeypatch.setattr(loop, "_epoch", None)  # nothing is trained
    again = trained(tmp_path, config=training_config(epochs=1))
    assert again.history.equals(first.history)
    assert (again.best_epoch, again.best_metric) == (first.best_epoch, first.best_metric)


def test_a_longer_run_is_not_passed_off_as_a_shorter_one(tmp_path):
    trained(tmp_path, config=training_config(epochs=2))
    before = (tmp_path / loop.RUN).read_text()
    with pytest.raises(ValueError, match="2 epochs, more than the 1 requested"):
        trained(tmp_path, config=training_config(epochs=1))
    assert (tmp_path / loop.RUN).read_text() == before


@pytest.mark.parametrize(
    ("kind", "config", "dataset", "named"),
    [
        ("sasrec-dot", training_config(), cyclic(), "retriever.similarity"),
        ("hstu-mol", training_config(), cyclic(), "retriever.encoder"),
        ("sasrec-mol", replace(training_config(), learning_rate=0.5), cyclic(), "training.learning_rate"),
        ("sasrec-mol", replace(training_config(), seed=8), cyclic(), "training.seed"),
        ("sasrec-mol", training_config(), cyclic(seed=1), "fingerprint"),
    ],
)
def test_a_folder_of_another_run_is_refused(whole, kind, config, dataset, named):
    before = {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")}
    with pytest.raises(ValueError, match=f"holds a run with another {named}"):
        loop.train(dataset, retriever_config(kind), config, whole.folder, device="cpu", progress=False)
    assert {path: path.stat().st_mtime_ns for path in whole.folder.rglob("*")} == before


def test_data_without_an_order_trains_only_what_needs_none(tmp_path):
    unordered = replace(cyclic(), ordered=False)
    with pytest.raises(
        ValueError, match=r"training sasrec needs the order of interactions in time, which .* does not have"
    ):
        loop.train(
            unordered, retriever_config("sasrec-dot"), training_config(), tmp_path / "run", progress=False
        )
    assert not (tmp_path / "run").exists()
    tower = replace(retriever_config("sasrec-dot"), encoder=TwoTowerConfig((), last_item=False))
    loop.train(unordered, tower, training_config(epochs=1), tmp_path / "run", device="cpu", progress=False)


def test_a_file_in_the_place_of_tensorboards_folder_is_named(tmp_path):
    (tmp_path / "tensorboard").write_text("mine")
    with pytest.raises(ValueError, match=r"tensorboard is a file, .* move it away"):
        trained(tmp_path)
    assert (tmp_path / "tensorboard").read_text() == "mine"


def test_a_folder_with_a_checkpoint_that_is_no_run_is_refused(tmp_path):
    Retriever(retriever_config("sasrec-dot"), 25).save(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"no run\.json"):
        trained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_run_file_is_named(tmp_path, text):
    (tmp_path / loop.RUN).write_text(text)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        trained(tmp_path)


def test_a_run_stops_early_and_keeps_its_best(tmp_path, monkeypatch):
    metrics = iter([0.0, 0.3, 0.2, 0.3, 0.9])  # a tie is no improvement
    monkeypatch.setattr(loop, "measure", lambda *_: {"NDCG@10": next(metrics)})
    run = trained(tmp_path, config=replace(training_config(), epochs=9, patience=2))
    assert run.history["NDCG@10"].tolist() == [0.0, 0.3, 0.2, 0.3]
    assert (run.best_epoch, run.best_metric) == (2, 0.3)
    assert checkpoints.epochs(tmp_path) == [2, 4]
    assert (tmp_path / "model.safetensors").read_bytes() == (
        tmp_path / "epoch-0002" / "model.safetensors"
    ).read_bytes()
    metadata = read_metadata(tmp_path)
    assert metadata["best_epoch"] == 2 and metadata["best"] == {"NDCG@10": 0.3}
    again = trained(tmp_path, config=replace(training_config(), epochs=9, patience=2))
    assert len(again.history) == 4  # it has stopped for good


def test_a_metric_of_zero_is_a_metric(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "measure", lambda *_: {"NDCG@10": 0.0})
    assert trained(tmp_path, config=training_config(epochs=1)).best_metric == 0.0


def test_what_is_measured_when(tmp_path):
    run = trained(tmp_path, config=replace(training_config(epochs=5), validate_every=2, metric="MRR"))
    measured = run.history["MRR"].notna().tolist()
    assert measured == [False, True, False, True, True]  # and the last one
    assert run.best_epoch in (2, 4, 5) and run.best_metric == run.history["MRR"].max()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in board.Scalars("loss")] == [4, 8, 12, 16, 20]
    assert [e.step for e in board.Scalars("MRR")] == [8, 16, 20]
    assert [e.value for e in board.Scalars("loss")] == pytest.approx(run.history["loss"].tolist())


# What goes wrong


def rates(monkeypatch: pytest.MonkeyPatch, steps: dict[int, float]) -> None:
    """The learning rate of some steps is another."""
    original = loop._set_rate

    def set_rate(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> None:
        original(optimizer, config, step)
        for group in optimizer.param_groups:
            group["lr"] = steps.get(step, group["lr"])

    monkeypatch.setattr(loop, "_set_rate", set_rate)


@pytest.mark.parametrize(
    ("step", "message"),
    [(5, "the loss is nan in epoch 2, step 3"), (7, r"\w+ holds NaN or infinite numbers after epoch 2")],
    ids=["in an epoch", "at its last step"],
)
def test_a_run_that_diverges_stops_and_keeps_its_states(tmp_path, monkeypatch, whole, step, message):
    rates(monkeypatch, {step: math.nan})
    with pytest.raises(ValueError, match=message + ".*lower the learning rate.*are kept"):
        trained(tmp_path)
    assert checkpoints.epochs(tmp_path) == [1]
    monkeypatch.undo()
    trained(tmp_path)
    same_states(tmp_path, whole.folder)


def test_a_metric_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    metrics = iter([0.1, math.nan])
    monkeypatch.setattr(loop, "measure", lambda *_: {"NDCG@10": next(metrics)})
    with pytest.raises(ValueError, match="metric of epoch 2 is nan"):
        trained(tmp_path)
    assert checkpoints.epochs(tmp_path) == [1]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "no space"), safetensors.SafetensorError("no space")]
)
@pytest.mark.parametrize("call", [3, 4])
def test_a_full_disk_leaves_the_epochs_before_whole(tmp_path, monkeypatch, whole, error, call):
    save, calls = safetensors.torch.save_file, []

    def full(tensors, path, *rest, **named):
        calls.append(path)
        save(tensors, path, *rest, **named)
        if len(calls) == call:  # of two files an epoch
            path.write_bytes(path.read_bytes()[:100])
            raise error

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"no space|disk is full"):
        trained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"run.json", "tensorboard", "epoch-0001"}
    Retriever.load(tmp_path / "epoch-0001")
    monkeypatch.undo()
    trained(tmp_path)
    same_states(tmp_path, whole.folder)


def test_facts_that_cannot_be_written_fail_before_the_training(tmp_path):
    with pytest.raises(TypeError, match="JSON"):
        trained(tmp_path, metadata={"when": object()})
    assert checkpoints.epochs(tmp_path) == []


def test_facts_are_kept_with_the_checkpoint(tmp_path):
    trained(tmp_path, config=training_config(epochs=1), metadata={"preset": "tiny"})
    metadata = read_metadata(tmp_path)
    assert metadata["preset"] == "tiny" and metadata["dataset"] == "cyclic"
    assert metadata["fingerprint"] == cyclic().fingerprint()
    assert TrainingConfig.from_dict(metadata["training"]) == training_config(epochs=1)


def test_too_few_users_are_an_error(tmp_path):
    short = cyclic(users=3)
    short = replace(
        short,
        offsets=2 * np.arange(4),
        item_ids=short.item_ids[:6],
        timestamps=short.timestamps[:6],
        ratings=short.ratings[:6],
    )
    with pytest.raises(ValueError, match="too few users with two interactions to train on"):
        loop.train(short, retriever_config("sasrec-dot"), training_config(), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_no_history_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        loop.load_history(tmp_path)


def test_a_process_may_change_precision_between_runs(tmp_path, monkeypatch):
    seen = []
    forward = TrainingStep.forward

    def watched(*given):
        seen.append((runtime.rounds_products(), torch.is_autocast_enabled("cpu")))
        return forward(*given)

    monkeypatch.setattr(TrainingStep, "forward", watched)
    for name, precision in (("a", "bf16"), ("b", "fp32"), ("c", "bf16")):
        seen.clear()
        config = replace(training_config(epochs=1), precision=precision)
        trained(tmp_path / name, "sasrec-mol", config=config)
        assert set(seen) == {(precision == "bf16", False)}
        assert not runtime.rounds_products()
    first, second, third = (safetensors.torch.load_file(tmp_path / n / "model.safetensors") for n in "abc")
    assert torch.equal(first["item_table.weight"], third["item_table.weight"])
    differs = not torch.equal(first["item_table.weight"], second["item_table.weight"])
    assert differs or not has_bf16()


# The parts of a step


def test_the_rate_warms_up():
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter])
    seen = []
    for step in range(6):
        loop._set_rate(optimizer, TrainingConfig(learning_rate=0.8, warmup_steps=4), step)
        seen.append(optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    loop._set_rate(optimizer, TrainingConfig(learning_rate=0.8), 0)
    assert optimizer.param_groups[0]["lr"] == 0.8


@pytest.mark.parametrize("limit", [0.01, None])
def test_gradients_are_clipped_where_asked(tmp_path, monkeypatch, limit):
    norms = []
    original = torch.optim.AdamW.step

    def step(self, *rest):
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.stack([g.norm() for g in gradients]).norm().item())
        return original(self, *rest)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    trained(tmp_path, config=replace(training_config(epochs=1), clip_norm=limit))
    assert len(norms) == 4
    if limit:
        assert max(norms) == pytest.approx(limit, rel=1e-3)
    else:
        assert min(norms) > 0.02


def test_the_optimizer_gets_what_the_configuration_holds(tmp_path, monkeypatch):
    settings = []
    original = torch.optim.AdamW.__init__

    def init(self, params, lr, betas, weight_decay):
        settings.append((lr, betas, weight_decay))
        original(self, params, lr=lr, betas=betas, weight_decay=weight_decay)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", init)
    trained(tmp_path, config=replace(training_config(epochs=1), weight_decay=0.25, betas=(0.8, 0.9)))
    assert settings == [(1e-2, (0.8, 0.9), 0.25)]


@pytest.mark.parametrize("limit", [None, 5, 10_000])
def test_at_most_so_many_positions_are_trained_on(tiny_batch, limit):
    config = TrainingConfig(positions_per_step=limit)
    batch, targets = loop.targets_of(tiny_batch, "next item", config, LENGTH, generator(0))
    everything = next_item(tiny_batch)
    assert batch is tiny_batch
    if limit != 5:
        assert torch.equal(targets.positions, everything.positions)
        return
    assert len(targets) == 5
    rows = torch.searchsorted(everything.positions, targets.positions)
    assert torch.equal(everything.positions[rows], targets.positions)  # in order, each once
    assert len(set(rows.tolist())) == 5
    assert torch.equal(everything.target_ids[rows], targets.target_ids)
    assert torch.equal(everything.user_ids[rows], targets.user_ids)
    other = loop.targets_of(tiny_batch, "next item", config, LENGTH, generator(1))[1]
    assert not torch.equal(other.positions, targets.positions)


def test_masked_items_are_hidden_and_trained_on(tiny_batch):
    config = TrainingConfig(mask_probability=0.5, mask_last_only=0.0)
    batch, targets = loop.targets_of(tiny_batch, "masked item", config, LENGTH, generator(0))
    assert batch.masked is not None and batch.masked.sum() == len(targets)
    assert ENCODERS["bert4rec"].kind == "bert4rec"


def test_progress_is_reported_by_epoch(tmp_path, capsys):
    loop.train(cyclic(), retriever_config("sasrec-dot"), training_config(epochs=2), tmp_path, device="cpu")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all("loss" in line and "NDCG@10" in line and "s left" in line for line in lines)
    assert "(best)" in lines[0] and lines[1].endswith("about 0 s left")


def test_a_corpus_wider_than_the_history(tmp_path):
    config = RetrieverConfig(SASRecConfig(1, 1, 8, 0.0), DotConfig(), DIM, max_length=3)  # histories are cut
    run = loop.train(
        cyclic(items=200), config, training_config(epochs=1), tmp_path, device="cpu", progress=False
    )
    assert Retriever.load(run.folder).num_items == 200


def test_frequencies_of_the_stream_are_those_of_all_training_targets(tmp_path, monkeypatch):
    given = []

    def watching(config, targets, num_items, draws, frequencies=None):
        given.append(frequencies)
        return draw(config, targets, num_items, draws, frequencies)

    monkeypatch.setattr(loop, "draw", watching)
    config = replace(QUICK, epochs=1, loss=LossConfig(negatives="in-batch", log_q=True, frequencies="stream"))
    trained(tmp_path, "sasrec-dot", config)
    sequences, counts = cyclic(), np.zeros(26)
    for user in sequences.users_with("train"):
        items = sequences.item_ids[
            sequences.offsets[user] : sequences.target_rows(np.array(user), config.part) + 1
        ]
        for target in items[1:][-LENGTH:]:
            counts[target] += 1
    wanted = np.maximum(counts, 1) / counts.sum()
    for frequencies in given:
        np.testing.assert_allclose(frequencies.numpy(), wanted, rtol=1e-6)
