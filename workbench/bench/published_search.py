"""Top-k of the published RAILS code, run from the user's checkout of it, next to this package's, with the same weights.

Nothing of the checkout is part of this package; its `rails` folder alone is imported.
"""

import importlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.bench.published_code import check_files
from workbench.bench.reference_implementation import HELD_BYTES, pair_bytes
from workbench.bench.roofline import Ceilings, Shape, ceilings
from workbench.bench.workloads import SIZES
from workbench.contracts import ItemState, Searcher
from workbench.runtime import synchronize
from workbench.search import Approximate, BruteForce, Exact, Int16BruteForce
from workbench.similarities import build
from workbench.similarities.mol import MixtureOfLogits, MoLItems

FILES = {
    "rails/indexing/mol_top_k.py": "24c9b4415904ce883626ccfb7a727f0ac32946aa7f00d8eab562255e53d8da66",
    "rails/similarities/layers.py": "d175dd79008011564531ac1e81e6bcc0d64120fb809a66031da48bbb875f628a",
    "rails/similarities/mol/item_embeddings_fns.py": "c651e1046cd879b3e8c349cbe090d588a92e8e1518bf861f21839c682ce10615",
    "rails/similarities/mol/query_embeddings_fns.py": "75cc775dc73514ca301463878e31c57c24338776a824fc44195d01dd249208a9",
    "rails/similarities/mol/similarity_fn.py": "a99e49fecf623204dde939b802e7bc038831acd4c239d4dc4147a0e128532790",
}
"""SHA-256 of the files that a search is made of."""
PUBLISHED = "published code"
CPU = torch.device("cpu")
AGREE = 1e-3
"""How far two scores of a pair may be apart: they are within ±20."""
LAYER_NORM_EPS = 1e-6
TURN_SECONDS = 0.05
"""How long the calls of a turn last at least, after its first."""
DRAWS = 8
"""Sets of rows that the parts alone score in turn."""


@dataclass(frozen=True)
class Way:
    """A way of searching: its `title`, the published module with its settings, and the searchers of ours by label."""

    title: str
    module: str
    ours: Mapping[str, Callable[..., Searcher]]
    settings: dict[str, int] = field(default_factory=dict)

    def candidates(self, components: int) -> int | None:
        """The number of items that it scores at most for a query of a mixture of that many components; None: all."""
        n1, n2 = self.settings.get("k_per_group", 0), self.settings.get("avg_top_k", 0)
        return n1 * components + n2 or None


ALONE = "its parts alone"
"""Of a way with lists: the query's states, the lists and the scores of the pairs, by the same kernels, and nothing else."""
NARROW = "brute force, int16"
"""What scores all pairs in 16 bits first."""
ALL_ITEMS = Way(
    "all items",
    "MoLBruteForceTopK",
    {"brute force": BruteForce, NARROW: Int16BruteForce, "exact with a bound": Exact},
)


def per_component(n1: int) -> Way:
    """The `n1` best items of each component, scored."""
    ours = {"per component": partial(Approximate.of, n1=n1)}
    return Way(f"per component, n1 = {n1}", "MoLNaiveTopK", ours, {"k_per_group": n1})


def average(n2: int) -> Way:
    """The `n2` best items by the average component, scored."""
    return Way(
        f"average, n2 = {n2:,}", "MoLAvgTopK", {"average": partial(Approximate.of, n2=n2)}, {"avg_top_k": n2}
    )


def combined(n1: int, n2: int) -> Way:
    """Both lists, scored."""
    settings = {"k_per_group": n1, "avg_top_k": n2}
    ours = {"combined": partial(Approximate.of, n1=n1, n2=n2)}
    return Way(f"combined, n1 = {n1}, n2 = {n2:,}", "MoLCombTopK", ours, settings)


_SMALL = (ALL_ITEMS, per_component(5), per_component(100), average(500), combined(5, 200))
WAYS = {
    "ml-1m": _SMALL,
    "ml-20m": _SMALL,
    "amazon-books": (ALL_ITEMS, per_component(5), average(200), average(4000), combined(5, 200)),
}
"""What is timed at each size: the settings of Table 5 (MovieLens 1M: those of 20M)."""


