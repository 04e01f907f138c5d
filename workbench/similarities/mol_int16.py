"""Mixture-of-Logits in int16: scores with a proved error, at half the cost of float32.

Components, component scores, weights and hidden units are rounded to multiples of a step, and multiplied as integers: such
sums are exact, so that all errors are those of the roundings. What is proved is how far a score can lie from what the float32
kernel computes for the same pair, so both kernels' float arithmetic counts too.

With s, z, h, a, w for component scores, hidden units before and after SiLU, gate before and after SiLU (π = softmax(w)):
|silu′| < 1.1, a rounded matrix is off by σ(W − Ŵ), and an error of its input grows by σ(W) at most, σ the spectral norm. So
|Δz| ≤ σ(W₁) |Δs| + σ(ΔW₁) |s|, |Δh| ≤ 1.1 |Δz| + rounding, |Δa| ≤ σ(W₂) |Δh| + σ(ΔW₂) |h|, |Δw| ≤ 1.1 |Δa|, Euclidean norms
over the components. And for weights π̃ and scores s̃ as they were computed, η = max |Δw_p|:
|φ − φ̃| ≤ max |Δs_p| + e^2η Σ π̃_p |Δw_p| |s̃_p − φ̃| ≤ max |Δs_p| + e^2η |Δw| · |π̃ (s̃ − φ̃)|, because Σ π̃_p (s̃_p − φ̃) = 0.
The last norm is computed for each pair, all else once per query from norms.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int16
from numpy.typing import NDArray
from torch import Tensor, nn

from workbench.contracts import ItemState, Similarity
from workbench.kernels import mixture_int16, mixture_native
from workbench.kernels.mixture_int16 import PRECISE, ROUGH, Int16Gate, Int16Queries
from workbench.similarities.mol import MixtureOfLogits, MoLItems, MoLQueries
from workbench.similarities.rounding import ABOVE, largest_norm, peak, sum_error

MOST = 32_767
SUM = 2.0**31 - 2.0**16
"""What no sum of products may exceed, the half that rounds component scores included."""
LONGEST = 46_000
"""Length of component vectors in steps: the product of two is less than SUM."""
LONGEST_INPUTS, LONGEST_UNITS = 90_000, 65_536
"""Length in steps of the vector of component scores, and of that of hidden units."""
WIDEST = 4_096
SHIFT = 2.0**16
"""Steps of a component score that make one of what enters the gate."""
SLOPE = 1.1
"""More than the largest slope of SiLU, 1.0998."""
TILES_TOGETHER = 16
"""Tiles of items that are rounded together: of all items it would take several times their memory, and few stay in cache."""
SMALLEST_STEP = 1e-15
LARGEST = 1e4
"""Gates beyond are not bounded: exponentials lose precision there."""
LARGEST_EXPONENT = 4.0
UNIT = torch.finfo(torch.float32).eps / 2
UNDERFLOW = 1e-30
"""More than all that underflows."""


class Bounded(NamedTuple):
    """Queries in int16 and whether all their errors are `known`; if not, what is computed of them means nothing."""

    queries: Int16Queries
    known: bool


def serves(similarity: Similarity, items: ItemState) -> bool:
    """Whether there is an `Int16Scores` of these here: a CPU with VNNI, float32, a gate "glu_silu" with a hidden pair part."""
    return (
        isinstance(similarity, MixtureOfLogits)
        and isinstance(items, MoLItems)
        and similarity.config.gate_combination == "glu_silu"
        and bool(similarity.config.gate_pair)
        and similarity.gate_pair is not None
        and similarity.config.component_dim <= WIDEST
        and all(t.dtype == torch.float32 for t in (items.components, items.gate) if t is not None)
        and mixture_native.supports(items.components, items.gate, *similarity.gate_pair.parameters())
        and mixture_int16.tile() > 0
    )


class _Layer(NamedTuple):
    """A linear layer in int16, and norms of it: the spectral ones of the weights and of what they lost, the Frobenius norm, the
    longest row, those of the bias."""

    weights: Int16[Tensor, "R C"]
    scale: Float[Tensor, "R"]
    bias: Float[Tensor, "R"]
    norm: float
    lost: float
    frobenius: float
    row: float
    bias_norm: float
    bias_most: float


def _rounded(linear: nn.Linear, longest_input: float) -> _Layer:
    """The layer, so that no sum overflows if the vector that enters is no longer than `longest_input` steps."""
    exact = linear.weight.detach().double()
    rows = exact.norm(dim=1)
    scale = torch.maximum(rows * longest_input / (0.999 * SUM), exact.abs().amax(1) / MOST)
    scale = (scale * ABOVE).clamp(min=SMALLEST_STEP).float()
    steps = (exact / scale.double()[:, None]).round()
    assert float(steps.norm(dim=1).amax()) * longest_input < SUM and float(steps.abs().amax()) <= MOST
    bias = torch.zeros(len(exact)) if linear.bias is None else linear.bias.detach().float()

    def spectral(matrix: Tensor) -> float:
        return ABOVE * float(torch.linalg.matrix_norm(matrix, 2))

    return _Layer(
        steps.to(torch.int16), scale, bias, spectral(exact), spectral(exact - steps * scale.double()[:, None]),
        ABOVE * float(exact.norm()), ABOVE * float(rows.amax()), ABOVE * float(bias.double().norm()),
        float(bias.abs().amax()),
    )  # fmt: skip


def _even(layer: _Layer, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, scales and biases with rows and columns of zeros up to these numbers."""
    weights = layer.weights.new_zeros(rows, columns)
    weights[: len(layer.weights), : layer.weights.shape[1]] = layer.weights
    missing = (0, rows - len(layer.bias))
    return weights, nn.functional.pad(layer.scale, missing), nn.functional.pad(layer.bias, missing)


