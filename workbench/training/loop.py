"""The training loop: one for every encoder, similarity, loss, device and number of processes."""

import json
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import GeneralTracker
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from workbench import files, runtime
from workbench.contracts import AlternatingSimilarity, SequenceBatch
from workbench.data import Batches, DataError, Sequences
from workbench.loading import one_line, read_json, reading
from workbench.retriever import CONFIG, WEIGHTS, Retriever, RetrieverConfig, not_finite
from workbench.training import checkpoints
from workbench.training.checkpoints import Progress
from workbench.training.config import TrainingConfig
from workbench.training.losses import draw
from workbench.training.objectives import TrainingTargets, later_item, masked_item, next_item
from workbench.training.step import TrainingStep
from workbench.training.validation import measure

RUN = "run.json"
TRACKERS = ("mlflow", "wandb")
PROJECT = "retrieval-workbench"
"""The name of the project, or experiment, that trackers put runs under."""
TENSORBOARD = "tensorboard"
"""The folder of a run that TensorBoard reads."""
_KIND = files.Kind("run", (RUN, "epoch-*", TENSORBOARD, WEIGHTS, CONFIG), lambda _: {})
THREADS = "threads"
"""The column of a run's history with the threads of each epoch: other numbers of threads sum in another order."""
COUNTING = 1_000_033
"""The stream of random numbers that frequencies of targets are counted with."""
SETTLING = 1_000_003
"""The stream of random numbers for an alternating similarity's own step, separate from those of the processes."""


@dataclass(frozen=True)
class Run:
    """A finished run: its folder (a checkpoint that `Retriever.load` reads) and one row per epoch."""

    folder: Path
    history: pd.DataFrame
    best_epoch: int
    best_metric: float


def train(
    sequences: Sequences,
    retriever_config: RetrieverConfig,
    config: TrainingConfig,
    folder: Path,
    *,
    device: str | None = None,
    progress: bool = True,
    metadata: dict[str, Any] | None = None,
    replace_run: bool = False,
    trackers: Sequence[str | GeneralTracker] = (),
    start: Retriever | None = None,
) -> Run:
    """Train a retriever on the leave-one-out training part of `sequences`, keeping all its states in `folder`.

    A run that was killed resumes after its last finished epoch and ends with the weights of an uninterrupted one (given the
    same machine and number of threads and processes; on a GPU up to rounding, for it adds in any order). A finished run
    continues if more epochs are requested; the epoch it ended with was measured, whatever `validate_every` is. `metadata` go
    into the checkpoint's `config.json`. Under `accelerate launch` (GPUs) or `torchrun` (CPUs, for which the former starts only
    one process) each process takes its share of every epoch's batches. `replace_run` deletes a run of another configuration or
    dataset in `folder`. `trackers`: "mlflow", "wandb", or trackers of accelerate's, which get each epoch's numbers besides
    TensorBoard's files. `start`: the retriever of the same configuration whose weights training begins with, if the
    configuration has a `warm_start`.

    Raises BlockingIOError if another process trains in `folder`. Raises ValueError if `folder` holds a run of another
    configuration or dataset, a longer run, or something else than a run; if `start` and `warm_start` are not given together, or
    `start` has another configuration; if no user has enough interactions; if the loss
    or a weight stops being a finite number; or if there is no such tracker. ImportError if a tracker's package is missing,
    OSError if a tracker fails, after its epoch is stored.
    DataError if the encoder uses the order of histories and the data has none.
    """
    for name in filter(lambda tracker: isinstance(tracker, str), trackers):
        if name not in TRACKERS:
            raise ValueError(f"no tracker {name!r}; there are {', '.join(TRACKERS)}")
        runtime.require(str(name))
    if (start is None) != (config.warm_start is None):
        raise ValueError(
            f"the settings start from {config.warm_start}, and {'no' if start is None else 'a'} model is given"
        )
    if start is not None and start.config != retriever_config:
        raise ValueError(
            "a training starts from a model of its own configuration (see `training.warm_start`)"
        )
    on = runtime.device(device)
    with ExitStack() as stack:
        if on.type == "cuda" and on.index is not None:
            stack.enter_context(torch.cuda.device(on))  # accelerate takes the current GPU
        accelerator = _accelerator(on, config.precision, trackers)
        if accelerator.is_main_process:
            stack.enter_context(files.lock(folder))
        return _train(
            accelerator,
            sequences,
            retriever_config,
            config,
            folder,
            progress,
            metadata or {},
            replace_run,
            start,
        )


