"""Checks of the Triton kernels, run by test_mixture_triton.py in a process of their own: `python triton_checks.py cpu|cuda`.

On a CPU they need TRITON_INTERPRET=1 before triton is imported. Prints a JSON object: what each check found, by name.
"""

import itertools
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workbench.kernels import mixture, mixture_loss, mixture_triton
from workbench.kernels.mixture import MixtureGate
from workbench.kernels.mixture_loss import GateDropout

States = tuple[Tensor, Tensor | None, Tensor, Tensor | None]


def states(
    device: str,
    b: int = 3,
    n: int = 75,
    groups: tuple[int, int, int] = (3, 2, 20),
    parts: tuple[bool, bool] = (True, True),
    dtype: torch.dtype = torch.float32,
) -> States:
    generator = torch.Generator().manual_seed(0)
    query_groups, item_groups, width = groups
    p = query_groups * item_groups
    unit = torch.nn.functional.normalize
    f = 20 * unit(torch.randn(b, query_groups, width, generator=generator), dim=-1)
    g = unit(torch.randn(n, item_groups, width, generator=generator), dim=-1)
    of_query = torch.randn(b, p, generator=generator) if parts[0] else None
    of_item = torch.randn(n, p, generator=generator) if parts[1] else None
    return (
        f.to(device),
        None if of_query is None else of_query.to(device),
        g.to(device, dtype),
        None if of_item is None else of_item.to(device, dtype),
    )


def gate(device: str, hidden: int | None, combination: mixture.Combination, p: int = 6) -> MixtureGate:
    generator = torch.Generator().manual_seed(1)
    layers: list[tuple[Tensor, Tensor | None]] = []
    if hidden:
        layers.append(
            (0.1 * torch.randn(hidden, p, generator=generator), torch.randn(hidden, generator=generator))
        )
    if hidden is not None:
        scale = 0.2 if hidden else 0.05
        layers.append((scale * torch.randn(p, hidden or p, generator=generator), None))
    return MixtureGate(
        tuple((w.to(device), None if b is None else b.to(device)) for w, b in layers), combination
    )


def expected(given: States, rule: MixtureGate) -> Tensor:
    """Of the formula in float64."""
    exact = [None if t is None else t.double() for t in given]
    layers = tuple((w.double(), None if b is None else b.double()) for w, b in rule.layers)
    return mixture.plain_scores(*exact, MixtureGate(layers, rule.combination))


def error(device: str, given: States, rule: MixtureGate) -> float:
    found = mixture_triton.mixture_scores(*given, rule.layers, rule.combination)
    return (found - expected(given, rule)).abs().max().item()


def gates(device: str) -> float:
    """The largest error in float32 over kinds of gates."""
    kinds = [
        (20, "glu_silu", (True, True)),
        (0, "glu_silu", (True, False)),
        (None, "glu_silu", (False, True)),
        (None, "sum", (False, False)),
        (20, "glu_silu_ln", (True, True)),
        (0, "sum", (True, True)),
        (40, "sum", (False, True)),
    ]
    return max(error(device, states(device, parts=parts), gate(device, h, c)) for h, c, parts in kinds)


def three_tf32(device: str) -> float:
    """The largest error if float32 is multiplied as three products of TF32, by programs of four warps."""
    before = mixture_triton.FLOAT32_PRODUCTS, mixture_triton.WARPS
    mixture_triton.FLOAT32_PRODUCTS, mixture_triton.WARPS = mixture_triton.THREE_TF32, 4
    try:
        return gates(device)
    finally:
        mixture_triton.FLOAT32_PRODUCTS, mixture_triton.WARPS = before


def shapes(device: str) -> float:
    """The largest error in float32 over shapes: groups that are no powers of two, one query, one item, wide components."""
    cases = [(1, 1, (1, 1, 3)), (5, 40, (5, 3, 16)), (2, 33, (16, 2, 70))]
    found = []
    for b, n, groups in cases:
        p = groups[0] * groups[1]
        found.append(error(device, states(device, b, n, groups), gate(device, 20, "glu_silu", p)))
    return max(found)