class Int16Scores:
    """Scores of a corpus in int16, each with bounds of what float32 gives for it; only if `serves` is true.

    All values of `items` must be finite. The weights of the similarity are read once, here.
    """

    def __init__(self, similarity: MixtureOfLogits, items: MoLItems) -> None:
        assert similarity.gate_pair is not None
        first, last = (m for m in similarity.gate_pair if isinstance(m, nn.Linear))
        self._first, self._last = _rounded(first, LONGEST_INPUTS), _rounded(last, LONGEST_UNITS)
        components, hidden = last.weight.shape
        units = hidden + hidden % 2
        self._gate = Int16Gate(
            *_even(self._first, units, components + components % 2), *_even(self._last, components, units)
        )
        self._hidden, self._components = hidden, components
        # Float32 sums of the float32 kernel, and of biases and the gate's parts here.
        self._in_first, self._in_last = (
            sum_error(n, torch.float32) + 16 * UNIT for n in (components, hidden)
        )
        exact = items.components
        longest, largest = float(largest_norm(exact)), peak(exact)
        step = ABOVE * max(longest / LONGEST, largest / MOST, SMALLEST_STEP)
        self._step = float(torch.tensor(step))  # as float32 has it
        self._longest, self._whole = longest, float(largest_norm(exact.flatten(1)))
        self._item_components = mixture_int16.tiles_for(*exact.shape)
        lost = whole_lost = 0.0
        for tiles, part in zip(
            self._item_components.split(TILES_TOGETHER), exact.split(TILES_TOGETHER * self.tile), strict=True
        ):
            rounded = (part / self._step).round_().clamp_(-MOST, MOST)
            mixture_int16.fill(tiles, rounded.to(torch.int16))
            away = part - rounded.mul_(self._step)  # two roundings of float32, relative to the largest value
            lost = max(lost, float(largest_norm(away)))
            whole_lost = max(whole_lost, float(largest_norm(away.flatten(1))))
        slack = 4 * UNIT * largest * exact.shape[2] ** 0.5
        self._lost, self._whole_lost = lost + slack, whole_lost + slack * exact.shape[1] ** 0.5
        self._item_gate = items.gate
        self._item_gate_most = peak(items.gate)
        self._items = len(items)

    def nbytes(self) -> int:
        """Bytes held in addition to the item state."""
        return self._item_components.numel() * self._item_components.element_size()

    @property
    def tile(self) -> int:
        """Blocks of `bounds` start at multiples of this."""
        return self._item_components.shape[3]

    @np.errstate(over="ignore", invalid="ignore")
    def queries(self, queries: MoLQueries) -> Bounded:
        """The queries in int16, and what their scores can be off by; what overflows is not known."""
        f = queries.components.numpy().astype(np.float64)  # numpy: these are many operations on few numbers
        size, groups, width = f.shape
        root = self._components**0.5
        gram = f @ f.transpose(0, 2, 1)
        length = ABOVE * np.sqrt(np.diagonal(gram, axis1=1, axis2=2).max(1))  # (B,)
        largest = np.abs(f).max((1, 2))
        spread = ABOVE * np.sqrt(np.abs(gram).sum(2).max(1))  # at least σ(F)
        logits_norm, most_logit = spread * self._whole, length * self._longest
        step = np.maximum(length / LONGEST, largest / MOST)
        step = np.maximum(step, 1.01 * logits_norm / (self._step * SHIFT * LONGEST_INPUTS))
        step = (np.maximum(step, SMALLEST_STEP) * ABOVE).astype(np.float32)
        exact_step = step.astype(np.float64)
        rounded = np.rint(f / exact_step[:, None, None])
        lost = np.square(f - rounded * exact_step[:, None, None]).sum(2)
        lost_most, lost_whole = ABOVE * np.sqrt(lost.max(1)), ABOVE * np.sqrt(lost.sum(1))
        # Component scores: the rounding of both vectors, and that of float32.
        off = length * self._lost + lost_most * (self._longest + self._lost)
        off_norm = spread * self._whole_lost + lost_whole * (self._whole + self._whole_lost)
        in_single = sum_error(width, torch.float32) * most_logit + UNDERFLOW * (1 + length + self._longest)
        inputs_step = SHIFT * exact_step * self._step
        rounded_inputs = off_norm + root * inputs_step / 2
        first, last = self._first, self._last
        logits_norm = logits_norm + off_norm
        units_norm = first.norm * logits_norm + first.bias_norm
        changed = (
            first.norm * (rounded_inputs + root * in_single)
            + first.lost * (logits_norm + root * inputs_step / 2)
            + self._in_first * (first.frobenius * logits_norm + first.bias_norm)
            + UNDERFLOW
        )
        units_norm = units_norm + changed
        units_most = first.row * logits_norm + first.bias_most + changed
        hidden_step = np.maximum(np.maximum(units_most / 32_000, units_norm / 65_000), SMALLEST_STEP)
        hidden_step = (hidden_step * ABOVE).astype(np.float32)
        units = (
            SLOPE * changed
            + (ROUGH + PRECISE + 4 * UNIT) * units_norm
            + self._hidden**0.5 * hidden_step / 2
            + UNDERFLOW
        )
        outer = self._outer_most(queries)
        gate_most = outer + last.row * units_norm + last.bias_most
        in_sums = self._in_last * (last.frobenius * units_norm + last.bias_norm + root * outer)
        rest = last.lost * (units_norm + units) + in_sums + UNDERFLOW
        of_silu = 2 * PRECISE * gate_most
        weights = SLOPE * (last.norm * units + rest) + root * of_silu
        exponent = SLOPE * (last.row * units + rest) + of_silu
        # Softmax and sum, here and there: relative errors of the powers, and of adding up.
        powers = np.minimum(4e-7 + 2e-7 * (gate_most + 1), 0.1)
        mixed = 2 * powers / (1 - powers) + sum_error(2 * self._components + 24, torch.float32)
        slope = np.exp(2 * np.minimum(exponent, LARGEST_EXPONENT)) * weights * (1 + 8 * powers + 1e-4)
        rounding = (2 + slope) * (mixed + 16 * UNIT) * (most_logit + off)
        offset = (off + in_single + rounding + UNDERFLOW) * ABOVE
        known = (
            (exponent <= LARGEST_EXPONENT)
            & (np.maximum(np.maximum(gate_most, units_norm), logits_norm) <= LARGEST)
            & (logits_norm / inputs_step + root <= LONGEST_INPUTS)
            & (1.001 * units_norm / hidden_step + self._hidden**0.5 <= LONGEST_UNITS)
            & np.isfinite(offset + slope)
        )
        even = np.zeros((size, groups, width + width % 2), np.int16)
        even[..., :width] = np.where(known[:, None, None], rounded, 0)
        logit_step = exact_step * self._step
        return Bounded(
            Int16Queries(
                torch.from_numpy(even), queries.gate,
                *(torch.from_numpy(v.astype(np.float32)) for v in (logit_step, hidden_step, slope, offset)),
            ),
            bool(known.all()),
        )  # fmt: skip

    def _outer_most(self, queries: MoLQueries) -> NDArray[np.float64]:
        """At least the largest part of the gate that does not look at the pair (B,)."""
        if queries.gate is None:
            return np.full(len(queries), self._item_gate_most)
        largest = np.abs(queries.gate.numpy()).max(1).astype(np.float64)
        return largest if self._item_gate is None else largest * self._item_gate_most

    def bounds(
        self, queries: Int16Queries, start: int, stop: int, room: Float[Tensor, "R"] | None = None
    ) -> tuple[Float[Tensor, "B M"], Float[Tensor, "B M"]]:
        """What the float32 score of each pair with rows start..stop is at least, and at most; `start` a multiple of `tile`.

        They are written into `room`, which has at least 2 B M numbers, if it is given.
        """
        stop = min(stop, self._items)
        tiles = self._item_components[start // self.tile : -(-stop // self.tile)]
        gate = None if self._item_gate is None else self._item_gate[start:stop]
        return mixture_int16.bounds(queries, tiles, gate, stop - start, self._gate, room)
