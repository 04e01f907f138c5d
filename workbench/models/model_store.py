"""Finished retrievers in `ckpts/`: trained when they are missing, each with its measurements and a model card."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path
from typing import Any, Self

import pandas as pd

from workbench import files, paths
from workbench.data import CATALOG, Sequences
from workbench.evaluation.metrics import KS
from workbench.evaluation.protocol import STRICT, summarize
from workbench.evaluation.published import published
from workbench.evaluation.ranks import COLUMNS
from workbench.evaluation.retrievers import rank_users
from workbench.loading import read_csv, read_json, reading
from workbench.models import measurements, training_data
from workbench.models.cards import SHOWN, card
from workbench.models.catalogue import ITEMS, Catalogue
from workbench.registry import did_you_mean
from workbench.retriever import (
    CONFIG,
    OWN_KEYS,
    WEIGHTS,
    Retriever,
    RetrieverConfig,
    StoredDtype,
    read_metadata,
)
from workbench.training.config import TrainingConfig
from workbench.training.loop import THREADS, load_history, train
from workbench.training.presets import Preset
from workbench.training.presets import preset as preset_of
from workbench.training.warm_start import started_from

logger = logging.getLogger(__name__)

CARD, HISTORY, METRICS, RANKS = "README.md", "history.csv", "metrics.csv", "ranks.parquet"
HISTORY_COLUMNS = {"epoch": "int64", "seconds": "float64", "loss": "float64"}
METRIC_COLUMNS = {"metric": "str", "value": "float64", "low": "float64", "high": "float64", "users": "int64"}
RETRAIN = "restore it, or remove the folder and train again"


class StaleError(ValueError):
    """Stored measurements that belong to other weights, data or protocol than those at hand."""


@dataclass(frozen=True)
class TrainedModel:
    """A finished retriever: its folder and what is in it.

    `metadata` is the content of its `config.json`, `history` has one row per epoch, `metrics` one per metric (see
    `evaluation.protocol.summarize`). `measured_by` is the code that measured them, in words, empty if it is the one that
    runs now.
    """

    folder: Path
    metadata: dict[str, Any]
    history: pd.DataFrame
    metrics: pd.DataFrame
    measured_by: str = ""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `store_run` wrote to `folder`.

        Raises FileNotFoundError if it holds no measured checkpoint (but a run, say), ValueError if a file is damaged, and
        StaleError if its measurements belong to other weights.
        """
        metadata = read_metadata(folder)
        if lost := [name for name in (METRICS, HISTORY, WEIGHTS) if not (folder / name).is_file()]:
            raise FileNotFoundError(
                f"{folder} holds no {lost[0]}: not a finished checkpoint, but weights or a run that were not measured"
            )
        if unknown := sorted({"dataset", "fingerprint"} - metadata.keys()):
            raise ValueError(
                f"{folder / CONFIG} does not say what it was trained on ({', '.join(unknown)}); {RETRAIN}"
            )
        history = read_csv(folder / HISTORY, HISTORY_COLUMNS, RETRAIN)
        labels = dict.fromkeys((measurements.MEASURED_ON, measurements.MEASURED_BY), "str")
        metrics = read_csv(folder / METRICS, METRIC_COLUMNS, RETRAIN, labels)
        if not measurements.is_of(metrics, folder, metadata.get("fingerprint")):
            raise StaleError(
                f"{folder / METRICS} was measured on other weights, data or protocol than those of its folder; measure"
                f" them again with: workbench evaluate {folder} --store"
            )
        lacking = sorted(set(SHOWN) - set(metrics["metric"]))
        if lacking or metrics["metric"].duplicated().any():
            raise ValueError(
                f"{folder / METRICS} is damaged (it holds a metric twice, or lacks {', '.join(lacking) or 'none'}); {RETRAIN}"
            )
        values = metrics.drop(columns=[name for name in labels if name in metrics])
        return cls(folder, metadata, history, values, measurements.other_code(metrics))

    @property
    def threads(self) -> str:
        """The threads that it was trained with: "2", "1 and 2" if it was resumed with others, "unknown" if not recorded."""
        if THREADS not in self.history or self.history[THREADS].isna().any():
            return "unknown"
        return " and ".join(map(str, sorted(set(self.history[THREADS].astype(int)))))

    def retriever(self, device: str = "cpu") -> Retriever:
        """The retriever itself, in evaluation mode."""
        return Retriever.load(self.folder, device)

    def ranks(self, sequences: Sequences) -> pd.DataFrame:
        """The rank of every user's test item (see `evaluation.ranks.rank_table`), from disk or measured now and kept.

        The table reveals users' items: it is data, and is not shipped with a checkpoint.
        """
        path, fingerprint = self.folder / RANKS, sequences.fingerprint()
        if path.is_file():
            with reading(path, "remove it, and it is measured again"):
                ranks = pd.read_parquet(path)
                is_ours = measurements.is_of(ranks, self.folder, fingerprint)
                if is_ours and not measurements.other_code(ranks):
                    return ranks.astype(COLUMNS)[list(COLUMNS)]
            if not is_ours:
                logger.warning("%s was measured on other weights or data; measuring again", path)
        ranks = rank_users(self.retriever(), sequences, STRICT.on(sequences))
        try:
            with files.atomic_write(path) as temporary:
                measurements.labelled(ranks, self.folder, fingerprint).to_parquet(temporary, index=False)
        except OSError as error:  # in a folder that is read-only, say: they are measured each time
            logger.warning("ranks are not kept: %s", error)
        return ranks

    def by_this_code(self, sequences: Sequences) -> Self:
        """The same model, its metrics on these data by the code that runs now: the stored ones, or measured again and not
        stored."""
        is_copy = not training_data.are_same(self.metadata, sequences)
        if not (self.measured_by or is_copy):
            return self
        why = "on a copy of these data with other times" if is_copy else f"by {self.measured_by}"
        logger.info("the metrics of %s were measured %s; measuring again", self.folder, why)
        return changed(
            self, metrics=summarize(self.ranks(sequences), STRICT.on(sequences), KS), measured_by=""
        )


