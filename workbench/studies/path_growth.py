"""Deep Retrieval's index next to brute force and FAISS as the corpus grows: synthetic clustered vectors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from workbench.contracts import Searcher
from workbench.evaluation.latency import in_turns
from workbench.runtime import generator, require, stopwatch
from workbench.search import BruteForce
from workbench.search.path_beam import PathBeam
from workbench.similarities import DeepRetrieval, DeepRetrievalConfig
from workbench.similarities.deep_retrieval.similarity import DeepRetrievalItems, DeepRetrievalQueries
from workbench.similarities.dot import unit
from workbench.studies.residual_paths import fit_residual

DIM, PATHS, K = 64, 2, 10
SPREAD, QUERY_SPREAD = 1.0, 0.7
"""Length of the noise around a cluster's centre, and around the item that a query is for, of unit vectors."""
SAMPLE = 50_000
"""Vectors whose residual k-means are the paths."""


@dataclass(frozen=True)
class Corpus:
    """`vectors` (N, DIM) of unit length in clusters of about 200, and `queries` (Q, DIM) near items."""

    vectors: Float[Tensor, "N d"]
    queries: Float[Tensor, "Q d"]

    @classmethod
    def drawn(cls, items: int, queries: int, seed: int = 0) -> "Corpus":
        """A corpus by seed."""
        draws = generator(seed)
        centres = unit(torch.randn(max(8, items // 200), DIM, generator=draws))
        cluster = torch.randint(len(centres), (items,), generator=draws)
        noise = torch.randn(items, DIM, generator=draws).mul_(SPREAD / DIM**0.5)
        vectors = unit(centres[cluster] + noise)
        chosen = torch.randint(items, (queries,), generator=draws)
        near = torch.randn(queries, DIM, generator=draws) * (QUERY_SPREAD / DIM**0.5)
        return cls(vectors, unit(vectors[chosen] + near))


def path_index(vectors: Float[Tensor, "N d"], seed: int = 0) -> tuple[DeepRetrieval, DeepRetrievalItems]:
    """A Deep Retrieval over given vectors: two layers of about √(N / 8) nodes, every item on its two most probable paths."""
    width = max(16, round((len(vectors) / 8) ** 0.5 / 8) * 8)
    config = DeepRetrievalConfig(
        depth=2, width=width, paths=PATHS, node_dim=DIM, hidden=2 * DIM, candidates=PATHS, normalize=False, temperature=1.0
    )  # fmt: skip
    model = DeepRetrieval(config, DIM, len(vectors)).eval()
    draws = generator(seed)
    sample = vectors[torch.randperm(len(vectors), generator=draws)[:SAMPLE]]
    fit_residual(model.structure, sample, draws)
    with torch.no_grad():
        model.paths[1:] = torch.cat([model.structure.beam(part, PATHS).paths for part in vectors.split(8192)])
        items = model.items(vectors, torch.arange(1, len(vectors) + 1))
    return model, items


def growth(
    sizes: Sequence[int], beams: Sequence[int], probes: Sequence[int], queries: int = 128, repeats: int = 3
) -> pd.DataFrame:
    """One row per corpus size and searcher, the best 10 of `queries` queries, one at a time and in turns.

    `items`, `searcher`, `setting` (width of the beam, cells that FAISS looks at), `recall@10` of brute force's list,
    `share_scored`, `p50_ms`, `of_brute_force` (its time over brute force's), `mebibytes` of vectors and index, `build_seconds`.
    """
    faiss = require("faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    rows = []
    for size in sizes:
        corpus = Corpus.drawn(size, queries)
        with stopwatch(torch.device("cpu")) as built:
            model, items = path_index(corpus.vectors)
            path_beam = PathBeam.of(model, items, beams[0])
        brute = BruteForce(model, items)
        states = model.queries(corpus.queries, torch.zeros(queries, dtype=torch.long))
        ways: dict[tuple[str, str], Callable[[int], Tensor]] = {("brute force", ""): _by(brute, states)}
        held = {"brute force": items.vectors.nbytes / 2**20, "path beam": path_beam.nbytes() / 2**20}
        seconds = {"brute force": 0.0, "path beam": built.seconds}
        scored: dict[tuple[str, str], float] = {("brute force", ""): 1.0}
        for beam in beams:
            searcher = PathBeam.of(model, items, beam)
            ways["path beam", f"beam {beam}"] = _by(searcher, states)
            scored["path beam", f"beam {beam}"] = (
                float(searcher.search(states, K).num_scored.double().mean()) / size
            )
        flat = faiss.IndexFlatIP(DIM)
        flat.add(corpus.vectors.numpy())
        ways["FAISS flat", ""], scored["FAISS flat", ""] = _by_faiss(flat, corpus), 1.0
        cells = min(512, max(32, round(size**0.5 / 32) * 32))
        with stopwatch(torch.device("cpu")) as built:
            ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, cells, faiss.METRIC_INNER_PRODUCT)
            ivf.train(corpus.vectors[:SAMPLE].numpy())
            ivf.add(corpus.vectors.numpy())
        held |= {"FAISS flat": held["brute force"], "FAISS IVF": held["brute force"] + 8 * size / 2**20}
        seconds |= {"FAISS flat": 0.0, "FAISS IVF": built.seconds}
        in_cell = np.array([ivf.invlists.list_size(cell) for cell in range(cells)])
        for probe in [probe for probe in probes if probe <= cells]:
            way = "FAISS IVF", f"nprobe {probe}"
            ways[way] = _by_faiss(ivf, corpus, faiss.SearchParametersIVF(nprobe=probe))
            _, near = ivf.quantizer.search(corpus.queries.numpy(), probe)
            scored[way] = float(in_cell[near].sum(1).mean()) / size
        found = {
            way: torch.cat([find(q) for q in range(queries)]) for way, find in ways.items()
        }  # which warms them up
        times = in_turns(ways, queries, repeats)
        whole, slow = found["brute force", ""], float(np.median(times["brute force", ""]))
        for way, ids in found.items():
            rows.append(
                {
                    "items": size, "searcher": way[0], "setting": way[1],
                    "recall@10": float((ids[:, :, None] == whole[:, None]).any(2).double().mean()),
                    "share_scored": scored[way], "p50_ms": float(np.median(times[way])),
                    "of_brute_force": float(np.median(times[way])) / slow,
                    "mebibytes": held[way[0]], "build_seconds": seconds[way[0]],
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _by(searcher: Searcher, states: DeepRetrievalQueries) -> Callable[[int], Tensor]:
    return lambda query: searcher.search(states[query : query + 1], K).ids


def _by_faiss(index: Any, corpus: Corpus, parameters: Any = None) -> Callable[[int], Tensor]:
    asked = corpus.queries.numpy()
    return lambda query: torch.from_numpy(index.search(asked[query : query + 1], K, params=parameters)[1]) + 1