class Found(NamedTuple):
    """Scores and ids (B, K), and how many pairs of each query were scored (B,), where that is known."""

    scores: Tensor
    ids: Tensor
    num_scored: Tensor | None = None


TopK = Callable[[Tensor], Found]
"""From query embeddings (B, D) to what is found."""


def check_checkout(folder: Path) -> None:
    """Raises FileNotFoundError if `folder` is no checkout of the published code, ValueError if it is one of another version."""
    check_files(folder, FILES)


def _published_similarity(folder: Path, mol: MixtureOfLogits, dim: int) -> nn.Module:
    """The published module, built as the checkout's own `create_mol_interaction_module` does, with the weights of `mol`."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    load = importlib.import_module
    layers, similarity = load("rails.similarities.layers"), load("rails.similarities.mol.similarity_fn")
    of_query = load("rails.similarities.mol.query_embeddings_fns")
    of_item = load("rails.similarities.mol.item_embeddings_fns")
    c = mol.config

    def projection(kind: str, hidden: int, inputs: int, outputs: int) -> nn.Module:
        if kind == "linear":
            return nn.Linear(inputs, outputs)
        glu = layers.GeGLU if kind == "geglu" else layers.SwiGLU
        return nn.Sequential(glu(in_features=inputs, out_features=hidden), nn.Linear(hidden, outputs))

    def network(hidden: int, bias: bool, inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs, bias=bias))

    assert c.gate_query and c.gate_item and c.gate_pair and not c.user_tables
    module = similarity.MoLSimilarity(
        query_embedding_dim=dim,
        item_embedding_dim=dim,
        dot_product_dimension=c.component_dim,
        query_dot_product_groups=c.query_groups,
        item_dot_product_groups=c.item_groups,
        temperature=c.temperature,
        dot_product_l2_norm=c.normalize,
        query_embeddings_fn=of_query.RecoMoLQueryEmbeddingsFn(
            query_embedding_dim=dim,
            query_dot_product_groups=c.query_groups,
            dot_product_dimension=c.component_dim,
            dot_product_l2_norm=c.normalize,
            proj_fn=partial(projection, c.query_projection, c.query_hidden),
            eps=1e-6,
            uid_embedding_hash_sizes=[],
            uid_dropout_rate=0.0,
        ),
        item_embeddings_fn=of_item.RecoMoLItemEmbeddingsFn(
            item_embedding_dim=dim,
            item_dot_product_groups=c.item_groups,
            dot_product_dimension=c.component_dim,
            dot_product_l2_norm=c.normalize,
            proj_fn=partial(projection, c.item_projection, c.item_hidden),
            eps=1e-6,
        ),
        item_proj_fn=None,
        gating_query_only_partial_fn=partial(network, c.gate_query, False),
        gating_item_only_partial_fn=partial(network, c.gate_item, False),
        gating_qi_partial_fn=partial(network, c.gate_pair, True),
        gating_combination_type=c.gate_combination,
        gating_normalization_fn=lambda logits: similarity.SoftmaxDropoutCombiner(dropout_rate=0.0, eps=1e-6),
        eps=1e-6,
    ).eval()
    gating = module._gating_fn
    parts: list[tuple[nn.Module | None, nn.Module]] = [
        (mol.query_network, module._query_embeddings_fn),
        (mol.item_network, module._item_embeddings_fn),
        (mol.gate_query, gating._query_only_partial_module),
        (mol.gate_item, gating._item_only_partial_module),
        (mol.gate_pair, gating._qi_partial_module),
    ]
    with torch.no_grad():
        for mine, theirs in parts:
            assert mine is not None
            for source, target in zip(mine.parameters(), theirs.parameters(), strict=True):
                assert source.shape == target.shape
                target.copy_(source)
    published: nn.Module = module
    return published


def published_top_k(
    folder: Path,
    mol: MixtureOfLogits,
    embeddings: Float[Tensor, "N D"],
    ids: Int[Tensor, "N"],
    k: int,
    way: Way = ALL_ITEMS,
) -> TopK:
    """The published search of these items in that way; raises as `check_checkout` does."""
    check_checkout(folder)
    module = _published_similarity(folder, mol, embeddings.shape[1]).to(embeddings.device)
    indexing: Any = importlib.import_module("rails.indexing.mol_top_k")
    search = getattr(indexing, way.module)(module, embeddings[None], ids[None], **way.settings)

    def top_k(queries: Tensor) -> Found:
        normed = F.layer_norm(queries, queries.shape[-1:], eps=LAYER_NORM_EPS)  # as its encoder does
        scores, found = search(normed, k=k)
        return Found(scores[:, :k], found[:, :k])  # its lists per component give all of their candidates

    return top_k


def _own_top_k(searcher: Searcher, mol: MixtureOfLogits, k: int) -> TopK:
    def top_k(queries: Tensor) -> Found:
        found = searcher.search(mol.queries(queries), k)
        return Found(found.scores, found.ids, found.num_scored)

    return top_k


def _parts_alone(
    searcher: Approximate, mol: MixtureOfLogits, items: MoLItems, k: int, pairs: int, size: int
) -> TopK:
    """What is no search: the lists are made, and for each of `size` queries `pairs` items scored.

    These are drawn for each query and call, in ascending order as searches score them: the same ones would stay in the cache.
    """
    source = torch.Generator().manual_seed(0)
    drawn = [
        torch.randint(len(items), (size, pairs), generator=source).sort(1).values.to(items.ids.device)
        for _ in range(DRAWS)
    ]
    every = itertools.cycle(drawn)

    def top_k(queries: Tensor) -> Found:
        states = mol.queries(queries)
        for generator in searcher.generators:
            generator.candidates(states, k, None, None, 1)
        rows = next(every)
        return Found(mol.score_candidates(states, items, rows), rows)

    return top_k


def _least_seconds(
    mol: MixtureOfLogits, items: ItemState, way: Way, narrow: bool, num_scored: Tensor, limits: Ceilings
) -> float:
    """The least time of a call at these ceilings: its operations, and what it reads once.

    Operations: the query side and the pairs that are scored; of lists the inner products of all items in 8 bits, which count a
    quarter; if `narrow`, all pairs in 16 bits, which count half. Read are the weights of the query side, and all items, of
    which a way with lists reads a byte a number and the states of what it scores.
    """
    c, n, size = mol.config, len(items), len(num_scored)
    each = items.nbytes() / n
    shape = Shape(n, c.query_groups, c.item_groups, c.component_dim, c.gate_pair or 0, each)
    sides = [m for m in (mol.query_network, mol.gate_query) if m is not None]
    weights = sum(w.numel() for side in sides for w in side.parameters())
    lists = "k_per_group" in way.settings, "avg_top_k" in way.settings
    products = lists[0] * c.components + lists[1]  # of an item, for lists
    total = int(num_scored.sum())
    operations = (
        (2 * weights + 2 * c.component_dim * products * n / 4) * size
        + shape.pair_operations * (total + narrow * n * size / 2)
    )  # fmt: skip
    read = n * each / (1 + narrow)
    if any(lists):
        read = n * c.component_dim * (lists[0] * c.item_groups + lists[1]) + total * each
    return max(operations / limits.operations, (4 * weights + read) / limits.bytes)


@torch.no_grad()
def compare(
    folder: Path,
    sizes: tuple[str, ...],
    batch_sizes: tuple[int, ...],
    rounds: int,
    k: int = 100,
    seed: int = 0,
    held_bytes: int = HELD_BYTES,
    device: torch.device = CPU,
) -> Iterator[dict[str, Any]]:
    """Times of a call, all implementations of a way in turns (`_turn`), on a device: size, way, items, batch_size,
    implementation, round, seconds, `overlap`, the share of the published code's ids that are found, and `least`, the seconds
    that our call must take at this machine's measured ceilings (`_least_seconds`). For ways with lists there is `ALONE` too,
    which finds nothing.

    Random weights at published sizes; a call starts from query embeddings. All search the same items: for `ALL_ITEMS` as many
    of the size as the published code's temporaries of `held_bytes` allow. Ways with fewer candidates than k are left out.
    Raises as `check_checkout` does, and RuntimeError if the published code finds other scores among all items.
    """
    check_checkout(folder)
    limits = ceilings(device)
    for name in sizes:
        size = SIZES[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            mol = build(size.similarity, size.dim).eval().to(device)
            assert isinstance(mol, MixtureOfLogits)
            embeddings = 0.02 * torch.randn(size.items, size.dim).to(device)
            queries = torch.randn(max(batch_sizes) * (rounds + 1), size.dim).to(device)
        ways = [w for w in WAYS[name] if (w.candidates(mol.config.components) or size.items) >= k]
        for way, batch_size in ((w, b) for w in ways for b in batch_sizes):
            count = size.items
            if way is ALL_ITEMS:
                count = max(k, min(count, held_bytes // (batch_size * pair_bytes(mol))))
            ids = torch.arange(1, count + 1, device=device)
            items = mol.items(embeddings[:count], ids)
            parts = queries[: batch_size * (rounds + 1)].split(batch_size)
            entries = {PUBLISHED: published_top_k(folder, mol, embeddings[:count], ids, k, way)}
            for label, make in way.ours.items():
                searcher = make(mol, items)
                entries[label] = _own_top_k(searcher, mol, k)
                if isinstance(searcher, Approximate):
                    scored = searcher.search(mol.queries(parts[0]), k).num_scored
                    entries[ALONE] = _parts_alone(
                        searcher, mol, items, k, round(float(scored.float().mean())), batch_size
                    )
            for number in range(rounds + 1):  # the first warms up, and is compared
                given = [*parts[number:], *parts[:number]]
                expected: Found | None = None
                for label, top_k in entries.items():
                    found, seconds = _turn(top_k, given)
                    expected = expected or found
                    if not number and way is ALL_ITEMS:
                        _check_agreement(found, expected, f"{name}: {label}")
                    if number:
                        yield {
                            "size": name, "way": way.title, "items": count, "batch_size": batch_size,
                            "implementation": label, "round": number, "seconds": seconds,
                            "overlap": float("nan") if label == ALONE else _overlap(found.ids, expected.ids),
                            "least": float("nan") if found.num_scored is None
                            else _least_seconds(mol, items, way, label == NARROW, found.num_scored, limits),
                        }  # fmt: skip


def _turn(top_k: TopK, batches: Sequence[Float[Tensor, "B D"]]) -> tuple[Found, float]:
    """What is found for the first of the batches, and the seconds of a call: the mean of a few in a row after that one.

    The first brings weights and items back into the caches that the other implementations filled; they stay there in a service
    of one implementation.
    """
    found, device = top_k(batches[0]), batches[0].device
    synchronize(device)
    start, calls = time.perf_counter(), 0
    for batch in itertools.cycle(batches[1:]):
        top_k(batch)
        synchronize(device)
        calls += 1
        if (spent := time.perf_counter() - start) > TURN_SECONDS:
            break
    return found, spent / calls


def _check_agreement(found: Found, expected: Found, name: str) -> None:
    if float((found.scores - expected.scores).abs().max()) > AGREE:
        raise RuntimeError(f"{name} finds other scores than the {PUBLISHED}")


def _overlap(found: Int[Tensor, "B K"], expected: Int[Tensor, "B K"]) -> float:
    return float((expected[:, :, None] == found[:, None, :]).any(2).float().mean())


def summary(raw: pd.DataFrame) -> pd.DataFrame:
    """Per size, way, batch size and implementation: median milliseconds, and how often the published code takes that time.

    `speed-up` is the median of the ratios of one round, `from` and `to` their quartiles; `overlap` the mean. `at most` is the
    published code's time over the least of ours at the machine's ceilings.
    """
    keys = ["size", "way", "items", "batch_size", "round"]
    published = raw[raw["implementation"] == PUBLISHED].set_index(keys)["seconds"]
    theirs = published.reindex(pd.MultiIndex.from_frame(raw[keys])).to_numpy()
    ratio, most = theirs / raw["seconds"], theirs / raw["least"]
    grouped = raw.assign(ratio=ratio, most=most, ms=1e3 * raw["seconds"]).groupby(
        [*keys[:4], "implementation"], sort=False
    )
    return pd.DataFrame(
        {
            "ms": grouped["ms"].median(),
            "speed-up": grouped["ratio"].median(),
            "from": grouped["ratio"].quantile(0.25),
            "to": grouped["ratio"].quantile(0.75),
            "at most": grouped["most"].median(),
            "overlap": grouped["overlap"].mean(),
        }
    ).reset_index()


AIM, AIM_OF_BOOKS, AIM_OF_ONE = 8, 16, 6
"""How many times the published code's speed is aimed at; for all items of Amazon Books; for all of MovieLens with one query."""