def _train(
    accelerator: Accelerator,
    sequences: Sequences,
    retriever_config: RetrieverConfig,
    config: TrainingConfig,
    folder: Path,
    progress: bool,
    metadata: dict[str, Any],
    replace_run: bool,
    start: Retriever | None,
) -> Run:
    described = {
        "dataset": sequences.name,
        "fingerprint": sequences.fingerprint(),
        "retriever": retriever_config.to_dict(),
        "training": config.to_dict(),
    }
    batches = Batches(
        sequences,
        config.part,
        config.batch_size,
        retriever_config.max_length,
        seed=config.seed,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        window=config.window,
    )
    steps = len(replace(batches, rank=0, world=1)) // accelerator.num_processes  # every process takes as many
    if steps == 0:
        raise DataError(
            f"nothing to learn from: {sequences.name} has too few users with two interactions to train on, besides those"
            " held out, to fill one batch per process"
        )
    retriever = Retriever(retriever_config, sequences.num_items, seed=runtime.derived_seed(config.seed, 0))
    if start is not None:
        retriever.load_state_dict(start.state_dict())  # a resumed run replaces them
    if retriever.encoder.uses_order:
        sequences.require_order(f"training {retriever_config.encoder.kind}")
    if accelerator.is_main_process:
        _claim(folder, described, replace_run)
    accelerator.wait_for_everyone()
    kept = {name: described[name] for name in ("dataset", "fingerprint", "training")} | metadata
    json.dumps(kept)  # what cannot be written fails now and not after an epoch

    retriever.to(accelerator.device)
    optimizer = torch.optim.AdamW(
        retriever.parameters(), config.learning_rate, config.betas, weight_decay=config.weight_decay
    )
    state = checkpoints.resume(folder, retriever, optimizer)
    if state.epoch > config.epochs:
        raise ValueError(
            f"{folder} holds a run of {state.epoch} epochs, more than the {config.epochs} requested;"
            f" request {state.epoch} or more, choose another folder, or remove that one"
        )
    threads = torch.get_num_threads()
    if accelerator.is_main_process and progress and state.history and state.epoch < config.epochs:
        before = state.history[-1].get(THREADS)
        if before not in (None, threads):
            print(
                f"{threads} threads from here, {before:g} before: the weights are those of neither alone",
                flush=True,
            )
    frequencies = None
    if config.loss.log_q and config.loss.frequencies == "stream":
        frequencies = _frequencies(batches, retriever, config)
    step, wrapped_optimizer = accelerator.prepare(TrainingStep(retriever, config.loss), optimizer)
    if accelerator.log_with:
        names = {"mlflow": {"run_name": folder.name}, "wandb": {"name": folder.name}}
        with _tracking():
            accelerator.init_trackers(PROJECT, config=_flat(described), init_kwargs=names)
    writer = None
    if accelerator.is_main_process:
        writer = SummaryWriter(folder / TENSORBOARD, purge_step=state.step + 1)

    try:
        while state.epoch < config.epochs and not _exhausted(state, config):
            started = time.perf_counter()
            if isinstance(retriever.similarity, AlternatingSimilarity):
                retriever.similarity.on_epoch_start(state.epoch + 1)
            losses = _epoch(
                accelerator, step, wrapped_optimizer, batches, steps, config, state, progress, frequencies
            )
            if isinstance(retriever.similarity, AlternatingSimilarity):
                losses |= _settle(retriever, retriever.similarity, batches, config, state.epoch)
            row = {
                "epoch": state.epoch, "seconds": time.perf_counter() - started, THREADS: threads, **losses
            }  # fmt: skip
            # The loss shows a step that diverged at the next step, and the last one has none.
            if wrong := not_finite(dict(retriever.named_parameters())):
                raise ValueError(
                    _diverged(f"{wrong} holds NaN or infinite numbers after epoch {state.epoch}")
                )
            if state.epoch % config.validate_every == 0 or state.epoch == config.epochs:
                retriever.eval()
                row |= measure(retriever, sequences, config)
                _judge(state, row[config.metric])
            state.history.append(row)
            if accelerator.is_main_process:
                for name, value in row.items():
                    if writer is not None and name not in ("epoch", THREADS):
                        writer.add_scalar(name, value, state.step)
                checkpoints.save(folder, retriever, optimizer, state, **kept)
            with _tracking():
                accelerator.log(_tracked(row), step=state.step)
            accelerator.wait_for_everyone()
            if progress and accelerator.is_main_process:
                _report(row, state, config)
    finally:
        if writer is not None:
            writer.close()
        for tracker in accelerator.trackers:  # `end_training` would end the process group too
            tracker.finish()
    if accelerator.is_main_process:
        chosen = Retriever.load(checkpoints.best(folder, state))
        chosen.save(folder, best_epoch=state.best_epoch, best={config.metric: state.best_metric}, **kept)
    accelerator.wait_for_everyone()
    best_metric = math.nan if state.best_metric is None else state.best_metric
    return Run(folder, pd.DataFrame(state.history), state.best_epoch, best_metric)


