"""What SparCode's index serves at what size: quality, latency and bytes by sparsity; what the codes of a model hold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from workbench.contracts import QueryState
from workbench.data import Batches, Sequences
from workbench.evaluation.latency import measure, percentiles
from workbench.evaluation.metrics import metrics
from workbench.models.model_store import TrainedModel
from workbench.models.recommend import queries as queries_of
from workbench.retriever import Retriever
from workbench.search.brute_force import BruteForce
from workbench.search.inverted_index import InvertedIndex
from workbench.similarities.sparcode.similarity import SparCode, SparCodeItems, SparCodeQueries
from workbench.training.config import TrainingConfig
from workbench.training.rows import training_rows

SPARSITIES = (0.0, 0.5, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)
SHOWN = ("HR@10", "HR@50", "NDCG@10", "NDCG@50")
SCAN = "two-tower, flat scan"
USERS_AT_ONCE = 256
LONGEST = 50
"""Items of a list, fewer if the corpus is smaller."""


@dataclass(frozen=True)
class Served:
    """A SparCode retriever's users asking for their test item: states, `targets` (B,), and histories to leave out."""

    similarity: SparCode
    queries: SparCodeQueries
    items: SparCodeItems
    targets: Int[Tensor, "B"]
    exclude: Int[Tensor, "B H"]
    users: Int[Tensor, "B"]


def served(retriever: Retriever, sequences: Sequences) -> Served:
    """Every test user's query under the leave-one-out protocol, the whole history masked.

    Raises ValueError if the retriever has no SparCode with codes.
    """
    similarity = _with_codes(retriever)
    batches = Batches(sequences, "test", USERS_AT_ONCE, retriever.config.max_length)
    queries, targets, users = [], [], []
    retriever.eval()
    with torch.no_grad():
        for batch in batches:
            queries.append(retriever.query_state(batch.at_last_interaction().to(retriever.device)))
            targets.append(batch.need("target_ids"))
            users.append(batch.need("user_ids"))
        items = retriever.item_state()
    asked = torch.cat(users)
    exclude = torch.from_numpy(sequences.history(asked.numpy())).to(retriever.device)
    codes = torch.cat([q.codes for q in queries if isinstance(q, SparCodeQueries) and q.codes is not None])
    tokens = torch.cat([q.tokens for q in queries if isinstance(q, SparCodeQueries)])
    assert isinstance(items, SparCodeItems)
    return Served(
        similarity,
        SparCodeQueries(tokens, codes, None),
        items,
        torch.cat(targets).to(codes.device),
        exclude,
        asked,
    )


def _with_codes(retriever: Retriever) -> SparCode:
    similarity = retriever.similarity
    if not isinstance(similarity, SparCode) or similarity.quantizer is None:
        raise ValueError(f"only a SparCode with a quantizer has codes, not {type(similarity).__name__}")
    return similarity


def training_codes(
    retriever: Retriever, sequences: Sequences, training: TrainingConfig, most: int = 10**9
) -> Int[Tensor, "U"]:
    """The distinct codes of query tokens at training positions (all of one pass, or at most `most`), ascending."""
    similarity = _with_codes(retriever)
    every = replace(training, positions_per_step=None)
    rows, _ = training_rows(retriever.eval(), sequences, every, most, training.seed)
    found = []
    with torch.no_grad():
        for part in rows.split(USERS_AT_ONCE):
            codes = similarity.queries(part).codes
            assert codes is not None
            found.append(codes.flatten())
    return torch.cat(found).unique()


def sparsity_sweep(
    trained: TrainedModel,
    sequences: Sequences,
    sparsities: Sequence[float] = SPARSITIES,
    repeats: int = 100,
    compare_with: TrainedModel | None = None,
) -> pd.DataFrame:
    """One row per sparsity, the learned threshold, a flat scan of `compare_with`, and brute force over the sparse score.

    Columns: `index` (what was searched), `sparsity`, `threshold`, `average_items`, `mebibytes`, the metrics of `SHOWN`,
    `short` (share of users whose lists hold fewer than 50 items), `seen` (share of their tokens whose code is in the index),
    `p50_ms` and `p95_ms` of one query at a time over `repeats` users, in turns so that all meet the same load, `relative`
    (median time over brute force's). The index holds the codes that training positions have, and no others; it is built
    once, with every score, and cut to each threshold.
    """
    retriever = trained.retriever()
    asked = served(retriever, sequences)
    k = min(LONGEST, len(asked.items))
    known = training_codes(retriever, sequences, TrainingConfig.from_dict(trained.metadata["training"]))
    whole = InvertedIndex.build(asked.similarity, asked.items, known, loosest=float("inf"))
    assert asked.queries.codes is not None
    seen = float(torch.isin(asked.queries.codes, known).double().mean())
    learned = float(asked.similarity.threshold.detach())
    thresholds = [(f"{s:.1%} sparse", whole.threshold_for(s)) for s in sparsities]
    searchers: dict[str, InvertedIndex | BruteForce] = {
        name: whole.at(b) for name, b in [*thresholds, ("learned threshold", learned)]
    }
    states: dict[str, QueryState] = dict.fromkeys(searchers, asked.queries)
    if compare_with is not None:
        other = compare_with.retriever()
        with torch.no_grad():
            searchers[SCAN] = BruteForce(other.similarity, other.item_state())
        states[SCAN] = queries_of(other, sequences, asked.users.numpy())
    searchers["brute force"], states["brute force"] = BruteForce(asked.similarity, asked.items), asked.queries
    times = _times(searchers, states, asked, k, repeats)
    latency = percentiles(times, queries=1, by=["index"]).set_index("index")
    rows = []
    for name, searcher in searchers.items():
        found = searcher.search(states[name], k, asked.exclude)
        hit = found.ids == asked.targets[:, None]
        ranks = torch.where(hit.any(1), 1.0 + hit.int().argmax(1), float("inf")).cpu().numpy()
        row: dict[str, object] = {"index": name}
        if isinstance(searcher, InvertedIndex):
            size = searcher.size()
            row |= {
                "sparsity": size.sparsity,
                "threshold": searcher.threshold,
                "average_items": size.average_items,
                "mebibytes": size.nbytes / 2**20,
                "seen": seen,
            }
        measured = metrics(ranks, ks=(10, 50))
        row |= {name: measured[name] for name in SHOWN}
        row["short"] = float((found.ids[:, -1] < 0).float().mean())
        row |= {"p50_ms": latency.loc[name, "p50_ms"], "p95_ms": latency.loc[name, "p95_ms"]}
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.assign(relative=table["p50_ms"] / table["p50_ms"].iloc[-1])


