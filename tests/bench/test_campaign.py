"""The campaign against certificates: no searcher certifies a wrong list, and the campaign would notice one that does."""

import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from workbench import runtime
from workbench.bench import certificates
from workbench.bench.certificates import OUTCOMES, attempt, campaign, problem, tally
from workbench.cli import app
from workbench.search.certificates import Certificate

NAMES = [
    name
    for name in certificates._searchers(certificates._similarity("dot"))
    if "FAISS" not in name or runtime.optional("faiss") is not None
]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_no_certificate_is_false(seed):
    """20 problems, each to 22 searchers, under the type checker."""
    given_problem = problem(seed)
    for name in NAMES:
        assert attempt(given_problem, name) != "false", f"{name}: seed {seed}"


def test_no_certificate_of_two_thousand_is_false():
    """In a process of its own, where calls are not checked: five times as many in the same time."""
    command = [
        sys.executable,
        "-m",
        "workbench.cli",
        "bench",
        "certificates",
        "--searches",
        "2200",
        "--seed",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"tried [2-9],\d{3}, false 0$", done.stdout.strip()), done.stdout


@pytest.mark.skipif("per component, FAISS" not in NAMES, reason="FAISS is not installed")
def test_a_query_that_overflows_in_an_engine_is_certain_of_nothing():
    """A seed that once gave a false certificate: its float64 queries are infinite in FAISS's float32."""
    given_problem = problem(40112)
    components = given_problem.similarity.query_components(given_problem.queries)
    assert components.isfinite().all() and not components.float().isfinite().all()
    assert attempt(given_problem, "per component, FAISS") == "not certified"


def test_a_problem_is_the_same_for_the_same_seed():
    first, second = problem(7), problem(7)
    assert torch.equal(first.after.ids, second.after.ids) and first.caller == second.caller
    assert first.queries.nbytes() == second.queries.nbytes()


def test_a_false_certificate_is_noticed(monkeypatch):
    def lenient(last: torch.Tensor, bound: torch.Tensor) -> Certificate:
        return Certificate(torch.ones_like(last, dtype=torch.bool), torch.zeros_like(last))

    monkeypatch.setattr("workbench.search.certificates.certificate", lenient)
    assert "false" in {attempt(problem(seed), "average") for seed in range(10)}


def test_the_command_prints_what_was_tried():
    result = CliRunner().invoke(app, ["bench", "certificates", "--searches", "20", "--seed", "3"])
    assert result.exit_code == 0, result.output
    assert f"tried {-(-20 // len(NAMES)) * len(NAMES)}, false 0" in result.output
    table = tally(campaign(len(NAMES), 3))
    assert list(table.searcher) == NAMES and (table.tried == table[list(OUTCOMES)].sum(axis=1)).all()
