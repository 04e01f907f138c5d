"""The least time that a search could take on a machine: its operations and bytes against two measured ceilings."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from workbench import runtime
from workbench.bench.workloads import Workload
from workbench.contracts import ComponentSimilarity
from workbench.similarities.mol import MixtureOfLogits

ELEMENTWISE = 12
"""Operations per component and pair outside matrix products: combine, a·σ(a), softmax, mixture; each exponential as one."""


FIRST_STAGE_WIDTH = 64
"""Of the h-indexer, as published."""


@dataclass(frozen=True)
class Shape:
    """What the cost of a search follows from: items N, groups Pq and Px of width d, hidden units of the pair gate, bytes of
    the state of an item."""

    items: int
    query_groups: int
    item_groups: int
    width: int
    gate_pair: int
    item_bytes: float

    @property
    def pair_operations(self) -> int:
        """φ of one pair: 2·P·d for the inner products, 4·P·h for the pair gate and 4·h for its SiLU, 12·P for the rest."""
        p, h = self.query_groups * self.item_groups, self.gate_pair
        return 2 * p * self.width + 4 * p * h + 4 * h + (ELEMENTWISE * p if p > 1 else 0)


def shape(workload: Workload) -> Shape:
    """The shape of a workload."""
    one = workload.similarity
    queries, items = workload.queries[:1], workload.items[:1]
    f, g = one.query_components(queries), one.item_components(items)
    return Shape(
        len(workload.items), f.shape[1], g.shape[1], g.shape[2], _gate(one),
        workload.items.nbytes() / len(workload.items),
    )  # fmt: skip


def _gate(similarity: ComponentSimilarity) -> int:
    return (similarity.config.gate_pair or 0) if isinstance(similarity, MixtureOfLogits) else 0


@dataclass(frozen=True)
class Ceilings:
    """The best that was measured: `operations` per second (fp32 matrix product), `bytes` per second (copy, both ways)."""

    operations: float
    bytes: float


def best_of(first: Ceilings, second: Ceilings) -> Ceilings:
    """The higher of each ceiling.

    >>> best_of(Ceilings(3.0, 1.0), Ceilings(2.0, 5.0))
    Ceilings(operations=3.0, bytes=5.0)
    """
    return Ceilings(max(first.operations, second.operations), max(first.bytes, second.bytes))


def ceilings(device: torch.device, repeats: int = 5) -> Ceilings:
    """Both ceilings of a device with torch's present number of threads; about a second on a CPU core."""
    on_gpu = device.type == "cuda"
    side, copied = (8192, 2**30) if on_gpu else (1536, 2**27)
    a = torch.randn(side, side, device=device)
    source = torch.zeros(copied // 4, device=device)
    target = torch.empty_like(source)
    product = _fastest(lambda: a @ a, device, repeats)
    copy = _fastest(lambda: target.copy_(source), device, repeats)
    return Ceilings(2 * side**3 / product, 2 * copied / copy)


def _fastest(call: object, device: torch.device, repeats: int) -> float:
    assert callable(call)
    seconds = []
    for _ in range(repeats + 1):  # the first warms up; the fastest is taken, so it needs no special case
        with runtime.stopwatch(device) as watch:
            call()
        seconds.append(watch.seconds)
    return min(seconds)


def roofline(table: pd.DataFrame, shapes: pd.DataFrame, limits: Ceilings) -> pd.DataFrame:
    """`table` with `operations` and `bytes` of a call, `roofline_ms`, the least time for them, and `of_roofline`, the share
    reached: roofline_ms / p50_ms.

    A call looks at all N items for each of B queries (`scan`: whole pairs, P inner products, one, or a narrow one in int8,
    whose operations count as fp32's) and then computes φ for
    `num_scored` pairs. operations = B · (N · scan + num_scored · pair); bytes = what the scan reads of the corpus, once, and
    the item state of each rescored pair. NaN if the scan is unknown (an index that skips items).

    `table` has workload, scan, batch_size, num_scored, fraction and p50_ms; `shapes` is a row of `Shape` per workload.
    """
    wide = table[["workload"]].merge(shapes, on="workload", how="left")
    p = wide["query_groups"] * wide["item_groups"]
    pair, state = wide["pair_operations"], wide["item_bytes"]
    scan = table["scan"].to_numpy()
    kinds = [scan == "pairs", scan == "components", scan == "average", scan == "int8"]
    narrow = np.full(len(table), FIRST_STAGE_WIDTH)
    scan_operations = np.select(kinds, [pair, 2 * p * wide["width"], 2 * wide["width"], 2 * narrow], np.nan)
    of_components = 4 * wide["item_groups"] * wide["width"]
    scan_bytes = np.select(kinds, [state, of_components, 4 * wide["width"], narrow], np.nan)
    rescored = np.where(scan == "pairs", 0, table["num_scored"].to_numpy(float))
    b, n = table["batch_size"].to_numpy(), wide["items"].to_numpy()
    operations = b * (n * scan_operations + rescored * pair.to_numpy())
    moved = n * scan_bytes + b * rescored * state.to_numpy()
    least = 1e3 * np.maximum(operations / limits.operations, moved / limits.bytes)
    return table.assign(
        operations=operations, bytes=moved, roofline_ms=least, of_roofline=least / table["p50_ms"].to_numpy()
    )