def name_of(preset: Preset, sequences: Sequences) -> str:
    """The folder name of a preset trained on a dataset: `ml-1m-cpu-hstu-mol`. Raises ValueError if it is no fit name."""
    return _name(preset, sequences.name)


def folder_of(checkpoint: str | Path) -> Path:
    """The folder of a checkpoint, given by its folder or by its name in `ckpts/`.

    Raises FileNotFoundError if there is none; the message has the new name if the checkpoint was renamed.
    """
    given = Path(checkpoint)
    for folder in (given, paths.checkpoints() / given):
        if (files.recover(folder) / CONFIG).is_file():
            return folder
    names = []
    for config in paths.checkpoints().glob(f"[!.]*/{CONFIG}"):
        names.append(config.parent.name)
        with suppress(ValueError):
            metadata = read_metadata(config.parent)
            if given.name == f"{metadata.get('dataset')}-{str(metadata.get('preset')).rpartition('/')[2]}":
                raise FileNotFoundError(f"the checkpoint {given.name} was renamed to {config.parent.name}")
    raise FileNotFoundError(
        f"{given} is neither the folder of a checkpoint (with {CONFIG}) nor a name in {paths.checkpoints()}"
        f"{did_you_mean(given.name, names) or _there_are(names)}"
    )


def _there_are(names: Sequence[str], most: int = 30) -> str:
    """The end of a message on an unknown checkpoint: the names of those that are there."""
    if not names:
        return ", which holds none yet: `workbench train` trains one"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"; there are {', '.join(sorted(names)[:most])}{more}"


def is_trained(preset: Preset, dataset: str) -> bool:
    """Whether the folder of a preset on a dataset holds a measured checkpoint of it (see `name_of`)."""
    folder = paths.checkpoints() / _name(preset, dataset)
    try:
        return (folder / METRICS).is_file() and read_metadata(folder).get("preset") == preset.name
    except (ValueError, OSError):
        return False


def _name(preset: Preset, dataset: str) -> str:
    return files.check_name(f"{dataset}-{preset.name.replace('/', '-')}", "a checkpoint")


def load_or_train(
    preset: Preset,
    sequences: Sequences,
    *,
    seed: int = 0,
    metadata: dict[str, Any] | None = None,
    device: str | None = None,
    progress: bool = True,
) -> TrainedModel:
    """The measured retriever of a preset on a dataset: loaded from `ckpts/` if there is a match, else trained now.

    A model trained on other data, with another seed or with other settings does not match; it is left unchanged, and the new
    one gets another name. An interrupted training resumes. The metrics are by the code that runs now (see `find_trained`).
    """
    training = changed(preset.training, seed=seed)
    if found := find_trained(preset, sequences, seed=seed):
        return found
    own = _own_folder(preset, sequences, seed)
    check_place(own, sequences, preset.retriever, training)
    run = run_folder(own)
    start = starting_model(preset.retriever, training, sequences, metadata=metadata, device=device)
    if progress:
        unfit = _of_other_data(preset, sequences, seed)
        print(f"training {preset.name} on {sequences.name}, seed {seed}{unfit}", flush=True)
    train(
        sequences, preset.retriever, training, run, device=device, progress=progress, start=start,
        metadata={"preset": preset.name, "source": preset.source, **(metadata or {})},
    )  # fmt: skip
    return store_run(run, own, sequences, progress=progress)


