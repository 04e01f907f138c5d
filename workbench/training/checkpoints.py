"""The states a run can resume from: written whole under a temporary name, then renamed. No pickle."""

import json
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from workbench.retriever import Retriever

STATE, OPTIMIZER = "state.json", "optimizer.safetensors"


@dataclass
class Progress:
    """Where a run stands after `epoch` finished epochs: the best epoch and its metric, and one row per epoch."""

    epoch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_metric: float | None = None
    stale: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


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

    Raises OSError where it cannot be written (a full disk); the states before it are then whole, and nothing of it stays.
    """
    final = _folder(run, progress.epoch)
    temporary = final.with_name(final.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        retriever.save(temporary, **metadata)
        safetensors.torch.save_file(_optimizer_tensors(retriever, optimizer), temporary / OPTIMIZER)
        (temporary / STATE).write_text(json.dumps(asdict(progress)))
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    except safetensors.SafetensorError as error:
        raise OSError(f"cannot write {temporary / OPTIMIZER}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for epoch in epochs(run):
        if epoch not in (progress.epoch, progress.best_epoch):
            shutil.rmtree(_folder(run, epoch))


def resume(run: Path, retriever: Retriever, optimizer: torch.optim.Optimizer) -> Progress:
    """Load the last finished epoch of `run` into `retriever` and `optimizer`; a fresh Progress where there is none.

    Raises ValueError that names the folder of that epoch where it is damaged, or that of the best epoch if it is missing.
    """
    finished = epochs(run)
    if not finished:
        return Progress()
    folder = _folder(run, finished[-1])
    try:
        progress = Progress(**json.loads((folder / STATE).read_text()))
        retriever.load_state_dict(Retriever.load(folder).state_dict())
        _load_optimizer(retriever, optimizer, safetensors.torch.load_file(folder / OPTIMIZER))
    except (OSError, ValueError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"{folder} is damaged ({error}); remove it, and the run goes on after the epoch before it, if that is there"
        ) from error
    if progress.best_epoch and not best(run, progress).is_dir():
        raise ValueError(
            f"{best(run, progress)}, the best epoch of this run, is missing; remove {run} to train again"
        )
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
    for name, parameter in retriever.named_parameters():
        found = {
            key.split(".", 1)[0]: value for key, value in tensors.items() if key.split(".", 1)[1] == name
        }
        if found:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in found.items()
            }
