"""`workbench serve`: a small server of a model or an index, for demonstrations."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.options import Dataset, Model, searchers

app = typer.Typer(add_completion=False, help="A small server.", rich_markup_mode="markdown")


@app.callback()
def root() -> None:
    """A server is a command of its own: `workbench serve`."""


@app.command("serve")
def serve(
    model: Model,
    searcher: Annotated[
        str | None,
        typer.Option(
            autocompletion=searchers, help="Of a model; default: the best with a proof. An index has its own."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes any that is free.")] = 8000,
    dataset: Dataset = None,
) -> None:
    """Serve a model, or the folder of an index, over HTTP: /recommend, /search, /health, /metrics. Ctrl+C ends it.

    Needs pip install 'retrieval-workbench[serve]'. There is no authentication: keep it on this machine, or behind a proxy.

    Examples:

      workbench serve ml-1m-cpu-hstu-mol

      workbench serve /tmp/my-index --port 8001
    """
    from workbench.front_door import Index, load
    from workbench.front_door.saved_index import MANIFEST, footprint
    from workbench.front_door.serve import serving
    from workbench.runtime import require

    for package in ("fastapi", "uvicorn"):
        require(package)  # before anything is loaded
    if (Path(model) / MANIFEST).is_file():
        if searcher is not None or dataset is not None:
            raise ValueError(
                f"{model} is an index with a searcher and data of its own: leave --searcher and --dataset out"
            )
        typer.echo(f"note: loading {model}: {footprint(model)}", err=True)
        index = Index.load(model)
    else:
        index = load(model, dataset).index(searcher)
    server = serving(index, host, port)
    typer.echo(
        f"{server.address}/recommend?history=ID,ID&k=10 (also /search, /health, /metrics; Ctrl+C ends)"
    )
    server.run()
