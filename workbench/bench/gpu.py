"""One run for a GPU: kernels against their definition, search, a training step, large first stages; written after each step."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from workbench import runtime
from workbench.bench import published_search
from workbench.bench.reference_implementation import ReferenceImplementation
from workbench.bench.roofline import Ceilings, ceilings
from workbench.bench.training import ITEMS, batch
from workbench.bench.workloads import SIZES, RandomWeights, Workload, build
from workbench.contracts import Searcher
from workbench.evaluation.latency import measure
from workbench.kernels import mixture
from workbench.kernels.mixture import Combination, MixtureGate
from workbench.kernels.mixture_loss import FUSED_SWITCH, GateDropout, fuses, mixture_loss, plain_mixture_loss
from workbench.retriever import Retriever
from workbench.search import Approximate, BruteForce
from workbench.search.candidates import SourceBuilder
from workbench.search.engines.faiss import FaissLists, faiss_lists
from workbench.search.first_stages import AveragedComponents
from workbench.search.h_indexer import FirstStageFilter
from workbench.search.indexes import Flat
from workbench.similarities import MoLConfig
from workbench.similarities.mol import MixtureOfLogits, MoLItems
from workbench.training.losses import draw
from workbench.training.objectives import next_item
from workbench.training.preset import Preset
from workbench.training.presets import preset
from workbench.training.step import TrainingStep

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""How far scores may be from float64 arithmetic on the same stored numbers, relative to the largest score."""


HELD_ON_A_GPU = 16 * 2**30
"""Bytes that the published arithmetic may hold."""

BLOCK = 1_000_000
"""Items whose components are drawn; larger corpora repeat them."""


@dataclass(frozen=True)
class GPUPlan:
    """What is measured: published `sizes`, `batches` of queries, results `k`, corpora of the first stage, presets, `repeats`.

    `tiles`: values that a tile of the fused kernel holds, and `warps` of its programs, tried in turn; () leaves them as they
    are. `three_tf32`: float32 is also multiplied by tensor cores, as three products of TF32. `reference`: a checkout of the
    published code, whose search is run next to ours.
    """

    sizes: tuple[str, ...] = tuple(SIZES)
    batches: tuple[int, ...] = (1, 32, 256)
    k: int = 100
    first_stages: tuple[int, ...] = (1_000_000, 10_000_000, 100_000_000)
    presets: tuple[str, ...] = ("ml-1m/hstu-dot", "ml-1m/hstu-mol")
    training_batch: int | None = None
    tiles: tuple[int, ...] = (4_096, 8_192, 16_384, 32_768)
    warps: tuple[int, ...] = (4, 16)
    three_tf32: bool = True
    repeats: int = 20
    reference: Path | None = None


Row = dict[str, Any]
Step = tuple[str, Callable[[], Iterator[Row]]]


def steps(plan: GPUPlan, device: torch.device) -> list[Step]:
    """The steps by name, in the order of what is learned first; each yields rows of `run`."""
    published: list[Step] = []
    if (checkout := plan.reference) is not None:
        published = [("published code", lambda: _published(plan, checkout, device))]
    return [
        ("kernels", lambda: chain(_kernels(device), _losses(device))),
        ("search", lambda: _search(plan, device)),
        *published,
        ("training", lambda: _training(plan, device)),
        ("first stage", lambda: _first_stages(plan, device)),
        ("faiss", lambda: _faiss(plan, device)),
    ]


def run(
    plan: GPUPlan, device: torch.device, minutes: float, written: Callable[[pd.DataFrame], None]
) -> pd.DataFrame:
    """The table of all steps: `step`, `what`, `items`, `queries`, `ms` (median of a call) and `note`.

    `written` is called with the table so far after each step. A step that fails is a row with the reason, and the others run;
    what has not begun after `minutes` is left out, and said. Raises ValueError if the device is no GPU.
    """
    if device.type != "cuda":
        raise ValueError(
            "bench gpu needs a GPU that torch can use, and there is none here; `workbench bench search` measures a CPU"
        )
    begun, rows = time.monotonic(), list[Row]()
    for name, step in steps(plan, device):
        if time.monotonic() - begun > 60 * minutes:
            rows.append({"step": name, "what": "left out", "note": f"{minutes:g} minutes were over"})
        else:
            try:
                for row in step():
                    rows.append({"step": name, **row})
                    if time.monotonic() - begun > 60 * minutes:
                        rows.append(
                            {"step": name, "what": "cut short", "note": f"{minutes:g} minutes were over"}
                        )
                        break
            except (RuntimeError, ImportError, ValueError) as error:  # out of memory is a RuntimeError
                first = (str(error).splitlines() or [type(error).__name__])[0]
                rows.append({"step": name, "what": "failed", "note": first})
        written(_table(rows))
    return _table(rows)


