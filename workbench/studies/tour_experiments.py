"""Small experiments for the tour, each a table of curves (`curve`, `x`, `y`) for a slider along x.

They run in seconds on trained models, and illustrate the ideas of the notebooks on indexes: rounding queries to codes
(SparCode), searching the best groups (Deep Retrieval), two kinds of first stages.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from workbench.bench.growth import STORED
from workbench.bench.workloads import Workload
from workbench.data import Sequences, batch_of
from workbench.data.popularity import popularity
from workbench.evaluation.metrics import discounted_gains
from workbench.retriever import Retriever
from workbench.runtime import generator
from workbench.search.cells import cells

USERS = 512
"""Maximum number of test users in an experiment."""


def steps(last: int, first: int = 1) -> NDArray[np.int64]:
    """1, 2, 3, 5, 7, 10, 20, 30, … from `first` on, and `last` at the end.

    >>> steps(25).tolist(), steps(30, 10).tolist()
    ([1, 2, 3, 5, 7, 10, 20, 25], [10, 20, 30])
    """
    series = np.multiply.outer(10 ** np.arange(12), np.array([1, 2, 3, 5, 7])).ravel()
    return np.append(series[(series >= first) & (series < last)], last)


def popular_first(sequences: Sequences) -> pd.DataFrame:
    """The share of training interactions, and of the test users' next items, in the x most popular items.

    Popularity is counted without validation and test items; the share of next items is HR@x of one list for everybody,
    without the items of the user's own history (a next item that was in it counts as a miss).
    """
    counts = popularity(sequences)
    order = np.argsort(-counts, kind="stable")
    place_of = np.empty(sequences.num_items, dtype=np.int64)
    place_of[order] = np.arange(sequences.num_items)
    ranks = []
    for user in sequences.users_with("test"):
        seen = np.unique(sequences.history(np.array([user]))[0])
        target = int(sequences.targets(np.array(user)))
        before = place_of[seen[seen > 0] - 1]
        missed = target in seen
        ranks.append(np.inf if missed else 1 + place_of[target - 1] - (before < place_of[target - 1]).sum())
    at = steps(sequences.num_items)
    held = np.cumsum(counts[order]) / counts.sum()
    found = [(np.array(ranks) <= x).mean() for x in at]
    return _curves(at, {"of all interactions": held[at - 1], "of the users' next items": found})


def against_negatives(ranks: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How often the next item scores above all of x items drawn uniformly, with replacement, as in a loss with x negatives; a
    curve for each method of `ranks` (rank tables, see `evaluation.ranks.rank_table`).

    A target of rank r among c candidates beats x draws with probability (1 − (r − 1)/(c − 1))^x; an excluded one never.
    """
    at = steps(max(2, max(int(table["candidates"].max()) for table in ranks.values())))
    curves = {}
    for method, table in ranks.items():
        worse = 1 - (table["rank"] - 1) / (table["candidates"] - 1)
        beats = worse.where(~table["target_excluded"], 0.0).clip(lower=0).to_numpy()
        curves[method] = [float((beats**x).mean()) for x in at]
    return _curves(at, curves)


@torch.no_grad()
def first_stages(workload: Workload, k: int) -> pd.DataFrame:
    """The share of the true best `k` among x candidates of two kinds, and how often they prove that nothing is missed.

    Candidates are the best by the average of the component scores, or all items among the first n1 of some component, with
    the largest n1 that gives at most x of them. Only the latter prove anything (see `bench.proofs`). ValueError if a query
    may find fewer than `k` items.
    """
    found: dict[str, list[list[float]]] = {
        "average component": [],
        "lists per component": [],
        "proved by the lists": [],
    }
    if not 1 <= k <= workload.findable:
        raise ValueError(
            f"k must lie in 1 to {workload.findable}, the items that every query may find, not {k}"
        )
    at = steps(workload.findable, 10)
    for query in range(len(workload.queries)):
        allowed = workload.items[~torch.isin(workload.items.ids, workload.exclude[query])]
        state = workload.queries[query : query + 1]
        logits = workload.similarity.component_logits(state, allowed)[0]  # (N, P)
        scores = workload.similarity.score(state, allowed)[0]
        best = scores.topk(k).indices
        average = _places(logits.mean(1, keepdim=True))[:, 0]
        by_component = _places(logits)
        first = by_component.amin(1)
        ordered, ranked = first.sort().values, logits.sort(dim=0, descending=True).values
        rows: list[list[float]] = [[], [], []]
        for x in at.tolist():
            count = int(ordered[x]) - 1 if x < len(ordered) else len(ordered)
            listed = first <= count
            rows[0].append(float((average[best] <= x).double().mean()))
            rows[1].append(float(listed[best].double().mean()))
            outside = float(ranked[count].max()) if count < len(ranked) else float("-inf")
            kth = scores[listed].topk(k).values[-1] if int(listed.sum()) >= k else float("-inf")
            rows[2].append(float(float(kth) >= outside))
        for name, row in zip(found, rows, strict=True):
            found[name].append(row)
    return _curves(at, {name: np.mean(rows, axis=0) for name, rows in found.items()})


