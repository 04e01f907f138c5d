"""Deep Retrieval's M-step: the J paths of each item, given the probability of each path where the item was chosen.

The structure model gives s[v, c] = Σ_{i: y_i = v} p(c | x_i), of which the S largest per item are kept. Paths are then chosen,
item by item, for

    Σ_v N_v (log Σ_j s[v, π_j(v)] − log N_v) − α Σ_c f(|c|),   f(n) = n⁴ / 4,

N_v the rows of item v and |c| the items on path c; an upper bound of the likelihood, which the logarithm of a sum allows to be
optimised from sums alone. Source: "Deep Retrieval" (Gao et al., CIKM 2021), section 3.3 and algorithm 2.
"""

from dataclasses import dataclass
from math import inf, log

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.similarities.deep_retrieval.structure import NO_PATH, Beam

PENDING = 4_000_000
"""Sums that wait to be put together: adding is a sort, so it is done for many at once."""


@dataclass(frozen=True)
class ScoreLists:
    """The best S paths of each of N items: `paths` int64 (N, S), −1 past the end; `scores` float64 (N, S), descending, 0 past
    the end; `counts` float64 (N,): rows of the item that the scores are sums over."""

    paths: Int[Tensor, "N S"]
    scores: Float[Tensor, "N S"]
    counts: Float[Tensor, "N"]

    def __len__(self) -> int:
        return len(self.counts)

    def rows(self, rows: Int[Tensor, "M"]) -> "ScoreLists":
        """The lists of some items."""
        return ScoreLists(self.paths[rows], self.scores[rows], self.counts[rows])


class PathScores:
    """Sums s[v, c] of path probabilities over training rows, in any order of rows; exact but for what the beam left out."""

    def __init__(self, num_items: int, num_paths: int) -> None:
        self._items, self._paths = num_items, num_paths
        self._keys = torch.empty(0, dtype=torch.int64)
        self._sums = torch.empty(0, dtype=torch.float64)
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._waiting = 0
        self._counts = torch.zeros(num_items, dtype=torch.float64)

    def add(self, items: Int[Tensor, "T"], beam: Beam) -> None:
        """Count T rows: row t chose item `items[t]` (0..N−1), and takes the paths of `beam` with those probabilities."""
        found = beam.paths != NO_PATH
        keys = (items[:, None] * self._paths + beam.paths)[found]
        self._counts += torch.bincount(items, minlength=self._items).cpu()
        self._pending.append((keys.cpu(), beam.log_probs[found].double().exp().cpu()))
        self._waiting += len(keys)
        if self._waiting > PENDING:
            self._consolidate()

    def _consolidate(self) -> None:
        keys = torch.cat([self._keys, *(k for k, _ in self._pending)])
        sums = torch.cat([self._sums, *(s for _, s in self._pending)])
        self._keys, places = keys.unique(return_inverse=True)
        self._sums = torch.zeros(len(self._keys), dtype=torch.float64).index_add_(0, places, sums)
        self._pending, self._waiting = [], 0

    def lists(self, length: int) -> ScoreLists:
        """The `length` best paths of each item; of equal sums the lower code comes first."""
        self._consolidate()
        items = self._keys // self._paths
        order = self._sums.argsort(descending=True, stable=True)
        order = order[items[order].argsort(stable=True)]  # by item, then by descending sum
        items = items[order]
        first = torch.searchsorted(items, torch.arange(self._items))
        place = torch.arange(len(items)) - first[items]
        kept = place < length
        paths = torch.full((self._items, length), NO_PATH)
        scores = torch.zeros(self._items, length, dtype=torch.float64)
        where = items[kept], place[kept]
        paths[where] = self._keys[order][kept] % self._paths
        scores[where] = self._sums[order][kept]
        return ScoreLists(paths, scores, self._counts.clone())


