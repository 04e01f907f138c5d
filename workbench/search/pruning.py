"""What bounds of a mixture's score rule out on a corpus: measured, bound by bound, for a table.

φ = Σ_p π_p s_p with π = softmax(w): given the component scores s and an interval for each w_p, the largest φ has each w_p at
the upper end of its interval for the largest s_p, at the lower end for the others, with one cut in the order of s (the
maximum of a linear-fractional function over a box). The bounds differ in their intervals. Those that presuppose gates which a
search would have to compute first, marked *oracle*, say how good any bound of their kind could be, not what can be had.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from workbench.search.bounds import ComponentBounds
from workbench.search.cells import cells
from workbench.search.quantized_vectors import PRECISIONS
from workbench.similarities.mol import MixtureOfLogits, MoLItems, MoLQueries

SILU_MINIMUM = (-1.2784645, -0.2784645)
"""Where SiLU is least, and what it is there."""

SILU_SLOPE = 1.0998393
"""The largest slope of SiLU."""

CLUSTERS = (16, 64, 256)
KNOWN_TO = (0.1, 0.5, 1.0, 2.0)


class Survivors(NamedTuple):
    """What a bound leaves: `share` (B,) of the corpus whose bound reaches the k-th best score; `oracle`, whether the bound
    takes gates for granted that cost as much as the scores."""

    bound: str
    share: Float[Tensor, "B"]
    oracle: bool


def largest_mixture(
    scores: Float[Tensor, "*S P"], lower: Float[Tensor, "*S P"], upper: Float[Tensor, "*S P"]
) -> Float[Tensor, "*S"]:
    """max Σ softmax(w)_p s_p over lower ≤ w ≤ upper.

    >>> largest_mixture(torch.tensor([2.0, 0.0]), torch.zeros(2), torch.zeros(2))
    tensor(1.)
    """
    ordered, order = scores.sort(dim=-1, descending=True)
    shift = upper.amax(-1, keepdim=True)
    high = (upper - shift).gather(-1, order).exp()
    low = (lower - shift).gather(-1, order).exp()
    # Weights `high` up to the cut and `low` after it: sums from the front, and from the back without the first.
    back = low.flip(-1).cumsum(-1).flip(-1).roll(-1, -1)
    back_scores = (low * ordered).flip(-1).cumsum(-1).flip(-1).roll(-1, -1)
    back[..., -1] = 0
    back_scores[..., -1] = 0
    return (((high * ordered).cumsum(-1) + back_scores) / (high.cumsum(-1) + back)).amax(-1)


@torch.no_grad()
def pruning(
    similarity: MixtureOfLogits, queries: MoLQueries, items: MoLItems, k: int, generator: torch.Generator
) -> Iterator[Survivors]:
    """What each bound leaves to be scored for the best `k`, bound by bound: all temporaries (B, N, P) are held.

    In order: the largest component score, from components in full, bfloat16 and int8 (what `Exact` does); the same from
    the centres and radii of k-means clusters of items; then oracles: the pair gate's range over all items of a query and over
    each cluster, the pair gate known to ± ε; and the gate in bfloat16 with its worst-case error (these only if the gate has a
    pair part). Last, the best k
    alone: what no bound can go below. The gate's combination must be "glu_silu". `generator` draws the first centres.
    Raises ValueError for another gate.
    """
    if similarity.config.gate_combination != "glu_silu":
        raise ValueError(f"intervals are known for glu_silu gates, not {similarity.config.gate_combination}")
    s = similarity.component_logits(queries, items)  # (B, N, P)
    reach = similarity.score(queries, items).topk(k, dim=1).values[:, -1:]

    def left(name: str, bound: Float[Tensor, "B N"]) -> Survivors:
        return Survivors(name, (bound >= reach).float().mean(1), oracle=False)

    for precision in PRECISIONS:
        bounds = ComponentBounds(similarity, items, precision)
        above = bounds.of(bounds.query_vectors(queries), 0, len(items), len(items))
        yield left(f"largest component score, {precision}", above)
    members = {count: cells(items.components.flatten(1), count, generator).member for count in CLUSTERS}
    for count, member in members.items():
        yield left(f"largest component score, {count} clusters", cluster_bounds(queries, items, member))
    if similarity.gate_pair is not None:
        yield from _by_pair_gate(similarity, queries, items, s, reach, members)
    yield Survivors("the best k", torch.full_like(reach[:, 0], k / len(items)), oracle=True)


def _by_pair_gate(
    similarity: MixtureOfLogits,
    queries: MoLQueries,
    items: MoLItems,
    s: Float[Tensor, "B N P"],
    reach: Float[Tensor, "B 1"],
    members: Mapping[int, Int[Tensor, "N"]],
) -> Iterator[Survivors]:
    """What intervals of the pair part of the gate leave."""
    assert similarity.gate_pair is not None
    outer = _outer(queries, items)
    h = similarity.gate_pair(s)

    def left(name: str, low: Tensor, high: Tensor, oracle: bool = True) -> Survivors:
        bound = largest_mixture(s, *silu_interval(outer + low, outer + high))
        return Survivors(name, (bound >= reach).float().mean(1), oracle)

    whole = torch.zeros(len(items), dtype=torch.int64, device=s.device)
    yield left("pair gate within its range, all items", *_range(h, whole))
    for count, member in members.items():
        yield left(f"pair gate within its range, {count} clusters", *_range(h, member))
    for epsilon in KNOWN_TO:
        yield left(f"pair gate to ±{epsilon:g}", h - epsilon, h + epsilon)
    error = half_precision_error(similarity, s)
    yield left("gate in bfloat16, worst case", h - error, h + error, oracle=False)


def _outer(queries: MoLQueries, items: MoLItems) -> Float[Tensor, "B N P"] | float:
    """The part of the gate that is known before any pair is looked at."""
    if queries.gate is None and items.gate is None:
        return 0.0
    if queries.gate is None or items.gate is None:
        one = items.gate if queries.gate is None else queries.gate[:, None]
        assert one is not None
        return one
    return queries.gate[:, None] * items.gate


def silu_interval(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range of SiLU over [low, high], element by element.

    >>> [round(float(x), 4) for x in silu_interval(torch.tensor(-2.0), torch.tensor(0.0))]
    [-0.2785, 0.0]
    """
    place, least = SILU_MINIMUM
    ends = torch.stack([F.silu(low), F.silu(high)])
    lowest = torch.where((low < place) & (high > place), least, ends.amin(0))
    return lowest, ends.amax(0)


