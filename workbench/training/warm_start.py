"""A training that starts from another trained model: its weights, and codebooks by k-means if it has none."""

from workbench.data import Sequences
from workbench.retriever import Retriever, RetrieverConfig
from workbench.runtime import derived_seed, generator
from workbench.similarities import SparCode
from workbench.training.config import TrainingConfig
from workbench.training.rows import training_rows

ROWS = 20_000
"""Training positions whose query tokens k-means sees: about 150 tokens per codeword."""


def started_from(
    base: Retriever, config: RetrieverConfig, sequences: Sequences, training: TrainingConfig, seed: int = 0
) -> Retriever:
    """A retriever of `config` with all weights of `base`, in evaluation mode.

    A SparCode with a quantizer takes those of All-to-All, and codebooks that are the k-means of its query tokens at training
    positions, `training` deciding which those are. Nothing else may differ.
    Raises ValueError if `base` has another encoder, width or similarity.
    """
    made = Retriever(config, base.num_items, seed)
    own, given = made.state_dict(), base.state_dict()
    missing = {name for name in own if name not in given and not name.startswith("similarity.quantizer.")}
    if missing or any(name not in own or own[name].shape != value.shape for name, value in given.items()):
        raise ValueError(
            "a training starts from a model of the same encoder, width and similarity, but for codes:"
            f" {base.config} does not fit {config}"
        )
    made.eval().load_state_dict(own | given)
    fitted = isinstance(made.similarity, SparCode) and "similarity.quantizer.codewords" not in given
    if fitted and isinstance(made.similarity, SparCode):
        queries, _ = training_rows(base.eval(), sequences, training, ROWS, seed)
        made.similarity.fit_codebooks(queries, generator(derived_seed(seed, 1)))
    return made