def merge_lists(old: ScoreLists, new: ScoreLists, decay: float) -> ScoreLists:
    """The lists after another batch of a stream; η is `decay`, S the length of the lists.

    A path in both lists scores η s + s'; one that is only new η min(s) + s', since it may have scored up to the least that was
    kept; one that is only old η s. The S best stay. Where an old list has room left, nothing was dropped from it, and
    min(s) is 0. Counts become η N + N'.
    """
    length = old.paths.shape[1]
    both = old.paths[:, :, None].eq(new.paths[:, None]) & (old.paths != NO_PATH)[:, :, None]  # (N, S, S')
    gained = (both * new.scores[:, None]).sum(2)
    least = torch.where(old.paths[:, -1] != NO_PATH, old.scores[:, -1], 0.0)[:, None]
    fresh = (new.paths != NO_PATH) & ~both.any(1)
    paths = torch.cat([old.paths, torch.where(fresh, new.paths, NO_PATH)], dim=1)
    scores = torch.cat(
        [decay * old.scores + gained, torch.where(fresh, decay * least + new.scores, 0.0)], dim=1
    )
    ranked = scores.masked_fill(paths == NO_PATH, -1.0).sort(dim=1, descending=True, stable=True).indices
    ranked = ranked[:, :length]
    paths, scores = paths.gather(1, ranked), scores.gather(1, ranked)
    return ScoreLists(paths, scores, decay * old.counts + new.counts)


def penalty(size: float) -> float:
    """f(n) = n⁴ / 4, what a path of n items costs before α."""
    return size**4 / 4


def objective(
    lists: ScoreLists, paths: Int[Tensor, "N J"], alpha: float, others: Int[Tensor, "M"] | None = None
) -> float:
    """Σ_v N_v (log Σ_j s[v, π_j] − log N_v) − α Σ_c f(|c|), where `others` are paths of items that are not in the lists.

    −inf if an item with rows has no path of positive score.
    """
    score = (lists.scores[:, :, None] * lists.paths[:, :, None].eq(paths[:, None])).sum((1, 2))  # (N,)
    seen = lists.counts > 0
    fit = (lists.counts * (score.log() - lists.counts.log()))[seen].sum()
    held = paths.flatten() if others is None else torch.cat([paths.flatten(), others])
    sizes = held.unique(return_counts=True)[1].double()
    return float(fit - alpha * penalty_of(sizes).sum())


