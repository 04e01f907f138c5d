"""The exercises by name, one for each of the notebooks 00 to 11: what is called, a solution, and the mistakes people make."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.course.checking import Exercise


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _mixture(gate: Tensor, scores: Tensor) -> Tensor:
    return (gate.softmax(0) * scores).sum()


def _split(items: Tensor, times: Tensor) -> Tensor:
    return items[times.argsort(stable=True)][-2:]


def _loss(positive: float, negatives: Tensor) -> Tensor:
    return (math.exp(positive) + negatives.exp().sum()).log() - positive


def _gain(ranks: Tensor, k: int) -> Tensor:
    return torch.where(ranks <= k, 1 / torch.log2(1 + ranks.double()), 0.0).mean()


def _floor(matrix: Tensor, width: int) -> Tensor:
    squares = torch.linalg.svdvals(matrix) ** 2
    return (squares[width:].sum() / squares.sum()).sqrt()


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def _components(f: Tensor, g: Tensor, tau: float) -> Tensor:
    return _unit(f) @ _unit(g).T / tau


def _proved(found: Tensor, k: int, ends: Tensor) -> bool:
    return bool(found.sort(descending=True).values[k - 1] >= ends.max())


def _recall(found: Tensor, true: Tensor) -> float:
    return len(set(found.tolist()) & set(true.tolist())) / len(true)


def _code(token: Tensor, codebooks: Tensor) -> Tensor:
    parts = token.view(len(codebooks), 1, -1)
    return ((parts - codebooks) ** 2).sum(-1).argmin(1)


def _path_gains(sums: Tensor, sizes: Tensor, examples: int, alpha: float) -> Tensor:
    return examples * sums.log() - alpha * ((sizes + 1) ** 4 - sizes**4) / 4


def _bytes(groups: int, width: int, gate: int, bits: int) -> float:
    return groups * width * bits / 8 + 4 * gate


def _first_right(found: Tensor, relevant: Tensor, k: int) -> float:
    hits = [place for place, item in enumerate(found[:k].tolist(), 1) if item in relevant.tolist()]
    return 1 / hits[0] if hits else 0.0


def _lists() -> Sequence[tuple[Any, ...]]:
    return [
        (torch.tensor([4, 9, 2, 7]), torch.tensor([9, 4, 1, 7])),
        (torch.tensor([3, -1, -1, -1]), torch.tensor([5, 3, 8, 6])),
        (torch.tensor([5, 6]), torch.tensor([5, 6, 7, 8])),
    ]


EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for exercise in (
        Exercise(
            "mixture",
            "mixture(gate, scores)",
            lambda: [(_random(4, seed=n), 3 * _random(4, seed=10 + n)) for n in range(3)],
            _mixture,
            {
                "the weights must sum to one: take the softmax of `gate` first": lambda w, s: (w * s).sum(),
                "this is the upper bound, the largest component score: weight the scores with the softmax of"
                " `gate`": lambda w, s: s.max(),
                "this weights all components equally: use `gate`": lambda w, s: s.mean(),
                "softmax belongs to `gate`, not to the scores": lambda w, s: (w * s.softmax(0)).sum(),
            },
        ),
        Exercise(
            "split",
            "held_out(items, times)",
            lambda: [
                (torch.tensor([11, 12, 13, 14, 15]), torch.tensor([5, 1, 9, 7, 3])),
                (torch.tensor([21, 22, 23, 24]), torch.tensor([8, 8, 2, 8])),
            ],
            _split,
            {
                "the rows are not in the order of time yet: sort by `times`": lambda i, t: i[-2:],
                "these are the oldest two items: the held-out ones are the newest": lambda i, t: i[
                    t.argsort(stable=True)
                ][:2],
                "right items, wrong order: the validation item comes before the test item": lambda i, t: (
                    _split(i, t).flip(0)
                ),
                "rows of the same time must keep their order: sort in ascending order, stably, and take the"
                " end": lambda i, t: i[t.argsort(stable=True, descending=True)][:2].flip(0),
            },
        ),
        Exercise(
            "loss",
            "loss(positive, negatives)",
            lambda: [(1.5, _random(5, seed=n)) for n in range(3)],
            _loss,
            {
                "the positive item competes, too: add it to the sum in the denominator": lambda p, n: (
                    n.exp().sum().log() - p
                ),
                "this is the log-likelihood; the loss is its negative": lambda p, n: -_loss(p, n),
                "the probability itself: take −log of it": lambda p, n: (-_loss(p, n)).exp(),
                "the denominator is a sum over negatives, not a mean": lambda p, n: (
                    (math.exp(p) + n.exp().mean()).log() - p
                ),
            },
        ),
        Exercise(
            "ndcg",
            "ndcg(ranks, k)",
            lambda: [(torch.tensor([1, 3, 12, 10, 2]), 10), (torch.tensor([4, 1, 60]), 5)],
            _gain,
            {
                "an item at rank 1 must count 1: the discount is log2(1 + rank)": lambda r, k: torch.where(
                    r <= k, 1 / torch.log2(r.double()), 0.0
                ).mean(),
                "the logarithm has base 2": lambda r, k: torch.where(
                    r <= k, 1 / torch.log(1 + r.double()), 0.0
                ).mean(),
                "a rank beyond k counts 0": lambda r, k: (1 / torch.log2(1 + r.double())).mean(),
                "this is MRR: discount by log2(1 + rank), not by rank": lambda r, k: torch.where(
                    r <= k, 1 / r.double(), 0.0
                ).mean(),
                "this is the hit rate: a hit at a later rank counts less": lambda r, k: (
                    (r <= k).double().mean()
                ),
                "divide by all users, also those without a hit": lambda r, k: (
                    _gain(r, k) * len(r) / (r <= k).sum()
                ),
            },
        ),
        Exercise(
            "floor",
            "least_error(matrix, width)",
            lambda: [(_random(6, 6, seed=n), 2 + n) for n in range(3)],
            _floor,
            {
                "square the singular values": lambda m, d: (
                    torch.linalg.svdvals(m)[d:].sum() / torch.linalg.svdvals(m).sum()
                ),
                "this is the share that is kept: the error is what comes after the first `width`": lambda m, d: (
                    (1 - _floor(m, d) ** 2).sqrt()
                ),
                "take the square root": lambda m, d: _floor(m, d) ** 2,
                "the error is relative: divide by the norm of the matrix": lambda m, d: (
                    _floor(m, d) * m.norm()
                ),
            },
        ),
        Exercise(
            "component scores",
            "component_scores(f, g, tau)",
            lambda: [(_random(3, 4, seed=n), _random(2, 4, seed=10 + n), 0.05) for n in range(3)],
            _components,
            {
                "divide each vector by its length first": lambda f, g, tau: f @ g.T / tau,
                "divide the cosines by tau": lambda f, g, tau: _unit(f) @ _unit(g).T,
                "divide by tau, do not multiply": lambda f, g, tau: _unit(f) @ _unit(g).T * tau,
                "rows belong to the query's vectors, columns to the item's": lambda f, g, tau: (
                    _components(f, g, tau).T
                ),
            },
        ),
        Exercise(
            "proof",
            "proved(found, k, ends)",
            lambda: [
                (torch.tensor([9.0, 7.0, 8.0, 3.0]), 3, torch.tensor([6.0, 7.0])),
                (torch.tensor([9.0, 7.0, 8.0, 3.0]), 3, torch.tensor([6.0, 7.5])),
                (torch.tensor([5.0, 4.0, 2.0]), 2, torch.tensor([4.5, 1.0])),
                (torch.tensor([9.0, 7.0, 8.0, 3.0]), 2, torch.tensor([8.5, 8.2])),
            ],
            _proved,
            {
                "an item outside may score up to the *largest* end of a list": lambda f, k, e: bool(
                    f.sort(descending=True).values[k - 1] >= e.min()
                ),
                "compare the k-th best score, not the best": lambda f, k, e: bool(f.max() >= e.max()),
                "sort the scores: the k-th in the list need not be the k-th best": lambda f, k, e: bool(
                    f[k - 1] >= e.max()
                ),
                "a score that equals the bound is enough: an item outside can tie, not pass": lambda f, k, e: (
                    bool(f.sort(descending=True).values[k - 1] > e.max())
                ),
            },
        ),
        Exercise(
            "recall",
            "recall(found, true)",
            _lists,
            _recall,
            {
                "divide by the number of true items": lambda f, t: (
                    len(set(f.tolist()) & set(t.tolist())) / len(f)
                ),
                "the order does not matter: count common items, not equal places": lambda f, t: (
                    (f == t[: len(f)]).double().sum() / len(t)
                ),
                "divide by the number of true items: −1 in a short list means “no item”": lambda f, t: (
                    len(set(f.tolist()) & set(t.tolist())) / int((f >= 0).sum())
                ),
            },
        ),
        Exercise(
            "code",
            "code(token, codebooks)",
            lambda: [(_random(6, seed=n), 2 * _random(2, 5, 3, seed=10 + n)) for n in range(4)],
            _code,
            {
                "the nearest codeword has the smallest distance, not the largest inner product": lambda t, c: (
                    (t.view(len(c), 1, -1) * c).sum(-1).argmax(1)
                ),
                "this is the farthest codeword: take argmin": lambda t, c: (
                    ((t.view(len(c), 1, -1) - c) ** 2).sum(-1).argmax(1)
                ),
                "part m of the token belongs to codebook m": lambda t, c: _code(t, c.flip(0)).flip(0),
            },
        ),
        Exercise(
            "path gains",
            "gains(sums, sizes, examples, alpha)",
            lambda: [
                (torch.tensor([0.9, 0.5, 0.3]), torch.tensor([30.0, 20.0, 2.0]), 10, 3e-4),
                (torch.tensor([0.5, 0.02]), torch.tensor([12.0, 4.0]), 4, 3e-3),
            ],
            _path_gains,
            {
                "subtract the penalty, α times what one more item adds to size⁴/4": lambda s, c, n, a: (
                    n * s.log()
                ),
                "the penalty is subtracted, not added": lambda s, c, n, a: _path_gains(s, c, n, -a),
                "the penalty is the *difference* that one more item makes, f(c + 1) − f(c)": lambda s, c, n, a: (
                    n * s.log() - a * (c + 1) ** 4 / 4
                ),
                "the penalty of a path is size⁴/4: you left out the 4": lambda s, c, n, a: _path_gains(
                    s, c, n, 4 * a
                ),
                "multiply the logarithm by the number of examples of the item": lambda s, c, n, a: (
                    _path_gains(s, c, 1, a)
                ),
            },
        ),
        Exercise(
            "bytes",
            "item_bytes(groups, width, gate, bits)",
            lambda: [(4, 64, 32, 32), (1, 8, 4, 32), (4, 64, 32, 8)],
            _bytes,
            {
                "8 bits are one byte": lambda p, d, g, b: p * d * b + 4 * g,
                "the gate's part is stored, too: 4 bytes for each of its numbers": lambda p, d, g, b: (
                    p * d * b / 8
                ),
                "the gate's part keeps its 32 bits: only components are stored in `bits`": lambda p, d, g, b: (
                    (p * d + g) * b / 8
                ),
                "an item stores its own `groups` vectors, not one for each component": lambda p, d, g, b: (
                    g * d * b / 8 + 4 * g
                ),
            },
        ),
        Exercise(
            "reciprocal rank",
            "reciprocal_rank(found, relevant, k)",
            lambda: [
                (torch.tensor([7, 3, 9, 4]), torch.tensor([9, 4]), 4),
                (torch.tensor([7, 3, 9, 4]), torch.tensor([4]), 3),
                (torch.tensor([5, 6]), torch.tensor([5, 6]), 2),
            ],
            _first_right,
            {
                "places count from 1": lambda f, r, k: next(
                    (1 / p if p else float("inf") for p, x in enumerate(f[:k].tolist()) if x in r.tolist()),
                    0.0,
                ),
                "only the first k places count": lambda f, r, k: _first_right(f, r, len(f)),
                "the first right document decides, however many there are": lambda f, r, k: (
                    sum(1 / p for p, x in enumerate(f[:k].tolist(), 1) if x in r.tolist()) / len(r)
                ),
            },
        ),
    )
}
