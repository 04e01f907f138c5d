"""How an answer is checked: it is called on prepared inputs and compared with the solution, then with typical mistakes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import torch
from IPython.display import Markdown
from torch import Tensor

Function = Callable[..., Any]
State = Literal["right", "wrong", "open"]
TOLERANCE = 1e-4
SIGNS = {"right": "✓", "wrong": "✗", "open": "○"}
"""Not emoji: fonts of servers and PDF printers lack those."""


@dataclass(frozen=True)
class Exercise:
    """A function to write.

    `signature` is how it is called. `inputs` gives the calls that an answer is tried on, each a tuple of arguments that must
    not be changed. `solution` is a right function, and `mistakes` wrong ones, by the hint for whoever wrote one of them.
    """

    name: str
    signature: str
    inputs: Callable[[], Sequence[tuple[Any, ...]]]
    solution: Function
    mistakes: Mapping[str, Function]


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is "right", "wrong" or still "open", and what to say about it."""

    state: State
    text: str


def judge(exercise: Exercise, answer: Any) -> Verdict:
    """What to say about an answer: a function, or None, or one that returns None or `...`, if nothing is filled in yet.

    The first input on which it fails is described: by a hint if a typical mistake explains all results, else by the error it
    raised, the shape, or the first number that differs.
    """
    if answer in (None, ...):
        return _open(exercise)
    if not callable(answer):
        return Verdict(
            "wrong", f"pass the function itself, `{exercise.signature}`, not {type(answer).__name__}"
        )
    calls = exercise.inputs()
    results = []
    for arguments in calls:
        try:
            results.append(answer(*_copies(arguments)))
        except Exception as error:  # whatever a reader's function raises is shown to the reader
            return Verdict(
                "wrong", f"`{exercise.signature}` raised {type(error).__name__}: {error}{_on(arguments)}"
            )
    if all(result is None or result is ... for result in results):
        return _open(exercise)
    complaints = [
        complaint
        for arguments, result in zip(calls, results, strict=True)
        if (complaint := _difference(result, exercise.solution(*_copies(arguments)), arguments))
    ]
    if not complaints:
        return Verdict("right", f"right, on all {len(calls)} inputs")
    for hint, mistake in exercise.mistakes.items():
        if not any(
            _difference(result, mistake(*_copies(arguments)), arguments)
            for arguments, result in zip(calls, results, strict=True)
        ):
            return Verdict("wrong", hint)
    return Verdict("wrong", complaints[0])


def check(name: str, answer: Any = None) -> Markdown:
    """The verdict on an answer to the exercise of that name, as a line for display; it never raises for a wrong one.

    Raises ValueError, with close names, if there is no such exercise.
    """
    from workbench.course.exercises import EXERCISES

    if name not in EXERCISES:
        close = get_close_matches(name, EXERCISES, 1)
        raise ValueError(
            f"no exercise {name!r}{f', did you mean {close[0]!r}' if close else ''}; there are {', '.join(EXERCISES)}"
        )
    verdict = judge(EXERCISES[name], answer)
    return Markdown(f"{SIGNS[verdict.state]} **Exercise “{name}”**: {verdict.text}.")


def _open(exercise: Exercise) -> Verdict:
    return Verdict("open", f"not answered yet. Fill in `{exercise.signature}` and run the cell again")


def _copies(arguments: tuple[Any, ...]) -> list[Any]:
    """The arguments, tensors copied: an answer may work in place."""
    return [value.clone() if isinstance(value, Tensor) else value for value in arguments]


def _difference(result: Any, wanted: Any, arguments: tuple[Any, ...]) -> str:
    """What distinguishes a result from the one that is wanted; empty if nothing does."""
    right = torch.as_tensor(wanted)
    try:
        given = torch.as_tensor(result)
    except (TypeError, ValueError, RuntimeError):
        return f"the result should be numbers, not {type(result).__name__}"
    if given.shape != right.shape:
        return f"the result has shape {tuple(given.shape)}, not {tuple(right.shape)}{_on(arguments)}"
    close = torch.isclose(given.double(), right.double(), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
    if bool(close.all()):
        return ""
    place = tuple(int(n) for n in (~close).nonzero()[0])
    where = f" at {list(place)}" if place else ""
    return f"the result{where} is {_number(given[place])}, not {_number(right[place])}{_on(arguments)}"


def _number(value: Tensor) -> str:
    return f"{value.item():.6g}" if value.is_floating_point() else str(value.item())


def _on(arguments: tuple[Any, ...]) -> str:
    """The call, if it is short enough to read."""
    text = ", ".join(str(v.tolist()) if isinstance(v, Tensor) else repr(v) for v in arguments)
    return f", called with `{text}`" if len(text) <= 100 else ""
