"""`workbench deep-retrieval`: the tables on learned paths, each by the command that wrote it."""

from dataclasses import replace
from typing import Annotated, Literal

import pandas as pd
import typer

from workbench import paths
from workbench.cli.printing import origin, print_table, write_csv
from workbench.data import load
from workbench.evaluation.user_split import PAPER, HeldOutUsers, UserSplit, split_users
from workbench.models.model_store import METRICS, TrainedModel, load_or_train
from workbench.training.preset import Preset
from workbench.training.presets import preset

app = typer.Typer(help="Deep Retrieval: its protocol, beams, paths and penalties.", no_args_is_help=True)

Part = Annotated[Literal["validation", "test"], typer.Option(help="Which held-out users are asked.")]
Name = Annotated[str, typer.Option("--preset", help="Settings of the Deep Retrieval that is asked.")]
MAIN, YOUTUBE = "halves/sasrec-deep-retrieval", "halves/youtube-dnn"
SIMILARITIES = {
    "hstu": ("dot", "maxsim", "mol", "sparcode", "deep-retrieval", "dot-paths"),
    "sa": ("two-tower-plain", "two-tower", "maxsim", "mol", "sparcode", "deep-retrieval"),
}
"""What stands behind a tower, by the last part of a checkpoint's name; each tower has a budget of its own."""
COUNTS = (1, 2, 3, 4)
PENALTIES = (0.0, 1e-4, 1e-2, 1.0)


def _split(chosen: Preset, part: Literal["validation", "test"]) -> tuple[UserSplit, HeldOutUsers]:
    protocol = replace(PAPER, part=part)
    return split_users(load(chosen.dataset), protocol), protocol


def _trained(chosen: Preset, split: UserSplit) -> TrainedModel:
    return load_or_train(chosen, split.training, metadata=origin())


def _keep(name: str, frame: pd.DataFrame, protocol: object, show: pd.DataFrame | None = None) -> None:
    path = paths.reports() / "tables" / f"deep-retrieval-{name}.csv"
    write_csv(frame.assign(protocol=str(protocol), **origin()), path)
    typer.echo(str(protocol))
    print_table(frame if show is None else show)
    typer.echo(str(path))


@app.command()
def baselines(name: Name = MAIN, part: Part = "test") -> None:
    """Deep Retrieval beside brute force of its reranker, Item-CF, YouTube-DNN and TDM, on users training never saw.

    What is missing is trained first; a training that is stopped goes on where it was.

    Example: workbench deep-retrieval baselines
    """
    from workbench.studies.deep_retrieval import baselines as table

    split, protocol = _split(preset(name), part)
    trained = [_trained(p, split).retriever() for p in (preset(name), preset(YOUTUBE))]
    found = table(trained[0], trained[1], split, protocol)
    _keep(
        "baselines",
        found,
        protocol,
        found.pivot(index="method", columns="metric", values="value").reset_index(),
    )


@app.command()
def beam(name: Name = MAIN, part: Part = "test") -> None:
    """What a wider beam finds and costs, up to brute force.

    Example: workbench deep-retrieval beam
    """
    from workbench.studies.deep_retrieval import beams as table

    split, protocol = _split(preset(name), part)
    _keep("beam", table(_trained(preset(name), split).retriever(), split.held_out, protocol), protocol)


