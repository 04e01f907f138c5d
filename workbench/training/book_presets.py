"""Settings for Book-Crossing, which has no order in time: the mean of a user's books behind each similarity, on equal terms."""

from workbench.encoders import TwoTowerConfig
from workbench.retriever import RetrieverConfig
from workbench.similarities import DotConfig, MaxSimConfig, MoLConfig, SimilarityConfig, SparCodeConfig
from workbench.similarities.sparcode.quantizer import QuantizerConfig
from workbench.training.config import TrainingConfig
from workbench.training.losses import LossConfig
from workbench.training.preset import Preset


def _books() -> dict[str, Preset]:
    """Minutes on one core: a linear tower on the mean of up to 50 books, drawn again in every epoch if a user has more, with
    any later book as target, so that the order in which books are stored hardly counts.

    The softmax is over the targets of a step and 256 uniform books, each corrected for its probability. Epochs, patience,
    learning rate and dropout are those of the dot product, chosen on validation targets among few. Scores are plain inner
    products over .1, with which the dot product learned faster than with cosines; an item has 64 floats, in the mixture four
    more.
    """
    encoder = TwoTowerConfig((), 0.5, last_item=False)
    training = TrainingConfig(
        epochs=24,
        batch_size=64,
        learning_rate=4e-3,
        loss=LossConfig(negatives="mixed", count=256, log_q=True, frequencies="stream"),
        positions_per_step=512,
        horizon="any later",
        window="anywhere",
        validate_every=6,
        patience=2,
    )
    similarities: dict[str, SimilarityConfig] = {
        "dot": DotConfig(normalize=False, temperature=0.1),
        "mol": MoLConfig(
            2, 2, 32, 0.1, query_hidden=128, normalize=False,
            gate_query=32, gate_item=32, gate_pair=None, gate_dropout=0.0,
        ),
        "maxsim": MaxSimConfig(2, 2, 32, 0.1, query_hidden=128, normalize=False),
        "sparcode": SparCodeConfig(
            2, 2, 64, "dot", dropout=0.0, threshold=12.0, aligned=True,
            quantizer=QuantizerConfig(2, 128, gradient="straight-through"),
        ),
    }  # fmt: skip
    names = {f"book-crossing/two-tower-{s}": similarity for s, similarity in similarities.items()}
    source = "one budget for all; learning rate and dropout were chosen for the dot product"
    return {
        name: Preset(name, "book-crossing", RetrieverConfig(encoder, similarity, 64, 50), training, source)
        for name, similarity in names.items()
    }


BOOKS: dict[str, Preset] = _books()
"""Every preset of this module by name."""
