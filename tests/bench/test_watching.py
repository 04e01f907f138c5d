"""What is watched is what the searcher did: every searcher's moments against its answer, and what each of them leaves open."""

from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.bench.watching import LEARNED, WATCHABLE, learned, typical_query, watch
from workbench.bench.workloads import Inflated, Trained, Workload, build
from workbench.search import BruteForce, Exact

pytestmark = pytest.mark.usefixtures("workbench_root")
K = 5


@pytest.fixture
def workload(checkpoint: str) -> Workload:
    return build(Inflated(checkpoint, 400), 6, 0, torch.device("cpu"))


@pytest.mark.parametrize("name", WATCHABLE)
def test_the_last_moment_is_the_answer(name: str, workload: Workload) -> None:
    seen = watch(workload, WATCHABLE[name](workload, 12, K), 1, K)
    first, last = seen.moments[0], seen.moments[-1]
    assert first.num_scored == 0 and not bool(first.scored.any()) and len(first.best) == 0
    assert int(first.could_enter.sum()) == int((~seen.hidden).sum())
    assert last.num_scored == int(seen.found.num_scored)
    assert set(seen.ids[last.best.numpy()]) == set(seen.found.ids[0].tolist())
    assert last.s_k == pytest.approx(float(seen.found.scores[0, -1]), rel=1e-6)
    assert [m.num_scored for m in seen.moments] == sorted(m.num_scored for m in seen.moments)
    assert [m.s_k for m in seen.moments] == sorted(m.s_k for m in seen.moments)
    for moment in seen.moments:
        left = (~moment.scored).numpy() & ~seen.hidden
        assert np.array_equal(moment.could_enter.numpy(), left & (seen.bounds >= moment.s_k))
        assert moment.next < 0 or seen.bounds[moment.next] == seen.bounds[left].max()
    if bool(seen.found.exact):  # a certificate is never given while anything above S_K could enter
        left = last.could_enter.numpy()
        assert not bool((seen.scores[left] > last.s_k + 1e-5).any())
    truth = BruteForce(workload.similarity, workload.items).search(
        workload.queries[1:2], K, workload.exclude[1:2]
    )
    if name in ("brute force", "exact with a bound", "until certified"):
        assert bool(seen.found.exact) and torch.equal(seen.found.ids, truth.ids)
    assert (seen.bounds >= seen.scores - 1e-5).all() and seen.has_bounds


def test_a_pass_over_the_corpus_has_steps(workload: Workload) -> None:
    passed = watch(workload, WATCHABLE["brute force"](workload, 12, K), 0, K)
    assert 4 <= len(passed.moments) - 1 <= 12
    assert passed.moments[-1].next == -1


def test_learned_indexes_are_watched_under_their_own_score(checkpoint: str) -> None:
    workload = build(Trained(checkpoint), 6, 0, torch.device("cpu"))
    for name, folder in zip(LEARNED, ("sparcode", "paths"), strict=True):
        asked, searcher = learned(workload, str(Path(checkpoint).with_name(f"cycles-sasrec-{folder}")), 4)
        seen = watch(asked, searcher, 2, K)
        assert not seen.has_bounds and seen.moments[-1].num_scored == int(seen.found.num_scored), name
        found = seen.found.ids[0][seen.found.ids[0] > 0]
        assert set(seen.ids[seen.moments[-1].best.numpy()]) == set(found.tolist())
    with pytest.raises(ValueError, match="no index of its own"):
        learned(workload, checkpoint, 4)


def test_what_cannot_be_watched_is_named(workload: Workload) -> None:
    searcher = WATCHABLE["average"](workload, 12, K)
    with pytest.raises(ValueError, match="query 6 is not one of the 6"):
        watch(workload, searcher, 6, K)
    with pytest.raises(ValueError, match="k must lie in 1 to"):
        watch(workload, searcher, 0, 10_000)


def test_the_typical_query_needs_the_median_effort(workload: Workload) -> None:
    exact = Exact(workload.similarity, workload.items, max_scored_fraction=1.0)
    scored = exact.search(workload.queries, K, workload.exclude).num_scored.tolist()
    assert len(set(scored)) > 2
    assert scored[typical_query(workload, K)] == sorted(scored)[len(scored) // 2]
