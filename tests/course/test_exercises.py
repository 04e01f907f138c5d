"""Every exercise accepts its solution, names each typical mistake, and stays open, not wrong, until it is filled in."""

import re
from pathlib import Path

import jupytext
import numpy as np
import pytest
import torch

from workbench.course import EXERCISES, check, judge

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.py"))
SOLUTION = re.compile(r"<details><summary>A solution</summary>.*?```python\n(.*?)```", re.DOTALL)
CHECKED = re.compile(r'^check\("([^"]+)", (\w+)\)$', re.MULTILINE)
every = pytest.mark.parametrize("exercise", EXERCISES.values(), ids=EXERCISES)


def exercises_of(notebook: Path) -> list[tuple[str, str, str, str]]:
    """Name, function, cell and solution of each exercise in a notebook: the solution is in the text below the cell."""
    cells = jupytext.read(notebook).cells
    found = []
    for cell, below in zip(cells, [*cells[1:], None], strict=True):
        for name, function in CHECKED.findall(cell.source) if cell.cell_type == "code" else []:
            solution = SOLUTION.search(below.source)
            assert solution, f"{notebook.stem}: no solution below {name!r}"
            found.append((name, function, cell.source, solution[1]))
    return found


@every
def test_the_solution_is_right(exercise) -> None:
    assert judge(exercise, exercise.solution).state == "right"


@every
def test_each_typical_mistake_gets_its_own_hint(exercise) -> None:
    for hint, mistake in exercise.mistakes.items():
        verdict = judge(exercise, mistake)
        assert (verdict.state, verdict.text) == ("wrong", hint)


@every
def test_what_is_not_filled_in_is_open(exercise) -> None:
    for empty in (None, ..., lambda *_: None, lambda *_: ...):
        assert judge(exercise, empty).state == "open"


@every
def test_other_answers_are_wrong_and_described(exercise) -> None:
    assert judge(exercise, 3).text == f"pass the function itself, `{exercise.signature}`, not int"
    assert "result has shape (7, 7)" in judge(exercise, lambda *_: torch.zeros(7, 7)).text
    assert "should be numbers, not str" in judge(exercise, lambda *_: "x").text

    def raising(*_):
        raise KeyError("q")

    assert "raised KeyError: 'q'" in judge(exercise, raising).text


def test_an_unlisted_mistake_is_described_by_its_first_number() -> None:
    ndcg = EXERCISES["ndcg"]
    verdict = judge(ndcg, lambda ranks, k: 0.5)
    assert verdict.text == "the result is 0.5, not 0.483999, called with `[1, 3, 12, 10, 2], 10`"


def test_an_answer_cannot_change_what_it_is_compared_on_and_may_use_numpy() -> None:
    def in_place(found, true):
        score = np.isin(found.numpy(), true.numpy()).sum() / len(true)
        found.fill_(0)
        true.fill_(0)
        return score

    assert judge(EXERCISES["recall"], in_place).state == "right"


def test_check_shows_the_verdict_and_refuses_an_unknown_name() -> None:
    assert check("ndcg").data.startswith("○ **Exercise “ndcg”**: not answered yet")
    assert check("ndcg", EXERCISES["ndcg"].solution).data.startswith("✓")
    assert check("ndcg", lambda ranks, k: 1.0).data.startswith("✗")
    with pytest.raises(ValueError, match=r"no exercise 'ndgc', did you mean 'ndcg'"):
        check("ndgc")


def test_the_notebooks_have_all_of_them_once_in_order() -> None:
    assert len(EXERCISES) == 12
    assert [name for path in NOTEBOOKS for name, *_ in exercises_of(path)] == list(EXERCISES)


@pytest.mark.parametrize("notebook", [path for path in NOTEBOOKS if exercises_of(path)], ids=lambda p: p.stem)
def test_the_solution_that_folds_out_is_right_and_the_cell_to_fill_in_is_open(notebook: Path) -> None:
    for name, function, cell, solution in exercises_of(notebook):
        known = {"torch": torch, "check": check}
        exec(cell, known)
        assert judge(EXERCISES[name], known[function]).state == "open"
        exec(solution, known)
        assert judge(EXERCISES[name], known[function]).state == "right"
