"""Checks of the Triton kernels, run by test_mixture_triton.py in a process of their own: `python triton_checks.py cpu|cuda`.

On a CPU they need TRITON_INTERPRET=1 before triton is imported. Prints a JSON object: what each check found, by name.
"""

import json
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from workbench.kernels import mixture, mixture_triton
from workbench.kernels.mixture import MixtureGate

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
    )
}


if __name__ == "__main__":
    on = sys.argv[1]
    checks = CHECKS if on == "cpu" else {**CHECKS, "searched": searched}
    print(json.dumps({name: check(on) for name, check in checks.items()}))
