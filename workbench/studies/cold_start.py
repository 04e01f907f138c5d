"""Users with features only and songs with published embeddings (Deezer): a tower, a similarity, and its training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from workbench import runtime, similarities
from workbench.contracts import ItemState, QueryState
from workbench.data.deezer import Deezer, Listeners
from workbench.evaluation.relevant import Relevant, list_metrics
from workbench.search.brute_force import BruteForce
from workbench.similarities import DotConfig, SimilarityConfig, SparCodeConfig
from workbench.similarities.sparcode.quantizer import QuantizerConfig
from workbench.training.losses import LossConfig, draw, loss

KS = (20, 50)
METRICS = tuple(f"{name}@{k}" for k in KS for name in ("P", "R", "NDCG"))
USERS_AT_ONCE = 512


@dataclass(frozen=True)
class ColdConfig:
    """`hidden` widths of the tower over a user's features, `dropout`, the `similarity` with songs; Adam with `learning_rate`.

    In each epoch every training user is one example, with one of their songs drawn at random. If the file has no interactions
    of training users, the `positives` songs nearest to a user's own published embedding are used instead.
    """

    similarity: SimilarityConfig
    hidden: tuple[int, ...] = (256, 256, 256)
    dropout: float = 0.1
    epochs: int = 50
    batch_size: int = 512
    learning_rate: float = 1e-3
    loss: LossConfig = field(default_factory=lambda: LossConfig(negatives="shared", count=512))
    positives: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.positives, *self.hidden, 1) < 1:
            raise ValueError(f"epochs, batch_size, positives and hidden must be at least 1: {self}")
        if not 0 <= self.dropout < 1 or not self.learning_rate > 0:
            raise ValueError(f"dropout must lie in [0, 1) and learning_rate be positive: {self}")


_PUBLISHED = SparCodeConfig(
    2, 2, 64, threshold=4.0, aligned=True, quantizer=QuantizerConfig(2, 256, gradient="straight-through")
)
COLD: dict[str, ColdConfig] = {
    "two-tower, inner product": ColdConfig(DotConfig(normalize=False, temperature=1.0)),
    "SparCode": ColdConfig(_PUBLISHED),
    "All-to-All": ColdConfig(replace(_PUBLISHED, quantizer=None)),
}
"""The paper's rows with a DNN on Deezer, with its MLPs of 256 × 3, dropout .1 and Adam 1e-3; K 2, M 2, N 256 (it searches
over them); what is not the paper's: straight-through gradients, and tokenizers with the same initialisation."""


def _given() -> dict[str, ColdConfig]:
    codes = SparCodeConfig(
        2, 2, 64, hidden=(32,), dropout=0.0, threshold=4.0, aligned=True,
        quantizer=QuantizerConfig(2, 64, gradient="straight-through"),
    )  # fmt: skip
    small = ColdConfig(
        DotConfig(normalize=False, temperature=1.0), (256,), epochs=60, batch_size=256,
        loss=LossConfig(negatives="shared", count=128),
    )  # fmt: skip
    return {
        "two-tower, inner product": small,
        "two-tower": replace(small, similarity=DotConfig()),
        "SparCode": replace(small, similarity=codes),
        "All-to-All": replace(small, similarity=replace(codes, quantizer=None)),
    }


GIVEN = _given()
"""`COLD` in half a minute of a core each, for MovieLens 1M in Deezer's shape: one budget and one rate for all."""


class ColdRetriever(nn.Module):
    """An MLP over features, whose output has the width of the songs' embeddings, and a similarity; songs stay as they are."""

    songs: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, config: ColdConfig, data: Deezer) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            widths = (data.train.features.shape[1], *config.hidden)
            layers: list[nn.Module] = []
            for width, following in pairwise(widths):
                layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(config.dropout)]
            self.tower = nn.Sequential(*layers, nn.Linear(widths[-1], data.songs.shape[1]))
            self.similarity = similarities.build(config.similarity, data.songs.shape[1], len(data.songs))
        features = torch.tensor(data.train.features)
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("spread", features.std(0, unbiased=False).clamp(min=1e-6))
        self.register_buffer("songs", torch.tensor(data.songs))

    def query_state(self, features: Float[Tensor, "B F"]) -> QueryState:
        """What the similarity needs of these users; features are standardised by those of the training users."""
        output: Tensor = self.tower((features - self.mean) / self.spread)
        return self.similarity.queries(output, torch.zeros(len(features), dtype=torch.long))

    def item_state(self, rows: Int[Tensor, "N"] | None = None) -> ItemState:
        """What the similarity needs of songs: row r of the table is item r + 1; all by default."""
        rows = torch.arange(len(self.songs)) if rows is None else rows
        return self.similarity.items(self.songs[rows], rows + 1)


