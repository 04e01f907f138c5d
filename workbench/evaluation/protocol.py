"""Evaluation protocols as values that are stored with the results, and tables of metrics with intervals."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from workbench.contracts import SequenceBatch
from workbench.data.sequences import Sequences, Split, Ties
from workbench.evaluation.bootstrap import LEVEL, RESAMPLES, intervals
from workbench.evaluation.metrics import KS, per_user

Exclude = Callable[[SequenceBatch], Tensor | None]

EXCLUDED_TARGETS = "excluded targets"
"""The label of the share of users whose target is excluded by their history mask: no model can find these."""

MEANINGS: dict[str, dict[object, str]] = {
    "split": {
        "leave-one-out": "each user's interactions in time order; one of the last is the target",
        "temporal": "the target is a user's first interaction of a period; training ends before the periods of targets begin",
    },
    "part": {
        "test": "the target is the last interaction, or the first of the last period",
        "validation": "the target is the interaction before the last, or the first of the period before; later ones stay out",
    },
    "history_mask": {
        "none": "every item is a candidate, those of the history too",
        "window": "the items that the model was given as history are no candidates",
        "all": "the items of the user's whole history are no candidates",
    },
    "corpus": {
        "catalogue": "candidates are all rows of the item table, rated or not",
        "rated": "candidates are the items with at least one interaction in the data",
    },
    "request_time": {
        True: "the encoder is given the time of the target interaction",
        False: "the encoder sees no time after the last interaction of the history",
    },
    "ties": {
        "source": "interactions of one user at the same time stand as in the source",
        "pandas": "interactions of one user at the same time stand as pandas' default sort, which is not stable, leaves them",
        "shuffled": "interactions of one user at the same time stand in a random order",
    },
    "model_choice": {
        "validation": "epoch and settings were chosen on the validation targets",
        "test": "the epoch was chosen on the test targets themselves: an optimistic figure",
    },
}
"""The meaning of each setting of a protocol, for its card."""


@dataclass(frozen=True)
class Protocol:
    """How targets, candidates and models were chosen. `MEANINGS` explains every value.

    `history_mask` decides which items are excluded from the candidates; a target that occurs in the masked history can never
    be hit, and the share of such users is part of every summary. `request_time` is whether the encoder sees the target's
    timestamp. `split` and `ties` belong to the data (`workbench data prepare --split --ties`); `on` takes them from there.
    Raises ValueError if a setting is not one of its known values.
    """

    name: str
    split: Split = "leave-one-out"
    part: Literal["validation", "test"] = "test"
    history_mask: Literal["none", "window", "all"] = "all"
    corpus: Literal["catalogue", "rated"] = "catalogue"
    request_time: bool = False
    model_choice: Literal["validation", "test"] = "validation"
    ties: Ties = "source"

    def __post_init__(self) -> None:
        for setting, meanings in MEANINGS.items():
            value = getattr(self, setting)
            if value not in meanings:
                known = ", ".join(map(repr, meanings))
                raise ValueError(f"{setting} of protocol {self.name!r} must be one of {known}, not {value!r}")

    def on(self, sequences: Sequences) -> Self:
        """The same protocol on data of another split, or whose ties stand in an order of their own."""
        return replace(self, split=sequences.split, ties=sequences.ties)

    def card(self) -> pd.DataFrame:
        """One row per setting: `setting`, `value`, `meaning`; printed with every result."""
        settings = {k: v for k, v in asdict(self).items() if k != "name"}
        return pd.DataFrame(
            {
                "setting": [setting.replace("_", " ") for setting in settings],
                "value": [
                    {True: "visible", False: "hidden"}.get(value, value) for value in settings.values()
                ],
                "meaning": [MEANINGS[setting][value] for setting, value in settings.items()],
            }
        )

    def chosen_on(self, part: Literal["validation", "test"]) -> "Protocol":
        """This protocol, saying so in its name if a model's epoch was chosen on another part than it requires.

        >>> STRICT.chosen_on("test").name
        'strict but for the choice of the epoch'
        """
        if part == self.model_choice:
            return self
        return replace(self, name=f"{self.name} but for the choice of the epoch", model_choice=part)

    def __str__(self) -> str:
        """The card in one line."""
        time = "visible" if self.request_time else "hidden"
        ties = {"source": "", "pandas": ", ties as pandas sorts them", "shuffled": ", ties shuffled"}[
            self.ties
        ]
        return (
            f"{self.name}: {self.split}, {self.part} targets, history mask {self.history_mask}, corpus {self.corpus},"
            f" target time {time}, model chosen on {self.model_choice}{ties}"
        )

    def exclude(self, whole_history: Exclude) -> Exclude:
        """A function that returns the item ids (B, H) to exclude from the candidates of a batch, or None.

        `whole_history` gives all items before the target, however long ago, padded with 0; used only if the mask is "all".
        """
        match self.history_mask:
            case "none":
                return lambda batch: None
            case "window":
                return lambda batch: batch.item_ids
            case "all":
                return whole_history


STRICT = Protocol("strict")
"""The protocol for numbers of our own.