def _accelerator(
    device: torch.device, precision: str, trackers: Sequence[str | GeneralTracker] = ()
) -> Accelerator:
    """A fresh accelerator: accelerate keeps the first one's device and precision for the whole life of the process.

    Raises ValueError if several processes are to train on one GPU.
    """
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=not grouped)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if precision == "bf16" and device.type != "cpu" else "no",
        log_with=list(trackers) or None,
    )
    if device.type == "cuda" and device.index is not None and accelerator.num_processes > 1:
        raise ValueError(
            f"{accelerator.num_processes} processes cannot all train on {device}: give --device cuda, and each takes its own"
            " GPU (CUDA_VISIBLE_DEVICES lists them)"
        )
    return accelerator


@contextmanager
def _tracking() -> Iterator[None]:
    """OSError in a line if a tracker raises in the block: each has errors of its own."""
    try:
        yield
    except Exception as error:
        raise OSError(
            f"a tracker failed ({one_line(error)}); the same command without --tracker continues after the last epoch"
        ) from error


def _tracked(row: dict[str, int | float]) -> dict[str, int | float]:
    """An epoch's numbers as trackers take them: MLflow has no @ in names (HR@10 is HR_at_10), and no brackets."""
    names = {name: re.sub(r"[()]", "", name.replace("@", "_at_")) for name in row if name != "epoch"}
    return {plain: row[name] for name, plain in names.items()}


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings with dotted names, as trackers compare them; what is no number or truth value as text."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{above}{name}.")
        else:
            found[above + name] = value if isinstance(value, int | float) else str(value)
    return found


def _diverged(what: str) -> str:
    return f"{what}; lower the learning rate, or clip gradients. The states up to the last epoch are kept"


