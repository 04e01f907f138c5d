"""The states a run can resume from: written whole under a temporary name, then renamed. No pickle."""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from workbench import files
from workbench.loading import from_json, read_json, read_tensors, reading
from workbench.retriever import CONFIG, WEIGHTS, Retriever

STATE, OPTIMIZER = "state.json", "optimizer.safetensors"
RESTART = "remove the folder of that epoch, and the run continues after the epoch before it, if that is there"
_KIND = files.Kind("training state", (WEIGHTS, CONFIG, OPTIMIZER, STATE), lambda _: {})


@dataclass
class Progress:
    """The state of a run after `epoch` finished epochs: the best epoch and its metric, and one row per epoch."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_metric: float | None = None
    stale: int = 0
    history: list[dict[str, int | float]] = field(default_factory=list)


def _folder(run: Path, epoch: int) -> Path:
    return run / f"epoch-{epoch:04d}"


def epochs(run: Path) -> list[int]:
    """The finished epochs that `run` holds, in order."""
    names = (re.fullmatch(r"epoch-(\d{4,})", p.name) for p in run.glob("epoch-*") if p.is_dir())
    return sorted(int(match[1]) for match in names if match)


def save(
    run: Path, retriever: Retriever, optimizer: torch.optim.Optimizer, progress: Progress, **metadata: Any
) -> None:
    """Write the state after an epoch, then drop the states that are neither the last nor the best.

    Raises OSError if it cannot be written (a full disk); the states before it are then whole, and nothing of it stays.
    """
    with files.new_folder(_folder(run, progress.epoch), _KIND, {}) as new:
        retriever.save(new, **metadata)
        safetensors.torch.save_file(_optimizer_tensors(retriever, optimizer), new / OPTIMIZER)
        (new / STATE).write_text(json.dumps(asdict(progress)))
    for epoch in epochs(run):
        if epoch not in (progress.epoch, progress.best_epoch):
            files.remove(_folder(run, epoch))


def resume(run: Path, retriever: Retriever, optimizer: torch.optim.Optimizer) -> Progress:
    """Load the last finished epoch of `run` into `retriever` and `optimizer`; a fresh Progress if there is none.

    Raises ValueError that names the folder of that epoch if it is damaged, or that of the best epoch if it is missing.
    """
    finished = epochs(run)
    if not finished:
        return Progress()
    folder = _folder(run, finished[-1])
    with reading(folder, RESTART):
        progress = read_progress(run)
        retriever.load_state_dict(Retriever.load(folder).state_dict())
        _load_optimizer(retriever, optimizer, read_tensors(folder / OPTIMIZER, RESTART)[0])
    if progress.best_epoch and not best(run, progress).is_dir():
        raise ValueError(
            f"{best(run, progress)}, the best epoch of this run, is missing; remove {run} to train again"
        )
    return progress


def read_progress(run: Path) -> Progress:
    """The state after the last finished epoch of `run`; ValueError if its file is damaged, FileNotFoundError if there is
    none."""
    finished = epochs(run)
    if not finished:
        raise FileNotFoundError(f"{run} holds no finished epoch")
    path = _folder(run, finished[-1]) / STATE
    with reading(path, RESTART):
        progress = from_json(Progress, read_json(path, RESTART))
        if progress.epoch != finished[-1] or min(progress.step, progress.best_epoch, progress.stale) < 0:
            raise ValueError(f"it is the state of epoch {progress.epoch}, or counts below 0")
    return progress


def best(run: Path, progress: Progress) -> Path:
    """The folder of the best epoch."""
    return _folder(run, progress.best_epoch)


def _optimizer_tensors(retriever: Retriever, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state
    return {
        f"{key}.{name}": value.detach().contiguous().cpu()
        for name, parameter in retriever.named_parameters()
        for key, value in state.get(parameter, {}).items()
    }


def _load_optimizer(
    retriever: Retriever, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    of: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        slot, _, name = key.partition(".")
        of.setdefault(name, {})[slot] = value
    for name, parameter in retriever.named_parameters():
        if found := of.pop(name, None):
            for slot, value in found.items():
                if value.shape != (() if slot == "step" else parameter.shape):
                    raise ValueError(f"{slot} of {name} has shape {tuple(value.shape)}")
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in found.items()
            }
    if of:
        raise ValueError(f"it holds the state of {', '.join(sorted(of))}, which the model does not have")