def starting_model(
    config: RetrieverConfig,
    training: TrainingConfig,
    sequences: Sequences,
    *,
    metadata: dict[str, Any] | None = None,
    device: str | None = None,
) -> Retriever | None:
    """What a training with these settings starts from: the model of its `warm_start`, trained if it is missing; None if the
    weights are random. Raises ValueError if there is no such preset, or its model does not fit."""
    if training.warm_start is None:
        return None
    base = preset_of(training.warm_start)
    trained = load_or_train(base, sequences, seed=training.seed, metadata=metadata, device=device)
    return started_from(trained.retriever(), config, sequences, training, training.seed)


def find_trained(preset: Preset, sequences: Sequences, *, seed: int = 0) -> TrainedModel | None:
    """The retriever that `load_or_train` would take from `ckpts/`; None if it would have to train.

    Settings, data and seed decide, whatever the folder is called; an incomplete or damaged folder counts as absent. Data whose
    times or ratings differ from those of the training, and nothing else, will do: a warning says so.
    Metrics of other code or such a copy are measured again and not stored: `measure_again` does that.
    """
    folder = find_folder(preset, sequences, seed=seed)
    if folder is None:
        return None
    is_copy = not training_data.are_same(read_metadata(folder), sequences)
    if is_copy:
        logger.warning(
            "%s was trained on a copy of %s whose times or ratings differ; its metrics are measured on yours",
            folder,
            sequences.name,
        )
    try:
        return TrainedModel.load(folder).by_this_code(sequences)
    except StaleError as error:
        if is_copy:  # what would be stored with it are measurements on the data of its training
            return None
        logger.warning("%s; measuring again", error)
        return measure_again(folder, sequences)


def find_folder(preset: Preset, sequences: Sequences, *, seed: int = 0) -> Path | None:
    """The folder of the retriever that `find_trained` returns; None if there is none. Nothing is measured."""
    wanted, folders = _wanted(preset, sequences, seed), _folders(preset, sequences, seed)
    for folder in folders:
        if _fits(folder, wanted):
            return folder
    for folder in folders:
        metadata = _trained_elsewhere(folder, wanted)
        if metadata is not None and training_data.have_same_order(metadata, sequences):
            return folder
    return None


def _folders(preset: Preset, sequences: Sequences, seed: int) -> list[Path]:
    """Where a checkpoint of a preset on a dataset may be, the usual places first."""
    usual = (paths.checkpoints() / name_of(preset, sequences), _own_folder(preset, sequences, seed))
    others = sorted(config.parent for config in paths.checkpoints().glob(f"[!.]*/{CONFIG}"))
    return [files.recover(folder) for folder in (*usual, *others)]


def check_place(
    folder: Path,
    sequences: Sequences,
    retriever: RetrieverConfig,
    training: TrainingConfig,
    *,
    replace: bool = False,
) -> str:
    """What a training of a preset with these settings would replace in `folder`, in words (see `files.check_folder`)."""
    settings = _settings(sequences.fingerprint(), retriever, training, None)
    return files.check_folder(folder, CHECKPOINT, settings, replace=replace)


def check_model(
    folder: Path, metadata: dict[str, Any], config: RetrieverConfig, *, replace: bool = False
) -> dict[str, Any]:
    """The settings of a model with these metadata, if `store_model` may write it to `folder`; ValueError otherwise."""
    settings = _settings_in(metadata | {"retriever": config.to_dict()})
    files.check_folder(folder, CHECKPOINT, settings, replace=replace)
    return settings


def run_folder(folder: Path) -> Path:
    """Where the training that ends in `folder` keeps its states: `ckpts/runs/NAME`, for a folder elsewhere with a digest."""
    whole = Path(os.path.realpath(folder))
    name = whole.name
    if whole.parent != Path(os.path.realpath(paths.checkpoints())):
        name += f"-{hashlib.sha256(str(whole).encode()).hexdigest()[:8]}"
    return paths.checkpoints() / "runs" / name


def store_run(
    run: Path, folder: Path, sequences: Sequences, *, progress: bool = False, replace: bool = False
) -> TrainedModel:
    """Measure the finished run in `run` on the test part and write it to `folder`, as `store_model` does."""
    retriever, metadata, history = Retriever.load(run), _own_metadata(run), load_history(run)
    return store_model(retriever, metadata, history, folder, sequences, progress=progress, replace=replace)


