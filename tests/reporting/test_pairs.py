"""Pairs of notebooks: what is generated, and what is refused."""

from typing import Any

import jupytext
import nbformat
import pytest

from workbench.reporting import pairs


@pytest.fixture
def pair(workshop: Any) -> Any:
    return workshop.add("00_tour", "# Some *text* with $x$", "x = 1\n\n\ny = 2", after=[])


def test_a_generated_half_is_plain_and_the_same_each_time(pair: Any) -> None:
    first = pair.read_bytes()
    document = nbformat.reads(first.decode(), as_version=4)
    nbformat.validate(document)
    assert document.metadata.kernelspec.name == "python3"
    assert document.metadata.workbench == {"after": []}
    assert [cell.cell_type for cell in document.cells] == ["markdown", "code", "markdown", "code"]
    assert document.cells[1].metadata == {"tags": ["parameters"]}
    assert pairs.write(pair.with_suffix(".py")) == pair
    assert pair.read_bytes() == first
    assert pairs.problems(pair.parent) == []
    assert [path.name for path in sorted(pair.parent.iterdir())] == ["00_tour.ipynb", "00_tour.py"]


def test_jupytext_reads_the_same_cells_from_both(pair: Any) -> None:
    again = jupytext.reads(jupytext.writes(nbformat.read(pair, as_version=4), "py:percent"), "py:percent")
    ours = jupytext.read(pair.with_suffix(".py"))
    assert [cell.source for cell in again.cells] == [cell.source for cell in ours.cells]


def edit(path: Any, change: Any) -> None:
    document = nbformat.read(path, as_version=4)
    change(document)
    nbformat.write(document, path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda nb: nb.cells[3].update(source="x = 2"), "cell 4 differs"),
        (lambda nb: nb.cells[1].metadata.update(tags=[]), "cell 2 differs"),
        (lambda nb: nb.cells.pop(), "has 3 cells, 00_tour.py has 4"),
        (lambda nb: nb.metadata.workbench.update(after=["x"]), "workbench metadata differ"),
        (lambda nb: nb.metadata.pop("kernelspec"), "names no kernel"),
        (lambda nb: nb.cells[1].update(execution_count=1), "holds outputs"),
        (lambda nb: nb.cells[1].outputs.append(nbformat.v4.new_output("stream", text="x")), "holds outputs"),
    ],
)
def test_a_pair_that_drifted_is_found_and_mended(pair: Any, change: Any, problem: str) -> None:
    edit(pair, change)
    (found,) = pairs.problems(pair.parent)
    assert problem in found
    assert str(pair) in found
    if problem == "cell 4 differs":  # a cell that the source lacks: see below
        return
    pairs.write(pair.with_suffix(".py"))
    assert pairs.problems(pair.parent) == []


@pytest.mark.parametrize("missing", [".py", ".ipynb"])
def test_half_a_pair_is_refused(pair: Any, missing: str) -> None:
    pair.with_suffix(missing).unlink()
    (found,) = pairs.problems(pair.parent)
    assert "unpaired" in found


def test_outputs_alone_do_not_make_cells_differ(pair: Any) -> None:
    edit(pair, lambda nb: nb.cells[1].update(execution_count=1))
    assert pairs.same_cells(pair.with_suffix(".py"), pair)


def test_cells_that_the_source_lacks_are_never_discarded(pair: Any) -> None:
    source = pair.with_suffix(".py")
    edit(pair, lambda nb: nb.cells[3].update(source="x = 'hours of work'"))
    edit(pair, lambda nb: nb.cells.append(nbformat.v4.new_code_cell("z = 3")))
    before = pair.read_bytes(), source.read_bytes()
    with pytest.raises(
        ValueError, match=r"cells 4, 5 were changed there and 00_tour\.py lacks them; .*--take 00_tour"
    ):
        pairs.write(source)
    assert before == (pair.read_bytes(), source.read_bytes())
    kept = pairs.take(source)
    assert kept.read_bytes() == before[1]
    assert "hours of work" in source.read_text() and "z = 3" in source.read_text()
    assert pairs.problems(pair.parent) == []
    edit(pair, lambda nb: nb.cells[3].update(source="x = 5"))
    assert pairs.take(source) != kept


def test_a_source_that_was_edited_by_hand_is_written(pair: Any) -> None:
    source = pair.with_suffix(".py")
    source.write_text(source.read_text().replace("y = 2", "y = 3"))
    pairs.write(source)
    assert pairs.problems(pair.parent) == []
