"""What trained retrievers return for one user, in words a person can read."""

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from workbench.contracts import QueryState
from workbench.data import Sequences, batch_of
from workbench.data.popularity import popularity
from workbench.evaluation.metrics import discounted_gains
from workbench.evaluation.protocol import effective_ranks
from workbench.evaluation.retrievers import own_index
from workbench.retriever import Retriever
from workbench.search import BruteForce


def history(sequences: Sequences, user: int, count: int = 8) -> pd.DataFrame:
    """The last `count` items before a user's test item, and that item: `held_out`, `title`, `genres`, `when`.

    Raises IndexError if there is no such user (dense number), ValueError if the user has no held-out item.
    """
    last = _held_out(sequences, user)
    rows = np.arange(max(sequences.offsets[user], last - count), last + 1)
    shown = _named(sequences, sequences.item_ids[rows])
    shown.insert(0, "held_out", rows == last)
    return shown.assign(when=pd.to_datetime(pd.Series(sequences.timestamps[rows]), unit="s"))


def recommendations(retriever: Retriever, sequences: Sequences, user: int, k: int = 10) -> pd.DataFrame:
    """The best `k` items for a user before the test item, none of them from the history.

    Columns: `place` (from 1), `held_out` (is it the item that came next?), `title`, `genres` if the item table has them,
    `score`. Raises as `history` does.
    """
    target = int(sequences.item_ids[_held_out(sequences, user)])
    users = np.array([user])
    exclude = torch.from_numpy(sequences.history(users)).to(retriever.device)
    with torch.no_grad():
        items = retriever.item_state()
        searcher = own_index(retriever.similarity, items) or BruteForce(retriever.similarity, items)
        found = searcher.search(queries(retriever, sequences, users), k, exclude)
    ids, scores = found.ids[0].cpu().numpy(), found.scores[0].cpu().numpy()
    shown = _named(sequences, ids[ids > 0])
    shown.insert(0, "place", np.arange(1, len(shown) + 1))
    shown.insert(1, "held_out", ids[ids > 0] == target)
    return shown.assign(score=scores[ids > 0])


def _named(sequences: Sequences, ids: NDArray[np.int64]) -> pd.DataFrame:
    """The titles of items and, if the item table has them, their genres."""
    rows = sequences.items.iloc[ids - 1].reset_index(drop=True)
    shown = rows[[c for c in ("title", "genres") if c in rows]].copy()
    if "genres" in shown:
        shown["genres"] = shown["genres"].str.replace("|", ", ", regex=False)
    return shown


@torch.no_grad()
def queries(retriever: Retriever, sequences: Sequences, users: NDArray[np.int64]) -> QueryState:
    """The query states of `users` before their test item, whose time is hidden. ValueError if one has no history before
    it."""
    batch = batch_of(sequences, users, "test", retriever.config.max_length)
    return retriever.query_state(batch.at_last_interaction().to(retriever.device))


def score_matrix(retriever: Retriever, sequences: Sequences, users: int = 8, items: int = 20) -> pd.DataFrame:
    """Scores of the first `users` users (rows) and the `items` most popular items (columns, by title), centred by row.

    A row's mean is taken away because only differences within a row decide what is returned.
    """
    counts = popularity(sequences)
    ids = np.argsort(-counts, kind="stable")[:items] + 1
    shown = sequences.users_with("test")[:users]
    batch = batch_of(sequences, shown, "test", retriever.config.max_length).to(retriever.device)
    with torch.no_grad():
        state = retriever.item_state(torch.from_numpy(ids).to(retriever.device))
        scores = retriever.similarity.score(retriever.query_state(batch), state).cpu().numpy()
    titles = sequences.items["title"].iloc[ids - 1].astype(str)
    centred = scores - scores.mean(axis=1, keepdims=True)
    return pd.DataFrame(centred, index=[f"user {u}" for u in shown], columns=titles)


def by_popularity(ranks: pd.DataFrame, sequences: Sequences, groups: int = 5, k: int = 10) -> pd.DataFrame:
    """NDCG@k by how popular the target is: users in `groups` equal parts from the least popular targets to the most.

    Columns: `group` (the range of interactions of its targets), `users`, `NDCG@k`. `ranks` is a rank table.
    """
    met = popularity(sequences)[ranks["target_id"].to_numpy() - 1]
    order = np.argsort(met, kind="stable")
    gains = discounted_gains(effective_ranks(ranks), k)
    rows = []
    for part in np.array_split(order, groups):
        low, high = met[part].min(), met[part].max()
        rows.append((f"{low:,} to {high:,}", len(part), gains[part].mean()))
    return pd.DataFrame(rows, columns=["group", "users", f"NDCG@{k}"])


def _held_out(sequences: Sequences, user: int) -> int:
    """The place of a user's test item in the sequences."""
    if not 0 <= user < sequences.num_users:
        raise IndexError(f"user {user} is not one of 0..{sequences.num_users - 1} in {sequences.name}")
    row = int(sequences.target_rows(np.array(user)))
    if row <= sequences.offsets[user]:
        raise ValueError(f"user {user} has no held-out item with a history before it")
    return row
