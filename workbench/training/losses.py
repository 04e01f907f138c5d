"""From queries, items and targets to a loss: the choice of negatives, and the loss of their scores."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.contracts import ItemState, QueryState, Similarity

SampledNegatives = Literal["uniform", "shared", "in-batch", "mixed"]
FORBIDDEN = -5e4
"""What replaces the score of a negative that is the positive (the published constant)."""


@dataclass(frozen=True)
class LossConfig:
    """`kind`: softmax over the target and `count` negatives ("sampled softmax"), over all items ("full softmax"), binary
    cross-entropy of each ("bce"), or generalised binary cross-entropy ("gbce"), which raises the positive's probability to a
    power β ≤ 1 to correct for sampling (`calibration` t: 0 no correction; 1 full, σ(φ) is the probability of an interaction).
    `negatives`: `count` items drawn uniformly for each position ("uniform") or once for all positions of the batch ("shared":
    nothing is gathered, so many more cost the same), the distinct targets of the batch ("in-batch"), or those together with
    `count` uniform items shared by the batch ("mixed").
    `log_q`: subtract the logarithm of each in-batch item's sampling probability (Yi et al. 2019; not in the published runs):
    its share of the targets of the batch, or of all that a training pass goes through (`frequencies` "stream", as in the
    paper, which estimates it on the way).
    """

    kind: Literal["sampled softmax", "full softmax", "bce", "gbce"] = "sampled softmax"
    negatives: SampledNegatives = "uniform"
    count: int = 128
    log_q: bool = False
    frequencies: Literal["batch", "stream"] = "batch"
    calibration: float = 0.75

    def __post_init__(self) -> None:
        if self.kind not in ("sampled softmax", "full softmax", "bce", "gbce"):
            raise ValueError(f"unknown loss {self.kind!r}: choose sampled softmax, full softmax, bce or gbce")
        if self.negatives not in ("uniform", "shared", "in-batch", "mixed"):
            raise ValueError(
                f"unknown negatives {self.negatives!r}: choose uniform, shared, in-batch or mixed"
            )
        if self.frequencies not in ("batch", "stream"):
            raise ValueError(f"frequencies must be batch or stream, not {self.frequencies!r}")
        if self.count < 1:
            raise ValueError(f"count must be at least 1, not {self.count}")
        if not 0 <= self.calibration <= 1:
            raise ValueError(f"calibration must lie in [0, 1], not {self.calibration}")


@dataclass(frozen=True)
class Candidates:
    """Item ids to score: `ids` (C,) shared by all positions, or (T, C) own to each; `log_q` (C,) or None."""

    ids: Int[Tensor, "*T C"]
    log_q: Float[Tensor, "C"] | None = None


def draw(
    config: LossConfig,
    targets: Int[Tensor, "T"],
    num_items: int,
    generator: torch.Generator,
    frequencies: Float[Tensor, "R"] | None = None,
) -> Candidates | None:
    """The negatives of one step; None for the full softmax, which needs none.

    Uniform negatives are drawn with replacement from 1..num_items. The generator may live on the CPU whatever the device,
    so that the same seed gives the same negatives everywhere. `frequencies[id]`: the share of each item (R = N + 1) among all
    training targets. Raises ValueError if the configuration takes them from the stream and they are not given.
    """
    if config.kind == "full softmax":
        return None
    if config.negatives == "uniform":
        shape = (len(targets), config.count)
        return Candidates(torch.randint(1, num_items + 1, shape, generator=generator).to(targets.device))
    if config.negatives == "shared":
        shared = torch.randint(1, num_items + 1, (config.count,), generator=generator)
        return Candidates(shared.to(targets.device))
    ids, counts = targets.unique(return_counts=True)
    probabilities = counts / len(targets)
    if config.log_q and config.frequencies == "stream":
        if frequencies is None:
            raise ValueError("log_q by the stream's frequencies needs them: give the share of each item")
        probabilities = frequencies.to(targets.device)[ids]
    if config.negatives == "mixed":
        extra = torch.randint(1, num_items + 1, (config.count,), generator=generator).to(targets.device)
        ids = torch.cat([ids, extra])
        probabilities = torch.cat(
            [probabilities, torch.full_like(extra, 1 / num_items, dtype=probabilities.dtype)]
        )
    return Candidates(ids, probabilities.log() if config.log_q else None)


def loss(
    config: LossConfig,
    similarity: Similarity,
    queries: QueryState,
    items: ItemState,
    targets: Int[Tensor, "T"],
    candidates: Candidates | None,
    rows: Int[Tensor, "R"],
) -> Float[Tensor, ""]:
    """The mean loss over T positions.

    `targets` and `candidates` hold item ids; `rows[id]` is the row of `items` that holds an id.

    - sampled softmax: −log exp(φ⁺) / (exp φ⁺ + Σ exp φ⁻), a negative equal to the positive being left out
    - full softmax: −log exp(φ⁺) / Σ_all exp φ
    - bce: −log σ(φ⁺) − mean over negatives of log(1 − σ(φ⁻))
    - gbce: −(β log σ(φ⁺) + Σ log(1 − σ(φ⁻))) / (C + 1), β = t α + 1 − t, α = C / (N − 1) the fraction of the other items that
      is sampled, C negatives that are not the positive (Petrov and Macdonald 2023, "gSASRec")
    """
    target_rows = rows[targets]
    if candidates is None:
        return F.cross_entropy(similarity.score(queries, items), target_rows)
    negatives = candidates.ids
    if negatives.dim() == 1:
        scores = similarity.score(queries, items[rows[negatives]])  # (T, C)
        positive = similarity.score_candidates(queries, items, target_rows[:, None])  # (T, 1)
        if candidates.log_q is not None:
            # Every target is a candidate here, and comes first as such: after the batch's items come uniform ones.
            first = (negatives == targets[:, None]).int().argmax(1)  # (T,)
            scores, positive = scores - candidates.log_q, positive - candidates.log_q[first, None]
    else:
        both = torch.cat([target_rows[:, None], rows[negatives]], dim=1)
        if config.kind == "sampled softmax":
            return similarity.sampled_softmax(queries, items, both)
        positive, scores = similarity.score_candidates(queries, items, both).split(
            [1, negatives.shape[1]], dim=1
        )
    same: Bool[Tensor, "T C"] = negatives == targets[:, None]
    scores = scores.masked_fill(same, FORBIDDEN)
    if config.kind in ("bce", "gbce"):
        count = (~same).sum(1)
        each, others = F.softplus(-positive[:, 0]), F.softplus(scores).sum(1)
        if config.kind == "bce":
            return (each + others / count.clamp(min=1)).mean()
        # The share of the items but the positive; the first of `rows` is padding.
        sampled = (count / max(1, len(rows) - 2)).clamp(max=1)
        beta = config.calibration * sampled + 1 - config.calibration
        return ((beta * each + others) / (count + 1)).mean()
    return (torch.cat([positive, scores], dim=1).logsumexp(1) - positive[:, 0]).mean()
