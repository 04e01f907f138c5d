"""Deep Retrieval (Gao et al., CIKM 2021, arXiv 2007.07203): items on learned paths, and a softmax that reranks them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.contracts import AlternatingSimilarity, ItemState, QueryState
from workbench.similarities.deep_retrieval.assignment import (
    PathScores,
    ScoreLists,
    assign,
    describe,
    merge_lists,
)
from workbench.similarities.deep_retrieval.structure import (
    MOST_PATHS,
    NO_PATH,
    Beam,
    PathWalker,
    Prefixes,
    StructureModel,
)
from workbench.similarities.dot import DotConfig, DotItems, DotProduct, DotQueries
from workbench.similarities.registry import register

BEAM_ROWS = 2048
"""Training rows whose beams are searched together: their (rows, B, K) scores stay at some tens of megabytes."""


@dataclass(frozen=True)
class DeepRetrievalConfig:
    """The structure, the reranker and how they learn; the defaults are the paper's for MovieLens 20M if it gives them.

    `depth` D layers of `width` K nodes; `paths` J of each item; nodes embedded in `node_dim`, `hidden` units in each layer's
    MLP. `structure_weight`: weight of −log Σ_j p(π_j | x) relative to the reranker's loss. `alpha`: what the size of a path
    costs. `candidates` S paths are scored per item, found by beams of `candidate_beam`: an item can only come onto a path
    that a beam has found, so narrow ones leave all items on few paths. `passes` of coordinate descent. `beam`: of the search.

    `updates`: "epoch", path scores are computed from the training rows after each epoch, at most `rows` of them; "stream",
    from the batches as they come, every `refresh` steps. Either way the lists before fade with `decay` η (0: they are
    forgotten; the paper's stream has .999). `joint_epochs`: after this many, structure, paths and encoder are fixed and only
    the reranker learns (None: all learn to the end). The reranker is a dot product of the query, `normalize`d and divided by
    `temperature` as in `DotConfig`, with the item's embedding, or with `output_table` with a vector that is the item's as a
    result alone, as in the paper.
    Raises ValueError if a value is out of its range, the paths cannot be numbered by int64, or an item's distinct paths do
    not fit `candidates` or all paths.
    """

    kind: ClassVar[str] = "deep_retrieval"
    depth: int = 3
    width: int = 50
    paths: int = 3
    node_dim: int = 32
    hidden: int = 128
    structure_weight: float = 1.0
    alpha: float = 3e-5
    candidates: int = 20
    candidate_beam: int = 25
    beam: int = 25
    passes: int = 3
    updates: Literal["epoch", "stream"] = "epoch"
    rows: int = 1_000_000
    refresh: int = 100
    decay: float = 0.0
    joint_epochs: int | None = None
    normalize: bool = True
    temperature: float = 0.05
    output_table: bool = False

    def __post_init__(self) -> None:
        whole = (
            "depth",
            "width",
            "paths",
            "node_dim",
            "hidden",
            "candidates",
            "beam",
            "passes",
            "rows",
            "refresh",
        )
        for name in whole:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.width < 2:
            raise ValueError("width K must be at least 2: with one node a layer there is one path for all")
        if self.depth * math.log2(self.width) > math.log2(MOST_PATHS):
            raise ValueError(
                f"{self.width} nodes in {self.depth} layers are 10^{self.depth * math.log10(self.width):.1f} paths, more"
                f" than the {MOST_PATHS:.1e} that can be numbered; choose a smaller width K or depth D"
            )
        if self.paths > self.candidates:
            raise ValueError(
                f"{self.paths} paths of an item cannot be chosen among {self.candidates} candidates; raise candidates S"
            )
        if self.paths > self.width**self.depth:
            raise ValueError(
                f"{self.paths} distinct paths of an item do not fit {self.width**self.depth} paths in all"
            )
        if not (self.structure_weight >= 0 and self.alpha >= 0):
            raise ValueError(
                f"structure_weight and alpha must be 0 or more, not {self.structure_weight} and {self.alpha}"
            )
        if not 0 <= self.decay <= 1:
            raise ValueError(f"decay must lie in [0, 1], not {self.decay}")
        if self.updates not in ("epoch", "stream"):
            raise ValueError(f"updates must be epoch or stream, not {self.updates!r}")
        if self.joint_epochs is not None:
            if self.joint_epochs < 1:
                raise ValueError(f"joint_epochs must be at least 1, or None, not {self.joint_epochs}")
            if not self.output_table:
                raise ValueError(
                    "joint_epochs needs output_table: without it the reranker learns the item embeddings that the"
                    " encoder reads, and the structure would be left behind"
                )
        DotConfig(self.normalize, self.temperature)  # which checks the temperature

    @property
    def num_paths(self) -> int:
        """K^D."""
        return self.width**self.depth


@dataclass(frozen=True)
class DeepRetrievalQueries(QueryState):
    """`vectors` (B, D), the reranker's; `users` (B, D), what the structure model reads."""

    vectors: Float[Tensor, "B D"]
    users: Float[Tensor, "B D"]


@dataclass(frozen=True)
class DeepRetrievalItems(ItemState):
    """`vectors` (N, D), the reranker's; `paths` int64 (N, J), the codes of each item's paths."""

    vectors: Float[Tensor, "N D"]
    paths: Int[Tensor, "N J"]


@register(DeepRetrievalConfig, title="Deep Retrieval", color="#CC79A7")
class DeepRetrieval(
    AlternatingSimilarity[DeepRetrievalQueries, DeepRetrievalItems],
    PathWalker[DeepRetrievalQueries, DeepRetrievalItems],
):
    """φ(q, x) is the reranker's logit; which items are scored at all is for the structure model and its paths to say.

    As a similarity it scores any pair, by the reranker; `search.PathBeam` scores the items on the paths of a query's beam.
    Trained in alternation: by gradient, −log Σ_j p(π_j(y) | x) for fixed paths π together with the reranker's loss; and by
    coordinate descent on path scores for a fixed structure model (see `assignment`). Paths begin at random; every item always
    has J distinct ones. The paths and their score lists are buffers: part of a checkpoint, so that a resumed run continues
    with them.

    Item ids are 1..num_items; row 0 of `paths` is padding's.
    Raises ValueError if `num_items` is below 1.
    """

    paths: Int[Tensor, "R J"]
    list_paths: Int[Tensor, "R S"]
    list_scores: Float[Tensor, "R S"]
    list_counts: Float[Tensor, "R"]

    def __init__(self, config: DeepRetrievalConfig, dim: int, num_items: int) -> None:
        super().__init__()
        if num_items < 1:
            raise ValueError(f"paths are kept for at least one item, not {num_items}")
        self.config = config
        self.num_items = num_items
        self.reranker = DotProduct(DotConfig(config.normalize, config.temperature))
        self.output = nn.Embedding(num_items + 1, dim) if config.output_table else None
        if self.output is not None:
            nn.init.trunc_normal_(self.output.weight, std=0.02)
        self.structure = StructureModel(dim, config.depth, config.width, config.node_dim, config.hidden)
        self.register_buffer("paths", _random_paths(num_items + 1, config.paths, config.num_paths))
        size = (num_items + 1, config.candidates)
        self.register_buffer("list_paths", torch.full(size, NO_PATH))
        self.register_buffer("list_scores", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("list_counts", torch.zeros(num_items + 1, dtype=torch.float64))
        self.joint = True
        self._window: list[tuple[Tensor, Tensor]] = []
        self._before = self.paths.clone()

    @property
    def pair_bytes(self) -> int:
        """Bytes of temporaries per (query, item) pair in `score`: those of a dot product."""
        return self.reranker.pair_bytes

    def queries(
        self, embeddings: Float[Tensor, "B D"], user_ids: Int[Tensor, "B"] | None = None
    ) -> DeepRetrievalQueries:
        """Reranker vectors and structure inputs (B, D). While the reranker learns alone, no gradient goes further back."""
        if self.training and not self.joint:
            embeddings = embeddings.detach()
        return DeepRetrievalQueries(self.reranker.queries(embeddings, user_ids).vectors, embeddings)

    def items(self, embeddings: Float[Tensor, "N D"], ids: Int[Tensor, "N"]) -> DeepRetrievalItems:
        """Reranker vectors (N, D) and paths (N, J) of the items `ids`, each in 1..num_items.

        ValueError if an id lies outside.
        """
        if len(ids) and not 1 <= int(ids.min()) <= int(ids.max()) <= self.num_items:
            wrong = int(ids.min()) if int(ids.min()) < 1 else int(ids.max())
            raise ValueError(
                f"item {wrong} has no path: this model keeps paths for items 1..{self.num_items}; give a new item"
                " its own row of vectors and paths (`place`) in the index"
            )
        own = embeddings if self.output is None else self.output(ids)
        return DeepRetrievalItems(ids, self.reranker.items(own, ids).vectors, self.paths[ids])

    def score(self, queries: DeepRetrievalQueries, items: DeepRetrievalItems) -> Float[Tensor, "B N"]:
        """The reranker's logits of every pair (B, N)."""
        return self.reranker.score(DotQueries(queries.vectors), DotItems(items.ids, items.vectors))

    def score_candidates(
        self, queries: DeepRetrievalQueries, items: DeepRetrievalItems, rows: Int[Tensor, "B C"]
    ) -> Float[Tensor, "B C"]:
        """The reranker's logits of chosen rows (B, C)."""
        return self.reranker.score_candidates(
            DotQueries(queries.vectors), DotItems(items.ids, items.vectors), rows
        )

    def regularizers(
        self, queries: DeepRetrievalQueries, items: DeepRetrievalItems, rows: Int[Tensor, "B"]
    ) -> dict[str, Tensor]:
        """−mean_b log Σ_j p(π_j(y_b) | x_b) on the positive pairs ("structure"), while structure and reranker learn jointly."""
        if not self.joint or not self.config.structure_weight:
            return {}
        log_probs = self.structure.log_probs(queries.users, items.paths[rows])
        return {"structure": -self.config.structure_weight * log_probs.logsumexp(1).mean()}

    @property
    def shape(self) -> tuple[int, int]:
        """(D, K)."""
        return self.config.depth, self.config.width

    def beam(self, queries: DeepRetrievalQueries, width: int, within: Prefixes | None = None) -> Beam:
        """Up to `width` probable paths of each query; see `StructureModel.beam`."""
        return self.structure.beam(queries.users, width, within)

    def paths_of(self, items: DeepRetrievalItems) -> Int[Tensor, "N J"]:
        """The paths of each item, as they were when the item state was made."""
        return items.paths

    # Learning by turns.

    def on_epoch_start(self, epoch: int) -> None:
        """Decide what epoch `epoch` (from 1) trains: everything, or the reranker alone."""
        self.joint = self.config.joint_epochs is None or epoch <= self.config.joint_epochs
        self._before = self.paths.clone()

    def on_batch(self, embeddings: Float[Tensor, "T D"], target_ids: Int[Tensor, "T"]) -> None:
        """One batch of the stream: where paths follow the stream, they are refreshed after every `refresh` of them."""
        if self.joint and self.config.updates == "stream":
            self._window.append((embeddings.detach(), target_ids))
            if len(self._window) >= self.config.refresh:
                self._refresh()

    def on_epoch_end(self, rows: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """The M-step after an epoch; its figures are those of `assignment.describe`. Nothing while the reranker learns alone.

        `rows` are (query embeddings (T, D), target ids (T,)) of the training data; with "stream" updates they are not read,
        and what has been observed since the last refresh is used.
        """
        if not self.joint:
            return {}
        if self.config.updates == "stream":
            self._refresh()
        else:
            self._learn(rows, self.config.rows)
        before, after = self._before[1:].cpu(), self.paths[1:].cpu()
        return describe(before, after, self._lists(), self.config.alpha)

    def path_scores(self, rows: Iterable[tuple[Tensor, Tensor]], most: int | None = None) -> ScoreLists:
        """The lists (num_items + 1, S) of the best paths of each item id, from at most `most` rows."""
        scores = PathScores(self.num_items + 1, self.config.num_paths)
        left = most
        with torch.no_grad():
            for embeddings, ids in rows:
                for start in range(0, len(ids) if left is None else min(left, len(ids)), BEAM_ROWS):
                    end = start + BEAM_ROWS if left is None else min(start + BEAM_ROWS, left)
                    part = self.structure.beam(embeddings[start:end].detach(), self.config.candidate_beam)
                    scores.add(ids[start:end], part)
                if left is not None:
                    left -= min(left, len(ids))
                    if left == 0:
                        break
        return scores.lists(self.config.candidates)

    def place(
        self, embeddings: Float[Tensor, "T D"], ids: Int[Tensor, "T"]
    ) -> tuple[Int[Tensor, "M"], Int[Tensor, "M J"]]:
        """The distinct items of `ids` and J paths for each, from rows of queries that chose them; the rest stays as it is.

        The items may be new to this model: nothing but the structure model and the sizes of its paths is used, and nothing is
        changed. Of its items, those being placed do not count on their old paths.
        """
        items, numbers = ids.unique(return_inverse=True)
        scores = PathScores(len(items), self.config.num_paths)
        with torch.no_grad():
            for start in range(0, len(ids), BEAM_ROWS):
                rows = slice(start, start + BEAM_ROWS)
                scores.add(
                    numbers[rows],
                    self.structure.beam(embeddings[rows], max(self.config.candidate_beam, self.config.paths)),
                )
        lists = scores.lists(self.config.candidates)
        known = torch.arange(1, self.num_items + 1, device=items.device)
        others = self.paths[known[~torch.isin(known, items)]].flatten()
        start_paths = lists.paths[:, : self.config.paths].to(items.device)
        return items, assign(lists, start_paths, self.config.alpha, self.config.passes, others)

    def _refresh(self) -> None:
        if not self._window:
            return
        self._learn(self._window)
        self._window = []

    def _learn(self, rows: Iterable[tuple[Tensor, Tensor]], most: int | None = None) -> None:
        """The M-step: path scores of `rows`, joined with the lists before, and the paths that are best by them."""
        lists = self.path_scores(rows, most)
        if self.config.decay:
            lists = merge_lists(self._lists(padding=True), lists, self.config.decay)
        self._hold(lists)
        chosen = assign(self._lists(), self.paths[1:], self.config.alpha, self.config.passes)
        self.paths[1:] = chosen.to(self.paths.device)

    def _lists(self, padding: bool = False) -> ScoreLists:
        first = 0 if padding else 1
        buffers = self.list_paths, self.list_scores, self.list_counts
        return ScoreLists(*(b[first:].cpu() for b in buffers))

    def _hold(self, lists: ScoreLists) -> None:
        self.list_paths.copy_(lists.paths)
        self.list_scores.copy_(lists.scores)
        self.list_counts.copy_(lists.counts)


def _random_paths(rows: int, count: int, num_paths: int) -> Int[Tensor, "R J"]:
    """`count` distinct paths for each row, uniformly at random, from torch's default generator (see `Retriever`)."""
    paths = torch.randint(num_paths, (rows, count))
    while True:
        ordered = paths.sort(dim=1).values
        again = (ordered[:, 1:] == ordered[:, :-1]).any(1)
        if paths.is_meta or not bool(again.any()):  # a tensor on the meta device has a shape alone
            return paths
        if num_paths <= 8 * count:  # too few to hope for distinct draws
            shuffled = torch.rand(int(again.sum()), num_paths).argsort(1)
            paths[again] = shuffled[:, :count]
        else:
            paths[again] = torch.randint(num_paths, (int(again.sum()), count))
