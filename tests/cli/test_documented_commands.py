"""Every command that READMEs, CONTRIBUTING, the help texts, the notebooks, messages and errors print is one that works."""

import ast
import importlib
import inspect
import pkgutil
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import typer.core

import workbench.cli
from workbench import cli
from workbench.bench import plans
from workbench.bench.methods import SearcherSpec
from workbench.cli.report import _pairs
from workbench.cli.study import _options
from workbench.data import CATALOG, EMBEDDED
from workbench.reporting import notebooks
from workbench.studies.study import study
from workbench.training.presets import preset

ROOT = Path(__file__).resolve().parents[2]
FILLED = {"dataset": "ml-1m", "seed": "0"}
"""What stands for the {…} of a command that a notebook fills in; a preset for all others."""


SHOP = "my-shop"
"""The dataset of the user's own in examples."""


def _of_markdown(text: str) -> Iterator[str]:
    yield from re.findall(r"^\s*(?:Example: )?(workbench [a-z].*)$", text, re.MULTILINE)
    yield from re.findall(r"`(workbench [a-z][^`]*)`", text)


def _of_notebook(source: str) -> Iterator[str]:
    filled = re.sub(r"\{([^{}]*)\}", lambda field: FILLED.get(field[1], "quick/hstu-mol"), source)
    yield from _of_markdown(filled.replace("\n# ", "\n"))
    yield from re.findall(r": (workbench [a-z][^\"`]*)\"", filled)


def _helps() -> Iterator[str]:
    """The help of every command in every module of the command line."""
    for module in pkgutil.iter_modules(workbench.cli.__path__, "workbench.cli."):
        if not module.name.endswith("__main__"):
            app = getattr(importlib.import_module(module.name), "app", typer.Typer())
            yield from (inspect.getdoc(command.callback) or "" for command in app.registered_commands)
    yield from (inspect.getdoc(command.callback) or "" for command in cli.app.registered_commands)


VERBS = "|".join([*cli.LAZY, *(command.name or "" for command in cli.app.registered_commands)])
FIELDS = {"evaluate": "ml-1m-cpu-hstu-mol", "data": "ml-1m", "study": "seeds", "pairs": "00_tour"}
"""What stands for the field of a message's command, by the command; a preset for all others."""
NAMED = ("workbench evaluate", "workbench index build")
"""Commands that a text names without what they need."""


def _texts(source: str) -> Iterator[str]:
    """The strings of a module that are no docstrings, each field of an f-string as {}."""
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    skipped = docstrings | {
        id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values
    }
    for node in nodes:
        match node:
            case ast.Constant(value=str(text)) if id(node) not in skipped:
                yield text
            case ast.JoinedStr(values=values):
                yield "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in values)


def _of_message(text: str) -> Iterator[str]:
    """The commands in a message: up to the closing backtick, or to the end of the phrase."""
    for mention in re.finditer(rf"\bworkbench ({VERBS})\b", text):
        rest = text[mention.start() :]
        quoted = text[: mention.start()].endswith("`")
        command = rest.partition("`")[0] if quoted else re.split(r"[;()\n]|, ", rest)[0]
        yield (
            command.replace("{}", FIELDS.get(mention[1], "quick/hstu-mol"))
            .replace(" STUDY", " seeds")
            .strip()
        )