def positives(data: Deezer, config: ColdConfig) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets (U + 1,) and concatenated target songs of training users; users without any have an empty part."""
    if len(data.train.songs):
        return data.train.offsets, data.train.songs
    count = min(config.positives, len(data.songs))
    songs = torch.tensor(data.songs)
    nearest = [
        (users @ songs.T).topk(count, dim=1).indices
        for users in torch.tensor(data.users).split(USERS_AT_ONCE)
    ]
    offsets = np.arange(len(data.users) + 1, dtype=np.int64) * count
    return offsets, torch.cat(nearest).flatten().numpy()


def train_cold(data: Deezer, config: ColdConfig) -> ColdRetriever:
    """The retriever after `config.epochs`, in evaluation mode; the same settings and data give the same weights."""
    offsets, songs = positives(data, config)
    users = np.flatnonzero(np.diff(offsets))
    if not len(users):
        raise ValueError("no training user has a song to learn from")
    model = ColdRetriever(config, data).train()
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad], config.learning_rate, betas=(0.9, 0.98)
    )
    features = torch.tensor(data.train.features)
    for epoch in range(config.epochs):
        seed = runtime.derived_seed(config.seed, epoch)
        random, draws = np.random.default_rng(seed), runtime.generator(seed)
        order = random.permutation(users)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for start in range(0, len(order), config.batch_size):
                batch = order[start : start + config.batch_size]
                chosen = songs[offsets[batch] + random.integers(0, offsets[batch + 1] - offsets[batch])]
                targets = torch.from_numpy(chosen) + 1
                candidates = draw(config.loss, targets, len(data.songs), draws)
                asked = targets if candidates is None else torch.cat([targets, candidates.ids.flatten()])
                ids = torch.arange(1, len(data.songs) + 1) if candidates is None else asked.unique()
                rows = torch.zeros(len(data.songs) + 1, dtype=torch.long)
                rows[ids] = torch.arange(len(ids))
                queries, items = model.query_state(features[batch]), model.item_state(ids - 1)
                total = loss(config.loss, model.similarity, queries, items, targets, candidates, rows)
                extra = model.similarity.regularizers(queries, items, rows[targets])
                torch.stack([total, *extra.values()]).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
    return model.eval()


def judge_cold(model: ColdRetriever, part: Listeners, ks: Sequence[int] = KS) -> pd.DataFrame:
    """One row per user of `part` who listened to something, columns as `list_metrics` gives them: every song is a candidate."""
    asked = np.flatnonzero(np.diff(part.offsets))
    found = []
    with torch.no_grad():
        searcher = BruteForce(model.similarity, model.item_state())
        for users in torch.tensor(part.features[asked]).split(USERS_AT_ONCE):
            found.append(searcher.search(model.query_state(users), max(ks)).ids)
    return list_metrics(torch.cat(found).numpy(), _relevant(part, asked), ks)


def over_seeds(data: Deezer, seeds: int = 5, configs: Mapping[str, ColdConfig] = COLD) -> pd.DataFrame:
    """One row per method and metric on the test users: `method`, `metric`, `mean`, `std` over seeds, `seeds`.

    Popularity is the last method and has no seeds; deviations are those of a sample (n − 1). Raises ValueError if `seeds`
    is below 1.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, not {seeds}")
    rows: list[dict[str, object]] = []
    for name, config in configs.items():
        values = pd.DataFrame(
            [
                judge_cold(train_cold(data, replace(config, seed=s)), data.test)[list(METRICS)].mean()
                for s in range(seeds)
            ]
        )
        rows += [
            {"method": name, "metric": m, "mean": v.mean(), "std": v.std(ddof=1), "seeds": seeds}
            for m, v in values.items()
        ]
    popular = judge_popularity(data, data.test)[list(METRICS)].mean()
    rows += [
        {"method": "popularity", "metric": m, "mean": v, "std": float("nan"), "seeds": 1}
        for m, v in popular.items()
    ]
    return pd.DataFrame(rows)


def judge_popularity(data: Deezer, part: Listeners, ks: Sequence[int] = KS) -> pd.DataFrame:
    """As `judge_cold`, with one list for all: the songs by the number of training users that have them as targets."""
    _, songs = positives(data, COLD["SparCode"])
    counts = np.bincount(songs, minlength=len(data.songs))
    best = np.argsort(-counts, kind="stable")[: max(ks)] + 1
    asked = np.flatnonzero(np.diff(part.offsets))
    lists = np.full((len(asked), max(ks)), -1, dtype=np.int64)
    lists[:, : len(best)] = best
    return list_metrics(lists, _relevant(part, asked), ks)


def _relevant(part: Listeners, users: NDArray[np.int64]) -> Relevant:
    counts = np.diff(part.offsets)[users]
    return Relevant(np.concatenate([[0], counts.cumsum()]), part.songs + 1)
