"""`workbench study`: every table of results by name."""

import dataclasses
import inspect
from functools import partial
from typing import Annotated, Literal

import pandas as pd
import typer

from workbench import paths
from workbench.cli.options import Device
from workbench.cli.options import studies as study_names
from workbench.cli.printing import new_table, origin, print_table, write_csv
from workbench.files import write_text
from workbench.studies.study import Models, studies, study, written
from workbench.studies.table_formats import Format, latex, markdown, with_digits

app = typer.Typer(
    add_completion=False,
    help="Studies: one question, one table each.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command("list")
def list_studies() -> None:
    """List the studies: the question, how many of its models are trained, the minutes that training all of them takes.

    Example: workbench study list
    """
    rows = []
    for name, kind in studies().items():
        chosen = kind()
        wanted, missing = chosen.presets(), chosen.missing()
        trained = f"{len(wanted) - len(missing)} of {len(wanted)}" if wanted else ""
        rows.append((name, kind.question, trained, f"{kind.minutes:g}" if kind.minutes else ""))
    print_table(pd.DataFrame(rows, columns=["study", "question", "trained", "minutes"]))


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", autocompletion=study_names, help="`workbench study list` shows them."
        ),
    ],
) -> None:
    """Print what a study does, its options with their defaults, and which of its models are missing.

    Example: workbench study show sparcode-users
    """
    chosen = study(name)
    typer.echo(f"{chosen.question}\n\n{inspect.getdoc(type(chosen))}\n")
    for option in dataclasses.fields(chosen):
        typer.echo(f"  {option.name}={written(getattr(chosen, option.name))}")
    if missing := chosen.missing():
        typer.echo(
            f"\nnot trained: {', '.join(missing)}; all models of this study take about {chosen.minutes:g} minutes"
        )


@app.command()
def run(
    name: Annotated[
        str,
        typer.Argument(
            metavar="STUDY", autocompletion=study_names, help="`workbench study list` shows them."
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[OPTION=VALUE]...", help="`workbench study show STUDY` lists them."),
    ] = None,
    trained_only: Annotated[
        bool,
        typer.Option("--trained-only", help="Skip models that are not in ckpts/ instead of training them."),
    ] = False,
    device: Device = None,
    format: Annotated[Format, typer.Option(help="How to print the table.")] = "text",
) -> None:
    """Compute the table of a study, print it, and write it to reports/tables with its machine and commit.

    Missing models are trained first; an interrupted training resumes from its last complete epoch.

    Examples:

      workbench study run sparcode-towers --trained-only

      workbench study run sparcode-towers --trained-only --format latex

      workbench study run seeds models=cpu/sasrec-dot,cpu/sasrec-mol seeds=5

      workbench study run sparcode-users dataset=ml-10m models=sparcode/sa-two-tower-plain,sparcode/sa-sparcode
    """
    chosen = study(name, _options(options or []))
    say = partial(typer.echo, err=format != "text")  # the table alone can be piped into a file
    path = paths.reports() / "tables" / f"{chosen.file}.csv"
    with new_table(path):
        if not trained_only and (missing := chosen.missing()):
            say(f"training {len(missing)} of {len(chosen.presets())} models first: {', '.join(missing)}")
        where = origin()
        found = chosen.table(Models(trained_only, device, where, say))
        write_csv(found.assign(**where), path, digits=6)
    match format:
        case "text":
            print_table(_readable(found))
        case "markdown":
            typer.echo(markdown(with_digits(found)))
        case "latex":
            typer.echo(latex(with_digits(found)))
    say(str(path))


@app.command()
def results(
    format: Annotated[
        Literal["markdown", "latex"], typer.Option(help="Markdown in results.md, or LaTeX in results.tex.")
    ] = "markdown",
) -> None:
    """Write reports/results.md: every stored table, with the command, machine and commit it comes from.

    Examples:

      workbench study results

      workbench study results --format latex
    """
    from workbench.studies.results import results_page

    path = paths.reports() / ("results.tex" if format == "latex" else "results.md")
    write_text(results_page(paths.reports() / "tables", format), path)
    typer.echo(str(path))


def _options(words: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise ValueError(f"{wrong[0]!r} is no option; write NAME=VALUE, as in seeds=5")
    return {name: value for name, _, value in pairs}


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table without columns that have one text for all rows; those are printed above it."""
    constant = [c for c in table if table[c].dtype == "str" and len(table) > 1 and table[c].nunique() == 1]
    for column in constant:
        typer.echo(f"{column}: {table[column].iloc[0]}")
    return table.drop(columns=constant)