- History mask "all": what may be recommended must not depend on how long a history the model reads. With "window", a model of a
  shorter window faces more candidates, among them items the user is done with, so two encoders would be compared on different
  tasks; with "none", most of the top of the list is what was just seen. Where users do return to items the mask makes their
  targets unreachable: `excluded targets` is their share, which is 0 on MovieLens, where nobody rates twice.
- Corpus "catalogue": which items will be rated at all is known only from the held-out data.
- Request time hidden: a server knows what time it is, but in a log the request is observed only because the target was chosen
  at that moment. MovieLens ratings come in bursts (in 1M, 89 % follow the previous one within a minute, 35 % in the same
  second), so this time reveals whether a session continues. Nothing recorded with the target may enter the query. (The
  published code lets HSTU see it; that is a switch of the encoder.)
- Model choice on validation: the best of a hundred epochs on the test users is not an estimate of anything.
"""

STRICT_VALIDATION = Protocol("strict, validation", part="validation")
"""`STRICT` on the second-to-last interaction, for early stopping and the choice of settings."""

RAILS = Protocol("RAILS, as published", history_mask="window", request_time=True, model_choice="test")
"""As the published RAILS code evaluates, for comparison with its tables only.

The mask covers the last 200 (Amazon Books: 50) items that the model reads; the corpus is every row of the item table; HSTU's
relative time bias sees the target's timestamp; there is no validation target, and the best epoch is picked on test.
Its MRR is the one `cut at 2500`.
"""


def effective_ranks(ranks: pd.DataFrame) -> NDArray[np.float64]:
    """The ranks of a rank table, from which metrics are computed; inf if the target was excluded."""
    return np.where(ranks["target_excluded"].to_numpy(), np.inf, ranks["rank"].to_numpy(dtype="float64"))


def metrics_of_users(ranks: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """One row per user of a rank table, in the order of their ids, and one column per metric of `names` ("HR@10", "MRR")."""
    ordered = ranks.sort_values("user_id", ignore_index=True)
    ks = sorted({int(name.split("@")[1]) for name in names if "@" in name})
    return per_user(effective_ranks(ordered), ks)[list(names)]


def _values(ranks: NDArray[np.float64], ks: Sequence[int]) -> pd.DataFrame:
    """One row per effective rank and one column per metric, the indicator of an excluded target last."""
    return per_user(ranks, ks).assign(**{EXCLUDED_TARGETS: np.isinf(ranks).astype("float64")})


def summarize(
    ranks: pd.DataFrame,
    protocol: Protocol,
    ks: Sequence[int] = KS,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per metric: `metric`, `value`, and the ends `low` and `high` of its bootstrap interval over users.

    `ranks` is a rank table (see `rank_table`). Columns `users` and `protocol` say how many users and which protocol; the
    settings are in `.attrs["protocol"]`. Metrics of an empty table are NaN. The last row is the share of excluded targets.
    """
    distinct, counts = np.unique(effective_ranks(ranks), return_counts=True)
    values = _values(distinct, ks)
    low, high = intervals(values.to_numpy(), counts, resamples, level, seed)
    table = pd.DataFrame(
        {
            "metric": values.columns,
            "value": _mean(values, counts),
            "low": low,
            "high": high,
            "users": len(ranks),
            "protocol": protocol.name,
        }
    )
    table.attrs["protocol"] = asdict(protocol)
    return table


def compare(
    first: pd.DataFrame,
    second: pd.DataFrame,
    ks: Sequence[int] = KS,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> pd.DataFrame:
    """Two models on the same users: `metric`, `first`, `second`, `difference` (second − first), `low`, `high`.

    The interval is of the difference, and users are resampled in pairs: what makes a user easy for both cancels, so it is
    narrower than the two intervals suggest. A difference whose interval excludes 0 is more than chance among users (it shows
    nothing about other training seeds).
    Raises ValueError if the rank tables are not of the same users with the same targets.
    """
    keys = ["user_id", "target_id"]
    pair = [table.sort_values("user_id", kind="stable", ignore_index=True) for table in (first, second)]
    if any(table["user_id"].duplicated().any() for table in pair):
        raise ValueError("a rank table has two rows of one user; compare tables of one part each")
    if not pair[0][keys].equals(pair[1][keys]):
        common = pair[0][keys].merge(pair[1][keys])
        raise ValueError(
            f"the rank tables are of {len(first)} and {len(second)} users and share {len(common)} users with the same"
            " target; compare models on the same users and the same part"
        )
    ranks = np.stack([effective_ranks(table) for table in pair], axis=1)  # (users, 2)
    distinct, counts = np.unique(ranks, axis=0, return_counts=True)
    before, after = _values(distinct[:, 0], ks), _values(distinct[:, 1], ks)
    differences = after - before
    low, high = intervals(differences.to_numpy(), counts, resamples, level, seed)
    return pd.DataFrame(
        {
            "metric": differences.columns,
            "first": _mean(before, counts),
            "second": _mean(after, counts),
            "difference": _mean(differences, counts),
            "low": low,
            "high": high,
        }
    )


def _mean(values: pd.DataFrame, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Column means over users, of whom `counts` have each row; NaN without users."""
    if not len(counts):
        return np.full(values.shape[1], np.nan)
    means: NDArray[np.float64] = counts @ values.to_numpy() / counts.sum()
    return means