def penalty_of(sizes: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """`penalty` of each size."""
    return sizes**4 / 4


def assign(
    lists: ScoreLists,
    current: Int[Tensor, "N J"],
    alpha: float,
    passes: int = 3,
    others: Int[Tensor, "M"] | None = None,
) -> Int[Tensor, "N J"]:
    """J distinct paths for each item by penalised coordinate descent from the paths `current`.

    In each pass, for each item in turn: its paths are released, and J are picked one after the other, each the candidate c
    that adds most, N_v [log(s_c + Σ picked) − log Σ picked] − α [f(|c| + 1) − f(|c|)]; the first pick, whose second logarithm
    would be of 0, uses N_v log s_c. An item with fewer candidates than J keeps as many of its current paths; one that was
    never chosen keeps them all. Where the J picks together are worth less than the J paths before, those stay: the
    objective never falls. It ends early when a pass changes nothing. `others` are the paths of items that stay as they are.

    What differs from the printed algorithm: all J paths of an item are released before the first pick, so that it does not
    compete with itself; and the comparison with the paths before.

    The items depend on each other through |c| and are taken one after another: a loop over plain numbers, which at S ≈ 20
    candidates is faster than an array operation for each pick.
    """
    table = _Table(lists, current, alpha, others)
    for _ in range(passes):
        if not table.improve():
            break
    return table.result(current.device)


class _Table:
    """The state of the descent in plain lists: paths numbered without gaps, their sizes, and every item's candidates."""

    def __init__(
        self, lists: ScoreLists, current: Int[Tensor, "N J"], alpha: float, others: Int[Tensor, "M"] | None
    ) -> None:
        held = current.cpu()
        fixed = torch.empty(0, dtype=torch.int64) if others is None else others.cpu()
        paths, scores = lists.paths.cpu(), lists.scores.cpu()
        known, places = torch.cat([held.flatten(), paths.flatten(), fixed]).unique(return_inverse=True)
        self.codes = known
        count, depth = held.shape
        numbers = places[: held.numel()].view(count, depth)
        self.held: list[list[int]] = numbers.tolist()
        listed = places[held.numel() : held.numel() + paths.numel()].view(paths.shape).tolist()
        usable = ((paths != NO_PATH) & (scores > 0)).sum(1).tolist()  # scores descend: the first ones
        self.candidates = [row[:n] for row, n in zip(listed, usable, strict=True)]
        self.scores: list[list[float]] = [row[:n] for row, n in zip(scores.tolist(), usable, strict=True)]
        self.counts: list[float] = lists.counts.cpu().tolist()
        taken = torch.cat([numbers.flatten(), places[held.numel() + paths.numel() :]])
        self.sizes: list[int] = torch.bincount(taken, minlength=len(known)).tolist()
        most = sum(self.sizes) + depth + 1
        # What one more item on a path of n costs; beyond the largest size that can occur nothing is looked up.
        self.costs = [alpha * (penalty(n + 1) - penalty(n)) for n in range(most)]

    def improve(self) -> bool:
        """One pass over the items; whether a path changed."""
        changed = False
        sizes, costs = self.sizes, self.costs
        for v, old in enumerate(self.held):
            candidates, count = self.candidates[v], self.counts[v]
            if count <= 0 or not candidates:
                continue
            for c in old:
                sizes[c] -= 1
            picked, worth = self._pick(v, len(old))
            known = dict(zip(candidates, self.scores[v], strict=True))
            before = sum(known.get(c, 0.0) for c in old)
            kept = count * log(before) - sum(costs[sizes[c]] for c in old) if before > 0 else -inf
            if worth > kept and set(picked) != set(old):
                self.held[v] = old = picked
                changed = True
            for c in old:
                sizes[c] += 1
        return changed

    def _pick(self, v: int, wanted: int) -> tuple[list[int], float]:
        """Up to `wanted` candidates of item v, greedily, filled up from its own paths, and what they are worth together."""
        candidates, scores, count = self.candidates[v], self.scores[v], self.counts[v]
        costs = [self.costs[self.sizes[c]] for c in candidates]
        picked: list[int] = []
        free = list(range(len(candidates)))
        total = spent = 0.0
        while free and len(picked) < wanted:
            best, place = -inf, -1
            for i in free:
                gain = count * log(scores[i] + total) - costs[i]
                if gain > best:
                    best, place = gain, i
            picked.append(candidates[place])
            free.remove(place)
            total += scores[place]
            spent += costs[place]
        for c in self.held[v]:
            if len(picked) == wanted:
                break
            if c not in picked:
                picked.append(c)
                spent += self.costs[self.sizes[c]]
        return picked, count * log(total) - spent

    def result(self, device: torch.device) -> Int[Tensor, "N J"]:
        return self.codes[torch.tensor(self.held, dtype=torch.int64)].to(device)


def describe(
    before: Int[Tensor, "N J"], after: Int[Tensor, "N J"], lists: ScoreLists, alpha: float
) -> dict[str, float]:
    """What an M-step did, by name: how many paths hold items, how many the largest holds, and how much stayed.

    "paths in use"; "largest path" and "mean path" (items on a path in use); "stability", the share of (item, path)
    pairs that were there before; "path objective" (see `objective`).
    """
    sizes = after.unique(return_counts=True)[1].double()
    kept = after[:, :, None].eq(before[:, None]).any(2).double().mean()
    return {
        "paths in use": float(len(sizes)),
        "largest path": float(sizes.max()),
        "mean path": float(sizes.mean()),
        "stability": float(kept),
        "path objective": objective(lists, after, alpha),
    }
