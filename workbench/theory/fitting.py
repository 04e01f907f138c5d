"""A similarity between free embeddings, trained to reproduce a target's scores, a few steps at a time."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.similarities import DotConfig, MoLConfig, build
from workbench.theory.floor import best_factors, rank, relative_error, sign_agreement, width_of_floats
from workbench.theory.targets import Target

GATES: dict[str, tuple[str, ...]] = {
    "uniform": (),
    "query only": ("query",),
    "pair only": ("pair",),
    "full": ("query", "item", "pair"),
}
"""Parts of the gate by the name of their ablation; `uniform` gives every component the same weight."""

Start = Literal["random", "spectral", "latents"]
KEPT = 64
RECORDED = 10
"""Steps between two points of a fit's curve."""


@dataclass(frozen=True)
class FitConfig:
    """How a similarity is fitted to a target.

    `similarity`: "dot", or "mol" with `query_groups` × `item_groups` components as wide as the embeddings and a gate made of
    `gate` ("query", "item", "pair"), each with `gate_hidden` units. `width`: floats of each query and item. `steps` of Adam
    over all entries at once, the rate falling from `learning_rate` to 0 by half a cosine. `level`: components are normalised,
    and reach from −`level` to +`level` times the target's largest entry (the constructive proof needs 1; learning goes better
    with room above). `start`: embeddings "random"; or "spectral", the factors of the best dot product of this width; or
    "latents", those that the target was made from. `seed` draws the embeddings and the networks.
    """

    similarity: Literal["dot", "mol"] = "mol"
    width: int = 8
    query_groups: int = 4
    item_groups: int = 4
    gate: tuple[str, ...] = GATES["full"]
    gate_hidden: int = 64
    steps: int = 1000
    learning_rate: float = 0.05
    level: float = 2.0
    start: Start = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "gate", tuple(self.gate))
        if self.similarity not in ("dot", "mol"):
            raise ValueError(f"similarity must be dot or mol, not {self.similarity!r}")
        if self.start not in ("random", "spectral", "latents"):
            raise ValueError(f"start must be random, spectral or latents, not {self.start!r}")
        if min(self.width, self.query_groups, self.item_groups, self.gate_hidden, self.steps) < 1:
            raise ValueError(f"width, groups, gate_hidden and steps must be at least 1: {self}")
        if not (self.learning_rate > 0 and self.level > 0):
            raise ValueError(f"learning_rate and level must be positive: {self}")
        if unknown := set(self.gate) - {"query", "item", "pair"}:
            raise ValueError(f"the gate has the parts query, item and pair; not {', '.join(sorted(unknown))}")

    @property
    def similarity_config(self) -> DotConfig | MoLConfig:
        """The similarity, for scores in units of the target's largest entry: no dropout, no balancing; linear projections."""
        if self.similarity == "dot":
            return DotConfig(normalize=False, temperature=1.0)
        hidden = {part: self.gate_hidden if part in self.gate else None for part in GATES["full"]}
        return MoLConfig(
            query_groups=self.query_groups,
            item_groups=self.item_groups,
            component_dim=self.width,
            temperature=1 / self.level,
            query_projection="linear",
            query_layer_norm=False,
            item_projection="linear",
            item_dropout=0.0,
            gate_query=hidden["query"],
            gate_item=hidden["item"],
            gate_pair=hidden["pair"],
            gate_dropout=0.0,
            balance_weight=0.0,
        )


class _FreeScores(nn.Module):
    """A similarity of two tables of free vectors."""

    query_ids: Tensor
    item_ids: Tensor

    def __init__(self, config: FitConfig, queries: Tensor, items: Tensor) -> None:
        super().__init__()
        self.queries, self.items = nn.Parameter(queries), nn.Parameter(items)
        self.similarity = build(config.similarity_config, config.width)
        self.register_buffer("query_ids", torch.arange(len(queries)))
        self.register_buffer("item_ids", torch.arange(1, len(items) + 1))

    def forward(self) -> Float[Tensor, "B N"]:
        similarity = self.similarity
        return similarity.score(
            similarity.queries(self.queries, self.query_ids), similarity.items(self.items, self.item_ids)
        )


