"""The command line. May import everything.

What a command needs is imported when it runs, so `workbench --help` is fast.
"""

import importlib
import sys
from typing import Annotated, Any

import typer
import typer.main
from typer.core import TyperGroup

from workbench import __version__
from workbench.cli import report
from workbench.registry import import_parts
from workbench.visible import visible

USER_ERRORS = (ValueError, OSError, ImportError, MemoryError)
"""Errors printed in one line: bad input, a file that is missing or cannot be written, a missing package, too little memory."""


class LazyGroup(TyperGroup):
    """A group of commands that are imported to run or complete them, but not to list them."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that the arguments name, and the rest of them."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in LAZY:
            command = typer.main.get_command(importlib.import_module(LAZY[name][0]).app)
            if name in SHORTCUTS:
                assert isinstance(command, TyperGroup)
                command = command.commands[name]
        return name, command, rest


app = typer.Typer(
    name="workbench",
    cls=LazyGroup,
    help="A research workbench for retrieval with learned similarities.",
    epilog="First steps: `workbench report`, then open reports/index.html; `workbench lab` for the notebooks themselves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"workbench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
    parts: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="MODULE",
            help="Import your own encoders, similarities and presets first: a module, or the path of a .py file.",
        ),
    ] = None,
) -> None:
    """A research workbench for retrieval with learned similarities."""


LAZY = {
    "data": ("workbench.cli.data", "Datasets: list, fetch, prepare."),
    "model": (
        "workbench.cli.models",
        "Models: list, train, evaluate, compare, recommend, import, export, halve.",
    ),
    "train": ("workbench.cli.models", "Train an encoder with a similarity (model train)."),
    "evaluate": ("workbench.cli.models", "Measure a trained model: HR@k, NDCG@k, MRR (model evaluate)."),
    "recommend": ("workbench.cli.models", "Recommend items to users (model recommend)."),
    "index": ("workbench.cli.index", "Indexes of trained models: build, add, remove, search, info."),
    "serve": ("workbench.cli.serve", "Serve a model or an index over HTTP."),
    "study": ("workbench.cli.study", "Studies: every table of results by name."),
    "bench": ("workbench.cli.bench", "Measure speed and memory against a plain implementation."),
}
"""Commands whose module is imported when they run: the module and a summary."""
SHORTCUTS = ("train", "evaluate", "recommend", "serve")
"""For these, the command of that name in the module's group; the others are the group itself."""

for _name, (_module, _summary) in LAZY.items():
    app.command(_name, help=_summary)(lambda: None)  # what the list of commands shows
app.command("report")(report.report)
app.command("lab")(report.lab)
app.command("gallery")(report.gallery)
app.command("pairs")(report.pairs)


def _taken_out(arguments: list[str], option: str) -> tuple[list[str], list[str]]:
    """The arguments without an option that may be anywhere among them, and the option's values.

    >>> _taken_out(["train", "--import", "mine", "x"], "--import")
    (['train', 'x'], ['mine'])
    """
    rest: list[str] = []
    values: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == option and (value := next(left, None)) is not None:
            values.append(value)
        elif argument.startswith(f"{option}="):
            values.append(argument.removeprefix(f"{option}="))
        else:
            rest.append(argument)
    return rest, values


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a user error prints one line on stderr and exits with status 1, with --debug it prints a traceback."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        rest, modules = _taken_out([argument for argument in given if argument != "--debug"], "--import")
        for module in modules:
            import_parts(module)
        app(rest, prog_name="workbench")
    except USER_ERRORS as error:
        if "--debug" in given:
            raise
        typer.echo(f"error: {visible(str(error))}", err=True)
        raise SystemExit(1) from None
