"""HSTU (Zhai et al. 2024, "Actions Speak Louder than Words"), as configured in the published RAILS runs."""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.contracts import Encoder, SequenceBatch
from workbench.encoders.inputs import OUTPUT_SLOTS, PositionalInput, check_length, last_positions
from workbench.encoders.jagged import ByLength, Group, by_length
from workbench.encoders.registry import register
from workbench.kernels.dropout import kept
from workbench.kernels.hstu_attention import AttentionShape, Events, events, hstu_attention, serves

EPS = 1e-6
TIME_BUCKETS = 128
BUCKET_WIDTH = 0.301
"""Natural logarithm of the ratio of two neighbouring buckets. The published constant looks like log10(2), but the logarithm
is natural: buckets grow by e^0.301 ≈ 1.35. Kept for parity."""


@dataclass(frozen=True)
class HSTUConfig:
    """`blocks` with `heads` of query/key width `qk_dim` and value width `v_dim`; `dropout` of the input and of each output.

    `request_time`: position i sees when the next item was requested (the published behaviour: the time of the request, which
    in evaluation is the target's timestamp). False: it sees only the time of its own item.
    Raises ValueError if a size is below 1, or `dropout` not in [0, 1).
    """

    kind: ClassVar[str] = "hstu"
    blocks: int = 2
    heads: int = 1
    qk_dim: int = 50
    v_dim: int = 50
    dropout: float = 0.2
    request_time: bool = True

    def __post_init__(self) -> None:
        if min(self.blocks, self.heads, self.qk_dim, self.v_dim) < 1:
            raise ValueError(f"blocks, heads, qk_dim and v_dim must be at least 1: {self}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")


class _Lookup(torch.autograd.Function):
    """table[buckets] whose gradient is a histogram: torch's own scatter into a few bins is many times slower on a CPU."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, buckets: Tensor) -> Tensor:
        ctx.save_for_backward(buckets)
        ctx.size = len(table)
        return table[buckets]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (buckets,) = ctx.saved_tensors
        total = torch.bincount(buckets.flatten(), weights=gradients[0].flatten(), minlength=ctx.size)
        return total.to(gradients[0].dtype), None


def time_buckets(later: Int[Tensor, "*#S"], earlier: Int[Tensor, "*#S"]) -> Int[Tensor, "*#S"]:
    """⌊ln(max(1, |later − earlier|)) / 0.301⌋, at most 128: the bucket of a time difference in seconds."""
    seconds = (later - earlier).abs().clamp(min=1)
    return (seconds.float().log() / BUCKET_WIDTH).long().clamp(max=TIME_BUCKETS)


@cache
def _least_seconds() -> Int[Tensor, "R"]:
    """The smallest time difference of each bucket 1, 2, …, 128 of `time_buckets`."""
    low, high = torch.zeros(TIME_BUCKETS, dtype=torch.int64), torch.full((TIME_BUCKETS,), 2**63 - 1)
    while (high - low > 1).any():
        middle = low + (high - low) // 2
        reached = time_buckets(middle, torch.zeros_like(middle)) > torch.arange(TIME_BUCKETS)
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return high


@dataclass(frozen=True)
class Timeline:
    """Histories by length, with the times (B, L) at which each position happened, and at which it was asked for the next."""

    histories: ByLength
    seen_at: Int[Tensor, "B L"]
    happened_at: Int[Tensor, "B L"]

    @cached_property
    def events(self) -> Events:
        """The time buckets of pairs of jagged rows, for the C++ version."""
        whole = self.histories.whole
        seen_at, happened_at = (t.flatten()[whole.positions] for t in (self.seen_at, self.happened_at))
        return events(whole.offsets, seen_at, happened_at, _least_seconds())

    @cached_property
    def buckets(self) -> list[Int[Tensor, "b l l"]]:
        """The time buckets of all pairs of positions, group by group, for the torch version."""
        parts = []
        for group in self.histories.groups:
            rows, longest = group.histories, group.layout.length
            seen_at, happened_at = self.seen_at[rows, :longest], self.happened_at[rows, :longest]
            parts.append(time_buckets(seen_at[:, :, None], happened_at[:, None, :]))
        return parts


class _RelativeBias(nn.Module):
    """rab[i, j] = w_pos[j − i] + w_time[bucket(t_request(i) − t_j)], shared by all heads."""

    def __init__(self, padded_length: int) -> None:
        super().__init__()
        self.padded_length = padded_length
        self.position = nn.Parameter(torch.empty(2 * padded_length - 1).normal_(std=0.02))
        self.time = nn.Parameter(torch.empty(TIME_BUCKETS + 1).normal_(std=0.02))

    def forward(self, buckets: Int[Tensor, "B L L"]) -> Float[Tensor, "B 1 L L"]:
        steps = torch.arange(buckets.shape[-1], device=buckets.device)
        by_position = self.position[steps[None, :] - steps[:, None] + self.padded_length - 1]
        return (by_position + _Lookup.apply(self.time, buckets))[:, None]  # type: ignore[no-untyped-call]


class HSTUBlock(nn.Module):
    """U, V, Q, K = SiLU(LN(x) W); A = SiLU(QKᵀ + rab) / n, causal; out = x + W_o · dropout(U ⊙ LN(A V)).

    n is the constant padded length, not the history's own; there is no 1/√d, and attention has no dropout (published code).
    """

    def __init__(self, config: HSTUConfig, dim: int, padded_length: int) -> None:
        super().__init__()
        self.heads, self.qk_dim, self.v_dim = config.heads, config.qk_dim, config.v_dim
        self.padded_length = padded_length
        self.project_in = nn.Parameter(
            torch.empty(dim, 2 * config.heads * (config.qk_dim + config.v_dim)).normal_(std=0.02)
        )
        self.project_out = nn.Linear(config.heads * config.v_dim, dim)
        nn.init.xavier_uniform_(self.project_out.weight)
        self.bias = _RelativeBias(padded_length)
        self.dropout = config.dropout

    def forward(self, x: Float[Tensor, "T D"], timeline: Timeline) -> Float[Tensor, "T D"]:
        """The layer's output (T, D) for the jagged rows of all histories."""
        projected = F.layer_norm(x, x.shape[-1:], eps=EPS) @ self.project_in
        position, time = self.bias.position, self.bias.time
        dropout = self.dropout if self.training else 0.0
        seed = int(torch.randint(2**62, ())) if dropout else 0
        if serves(projected, position, time):
            sizes = self.heads, self.qk_dim, self.v_dim, self.padded_length
            shape = AttentionShape(*sizes, EPS, dropout, seed)
            return x + self.project_out(hstu_attention(projected, position, time, timeline.events, shape))
        v_width, qk_width = self.heads * self.v_dim, self.heads * self.qk_dim
        u, vqk = F.silu(projected).split([v_width, v_width + 2 * qk_width], dim=-1)
        groups = zip(timeline.histories.groups, timeline.buckets, strict=True)
        attended = torch.cat([self._attend(vqk[group.rows], group, buckets) for group, buckets in groups])
        gated = u * F.layer_norm(attended, (v_width,), eps=EPS)
        if dropout:
            rows = torch.arange(len(gated), device=gated.device)
            gated = gated * kept(dropout, seed, rows, (v_width,)).to(gated.dtype)
        return x + self.project_out(gated)

    def _attend(
        self, vqk: Float[Tensor, "t W"], group: Group, buckets: Int[Tensor, "B L L"]
    ) -> Float[Tensor, "t V"]:
        padded = group.layout.pad(vqk)  # (B, L, W)
        sizes = [self.heads * self.v_dim, self.heads * self.qk_dim, self.heads * self.qk_dim]
        v, q, k = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in padded.split(sizes, dim=-1))
        logits = q @ k.transpose(-1, -2) + self.bias(buckets).to(q.dtype)  # (B, heads, L, L)
        weights = F.silu(logits).tril()
        mixed = (weights @ v) / self.padded_length  # (B, heads, L, v_dim)
        return group.layout.unpad(mixed.transpose(1, 2).flatten(2))


