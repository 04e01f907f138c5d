"""Each epoch's numbers go to accelerate's trackers too."""

import importlib

import pytest
from accelerate.tracking import GeneralTracker
from worlds import cyclic, retriever_config, training_config

from workbench.training import loop


class Recorder(GeneralTracker):
    """Keeps what it is sent."""

    name = "recorder"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self) -> None:
        super().__init__()
        self.settings, self.rows, self.finished = {}, [], False

    @property
    def tracker(self) -> list:
        return self.rows

    def store_init_configuration(self, values: dict) -> None:
        self.settings = values

    def log(self, values: dict, step: int | None, **rest: object) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished = True


def test_a_tracker_gets_the_settings_and_each_epoch(tmp_path) -> None:
    recorder = Recorder()
    run = loop.train(
        cyclic(), retriever_config("sasrec-dot"), training_config(), tmp_path, device="cpu", progress=False,
        trackers=[recorder],
    )  # fmt: skip
    assert recorder.finished and recorder.settings["retriever.encoder.kind"] == "sasrec"
    assert recorder.settings["training.epochs"] == len(run.history) == len(recorder.rows)
    steps, rows = zip(*recorder.rows, strict=True)
    assert list(steps) == sorted(set(steps)) and steps[0] > 0
    assert [row["loss"] for row in rows] == run.history["loss"].tolist()
    assert all("epoch" not in row for row in rows)
    assert rows[-1]["NDCG_at_10"] == run.history["NDCG@10"].iloc[-1] and "@" not in "".join(rows[-1])
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_tracker_that_fails_loses_no_epoch(tmp_path, monkeypatch) -> None:
    def full(self: Recorder, values: dict, step: int | None, **rest: object) -> None:
        if self.rows:
            raise ZeroDivisionError("the server is\nfull")
        self.rows.append((step, values))

    monkeypatch.setattr(Recorder, "log", full)
    arguments = (cyclic(), retriever_config("sasrec-dot"), training_config(), tmp_path)
    with pytest.raises(OSError, match=r"a tracker failed \(the server is full\); the same command without"):
        loop.train(*arguments, device="cpu", progress=False, trackers=[Recorder()])
    assert max(loop.checkpoints.epochs(tmp_path)) == 2
    assert len(loop.train(*arguments, device="cpu", progress=False).history) == training_config().epochs


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch) -> None:
    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> object:
        if name == "mlflow":
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(
        ImportError, match=r"mlflow is not installed; install it with: pip install .*\[trackers\]"
    ):
        loop.train(
            cyclic(), retriever_config("sasrec-dot"), training_config(), tmp_path / "run", device="cpu",
            progress=False, trackers=["mlflow"],
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="no tracker 'paper'; there are mlflow, wandb"):
        loop.train(
            cyclic(), retriever_config("sasrec-dot"), training_config(), tmp_path / "run", trackers=["paper"]
        )