@app.command()
def variants(
    what: Annotated[Literal["paths", "penalty"], typer.Argument(help="What is varied: J, or α.")],
    name: Name = MAIN,
    part: Part = "validation",
    rounds: Annotated[int, typer.Option(help="Passes over the training rows, each with an M-step.")] = 3,
    rows: Annotated[int, typer.Option(help="Training rows, drawn at random.")] = 40_000,
) -> None:
    """Other numbers of paths J, or other penalties α, on the frozen queries and the reranker of a trained model.

    Examples:

      workbench deep-retrieval variants paths

      workbench deep-retrieval variants penalty
    """
    from workbench.similarities import DeepRetrievalConfig
    from workbench.studies.deep_retrieval import variants as table
    from workbench.studies.frozen_paths import PathFit

    chosen = preset(name)
    base = chosen.retriever.similarity
    if not isinstance(base, DeepRetrievalConfig):
        raise ValueError(f"{name} is not Deep Retrieval: it has no paths to vary")
    configs = {
        "paths": {f"J = {count}": replace(base, paths=count) for count in COUNTS},
        "penalty": {f"α = {alpha:g}": replace(base, alpha=alpha) for alpha in PENALTIES},
    }[what]
    split, protocol = _split(chosen, part)
    base_model = _trained(chosen, split).retriever()
    found = table(base_model, split, chosen.training, protocol, configs, PathFit(rounds, rows))
    _keep(what, found, protocol)


@app.command()
def fit(
    base: Annotated[
        str, typer.Argument(help="A trained checkpoint in ckpts/ whose similarity is a dot product.")
    ],
    out: Annotated[str, typer.Option(help="Name of the result in ckpts/; by default BASE-paths.")] = "",
    rounds: Annotated[int, typer.Option(help="Passes over the training rows, each with an M-step.")] = 8,
    rows: Annotated[int, typer.Option(help="Training rows, drawn at random.")] = 250_000,
) -> None:
    """Paths for a retriever that is already trained: its encoder and items stay, structure and paths are learned.

    Example: workbench deep-retrieval fit ml-1m-hstu-dot
    """
    from workbench.studies.frozen_paths import PathFit, store_paths
    from workbench.training.path_presets import PATHS_OF_THOUSANDS

    shelved = TrainedModel.load(paths.checkpoints() / base)
    sequences = load(str(shelved.metadata["dataset"]))
    folder = paths.checkpoints() / (out or f"{base}-paths")
    made = store_paths(
        shelved, sequences, PATHS_OF_THOUSANDS, folder, PathFit(rounds=rounds, rows=rows), metadata=origin()
    )
    print_table(made.metrics[["metric", "value", "low", "high"]])
    typer.echo(str(folder))


@app.command()
def latency(
    largest: Annotated[int, typer.Option(help="Leave out corpora above this many items.")] = 500_000,
) -> None:
    """Latency against the width of the beam and the size of the corpus, with random weights.

    Example: workbench deep-retrieval latency --largest 100000
    """
    from workbench.similarities import DeepRetrievalConfig
    from workbench.studies.deep_retrieval import latency as table

    sizes = [n for n in (4_000, 20_000, 100_000, 500_000) if n <= largest]
    if not sizes:
        raise ValueError(f"no corpus of at most {largest} items; the smallest has 4000")
    _keep("latency", table(DeepRetrievalConfig(), sizes), "random weights, D 3, K 50, J 3, batch of 32")


@app.command()
def similarities(
    folders: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoints in ckpts/; by default those behind HSTU, then self-attention."),
    ] = None,
) -> None:
    """All similarities under the leave-one-out protocol in one table: quality, latency, bytes, build time.

    Example: workbench deep-retrieval similarities ml-1m-hstu-dot ml-1m-hstu-mol ml-1m-hstu-deep-retrieval
    """
    from workbench.evaluation.protocol import STRICT
    from workbench.studies.deep_retrieval import similarities as table

    names = folders or [
        name
        for name in (f"ml-1m-{tower}-{kind}" for tower, kinds in SIMILARITIES.items() for kind in kinds)
        if (paths.checkpoints() / name / METRICS).is_file()
    ]
    shelved = {name: TrainedModel.load(paths.checkpoints() / name) for name in names}
    data = {str(s.metadata.get("dataset")) for s in shelved.values()}
    if len(data) != 1:
        raise ValueError(
            f"these checkpoints were trained on {', '.join(sorted(data)) or 'nothing'}: name some of one dataset"
        )
    _keep("similarities", table(shelved, load(data.pop())), STRICT)
