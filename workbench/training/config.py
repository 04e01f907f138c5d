"""The settings of a training run."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from workbench.data.sequences import Part, Window
from workbench.loading import from_json
from workbench.training.losses import LossConfig

METRICS = ("HR@10", "NDCG@10", "MRR")
"""What is measured after an epoch, and may choose the best one."""


@dataclass(frozen=True)
class TrainingConfig:
    """Optimisation, loss and model choice; the defaults are those of the published ML-1M runs if they exist.

    `epochs` passes over the users in batches of `batch_size`; AdamW with `learning_rate`, `weight_decay`, `betas`; the rate
    rises linearly over `warmup_steps`; gradients are clipped to `clip_norm` (None: not). `loss`. `positions_per_step`: the
    maximum number of positions of a batch, drawn at random, that are trained on (None: all). `horizon`: what a position of a
    "next item" encoder predicts, the item after it or, drawn again each time, any later one (for protocols that evaluate all
    of a user's future). `window`: training histories end with the user's, or anywhere, drawn again in every epoch (see
    `data.Batches`); it matters if histories are longer than what the encoder reads. `mask_probability` and `mask_last_only`:
    of the masked-item objective. `precision`: "bf16" computes under autocast on a GPU; on a CPU, where autocast is slower than
    float32, it rounds the factors of products alone, if the processor has instructions for it (`runtime.bf16_products`). Every
    `validate_every` epochs `metric` is measured on the part `choose_on` ("test" only to compare with published numbers, which
    were chosen there); `patience`: stop after this many evaluations without improvement (None: never). `warm_start`: the
    preset whose trained model, of the same data and seed, training starts from (None: random weights); see
    `training.warm_start`. `seed` decides initialisation, order, negatives and dropout.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    warmup_steps: int = 0
    clip_norm: float | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    positions_per_step: int | None = None
    horizon: Literal["next", "any later"] = "next"
    window: Window = "last"
    mask_probability: float = 0.3
    mask_last_only: float = 0.5
    precision: Literal["fp32", "bf16"] = "fp32"
    validate_every: int = 1
    metric: str = "NDCG@10"
    choose_on: Literal["validation", "test"] = "validation"
    patience: int | None = None
    warm_start: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")
        if self.metric not in METRICS:
            raise ValueError(f"unknown metric {self.metric!r}: choose {', '.join(METRICS)}")
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("positions_per_step", "patience"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, or None, not {getattr(self, name)}")
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and self.warmup_steps >= 0):
            raise ValueError("learning_rate must be positive, weight_decay and warmup_steps at least 0")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be positive, or None, not {self.clip_norm}")
        if not (0 <= self.mask_probability < 1 and 0 <= self.mask_last_only <= 1):
            raise ValueError(
                f"mask_probability must lie in [0, 1) and mask_last_only in [0, 1], not {self.mask_probability} and"
                f" {self.mask_last_only}"
            )
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, not {self.precision!r}")
        if self.horizon not in ("next", "any later"):
            raise ValueError(f"horizon must be next or any later, not {self.horizon!r}")
        if self.window not in ("last", "anywhere"):
            raise ValueError(f"window must be last or anywhere, not {self.window!r}")
        if self.choose_on not in ("validation", "test"):
            raise ValueError(f"choose_on must be validation or test, not {self.choose_on!r}")

    @property
    def part(self) -> Part:
        """What is learned from: the validation targets, too, if the epoch is not chosen on them."""
        return "train" if self.choose_on == "validation" else "train and validation"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The configuration that `to_dict` gave; ValueError if a field is unknown or of another type."""
        try:
            return from_json(cls, {"loss": None, **values})
        except (ValueError, TypeError) as error:
            raise ValueError(f"not a training configuration of this version: {error}") from error
