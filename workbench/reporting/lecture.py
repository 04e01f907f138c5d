"""Speaker's notes for a lecture of 45 minutes that is held from the pages of a report. May import nothing of ours.

What depends on the run (which place of a control leads where, what was found) is read from the executed notebooks, so that the
notes of another dataset or seed say nothing that its pages do not show.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from workbench.reporting.outputs import DASHBOARD

FINDING = "**In this run:**"
"""How a finding, a sentence computed from a run, begins."""

Place = str | float
"""Where a control stands: at the value of this label, or at this share of the way along its slider."""

IN_FRAGMENTS = "?/:@!$&'()*+,;="
"""What nbconvert leaves as it is in the id of a heading, as RFC 3986 allows it in a fragment."""


@dataclass(frozen=True)
class Step:
    """A part of the lecture: the page of `notebook` at `section` (its top if empty), and what to `say` there.

    `views` are settings of the controls of the dashboard with the title `dashboard`, by what they show.
    """

    minutes: int
    notebook: str
    section: str
    say: tuple[str, ...]
    dashboard: str = ""
    views: Mapping[str, Mapping[str, Place]] = field(default_factory=dict)


STEPS = (
    Step(
        3,
        "00_tour",
        "",
        (
            "The task: from what a person has watched, read or bought, find what comes next among all items.",
            "A retriever is three things: a query, a similarity, a search. The lecture changes one after the other.",
            "Everybody can follow on a phone: the pages need no network and no kernel, and their controls move.",
        ),
    ),
    Step(
        3,
        "00_tour",
        "First, by hand",
        (
            "Unfold the code. Three lines are a complete retriever: query, dot product, sorting.",
            "Ask which of the three would be too slow for a hundred million items, and which is too simple.",
        ),
    ),
    Step(
        4,
        "00_tour",
        "1 · The task",
        (
            "The last item of each user is held out. The simplest retriever shows everybody the same list.",
            "Let the room guess before you move the control: how long must that list be to contain half of the next items?",
        ),
        "One list for everybody",
        {"a short list": {"items": "10"}, "the whole catalogue": {"items": 1.0}},
    ),
    Step(
        4,
        "00_tour",
        "2 · What is learned",
        (
            "The next item has to score higher than negatives that are drawn at random.",
            "With one negative every method looks good. Move to the right: this is why metrics here rank all items.",
        ),
        "Ranking among random negatives",
        {"one negative": {"negatives": 0.0}, "all items": {"negatives": 1.0}},
    ),
    Step(
        6,
        "03_compare_similarities",
        "Explore the metrics",
        (
            "Same encoder, data and steps; only the similarity differs. The lines are 95 % intervals over users.",
            "Show one k first, then every k: a ranking of methods at one k is not a ranking at every k.",
            "Scroll to *Is the difference real?*: differences are paired, user by user, and need more than one seed.",
        ),
        "Compare methods",
        {
            "one k": {"metric": "HR", "view": "one k", "k": "10"},
            "every k": {"metric": "NDCG", "view": "every k"},
        },
    ),
    Step(
        5,
        "04_universal_approximation",
        "Train both",
        (
            "The scores of a dot product of width d are a matrix of rank d, and no training can go below the floor.",
            "In the first target each query wants what is similar to itself, but not identical. In the second, a whole group:"
            " there a dot product is the right tool, and a mixture buys nothing.",
        ),
        "How wide must a dot product be?",
        {
            "similar, not identical": {"target": "similar, not identical", "d": "4"},
            "block": {"target": "block", "d": "8"},
        },
    ),
    Step(
        5,
        "05_mol_anatomy",
        "One user, one item",
        (
            "A score is a sum over pairs of vectors: component score times gate weight. Read one bar aloud.",
            "The temperature T turns the gate from a decision into an average. Ask what happens to the rank, then move it.",
        ),
        "Anatomy of one score",
        {"the gate decides": {"T": 0.0}, "the gate averages": {"T": 1.0}},
    ),
    Step(
        5,
        "06_exact_topk",
        "Try it",
        (
            "Weights are positive and sum to one, so a score is at most its largest component, and that is an inner product.",
            "Short lists may be complete without a proof. Lengthen them: the line falls, and what lies above it is proved.",
            "Difference between complete and proved: ask for it again at the end.",
        ),
        "Which items can be ruled out, and is the list proved?",
        {"short lists": {"n1": 0.0}, "long lists": {"n1": 1.0}},
    ),
    Step(
        3,
        "07_recall_latency",
        "Watch a search",
        (
            "One query, searched step by step. Before each step, let the room say what is scored next.",
            "Next to the map is the bound of every item: which one could still enter the list, and why can the others not?",
        ),
        "Watch a search",
        {"before the first step": {"step": 0.0}, "after the last": {"step": 1.0}},
    ),
    Step(
        2,
        "07_recall_latency",
        "Your turn: live measurements",
        (
            "Recall on a scale that separates 0.9, 0.99 and 0.999; up and to the left is not the same corner in every plot.",
            "Latency depends on machine and batch: compare methods of one run, never two tables.",
        ),
        "Recall and latency, measured live",
        {"recall and latency": {"log": "yes"}},
    ),
    Step(
        2,
        "08_sparcode",
        "How sparse can the index be?",
        (
            "Round the query to a code, and all its scores can be stored: search becomes a look-up.",
            "Storing everything is too much; move the control to see what shorter lists cost.",
        ),
        "Cut the lists",
        {"short lists": {"items": 0.0}, "whole lists": {"items": 1.0}},
    ),
    Step(
        2,
        "09_deep_retrieval",
        "How wide must the beam be?",
        (
            "Items lie on learned paths; a beam follows the best ones. A wider beam finds more and scores more.",
        ),
        "Widen the beam",
        {"one path": {"beam": 0.0}, "many paths": {"beam": 1.0}},
    ),
    Step(
        1,
        "00_tour",
        "What you have seen",
        (
            "Speed, completeness and proof are three questions. Point to the exercise: it checks itself in the live notebook.",
        ),
    ),
)


@dataclass(frozen=True)
class Note:
    """A step in a report: minutes from `begin` to `end`, the page's `title`, links, and the findings of its section."""

    begin: int
    end: int
    title: str
    section: str
    link: str
    say: tuple[str, ...]
    views: Mapping[str, str]
    finding: str


