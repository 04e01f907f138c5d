"""One score: the contribution of each component, and its dependence on the temperature."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from workbench.anatomy.dissection import AS_TRAINED, Change, Dissection, component_names, mixture_of
from workbench.anatomy.model_view import ModelView, rank


def components(
    subject: ModelView, user: int, item: int, change: Change = AS_TRAINED, whole: Dissection | None = None
) -> pd.DataFrame:
    """The parts of φ(user, item), a row for each component p = i · Px + j.

    Columns: `component` (its name), `query_group` i and `item_group` j (from 1), `score` s, `weight` π, `product` π·s, `off`
    (whether `change` switches it off), `score_without`, `rank_without`: φ and the item's place (from 1, among items that are
    not in the history) when it is switched off too (NaN if no other is on). `item` is a dense id; `whole` is
    `subject.dissect(user, change)` if that is already computed. Raises ValueError as `dissect` does, or if there is no such
    item.
    """
    _check(subject, item)
    whole = subject.dissect(user, change) if whole is None else whole
    without = whole.without().cpu().numpy()  # (N, P)
    unseen, row = subject.unseen(user), item - 1
    ahead = (without[unseen] > without[row]).sum(0) + 1.0
    mol = mixture_of(subject.retriever.similarity)
    i, j = np.divmod(np.arange(mol.config.components), mol.config.item_groups)
    return pd.DataFrame(
        {
            "component": component_names(mol),
            "query_group": i + 1,
            "item_group": j + 1,
            "score": whole.logits[row].cpu().numpy(),
            "weight": whole.weights[row].cpu().numpy(),
            "product": whole.products[row].cpu().numpy(),
            "off": np.isin(np.arange(mol.config.components), change.off),
            "score_without": without[row],
            "rank_without": np.where(np.isnan(without[row]), np.nan, ahead),
        }
    )


def by_temperature(
    subject: ModelView,
    user: int,
    item: int,
    change: Change = AS_TRAINED,
    temperatures: Sequence[float] | None = None,
) -> pd.DataFrame:
    """φ(user, item) and the item's place for each of `temperatures` (by default 13 from a fifth to five times the trained τ).

    Columns: `temperature`, `score`, `rank`, and `mean`, the score of an average item. All else is as in `change`.
    """
    _check(subject, item)
    trained = mixture_of(subject.retriever.similarity).config.temperature
    unseen, rows = subject.unseen(user), []
    for temperature in trained * np.geomspace(0.2, 5, 13) if temperatures is None else temperatures:
        scores = subject.dissect(user, replace(change, temperature=float(temperature))).scores.cpu().numpy()
        rows.append((float(temperature), float(scores[item - 1]), rank(scores, item, unseen), scores.mean()))
    return pd.DataFrame(rows, columns=["temperature", "score", "rank", "mean"])


def _check(subject: ModelView, item: int) -> None:
    if not 1 <= item <= subject.sequences.num_items:
        raise ValueError(f"item {item} is not one of 1..{subject.sequences.num_items}")
