"""Every notebook on datasets that are odd in one way each: it works, or prints in one line what is missing.

A part runs always; `pytest -m matrix` runs every notebook on every dataset.
"""

from collections.abc import Iterator
from pathlib import Path

import jupytext
import odd_data
import pytest
from IPython.core.interactiveshell import InteractiveShell

from workbench.data import DataError
from workbench.encoders import ENCODERS
from workbench.explore import stored_states
from workbench.search.registry import SEARCHERS
from workbench.similarities import SIMILARITIES
from workbench.training.presets import PRESETS

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
NAMES = [path.name[:2] for path in sorted(NOTEBOOKS.glob("[0-9]*.py"))]
WITHOUT_DATA = ("04", "11")
"""Notebooks that read no interactions."""
NOTHING_TO_PREDICT = "nobody-twice"
ALWAYS = {
    "no-genres": ("01", "05", "08", "09"),
    "no-titles": ("03", "08", "09"),
    "no-ratings": ("01", "02"),
    "one-time-users": ("03", "05", "09"),
    "thirty-items": ("00", "06", "07", "08"),
    "string-ids": ("01", "03", "12"),
    "one-huge-user": ("00", "03", "06"),
    "all-times-equal": ("01", "02"),
    NOTHING_TO_PREDICT: ("00", "01", "02", "03", "05", "06", "07", "08", "09", "10"),
}
"""What runs always: of each dataset the notebooks that look at what is odd about it."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the workbench without anything; what one notebook trains serves the next."""
    folder = tmp_path_factory.mktemp("matrix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_ROOT", str(folder))
        patch.setenv("WORKBENCH_HEADLESS", "1")
        patch.setenv("WORKBENCH_RECORDS", str(folder / "records"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setattr(stored_states, "MOST_STATES", 2)
        patch.chdir(NOTEBOOKS)
        for registry in (ENCODERS, SIMILARITIES, SEARCHERS):
            # What a notebook registers ends with this module.
            patch.setattr(registry, "_parts", dict(registry._parts))
        before = dict(PRESETS)
        yield folder
        PRESETS.clear()
        PRESETS.update(before)


def run(name: str, dataset: str, root: Path) -> BaseException | None:
    """Run the code of a notebook on a dataset in this process, show what its cells show, and return what it raised."""
    if not (root / "data" / dataset).is_dir():
        odd_data.KINDS[dataset]().prepare(dataset)
    (source,) = NOTEBOOKS.glob(f"{name}_*.py")
    shell = InteractiveShell(display_page=False)
    shell.history_manager.enabled = False
    shell.showtraceback = lambda *args, **kwargs: None  # what it would show is returned
    for cell in (cell for cell in jupytext.read(source).cells if cell.cell_type == "code"):
        done = shell.run_cell(cell.source, store_history=False)
        if "parameters" in cell.metadata.get("tags", []):
            shell.user_ns["dataset"] = dataset
        if error := done.error_before_exec or done.error_in_exec:
            return error
    return None


def check(name: str, dataset: str, root: Path) -> None:
    error = run(name, dataset, root)
    if dataset != NOTHING_TO_PREDICT or name in ("01", *WITHOUT_DATA):
        if error is not None:
            raise error
        return
    assert isinstance(error, DataError)
    assert ("my-shop" if name == "12" else dataset) in str(error) and len(str(error).splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("dataset", "name"), [(d, n) for d, names in ALWAYS.items() for n in names])
def test_a_notebook_works_where_the_data_are_odd(dataset: str, name: str, root: Path) -> None:
    check(name, dataset, root)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.matrix
@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_DATA])
@pytest.mark.parametrize("dataset", odd_data.KINDS)
def test_the_whole_matrix(dataset: str, name: str, root: Path) -> None:
    check(name, dataset, root)


def test_what_is_wrong_with_data_is_shown_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    shell = InteractiveShell()
    shell.history_manager.enabled = False
    shell.push({"DataError": DataError})
    shell.run_cell("raise DataError('nobody came twice')", store_history=False)
    assert capsys.readouterr().out.strip() == "DataError: nobody came twice"


def test_every_dataset_has_its_part_of_the_matrix() -> None:
    assert set(ALWAYS) == set(odd_data.KINDS)
    assert {name for names in ALWAYS.values() for name in names} == set(NAMES) - set(WITHOUT_DATA)
