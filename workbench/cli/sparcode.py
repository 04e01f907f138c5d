"""`workbench sparcode`: the tables on learned codes, each by the command that wrote it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import typer

from workbench import paths
from workbench.cli.printing import origin, print_table, write_csv
from workbench.data import load
from workbench.evaluation.user_split import Find, UserSplit
from workbench.models.model_store import TrainedModel, find_trained, load_or_train
from workbench.training.presets import preset
from workbench.training.sparcode_presets import METHODS, TOWERS

app = typer.Typer(help="SparCode: its towers, its ablations, its index.", no_args_is_help=True)

Family = Annotated[str, typer.Option(help="sparcode-cpu (MovieLens 1M), sparcode-quick or sparcode.")]
Trained = Annotated[
    bool,
    typer.Option("--trained-only", help="Leave out models that are not in ckpts/ instead of training them."),
]


def _models(
    family: str, names: list[tuple[dict[str, str], str]], trained_only: bool
) -> Iterator[tuple[dict[str, str], TrainedModel]]:
    for labels, name in names:
        chosen = preset(f"{family}/{name}")
        sequences = load(chosen.dataset)
        if trained_only and find_trained(chosen, sequences) is None:
            typer.echo(f"{chosen.name} is not trained: left out")
            continue
        yield labels, load_or_train(chosen, sequences, metadata=origin())


def _keep(name: str, frame: pd.DataFrame) -> None:
    path = paths.reports() / "tables" / f"sparcode-{name}.csv"
    write_csv(frame.assign(**origin()), path, digits=6)
    print_table(frame)
    typer.echo(str(path))


@app.command()
def towers(family: Family = "sparcode-cpu", trained_only: Trained = False) -> None:
    """Two towers, SparCode and All-to-All behind each encoder, and popularity, under the leave-one-out protocol.

    What is missing is trained first; a training that is stopped goes on where it was.

    Example: workbench sparcode towers
    """
    from workbench.studies.sparcode import measured, popularity

    names = [
        ({"tower": title, "method": method}, f"{tower}-{kind}")
        for tower, title in TOWERS.items()
        for kind, method in METHODS.items()
    ]
    table = measured(_models(family, names, trained_only))
    row = {
        "tower": "none",
        "method": "popularity",
        **popularity(load(preset(f"{family}/sa-sparcode").dataset)),
    }
    _keep("towers", pd.concat([table, pd.DataFrame([row])], ignore_index=True))


@app.command()
def steps(family: Family = "sparcode-cpu", trained_only: Trained = False) -> None:
    """From a two-tower to SparCode with one thing changed at a time: where quality is lost, and where it is won.

    Example: workbench sparcode steps
    """
    from workbench.studies.sparcode import STEPS
    from workbench.studies.sparcode import steps as table

    names = [({"step": title}, f"sa-{kind}") for kind, title in STEPS.items()]
    _keep(f"steps-{preset(f'{family}/sa-sparcode').dataset}", table(_models(family, names, trained_only)))


@app.command()
def ablation(family: Family = "sparcode-cpu", trained_only: Trained = False) -> None:
    """Interactions, gradients past the quantizer, codebooks and tokens, one changed at a time behind self-attention.

    Example: workbench sparcode ablation --family sparcode-quick
    """
    from workbench.studies.sparcode import VARIANTS, measured

    names = [({"variant": title}, f"sa-{kind}") for kind, title in VARIANTS.items()]
    table = measured(_models(family, names, trained_only))
    dataset = preset(f"{family}/sa-sparcode").dataset
    _keep(f"ablation-{dataset}", table)


@app.command()
def sparsity(
    name: Annotated[str, typer.Option("--preset", help="Whose index.")] = "sparcode-cpu/sa-sparcode",
) -> None:
    """Quality, latency and bytes of the inverted index from 0 to 99.9 % sparsity, beside brute force, in one run.

    Example: workbench sparcode sparsity
    """
    from workbench.studies.sparsity import sparsity_sweep

    chosen = preset(name)
    sequences = load(chosen.dataset)
    _keep(
        "sparsity", sparsity_sweep(load_or_train(chosen, sequences, metadata=origin()).retriever(), sequences)
    )


@app.command()
def tree(
    name: Annotated[str, typer.Option("--preset", help="Whose scorer.")] = "sparcode-cpu/sa-sparcode",
) -> None:
    """A tree over the items searched by beams with SparCode's own scorer, as TDM does.

    Example: workbench sparcode tree
    """
    from workbench.studies.sparcode import tree_beams

    chosen = preset(name)
    sequences = load(chosen.dataset)
    _keep("tree", tree_beams(load_or_train(chosen, sequences, metadata=origin()), sequences))


@app.command()
def users(
    names: Annotated[
        list[str] | None,
        typer.Option("--preset", help="What is trained and asked; the others are compared to the first."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Another dataset than the presets'.")] = None,
    seeds: Annotated[int, typer.Option(help="Draws of users and weights.")] = 5,
) -> None:
    """P, R and NDCG @20 and @50 on a tenth of the users, held out whole: mean and deviation over seeds, as published.

    By default two towers, All-to-All and SparCode on MovieLens 1M behind self-attention; popularity is always there. What is
    missing is trained first; a training that is stopped goes on where it was.

    Examples:

      workbench sparcode users --seeds 3

      workbench sparcode users --dataset ml-10m --preset sparcode/sa-two-tower-plain --preset sparcode/sa-sparcode
    """
    from workbench.studies.user_split import by_brute_force, by_popularity, over_seeds

    chosen = [preset(name) for name in names or [f"sparcode-cpu/sa-{kind}" for kind in METHODS]]
    sequences = load(dataset or chosen[0].dataset)
    ways: dict[str, Callable[[UserSplit, int], Find]] = {
        p.name: lambda split, seed, p=p: by_brute_force(
            load_or_train(p, split.training, seed=seed, metadata=origin())
        )  # type: ignore[misc]
        for p in chosen
    }
    ways["popularity"] = lambda split, seed: by_popularity(split)
    _keep(f"users-{sequences.name}", over_seeds(sequences, ways, seeds))


@app.command()
def deezer(
    folder: Annotated[Path, typer.Argument(help="Where the published archive was unpacked.")],
    source: Annotated[Literal["svd", "mf"], typer.Option(help="svd (TT-SVD) or mf (UT-ALS).")] = "svd",
    seeds: Annotated[int, typer.Option(help="Draws of weights.")] = 5,
) -> None:
    """P, R and NDCG @20 and @50 on Deezer's cold users: two towers, SparCode and All-to-All over fixed song embeddings.

    Example: workbench sparcode deezer data/deezer --source mf
    """
    from workbench.data.deezer import read_deezer
    from workbench.studies.cold_start import over_seeds

    _keep(f"deezer-{source}", over_seeds(read_deezer(folder, source), seeds))


@app.command()
def given(
    dataset: Annotated[str, typer.Option(help="Whose users have features.")] = "ml-1m",
    seeds: Annotated[int, typer.Option(help="Draws of weights.")] = 3,
    known: Annotated[int, typer.Option(help="First items of a user that are features too.")] = 0,
) -> None:
    """As on Deezer, on MovieLens 1M: item embeddings are given and stay, cold users are known by features; test users.

    Example: workbench sparcode given --known 5
    """
    from workbench.data.deezer import as_deezer
    from workbench.studies.cold_start import GIVEN, over_seeds

    table = over_seeds(as_deezer(load(dataset), known=known), seeds, GIVEN)
    _keep(f"given-{dataset}" + (f"-known-{known}" if known else ""), table)


@app.command()
def index(
    name: Annotated[str, typer.Option("--preset", help="Whose scores.")] = "sparcode-cpu/sa-sparcode",
    sparsity: Annotated[float, typer.Option(help="Share of (code, item) scores to leave out.")] = 0.95,
) -> None:
    """Write the inverted index of the test users' codes beside the checkpoint, as index.safetensors.

    Example: workbench sparcode index --sparsity 0.99
    """
    from workbench.search.inverted_index import InvertedIndex
    from workbench.studies.sparsity import served

    chosen = preset(name)
    sequences = load(chosen.dataset)
    shelved = load_or_train(chosen, sequences, metadata=origin())
    asked = served(shelved.retriever(), sequences)
    whole = InvertedIndex.build(asked.similarity, asked.items, asked.queries.codes, loosest=float("inf"))
    kept = whole.at(whole.threshold_for(sparsity))
    kept.save(shelved.folder / "index.safetensors")
    typer.echo(f"{kept.size()} in {shelved.folder / 'index.safetensors'}")
