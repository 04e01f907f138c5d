"""What searchers are measured on: a corpus, queries with histories and targets, and the similarity between them.

Three kinds: a trained checkpoint with real users; random weights at a published size; a trained corpus inflated to any
number of items by a stated rule.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from workbench import runtime
from workbench.contracts import ComponentSimilarity, ItemState, QueryState, Similarity
from workbench.data import DataError, Sequences, load
from workbench.data.examples import users_with
from workbench.evaluation.retrievers import check_same_items
from workbench.models import training_data
from workbench.models.model_store import folder_of
from workbench.models.recommend import queries as asked
from workbench.models.text_heads import documents_of, open_head
from workbench.retriever import Retriever, described, read_metadata
from workbench.similarities import MoLConfig
from workbench.similarities.mol import MixtureOfLogits

ENCODED_TOGETHER = 256
SAMPLE = 256
"""Queries that searchers may learn from, at most; none of them is measured."""

EMBEDDED_TOGETHER = 65_536
"""Items whose state is computed together: their projections stay small compared with the state itself."""


@dataclass(frozen=True)
class Size:
    """A published size: `items` N, embedding width `dim` D, the similarity, and the longest `history` that is masked."""

    items: int
    dim: int
    similarity: MoLConfig
    history: int


SIZES = {
    "ml-1m": Size(3_883, 50, MoLConfig(8, 4, 64), 200),
    "ml-20m": Size(27_278, 256, MoLConfig(8, 4, 128), 200),
    "amazon-books": Size(695_762, 64, MoLConfig(8, 8, 32), 50),
}
"""Corpora and MoL shapes of the published RAILS runs, gates of 128 hidden units; user ids, a matter of the query, left out."""


@dataclass(frozen=True)
class Trained:
    """The corpus and the test users of a checkpoint: its folder, or its name in `ckpts/`. `title` names it in tables."""

    checkpoint: str
    title: str = ""

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.title or Path(self.checkpoint).name

    def num_items(self) -> int:
        """N."""
        return described(folder_of(self.checkpoint))[1]


@dataclass(frozen=True)
class RandomWeights:
    """Fresh weights at a published size: items N(0, 0.02²), queries N(0, 1), histories drawn uniformly; no targets.

    Times are as with trained weights, but gates are flatter, so that bounds prune less.
    Raises ValueError if `size` is not one of `SIZES`.
    """

    size: str

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"no published size {self.size!r}; there are {', '.join(SIZES)}")

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"{self.size}, random weights"

    def num_items(self) -> int:
        """N."""
        return SIZES[self.size].items


@dataclass(frozen=True)
class Inflated:
    """The corpus of a checkpoint, brought to `items` items.

    More than it has: its own items come first, and each further one is the embedding of an item drawn uniformly plus Gaussian
    noise whose expected norm is `noise` times that item's distance to its nearest neighbour. The query side is as trained, so
    that histories and targets stay valid. Fewer: a uniform subset, and no targets.
    Raises ValueError if `items` or `noise` is not positive.
    """

    checkpoint: str
    items: int
    noise: float = 0.5
    title: str = ""

    def __post_init__(self) -> None:
        if self.items < 1 or not self.noise > 0:
            raise ValueError(f"items and noise must be positive, not {self.items} and {self.noise}")

    @property
    def name(self) -> str:
        """What the tables call it."""
        return f"{self.title or Path(self.checkpoint).name}, {self.items:,} items"

    def num_items(self) -> int:
        """N."""
        return self.items


@dataclass(frozen=True)
class TextCorpus:
    """The documents and the test queries of a text head: its folder, or its name in `ckpts/`. `title` names it in tables."""

    head: str
    title: str = ""

    @property
    def name(self) -> str:
        """What the tables call it."""
        return self.title or Path(self.head).name

    def num_items(self) -> int:
        """N."""
        return documents_of(self.head)


Record = TypeVar("Record", QueryState, ItemState)

WorkloadSpec = Trained | RandomWeights | Inflated | TextCorpus


@dataclass(frozen=True)
class Asked:
    """Queries and a corpus under a similarity.

    `exclude`: item ids of each query's history, padded with 0; `targets`: the item that each user took next, 0 if it is
    unknown; `users`: their dense numbers, −1 for queries without a user.
    """

    name: str
    similarity: Similarity
    items: ItemState
    queries: QueryState
    exclude: Int[Tensor, "Q H"]
    targets: Int[Tensor, "Q"]
    users: Int[Tensor, "Q"]

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.items.ids.device

    @property
    def findable(self) -> int:
        """The items that every query may find: all but the longest history."""
        return len(self.items) - int((self.exclude != 0).sum(1).max())

    def batch(self, first: int, size: int) -> tuple[Tensor, QueryState, Tensor]:
        """`size` queries from number `first` on, starting over at the end: their numbers, states, and trimmed histories."""
        rows = torch.arange(first, first + size, device=self.device) % len(self.queries)
        exclude = self.exclude[rows]
        longest = int((exclude != 0).sum(1).max()) if exclude.numel() else 0
        return rows, self.queries[rows], exclude[:, :longest]

    def alone(self, query: int) -> tuple[QueryState, ItemState]:
        """Query number `query` (a batch of one) and the items that it may find; ValueError if there is no such query."""
        if not 0 <= query < len(self.queries):
            raise ValueError(f"query {query} is not one of the {len(self.queries)} of {self.name}")
        return self.queries[query : query + 1], self.items[~torch.isin(self.items.ids, self.exclude[query])]


@dataclass(frozen=True)
class Workload(Asked):
    """What is searched by component scores, and for whom.

    `embeddings` are the raw items, from which the published implementation starts on every call; `items` their state,
    computed once. `sample`: queries of other users, from which a searcher may learn.
    """

    similarity: ComponentSimilarity
    embeddings: Float[Tensor, "N D"]
    sample: QueryState


def build(spec: WorkloadSpec, queries: int, seed: int, device: torch.device) -> Workload:
    """The workload of `spec` with at most `queries` queries: test users drawn with `seed` (no more than half of them, so that
    there is a sample of others), or random ones.

    Raises FileNotFoundError or ValueError if a checkpoint or its data is not there or does not fit.
    """
    if queries < 1:
        raise ValueError(f"a workload needs at least 1 query, not {queries}")
    with torch.no_grad():
        match spec:
            case Trained():
                return _trained(spec, queries, seed, device)
            case RandomWeights():
                return _random(spec, queries, seed, device)
            case Inflated():
                return _inflated(spec, queries, seed, device)
            case TextCorpus():
                return _text(spec, queries, seed, device)


def _opened(folder: Path, device: torch.device) -> tuple[Retriever, Sequences]:
    """The retriever of a checkpoint, and the data that it was trained on."""
    metadata = read_metadata(folder)
    if "dataset" not in metadata:
        raise ValueError(f"{folder} does not say which dataset it was trained on (dataset in config.json)")
    sequences = load(metadata["dataset"])
    if not training_data.have_same_ids(metadata, sequences):
        raise ValueError(
            f"{folder} was trained on other data than the {metadata['dataset']} that is prepared here: other items or users"
        )
    retriever = Retriever.load(folder, device)
    check_same_items(retriever, sequences)
    return retriever, sequences


def _encoded(retriever: Retriever, sequences: Sequences, users: NDArray[np.int64]) -> QueryState:
    parts = np.array_split(users, -(-len(users) // ENCODED_TOGETHER))
    return joined([asked(retriever, sequences, part) for part in parts])


def _trained(spec: Trained, queries: int, seed: int, device: torch.device) -> Workload:
    folder = folder_of(spec.checkpoint)
    retriever, sequences = _opened(folder, device)
    similarity = retriever.similarity
    if not isinstance(similarity, ComponentSimilarity):
        raise ValueError(
            f"{folder} has a {type(similarity).__name__}: the bench needs component scores;"
            " `workbench index build` searches it by brute force"
        )
    users = np.random.default_rng(seed).permutation(_users_with_items_left(sequences))
    measured = min(queries, max(1, len(users) // 2))
    chosen, others = np.sort(users[:measured]), np.sort(users[measured : measured + SAMPLE])
    ids = torch.arange(1, retriever.num_items + 1, device=device)
    last = sequences.target_rows(chosen)
    return Workload(
        name=spec.name,
        similarity=similarity,
        items=retriever.item_state(),
        queries=_encoded(retriever, sequences, chosen),
        exclude=torch.from_numpy(sequences.history(chosen)).to(device),
        targets=torch.from_numpy(sequences.item_ids[last]).to(device),
        users=torch.from_numpy(chosen).to(device),
        embeddings=retriever.item_table(ids),
        sample=_encoded(retriever, sequences, others),
    )


def _users_with_items_left(sequences: Sequences) -> NDArray[np.int64]:
    """Test users whose history leaves something to find; DataError if there is none."""
    users = users_with(sequences, "test")
    long = users[sequences.lengths[users] > sequences.num_items]
    met_all = [u for u in long if len(np.unique(sequences.history(np.array([u])))) == sequences.num_items]
    if len(met_all) == len(users):
        raise DataError(f"every user of {sequences.name} has met all items: there is nothing left to find")
    return np.setdiff1d(users, met_all)


@torch.no_grad()
def under(workload: Workload, checkpoint: str) -> Asked:
    """The same users, asking the same corpus under the similarity of another checkpoint of the same data.

    Raises FileNotFoundError or ValueError if the checkpoint or its data is not there, or does not fit: it has other items
    than the workload (an inflated corpus), or the workload's queries have no users.
    """
    folder = folder_of(checkpoint)
    retriever, sequences = _opened(folder, workload.device)
    if retriever.num_items != len(workload.items):
        raise ValueError(
            f"{folder.name} has an index over the {retriever.num_items:,} items of {sequences.name} alone, and"
            f" {workload.name} has {len(workload.items):,}: choose the corpus as it is"
        )
    users = workload.users.cpu().numpy()
    if (users < 0).any() or (users >= sequences.num_users).any():
        raise ValueError(f"the queries of {workload.name} are not those of users of {sequences.name}")
    last = sequences.targets(users)
    if (last != workload.targets.cpu().numpy()).any():
        raise ValueError(f"{folder.name} was trained on other data than {workload.name}")
    return Asked(
        name=workload.name,
        similarity=retriever.similarity,
        items=retriever.item_state(),
        queries=_encoded(retriever, sequences, users),
        exclude=workload.exclude,
        targets=workload.targets,
        users=workload.users,
    )


def _random(spec: RandomWeights, queries: int, seed: int, device: torch.device) -> Workload:
    size = SIZES[spec.size]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        similarity = MixtureOfLogits(size.similarity, size.dim).eval().to(device)
    random = runtime.generator(runtime.derived_seed(seed, 1))
    embeddings = (0.02 * torch.randn(size.items, size.dim, generator=random)).to(device)
    drawn = torch.randn(queries + SAMPLE, size.dim, generator=random).to(device)
    states = similarity.queries(drawn, torch.zeros(len(drawn), dtype=torch.int64, device=device))
    histories = torch.randint(1, size.items + 1, (queries, size.history), generator=random)
    return Workload(
        name=spec.name,
        similarity=similarity,
        items=item_state(similarity, embeddings),
        queries=states[:queries],
        exclude=histories.to(device),
        targets=torch.zeros(queries, dtype=torch.int64, device=device),
        users=torch.full((queries,), -1, dtype=torch.int64, device=device),
        embeddings=embeddings,
        sample=states[queries:],
    )


def _inflated(spec: Inflated, queries: int, seed: int, device: torch.device) -> Workload:
    base = _trained(Trained(spec.checkpoint), queries, seed, device)
    random = runtime.generator(runtime.derived_seed(seed, 2))
    embeddings = inflate(base.embeddings, spec.items, spec.noise, random)
    targets = base.targets if spec.items >= len(base.items) else torch.zeros_like(base.targets)
    return replace(
        base,
        name=spec.name,
        embeddings=embeddings,
        items=item_state(base.similarity, embeddings),
        targets=targets,
    )


def _text(spec: TextCorpus, queries: int, seed: int, device: torch.device) -> Workload:
    head, encoded = open_head(spec.head)
    head = head.to(device)
    similarity = head.similarity
    if not isinstance(similarity, ComponentSimilarity) or head.reads_tokens[1]:
        raise ValueError(
            f"{spec.name}: searchers here need component scores, and documents as one vector each"
        )
    relevant = encoded.relevant("test")
    drawn = np.random.default_rng(seed).permutation(len(relevant))
    measured = min(queries, max(1, len(drawn) // 2))
    chosen, others = np.sort(drawn[:measured]), np.sort(drawn[measured : measured + SAMPLE])
    texts = encoded.queries("test", tokens=head.reads_tokens[0])
    embeddings = head.document_tower(encoded.documents().vectors.to(device))
    first = torch.from_numpy(relevant.ids[relevant.offsets[chosen]] + 1)
    return Workload(
        name=spec.name,
        similarity=similarity,
        items=item_state(similarity, embeddings),
        queries=head.queries(*texts.batch(chosen)).to(device),
        exclude=torch.zeros(len(chosen), 0, dtype=torch.int64, device=device),
        targets=first.to(device),
        users=torch.full((len(chosen),), -1, dtype=torch.int64, device=device),
        embeddings=embeddings,
        sample=head.queries(*texts.batch(others)).to(device),
    )


def inflate(
    embeddings: Float[Tensor, "M D"], items: int, noise: float, random: torch.Generator
) -> Float[Tensor, "N D"]:
    """`items` embeddings by the rule of `Inflated`; drawn on the CPU, so that every device gets the same."""
    own, width = embeddings.shape
    if items <= own:
        kept = torch.randperm(own, generator=random)[:items].sort().values
        return embeddings[kept.to(embeddings.device)]
    spread = noise * nearest_distances(embeddings) / width**0.5  # deviation per coordinate
    grown = embeddings.new_empty(items, width)
    grown[:own] = embeddings
    for start in range(own, items, EMBEDDED_TOGETHER):
        size = min(EMBEDDED_TOGETHER, items - start)
        origin = torch.randint(own, (size,), generator=random).to(embeddings.device)
        jitter = torch.randn(size, width, generator=random).to(embeddings.device)
        grown[start : start + size] = embeddings[origin] + spread[origin, None] * jitter
    return grown


def nearest_distances(embeddings: Float[Tensor, "M D"]) -> Float[Tensor, "M"]:
    """Each row's Euclidean distance to the nearest other row; 0 for an only row.

    >>> nearest_distances(torch.tensor([[0.0], [1.0], [3.0]])).tolist()
    [1.0, 1.0, 2.0]
    """
    if len(embeddings) < 2:
        return embeddings.new_zeros(len(embeddings))
    parts = []
    for start in range(0, len(embeddings), 2048):
        distances = torch.cdist(embeddings[start : start + 2048], embeddings)
        own = torch.arange(len(distances), device=embeddings.device)
        distances[own, own + start] = float("inf")
        parts.append(distances.amin(1))
    return torch.cat(parts)


def item_state(similarity: ComponentSimilarity, embeddings: Float[Tensor, "N D"]) -> ItemState:
    """The state of items 1..N, computed in parts, held once: it may fill half of the memory and more."""
    total = len(embeddings)
    ids = torch.arange(1, total + 1, device=embeddings.device)
    whole: ItemState | None = None
    for start in range(0, total, EMBEDDED_TOGETHER):
        here = slice(start, start + EMBEDDED_TOGETHER)
        part = similarity.items(embeddings[here], ids[here])
        columns = {f.name: getattr(part, f.name) for f in fields(part)}
        if whole is None:
            blank: dict[str, Any] = {
                n: None if v is None else v.new_empty(total, *v.shape[1:]) for n, v in columns.items()
            }
            whole = replace(part, **blank)
        for name, values in columns.items():
            if values is not None:
                getattr(whole, name)[here] = values
    assert whole is not None  # a workload has items
    return whole


def joined(parts: list[Record]) -> Record:
    """Records of rows, one after the other."""
    if len(parts) == 1:
        return parts[0]
    columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(parts[0])}
    whole: dict[str, Any] = {n: None if v[0] is None else torch.cat(v) for n, v in columns.items()}
    return replace(parts[0], **whole)