def notebooks() -> set[str]:
    """The names of the notebooks whose pages the lecture shows."""
    return {step.notebook for step in STEPS}


def notes(executed: Mapping[str, Any], titles: Mapping[str, str]) -> list[Note]:
    """The steps for a report's executed notebooks, by name; a view whose values its page does not store is left out.

    Raises ValueError if a notebook lacks a section of the lecture.
    """
    made, begin = [], 0
    for step in STEPS:
        cells = _section(executed[step.notebook], step)
        page = f"{step.notebook}.html"
        heading = quote(step.section.replace(" ", "-"), safe=IN_FRAGMENTS)  # nbconvert's id of it
        anchor = f"#{quote(heading)}" if step.section else ""
        views = {
            shows: f"{page}#{address}"
            for shows, state in step.views.items()
            if (address := _address(_dashboards(cells), step.dashboard, state))
        }
        note = Note(
            begin,
            begin + step.minutes,
            titles[step.notebook],
            step.section,
            page + anchor,
            step.say,
            views,
            _finding(cells),
        )
        made.append(note)
        begin = note.end
    return made


def _section(document: Any, step: Step) -> list[Any]:
    """The cells from the one with the section's heading up to the one with the next."""
    cells, inside = [], False
    for cell in document.cells:
        headings = [line for line in cell.source.splitlines() if line.startswith(("# ", "## "))]
        if cell.cell_type == "markdown" and headings:
            last = headings[-1].lstrip("#").strip()
            inside = last == step.section if step.section else headings[0].startswith("# ")
        if inside:
            cells.append(cell)
    if not cells:
        raise ValueError(
            f"the lecture shows the section {step.section!r} of {step.notebook}, which has no such section"
        )
    return cells


def _dashboards(cells: list[Any]) -> list[Mapping[str, Any]]:
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    return [found[DASHBOARD] for found in data if DASHBOARD in found]


def _address(dashboards: list[Mapping[str, Any]], title: str, state: Mapping[str, Place]) -> str:
    """The address of a state of the dashboard with this title; empty if it does not store the state."""
    for dashboard in dashboards:
        if dashboard["title"] != title:
            continue
        controls = {
            control["name"]: control for group in dashboard["groups"] for control in group["controls"]
        }
        chosen = {name: _label(controls.get(name), place) for name, place in state.items()}
        if all(chosen.values()):
            return urlencode({f"{dashboard['slug']}.{name}": label for name, label in chosen.items()})
    return ""


def _label(control: Mapping[str, Any] | None, place: Place) -> str:
    labels = control.get("labels", []) if control else []
    if isinstance(place, float) and labels:
        place = str(labels[round(place * (len(labels) - 1))])
    return re.sub(r"(?<=\d),(?=\d{3})", "", str(place)) if place in labels else ""


def _finding(cells: list[Any]) -> str:
    """The first finding among the outputs of these cells, as Markdown."""
    texts = [
        output.get("data", {}).get("text/markdown", "")
        for cell in cells
        for output in cell.get("outputs", [])
    ]
    return next((text.removeprefix(FINDING).strip() for text in texts if text.startswith(FINDING)), "")
