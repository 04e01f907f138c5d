"""The tables on Deep Retrieval: its paper's protocol with baselines, its index next to others, all similarities."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from workbench.anatomy.path_analysis import paths_of
from workbench.baselines.item_cf import ItemCF
from workbench.contracts import ItemState, QueryState, Searcher
from workbench.data import Sequences
from workbench.data.popularity import most_popular, popularity
from workbench.evaluation.latency import in_turns
from workbench.evaluation.relevant import summarize_lists
from workbench.evaluation.retrievers import own_index
from workbench.evaluation.user_split import (
    Find,
    HeldOutUsers,
    UserSplit,
    by_searcher,
    judge,
)
from workbench.models.model_store import TrainedModel
from workbench.models.recommend import queries
from workbench.retriever import Retriever
from workbench.runtime import generator, stopwatch
from workbench.search import BruteForce
from workbench.search.engines.faiss import FaissLists
from workbench.search.indexes import IVF
from workbench.search.inverted_index import InvertedIndex
from workbench.search.path_beam import PathBeam
from workbench.search.tree import TreeBeam, cluster
from workbench.similarities import DeepRetrievalConfig, DotConfig, DotProduct
from workbench.similarities.deep_retrieval.similarity import DeepRetrievalItems, DeepRetrievalQueries
from workbench.similarities.dot import DotItems, DotQueries
from workbench.similarities.sparcode.similarity import SparCode, SparCodeItems
from workbench.studies.frozen_paths import PathFit, learned_paths, residual_paths
from workbench.studies.sparcode import list_quality
from workbench.studies.sparsity import LONGEST, training_codes
from workbench.training.config import TrainingConfig

KS = (10, 50, 200)
BRUTE, FAISS = "brute force", "FAISS IVF"
CELLS = 64
"""Of the FAISS index."""
TIMED = 100
"""Users whose queries are timed."""
SPARSITY = 0.95
"""Of SparCode's index next to the other similarities."""
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
        "Item-CF": ItemCF(split.training, part=None).find,
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


def indexes(
    base: Retriever,
    sequences: Sequences,
    rows: tuple[Tensor, Tensor],
    configs: Mapping[str, DeepRetrievalConfig],
    fit: PathFit,
    joint: Retriever | None = None,
    beams: Sequence[int] = (1, 5, 25, 100),
    probes: Sequence[int] = (1, 4, 16),
    users: int = 2000,
) -> pd.DataFrame:
    """Paths for the frozen queries of a dot product compared with brute force, FAISS and popularity at equal work.

    One row per index and effort: paths learned on `rows` (queries and what they chose) for each of `configs`, those of
    residual k-means, FAISS IVF over the same vectors, and those of `joint`, whose reranker is its own. Test targets of the
    first `users`, histories left out. `index`, `effort`, `HR@10`, `NDCG@10`, `of_brute_force` (NDCG@10 over that of brute
    force with the same scores), `popular_of_brute_force` (the same for as many of the most popular items, scored in full),
    `recall@10` of brute force's list, `share_scored`, `largest_path`, `p50_ms` of one query at a time, all in turns,
    `times_brute_force`.
    """
    asked = sequences.users_with("test")[:users]
    exclude = torch.from_numpy(sequences.history(asked))
    targets = torch.from_numpy(sequences.targets(asked))
    counts = popularity(sequences)
    made: dict[str, Retriever] = {name: learned_paths(base, rows, c, fit)[0] for name, c in configs.items()}
    made["paths of residual k-means"] = residual_paths(base, rows, next(iter(configs.values())), fit.seed)
    if joint is not None:
        made["paths learned jointly, its own reranker"] = joint
    ways: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {}
    work: dict[tuple[str, str], float] = {}
    whole: dict[str, tuple[str, str]] = {}  # of each index, brute force with the same scores
    largest: dict[str, float] = {}
    popular: dict[tuple[str, str], Tensor] = {}
    for name, retriever in made.items():
        model, items = paths_of(retriever)
        states = queries(retriever, sequences, asked)
        brute = BruteForce(model, items)
        reference = BRUTE if retriever is not joint else "brute force of the joint reranker"
        whole[name], whole[reference] = (reference, ""), (reference, "")
        ways[reference, ""], work[reference, ""] = _asking(brute, states, exclude), float(len(items))
        largest[name] = float(items.paths.flatten().unique(return_counts=True)[1].max())
        for beam in beams:
            way = name, f"beam {beam}"
            searcher = PathBeam.of(model, items, beam)
            ways[way] = _asking(searcher, states, exclude)
            work[way] = float(searcher.search(states, 10, exclude).num_scored.double().mean())
            kept = torch.from_numpy(most_popular(counts, round(work[way])))
            popular[way] = brute.search(states, 10, exclude, kept).ids
        if retriever is next(iter(made.values())):
            assert isinstance(states, DeepRetrievalQueries)
            _ask_faiss(ways, work, states.vectors, items, exclude, probes)
            whole[FAISS] = whole[name]
    everyone = torch.arange(len(asked))
    found = {way: find(everyone) for way, find in ways.items()}
    times = in_turns({way: _one(find) for way, find in ways.items()}, TIMED, 2)
    quality = {way: list_quality(ids, targets) for way, ids in found.items()}
    of_popular = {way: list_quality(ids, targets)["NDCG@10"] for way, ids in popular.items()}
    table = []
    for way, ids in found.items():
        best = whole[way[0]]
        table.append(
            {
                "index": way[0], "effort": way[1], "HR@10": quality[way]["HR@10"], "NDCG@10": quality[way]["NDCG@10"],
                "of_brute_force": quality[way]["NDCG@10"] / quality[best]["NDCG@10"],
                "popular_of_brute_force": of_popular.get(way, float("nan")) / quality[best]["NDCG@10"],
                "recall@10": float((ids[:, :, None] == found[best][:, None]).any(2).double().mean()),
                "share_scored": work[way] / sequences.num_items, "largest_path": largest.get(way[0], float("nan")),
                "p50_ms": float(np.median(times[way])),
                "times_brute_force": float(np.median(times[way]) / np.median(times[best])),
            }
        )  # fmt: skip
    return pd.DataFrame(table)


