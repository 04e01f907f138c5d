"""`workbench report`, `workbench lab`, `workbench pairs`: everything about notebooks."""

import glob
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from workbench import paths
from workbench.cli import options
from workbench.files import check_folder
from workbench.lazy_imports import import_jsonschema

_DEFAULT_DATASET = "embedded-small"

Folder = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the notebooks, data, checkpoints and reports; a new one gets those of this package. By default the"
        " checkout, or the current folder."
    ),
]


def report(
    profile: Annotated[
        Literal["quick", "standard", "full"],
        typer.Option(help="quick: minutes on two cores; standard: MovieLens; full: a GPU."),
    ] = "quick",
    dataset: Annotated[
        str, typer.Option(autocompletion=options.datasets, help="A dataset of `workbench data list`.")
    ] = _DEFAULT_DATASET,
    seed: Annotated[int, typer.Option(help="Seed of every notebook.")] = 0,
    only: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=options.notebooks,
            help="Notebooks to run, by number or name: 00,03; may be repeated.",
        ),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME=VALUE", help="A parameter of the notebooks; repeat for more."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(help="Notebooks to run in parallel, unless one depends on another.")
    ] = 1,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Time limit of a cell in seconds. By default 600 (quick), 2 h (standard), 48 h (full)."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also run notebooks that are up to date.")] = False,
    pdf: Annotated[
        bool,
        typer.Option(
            "--pdf", help="Then print each page to a PDF next to it; needs playwright and Chromium."
        ),
    ] = False,
    publish: Annotated[
        Path | None,
        typer.Option(help="Then copy all reports to this folder, as static pages for a web server."),
    ] = None,
    folder: Folder = None,
) -> None:
    """Execute the notebooks and write the report: reports/index.html.

    Up-to-date notebooks are skipped: a notebook runs again if its cells, its parameters, the package, the installed versions
    or the files in data/ and ckpts/ that it may read have changed. If a notebook fails, the others still run; its page shows
    the error, and the exit status is 1. Stopping a run leaves the previous report unchanged.

    Examples:

      workbench report

      workbench report --profile standard --dataset ml-1m

      workbench report --only 02,03 -p user=5 --force

      workbench report --jobs 2 --timeout 600

      workbench report --pdf

      workbench report --publish docs

      workbench report --folder my-workbench
    """
    from workbench import chromium

    import_jsonschema()
    from workbench.reporting import publish as published
    from workbench.reporting.paper import print_pages
    from workbench.reporting.runner import ReportSpec, run_report

    _work_in(folder)
    _check_dataset(dataset)
    if publish is not None:
        check_folder(publish, published.SITE, published.SETTINGS)
    if pdf:
        chromium.check()
    spec = ReportSpec(
        profile=profile,
        dataset=dataset,
        seed=seed,
        only=tuple(filter(None, (name.strip() for names in only or [] for name in names.split(",")))),
        parameters=_pairs(parameter or []),
        jobs=jobs,
        timeout=timeout,
        force=force,
    )
    finished = run_report(spec, say=lambda line: print(line, flush=True))
    print()
    width = max(len(row.name) for row in finished.rows)
    for row in finished.rows:
        print(f"{row.name:<{width}}  {row.state:<10}  {row.seconds:>8.1f} s  {row.error}".rstrip())
    print(f"\n{finished.index}")
    if pdf:
        for path in print_pages(paths.reports() / spec.run, [row.name for row in finished.rows]):
            print(path)
    if publish is not None:
        print(published.publish(paths.reports(), publish))
    if finished.failed:
        raise typer.Exit(1)


def gallery() -> None:
    """Draw the pictures of reports/gallery: from the stored tables, and from the quick report if there is one.

    Needs playwright and Chromium.

    Example: workbench gallery
    """
    from workbench.explore.gallery import draw

    quick = paths.reports() / f"quick-{_DEFAULT_DATASET}"
    found = quick if (quick / "results.json").is_file() else None
    for path in draw(paths.reports() / "tables", found, paths.reports() / "gallery"):
        print(path)


