"""What a checkpoint stores of the data of its training, and how near other data are: the same, in the same order, with the
same ids. Published files come in copies whose times, and with them the order of ties, differ."""

from collections.abc import Mapping
from typing import Any

from workbench.data import Sequences

FINGERPRINT, ORDER, IDS = "fingerprint", "order", "ids"


def described(sequences: Sequences) -> dict[str, str]:
    """What `config.json` stores of the data of a training: their name, and digests of all, of the order, and of the ids."""
    return {
        "dataset": sequences.name,
        FINGERPRINT: sequences.fingerprint(),
        ORDER: sequences.order_fingerprint(),
        IDS: sequences.id_fingerprint(),
    }


def are_same(metadata: Mapping[str, Any], sequences: Sequences) -> bool:
    """Whether the data are those of the training that `metadata` describe; true if these do not say."""
    return metadata.get(FINGERPRINT) in (None, sequences.fingerprint())


def have_same_order(metadata: Mapping[str, Any], sequences: Sequences) -> bool:
    """Whether each user has the items of the training in the same order, so that no target was trained on; times may differ."""
    return are_same(metadata, sequences) or metadata.get(ORDER) == sequences.order_fingerprint()


def have_same_ids(metadata: Mapping[str, Any], sequences: Sequences) -> bool:
    """Whether rows of the model are the same items and users: what recommending and searching need."""
    return are_same(metadata, sequences) or metadata.get(IDS) == sequences.id_fingerprint()
