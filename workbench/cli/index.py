"""`workbench index`: the learned indexes of trained models."""

from typing import Annotated

import typer

from workbench import files, paths
from workbench.cli.printing import origin, print_table
from workbench.data import load
from workbench.models.model_store import TrainedModel, folder_of, load_or_train
from workbench.training.presets import preset

app = typer.Typer(help="Indexes: SparCode's codes, Deep Retrieval's paths.", no_args_is_help=True)


@app.command()
def codes(
    name: Annotated[str, typer.Option("--preset", help="Whose scores.")] = "sparcode-cpu/sa-sparcode",
    sparsity: Annotated[float, typer.Option(help="Share of (code, item) scores to leave out.")] = 0.95,
) -> None:
    """Write the inverted index of the test users' codes into the checkpoint's folder, as index.safetensors.

    Example: workbench index codes --sparsity 0.99
    """
    from workbench.search.inverted_index import InvertedIndex
    from workbench.studies.sparsity import served

    chosen = preset(name)
    sequences = load(chosen.dataset)
    model = load_or_train(chosen, sequences, metadata=origin())
    found = served(model.retriever(), sequences)
    whole = InvertedIndex.build(found.similarity, found.items, found.queries.codes, loosest=float("inf"))
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
    made = store_paths(
        model, sequences, PATHS_OF_THOUSANDS, folder, PathFit(rounds=rounds, rows=rows), metadata=origin()
    )
    print_table(made.metrics[["metric", "value", "low", "high"]])
    typer.echo(str(folder))
