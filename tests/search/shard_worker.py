"""One of several processes that hold a corpus together: `shard_worker.py FOLDER`, with RANK and so on in the environment.

Does the same as its peers with `corpus()` cut over them, and writes what it got to `FOLDER/rankR.json`.
"""

import json
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from workbench.contracts import ItemState, QueryState, TopK
from workbench.search import BruteForce
from workbench.search.sharded import Sharded, split
from workbench.similarities.dot import DotConfig, DotProduct

SIMILARITY = DotProduct(DotConfig(normalize=False, temperature=1.0)).eval()
EXCLUDE = torch.tensor([[1, 0], [39, 5], [0, 0]])
ALLOWED = torch.arange(40) % 3 > 0


def corpus() -> tuple[QueryState, ItemState]:
    """Whole numbers: scores are exact, and ties lie across all shards."""
    chance = torch.Generator().manual_seed(0)
    queries = torch.randint(-2, 3, (3, 2), generator=chance).float()
    items = torch.randint(-2, 3, (40, 2), generator=chance).float()
    ids = torch.randperm(40, generator=chance) + 1
    return SIMILARITY.queries(queries, torch.arange(3)), SIMILARITY.items(items, ids)


def newcomers() -> ItemState:
    """A new item, a known one with another vector, another new one."""
    vectors = torch.tensor([[2.0, 2.0], [-2.0, 2.0], [2.0, 2.0]])
    return SIMILARITY.items(vectors, torch.tensor([90, 7, 80]))


def searches(searcher: BruteForce | Sharded, queries: QueryState) -> dict[str, Any]:
    """The same course of searches and changes for any searcher."""
    found: dict[str, TopK] = {
        "plain": searcher.search(queries, 5),
        "masked": searcher.search(queries, 25, EXCLUDE, ALLOWED),
        "whole": searcher.search(queries, 40),
    }
    searcher.upsert(newcomers())
    searcher.remove(torch.tensor([11, 12, 80]))
    found["changed"] = searcher.search(queries, 39, allowed=torch.arange(39) % 2 == 0)
    return {name: (top.ids.tolist(), top.scores.tolist(), top.exact.tolist()) for name, top in found.items()}


def main(folder: Path) -> "weakref.ref[dist.ProcessGroup]":
    """A reference to the group, which is gone by then unless something here keeps it alive."""
    dist.init_process_group("gloo")
    rank, count, group = dist.get_rank(), dist.get_world_size(), dist.group.WORLD
    queries, items = corpus()

    def build(part: ItemState) -> BruteForce:
        return BruteForce(SIMILARITY, part)

    def error(work: Any) -> str:
        try:
            work()
        except (ValueError, RuntimeError) as failure:
            return f"{type(failure).__name__}: {failure}"
        return "none"

    mine = split(items, count)[rank]
    whole = Sharded(build, [mine], group)
    answers: dict[str, Any] = {
        "one part each": searches(Sharded(build, [mine], group), queries),
        # The last process has nothing at first, the others two parts each.
        "nothing in one": searches(
            Sharded(
                build, split(split(items, count - 1)[rank], 2) if rank < count - 1 else [items[:0]], group
            ),
            queries,
        ),
        "work": whole.search(queries, 1).num_scored.tolist(),
        "half": Sharded(build, [mine.to(dtype=torch.bfloat16)], group)
        .search(queries.to(dtype=torch.bfloat16), 1)
        .scores.dtype.itemsize,
        "k differs": error(lambda: whole.search(queries, 2 + rank)),
        "wrong in one": error(lambda: whole.search(queries, 2 if rank else 0)),
        "too many": error(lambda: whole.search(queries, 41)),
        "twice": error(lambda: Sharded(build, [items[:3]], group)),
        "other model": error(lambda: whole.upsert(newcomers().to(dtype=torch.float64))),
        "stranger": error(lambda: whole.remove(torch.tensor([1, 99]))),
    }
    spoiled = SIMILARITY.items(mine.vectors.clone(), mine.ids)  # type: ignore[attr-defined]
    if rank == 1:
        spoiled.vectors[0] = float("nan")  # type: ignore[attr-defined]
    answers["undefined"] = error(lambda: Sharded(build, [spoiled], group).search(queries, 2))
    answers["after errors"] = whole.search(queries, 5).ids.tolist()
    dist.destroy_process_group()
    left = weakref.ref(group)
    del group
    answers["after the end"] = error(lambda: whole.search(queries, 5))
    (folder / f"rank{rank}.json").write_text(json.dumps(answers))
    return left


if __name__ == "__main__":
    if main(Path(sys.argv[1]))() is not None:
        sys.exit("the process group and its threads outlive its destruction")
