"""Who uses which component: by genre and popularity, in total, with and without load balancing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from workbench.anatomy.dissection import Dissection, component_names, dissect, dissect_pairs
from workbench.anatomy.model_view import ModelView
from workbench.data import Sequences
from workbench.data.examples import has_genres, users_with
from workbench.data.popularity import popularity
from workbench.evaluation.metrics import discounted_gains, hits

Measure = Literal["weight", "dominant", "product"]
Grouping = Literal["genre", "popularity"]
UNUSED = 0.01
"""A component that gets less than this share of the weight is not in use."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Users with the items that came next: `users` and `items` (dense ids), int64 (B,), and `parts`, a Dissection (B, P)."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    parts: Dissection

    def measure(self, measure: Measure) -> NDArray[np.float64]:
        """Of each component in each pair: its weight π, 1 if that weight is the largest, or its part π·s of φ. (B, P)."""
        weights = self.parts.weights.double().cpu().numpy()
        match measure:
            case "weight":
                return weights
            case "dominant":
                return np.eye(weights.shape[1])[weights.argmax(1)]
            case "product":
                return self.parts.products.double().cpu().numpy()
        raise ValueError(f"no measure {measure!r}; there are weight, dominant, product")


def held_out_pairs(subject: ModelView, most: int | None = None, batch_size: int = 256) -> Pairs:
    """Every user (the first `most`) with the test item: the pairs that a mixture should score high."""
    users = users_with(subject.sequences, "test")[:most]
    items = subject.sequences.targets(users)
    found = []
    for start in range(0, len(users), batch_size):
        part = slice(start, start + batch_size)
        rows = torch.from_numpy(items[part] - 1).to(subject.retriever.device)
        found.append(
            dissect_pairs(subject.retriever.similarity, subject.queries(users[part]), subject.items[rows])
        )
    parts = Dissection(torch.cat([d.logits for d in found]), torch.cat([d.weights for d in found]))
    return Pairs(users, items, parts)


def groupings(sequences: Sequences) -> list[Grouping]:
    """The groupings that the items allow: by genre if any has one, and by popularity."""
    return ["genre", "popularity"] if has_genres(sequences) else ["popularity"]


def usage(
    subject: ModelView, pairs: Pairs, by: Grouping, measure: Measure = "weight", least: int = 1
) -> pd.DataFrame:
    """The mean of a measure in each group of items: a row for each group (index), a column for each component.

    By genre (an item of several genres counts in each; most frequent first) or by decile of popularity (ten equal parts
    of the corpus, decile 10 the most popular). The index names the group and its pairs; groups of fewer than `least` pairs
    are left out. Raises ValueError if the items have no genres.
    """
    values = pairs.measure(measure)
    rows, index = [], []
    for name, members in _groups(subject.sequences, pairs.items, by):
        if len(members) >= max(least, 1):
            rows.append(values[members].mean(0))
            index.append(f"{name} · {len(members):,}")
    return pd.DataFrame(
        np.array(rows).reshape(len(rows), values.shape[1]),
        index=pd.Index(index, name=f"{by} · pairs"),
        columns=pd.Index(component_names(subject.retriever.similarity), name="component"),
    )


def spread(subject: ModelView, pairs: Pairs, by: Grouping, measure: Measure = "weight") -> float:
    """The distance of the groups' means of a measure from the overall mean: √(Σ_g n_g |m_g − m|² / Σ_g n_g), n_g pairs in
    group g.

    0 if every group uses the components equally. Raises ValueError as `usage` does.
    """
    values = pairs.measure(measure)
    groups = [members for _, members in _groups(subject.sequences, pairs.items, by) if len(members)]
    sizes = np.array([len(members) for members in groups])
    means = np.stack([values[members].mean(0) for members in groups])
    overall = sizes @ means / sizes.sum()
    return float(np.sqrt(sizes @ ((means - overall) ** 2).sum(1) / sizes.sum()))


def _groups(
    sequences: Sequences, items: NDArray[np.int64], by: Grouping
) -> list[tuple[str, NDArray[np.int64]]]:
    if by == "popularity":
        decile = deciles(sequences)[items - 1]
        return [
            (f"decile {d}{' (most popular)' if d == 10 else ''}", np.flatnonzero(decile == d))
            for d in range(10, 0, -1)
        ]
    if by != "genre":
        raise ValueError(f"no grouping {by!r}; there are genre, popularity")
    if not has_genres(sequences):
        raise ValueError(f"the items of {sequences.name} have no genres; group them by popularity")
    listed = (
        sequences.items["genres"].fillna("").astype(str).iloc[items - 1].str.split("|").reset_index(drop=True)
    )
    exploded = listed.explode()
    exploded = exploded[exploded != ""]
    sizes = exploded.value_counts()
    return [(str(genre), exploded.index[exploded == genre].to_numpy()) for genre in sizes.index]