def _table(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["step", "what", "items", "queries", "ms", "note"])


def _kernels(device: torch.device) -> Iterator[Row]:
    """Scores and the fused top k against float64, over kinds of gates and dtypes."""
    for hidden, combination in ((20, "glu_silu"), (0, "sum"), (None, "glu_silu_ln")):
        config = MoLConfig(3, 2, 20, query_hidden=16, gate_pair=hidden, gate_combination=combination)  # type: ignore[arg-type]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            mol = MixtureOfLogits(config, 24).eval()
        chance = runtime.generator(0)
        drawn = torch.randn(5, 24, generator=chance), torch.randn(400, 24, generator=chance)
        with torch.no_grad():
            queries, items = (
                mol.queries(drawn[0], torch.zeros(5, dtype=torch.int64)),
                mol.items(drawn[1], torch.arange(1, 401)),
            )
            there, mol = queries.to(device), mol.to(device)
            for dtype, tolerance in TOLERANCES.items():
                stored = items.to(dtype=dtype)
                exact = (
                    mol.double().cpu().score(queries.to(dtype=torch.float64), stored.to(dtype=torch.float64))
                )
                mol = mol.float().to(device)
                named = f"gate of {hidden} hidden units, {combination}, {str(dtype).removeprefix('torch.')}"
                for variant, constants in variants(GPUPlan(tiles=(), warps=()), dtype).items():
                    with _kernels_with(**constants):
                        scores = mol.score(there, stored.to(device)).double().cpu()
                    off = float((scores - exact).abs().max() / exact.abs().max())
                    word = "agrees" if off <= tolerance else "DIFFERS"
                    note = f"{word}: off by {off:.1e}"
                    yield {"what": f"{named}{variant}", "items": 400, "queries": 5, "note": note}
                if mol.fuses_top_k(there, stored.to(device), 9):
                    best = mol.top_k(there, stored.to(device), 9)[0].double().cpu()
                    off = float((best - exact.topk(9, 1).values).abs().max() / exact.abs().max())
                    word = "agrees" if off <= tolerance else "DIFFERS"
                    yield {
                        "what": f"fused top k, {named}",
                        "items": 400,
                        "queries": 5,
                        "note": f"{word}: off by {off:.1e}",
                    }


def _losses(device: torch.device) -> Iterator[Row]:
    """The sampled softmax of training and its gradient against float64: kinds of gates, published sizes, bfloat16."""
    cases: list[tuple[tuple[int, int, int], int | None, Combination, torch.dtype]] = [
        ((3, 2, 20), 20, "glu_silu", torch.float32),
        ((3, 2, 20), 0, "sum", torch.float32),
        ((3, 2, 20), None, "glu_silu_ln", torch.float32),
        ((8, 4, 64), 128, "glu_silu", torch.float32),
        ((8, 8, 32), 128, "glu_silu", torch.bfloat16),
    ]
    with _environment(FUSED_SWITCH, "1"):
        for groups, hidden, combination, dtype in cases:
            off, fused = _loss_error(device, groups, hidden, combination, dtype)
            word, where = "agrees" if off <= TOLERANCES[dtype] else "DIFFERS", "fused" if fused else "torch"
            yield {
                "what": f"loss and gradient, {groups[0]} × {groups[1]} components of {groups[2]}, gate of {hidden} hidden"
                f" units, {combination}, {str(dtype).removeprefix('torch.')}",
                "items": 400,
                "queries": 50,
                "note": f"{word}: off by {off:.1e}, {where}",
            }


