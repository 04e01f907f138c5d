"""The command line as its user meets it: help, one line for an error, exit status."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from workbench import __version__
from workbench.cli import app, main
from workbench.reporting import pairs, runner
from workbench.reporting.runner import Finished, ReportSpec, Row

SOURCE = (
    '# %% [markdown]\n# # A tour\n\n# %% tags=["parameters"]\ndataset = ""\nprofile = ""\nseed = 0\nk = 1\n'
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workbench folder with one notebook."""
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    source = tmp_path / "notebooks" / "00_tour.py"
    source.write_text(SOURCE)
    pairs.write(source)
    return tmp_path


@pytest.fixture
def specs(monkeypatch: pytest.MonkeyPatch) -> list[ReportSpec]:
    """A stand-in for the runner of `workbench report`, which fails one notebook of two."""
    asked: list[ReportSpec] = []

    def fake(spec: ReportSpec, say: Any) -> Finished:
        asked.append(spec)
        say("[1/1] running")
        rows = (Row("00_tour", "ok", 1.5, ""), Row("01_x", "failed", 2.5, "ValueError: no"))
        return Finished(Path("/somewhere/reports/index.html"), rows if spec.only else rows[:1])

    monkeypatch.setattr(runner, "run_report", fake)
    return asked


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


HELP = """
import sys
from workbench.cli import main
try:
    main(["--help"])
finally:
    print(sorted({"torch", "pandas", "papermill", "nbconvert"} & set(sys.modules)))
"""


def test_help_answers_without_importing_what_it_does_not_need() -> None:
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in (
        "data",
        "model",
        "train",
        "evaluate",
        "recommend",
        "index",
        "study",
        "bench",
        "report",
        "lab",
        "pairs",
    ):
        assert re.search(rf"│ {command} ", done.stdout), command


@pytest.mark.parametrize("command", ["report", "lab", "pairs"])
def test_help_of_a_command_has_examples(command: str) -> None:
    done = run(command, "--help")
    assert done.exit_code == 0
    assert f"workbench {command}" in done.output.split("Examples:")[1]


def test_help_of_forwarded_commands_is_their_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workbench.cli", "data", "--help"], capture_output=True, text=True, check=True
    )
    assert "workbench data" in done.stdout
    assert "prepare" in done.stdout


def test_version() -> None:
    assert run("--version").output.strip() == f"workbench {__version__}"


def test_a_report_ends_with_a_table_and_the_path_of_the_index(specs: list[ReportSpec]) -> None:
    done = run(
        "report", "-p", "k=3", "-p", "name=a=b", "--jobs", "2", "--timeout", "9", "--force", "--seed", "4"
    )
    assert done.exit_code == 0, done.output
    assert specs == [ReportSpec(parameters={"k": "3", "name": "a=b"}, jobs=2, timeout=9, force=True, seed=4)]
    assert done.output.splitlines() == [
        "[1/1] running",
        "",
        "00_tour  ok               1.5 s",
        "",
        "/somewhere/reports/index.html",
    ]


def test_a_failed_notebook_makes_the_exit_status_1(specs: list[ReportSpec]) -> None:
    done = run("report", "--only", "00, 01", "--only", "04,")
    assert specs[0].only == ("00", "01", "04")
    assert done.exit_code == 1
    assert "01_x     failed           2.5 s  ValueError: no" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "--only", "07"], "error: no notebook '07'"),
        (["report", "-p", "kk=1"], "error: no parameter 'kk' (did you mean 'k'?)"),
        (["report", "-p", "k"], "error: -p takes name=value, got 'k'"),
        (["report", "-p", "k=1", "-p", "k=2"], "error: parameter 'k' is given twice"),
        (["report", "--jobs", "0"], "error: jobs must be at least 1"),
        (["report", "--dataset", "ml1m"], "error: no dataset 'ml1m' (did you mean 'ml-1m'?)"),
        (["lab", "09"], "error: no notebook '09'"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_1(
    root: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith(message)
    assert len(printed.splitlines()) == 1
    assert not (root / "reports").exists()


def test_debug_shows_where_an_error_comes_from(root: Path) -> None:
    with pytest.raises(ValueError, match="no notebook '07'"):
        main(["report", "--only", "07", "--debug"])


def test_pairs_are_checked_and_written(root: Path) -> None:
    source = root / "notebooks" / "00_tour.py"
    assert run("pairs").exit_code == 0
    source.write_text(source.read_text() + "\n# %%\nprint(k)\n")
    done = run("pairs")
    assert done.exit_code == 1
    assert "00_tour.ipynb" in done.output
    assert run("pairs", "--write").exit_code == 0
    assert run("pairs").exit_code == 0


@pytest.mark.parametrize(("options", "address"), [((), "localhost"), (("--ip", "0.0.0.0"), "0.0.0.0")])
def test_lab_stays_on_this_machine_whatever_the_users_own_configuration_says(
    root: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], address: str
) -> None:
    called: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda path, command: called.append(command))
    run("lab", "--no-browser", *options)
    (root / "jupyter_server_config.json").write_text('{"ServerApp": {"ip": "192.0.2.1"}}')
    shown = subprocess.run(
        [*called[0], "--show-config-json"],
        env=os.environ | {"JUPYTER_CONFIG_DIR": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(shown.stdout)["ServerApp"]["ip"] == address


def test_lab_opens_the_tour_and_asks_no_other_machine(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "mine")
    monkeypatch.setattr("os.execv", lambda path, command: called.append([path, *command]))
    run("lab", "--no-browser", "--port", "8899")
    (command,) = called
    assert command[:4] == [sys.executable, sys.executable, "-m", "workbench.reporting.lab"]
    assert "--LabApp.default_url=/doc/tree/notebooks/00_tour.ipynb" in command
    assert f"--ServerApp.root_dir={root}" in command
    assert {"--no-browser", "--ServerApp.port=8899", "--LabApp.news_url=None"} <= set(command)
    assert "--ServerApp.ip=localhost" in command
    ours, theirs = os.environ["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    overrides = json.loads((Path(ours) / "labconfig" / "default_setting_overrides.json").read_text())
    assert overrides["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"
    assert theirs == "mine"
