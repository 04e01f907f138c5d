"""Paths for a retriever that is already trained: the structure model and its assignment learned on its frozen queries.

Joint training lets the structure shape the queries (see `loop`); this leaves them alone, and so compares depths, numbers of
paths and penalties on the very same reranker, in a fraction of the time.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.data import Sequences
from workbench.models import training_data
from workbench.models.model_store import TrainedModel, check_model, store_model
from workbench.retriever import OWN_KEYS, Retriever
from workbench.runtime import derived_seed, generator, stopwatch
from workbench.similarities import DeepRetrieval, DeepRetrievalConfig, DotProduct
from workbench.studies.residual_paths import fit_residual
from workbench.training.config import TrainingConfig
from workbench.training.rows import training_rows


@dataclass(frozen=True)
class PathFit:
    """`rounds` of a pass over at most `rows` training rows in batches of `batch_size` (Adam, `learning_rate`) and an M-step."""

    rounds: int = 8
    rows: int = 250_000
    batch_size: int = 1024
    learning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rounds, self.rows, self.batch_size) < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"rounds, rows and batch_size must be at least 1, learning_rate positive: {self}"
            )


def with_paths(base: Retriever, config: DeepRetrievalConfig, seed: int = 0) -> Retriever:
    """A retriever with the encoder, the items and the reranker of `base`, and an untrained structure and paths.

    The reranker normalises as in `base`, regardless of `config`. Raises ValueError if the similarity of `base` is neither a
    dot product without users nor Deep Retrieval.
    """
    match base.similarity:
        case DotProduct(users=None) as dot:
            own = replace(
                config, normalize=dot.config.normalize, temperature=dot.config.temperature,
                output_table=False, joint_epochs=None,
            )  # fmt: skip
        case DeepRetrieval() as paths:
            kept = paths.config
            own = replace(
                config, normalize=kept.normalize, temperature=kept.temperature,
                output_table=kept.output_table, joint_epochs=None,
            )  # fmt: skip
        case other:
            users = " with users" if isinstance(other, DotProduct) else ""
            raise ValueError(f"paths are reranked by a dot product, not by {type(other).__name__}{users}")
    made = Retriever(replace(base.config, similarity=own), base.num_items, seed)
    shared = {
        name: value
        for name, value in base.state_dict().items()
        if not name.startswith("similarity.") or name.startswith("similarity.output.")
    }
    made.load_state_dict(made.state_dict() | shared)
    return made.eval()


def fit_paths(
    base: Retriever,
    sequences: Sequences,
    training: TrainingConfig,
    config: DeepRetrievalConfig,
    fit: PathFit | None = None,
) -> tuple[Retriever, pd.DataFrame]:
    """`base` with paths, and a row per round: `round`, `structure` (the loss), the figures of `assignment.describe`, `seconds`.

    `training` decides which positions predict what, as in the run that trained `base`. The same seed gives the same paths.
    """
    fit = fit or PathFit()
    return learned_paths(base, training_rows(base, sequences, training, fit.rows, fit.seed), config, fit)


def learned_paths(
    base: Retriever,
    rows: tuple[Float[Tensor, "T D"], Int[Tensor, "T"]],
    config: DeepRetrievalConfig,
    fit: PathFit,
) -> tuple[Retriever, pd.DataFrame]:
    """As `fit_paths`, from queries of `base` and the items that they chose."""
    made = with_paths(base, config, fit.seed)
    model = made.similarity
    assert isinstance(model, DeepRetrieval)
    queries, ids = rows
    optimizer = torch.optim.Adam(model.structure.parameters(), fit.learning_rate)
    history = []
    for number in range(1, fit.rounds + 1):
        with stopwatch(queries.device) as watch:
            order = torch.randperm(len(ids), generator=generator(derived_seed(fit.seed, number)))
            model.on_epoch_start(number)
            total = 0.0
            for rows in order.split(fit.batch_size):
                log_probs = model.structure.log_probs(queries[rows], model.paths[ids[rows]])
                loss = -log_probs.logsumexp(1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                model.on_batch(queries[rows], ids[rows])
                total += float(loss.detach()) * len(rows)
            measured = model.on_epoch_end([(queries[order], ids[order])])
        history.append({"round": number, "structure": total / len(ids), **measured, "seconds": watch.seconds})
    return made.eval(), pd.DataFrame(history)


def residual_paths(
    base: Retriever,
    rows: tuple[Float[Tensor, "T D"], Int[Tensor, "T"]],
    config: DeepRetrievalConfig,
    seed: int = 0,
) -> Retriever:
    """`base` with the residual k-means of its queries as a structure model (see `fit_residual`), and one M-step.

    The widths of the structure model follow from the queries, regardless of `config`.
    """
    queries, ids = rows
    dim = queries.shape[1]
    made = with_paths(base, replace(config, node_dim=dim, hidden=2 * dim), seed)
    model = made.similarity
    assert isinstance(model, DeepRetrieval)
    fit_residual(model.structure, queries, generator(derived_seed(seed, 0)))
    model.on_epoch_start(1)
    model.on_epoch_end([(queries, ids)])
    return made


def store_paths(
    base: TrainedModel,
    sequences: Sequences,
    config: DeepRetrievalConfig,
    folder: Path,
    fit: PathFit | None = None,
    metadata: dict[str, Any] | None = None,
) -> TrainedModel:
    """Fit paths to a trained retriever, measure them on the test part, and write a checkpoint with its card to `folder`.

    Raises ValueError, before it fits, if the retriever was trained on other data, or `folder` holds anything else.
    """
    fit = fit or PathFit()
    if not training_data.are_same(base.metadata, sequences):
        raise ValueError(f"{base.folder} was trained on other data than {sequences.name} here holds")
    kept = {k: v for k, v in base.metadata.items() if k not in (*OWN_KEYS, "best", "preset", "stored_dtype")}
    source = (
        f"paths fitted to the frozen queries of {base.folder.name}, whose encoder and items these are: {fit}"
    )
    own = kept | {"source": source, "best_epoch": fit.rounds} | (metadata or {})
    retriever = base.retriever()
    check_model(folder, own, with_paths(retriever, config, fit.seed).config)
    made, history = fit_paths(
        retriever, sequences, TrainingConfig.from_dict(base.metadata["training"]), config, fit
    )
    by_epoch = history.rename(columns={"round": "epoch", "structure": "loss"})
    return store_model(made, own, by_epoch, folder, sequences)