def _loss_error(
    device: torch.device,
    groups: tuple[int, int, int],
    hidden: int | None,
    combination: Combination,
    dtype: torch.dtype,
) -> tuple[float, bool]:
    """How far the loss and its gradients are from float64's, relative to the largest of each; and whether they are fused."""
    chance, (query_groups, item_groups, width) = runtime.generator(0), groups
    p = query_groups * item_groups
    layers = {None: [], 0: [(p, p), (p,)]}.get(hidden, [(hidden, p), (hidden,), (p, hidden), (p,)])
    shapes = [(50, query_groups, width), (50, p), (400, item_groups, width), (400, p), *layers]
    drawn = [torch.randn(shape, generator=chance) / shape[-1] ** 0.5 for shape in shapes]
    drawn[0], drawn[2] = drawn[0].to(dtype), drawn[2].to(dtype)
    rows, dropout = torch.randint(400, (50, 33), generator=chance), GateDropout(0.2, 0.1, seed=3)
    found = []
    for function, leaves in (
        (mixture_loss, [t.to(device).requires_grad_() for t in drawn]),
        (plain_mixture_loss, [t.double().requires_grad_() for t in drawn]),
    ):
        f, query_gate, g, item_gate, *weights = leaves
        gate = MixtureGate(tuple(zip(weights[::2], weights[1::2], strict=True)), combination)
        loss = function(f, query_gate, g, item_gate, gate, rows.to(f.device), dropout)
        gradients = torch.autograd.grad(loss, leaves)
        found.append([x.detach().double().cpu() for x in (loss, *gradients)])
    off = max(float((got - want).abs().max() / want.abs().max()) for got, want in zip(*found, strict=True))
    there = [t.to(device).requires_grad_() for t in (drawn[0], drawn[2])]
    return off, fuses(*there)


