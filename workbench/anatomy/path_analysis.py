"""Learned paths as readable tables: their items, the paths of a user, recall by beam width."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from workbench.data import Sequences
from workbench.data.popularity import most_popular, popularity
from workbench.models.recommend import queries
from workbench.retriever import Retriever
from workbench.search import BruteForce
from workbench.search.path_beam import PathBeam
from workbench.similarities.deep_retrieval.similarity import DeepRetrieval, DeepRetrievalItems
from workbench.similarities.deep_retrieval.structure import decode_paths


def paths_of(retriever: Retriever) -> tuple[DeepRetrieval, DeepRetrievalItems]:
    """The Deep Retrieval similarity of a retriever and the state of all its items; TypeError if it has another."""
    model = retriever.similarity
    with torch.no_grad():
        items = retriever.item_state()
    if not isinstance(model, DeepRetrieval) or not isinstance(items, DeepRetrievalItems):
        raise TypeError(f"this retriever's similarity is {type(model).__name__}, not Deep Retrieval")
    return model, items


def path_table(retriever: Retriever, sequences: Sequences, examples: int = 4) -> pd.DataFrame:
    """One row per path in use, by the interactions of its items, most first.

    `path` ("3 · 0 · 5"), `items`, `interactions` with them, `genre` (that most of the items share), `share` of the items with
    it, `examples` (the most popular titles).
    """
    model, items = paths_of(retriever)
    held = _on_paths(items, sequences)
    rows = []
    for _, group in held.groupby("code", sort=False):
        ordered = group.sort_values("interactions", ascending=False)
        genres = ordered["genres"].str.split("|").explode().value_counts()
        rows.append(
            {
                "path": _name(int(group["code"].iloc[0]), model),
                "items": len(group),
                "interactions": int(group["interactions"].sum()),
                "genre": genres.index[0] if len(genres) else "",
                "share": genres.iloc[0] / len(group) if len(genres) else float("nan"),
                "examples": " · ".join(ordered["title"].head(examples)),
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values("interactions", ascending=False, kind="stable", ignore_index=True)


def path_sizes(retriever: Retriever) -> pd.DataFrame:
    """The number of paths by their number of items: `items`, `paths`, ascending; empty paths are not counted."""
    _, items = paths_of(retriever)
    sizes = items.paths.flatten().unique(return_counts=True)[1].numpy()
    values, counts = np.unique(sizes, return_counts=True)
    return pd.DataFrame({"items": values, "paths": counts})


def togetherness(retriever: Retriever, sequences: Sequences) -> pd.DataFrame:
    """Whether items on a path are related: shares among pairs of items on a common path, and among all pairs.

    `measure`, `on_a_path`, `anywhere`, `ratio`: pairs with a genre in common, and the cosine of the two items' user sets (how
    much the same users met both). Up to 200,000 pairs of each kind are looked at, drawn with a fixed seed.
    """
    _, items = paths_of(retriever)
    held = _on_paths(items, sequences)
    draws = np.random.default_rng(0)
    members = [group["row"].to_numpy() for _, group in held.groupby("code") if len(group) > 1]
    near = np.concatenate([m[np.stack(np.triu_indices(len(m), 1), axis=1)] for m in members])
    near = near[draws.permutation(len(near))[:200_000]]
    far = draws.integers(len(items), size=near.shape)
    far = far[far[:, 0] != far[:, 1]]
    genres = [set(g.split("|")) - {""} for g in _genres(sequences)]
    met = _user_sets(sequences)

    def shared(pairs: np.ndarray) -> float:
        return float(np.mean([bool(genres[a] & genres[b]) for a, b in pairs]))

    def cosine(pairs: np.ndarray) -> float:
        a, b = (met.index_select(0, torch.from_numpy(pairs[:20_000, side])).to_dense() for side in (0, 1))
        return float((a * b).sum(1).mean())

    rows = [
        ("share a genre", shared(near), shared(far)),
        ("cosine of their user sets", cosine(near), cosine(far)),
    ]
    table = pd.DataFrame(rows, columns=["measure", "on_a_path", "anywhere"])
    return table.assign(ratio=table["on_a_path"] / table["anywhere"])


def walk(
    retriever: Retriever, sequences: Sequences, user: int, beam: int | None = None, examples: int = 3
) -> pd.DataFrame:
    """The paths that a user's beam takes before the test item: `path`, `probability`, `items`, `examples`, `holds_next`.

    The most probable path is first; `beam` paths, by default as many as when the model recommends. `holds_next` marks the
    paths that hold the item that came next.
    """
    model, items = paths_of(retriever)
    found = PathBeam.of(model, items, beam)
    state = queries(retriever, sequences, np.array([user]))
    best = found.walker.beam(state, found.beam, found.within)
    target = int(sequences.targets(np.array(user)))
    held = _on_paths(items, sequences).sort_values("interactions", ascending=False)
    rows = []
    for code, log_prob in zip(best.paths[0].tolist(), best.log_probs[0].tolist(), strict=True):
        on = held[held["code"] == code]
        rows.append(
            {
                "path": _name(code, model),
                "probability": float(np.exp(log_prob)),
                "items": len(on),
                "examples": " · ".join(on["title"].head(examples)),
                "holds_next": bool((on["row"] == target - 1).any()),
            }
        )
    return pd.DataFrame(rows)


def beam_recall(
    retriever: Retriever, sequences: Sequences, widths: Sequence[int], users: int = 500, k: int = 10
) -> pd.DataFrame:
    """What a wider beam finds: `beam`, `recall` of brute force's best `k`, `scored` (mean share of the corpus), `hit_rate`.

    Of the first `users` test users; `hit_rate` is HR@k of their test items, `of_brute_force` its share of brute force's.
    `popular_of_brute_force` is that share for a null model with equal work: the same reranker over an equal number of the
    items most popular in training.
    """
    model, items = paths_of(retriever)
    queried = sequences.users_with("test")[:users]
    state = queries(retriever, sequences, queried)
    exclude = torch.from_numpy(sequences.history(queried))
    targets = torch.from_numpy(sequences.targets(queried))[:, None]
    brute_force, counts = BruteForce(model, items), popularity(sequences)
    whole = brute_force.search(state, k, exclude).ids
    hits = (whole == targets).sum()
    rows = []
    for width in widths:
        found = PathBeam.of(model, items, width).search(state, k, exclude)
        scored = float(found.num_scored.double().mean())
        popular = torch.from_numpy(most_popular(counts, round(scored)))
        cut = brute_force.search(state, k, exclude, popular).ids
        rows.append(
            {
                "beam": width,
                "recall": float((found.ids[:, :, None] == whole[:, None]).any(2).double().mean()),
                "scored": scored / len(items),
                "hit_rate": float((found.ids == targets).any(1).double().mean()),
                "of_brute_force": float((found.ids == targets).sum() / hits),
                "popular_of_brute_force": float((cut == targets).sum() / hits),
            }
        )
    return pd.DataFrame(rows)


def _on_paths(items: DeepRetrievalItems, sequences: Sequences) -> pd.DataFrame:
    """One row per item and path: `code`, `row` of the item, `title`, `genres`, `interactions`."""
    count = items.paths.shape[1]
    rows = np.repeat(np.arange(len(items)), count)
    met = popularity(sequences)
    return pd.DataFrame(
        {
            "code": items.paths.flatten().numpy(),
            "row": rows,
            "title": sequences.items["title"].to_numpy()[rows],
            "genres": np.asarray(_genres(sequences), dtype=object)[rows],
            "interactions": met[rows],
        }
    )


def _genres(sequences: Sequences) -> list[str]:
    if "genres" not in sequences.items:
        return [""] * sequences.num_items
    genres: list[str] = sequences.items["genres"].fillna("").tolist()
    return genres


def _user_sets(sequences: Sequences) -> torch.Tensor:
    """Rows of unit length, one per item: its users (N, U), sparse."""
    users = np.repeat(np.arange(sequences.num_users), sequences.lengths)
    pairs = np.unique((sequences.item_ids - 1) * sequences.num_users + users)
    where = torch.from_numpy(np.stack([pairs // sequences.num_users, pairs % sequences.num_users]))
    counts = torch.bincount(where[0], minlength=sequences.num_items).float()
    shape = (sequences.num_items, sequences.num_users)
    return torch.sparse_coo_tensor(where, counts.rsqrt()[where[0]], shape, check_invariants=False).coalesce()


def _name(code: int, model: DeepRetrieval) -> str:
    nodes = decode_paths(torch.tensor(code), *model.shape)
    return "·".join(str(node) for node in nodes.tolist())