def _asking(searcher: Searcher, states: QueryState, exclude: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda rows: searcher.search(states[rows], 10, exclude[rows]).ids


def _one(find: Callable[[Tensor], Tensor]) -> Callable[[int], Tensor]:
    return lambda query: find(torch.tensor([query]))


def _ask_faiss(
    ways: dict[tuple[str, str], Callable[[Tensor], Tensor]],
    work: dict[tuple[str, str], float],
    vectors: Tensor,
    items: DeepRetrievalItems,
    exclude: Tensor,
    probes: Sequence[int],
) -> None:
    for probe in probes:
        lists = FaissLists(IVF(CELLS, probe), "deep-retrieval", items.ids, items.vectors)

        def find(rows: Tensor, lists: FaissLists = lists) -> Tensor:
            found = lists.lists(vectors[rows], 10, exclude[rows] - 1).rows
            return torch.where(found >= 0, items.ids[found.clamp(min=0)], -1)

        ways[FAISS, f"nprobe {probe}"] = find
        work[FAISS, f"nprobe {probe}"] = float(lists.compared(vectors).double().mean())


def similarities(trained: Mapping[str, TrainedModel], sequences: Sequences) -> pd.DataFrame:
    """All similarities under the leave-one-out protocol, each searched by its own index: quality, latency, bytes, build time.

    `HR@10`, `HR@50`, `NDCG@10` of what the index finds for every test user; `p50_ms` of one query at a time, in turns;
    `mebibytes` of what is searched; `build_seconds` from the weights; `share_scored`: pairs of a query and an item that are
    compared at query time (none by an inverted index, which only adds up stored scores).
    """
    asked = sequences.users_with("test")
    exclude = torch.from_numpy(sequences.history(asked))
    targets = torch.from_numpy(sequences.targets(asked))
    ways: dict[str, Callable[[int], Tensor]] = {}
    rows: dict[str, dict[str, object]] = {}
    for name, model in trained.items():
        retriever = model.retriever()
        with torch.no_grad(), stopwatch(torch.device("cpu")) as watch:
            items = retriever.item_state()
            searcher = _own_searcher(retriever, items, model, sequences)
        states = queries(retriever, sequences, asked)
        found = searcher.search(states, LONGEST, exclude)
        indexed = isinstance(searcher, InvertedIndex)
        held = searcher.size().nbytes if isinstance(searcher, InvertedIndex) else _held(searcher, items)
        rows[name] = {
            "model": name,
            **list_quality(found.ids, targets),
            "searched_by": type(searcher).__name__,
            "share_scored": 0.0 if indexed else float(found.num_scored.double().mean()) / len(items),
            "mebibytes": held / 2**20,
            "build_seconds": watch.seconds,
            "epochs": len(model.history),
        }
        ways[name] = _one(_asking(searcher, states, exclude))
        ways[name](0)  # warms it up
    times = in_turns(ways, TIMED, 1)
    return pd.DataFrame([{**row, "p50_ms": float(np.median(times[name]))} for name, row in rows.items()])


def _held(searcher: Searcher, items: ItemState) -> int:
    return searcher.nbytes() if isinstance(searcher, PathBeam) else items.nbytes()


def _own_searcher(
    retriever: Retriever, items: ItemState, model: TrainedModel, sequences: Sequences
) -> Searcher:
    """The index that a similarity is made for; brute force if it has none of its own.

    SparCode's holds the codes of training positions, at a sparsity of `SPARSITY`.
    """
    similarity = retriever.similarity
    codes = isinstance(similarity, SparCode) and similarity.quantizer is not None
    if codes and isinstance(similarity, SparCode) and isinstance(items, SparCodeItems):
        training = TrainingConfig.from_dict(model.metadata["training"])
        known = training_codes(retriever, sequences, training)
        whole = InvertedIndex.build(similarity, items, known, loosest=float("inf"))
        return whole.at(whole.threshold_for(SPARSITY))
    return own_index(similarity, items) or BruteForce(similarity, items)