def deciles(sequences: Sequences) -> NDArray[np.int64]:
    """The decile of popularity of each item, 1 (least) to 10: ten equal parts of the corpus, ties by id. int64 (N,)."""
    order = np.argsort(popularity(sequences), kind="stable")
    decile = np.empty(len(order), dtype=np.int64)
    decile[order] = 1 + np.arange(len(order)) * 10 // len(order)
    return decile


def balance(named: dict[str, tuple[ModelView, Pairs]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How evenly each of several mixtures uses its components over its pairs: a table of components, a table of mixtures.

    The first has `model`, `component`, `weight` (mean π), `dominant` (share of pairs in which it has the largest weight). The
    second, a row per model: `components` P; `in_use_on_average` exp H(mean π) and `in_use_per_pair` exp(mean H(π)), both
    between 1 and P; `mutual_information` H(mean π) − mean H(π) in nats, what the load-balancing loss raises; `largest` mean
    weight; `unused` components (mean weight below 1 %).
    """
    parts, rows = [], []
    for model, (subject, pairs) in named.items():
        pi = pairs.measure("weight")
        mean, per_pair = pi.mean(0), float(_entropy(pi).mean())
        overall = float(_entropy(mean))
        parts.append(
            pd.DataFrame(
                {
                    "model": model,
                    "component": component_names(subject.retriever.similarity),
                    "weight": mean,
                    "dominant": pairs.measure("dominant").mean(0),
                }
            )
        )
        rows.append(
            {
                "model": model,
                "components": len(mean),
                "in_use_on_average": np.exp(overall),
                "in_use_per_pair": np.exp(per_pair),
                "mutual_information": overall - per_pair,
                "largest": mean.max(),
                "unused": int((mean < UNUSED).sum()),
            }
        )
    return pd.concat(parts, ignore_index=True), pd.DataFrame(rows)


def ablate_components(
    subject: ModelView, users: Sequence[int] | NDArray[np.int64], k: int = 10
) -> pd.DataFrame:
    """HR@k and NDCG@k over `users` as trained (`component` "none") and with each component switched off, in order.

    Columns: `component`, `HR@k`, `NDCG@k`, `change`: NDCG@k less that of "none", user by user, and its standard error
    `error`. Test items that are in the history before are misses, as in every measurement. Raises ValueError if there is no
    user or only one component.
    """
    chosen = np.asarray(users, dtype=np.int64)
    names = component_names(subject.retriever.similarity)
    if len(chosen) == 0 or len(names) < 2:
        raise ValueError("switching off needs at least one user and at least two components")
    ranks = np.concatenate(
        [_ranks_without(subject, part) for part in np.array_split(chosen, -(-len(chosen) // 16))]
    )
    gains = discounted_gains(ranks, k)
    change = gains - gains[:, :1]
    return pd.DataFrame(
        {
            "component": ["none", *names],
            f"HR@{k}": hits(ranks, k).mean(0),
            f"NDCG@{k}": gains.mean(0),
            "change": change.mean(0),
            "error": change.std(0) / np.sqrt(len(chosen)),
        }
    )


def _ranks_without(subject: ModelView, users: NDArray[np.int64]) -> NDArray[np.float64]:
    """The rank of each user's test item as trained and without each component: float64 (B, 1 + P)."""
    whole = dissect(subject.retriever.similarity, subject.queries(users), subject.items)
    scores = torch.cat([whole.scores[..., None], whole.without()], -1)  # (B, N, 1 + P)
    ranks = []
    for row, user in enumerate(users):
        unseen, target = subject.unseen(int(user)), subject.target(int(user))
        mask = torch.from_numpy(unseen).to(scores.device)
        ahead = (scores[row, mask] > scores[row, target - 1]).sum(0) + 1.0
        ranks.append(ahead.cpu().numpy() if unseen[target - 1] else np.full(scores.shape[-1], np.inf))
    return np.stack(ranks).astype(np.float64)


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row, in nats: (…, P) to (…,)."""
    return np.asarray(-(p * np.log(np.clip(p, 1e-12, None))).sum(-1))
