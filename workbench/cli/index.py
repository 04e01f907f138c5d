"""`workbench index`: indexes of trained models, built, searched, described; those that a model learned."""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from workbench import files, paths
from workbench.cli.options import Dataset, Model, engines, searchers
from workbench.cli.printing import origin, print_table, warnings_as_notes
from workbench.data import load
from workbench.front_door import Index
from workbench.front_door import load as open_model
from workbench.front_door.index import build
from workbench.front_door.saved_index import described_index, footprint
from workbench.models.item_embeddings import read_embeddings
from workbench.models.model_store import TrainedModel, folder_of, load_or_train
from workbench.search.engines.catalog import ENGINES, engine_of
from workbench.search.engines.catalog import engine as find_engine
from workbench.search.registry import SEARCHERS
from workbench.training.presets import preset

app = typer.Typer(
    add_completion=False,
    help="Indexes: build, add, remove, search, info; codes, paths.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command("build")
def build_index(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder of the index: new, or of this same index.")],
    searcher: Annotated[
        str | None,
        typer.Option(
            autocompletion=searchers, help="exact, average, faiss-ivf, …; default: the best with a proof."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            autocompletion=engines,
            help=f"What holds the items, instead of --searcher: {', '.join(ENGINES)}. Its candidates are scored in full.",
        ),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the searcher; repeat for more."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace another index in the folder.")] = False,
    dataset: Dataset = None,
) -> None:
    """Build an index of a model's items and save it together with the model, ready to serve.

    Nothing is at OUT until all of it is built: an interrupted build leaves what was there. The same command then continues
    it, an engine after the last vectors that it holds, a graph from its last finished stage; both are kept next to OUT until
    then. Prints the folder, and what the index will take of memory to stderr.

    Examples:

      workbench index build ml-1m-cpu-hstu-mol --searcher average --set n2=1000 --out /tmp/my-index

      workbench index build ml-1m-cpu-hstu-mol --engine usearch --out /tmp/my-engine

      workbench index build ml-1m-cpu-hstu-mol --engine milvus --set uri=http://localhost:19530 --out /tmp/my-cluster

    A cluster's token is read from WORKBENCH_MILVUS_TOKEN. It keeps a collection for each corpus that was built: `index add` and
    `remove` make another, and leave dropping to its owner. It was tried with milvus-lite alone.
    """
    if engine is not None:
        if searcher is not None:
            raise ValueError("give --searcher or --engine, not both")
        found = find_engine(engine)
        found.version()  # raises if it is not installed
        searcher = found.searchers[0]
    with files.lock(out):
        chosen = open_model(model, dataset)
        settings = chosen.searcher_settings(searcher, **_parameters(parameters or []))
        saved = build(chosen, settings, out, replace=replace)
    typer.echo(f"note: it takes {footprint(saved)}", err=True)
    typer.echo(str(saved))


Folder = Annotated[Path, typer.Argument(help="A folder written by `workbench index build`.")]


@app.command("add")
def add_items(
    folder: Folder,
    embeddings: Annotated[
        Path,
        typer.Option(
            help="Parquet or CSV: a column item_id, perhaps title, and the numbers of each item's embedding in the others"
            " (or a list in a column embedding)."
        ),
    ],
) -> None:
    """Put items into an index, or give known ones other embeddings: in the space of the model's item table.

    The folder is replaced when all is written. Engines that cannot change are built again.

    Example: workbench index add /tmp/my-index --embeddings new-items.parquet
    """
    ids, titles, vectors = read_embeddings(embeddings)
    with files.lock(folder):
        index = _opened(folder)
        changed = index.add(ids, vectors, titles)
        changed.save(folder, replace=True)
    typer.echo(f"{len(index.corpus):,} items before, {len(changed.corpus):,} now")


@app.command("remove")
def remove_items(
    folder: Folder,
    item: Annotated[list[str], typer.Option("--item", help="An item id; repeat, or separate by commas.")],
) -> None:
    """Take items out of an index. Histories may still hold them.

    Example: workbench index remove /tmp/my-index --item 260,1196
    """
    ids = [one.strip() for text in item for one in text.split(",")]
    with files.lock(folder):
        index = _opened(folder)
        changed = index.remove(ids)
        changed.save(folder, replace=True)
    typer.echo(f"{len(index.corpus):,} items before, {len(changed.corpus):,} now")


def _opened(folder: Path) -> Index:
    """The index in a folder, after a line on what it takes of memory."""
    typer.echo(f"note: loading {folder}: {footprint(folder)}", err=True)
    return Index.load(folder)