def store_weights(
    retriever: Retriever,
    checkpoint: Path,
    folder: Path,
    sequences: Sequences | None = None,
    *,
    replace: bool = False,
) -> str:
    """Write a retriever imported from the file `checkpoint` to `folder`, unmeasured; what it replaced, in words.

    `sequences`: the dataset whose ids its rows have; `evaluate` then needs no other.
    Raises ValueError as `files.check_folder` does.
    """
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    metadata: dict[str, Any] = {"source": f"imported from {checkpoint.name} (SHA-256 {digest}…)"}
    if sequences is not None:
        metadata |= training_data.described(sequences)
    settings = _settings_in(metadata | {"retriever": retriever.config.to_dict()})
    replaced = files.check_folder(folder, CHECKPOINT, settings, replace=replace)
    with files.new_folder(folder, CHECKPOINT, settings, sources=[checkpoint], replace=replace) as new:
        retriever.save(new, **metadata)
    return replaced


def measure_again(folder: Path, sequences: Sequences, *, progress: bool = False) -> TrainedModel:
    """Measure the checkpoint in `folder` on the test part and store its metrics, ranks and card again."""
    retriever, history = Retriever.load(folder), pd.read_csv(folder / HISTORY)
    return store_model(retriever, _own_metadata(folder), history, folder, sequences, progress=progress)


def halve(
    folder: Path, sequences: Sequences, dtype: StoredDtype = "float16", *, progress: bool = False
) -> TrainedModel:
    """Store the checkpoint in `folder` in half precision; its card keeps its origin, and states it.

    Raises ValueError, and changes nothing, if one of the metrics in `SHOWN` is not the same to four digits, or a weight is too
    large for `dtype`.
    """
    model = TrainedModel.load(folder)
    if not training_data.are_same(model.metadata, sequences):
        raise ValueError(
            f"{folder} was trained on other data than the {sequences.name} that is prepared here"
        )
    model = model.by_this_code(sequences)
    metadata = _own_metadata(folder) | {"stored_dtype": dtype}
    with tempfile.TemporaryDirectory() as rounded:
        model.retriever().save(Path(rounded), stored_dtype=dtype)
        retriever = Retriever.load(rounded)
    rules = STRICT.on(sequences)
    measured = summarize(rank_users(retriever, sequences, rules, progress=progress), rules, KS)
    values = [table.set_index("metric")["value"][list(SHOWN)].round(4) for table in (model.metrics, measured)]
    if moved := [f"{m} from {a:.4f} to {b:.4f}" for m, a, b in zip(SHOWN, *values, strict=True) if a != b]:
        raise ValueError(f"{folder} stays as it is: in {dtype} its {', '.join(moved)} would change")
    return store_model(retriever, metadata, model.history, folder, sequences, progress=progress)


def _own_metadata(folder: Path) -> dict[str, Any]:
    return {k: v for k, v in read_metadata(folder).items() if k not in OWN_KEYS}


def store_model(
    retriever: Retriever,
    metadata: dict[str, Any],
    history: pd.DataFrame,
    folder: Path,
    sequences: Sequences,
    *,
    progress: bool = False,
    replace: bool = False,
) -> TrainedModel:
    """Measure a retriever on the test part and write it to `folder`: weights, metrics, ranks, history, model card.

    `metadata` and `history` are those of its training, on `sequences`. Raises ValueError, before it measures, if `folder` holds
    something else than a checkpoint of the same settings (`replace`: than a checkpoint).
    """
    settings = check_model(folder, metadata, retriever.config, replace=replace)
    metadata = metadata | training_data.described(sequences)
    rules = STRICT.on(sequences)
    ranks = rank_users(retriever, sequences, rules, progress=progress)
    metrics = summarize(ranks, rules, KS)
    with files.new_folder(folder, CHECKPOINT, settings, replace=replace) as new:
        retriever.save(new, **metadata)
        ranks, metrics = (measurements.labelled(t, new, sequences.fingerprint()) for t in (ranks, metrics))
        history.to_csv(new / HISTORY, index=False)
        ranks.to_parquet(new / RANKS, index=False)
        metrics.to_csv(new / METRICS, index=False)
        if sequences.name not in CATALOG:  # their licences forbid redistribution of the item tables
            Catalogue.of(sequences).save(new)
        stored = metadata | {"retriever": retriever.config.to_dict()}
        (new / CARD).write_text(card(folder.name, stored, history, metrics, sequences), encoding="utf-8")
    return TrainedModel.load(folder)


PUBLISHED_TABLE = "RAILS v4 (arXiv 2407.15462v4) Table 3"