def _times(
    searchers: dict[str, InvertedIndex | BruteForce],
    states: dict[str, QueryState],
    asked: Served,
    k: int,
    repeats: int,
) -> pd.DataFrame:
    parts = []
    rows = np.linspace(0, len(asked.queries) - 1, num=repeats, dtype=int)
    for turn, row in enumerate(rows):
        exclude = asked.exclude[int(row) : int(row) + 1]
        for name, searcher in searchers.items():
            query = states[name][int(row) : int(row) + 1]
            taken = measure(
                lambda searcher=searcher, query=query, exclude=exclude: searcher.search(query, k, exclude),  # type: ignore[misc]
                asked.items.ids.device,
                warmup=1 if turn == 0 else 0,
                repeats=1,
            )
            parts.append(taken.assign(index=name))
    return pd.concat(parts, ignore_index=True)


def code_table(retriever: Retriever, sequences: Sequences, count: int = 6, shown: int = 5) -> pd.DataFrame:
    """What the most frequent codes have in common: one row per code, the most users first.

    Columns: `code` (the codewords, as "12·3"), `users` who have it in any token, `their_genres` (those most over-represented
    in these users' histories, with the ratio to all histories), `best_items` (the items with the highest f), `item_genres` (the
    commonest among the 20 best items).
    """
    asked = served(retriever, sequences)
    quantizer = asked.similarity.quantizer
    assert asked.queries.codes is not None and quantizer is not None
    codes, counts = asked.queries.codes.unique(return_counts=True)
    chosen = codes[counts.argsort(descending=True, stable=True)[:count]]
    with torch.no_grad():
        f = asked.similarity.interactions(quantizer.lookup(chosen), asked.items)
    genres = sequences.items["genres"].astype(str) if "genres" in sequences.items else None
    everyone = _genre_shares(sequences.item_ids, genres)
    rows = []
    for code, digits, scores in zip(chosen, quantizer.digits(chosen).tolist(), f, strict=True):
        mine = (asked.queries.codes == code).any(1).cpu()
        history = asked.exclude.cpu()[mine].flatten()
        own = _genre_shares(history[history > 0].numpy(), genres)
        lift = (own / everyone).sort_values(ascending=False)
        best = asked.items.ids[scores.argsort(descending=True)].cpu().numpy()
        of_items = _genre_shares(best[:20], genres).sort_values(ascending=False)
        rows.append(
            {
                "code": "·".join(map(str, digits)),
                "users": int(mine.sum()),
                "their_genres": ", ".join(f"{name} ×{value:.1f}" for name, value in lift.head(3).items()),
                "best_items": "; ".join(sequences.items["title"].iloc[best[:shown] - 1].astype(str)),
                "item_genres": ", ".join(map(str, of_items.head(3).index)),
            }
        )
    return pd.DataFrame(rows)


def _genre_shares(item_ids: np.ndarray, genres: pd.Series | None) -> pd.Series:
    """The share of these interactions whose item has each genre; empty without genres."""
    if genres is None or not len(item_ids):
        return pd.Series(dtype="float64")
    exploded = genres.iloc[item_ids - 1].str.split("|").explode()
    return exploded.value_counts() / len(item_ids)


def usage_table(retriever: Retriever, sequences: Sequences) -> pd.DataFrame:
    """One row per codebook, and one for whole codes: `of`, `possible`, `used`, `perplexity`, over the test users' tokens.

    `used` counts those that at least one token has; perplexity is exp(H) of how often each is chosen.
    """
    asked = served(retriever, sequences)
    quantizer = asked.similarity.quantizer
    assert asked.queries.codes is not None and quantizer is not None
    codes = asked.queries.codes.flatten()
    chosen = {
        f"codebook {m + 1}": (quantizer.config.codewords, d) for m, d in enumerate(quantizer.digits(codes).T)
    }
    chosen["codes"] = (quantizer.config.codes, codes)
    rows = []
    for name, (possible, values) in chosen.items():
        share = values.unique(return_counts=True)[1].double() / len(values)
        rows.append((name, possible, len(share), float((-(share * share.log()).sum()).exp())))
    return pd.DataFrame(rows, columns=["of", "possible", "used", "perplexity"])