@app.command("search")
def search_index(
    folder: Folder,
    history: Annotated[
        list[str],
        typer.Option(help="Item ids separated by commas, oldest first; repeat for more queries."),
    ],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Items in each list.")] = 10,
    repeats: Annotated[
        bool, typer.Option("--repeats", help="Allow items of the history in the results.")
    ] = False,
) -> None:
    """Search an index with histories.

    Example: workbench index search /tmp/my-index --history 1,260,1196 -k 5
    """
    histories = [[item.strip() for item in ids.split(",")] for ids in history]
    index = _opened(folder)
    with warnings_as_notes():
        found = index.search(histories, k, exclude_history=not repeats).to_source()
    print_table(found.assign(exact=np.where(found["exact"], "yes", "no")))


@app.command("info")
def describe_index(folder: Folder) -> None:
    """Print the searcher of an index with its parameters, its model, its engine and machine, and its size, without loading it.

    Example: workbench index info /tmp/my-index
    """
    manifest = described_index(folder)
    kind = manifest.searcher["kind"]
    engine = engine_of(kind)
    shown = {
        "searcher": SEARCHERS[kind].title,
        "engine": "none: it searches the items itself" if engine is None else engine.meaning,
        **{name: str(value) for name, value in manifest.searcher.items()},
        "model": manifest.model,
        "weights": manifest.weights,
        "items": str(manifest.items),
        "corpus": manifest.corpus,
        **{name.replace("_", " "): value for name, value in manifest.made_by.items() if name != "engine"},
        "memory": str(footprint(folder)),
        "bytes": f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()):,}",
    }
    print_table(pd.DataFrame({"what": list(shown), "value": list(shown.values())}))


def _parameters(words: list[str]) -> dict[str, int | float | str]:
    """Values by name, text if they are no numbers; ValueError unless each is written NAME=VALUE."""
    values: dict[str, int | float | str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, not {word!r}")
        values[name] = _number(text)
    return values


def _number(text: str) -> int | float | str:
    """The number that a text is, or the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@app.command()
def codes(
    name: Annotated[str, typer.Option("--preset", help="The model.")] = "sparcode-ladder/sparcode-warm",
    sparsity: Annotated[float, typer.Option(help="Share of (code, item) scores to leave out.")] = 0.95,
) -> None:
    """Write the inverted index of the codes seen in training into the checkpoint's folder, as index.safetensors.

    Example: workbench index codes --sparsity 0.99
    """
    from workbench.search.inverted_index import InvertedIndex
    from workbench.studies.sparsity import served, training_codes
    from workbench.training.config import TrainingConfig

    chosen = preset(name)
    sequences = load(chosen.dataset)
    model = load_or_train(chosen, sequences, metadata=origin())
    found = served(model.retriever(), sequences)
    training = TrainingConfig.from_dict(model.metadata["training"])
    known = training_codes(model.retriever(), sequences, training)
    whole = InvertedIndex.build(found.similarity, found.items, known, loosest=float("inf"))
    kept = whole.at(whole.threshold_for(sparsity))
    kept.save(model.folder / "index.safetensors")
    typer.echo(f"{kept.size()} in {model.folder / 'index.safetensors'}")


@app.command("paths")
def fit_paths(
    base: Annotated[
        str, typer.Argument(help="A trained checkpoint in ckpts/ whose similarity is a dot product.")
    ],
    out: Annotated[str, typer.Option(help="Name of the result in ckpts/; by default BASE-paths.")] = "",
    rounds: Annotated[int, typer.Option(help="Passes over the training rows, each with an M-step.")] = 8,
    rows: Annotated[int, typer.Option(help="Training rows, drawn at random.")] = 250_000,
) -> None:
    """Learn paths for a trained retriever: its encoder and items stay fixed, structure model and paths are learned.

    Example: workbench index paths ml-1m-cpu-hstu-dot
    """
    from workbench.studies.frozen_paths import PathFit, store_paths
    from workbench.training.path_presets import PATHS_OF_THOUSANDS

    model = TrainedModel.load(folder_of(base))
    sequences = load(str(model.metadata["dataset"]))
    folder = paths.checkpoints() / files.check_name(out or f"{model.folder.name}-paths")
    fit = PathFit(rounds=rounds, rows=rows)
    with files.lock(folder):
        made = store_paths(model, sequences, PATHS_OF_THOUSANDS, folder, fit, metadata=origin())
    print_table(made.metrics[["metric", "value", "low", "high"]])
    typer.echo(str(folder))
