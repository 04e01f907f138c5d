"""Deep Retrieval's settings: paths for corpora of hundreds and of thousands of items, and its paper's own protocol."""

from dataclasses import replace

from workbench.encoders import GRU4RecConfig, SASRecConfig, TwoTowerConfig
from workbench.retriever import RetrieverConfig
from workbench.similarities import DeepRetrievalConfig, DotConfig
from workbench.training.config import TrainingConfig
from workbench.training.losses import LossConfig
from workbench.training.preset import Preset

PATHS_OF_HUNDREDS = DeepRetrievalConfig(
    depth=3,
    width=6,
    paths=2,
    node_dim=8,
    hidden=32,
    alpha=1e-2,
    candidates=40,
    candidate_beam=64,
    beam=16,
    rows=20_000,
    decay=0.5,
    normalize=False,
    temperature=1.0,
)
"""Deep Retrieval for the embedded dataset, with the plain dot product that does best on it."""

PATHS_OF_THOUSANDS = DeepRetrievalConfig(
    depth=3,
    width=10,
    paths=3,
    node_dim=16,
    hidden=64,
    alpha=1e-2,
    candidates=64,
    candidate_beam=256,
    beam=25,
    rows=30_000,
    decay=0.5,
)
"""Deep Retrieval for a few thousand items. A thousand paths and not the paper's 125,000, so that each holds a dozen items as
there; wide beams in the M-step, since in narrow ones all users begin with the same few paths and keep them."""


def _halves() -> dict[str, Preset]:
    """MovieLens 1M under the paper's protocol (see `evaluation.held_out_users`), histories of 69 items, no user id, a softmax
    over all items. "gru4rec-…" is the paper's: output vectors of their own, structure and reranker together, then the
    reranker alone; "sasrec-…" the same with another encoder and cosines, and fewer epochs: it learns faster. "youtube-dnn"
    is the mean of the history through an MLP.
    """
    source = (
        "the paper's MovieLens 20M settings, made smaller;"
        " encoder (of four), epochs and size of the index chosen on validation users"
    )
    training = TrainingConfig(
        epochs=24,
        batch_size=32,
        learning_rate=5e-3,
        loss=LossConfig(kind="full softmax"),
        positions_per_step=1024,
        horizon="any later",
        validate_every=3,
    )
    shorter = replace(training, epochs=12, learning_rate=2e-3, validate_every=2)
    plain = DotConfig(normalize=False, temperature=1.0)
    paths = replace(PATHS_OF_THOUSANDS, normalize=False, temperature=1.0, output_table=True, joint_epochs=20)
    runs = {
        "gru4rec-deep-retrieval": (RetrieverConfig(GRU4RecConfig(128, 1, 0.2), paths, 64, 69), training),
        "sasrec-deep-retrieval": (
            RetrieverConfig(SASRecConfig(2, 1, 64, 0.2), PATHS_OF_THOUSANDS, 64, 69),
            shorter,
        ),
        "youtube-dnn": (
            RetrieverConfig(TwoTowerConfig((128, 64), 0.2, last_item=False), plain, 64, 69),
            replace(shorter, learning_rate=1e-2),
        ),
    }
    return {
        f"halves/{name}": Preset(f"halves/{name}", "ml-1m", config, chosen, source)
        for name, (config, chosen) in runs.items()
    }


def _published() -> dict[str, Preset]:
    """Grid, paths, beam and penalty of the paper's MovieLens 20M and Amazon Books runs, histories of 69 items and a GRU.

    Two epochs of everything, two of the reranker alone. It leaves open the widths, the batch, the rate and how many
    negatives the reranker sees.
    """
    grids = {
        "ml-20m": DeepRetrievalConfig(depth=3, width=50, paths=3, beam=25, alpha=3e-5),
        "amazon-books": DeepRetrievalConfig(depth=3, width=100, paths=3, beam=50, alpha=3e-7),
    }
    source = "the paper's grid, number of paths, beam, penalty, history and epochs; widths and rate are ours"
    training = TrainingConfig(epochs=4, loss=LossConfig(negatives="shared", count=2048), horizon="any later")
    presets = {}
    for dataset, grid in grids.items():
        name = f"halves-{dataset}/gru4rec-deep-retrieval"
        reranked = replace(grid, normalize=False, temperature=1.0, output_table=True, joint_epochs=2)
        config = RetrieverConfig(GRU4RecConfig(128, 1, 0.2), reranked, 64, 69)
        presets[name] = Preset(name, dataset, config, training, source)
    return presets


HALVES = _halves() | _published()