def _range(h: Float[Tensor, "B N P"], member: Int[Tensor, "N"]) -> tuple[Tensor, Tensor]:
    """The smallest and the largest h among the items of each item's cluster."""
    index = member[None, :, None].expand_as(h)
    shape = (h.shape[0], int(member.max()) + 1, h.shape[2])
    low = h.new_full(shape, float("inf")).scatter_reduce(1, index, h, "amin")
    high = h.new_full(shape, float("-inf")).scatter_reduce(1, index, h, "amax")
    return low[:, member], high[:, member]


def half_precision_error(similarity: MixtureOfLogits, s: Float[Tensor, "B N P"]) -> Float[Tensor, "B N P"]:
    """How far the pair gate is off at most if s, both layers' weights and the hidden units are rounded to bfloat16 and sums
    are float32: |W₂| (1.1 · 2u |W₁| |s| + 2u |silu(W₁ s + b₁)|), u = 2⁻⁸ a rounding's relative error."""
    assert similarity.gate_pair is not None
    layers = [m for m in similarity.gate_pair if isinstance(m, torch.nn.Linear)]
    u = 2 * 2.0**-8 * (1 + 2.0**-8)
    if len(layers) == 1:
        return u * s.abs() @ layers[0].weight.abs().T
    first, last = layers
    hidden = F.silu(F.linear(s, first.weight, first.bias)).abs()
    before = SILU_SLOPE * u * (s.abs() @ first.weight.abs().T)
    return (before + u * (hidden + before)) @ last.weight.abs().T


def cluster_bounds(queries: MoLQueries, items: MoLItems, member: Int[Tensor, "N"]) -> Float[Tensor, "B N"]:
    """max_p ⟨f_i, c_j⟩ + |f_i| r_j for the centre c_j and the radius r_j of the components of an item's cluster."""
    f, g = queries.components, items.components
    count = int(member.max()) + 1
    sizes = member.bincount(minlength=count)[:, None, None]
    centres = g.new_zeros(count, *g.shape[1:]).index_add(0, member, g) / sizes
    away = (g - centres[member]).norm(dim=2)  # (N, Px)
    radii = away.new_zeros(count, g.shape[1])
    radii = radii.scatter_reduce(0, member[:, None].expand_as(away), away, "amax")
    above = torch.einsum("bid,cjd->bcij", f, centres) + f.norm(dim=2)[:, None, :, None] * radii[None, :, None]
    return above.flatten(2).amax(2)[:, member]
