"""On which device a training runs: the one that was asked for, or a clear line."""

from contextlib import contextmanager

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from worlds import cyclic, retriever_config, training_config

from workbench import runtime
from workbench.training import loop


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine of two GPUs, as far as names of devices go, and the current one of each moment."""
    current = [0]

    @contextmanager
    def device(chosen):
        before, current[0] = current[0], chosen.index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", device)
    return current


def accelerator(processes, seen, current):
    """accelerate's, as if it ran that many processes; it keeps what it was made with, and on which GPU."""

    class Made(Accelerator):
        num_processes, is_main_process = processes, True

        def __init__(self, **options):
            seen.append((options["cpu"], current[0]))

    return Made


@pytest.mark.parametrize(("name", "used"), [("cuda:1", 1), ("cuda:0", 0), ("cuda", 0), (None, 0)])
def test_a_training_runs_on_the_gpu_that_was_asked_for(two_gpus, tmp_path, monkeypatch, name, used):
    seen = []

    def trained(*_):
        seen.append((False, two_gpus[0]))
        return loop.Run(tmp_path, pd.DataFrame(), 0, 0.0)

    monkeypatch.setattr(loop, "Accelerator", accelerator(1, seen, two_gpus))
    monkeypatch.setattr(loop, "_train", trained)
    loop.train(cyclic(), retriever_config("sasrec-dot"), training_config(), tmp_path, device=name)
    assert seen == [(False, used)] * 2 and two_gpus == [0]


def test_several_processes_do_not_train_on_one_gpu(two_gpus, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "Accelerator", accelerator(2, [], two_gpus))
    with pytest.raises(ValueError, match="2 processes cannot all train on cuda:1: give --device cuda"):
        loop.train(cyclic(), retriever_config("sasrec-dot"), training_config(), tmp_path, device="cuda:1")


@pytest.mark.parametrize("name", ["cuda:2", "gpu", "cuda:x", "mps", ""])
def test_a_device_that_is_not_there_is_refused(two_gpus, name):
    with pytest.raises(ValueError, match="no device"):
        runtime.device(name)


def test_a_run_stores_the_threads_of_each_epoch_and_reports_if_they_change(tmp_path, capsys):
    before = torch.get_num_threads()
    for epochs, threads in ((1, 1), (2, 2)):
        torch.set_num_threads(threads)
        try:
            run = loop.train(
                cyclic(),
                retriever_config("sasrec-dot"),
                training_config(epochs=epochs),
                tmp_path,
                device="cpu",
            )
        finally:
            torch.set_num_threads(before)
    assert run.history[loop.THREADS].tolist() == [1, 2]
    assert "2 threads from here, 1 before" in capsys.readouterr().out