def with_published(models: Sequence[TrainedModel]) -> pd.DataFrame:
    """Measured rows above published ones: `model`, `whose`, then a column per metric of `SHOWN` (text, "" if there is none).

    A measured value is followed by the half-width of its 95 % interval. Raises ValueError if the retrievers were trained on
    different data.
    """
    data = {model.metadata.get("fingerprint") for model in models}
    if len(data) != 1:
        raise ValueError("these checkpoints were trained on different data: their metrics are not comparable")
    rows: list[dict[str, str]] = []
    for s in models:
        measured = s.metrics.assign(half=(s.metrics["high"] - s.metrics["low"]) / 2).set_index("metric")
        cells = {m: f"{measured['value'][m]:.4f} ± {measured['half'][m]:.4f}" for m in SHOWN}
        rows.append({"model": s.folder.name, "whose": f"here, {len(s.history)} epochs"} | cells)
    theirs = published(models[0].metadata["dataset"], source=PUBLISHED_TABLE)
    for method, found in theirs.groupby("method", sort=False):
        values = found.set_index("metric")["value"]
        rows.append(
            {"model": str(method), "whose": "published"}
            | {m: f"{values[m]:.4f}" if m in values else "" for m in SHOWN}
        )
    return pd.DataFrame(rows, columns=["model", "whose", *SHOWN])


def _wanted(preset: Preset, sequences: Sequences, seed: int) -> dict[str, Any]:
    training = changed(preset.training, seed=seed)
    return _settings(sequences.fingerprint(), preset.retriever, training, None)


def _own_folder(preset: Preset, sequences: Sequences, seed: int) -> Path:
    text = json.dumps(_wanted(preset, sequences, seed), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return paths.checkpoints() / f"{name_of(preset, sequences)}-seed{seed}-{digest}"


def _settings(
    fingerprint: str | None, retriever: RetrieverConfig, training: TrainingConfig | None, source: str | None
) -> dict[str, Any]:
    """What decides the weights of a checkpoint, as plain JSON."""
    trained = None if training is None else training.to_dict()
    settings = {
        "fingerprint": fingerprint,
        "retriever": retriever.to_dict(),
        "training": trained,
        "source": source,
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _settings_in(metadata: dict[str, Any]) -> dict[str, Any]:
    """The settings that a `config.json` holds; those added since are at their defaults. Raises ValueError."""
    try:
        training = metadata.get("training")
        return _settings(
            metadata.get("fingerprint"),
            RetrieverConfig.from_dict(metadata["retriever"]),
            None if training is None else TrainingConfig.from_dict(training),
            None if "preset" in metadata else metadata.get("source"),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no settings of a retriever ({error!r})") from error


def _settings_of(folder: Path) -> dict[str, Any] | None:
    path = folder / CONFIG
    if not path.is_file() or "retriever" not in read_json(
        path, RETRAIN
    ):  # or it is the model of another program
        return None
    return _settings_in(read_metadata(folder))


CHECKPOINT = files.Kind(
    "checkpoint", (WEIGHTS, CONFIG, CARD, HISTORY, METRICS, RANKS, ITEMS, "index.safetensors"), _settings_of
)


def _fits(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether a folder holds a whole checkpoint of these settings."""
    if not all((folder / name).is_file() for name in (WEIGHTS, CONFIG, HISTORY, METRICS)):
        return False
    try:
        return _settings_of(folder) == wanted
    except (ValueError, OSError):
        return False


def _trained_elsewhere(folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The metadata of a whole checkpoint of these settings, whatever it was trained on; None if the folder holds none."""
    try:
        metadata = read_metadata(folder)
    except (ValueError, OSError):
        return None
    fingerprint = metadata.get("fingerprint")  # none with weights that were imported: their data are unknown
    return metadata if fingerprint and _fits(folder, wanted | {"fingerprint": fingerprint}) else None


def _of_other_data(preset: Preset, sequences: Sequences, seed: int) -> str:
    """Why a trained checkpoint is not used, if its data have the name of these and another order; to append."""
    wanted = _wanted(preset, sequences, seed)
    for folder in _folders(preset, sequences, seed):
        metadata = _trained_elsewhere(folder, wanted)
        if metadata is not None and metadata.get("dataset") == sequences.name:
            return f" ({folder} was trained on another {sequences.name}: users have other items, or in another order)"
    return ""


def identity(checkpoint: str | Path) -> str:
    """A digest of a checkpoint's weights and configuration, the data of its training and the strict protocol."""
    folder = folder_of(checkpoint)
    return measurements.digest(folder, read_metadata(folder).get("fingerprint"))