def candidates(device: str) -> float:
    """The largest error in float32 of candidates, each query its own, over shapes and kinds of gates."""
    cases = [
        ((3, 2, 20), (True, True), 20, "glu_silu", 40),
        ((5, 3, 16), (True, False), 0, "glu_silu_ln", 1),
        ((16, 2, 70), (False, True), None, "sum", 33),
    ]
    found = []
    for groups, parts, hidden, combination, count in cases:
        given = states(device, groups=groups, parts=parts)
        rule = gate(device, hidden, combination, groups[0] * groups[1])  # type: ignore[arg-type]
        rows = torch.randint(75, (3, count), generator=torch.Generator().manual_seed(2)).to(device)
        scores = mixture_triton.mixture_scores(*given, rule.layers, rule.combination, rows)
        found.append((scores - expected(given, rule).gather(1, rows)).abs().max().item())
    return max(found)


def no_such_row(device: str) -> list[str]:
    """What candidates outside the corpus raise."""
    given, rule = states(device), gate(device, 20, "glu_silu")
    messages = []
    for row in (-1, 75):
        try:
            rows = torch.full((3, 2), row, device=device)
            mixture_triton.mixture_scores(*given, rule.layers, rule.combination, rows)
        except IndexError as error:
            messages.append(str(error))
    return messages


def half(device: str) -> float:
    """The error of items in bfloat16, with products of bfloat16, against float64 on the same rounded items."""
    return error(device, states(device, dtype=torch.bfloat16), gate(device, 20, "glu_silu"))


def undefined(device: str) -> list[int]:
    """Rows whose score is undefined where one value of one item, and nothing else, is infinite."""
    given = states(device)
    given[2][7, 1, 3] = float("inf")
    given[0][:, :, 3] = 0
    rule = gate(device, 20, "glu_silu")
    scores = mixture_triton.mixture_scores(*given, rule.layers, rule.combination)
    return scores.isnan().any(0).nonzero().flatten().tolist()


def ranked(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, rows = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k], rows[:, :k]


def same(
    device: str, given: States, rule: MixtureGate, k: int, excluded: Tensor | None, allowed: Tensor | None
) -> bool:
    """Whether the fused best k are those of sorting the scores of the same kernel.

    The two kernels' tiles may differ, and tiles round differently: rows may change places within the tolerance of scores.
    """
    scores = mixture_triton.mixture_scores(*given, rule.layers, rule.combination)
    if excluded is not None:
        for b, rows in enumerate(excluded.tolist()):
            scores[b, [row for row in rows if row >= 0]] = float("-inf")
    if allowed is not None:
        scores[:, ~allowed] = float("-inf")
    values, _ = ranked(scores, k)
    found, rows = mixture_triton.top_k(*given, rule.layers, rule.combination, k, excluded, allowed)
    unique = all(len(set(row)) == k for row in rows.tolist())
    of_rows = torch.allclose(scores.gather(1, rows), found, atol=1e-5)
    return unique and of_rows and bool(torch.allclose(found, values, atol=1e-5))


def best(device: str) -> bool:
    given, rule = states(device), gate(device, 20, "glu_silu")
    excluded = torch.tensor([[0, 5, -1], [74, 3, 3], [-1, -1, -1]], device=device)
    allowed = torch.arange(75, device=device) % 3 > 0
    cases = [
        (1, None, None),
        (75, None, None),
        (10, excluded, None),
        (7, None, allowed),
        (60, excluded, allowed),
    ]
    return all(same(device, given, rule, *case) for case in cases)


def stretches(device: str) -> bool:
    """A corpus in many stretches, whose programs tell each other what is good enough."""
    given, rule = states(device, n=2000), gate(device, 20, "glu_silu")
    allowed = torch.arange(2000, device=device) % 50 > 0
    return all(same(device, given, rule, k, None, mask) for k, mask in ((1, None), (10, allowed), (60, None)))