def lab(
    notebook: Annotated[
        str,
        typer.Argument(autocompletion=options.notebooks, help="The notebook to open, by number or name."),
    ] = "00",
    browser: Annotated[bool, typer.Option(help="Open a browser window.")] = True,
    port: Annotated[int, typer.Option(help="The port to listen on.")] = 8888,
    ip: Annotated[
        str, typer.Option(help="The address to listen on; other machines reach any but localhost.")
    ] = "localhost",
    folder: Folder = None,
) -> None:
    """Open JupyterLab on a notebook, by default the tour.

    It listens on this machine only, regardless of your Jupyter configuration, unless `--ip` gives another address. It does
    not fetch news or updates. Stop it with Ctrl-C.

    Examples:

      workbench lab

      workbench lab 03

      workbench lab --no-browser --port 8899

      workbench lab --folder my-workbench
    """
    import_jsonschema()
    from workbench.reporting import notebooks

    _work_in(folder)
    chosen = notebooks.select(notebooks.catalog(paths.notebooks()), [notebook])[0]
    command = [
        sys.executable,
        "-m",
        "workbench.reporting.lab",
        f"--ServerApp.root_dir={paths.root()}",
        f"--LabApp.default_url=/doc/tree/{chosen.path.relative_to(paths.root()).as_posix()}",
        f"--ServerApp.ip={ip}",
        f"--ServerApp.port={port}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
    ]
    if not browser:
        command.append("--no-browser")
    # Our defaults (labconfig/) under the user's own settings: no question about news, and plots stay in the page as it scrolls.
    own = str(Path(notebooks.__file__).parent)
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(
        filter(None, [own, os.environ.get("JUPYTER_CONFIG_PATH")])
    )
    if os.geteuid() == 0:  # usually in a container; the server still requires its token
        command.append("--allow-root")
    os.execv(command[0], command)


def pairs(
    write: Annotated[bool, typer.Option("--write", help="Regenerate every .ipynb from its .py.")] = False,
    take: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Write this notebook's .py from its .ipynb; the old .py is kept."),
    ] = None,
) -> None:
    """Check that each notebook and its source (NN_name.ipynb, NN_name.py) have the same cells, or regenerate the notebooks.

    The .py is the source. JupyterLab keeps both in step while you edit; run `workbench pairs --write` after editing a .py by
    hand, and to take the outputs out of a notebook before committing it. A notebook with cells that its .py lacks is not
    overwritten: --take copies them into the .py.

    Examples:

      workbench pairs

      workbench pairs --write
    """
    import_jsonschema()
    from workbench.files import check_name
    from workbench.reporting.pairs import problems
    from workbench.reporting.pairs import take as take_notebook
    from workbench.reporting.pairs import write as write_pair

    folder = paths.notebooks()
    if take is not None:
        source = folder / f"{check_name(take, 'a notebook')}.py"
        typer.echo(f"{source} is written from its notebook; as it was: {take_notebook(source)}")
    if write:
        for source in sorted(folder.glob("*.py")):
            write_pair(source)
    found = problems(folder)
    for problem in found:
        typer.echo(problem, err=True)
    if found:
        raise typer.Exit(1)


def _work_in(folder: Path | None) -> None:
    """Work in this folder, with the package's notebooks if it has none; ValueError if there are no notebooks to work with."""
    from workbench.reporting import shipped

    if folder is not None:
        target = folder.expanduser().resolve()
        if shipped.unpack(target):
            typer.echo(f"notebooks, quick checkpoints and tables are in {target}")
        os.environ["WORKBENCH_ROOT"] = str(target)
    shipped.check_notebooks()


def _pairs(given: list[str]) -> dict[str, str]:
    """`name=value` texts as a dictionary; ValueError for anything else, and for a name given twice."""
    parameters: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"-p takes name=value, got {text!r}")
        if name.strip() in parameters:
            raise ValueError(f"parameter {name.strip()!r} is given twice")
        parameters[name.strip()] = value
    return parameters


def _check_dataset(name: str) -> None:
    """Raise ValueError if the dataset is unknown, with the names of those that exist, before anything runs."""
    there = (paths.data() / name).is_dir() or any(paths.data().glob(f"{glob.escape(name)}-seed*"))
    if name == _DEFAULT_DATASET or there:
        return
    from difflib import get_close_matches

    from workbench.data import CATALOG, EMBEDDED

    known = [*EMBEDDED, *CATALOG]
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"no dataset {name!r}{hint}; there are: {', '.join(known)}")
