"""Shards give what one searcher over the whole corpus gives, in one process and in three."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import shard_worker
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.contracts import ItemState, QueryState, Searcher, TopK
from workbench.search import BruteForce
from workbench.search.sharded import Sharded, split
from workbench.similarities.dot import DotConfig, DotProduct

INF = float("inf")
PROCESSES = 3
DOT = DotProduct(DotConfig(normalize=False, temperature=1.0)).eval()


def states(queries: list[float], items: list[float], ids: list[int] | None = None) -> tuple[Any, Any]:
    ids = list(range(1, len(items) + 1)) if ids is None else ids
    return (
        DOT.queries(torch.tensor(queries)[:, None], torch.arange(len(queries))),
        DOT.items(torch.tensor(items)[:, None], torch.tensor(ids)),
    )


class Partly(Searcher):
    """Looks at the first `seen` items of its part only, and returns how good the others may be."""

    def __init__(self, items: ItemState, seen: int) -> None:
        self.items, self.seen = items, min(seen, len(items))

    def search(
        self, queries: QueryState, k: int, exclude: Tensor | None = None, allowed: Tensor | None = None
    ) -> TopK:
        scores = DOT.score(queries, self.items)
        top = BruteForce(DOT, self.items[: self.seen]).search(queries, min(k, self.seen))
        short = k - top.scores.shape[1]
        listed = torch.nn.functional.pad(top.scores, (0, short), value=-INF)
        ids = torch.nn.functional.pad(top.ids, (0, short), value=-1)
        if self.seen == len(self.items):
            return TopK(listed, ids, top.exact, top.gap, top.num_scored)
        unseen = scores[:, self.seen :].amax(1)
        exact = unseen <= listed[:, -1]
        gap = torch.where(exact, 0.0, unseen - listed[:, -1])
        return TopK(listed, ids, exact, gap, top.num_scored)

    def upsert(self, items: ItemState) -> None:
        raise NotImplementedError("rebuild it")

    def remove(self, ids: Tensor) -> None:
        raise NotImplementedError("rebuild it")


def test_a_corpus_is_cut_into_even_runs():
    _, items = states([1.0], [0.0] * 10)
    assert [part.ids.tolist() for part in split(items, 3)] == [[1, 2, 3], [4, 5, 6], [7, 8, 9, 10]]
    assert [len(part) for part in split(items, 99)] == [1] * 10
    assert [len(part) for part in split(items[:0], 3)] == [0]
    with pytest.raises(ValueError, match="at least 1 part, not 0"):
        split(items, 0)
    with pytest.raises(ValueError, match="at least one part"):
        Sharded(lambda part: BruteForce(DOT, part), [])


def test_a_bound_that_does_not_reach_the_last_score_leaves_the_result_exact():
    queries, items = states([1.0], [9.0, 8.0, 7.0, 2.0, 1.0, 3.0])
    # Neither shard looks at its third item; the second shard is not exact, but 3 cannot enter a list of 9 and 8.
    found = Sharded(lambda part: Partly(part, 2), split(items, 2)).search(queries, 2)
    assert found.ids.tolist() == [[1, 2]]
    assert (found.exact.tolist(), found.gap.tolist(), found.num_scored.tolist()) == ([True], [0.0], [4])


def test_a_bound_above_the_last_score_is_the_gap():
    queries, items = states([1.0, -1.0], [9.0, 1.0, 2.0, 8.0])
    found = Sharded(lambda part: Partly(part, 1), [items[:2], items[2:]]).search(queries, 1)
    assert found.ids.tolist() == [[1], [3]]
    assert found.exact.tolist() == [True, False]
    # The first shard returned −9 and has nothing above −1, the second −2 and is exact.
    assert found.gap[1].item() == pytest.approx(1.0, abs=1e-5) and found.gap[1] >= 1.0


def test_an_inexact_shard_that_found_nothing_leaves_all_open():
    queries, items = states([1.0], [1.0, 2.0, 3.0, 4.0])
    found = Sharded(lambda part: Partly(part, 1), [items[:2], items[2:]]).search(queries, 2)
    assert (found.exact.tolist(), found.gap.tolist()) == ([False], [INF])


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_certificate_is_false_and_no_gap_too_small(data):
    n = data.draw(st.integers(1, 20))
    values = st.lists(st.floats(-3, 3, width=16), min_size=n, max_size=n)
    queries, items = states([1.0], data.draw(values))
    k, seen = data.draw(st.integers(1, n)), data.draw(st.integers(1, 6))
    found = Sharded(lambda part: Partly(part, seen), split(items, data.draw(st.integers(1, 4)))).search(
        queries, k
    )
    truth = BruteForce(DOT, items).search(queries, k)
    if found.exact.item():
        assert torch.equal(found.scores, truth.scores)
    assert found.gap[0] == INF or truth.scores[0, -1] <= found.scores[0, -1] + found.gap[0]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_changes_leave_what_one_searcher_would_hold(data):
    numbers = st.integers(-3, 3).map(float)
    values = data.draw(st.lists(numbers, min_size=1, max_size=9))
    queries, items = states([1.0, -1.0], values)
    whole: Searcher = BruteForce(DOT, items)
    shards: Searcher = Sharded(lambda part: BruteForce(DOT, part), split(items, 3))
    here = items.ids.tolist()
    for _ in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()) and len(here) > 1:
            gone = data.draw(st.lists(st.sampled_from(here), min_size=1, max_size=len(here) - 1, unique=True))
            here = [item for item in here if item not in gone]
            whole.remove(torch.tensor(gone))
            shards.remove(torch.tensor(gone))
        else:
            put = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5, unique=True))
            vectors = data.draw(st.lists(numbers, min_size=len(put), max_size=len(put)))
            here += [item for item in put if item not in here]
            for searcher in (whole, shards):
                searcher.upsert(states([1.0], vectors, put)[1])
        allowed = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(here), max_size=len(here))))
        expected, found = (searcher.search(queries, len(here), None, allowed) for searcher in (whole, shards))
        assert torch.equal(expected.ids, found.ids)
        assert torch.equal(expected.scores, found.scores)


def test_a_shard_may_become_empty_and_is_filled_first():
    queries, items = states([1.0], [1.0, 2.0, 3.0, 4.0])
    searcher = Sharded(lambda part: BruteForce(DOT, part), split(items, 2))
    searcher.remove(torch.tensor([1, 2]))
    assert searcher.search(queries, 2).ids.tolist() == [[4, 3]]
    searcher.upsert(states([1.0], [3.0, 0.0], [8, 9])[1])
    assert [len(shard.ids) for shard in searcher._shards] == [2, 2]
    # Item 8 was added last, though to the first shard: of equals it comes last.
    assert searcher.search(queries, 4).ids.tolist() == [[4, 3, 8, 9]]


def test_refusals_leave_the_corpus_as_it_was():
    queries, items = states([1.0], [1.0, 2.0, 3.0])
    searcher = Sharded(lambda part: Partly(part, 9), split(items, 2))
    with pytest.raises(NotImplementedError, match="rebuild"):
        searcher.upsert(states([1.0], [5.0, 5.0], [2, 7])[1])
    with pytest.raises(ValueError, match="another model"):
        searcher.upsert(items.to(dtype=torch.float64))
    with pytest.raises(ValueError, match="repeat an id"):
        searcher.upsert(states([1.0], [5.0, 5.0], [7, 7])[1])
    with pytest.raises(ValueError, match="all 3 items"):
        searcher.remove(torch.tensor([3, 2, 1]))
    assert len(searcher) == 3
    assert searcher.search(queries, 3).ids.tolist() == [[3, 2, 1]]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> list[dict[str, Any]]:
    """What each of three processes that hold the corpus together got."""
    folder: Path = tmp_path_factory.mktemp("shards")
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(PROCESSES),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, shard_worker.__file__, folder],
            env=os.environ | shared | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(PROCESSES)
    ]
    try:
        logs = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()  # where one failed the others wait for it
    assert [process.returncode for process in processes] == [0] * PROCESSES, "\n".join(logs)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(PROCESSES)]


@pytest.mark.parametrize("cut", ["one part each", "nothing in one"])
def test_processes_find_together_what_one_searcher_finds(answers, cut):
    queries, items = shard_worker.corpus()
    expected = json.loads(json.dumps(shard_worker.searches(BruteForce(DOT, items), queries)))
    for rank in range(PROCESSES):
        assert answers[rank][cut] == expected


def test_work_is_summed_and_the_dtype_kept(answers):
    assert [answer["work"] for answer in answers] == [[40] * 3] * PROCESSES
    assert [answer["half"] for answer in answers] == [2] * PROCESSES


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("k differs", "different searches, of (queries, k) [[3, 2], [3, 3], [3, 4]]"),
        ("wrong in one", "k must be at least 1, not 0"),
        ("too many", "the corpus holds 40 items"),
        ("twice", "is in the parts of two processes"),
        ("other model", "another model"),
        ("stranger", "item 99 is not in this corpus of 40 items"),
        ("undefined", "is NaN"),
    ],
)
def test_what_fails_in_one_process_fails_in_all(answers, what, message):
    for answer in answers:
        assert answer[what].startswith("ValueError: ") and message in answer[what]


def test_processes_go_on_after_errors(answers):
    queries, items = shard_worker.corpus()
    expected = BruteForce(DOT, items).search(queries, 5).ids.tolist()
    assert [answer["after errors"] for answer in answers] == [expected] * PROCESSES


def test_a_search_after_the_end_of_the_group_reports_it(answers):
    ended = "RuntimeError: the process group of this searcher was destroyed"
    assert [answer["after the end"] for answer in answers] == [ended] * PROCESSES
