"""Vectors of a corpus kept in less memory, with a bound on what that loses."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.contracts import Upsert
from workbench.similarities.rounding import largest_norm

Precision = Literal["full", "bfloat16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("full", "bfloat16", "int8")
INT8_LARGEST = 127
ROWS_AT_ONCE = 4_096
"""Rows whose errors are measured together."""


@dataclass(frozen=True)
class QuantizedVectors:
    """N vectors (N, …, d), kept as they are ("full"), in bfloat16, or in int8 with one scale per vector.

    `error` is at least the largest |x − x̂| and `norm` at least the largest |x|, where x̂ is what `part` gives back: an inner
    product with x̂ is within |q| · `error` of that with x. Both are float64 scalars, +inf if a vector is not finite.
    """

    values: Tensor
    scales: Tensor | None
    error: Float[Tensor, ""]
    norm: Float[Tensor, ""]

    @classmethod
    def of(cls, vectors: Float[Tensor, "N *S d"], precision: Precision = "full") -> Self:
        """`vectors` in `precision`; ValueError if there is no such precision."""
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        zero = torch.zeros((), dtype=torch.float64, device=vectors.device)
        match precision:
            case "full":
                stored = cls(vectors, None, zero, zero)
            case "bfloat16":
                stored = cls(vectors.bfloat16(), None, zero, zero)
            case "int8":
                peak = vectors.float().abs().amax(-1, keepdim=True)
                scales = (peak / INT8_LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
                stored = cls((vectors.float() / scales).round().to(torch.int8), scales, zero, zero)
        error = zero
        if precision != "full":
            for start in range(0, len(vectors), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                lost = vectors[rows].double() - stored.part(rows.start, rows.stop).double()
                error = torch.maximum(error, largest_norm(lost))
        return replace(stored, error=error, norm=largest_norm(vectors))

    @classmethod
    def joined(cls, parts: Iterable["QuantizedVectors"], size: int) -> Self:
        """At least one part after the other, `size` vectors in all, in the same precision.

        Each is copied to its place before the next is taken: a part need not be held longer.
        """
        whole: Self | None = None
        start = 0
        for part in parts:
            if whole is None:
                scales = None if part.scales is None else part.scales.new_empty(size, *part.scales.shape[1:])
                values = part.values.new_empty(size, *part.values.shape[1:])
                whole = cls(values, scales, part.error, part.norm)
            rows = slice(start, start + len(part))
            whole.values[rows] = part.values
            if whole.scales is not None and part.scales is not None:
                whole.scales[rows] = part.scales
            error, norm = torch.maximum(whole.error, part.error), torch.maximum(whole.norm, part.norm)
            whole, start = replace(whole, error=error, norm=norm), start + len(part)
        assert whole is not None  # at least one part
        return whole

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dtype(self) -> torch.dtype:
        """What `part` gives: float64 if the vectors were kept so, float32 otherwise."""
        return self.values.dtype if self.values.dtype == torch.float64 else torch.float32

    def nbytes(self) -> int:
        """Bytes that are held."""
        held = [self.values] if self.scales is None else [self.values, self.scales]
        return sum(t.numel() * t.element_size() for t in held)

    def part(self, start: int, stop: int) -> Float[Tensor, "M *S d"]:
        """Rows start..stop, so wide that products are not summed in half precision."""
        values = self.values[start:stop].to(self.dtype)
        return values if self.scales is None else values * self.scales[start:stop]

    def upserted(self, put: Upsert, stored: "QuantizedVectors") -> "QuantizedVectors":
        """These vectors with `stored` put in."""
        return QuantizedVectors(
            put(self.values, stored.values),
            None if self.scales is None or stored.scales is None else put(self.scales, stored.scales),
            torch.maximum(self.error, stored.error),
            torch.maximum(self.norm, stored.norm),
        )

    def kept(self, mask: Bool[Tensor, "N"]) -> "QuantizedVectors":
        """The vectors where `mask`; the errors of all of them still hold."""
        scales = None if self.scales is None else self.scales[mask]
        return replace(self, values=self.values[mask], scales=scales)
