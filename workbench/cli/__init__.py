"""The command line. May import everything.

What a command needs is imported when it runs: `workbench --help` answers at once.
"""

import importlib
import sys
from typing import Annotated

import typer

from workbench import __version__
from workbench.cli import report
from workbench.registry import import_parts

USER_ERRORS = (ValueError, OSError, ImportError)
"""What is told in one line: bad input, a file that is missing or cannot be written, a package that is not installed."""

app = typer.Typer(
    name="workbench",
    help="A research workbench for retrieval with learned similarities.",
    epilog="First steps: workbench report, then open reports/index.html; workbench lab for the notebooks themselves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"workbench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_tell_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
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


def _forward(name: str, module: str, summary: str, *, group: bool) -> None:
    """Add a command that hands its arguments to the typer app of a module, imported only then."""

    def command(context: typer.Context) -> None:
        target: typer.Typer = importlib.import_module(module).app
        if group:
            target(context.args, prog_name=f"workbench {name}")
        else:
            target([name, *context.args], prog_name="workbench")

    settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(name, help=summary, context_settings=settings, add_help_option=False)(command)


_forward("data", "workbench.cli.data", "Datasets: list, fetch, prepare.", group=True)
_forward("study", "workbench.cli.study", "Studies: every table of results by name.", group=True)
_forward("index", "workbench.cli.index", "Indexes of trained models: codes, paths.", group=True)
_forward("train", "workbench.cli.models", "Train an encoder with a similarity.", group=False)
_forward("evaluate", "workbench.cli.models", "Measure a trained retriever: HR@k, NDCG@k, MRR.", group=False)
_forward("compare", "workbench.cli.models", "Print finished checkpoints as a table.", group=False)
_forward("import-rails", "workbench.cli.models", "Turn a published RAILS checkpoint into ours.", group=False)
_forward(
    "bench", "workbench.cli.bench", "Measure speed and memory beside a plain implementation.", group=True
)
app.command("report")(report.report)
app.command("lab")(report.lab)
app.command("gallery")(report.gallery)
app.command("pairs")(report.pairs)


def _taken_out(arguments: list[str], option: str) -> tuple[list[str], list[str]]:
    """The arguments without those of an option that may stand anywhere, and its values.

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
    """Run a command; an error that the user can mend is one line on stderr and exit status 1, with --debug its traceback."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        rest, modules = _taken_out([argument for argument in given if argument != "--debug"], "--import")
        for module in modules:
            import_parts(module)
        app(rest, prog_name="workbench")
    except USER_ERRORS as error:
        if "--debug" in given:
            raise
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None