@torch.no_grad()
def rounded_queries(retriever: Retriever, sequences: Sequences, seed: int = 0) -> pd.DataFrame:
    """NDCG@10 of at most `USERS` test users whose query is replaced by the nearest of x codewords, and as it is.

    The codewords are k-means centres of these users' encoder outputs. Whatever the similarity, x lists of scores then serve
    all users: the idea of an inverted index on codes, without its training.
    """
    users = sequences.users_with("test")[:USERS]
    queries = _encoded(retriever, sequences, users)
    items = retriever.item_state()
    targets = sequences.targets(users)
    history = sequences.history(users)

    def quality(centres: Tensor, member: Tensor) -> float:
        state = retriever.similarity.queries(centres, torch.zeros(len(centres), dtype=torch.int64))
        scores = retriever.similarity.score(state, items).cpu().numpy()[member.cpu().numpy()]
        return float(discounted_gains(_ranks(scores, targets, history), 10).mean())

    everyone = torch.arange(len(users))
    whole = quality(queries, everyone)
    at = np.append(2 ** np.arange(int(np.log2(max(1, len(users) - 1))) + 1), len(users))
    rounded = []
    for x in at.tolist():
        member = cells(queries, x, generator(seed)).member if x < len(users) else everyone
        rounded.append(quality(_centres(queries, member), member))
    return _curves(at, {"query as it is": [whole] * len(at), "query rounded to a codeword": rounded})


@torch.no_grad()
def walked_groups(workload: Workload, k: int = 10, seed: int = 0) -> pd.DataFrame:
    """The share of the best `k` in the best x groups of items, and the share of the catalogue that is scored.

    The groups are k-means clusters of the item embeddings, about 2√N of them, fixed and not learned; a group is as good for
    a query as the similarity finds its centre, taken for an item.
    """
    similarity, embeddings = workload.similarity, workload.embeddings
    member = cells(embeddings, max(2, int(2 * len(embeddings) ** 0.5)), generator(seed)).member
    centres = _centres(embeddings, member)
    states = similarity.items(centres, torch.ones(len(centres), dtype=torch.int64, device=workload.device))
    liked = similarity.score(workload.queries, states)  # (Q, groups)
    place = _places(liked.T).T
    scores = similarity.score(workload.queries, workload.items)
    seen = torch.stack([torch.isin(workload.items.ids, history) for history in workload.exclude])
    best = scores.masked_fill(seen, float("-inf")).topk(min(k, scores.shape[1])).indices
    reached = place[:, member]  # the place of each item's group
    at = steps(len(centres))
    found = [float((reached.gather(1, best) <= x).double().mean()) for x in at]
    scored = [float((reached <= x).double().mean()) for x in at]
    return _curves(at, {f"of the best {k} found": found, "of the catalogue scored": scored})


def kept(workload: Workload, largest: int = 10**10) -> pd.DataFrame:
    """GB that the item state of x items takes, its components stored in 32, 16 or 8 bits (`curve`), the rest as it is."""
    components = workload.similarity.item_components(workload.items)
    numbers = components.shape[1] * components.shape[2]
    rest = workload.items.nbytes() / len(workload.items) - STORED["fp32"] * numbers
    at = steps(largest, 1000)
    return _curves(at, {name: (size * numbers + rest) * at / 1e9 for name, size in STORED.items()})


def curves_of(
    table: pd.DataFrame, x: str, names: Mapping[str, str], whole: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Columns of a measured table as curves over its column `x`: `names` maps a column to its curve, `whole` a column to the
    value that counts as 1 (default 1)."""
    rows = table.sort_values(x)
    parts = [
        pd.DataFrame(
            {"curve": name, "x": rows[x], "y": rows[column] / (1 if whole is None else whole[column])}
        )
        for column, name in names.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _curves(at: NDArray[np.int64], curves: Mapping[str, object]) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"curve": name, "x": at, "y": np.asarray(y, dtype=float)}) for name, y in curves.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _places(scores: Float[Tensor, "N P"]) -> Int[Tensor, "N P"]:
    """The place from 1 of each row in the descending order of each column."""
    order = scores.argsort(dim=0, descending=True, stable=True)
    rows = torch.arange(1, len(scores) + 1, device=scores.device)[:, None]
    return torch.empty_like(order).scatter_(0, order, rows.expand_as(order))


def _centres(vectors: Float[Tensor, "N F"], member: Int[Tensor, "N"]) -> Float[Tensor, "C F"]:
    sizes = member.bincount()[:, None]
    return vectors.new_zeros(len(sizes), vectors.shape[1]).index_add(0, member, vectors) / sizes


def _encoded(retriever: Retriever, sequences: Sequences, users: NDArray[np.int64]) -> Float[Tensor, "B D"]:
    """The encoder's output for histories before the test item, whose time is hidden."""
    batch = batch_of(sequences, users, "test", retriever.config.max_length)
    return retriever.encoder.encode(retriever.embed(batch), batch)


def _ranks(
    scores: NDArray[np.float32], targets: NDArray[np.int64], history: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The rank of each target among the items that are not in the history; infinite if the history contains it."""
    own = scores[np.arange(len(scores)), targets - 1]
    rows = np.repeat(np.arange(len(scores)), (history > 0).sum(1))
    unseen = scores.copy()
    unseen[rows, history[history > 0] - 1] = -np.inf
    ranks = 1.0 + (unseen > own[:, None]).sum(1)
    return np.where((history == targets[:, None]).any(1), np.inf, ranks)
