"""The notebooks as they stand in the repository: paired, in order, short."""

import ast
from pathlib import Path
from typing import Any

import jupytext
import pytest

from workbench.reporting import pairs
from workbench.reporting.notebooks import catalog

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*.py"))
MOST_LINES = 25
OWN_CLASSES = "12_your_own"
"""Its subject is the classes that a reader writes."""


@pytest.fixture(params=SOURCES, ids=[path.stem for path in SOURCES])
def cells(request: pytest.FixtureRequest) -> list[Any]:
    """The cells of one notebook."""
    return jupytext.read(request.param).cells


def code(cells: list[Any]) -> list[str]:
    return [cell.source for cell in cells if cell.cell_type == "code"]


def test_there_are_notebooks_and_each_can_be_part_of_a_report() -> None:
    assert {path.stem for path in SOURCES} == {notebook.name for notebook in catalog(NOTEBOOKS)}


def test_each_is_paired_without_outputs() -> None:
    assert pairs.problems(NOTEBOOKS) == []


def test_each_generated_half_is_what_its_source_gives(tmp_path: Path) -> None:
    for source in SOURCES:
        copy = tmp_path / source.name
        copy.write_bytes(source.read_bytes())
        assert pairs.write(copy).read_bytes() == source.with_suffix(".ipynb").read_bytes(), source.name


def test_headers_are_as_jupyterlab_writes_them() -> None:
    for source in SOURCES:
        header = source.read_text(encoding="utf-8").split("# ---")[1]
        assert "cell_metadata_filter: tags,-all" in header, source.name
        assert "jupytext_version:" not in header, source.name


def test_it_opens_with_a_title_and_closes_with_text(cells: list[Any]) -> None:
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    assert cells[-1].cell_type == "markdown"


def test_exactly_one_cell_is_tagged_parameters_and_it_comes_first(cells: list[Any]) -> None:
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert tagged[0].source == code(cells)[0]


def test_there_are_at_most_three_imports_before_the_first_idea(cells: list[Any]) -> None:
    count = 0
    for source in code(cells)[1:]:
        statements = ast.parse(source).body
        count += sum(isinstance(statement, ast.Import | ast.ImportFrom) for statement in statements)
        if not all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in statements):
            break
    assert count <= 3


def test_cells_are_short(cells: list[Any]) -> None:
    for source in code(cells):
        assert len(source.splitlines()) <= MOST_LINES, source


def test_code_is_plain_python_that_defines_no_class_and_hardly_a_function(
    cells: list[Any], request: pytest.FixtureRequest
) -> None:
    if request.node.callspec.id == OWN_CLASSES:
        return
    nodes = [node for source in code(cells) for node in ast.walk(ast.parse(source))]
    assert not [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    assert len([node.name for node in nodes if isinstance(node, ast.FunctionDef)]) <= 2
