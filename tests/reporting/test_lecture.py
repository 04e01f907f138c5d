"""Speaker's notes: 45 minutes, held from sections that the notebooks have, with links to what a report stores."""

from pathlib import Path
from typing import Any

import nbformat
import pytest

from workbench.reporting import lecture
from workbench.reporting.lecture import STEPS, Step, notes
from workbench.reporting.outputs import DASHBOARD

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def executed(*outputs: dict[str, Any]) -> Any:
    cells = [
        nbformat.v4.new_markdown_cell("# A tour\n\nText."),
        nbformat.v4.new_markdown_cell("Before.\n\n## First & best"),
        nbformat.v4.new_code_cell(
            "", outputs=[nbformat.v4.new_output("display_data", data=d) for d in outputs]
        ),
        nbformat.v4.new_markdown_cell("## Second"),
        nbformat.v4.new_code_cell("", outputs=[]),
    ]
    return nbformat.v4.new_notebook(cells=cells)


STORED = {
    "title": "A list",
    "slug": "a-list",
    "groups": [
        {
            "controls": [
                {"name": "items", "kind": "slider", "labels": ["1", "10", "1,000"]},
                {"name": "view", "kind": "fixed", "value": "x"},
            ]
        }
    ],
}


def test_the_lecture_takes_45_minutes_and_every_section_is_there() -> None:
    assert sum(step.minutes for step in STEPS) == 45
    for step in STEPS:
        text = (NOTEBOOKS / f"{step.notebook}.py").read_text(encoding="utf-8")
        assert not step.section or f"\n# ## {step.section}\n" in text, step
        assert bool(step.views) == bool(step.dashboard), step
        assert all(step.views.values()), step


def test_links_hold_only_what_is_stored_and_findings_come_from_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    views = {
        "short": {"items": 0.0},
        "whole": {"items": 1.0},
        "named": {"items": "10"},
        "not stored": {"items": "7"},
        "fixed": {"view": "x"},
    }
    steps = (Step(2, "00_a", "", ("Hello.",)), Step(3, "00_a", "First & best", ("Look.",), "A list", views))
    monkeypatch.setattr(lecture, "STEPS", steps)
    document = executed({DASHBOARD: STORED}, {"text/markdown": "**In this run:** half."})
    top, first = notes({"00_a": document}, {"00_a": "A tour"})
    assert (top.begin, top.end, top.link, top.finding) == (0, 2, "00_a.html", "")
    assert (first.begin, first.end, first.finding) == (2, 5, "half.")
    assert first.link == "00_a.html#First-%26-best"
    assert first.views == {
        "short": "00_a.html#a-list.items=1",
        "whole": "00_a.html#a-list.items=1000",
        "named": "00_a.html#a-list.items=10",
    }


def test_a_missing_section_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lecture, "STEPS", (Step(1, "00_a", "Third", ("Hello.",)),))
    with pytest.raises(ValueError, match="section 'Third' of 00_a, which has no such section"):
        notes({"00_a": executed()}, {"00_a": "A tour"})