@contextmanager
def _kernels_with(**settings: int) -> Iterator[None]:
    """Run the fused kernels, if they are there, with other values of the constants in their module."""
    kernels: Any = mixture._triton_version()
    if kernels is None:
        yield
        return
    before = {name: getattr(kernels, name) for name in settings}
    for name, value in settings.items():
        setattr(kernels, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(kernels, name, value)


def variants(plan: GPUPlan, dtype: torch.dtype) -> dict[str, dict[str, int]]:
    """What is tried with items of a dtype: constants of the kernels' module by what the table calls them, as they are first."""
    kernels: Any = mixture._triton_version()
    if kernels is None:
        return {"": {}}
    tried: dict[str, dict[str, int]] = {"": {}}
    tried |= {f", tiles of {tile:,}": {"VALUES_OF_A_TILE": tile} for tile in plan.tiles}
    tried |= {f", {warps} warps": {"WARPS": warps} for warps in plan.warps}
    if plan.three_tf32 and dtype == torch.float32:
        tried |= {", three TF32 products": {"FLOAT32_PRODUCTS": kernels.THREE_TF32}}
    return tried


def _search(plan: GPUPlan, device: torch.device) -> Iterator[Row]:
    """Brute force in float32 and bfloat16, by variants of its kernel, and the average, against the roofline; and the published
    arithmetic, all of whose steps hold a value of every pair."""
    limits = ceilings(device)
    yield {
        "what": "ceilings",
        "note": f"{limits.operations / 1e12:.1f} TFLOP/s fp32, {limits.bytes / 1e9:.0f} GB/s",
    }
    for size in plan.sizes:
        workload = build(RandomWeights(size), max(plan.batches), 0, device)
        mol = workload.similarity
        for dtype in (torch.float32, torch.bfloat16):
            items = workload.items.to(dtype=dtype)
            for variant, constants in variants(plan, dtype).items():
                with _kernels_with(**constants):
                    name = f"brute force, {size}, {str(dtype).removeprefix('torch.')}{variant}"
                    yield from _timed(plan, name, workload, BruteForce(mol, items), limits)
        for queries in plan.batches:
            published = ReferenceImplementation(workload, queries, HELD_ON_A_GPU)
            name = f"published arithmetic, {size}, from {published.fraction:.1%} of the items"
            for row in _timed(replace(plan, batches=(queries,)), name, workload, published, None):
                yield row | {"ms": row["ms"] / published.fraction}
        count = min(4_000, len(workload.items))
        searcher = Approximate.of(mol, workload.items, n2=count)
        yield from _timed(plan, f"average n2={count}, {size}", workload, searcher, None)


def _published(plan: GPUPlan, checkout: Path, device: torch.device) -> Iterator[Row]:
    """The search of the published code's checkout and ours of the same items, by the ways of `published_search`."""
    rounds = max(1, plan.repeats // 4)
    for size in plan.sizes:
        for queries in plan.batches:
            raw = published_search.compare(
                checkout, (size,), (queries,), rounds, plan.k, held_bytes=HELD_ON_A_GPU, device=device
            )
            for row in published_search.summary(pd.DataFrame(raw)).to_dict("records"):
                yield {
                    "what": f"{row['implementation']}: {row['way']}, {size}",
                    "items": row["items"],
                    "queries": queries,
                    "ms": row["ms"],
                    "note": f"{row['speed-up']:.1f} times the published code's speed; overlap {row['overlap']:.3f}",
                }


def _timed(
    plan: GPUPlan,
    name: str,
    workload: Workload,
    searcher: Searcher | ReferenceImplementation,
    limits: Ceilings | None,
) -> Iterator[Row]:
    for queries in plan.batches:
        _, asked, exclude = workload.batch(0, queries)
        times = measure(partial(searcher.search, asked, plan.k, exclude), workload.device, 2, plan.repeats)
        ms = 1e3 * float(times["seconds"].median())
        note = ""
        if limits is not None and isinstance(workload.similarity, MixtureOfLogits):
            c = workload.similarity.config
            cost = mixture.mixture_cost(c.query_groups, c.item_groups, c.component_dim, c.gate_pair, queries)
            pairs = queries * len(workload.items)
            least = 1e3 * max(pairs * cost.flops / limits.operations, pairs * cost.bytes / limits.bytes)
            note = f"{least / ms:.0%} of the fp32 roofline"
        yield {"what": name, "items": len(workload.items), "queries": queries, "ms": ms, "note": note}


def _training(plan: GPUPlan, device: torch.device) -> Iterator[Row]:
    """A step of training at published settings: forward, backward, update; of mixtures with both versions of the loss."""
    for name in plan.presets:
        chosen = preset(name)
        users = plan.training_batch or chosen.training.batch_size
        mixture_there = isinstance(chosen.retriever.similarity, MoLConfig)
        for note, value in (("", "1"), ("the loss in torch", "0"))[: 1 + mixture_there]:
            with _environment(FUSED_SWITCH, value):
                times = measure(_training_step(chosen, users, device), device, 2, max(1, plan.repeats // 4))
            ms = 1e3 * float(times["seconds"].median())
            yield {"what": f"a step of {name}", "items": ITEMS, "queries": users, "ms": ms, "note": note}


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _training_step(chosen: Preset, users: int, device: torch.device) -> Callable[[], None]:
    retriever = Retriever(chosen.retriever, ITEMS).to(device).train()
    optimizer = torch.optim.AdamW(retriever.parameters(), chosen.training.learning_rate)
    step, draws = TrainingStep(retriever, chosen.training.loss), runtime.generator(0)
    b = batch(users, chosen.retriever.max_length, ITEMS, 0).to(device)

    def take() -> None:
        targets = next_item(b)
        step(b, targets, draw(chosen.training.loss, targets.target_ids, ITEMS, draws)).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return take


def _first_stages(plan: GPUPlan, device: torch.device) -> Iterator[Row]:
    """The h-indexer over corpora of random components, a block of which is repeated, until one does not fit."""
    config = MoLConfig(4, 4, 16, query_hidden=16, gate_query=16, gate_item=None, gate_pair=16)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        mol = MixtureOfLogits(config, 32).eval().to(device)
    chance = runtime.generator(0)
    with torch.no_grad():
        asked = torch.randn(32, 32, generator=chance).to(device)
        queries = mol.queries(asked, torch.zeros(32, dtype=torch.int64, device=device))
    block = torch.randn(min(BLOCK, max(plan.first_stages)), 4, 16, generator=chance).to(
        device, torch.bfloat16
    )
    for count in plan.first_stages:
        components = block.repeat(-(-count // len(block)), 1, 1)[:count]
        items = MoLItems(torch.arange(1, count + 1, device=device), components, None)
        keep = max(plan.k, min(count // 10, 100_000))
        stage = AveragedComponents(mol, items, 16)
        searcher = Approximate(mol, items, [FirstStageFilter(items, stage, keep, runtime.generator(0))])
        times = measure(partial(searcher.search, queries, plan.k), device, 1, max(1, plan.repeats // 4))
        ms = 1e3 * float(times["seconds"].median())
        yield {"what": f"h-indexer, keep {keep:,}", "items": count, "queries": 32, "ms": ms}
        del components, items, stage, searcher


def _faiss(plan: GPUPlan, device: torch.device) -> Iterator[Row]:
    """The average's list from FAISS, which is on the GPU only if its GPU build is installed."""
    runtime.require("faiss")
    flat: SourceBuilder = faiss_lists(Flat())
    for size in plan.sizes:
        workload = build(RandomWeights(size), max(plan.batches), 0, device)
        held = FaissLists(
            Flat(),
            "average",
            workload.items.ids[:1],
            workload.similarity.item_components(workload.items[:1]).mean(1),
        )
        where = "on the GPU" if held.place.type == "cuda" else "on the CPU: this build has no GPU"
        count = min(1_000, len(workload.items))
        searcher = Approximate.of(workload.similarity, workload.items, n2=count, source=flat)
        for row in _timed(plan, f"average n2={count}, FAISS flat, {size}", workload, searcher, None):
            yield row | {"note": where}