def ties(device: str) -> list[list[int]]:
    """The best rows where scores are equal, over a whole corpus and over two scores in turn.

    What is promised is that equal scores keep the corpus order, not that equal items score equally wherever they stand in a
    tile: edges of tiles may be rounded differently. These scores are small integers, which no order of summation rounds.
    """
    rule = MixtureGate((), "sum")
    f = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]], device=device)  # one query of two components
    same = torch.tensor([[[2.0, 1.0], [1.0, 4.0]]], device=device).expand(300, 2, 2).contiguous()
    turns = same.clone()
    turns[::2] = torch.tensor([[1.0, 1.0], [1.0, 1.0]], device=device)
    return [
        mixture_triton.top_k(f, None, g, None, rule.layers, rule.combination, 5)[1][0].tolist()
        for g in (same, turns)
    ]


def nan_first(device: str) -> list[bool]:
    """Whether the best five scores are NaN if that of one item is, although it is not allowed."""
    given, rule = states(device, b=1), gate(device, 20, "glu_silu")
    given[2][70, 0, 0] = float("nan")
    allowed = torch.arange(75, device=device) != 70
    scores, rows = mixture_triton.top_k(*given, rule.layers, rule.combination, 5, None, allowed)
    assert rows[0, 0] == 70
    return scores[0].isnan().tolist()


def searched(device: str) -> bool:
    """Whether brute force over the fused kernel finds what it finds over torch's scores. Needs a GPU."""
    from workbench.search import BruteForce
    from workbench.similarities.mol import MixtureOfLogits, MoLConfig

    torch.manual_seed(0)
    similarity = (
        MixtureOfLogits(MoLConfig(query_groups=4, item_groups=2, component_dim=16), 12).eval().to(device)
    )
    with torch.no_grad():
        q = similarity.queries(torch.randn(9, 12, device=device), torch.arange(9, device=device))
        x = similarity.items(torch.randn(3000, 12, device=device), torch.arange(1, 3001, device=device))
        plain = mixture.plain_scores(q.components, q.gate, x.components, x.gate, similarity._gate())
    assert similarity.fuses_top_k(q, x, 100)
    found = BruteForce(similarity, x).search(q, 100)
    return bool(torch.allclose(found.scores, ranked(plain, 100)[0], atol=1e-4))


NO_DROPOUT, DROPOUT = GateDropout(), GateDropout(0.3, 0.2, seed=5)


