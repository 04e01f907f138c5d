"""The campaign against certificates: no searcher certifies a wrong list, and the campaign would notice one that does."""

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from workbench import runtime
from workbench.bench import certificates
from workbench.bench.certificates import (
    CONFIGS,
    DEFECTS,
    EVERY,
    OUTCOMES,
    attempt,
    campaign,
    problem,
    searchers,
    tally,
    totals,
)
from workbench.cli import app
from workbench.contracts import ComponentSimilarity
from workbench.search import Exact
from workbench.search.certificates import Certificate
from workbench.search.ranking import best_of_pairs
from workbench.similarities.mol import MoLItems


def outcomes(name: str, seeds: Iterable[int]) -> Iterator[str]:
    """What comes of a searcher on the problems of these seeds that it can be tried on."""
    for given_problem in map(problem, seeds):
        if name in searchers(given_problem.similarity, 0):
            yield attempt(given_problem, name)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_no_certificate_is_false(seed):
    """Ten problems, each to all searchers that are built quickly, under the type checker."""
    given_problem = problem(seed)
    for name in searchers(given_problem.similarity, seed):
        if name not in EVERY:
            assert attempt(given_problem, name) not in DEFECTS, f"{name}: seed {seed}"


def test_no_certificate_of_two_thousand_is_false(tmp_path):
    """In a process of its own, where calls are not checked: six times as many in the same time."""
    command = [sys.executable, "-m", "workbench.cli", "bench", "certificates", "--searches", "2000"]
    command += ["--seed", "1", "--out", str(tmp_path / "table.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"tried [2-9],\d{3}: failed 0, wrong 0, false 0$", done.stdout, re.MULTILINE), (
        done.stdout
    )


@pytest.mark.skipif(runtime.optional("faiss") is None, reason="FAISS is not installed")
def test_a_query_that_overflows_in_an_engine_is_certain_of_nothing():
    """Float64 queries that are infinite in FAISS's float32: they gave false certificates."""

    def overflows(one: certificates.Problem) -> bool:
        if one.expected is None or not isinstance(one.similarity, ComponentSimilarity):
            return False
        components = one.similarity.query_components(one.queries).flatten(1)
        return bool(components.isfinite().all() and not components.float().isfinite().all(1).any())

    given_problem = next(filter(overflows, map(problem, range(1_000))))
    assert attempt(given_problem, "per component, FAISS") == "not certified"


def test_a_problem_is_the_same_for_the_same_seed():
    first, second = problem(7), problem(7)
    assert torch.equal(first.after.ids, second.after.ids) and first.caller == second.caller
    assert torch.equal(first.scores, second.scores) and first.queries.nbytes() == second.queries.nbytes()


def test_problems_are_of_every_similarity_and_of_gates_of_any_size():
    problems = [problem(seed) for seed in range(60)]
    assert {one.name for one in problems} == set(CONFIGS)
    gates = [
        x.gate.abs().max()
        for x in (one.after for one in problems)
        if isinstance(x, MoLItems) and x.gate is not None
    ]
    assert max(gates) > 1e20
    assert any(one.expected is None for one in problems)


def test_a_false_certificate_is_noticed(monkeypatch):
    def lenient(last: torch.Tensor, bound: torch.Tensor) -> Certificate:
        return Certificate(torch.ones_like(last, dtype=torch.bool), torch.zeros_like(last))

    monkeypatch.setattr("workbench.search.certificates.certificate", lenient)
    assert "false" in outcomes("average", range(10))
    assert "false" in outcomes("inverted index, half of the codes", range(30))


def test_a_list_that_loses_an_item_or_changes_a_score_is_noticed(monkeypatch):
    def without_the_first(*given):
        found = best_of_pairs(*given)
        return found._replace(scores=found.scores.roll(-1, 1).index_fill(1, torch.tensor([-1]), -torch.inf))

    monkeypatch.setattr("workbench.search.approximate.best_of_pairs", without_the_first)
    assert "wrong" in outcomes("average", range(10))


def test_only_what_is_not_defined_may_be_refused(monkeypatch):
    seeds = [seed for seed in range(60) if isinstance(problem(seed).similarity, ComponentSimilarity)]
    undefined = [seed for seed in seeds if problem(seed).expected is None]
    tried = [*undefined[:2], *[seed for seed in seeds if seed not in undefined][:2]]
    assert list(outcomes("exact", tried)) == ["refused", "refused", "certified", "certified"]

    def refusing(*given, **options):
        raise ValueError("not today")

    monkeypatch.setattr(Exact, "_search", refusing)
    assert list(outcomes("exact", tried)) == ["refused", "refused", "failed", "failed"]


def test_engines_that_take_long_are_tried_now_and_then():
    similarity = certificates._similarity("dot")
    assert not set(EVERY) & set(searchers(similarity, 1))
    installed = runtime.optional("lancedb") is not None
    assert ("per component, LanceDB" in searchers(similarity, 0)) == installed


def test_the_command_prints_and_stores_what_was_tried(tmp_path):
    path = tmp_path / "table.csv"
    given_options = ["bench", "certificates", "--searches", "6", "--seed", "19", "--out", str(path)]
    result = CliRunner().invoke(app, given_options)
    assert result.exit_code == 0, result.output
    table, again = pd.read_csv(path), tally(campaign(6, 19))
    pd.testing.assert_frame_equal(table.drop(columns=["machine", "commit"]), again, check_dtype=False)
    assert (table["tried"] == table[list(OUTCOMES)].sum(axis=1)).all()
    every = totals(table).iloc[-1]
    assert every["searcher"] == "all" and every["tried"] == table["tried"].sum() >= 6
    assert f"tried {every['tried']}: failed 0, wrong 0, false 0" in result.output
