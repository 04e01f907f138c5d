"""Notebooks executed for real: success, failure, time limits, a dead kernel, what is kept, what a killed run leaves."""

import errno
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from holder import held

from workbench.reporting import pages
from workbench.reporting.runner import CELL_TIMEOUT, Finished, ReportSpec, run_report

pytestmark = pytest.mark.slow

RUN = """
from workbench.reporting import provenance, runner
provenance.code_digest = lambda: "code"
runner.run_report(runner.ReportSpec())
"""

MAKES = """
import os, pathlib
folder = pathlib.Path(os.environ["WORKBENCH_ROOT"]) / "data" / dataset
folder.mkdir(parents=True, exist_ok=True)
(folder / "x.txt").write_text("made")
print("seed", seed, "k", k, pathlib.Path.cwd().name)
"""


@pytest.fixture(scope="module", autouse=True)
def code_that_stays() -> Iterator[None]:
    """Whoever edits the package while these tests run does not make their notebooks run again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.reporting.provenance.code_digest", lambda: "code")
        yield


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def text_of(cell: Any) -> str:
    return "".join(str(output.get("text", output.get("traceback", ""))) for output in cell.outputs)


@pytest.fixture(scope="module")
def ran(shared_workshop: Any, code_that_stays: None) -> tuple[Any, Finished, list[str]]:
    """A report of notebooks that end in every way, and the lines that were said."""
    add = shared_workshop.add
    required = 'dataset = "embedded-small"\nprofile = "quick"\nseed = 0\n'
    add(
        "00_makes",
        MAKES,
        "from workbench.reporting import record\nrecord('HR@10', 0.25)\nrecord('k', k, unit='items')",
        parameters=required + "k = 1\n",
    )
    add(
        "01_fails",
        "from workbench.reporting import record\nrecord('before', 1)",
        "raise ValueError('not\\nwell')",
        "print(1)",
    )
    add(
        "02_dies",
        "print('before', flush=True)",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "print(1)",
    )
    add("03_slow", "print('before')", "import threading\nthreading.Event().wait()", "print(1)")
    lines: list[str] = []
    finished = run_report(ReportSpec(parameters={"k": "3"}, seed=5, timeout=3), lines.append)
    return shared_workshop, finished, lines


def test_every_notebook_runs_and_its_end_is_reported(ran: Any) -> None:
    workshop, finished, lines = ran
    assert finished.index == workshop.reports / "index.html"
    assert {row.name: (row.state, row.error) for row in finished.rows} == {
        "00_makes": ("ok", ""),
        "01_fails": ("failed", "ValueError: not well"),
        "02_dies": ("failed", "the kernel died (out of memory?)"),
        "03_slow": ("failed", "a cell took longer than 3 s (--timeout)"),
    }
    assert finished.failed == ["01_fails", "02_dies", "03_slow"]
    assert [line.split("  ")[0].split()[0] for line in lines] == [
        f"[{n}/4]" for n in (1, 1, 2, 2, 3, 3, 4, 4)
    ]
    assert [line.split()[2] for line in lines] == ["running", "ok"] + ["running", "failed"] * 3


def test_parameters_reach_the_notebook_and_the_working_folder_is_its_own(ran: Any) -> None:
    workshop, _, _ = ran
    executed = nbformat.read(workshop.reports / "quick-embedded-small" / "00_makes.ipynb", as_version=4)
    assert text_of(executed.cells[3]) == "seed 5 k 3 notebooks\n"
    assert [cell.metadata.get("tags") for cell in executed.cells[1:3]] == [
        ["parameters"],
        ["injected-parameters"],
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("01_fails", "ValueError"), ("02_dies", "kernel died"), ("03_slow", "took longer than 3 s")],
)
def test_a_failed_notebook_keeps_what_it_did_and_shows_the_error(ran: Any, name: str, shown: str) -> None:
    workshop, _, _ = ran
    folder = workshop.reports / "quick-embedded-small"
    executed = nbformat.read(folder / f"{name}.ipynb", as_version=4)
    first, stopped, never = executed.cells[-3:]
    assert first.execution_count is not None
    assert shown in text_of(stopped)
    assert never.outputs == []
    assert never.execution_count is None
    page = (folder / f"{name}.html").read_text()
    assert "This notebook failed" in page
    assert shown in page


def test_executed_copies_name_no_folder_of_this_machine(ran: Any) -> None:
    workshop, _, _ = ran
    executed = (workshop.reports / "quick-embedded-small" / "00_makes.ipynb").read_text()
    assert str(workshop.root) not in executed
    assert "papermill" not in executed
    nbformat.validate(nbformat.reads(executed, as_version=4))


def test_results_hold_values_and_what_they_came_from(ran: Any) -> None:
    workshop, _, _ = ran
    results = json.loads((workshop.reports / "quick-embedded-small" / "results.json").read_text())
    made = results["notebooks"]["00_makes"]
    assert [(r["name"], r["value"], r["unit"]) for r in made["records"]] == [
        ("HR@10", 0.25, ""),
        ("k", 3, "items"),
    ]
    assert made["parameters"] == {"dataset": "embedded-small", "profile": "quick", "seed": 5, "k": 3}
    assert set(made["inputs"]) == {"data/embedded-small"}
    assert made["provenance"]["machine"]["cores"] >= 1
    assert made["provenance"]["versions"]["python"]
    assert {"commit", "dirty", "code"} <= set(made["provenance"])
    assert results["notebooks"]["01_fails"]["records"][0]["name"] == "before"
    assert results["made"] == ["data/embedded-small"]


def test_nothing_else_is_left_behind(ran: Any) -> None:
    workshop, _, _ = ran
    assert {path.name for path in workshop.reports.iterdir()} == {
        "index.html",
        "quick-embedded-small",
    }
    names = {path.name for path in (workshop.reports / "quick-embedded-small").iterdir()}
    pairs = {
        f"{name}{end}"
        for name in ("00_makes", "01_fails", "02_dies", "03_slow")
        for end in (".ipynb", ".html")
    }
    assert names == pairs | {"results.json", "assets"}


def test_what_is_up_to_date_is_kept_and_changes_nothing(ran: Any) -> None:
    workshop, _, _ = ran
    folder = workshop.reports / "quick-embedded-small"
    before = files(folder)
    said: list[str] = []
    again = run_report(ReportSpec(only=("00",), parameters={"k": "3"}, seed=5), said.append)
    assert [row.state for row in again.rows] == ["up to date"]
    assert said == ["[1/1] 00_makes  up to date"]
    assert files(folder) == before


def test_new_pages_are_made_of_what_is_kept(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop, _, _ = ran
    monkeypatch.setattr(pages, "digest", lambda: "other templates")
    page = workshop.reports / "quick-embedded-small" / "00_makes.html"
    page.unlink()
    finished = run_report(ReportSpec(only=("00",), parameters={"k": "3"}, seed=5), lambda _: None)
    assert [row.state for row in finished.rows] == ["up to date"]
    assert page.is_file()


def test_a_full_disk_leaves_the_previous_report(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop, _, _ = ran
    before = files(workshop.reports / "quick-embedded-small")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pages, "digest", lambda: "newest templates")
    monkeypatch.setattr(pages, "write_pages", full)
    with pytest.raises(OSError, match="No space left"):
        run_report(ReportSpec(only=("00",), parameters={"k": "3"}, seed=5), lambda _: None)
    assert files(workshop.reports / "quick-embedded-small") == before


def test_a_swap_that_was_cut_off_is_undone(ran: Any) -> None:
    workshop, _, _ = ran
    folder = workshop.reports / "quick-embedded-small"
    before = files(folder)
    folder.rename(workshop.reports / ".quick-embedded-small.previous-123456")
    run_report(ReportSpec(only=("00",), parameters={"k": "3"}, seed=5), lambda _: None)
    assert {name: files(folder)[name] for name in ("00_makes.ipynb", "01_fails.ipynb")} == {
        name: before[name] for name in ("00_makes.ipynb", "01_fails.ipynb")
    }
    assert not list(workshop.reports.glob(".quick-embedded-small*"))


def test_one_run_writes_a_report_at_a_time(ran: Any) -> None:
    workshop, _, _ = ran
    refused = pytest.raises(BlockingIOError, match=r"quick-embedded-small is in use by process \d+ on")
    with held(workshop.reports / "quick-embedded-small"), refused:
        run_report(ReportSpec(), lambda _: None)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ReportSpec(only=("07",)), "no notebook '07'"),
        (ReportSpec(parameters={"kk": "1"}), r"no parameter 'kk' \(did you mean 'k'\?\)"),
        (ReportSpec(parameters={"k": "x"}), "is a whole number"),
    ],
)
def test_what_is_unknown_is_refused_before_anything_runs(
    workshop: Any, spec: ReportSpec, message: str
) -> None:
    workshop.add("00_a", parameters='dataset = ""\nprofile = ""\nseed = 0\nk = 1\n')
    with pytest.raises(ValueError, match=message):
        run_report(spec, lambda line: pytest.fail(line))
    assert not workshop.reports.exists()


def test_a_pair_that_drifted_is_refused_before_anything_runs(workshop: Any) -> None:
    path = workshop.add("00_a", "x = 1")
    path.with_suffix(".py").write_text(path.with_suffix(".py").read_text().replace("x = 1", "x = 2"))
    with pytest.raises(ValueError, match="workbench pairs --write"):
        run_report(ReportSpec(), lambda line: pytest.fail(line))
    assert not workshop.reports.exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"profile": "fast"}, "no profile 'fast'; there are: quick, standard, full"),
        ({"dataset": "../x"}, "not the name of a dataset"),
        ({"dataset": ""}, "not the name of a dataset"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"timeout": 0.0}, "timeout must be a positive"),
        ({"timeout": float("nan")}, "timeout must be a positive"),
    ],
)
def test_a_spec_out_of_range_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReportSpec(**values)


def test_each_profile_caps_a_cell() -> None:
    assert ReportSpec(profile="full").cell_timeout == CELL_TIMEOUT["full"]
    assert ReportSpec(timeout=7).cell_timeout == 7


def test_kernels_of_the_quick_profile_compute_in_one_thread(
    workshop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    workshop.add("00_a", "import os\nprint(os.environ.get('OMP_NUM_THREADS'))")
    run_report(ReportSpec(), lambda _: None)
    executed = nbformat.read(workshop.reports / "quick-embedded-small" / "00_a.ipynb", as_version=4)
    assert text_of(executed.cells[-1]) == "1\n"


def test_notebooks_that_wait_for_nothing_run_at_once(workshop: Any) -> None:
    # Each end of the pipe opens only when the other does: one after the other, they would never end.
    pipe = workshop.root / "pipe"
    os.mkfifo(pipe)
    workshop.add("00_writes", f"with open({str(pipe)!r}, 'w') as file:\n    file.write('met')", after=[])
    workshop.add("01_reads", f"with open({str(pipe)!r}) as file:\n    print(file.read())", after=[])
    workshop.add("02_last", "print('after both')")
    said: list[str] = []
    finished = run_report(ReportSpec(jobs=3, timeout=60), said.append)
    assert [(row.state, row.error) for row in finished.rows] == [("ok", "")] * 3
    assert said.index("[3/3] 02_last    running") > max(
        i for i, line in enumerate(said) if " ok " in line and "02" not in line
    )


def test_a_killed_run_leaves_the_previous_report_and_its_own_work(workshop: Any) -> None:
    workshop.add("00_quick", "print('first')")
    run_report(ReportSpec(), lambda _: None)
    folder = workshop.reports / "quick-embedded-small"
    before = files(folder)

    pipe = workshop.root / "pipe"
    os.mkfifo(pipe)
    workshop.add("00_quick", "print('second')")
    workshop.add(
        "01_stuck",
        f"import os\nwith open({str(pipe)!r}, 'w') as file:\n    file.write(str(os.getpid()))",
        "while True: pass",
    )
    command = [sys.executable, "-c", RUN]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        kernel = psutil.Process(int(_read(pipe)))
        process.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs([kernel], timeout=30)
    assert (gone, alive) == ([kernel], [])
    assert files(folder) == before

    workshop.add("01_stuck", "print('third')")
    finished = run_report(ReportSpec(), lambda _: None)
    assert [(row.name, row.state) for row in finished.rows] == [
        ("00_quick", "up to date"),
        ("01_stuck", "ok"),
    ]
    executed = nbformat.read(folder / "00_quick.ipynb", as_version=4)
    assert text_of(executed.cells[-1]) == "second\n"
    assert not (workshop.reports / ".quick-embedded-small.partial").exists()


def test_an_interrupted_run_ends_its_kernel(workshop: Any) -> None:
    pipe = workshop.root / "pipe"
    os.mkfifo(pipe)
    workshop.add(
        "00_stuck",
        f"import os\nwith open({str(pipe)!r}, 'w') as file:\n    file.write(str(os.getpid()))",
        "while True: pass",
    )
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job ignores it
    command = [sys.executable, "-c", f"{listening}; from workbench.cli import main; main(['report'])"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        kernel = psutil.Process(int(_read(pipe)))
        process.send_signal(signal.SIGINT)
        try:
            _, messages = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode not in (0, None)
    assert "Traceback" not in messages
    gone, _ = psutil.wait_procs([kernel], timeout=30)
    assert gone == [kernel]
    assert not (workshop.reports / "quick-embedded-small").exists()


def _read(pipe: Path) -> str:
    """What comes out of a named pipe, within a minute."""
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        ready, _, _ = select.select([end], [], [], 60)
        if not ready:
            pytest.fail("the notebook did not start within a minute")
        return os.read(end, 64).decode()
    finally:
        os.close(end)