def loss_error(
    device: str,
    hidden: int | None = 20,
    combination: mixture.Combination = "glu_silu",
    parts: tuple[bool, bool] = (True, True),
    dropout: GateDropout = DROPOUT,
    groups: tuple[int, int, int] = (4, 3, 20),
    biases: bool = True,
    dtype: torch.dtype = torch.float32,
) -> float:
    """How far loss and gradients are from the torch version's in float64, the latter relative to the largest of each tensor."""
    generator = torch.Generator().manual_seed(0)
    p = groups[0] * groups[1]

    def randn(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    f, g = (
        randn(4, groups[0], groups[2], scale=3 / groups[2] ** 0.5).to(dtype),
        randn(30, *groups[1:]).to(dtype),
    )
    of_query, of_item = randn(4, p) if parts[0] else None, randn(30, p) if parts[1] else None
    weights: list[Tensor | None] = [None] * 4
    if hidden:
        weights = [randn(hidden, p, scale=0.2), randn(hidden), randn(p, hidden, scale=0.2), randn(p)]
    elif hidden == 0:
        weights[2:] = randn(p, p, scale=0.2), randn(p)
    if not biases:
        weights[1] = weights[3] = None
    rows = torch.randint(30, (4, 19), generator=generator)
    rows[:2, 1::3] = rows[:2, :1]  # the positive again
    given = [f, of_query, g, of_item, *weights]
    plan = mixture_loss._Plan(combination, dropout)
    there = [None if t is None else t.to(device) for t in given]
    loss, found = mixture_loss._solve_fused(plan, rows.to(device), there)
    exact = [None if t is None else t.double().requires_grad_() for t in given]
    layers = tuple((w, b) for w, b in (exact[4:6], exact[6:]) if w is not None)
    rule = MixtureGate(layers, combination)
    wanted = mixture_loss.plain_mixture_loss(*exact[:4], rule, rows, dropout)  # type: ignore[arg-type]
    gradients = torch.autograd.grad(wanted, [t for t in exact if t is not None])
    # A gradient that cancels out (of the gate of one component, say) is off by the rounding of the terms that cancel.
    least = max(1e-3, 1e-2 * max(float(t.abs().max()) for t in gradients))
    off = [abs(loss.item() - wanted.item())]
    for got, want in zip([t for t in found if t is not None], gradients, strict=True):
        off.append(float((got.double().cpu() - want).abs().max()) / max(least, float(want.abs().max())))
    return max(off)


def losses(device: str) -> float:
    """The largest error of the loss and its gradient in float32, over kinds of gates, with and without dropout."""
    every = itertools.product((20, 0, None), ("glu_silu", "glu_silu_ln", "sum"))
    found = [loss_error(device, hidden, combination) for hidden, combination in every]  # type: ignore[arg-type]
    found += [loss_error(device, parts=parts) for parts in ((True, False), (False, True), (False, False))]
    return max(*found, loss_error(device, dropout=NO_DROPOUT))


def loss_shapes(device: str) -> float:
    """The largest error over shapes: one component, groups that are no powers of two, wide components; no biases."""
    cases: list[dict[str, Any]] = [
        {"groups": (1, 1, 3)},
        {"groups": (5, 3, 70)},
        {"groups": (16, 2, 16)},
        {"biases": False},
    ]
    return max(loss_error(device, **case) for case in cases)


def loss_in_half(device: str) -> float:
    """The error with components of bfloat16, with products of bfloat16."""
    return loss_error(device, dtype=torch.bfloat16)


def no_such_candidate(device: str) -> list[str]:
    """What candidates and shapes that do not fit raise."""
    plan, messages = mixture_loss._Plan("sum", NO_DROPOUT), []
    f, g = torch.zeros(2, 1, 4, device=device), torch.zeros(5, 1, 4, device=device)
    for row, items in ((-1, g), (5, g), (0, g[..., :3])):
        try:
            rows = torch.full((2, 3), row, device=device)
            mixture_loss._solve_fused(plan, rows, [f, None, items, None, None, None, None, None])
        except (IndexError, ValueError) as error:
            messages.append(str(error))
    return messages


CHECKS: dict[str, Callable[[str], object]] = {
    check.__name__: check
    for check in (
        gates,
        three_tf32,
        shapes,
        candidates,
        no_such_row,
        half,
        undefined,
        best,
        stretches,
        ties,
        nan_first,
        losses,
        loss_shapes,
        loss_in_half,
        no_such_candidate,
    )
}


def trained(device: str) -> bool:
    """Whether `mixture_loss` takes the fused version for tensors on a GPU, and its gradient arrives. Needs a GPU."""
    f, g = (torch.randn(n, 2, 8, device=device, requires_grad=True) for n in (3, 9))
    rows = torch.tensor([[0, 1, 2]] * 3, device=device)
    assert mixture_loss.fuses(f, g)
    mixture_loss.mixture_loss(f, None, g, None, MixtureGate((), "sum"), rows, NO_DROPOUT).backward()
    return f.grad is not None and g.grad is not None and bool(g.grad[:3].any())


if __name__ == "__main__":
    on = sys.argv[1]
    checks = CHECKS if on == "cpu" else {**CHECKS, "searched": searched, "trained": trained}
    print(json.dumps({name: check(on) for name, check in checks.items()}))