def aims(table: pd.DataFrame) -> str:
    """How often the aims are reached, by the fastest of our implementations of a way, what was found, and what keeps the others
    from it: the machine's ceilings, or the parts that a search with lists is made of."""
    keys = ["size", "way", "batch_size"]
    ours = table[~table["implementation"].isin([PUBLISHED, ALONE])]
    best = ours.loc[ours.groupby(keys, sort=False)["speed-up"].idxmax()].reset_index(drop=True)
    alone = table[table["implementation"] == ALONE].set_index(keys)["speed-up"]
    best["alone"] = alone.reindex(pd.MultiIndex.from_frame(best[keys])).to_numpy()
    whole = best["way"] == ALL_ITEMS.title
    aim = pd.Series(AIM, index=best.index)
    aim[whole & (best["batch_size"] == 1)] = AIM_OF_ONE
    aim[whole & (best["size"] == "amazon-books")] = AIM_OF_BOOKS
    parts, missed = [], best["speed-up"] < aim
    for what, rows in (("all items", whole), ("lists", ~whole)):
        found = best.loc[rows, "speed-up"]
        if len(found):
            reached = int((found >= aim[rows]).sum())
            parts.append(
                f"with {what} in {reached} of {len(found)} cases ({found.min():.1f} to {found.max():.1f} times)"
            )
    text = f"The aim is reached {', '.join(parts)}."
    if missed.any():
        beyond = missed & (best["at most"] < aim)
        without = missed & ~beyond & (best["alone"] < aim)
        share = (best["speed-up"] / best["at most"])[missed].median()
        text += (
            f" Of the {missed.sum()} cases that miss it, the machine's measured ceilings put it out of reach in {beyond.sum()},"
            f" in {without.sum()} more the query's side, the lists and the scores take too long by themselves; half of all that"
            f" miss it take more than {1 / share:.1f} times the least time."
        )
    return text


def speed_ups(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `summary` with a row per size, way and implementation of ours, and the speed-ups by batch size as text."""
    ours = table[table["implementation"] != PUBLISHED]
    most = ", at most " + ours["at most"].map("{:.0f}".format)
    cell = (
        ours["speed-up"].map("{:.1f}".format)
        + " (" + ours["from"].map("{:.1f}".format) + " to " + ours["to"].map("{:.1f}".format) + ")"
        + most.where(ours["at most"].notna(), "") + "; " + ours["ms"].map("{:.2f} ms".format)
    )  # fmt: skip
    keys = ["size", "way", "implementation"]
    wide = ours.assign(cell=cell).pivot(index=keys, columns="batch_size", values="cell")
    wide = wide.reindex(pd.MultiIndex.from_frame(ours[keys].drop_duplicates()))
    wide.columns = [f"{batch} at once" for batch in wide.columns]
    overlap = (
        ours.groupby(keys, sort=False)["overlap"].mean().map("{:.3f}".format, na_action="ignore").fillna("")
    )
    items = ours.groupby(keys, sort=False)["items"].max().map("{:,}".format)
    return wide.assign(items=items, overlap=overlap).reset_index()
