"""The tables on Deep Retrieval: its protocol with baselines, beams, numbers of paths, penalties, latency, all similarities."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from workbench.anatomy.path_analysis import paths_of
from workbench.baselines.item_cf import ItemCF
from workbench.contracts import ItemState, QueryState, Searcher, Similarity
from workbench.data import Sequences
from workbench.data.popularity import most_popular
from workbench.evaluation.relevant import list_metrics, summarize_lists
from workbench.evaluation.retrievers import own_index
from workbench.evaluation.user_split import (
    Find,
    HeldOutUsers,
    UserSplit,
    ask,
    by_searcher,
    judge,
    relevant_items,
)
from workbench.models.model_store import TrainedModel
from workbench.models.recommend import queries
from workbench.retriever import Retriever
from workbench.runtime import generator, stopwatch
from workbench.search import BruteForce
from workbench.search.inverted_index import InvertedIndex
from workbench.search.path_beam import PathBeam
from workbench.search.tree import TreeBeam, cluster
from workbench.similarities import DeepRetrieval, DeepRetrievalConfig, DotConfig, DotProduct
from workbench.similarities.deep_retrieval.similarity import DeepRetrievalQueries
from workbench.similarities.dot import DotItems, DotQueries
from workbench.similarities.sparcode.similarity import SparCode, SparCodeItems
from workbench.studies.frozen_paths import PathFit, fit_paths
from workbench.training.config import TrainingConfig

KS = (10, 50, 200)
BEAMS = (1, 2, 5, 10, 25, 50, 100)
BRUTE_FORCE = "brute force of the same reranker"


def by_tree(retriever: Retriever, beam: int, seed: int = 0) -> Find:
    """Finding by a beam down a tree of the reranker's item vectors (TDM's index), scored by the same inner products."""
    _, items = paths_of(retriever)
    tree = cluster(items.vectors, generator(seed))
    means = tree.means(items.vectors)
    searcher = TreeBeam(
        DotProduct(DotConfig(normalize=False, temperature=1.0)).eval(),
        DotItems(items.ids, items.vectors),
        tree,
        DotItems(torch.arange(1, len(means) + 1), means),
        beam,
    )

    def find(batch, exclude, k):  # type: ignore[no-untyped-def]
        with torch.no_grad():
            states = retriever.query_state(batch)
        assert isinstance(states, DeepRetrievalQueries)
        return searcher.search(DotQueries(states.vectors), k, exclude).ids

    return find


def baselines(
    trained: Retriever,
    youtube: Retriever,
    split: UserSplit,
    protocol: HeldOutUsers,
    beams: Sequence[int] = (25, 50),
) -> pd.DataFrame:
    """One row per method and metric: `method`, `metric`, `value`, `low`, `high`, `users`; the paper's protocol."""
    model, items = paths_of(trained)
    with torch.no_grad():
        youtube_items = youtube.item_state()
    ways: dict[str, Find] = {
        "Item-CF": ItemCF(split.training).find,
        "YouTube-DNN": by_searcher(youtube, BruteForce(youtube.similarity, youtube_items)),
        "TDM, the same reranker, beam 100": by_tree(trained, 100),
        **{
            f"Deep Retrieval, beam {beam}": by_searcher(trained, PathBeam.of(model, items, beam))
            for beam in beams
        },
        BRUTE_FORCE: by_searcher(trained, BruteForce(model, items)),
    }
    tables = [
        summarize_lists(judge(find, split.held_out, protocol, KS)).assign(method=method)
        for method, find in ways.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    return table[["method", "metric", "value", "low", "high", "users"]]


def beams(
    retriever: Retriever,
    held_out: Sequences,
    protocol: HeldOutUsers,
    popularity: NDArray[np.int64],
    widths: Sequence[int] = BEAMS,
    repeats: int = 5,
) -> pd.DataFrame:
    """What a wider beam finds and costs: one row per width, the last row brute force.

    `P@10`, `R@10`, `F1@10`, `F1@200`, `of_brute_force` (F1@10 over brute force's), `recall@10` (share of its ten found),
    `scored` (mean items scored per query), `share_scored`, `shortfall@200`, `p50_ms` per query in batches of 250, `queries`.
    `popular_of_brute_force` is the null model at equal work: the same reranker over as many items, the most popular ones by
    `popularity`, the counts of the training users; (N,) in the order of the corpus.
    """
    model, items = paths_of(retriever)
    relevant = relevant_items(held_out, protocol)
    searchers: dict[str, Searcher] = {str(w): PathBeam.of(model, items, w) for w in widths}
    searchers["brute force"] = BruteForce(model, items)
    states, excluded = _questions(retriever, held_out, protocol)
    found = {
        name: ask(by_searcher(retriever, searcher), held_out, max(KS), protocol)
        for name, searcher in searchers.items()
    }
    best = found["brute force"][:, :10]
    whole = list_metrics(found["brute force"].numpy(), relevant, KS)["F1@10"].mean()
    # In turns, so that a noisy moment affects all equally.
    times: dict[str, list[float]] = {name: [] for name in searchers}
    for _ in range(repeats):  # the calls above have warmed them up
        for name, searcher in searchers.items():
            with stopwatch(torch.device("cpu")) as watch:
                searcher.search(states, 10, excluded)
            times[name].append(watch.seconds)
    rows = []
    for name, searcher in searchers.items():
        values = list_metrics(found[name].numpy(), relevant, KS).mean()
        answer = searcher.search(states, max(KS), excluded)
        scored = float(answer.num_scored.double().mean())
        popular = torch.from_numpy(most_popular(popularity, round(scored)))
        cut = ask(by_searcher(retriever, searchers["brute force"], popular), held_out, 10, protocol)
        rows.append(
            {
                "beam": name,
                **{m: values[m] for m in ("P@10", "R@10", "F1@10", f"F1@{max(KS)}")},
                "of_brute_force": values["F1@10"] / whole,
                "popular_of_brute_force": list_metrics(cut.numpy(), relevant, (10,))["F1@10"].mean() / whole,
                "recall@10": float((found[name][:, :10, None] == best[:, None]).any(2).double().mean()),
                "scored": scored,
                "share_scored": scored / len(items),
                f"shortfall@{max(KS)}": float(answer.shortfall.double().mean()),
                "p50_ms": 1e3 * float(np.median(times[name])) / len(states),
                "queries": len(states),
            }
        )
    return pd.DataFrame(rows)


def _questions(
    retriever: Retriever, held_out: Sequences, protocol: HeldOutUsers, most: int = 250
) -> tuple[QueryState, Tensor]:
    """The queries of the first users and what is left out for them."""
    kept: list[tuple[QueryState, Tensor]] = []

    def find(batch, exclude, k):  # type: ignore[no-untyped-def]
        if not kept:
            with torch.no_grad():
                kept.append((retriever.query_state(batch)[:most], exclude[:most]))
        return torch.full((len(batch), k), -1)

    ask(find, held_out, 1, protocol)
    return kept[0]


def variants(
    base: Retriever,
    split: UserSplit,
    training: TrainingConfig,
    protocol: HeldOutUsers,
    configs: dict[str, DeepRetrievalConfig],
    fit: PathFit | None = None,
) -> pd.DataFrame:
    """Other numbers of paths and other penalties on the frozen queries and the reranker of `base`: one row per variant.

    `variant`, `paths` J, `alpha`, `P@10`, `F1@10`, `of_brute_force`, `scored`, and the last M-step (`largest path`, …).
    """
    model, items = paths_of(base)
    relevant = relevant_items(split.held_out, protocol)
    whole = ask(by_searcher(base, BruteForce(model, items)), split.held_out, max(KS), protocol)
    best = list_metrics(whole.numpy(), relevant, KS)["F1@10"].mean()
    states, excluded = _questions(base, split.held_out, protocol)
    rows = []
    for name, config in configs.items():
        made, history = fit_paths(base, split.training, training, config, fit)
        searcher = PathBeam.of(*paths_of(made))
        found = ask(by_searcher(made, searcher), split.held_out, max(KS), protocol)
        values = list_metrics(found.numpy(), relevant, KS).mean()
        assert isinstance(states, DeepRetrievalQueries)
        work = searcher.search(states, 10, excluded).num_scored.double().mean()
        last = history.drop(columns=["round"]).iloc[-1]
        rows.append(
            {
                "variant": name, "paths": config.paths, "alpha": config.alpha, "beam": config.beam,
                "P@10": values["P@10"], "F1@10": values["F1@10"], f"F1@{max(KS)}": values[f"F1@{max(KS)}"],
                "of_brute_force": values["F1@10"] / best, "scored": float(work),
                "share_scored": float(work) / len(items), **last.to_dict(),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def latency(
    config: DeepRetrievalConfig,
    sizes: Sequence[int] = (4_000, 20_000, 100_000, 500_000),
    widths: Sequence[int] = (10, 25, 50),
    dim: int = 64,
    batch: int = 32,
    repeats: int = 7,
    seed: int = 0,
) -> pd.DataFrame:
    """Milliseconds per query against the width of the beam and N, with random weights and paths filled evenly.

    One row per size and searcher: `items`, `searcher`, `beam`, `p50_ms`, `scored`, `bytes`, `of_brute_force` (the ratio of the
    medians), timed in turn.
    """
    rows = []
    for size in sizes:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = DeepRetrieval(config, dim, size).eval()
            users, vectors = torch.randn(batch, dim), torch.randn(size, dim)
        with torch.no_grad():
            states = model.queries(users, torch.zeros(batch, dtype=torch.long))
            items = model.items(vectors, torch.arange(1, size + 1))
        searchers: dict[str, Searcher] = {str(w): PathBeam.of(model, items, w) for w in widths}
        searchers["brute force"] = BruteForce(model, items)
        times: dict[str, list[float]] = {name: [] for name in searchers}
        for number in range(repeats + 1):
            for name, searcher in searchers.items():
                with stopwatch(torch.device("cpu")) as watch:
                    searcher.search(states, 10)
                if number:  # the first round warms up
                    times[name].append(1e3 * watch.seconds / batch)
        for name, searcher in searchers.items():
            held = searcher.nbytes() if isinstance(searcher, PathBeam) else items.nbytes()
            rows.append(
                {
                    "items": size, "searcher": "brute force" if name == "brute force" else "path beam", "beam": name,
                    "p50_ms": float(np.median(times[name])), "bytes": held,
                    "scored": float(searcher.search(states, 10).num_scored.double().mean()),
                    "of_brute_force": float(np.median(times[name]) / np.median(times["brute force"])),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def similarities(
    trained: dict[str, TrainedModel], sequences: Sequences, users: int = 256, repeats: int = 5
) -> pd.DataFrame:
    """All similarities under the leave-one-out protocol, each searched by its own index: quality, latency, bytes, build time.

    `HR@10`, `NDCG@10`, `HR@50`, `MRR` as stored; `p50_ms` per query for the best 10 in a batch of `users`, timed in turn;
    `bytes` of the item state and the index; `build_seconds` from the weights; `scored` per query.
    """
    device = torch.device("cpu")
    asked = sequences.users_with("test")[:users]
    exclude = torch.from_numpy(sequences.history(asked, 0))
    searchers: dict[str, tuple[Searcher, QueryState]] = {}
    rows: dict[str, dict[str, object]] = {}
    for name, s in trained.items():
        retriever = s.retriever()
        with torch.no_grad(), stopwatch(device) as watch:
            items = retriever.item_state()
            searcher = _index(retriever.similarity, items)
        states = queries(retriever, sequences, asked)
        searchers[name] = searcher, states
        metrics = s.metrics.set_index("metric")["value"]
        match searcher:
            case PathBeam():
                held = searcher.nbytes()
            case InvertedIndex():
                held = searcher.postings.nbytes()  # the scorer itself never runs
            case _:
                held = items.nbytes()
        rows[name] = {
            "method": name,
            **{m: metrics[m] for m in ("HR@10", "HR@50", "NDCG@10", "MRR")},
            "searched_by": type(searcher).__name__,
            "scored": float(searcher.search(states, 10, exclude).num_scored.double().mean()),
            "bytes": held,
            "build_seconds": watch.seconds,
            "epochs": len(s.history),
        }
    times: dict[str, list[float]] = {name: [] for name in searchers}
    for number in range(repeats + 1):
        for name, (searcher, states) in searchers.items():
            with stopwatch(device) as watch:
                searcher.search(states, 10, exclude)
            if number:
                times[name].append(1e3 * watch.seconds / len(states))
    return pd.DataFrame([{**row, "p50_ms": float(np.median(times[name]))} for name, row in rows.items()])


def _index(similarity: Similarity, items: ItemState) -> Searcher:
    """The index that a similarity is made for; brute force if it has none of its own."""
    if (
        isinstance(similarity, SparCode)
        and isinstance(items, SparCodeItems)
        and similarity.quantizer is not None
    ):
        return InvertedIndex.build(similarity, items)
    return own_index(similarity, items) or BruteForce(similarity, items)