class Fit:
    """A similarity being fitted to a target: `advance` it by some steps, inspect it, advance it further.

    The loss is the squared error over all entries, in units of the target's squares: the square of the relative error. Raises
    ValueError if the start needs latents that the target does not have, or of another width.
    """

    def __init__(self, target: Target, config: FitConfig) -> None:
        self.target, self.config = target, config
        self._scale = float(target.scores.abs().max())
        self._wanted = (target.scores / self._scale).float()
        self._power = self._wanted.square().mean()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            self._model = _FreeScores(config, *_start(target, config))
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=config.learning_rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, config.steps)
        self._curve: list[tuple[int, float]] = []
        self.step = 0

    @property
    def done(self) -> bool:
        """Whether all steps have been taken."""
        return self.step == self.config.steps

    @property
    def parameters(self) -> int:
        """The number of learned parameters: embeddings, projections and gate."""
        return sum(p.numel() for p in self._model.parameters())

    @property
    def equal_width(self) -> int:
        """The width of a dot product with the same number of parameters, rounded."""
        return width_of_floats(self.parameters, *self.target.scores.shape)

    @property
    def curve(self) -> pd.DataFrame:
        """Relative error by `step`, every tenth step and the last: columns `step`, `error`."""
        return pd.DataFrame(self._curve, columns=["step", "error"])

    def advance(self, steps: int | None = None) -> None:
        """Take `steps` steps, or all that are left; no more than are left."""
        left = self.config.steps - self.step
        for _ in range(left if steps is None else min(steps, left)):
            loss = (self._model() - self._wanted).square().mean() / self._power
            if self.step % RECORDED == 0:
                self._curve.append((self.step, float(loss.detach().sqrt())))
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            self._schedule.step()
            self.step += 1
        if left and self.done:
            self._curve.append((self.step, self.error()))

    @torch.no_grad()
    def scores(self) -> Float[Tensor, "B N"]:
        """The current scores, in the target's units; in float64, so that their rank is meaningful."""
        self._model.double()
        scores = self._model() * self._scale
        self._model.float()
        return scores

    def error(self) -> float:
        """The relative error now."""
        return relative_error(self.scores(), self.target.scores)


@lru_cache(maxsize=KEPT)
def fitted(target: Target, config: FitConfig) -> Fit:
    """The finished fit of `target`; recent fits are cached, so that studies which share one do not fit it twice."""
    fit = Fit(target, config)
    fit.advance()
    return fit


def outcome(fit: Fit) -> dict[str, float | int]:
    """The result of a fit: `error`, `signs` (share that agree), `rank` of the scores, `floats`, `equal_width`."""
    scores = fit.scores()
    return {
        "error": relative_error(scores, fit.target.scores),
        "signs": sign_agreement(scores, fit.target.scores),
        "rank": rank(scores),
        "floats": fit.parameters,
        "equal_width": fit.equal_width,
    }


def _start(target: Target, config: FitConfig) -> tuple[Tensor, Tensor]:
    rows, columns = target.scores.shape
    match config.start:
        case "random":
            size = config.width**-0.5
            return torch.randn(rows, config.width) * size, torch.randn(columns, config.width) * size
        case "spectral":
            queries, items = best_factors(target.scores / target.scores.abs().max(), config.width)
        case "latents":
            if target.query_latents is None or target.item_latents is None:
                raise ValueError(
                    f"{target.name} was not made from latents; start from random or spectral ones"
                )
            queries, items = target.query_latents, target.item_latents
            if queries.shape[1] != config.width:
                raise ValueError(
                    f"the latents of {target.name} have width {queries.shape[1]}, the embeddings {config.width}"
                )
    return queries.float(), items.float()