def _claim(folder: Path, described: dict[str, Any], replace_run: bool) -> None:
    """Mark `folder` as the home of this run, or check that it already is."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / TENSORBOARD).exists() and not (folder / TENSORBOARD).is_dir():
        raise ValueError(
            f"{folder / TENSORBOARD} is a file, and a run keeps the files of TensorBoard in such a folder; move it away,"
            " or choose another folder"
        )
    path = folder / RUN
    wanted = json.loads(json.dumps(described))
    if not path.exists():
        if (folder / CONFIG).exists() or checkpoints.epochs(folder):
            raise ValueError(
                f"{folder} holds a checkpoint but no {RUN}: not a run to resume; choose another folder"
            )
        files.write_text(json.dumps(wanted, indent=2) + "\n", path)
        return
    with reading(path, "choose another folder, or remove that one"):
        found = read_json(path, "choose another folder, or remove that one")
        for name, value in wanted.items():
            if type(found[name]) is not type(value):
                raise ValueError(f"its {name} is of another type")
        # Settings that were added since the run began have the values that it ran with: the defaults.
        found["training"] = json.loads(json.dumps(TrainingConfig.from_dict(found["training"]).to_dict()))
        found["retriever"] = json.loads(json.dumps(RetrieverConfig.from_dict(found["retriever"]).to_dict()))
        prolonged = found["training"]["epochs"] != wanted["training"]["epochs"]
        found["training"]["epochs"] = wanted["training"]["epochs"]  # a run may be prolonged
    if found != wanted and replace_run:
        files.check_folder(folder, _KIND, wanted, replace=True)
        files.remove(folder)
        _claim(folder, described, replace_run=False)
    elif found != wanted:
        differing = [
            f"{group}.{name}" if isinstance(wanted[group], dict) else group
            for group in wanted
            for name in (wanted[group] if isinstance(wanted[group], dict) else [group])
            if (found.get(group, {}).get(name) != wanted[group][name] if isinstance(wanted[group], dict)
                else found.get(group) != wanted[group])
        ]  # fmt: skip
        raise ValueError(
            f"{folder} holds a run with another {', '.join(differing)}; choose another folder, or remove that one"
        )
    elif prolonged and wanted["training"]["epochs"] >= max(checkpoints.epochs(folder), default=0):
        files.write_text(json.dumps(wanted, indent=2) + "\n", path)


def _exhausted(state: Progress, config: TrainingConfig) -> bool:
    return config.patience is not None and state.stale >= config.patience


def _judge(state: Progress, metric: float) -> None:
    if not math.isfinite(metric):
        raise ValueError(f"the validation metric of epoch {state.epoch} is {metric}; no state of it was kept")
    if state.best_metric is None or metric > state.best_metric:
        state.best_epoch, state.best_metric, state.stale = state.epoch, metric, 0
    else:
        state.stale += 1


def targets_of(
    batch: SequenceBatch, objective: str, config: TrainingConfig, max_length: int, generator: torch.Generator
) -> tuple[SequenceBatch, TrainingTargets]:
    """The input batch and the positions to train on, at most `positions_per_step` of them."""
    if objective == "masked item":
        batch, targets = masked_item(
            batch, config.mask_probability, generator, max_length, last_only=config.mask_last_only
        )
    elif config.horizon == "any later":
        targets = later_item(batch, generator)
    else:
        targets = next_item(batch)
    if config.positions_per_step is not None and len(targets) > config.positions_per_step:
        chosen = torch.randperm(len(targets), generator=generator)[: config.positions_per_step].sort().values
        chosen = chosen.to(targets.positions.device)
        targets = TrainingTargets(
            targets.positions[chosen], targets.target_ids[chosen], targets.user_ids[chosen]
        )
    return batch, targets


def _epoch(
    accelerator: Accelerator,
    step: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    steps: int,
    config: TrainingConfig,
    state: Progress,
    progress: bool,
    frequencies: Tensor | None,
) -> dict[str, float]:
    """One pass over the users. All of its randomness derives from (seed, epoch, process), so that it can be repeated."""
    retriever: Retriever = accelerator.unwrap_model(step).retriever
    epoch = state.epoch + 1
    seed = runtime.derived_seed(config.seed, epoch, accelerator.process_index)
    draws = runtime.generator(seed)
    sums: dict[str, float] = {}
    bar = tqdm(
        total=steps,
        desc=f"epoch {epoch}/{config.epochs}",
        disable=not (progress and accelerator.is_main_process and sys.stderr.isatty()),
        leave=False,
    )
    step.train()
    bf16 = runtime.bf16_products(config.precision == "bf16")
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())), bf16, bar:
        torch.manual_seed(seed)
        for number, cpu_batch in enumerate(batches.at(epoch)):
            if number == steps:
                break
            batch, targets = targets_of(
                cpu_batch.to(accelerator.device),
                retriever.encoder.objective,
                config,
                retriever.config.max_length,
                draws,
            )
            candidates = draw(config.loss, targets.target_ids, retriever.num_items, draws, frequencies)
            _set_rate(optimizer, config, state.step)
            with accelerator.autocast():
                losses = step(batch, targets, candidates)
            if not math.isfinite(losses.parts["loss"]):
                raise ValueError(
                    _diverged(f"the loss is {losses.parts['loss']} in epoch {epoch}, step {number + 1}")
                )
            accelerator.backward(losses.total)
            if config.clip_norm is not None:
                accelerator.clip_grad_norm_(step.parameters(), config.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
            state.step += 1
            for name, value in losses.parts.items():
                sums[name] = sums.get(name, 0.0) + value
            best = "" if state.best_metric is None else f"{config.metric} {state.best_metric:.4f}"
            bar.set_postfix_str(f"loss {sums['loss'] / (number + 1):.4f} {best}", refresh=False)
            bar.update()
    state.epoch = epoch
    return {name: value / steps for name, value in sums.items()}


def _frequencies(batches: Batches, retriever: Retriever, config: TrainingConfig) -> Tensor:
    """The share of each item (N + 1,) among the targets of one pass of all processes; at least that of one target."""
    draws = runtime.generator(runtime.derived_seed(config.seed, COUNTING))
    counts = torch.zeros(retriever.num_items + 1, dtype=torch.int64)
    for batch in replace(batches.at(1), rank=0, world=1):
        _, targets = targets_of(
            batch, retriever.encoder.objective, config, retriever.config.max_length, draws
        )
        counts += targets.target_ids.bincount(minlength=len(counts))
    return counts.clamp(min=1) / counts.sum()


def _settle(
    retriever: Retriever,
    similarity: AlternatingSimilarity,
    batches: Batches,
    config: TrainingConfig,
    epoch: int,
) -> dict[str, float]:
    """Let the similarity's other part learn from the training rows of all processes: each does all of it, and the same."""
    draws = runtime.generator(runtime.derived_seed(config.seed, epoch, SETTLING))

    def rows() -> Iterator[tuple[Tensor, Tensor]]:
        for cpu_batch in replace(batches.at(epoch), rank=0, world=1):
            batch, targets = targets_of(
                cpu_batch.to(retriever.device),
                retriever.encoder.objective,
                config,
                retriever.config.max_length,
                draws,
            )
            yield retriever(batch).flatten(0, 1).index_select(0, targets.positions), targets.target_ids

    retriever.eval()
    with torch.no_grad():
        return similarity.on_epoch_end(rows())


def _set_rate(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> None:
    share = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * share


def _report(row: dict[str, float], state: Progress, config: TrainingConfig) -> None:
    measured = f" · {config.metric} {row[config.metric]:.4f}" if config.metric in row else ""
    mark = " (best)" if state.best_epoch == row["epoch"] else ""
    left = (config.epochs - state.epoch) * sum(r["seconds"] for r in state.history) / len(state.history)
    print(
        f"epoch {state.epoch}/{config.epochs} · loss {row['loss']:.4f}{measured}{mark} · {row['seconds']:.1f} s"
        f" · about {left:.0f} s left",
        flush=True,
    )


def load_history(folder: Path) -> pd.DataFrame:
    """One row per finished epoch of the run in `folder`."""
    return pd.DataFrame(checkpoints.read_progress(folder).history)