@cache
def documented() -> list[str]:
    """The commands, each once, as one types them."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("*/README.md")]
    found = [c.replace("<name>", "ml-1m") for path in pages for c in _of_markdown(path.read_text())]
    found += [c for text in _helps() for c in _of_markdown(text)]
    found += [c for path in sorted((ROOT / "notebooks").glob("*.py")) for c in _of_notebook(path.read_text())]
    modules = sorted(Path(workbench.__file__).parent.rglob("*.py"))
    found += [c for path in modules for text in _texts(path.read_text()) for c in _of_message(text)]
    found = [f"{command} --help" if command in NAMED else command for command in found]
    return sorted({" ".join(shlex.split(command, comments=True)): command for command in found}.values())


def _check_report(values: dict[str, Any]) -> None:
    only = [name for names in values["only"] or [] for name in names.split(",")]
    notebooks.bind(
        notebooks.select(notebooks.catalog(ROOT / "notebooks"), only), _pairs(values["parameter"] or [])
    )


def _is_checkpoint(name: str | Path) -> None:
    of_an_example = str(name).startswith(("ckpts/", f"{SHOP}-"))
    assert (ROOT / "ckpts" / name / "config.json").is_file() or of_an_example, name


def _is_dataset(name: str) -> None:
    assert name in {*CATALOG, *EMBEDDED, SHOP}, name


CHECKS: dict[str, Callable[[Any], object]] = {
    "workbench train name": lambda name: name and preset(name),
    "workbench train dataset": _is_dataset,
    "workbench study show name": study,
    "workbench evaluate model": _is_checkpoint,
    "workbench recommend model": _is_checkpoint,
    "workbench model compare models": lambda folders: [_is_checkpoint(folder) for folder in folders],
    "workbench bench train presets": lambda names: [preset(name) for name in names],
    "workbench bench search preset": plans.named,
    "workbench bench search checkpoint": _is_checkpoint,
    "workbench bench search searcher": lambda specs: [SearcherSpec.read(spec) for spec in specs],
    "workbench data fetch name": _is_dataset,
    "workbench index paths base": _is_checkpoint,
    "workbench report dataset": _is_dataset,
    "workbench lab notebook": lambda name: notebooks.select(notebooks.catalog(ROOT / "notebooks"), [name]),
}
"""What the parser leaves to the command itself: the values of some arguments, by command and name."""


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[click.Context]:
    """What the command line was about to run."""
    reached: list[click.Context] = []
    invoke = typer.core.TyperCommand.invoke

    def stop(command: typer.core.TyperCommand, context: click.Context) -> Any:
        if command.context_settings.get("allow_extra_args"):  # hands its arguments on
            return invoke(command, context)
        return reached.append(context)

    monkeypatch.setattr(typer.core.TyperCommand, "invoke", stop)
    return reached


def run(command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(shlex.split(command, comments=True)[1:])
    assert not ended.value.code, command


@pytest.mark.parametrize("command", documented())
def test_the_command_line_takes_it(command: str, parsed: list[click.Context]) -> None:
    run(command)
    if "--help" in command or command.split()[1:] in (["bench"], ["data"], ["model"], ["study"], ["index"]):
        return
    (context,) = parsed
    if context.command_path == "workbench report":
        _check_report(context.params)
    if context.command_path == "workbench study run":
        study(context.params["name"], _options(context.params["options"] or []))
    for name, value in context.params.items():
        check = CHECKS.get(f"{context.command_path} {name}")
        if check is not None and value:
            check(value)


@pytest.mark.parametrize(
    "command",
    [
        c
        for c in documented()
        if re.search(r"--list|--help| data list|workbench model compare|workbench pairs$", c)
    ],
)
def test_what_takes_no_time_runs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(command)
    assert capsys.readouterr().out.strip() or command.endswith("pairs")


def test_commands_of_messages_are_found() -> None:
    source = '''"""A docstring: `workbench nothing`."""
raise ValueError(
    f"{folder} is not there: run `workbench data fetch {name}` and then `workbench data"
    f" prepare {name} --from PATH`, or again with: workbench evaluate {a.b} --store; see workbench report, too"
)
'''
    assert [c for text in _texts(source) for c in _of_message(text)] == [
        "workbench data fetch ml-1m",
        "workbench data prepare ml-1m --from PATH",
        "workbench evaluate ml-1m-cpu-hstu-mol --store",
        "workbench report",
    ]


@pytest.mark.parametrize(
    "command", ["workbench report --only 02,03 -p seed=1 --force", "workbench train quick/nothing"]
)
def test_what_was_documented_wrongly_is_found(command: str, parsed: list[click.Context]) -> None:
    with pytest.raises(ValueError, match=r"give --seed instead|no preset"):
        test_the_command_line_takes_it(command, parsed)
