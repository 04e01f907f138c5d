"""What two retrievers recommend to the same user, and the parts of each score."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from workbench.anatomy.dissection import component_names, dissect_pairs
from workbench.anatomy.model_view import ModelView, rank
from workbench.data.examples import users_with
from workbench.similarities.mol import MixtureOfLogits

WHOLE = "q·x"
"""The name of the single component of a score without parts."""


def side_by_side(subjects: Sequence[ModelView], user: int, k: int = 10) -> pd.DataFrame:
    """The best `k` items of each subject for a user, and below them the held-out item if it is not among them.

    A row for each method, item and component: `method`, `place` (from 1), `item` (dense id), `title`, `held_out`, `score` φ,
    `elsewhere` (the item's place with the first other subject; NaN with one subject), `component`, `product` (its part of φ;
    a dot product has one part, the score itself).
    Raises ValueError if k < 1, or the user has no history.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    scores = {s.method: s.scores(np.array([user]))[0] for s in subjects}
    return pd.concat([_list(s, user, k, scores) for s in subjects], ignore_index=True)


def _list(subject: ModelView, user: int, k: int, scores: dict[str, NDArray[np.float32]]) -> pd.DataFrame:
    own, unseen, target = scores[subject.method], subject.unseen(user), subject.target(user)
    order = np.argsort(-np.where(unseen, own, -np.inf), kind="stable")[: min(k, int(unseen.sum()))] + 1
    shown = order if target in order or not unseen[target - 1] else np.append(order, target)
    others = [method for method in scores if method != subject.method]
    elsewhere = [rank(scores[others[0]], int(item), unseen) if others else np.nan for item in shown]
    places = pd.DataFrame(
        {
            "method": subject.method,
            "place": [rank(own, target, unseen) if item == target else p + 1 for p, item in enumerate(shown)],
            "item": shown,
            "title": subject.sequences.items["title"].iloc[shown - 1].astype(str).to_numpy(),
            "held_out": shown == target,
            "score": own[shown - 1],
            "elsewhere": elsewhere,
        }
    )
    return places.merge(_parts(subject, user, shown, own), on="item")


def _parts(subject: ModelView, user: int, items: NDArray[np.int64], own: NDArray[np.float32]) -> pd.DataFrame:
    similarity = subject.retriever.similarity
    if not isinstance(similarity, MixtureOfLogits):
        return pd.DataFrame({"item": items, "component": WHOLE, "product": own[items - 1]})
    repeated = torch.zeros(len(items), dtype=torch.long)
    query = subject.queries(np.array([user]))[repeated.to(subject.retriever.device)]
    rows = torch.from_numpy(items - 1).to(subject.retriever.device)
    products = dissect_pairs(similarity, query, subject.items[rows]).products.cpu().numpy()  # (n, P)
    names = component_names(similarity)
    return pd.DataFrame(
        {
            "item": np.repeat(items, len(names)),
            "component": names * len(items),
            "product": products.ravel(),
        }
    )


def illustrative_user(poorer: ModelView, richer: ModelView, among: int = 256) -> int:
    """The user with the largest ratio of ranks: `richer` ranks the held-out item near the top and `poorer` far below.

    Searched among the first `among` users that have a history; a chosen illustration, not a measurement. Raises DataError if
    nobody has one.
    """
    users = users_with(richer.sequences, "test")[:among]
    ratios = []
    for part in np.array_split(users, max(1, len(users) // 64)):
        low, high = poorer.scores(part), richer.scores(part)
        for row, user in enumerate(part.tolist()):
            target, unseen = richer.target(user), richer.unseen(user)
            fresh = unseen[target - 1]
            ratios.append(rank(low[row], target, unseen) / rank(high[row], target, unseen) if fresh else 0.0)
    return int(users[int(np.argmax(ratios))])