@register(HSTUConfig, title="HSTU", color="#CC79A7", marks=("solid", "square", ""))
class HSTU(Encoder):
    """Hierarchical sequential transduction units with relative position and time bias, on jagged sequences.

    Only valid positions pass through the linear layers; attention runs over groups of histories of like length.
    """

    objective: Literal["next item", "masked item"] = "next item"

    def __init__(self, config: HSTUConfig, dim: int, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.request_time = config.request_time
        self.inputs = PositionalInput(dim, max_length, config.dropout)
        padded_length = max_length + OUTPUT_SLOTS
        self.blocks = nn.ModuleList(HSTUBlock(config, dim, padded_length) for _ in range(config.blocks))

    def _timeline(self, histories: ByLength, batch: SequenceBatch) -> Timeline:
        happened_at, lengths = batch.timestamps[histories.order], batch.lengths[histories.order]
        if not self.request_time:
            return Timeline(histories, happened_at, happened_at)
        requests = batch.need("target_timestamps")[histories.order]
        seen_at = torch.roll(happened_at, -1, dims=1).scatter(1, lengths[:, None] - 1, requests[:, None])
        return Timeline(histories, seen_at, happened_at)

    def forward(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B L D"]:
        """One output per position (B, L, D); position i sees 0..i."""
        check_length(batch, self.max_length)
        histories = by_length(batch.lengths, embeddings.shape[1])
        x, timeline = histories.flat(self.inputs(embeddings, batch)), self._timeline(histories, batch)
        for block in self.blocks:
            x = block(x, timeline)
        return histories.padded(x)

    def encode(self, embeddings: Float[Tensor, "B L D"], batch: SequenceBatch) -> Float[Tensor, "B D"]:
        """The output at the last position (B, D)."""
        return last_positions(self(embeddings, batch), batch)
