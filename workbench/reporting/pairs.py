"""The pairs of notebooks: a percent-format `.py`, which is the source, and the `.ipynb` generated from it."""

import hashlib
import itertools
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from workbench import files

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def problems(folder: Path) -> list[str]:
    """The problems with the pairs of `folder`, a line each; empty if there are none.

    A notebook without its source or a source without its notebook; cells that differ (kind, text, tags); metadata that
    differ; outputs or execution counts in the generated half; no kernelspec.
    """
    found = []
    names = sorted({path.stem for pattern in ("*.py", "*.ipynb") for path in folder.glob(pattern)})
    for name in names:
        source, generated = folder / f"{name}.py", folder / f"{name}.ipynb"
        if not source.is_file():
            found.append(f"{generated}: unpaired, its source {source.name} is missing")
        elif not generated.is_file():
            found.append(
                f"{source}: unpaired, {generated.name} is missing; make it with: workbench pairs --write"
            )
        else:
            found += [f"{generated}: {problem}" for problem in _differences(source, generated)]
            found += [f"{generated}: {problem}" for problem in _leftovers(generated)]
    return found


def same_cells(source: Path, generated: Path) -> bool:
    """Whether a pair holds the same cells; outputs do not count."""
    return not _differences(source, generated)


def edited(source: Path) -> list[int]:
    """Places (from 1) of cells that were changed or added in the `.ipynb` of a source, and that the source lacks.

    The identifier of a generated cell holds a digest of its text, so an edited cell is recognised.
    """
    generated = source.with_suffix(".ipynb")
    if not generated.is_file():
        return []
    ours = [_essence(cell) for cell in jupytext.read(source).cells]
    cells = nbformat.read(generated, as_version=4).cells
    return [
        place
        for place, cell in enumerate(cells, start=1)
        if str(cell.get("id", "")).partition("-")[2] != _digest(cell) and _essence(cell) not in ours
    ]


def write(source: Path) -> Path:
    """Write the `.ipynb` next to a source and return its path.

    The same source always gives the same bytes: identifiers of cells are made from their place and text.
    Raises ValueError if the notebook holds cells that were changed there and that the source lacks: they would be lost.
    """
    generated = source.with_suffix(".ipynb")
    if places := edited(source):
        raise ValueError(
            f"{generated}: cells {', '.join(map(str, places))} were changed there and {source.name} lacks them; take them into"
            f" the source with: workbench pairs --take {source.stem}"
        )
    document = jupytext.read(source)
    metadata: dict[str, Any] = {"kernelspec": KERNELSPEC}
    if "workbench" in document.metadata:
        metadata["workbench"] = document.metadata["workbench"]
    filters = {
        name: value
        for name, value in document.metadata.get("jupytext", {}).items()
        if name.endswith("_filter")
    }
    if filters:  # as JupyterLab keeps them, so that saving there changes nothing
        metadata["jupytext"] = filters
    cells = []
    for position, cell in enumerate(document.cells):
        tags = cell.metadata.get("tags")
        make = nbformat.v4.new_markdown_cell if cell.cell_type == "markdown" else nbformat.v4.new_code_cell
        cells.append(
            make(cell.source, id=f"{position:02d}-{_digest(cell)}", metadata={"tags": tags} if tags else {})
        )
    with files.atomic_write(generated) as temporary:
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), temporary)
    return generated


def take(source: Path) -> Path:
    """Write the cells of the `.ipynb` next to a source into the source; return the path of the backup of the old source."""
    numbers = itertools.count(1)
    kept = next(path for n in numbers if not (path := source.with_name(f"{source.name}.before-{n}")).exists())
    document = jupytext.read(source)
    document.cells = nbformat.read(source.with_suffix(".ipynb"), as_version=4).cells
    files.write_text(source.read_text(encoding="utf-8"), kept)
    files.write_text(jupytext.writes(document, fmt="py:percent"), source)
    write(source)
    return kept


def _digest(cell: Any) -> str:
    return hashlib.blake2b(cell.source.encode(), digest_size=4).hexdigest()


def _differences(source: Path, generated: Path) -> list[str]:
    left, right = jupytext.read(source), nbformat.read(generated, as_version=4)
    for position, (ours, theirs) in enumerate(zip(left.cells, right.cells, strict=False), start=1):
        if _essence(ours) != _essence(theirs):
            return [
                f"cell {position} differs from {source.name}; take the source with: workbench pairs --write"
            ]
    if len(left.cells) != len(right.cells):
        return [
            f"has {len(right.cells)} cells, {source.name} has {len(left.cells)}; run: workbench pairs --write"
        ]
    if left.metadata.get("workbench") != right.metadata.get("workbench"):
        return [f"its workbench metadata differ from those of {source.name}; run: workbench pairs --write"]
    return []


def _leftovers(generated: Path) -> list[str]:
    document = nbformat.read(generated, as_version=4)
    found = [] if "kernelspec" in document.metadata else ["names no kernel; run: workbench pairs --write"]
    code = [cell for cell in document.cells if cell.cell_type == "code"]
    if any(cell.outputs or cell.execution_count is not None for cell in code):
        found.append("holds outputs; take them out with: workbench pairs --write")
    return found


def _essence(cell: Any) -> tuple[str, str, tuple[str, ...]]:
    return cell.cell_type, cell.source, tuple(cell.metadata.get("tags", []))
