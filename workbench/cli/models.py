"""`workbench train`, `evaluate`, `compare` and `import-rails`: everything about models."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch.distributed as dist
import typer

from workbench import files, paths, runtime
from workbench.cli.options import Device, seed_from_zero
from workbench.cli.printing import origin, print_table, write_csv
from workbench.data import load
from workbench.evaluation.protocol import RAILS, STRICT, summarize
from workbench.evaluation.retrievers import check_same_items, rank_users
from workbench.models.import_rails import import_rails
from workbench.models.model_store import (
    check_place,
    folder_of,
    is_trained,
    measure_again,
    name_of,
    run_folder,
    store_run,
    store_weights,
)
from workbench.retriever import Retriever, read_metadata
from workbench.training.presets import PRESETS, preset

Replace = Annotated[
    bool, typer.Option("--replace", help="Replace a checkpoint of other settings, data or seed.")
]

app = typer.Typer(help="Models: train, evaluate, compare, import.", no_args_is_help=True)


@app.command("train")
def train_model(
    name: Annotated[
        str, typer.Argument(metavar="PRESET", help="Complete settings by name; `--list` shows them.")
    ] = "",
    show: Annotated[bool, typer.Option("--list", help="List the presets and exit.")] = False,
    dataset: Annotated[str | None, typer.Option(help="Another dataset than the preset's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the users.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Users per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="AdamW's rate.")] = None,
    positions: Annotated[
        int | None, typer.Option(help="Train on at most so many positions per step.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many measurements without improvement.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"] | None, typer.Option(help="bf16 computes under autocast.")
    ] = None,
    seed: Annotated[
        int, typer.Option(callback=seed_from_zero, help="Decides weights, order, negatives and dropout.")
    ] = 0,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the result; by default ckpts/DATASET-PRESET.")
    ] = None,
    replace_other: Replace = False,
) -> None:
    """Train an encoder with a similarity, measure it, and write a checkpoint with its model card.

    States are kept in ckpts/runs; the same command again goes on where a stopped run was. A checkpoint of other settings, data
    or seed in that folder stays, unless --replace is given; a folder of anything else stays in any case. Several processes
    on CPUs: `torchrun --nproc_per_node 2 -m workbench.cli train PRESET`; several GPUs: `accelerate launch` instead of torchrun.

    Examples:

      workbench train --list

      workbench train cpu/hstu-mol

      workbench train ml-1m/sasrec-dot --epochs 20 --patience 3

      workbench train cpu/sasrec-mol --dataset ml-latest-small --out ckpts/mine
    """
    if show or not name:
        _list_presets()
        return
    from workbench.training.loop import train

    chosen = preset(name)
    given = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "precision": precision,
        "positions_per_step": positions, "patience": patience,
    }  # fmt: skip
    training = replace(chosen.training, seed=seed, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    sequences = load(dataset or chosen.dataset)
    folder = out or paths.checkpoints() / name_of(chosen, sequences)
    replaced = check_place(folder, sequences, chosen.retriever, training, replace=replace_other)
    run = run_folder(folder)
    metadata: dict[str, Any] = {"preset": name, "source": chosen.source, **origin()}
    result = train(
        sequences,
        chosen.retriever,
        training,
        run,
        device=device,
        metadata=metadata,
        replace_run=replace_other,
    )
    if not _first_of_its_group():
        return
    typer.echo(
        f"best epoch {result.best_epoch}, {training.metric} {result.best_metric:.4f} on {training.choose_on}"
    )
    shelved = store_run(run, folder, sequences, progress=True, replace=replace_other)
    if replaced:
        typer.echo(f"replaced {replaced}")
    _print(shelved.metrics, str(STRICT))
    typer.echo(str(folder))


def _first_of_its_group() -> bool:
    """Whether this process is alone or the first of those that trained together, which are a group no longer.

    A group that nobody ended may abort its process at exit: its threads outlive the interpreter that they call.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return True
    first = dist.get_rank() == 0
    dist.destroy_process_group()
    return first


@app.command("evaluate")
def evaluate_model(
    folder: Annotated[Path, typer.Argument(help="A checkpoint folder, or its name in ckpts/.")],
    dataset: Annotated[str | None, typer.Option(help="By default the dataset it was trained on.")] = None,
    protocol: Annotated[
        Literal["strict", "rails"], typer.Option(help="How targets and candidates are chosen.")
    ] = "strict",
    part: Annotated[Literal["validation", "test"], typer.Option(help="Which held-out item.")] = "test",
    device: Device = None,
    ranks_to: Annotated[
        Path | None, typer.Option("--ranks", help="Write every user's rank to this Parquet file.")
    ] = None,
    metrics_to: Annotated[
        Path | None, typer.Option("--metrics", help="Write the table to this CSV file.")
    ] = None,
    other_data: Annotated[
        bool, typer.Option("--other-data", help="Allow data it was not trained on.")
    ] = False,
    store: Annotated[
        bool, typer.Option("--store", help="Store metrics, ranks and card with the checkpoint again.")
    ] = False,
) -> None:
    """Measure a trained retriever: HR@k, NDCG@k and MRR over the whole corpus, with the protocol's card.

    Examples:

      workbench evaluate ml-1m-cpu-hstu-mol

      workbench evaluate ckpts/mine --protocol rails --ranks ranks.parquet
    """
    folder = folder_of(folder)
    metadata = read_metadata(folder)
    name = dataset or metadata.get("dataset")
    if name is None:
        raise ValueError(f"{folder} does not say which dataset it was trained on; give --dataset")
    sequences = load(name)
    if not other_data and metadata.get("fingerprint") not in (None, sequences.fingerprint()):
        raise ValueError(
            f"{folder} was trained on {metadata['dataset']} with fingerprint {metadata['fingerprint']}, and {name} here has"
            f" {sequences.fingerprint()}: its numbers would not be comparable. Pass --other-data to measure it all the same"
        )
    for path in filter(None, (ranks_to, metrics_to)):
        files.check_file(path)
    rules = replace(STRICT if protocol == "strict" else RAILS, part=part)
    if store and (rules != STRICT or metadata.get("fingerprint") != sequences.fingerprint()):
        raise ValueError(
            "--store keeps the strict protocol's test metrics on the data of the training, and no others"
        )
    if store:
        model = measure_again(folder, sequences, progress=True)
        ranks, table = model.ranks(sequences), model.metrics
    else:
        retriever = Retriever.load(folder, runtime.device(device))
        check_same_items(retriever, sequences)
        ranks = rank_users(retriever, sequences, rules, progress=True)
        table = summarize(ranks, rules)
    if ranks_to is not None:
        with files.atomic_write(ranks_to) as temporary:
            ranks.to_parquet(temporary, index=False)
    if metrics_to is not None:
        write_csv(table, metrics_to)
    _print(table, str(rules))


@app.command("compare")
def compare_models(
    folders: Annotated[list[Path], typer.Argument(help="Checkpoint folders, or their names in ckpts/.")],
    csv: Annotated[Path | None, typer.Option(help="Write the table to this CSV file too.")] = None,
) -> None:
    """Print the measured metrics of finished checkpoints as a Markdown table, the published figures of the dataset below.

    The measurements are those that were stored with each checkpoint, on the test part, under the strict protocol.

    Example: workbench compare ml-1m-cpu-sasrec-dot ml-1m-cpu-sasrec-mol ml-1m-cpu-hstu-dot ml-1m-cpu-hstu-mol
    """
    from workbench.models.model_store import TrainedModel, beside, markdown

    if csv is not None:
        files.check_file(csv)
    shelved = [TrainedModel.load(folder_of(folder)) for folder in folders]
    table = beside(shelved)
    if csv is not None:
        write_csv(table, csv)
    typer.echo(markdown(table))


@app.command("import-rails")
def import_published(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of the published RAILS code (.pt).")],
    out: Annotated[Path, typer.Option(help="Folder of the result.")],
    settings: Annotated[
        Path | None, typer.Option(help="JSON in the published parameter names; by default beside it.")
    ] = None,
    replace_other: Replace = False,
) -> None:
    """Turn a published RAILS checkpoint into one of ours: safetensors, nothing executed.

    Example: workbench import-rails hstu-mol.pt --settings hstu-mol.json --out ckpts/published-hstu-mol
    """
    retriever = import_rails(checkpoint, settings)
    replaced = store_weights(retriever, checkpoint, out, replace=replace_other)
    if replaced:
        typer.echo(f"replaced {replaced}")
    _list_settings(retriever.config.to_dict())
    typer.echo(str(out))


def _list_presets() -> None:
    rows = []
    for name, p in PRESETS.items():
        done = "yes" if is_trained(p, p.dataset) else ""
        rows.append((name, p.dataset, p.retriever.dim, p.training.epochs, done))
    print_table(pd.DataFrame(rows, columns=["preset", "dataset", "D", "epochs", "trained"]))


def _list_settings(values: dict[str, Any]) -> None:
    typer.echo(json.dumps(values, indent=2))


def _print(metrics: pd.DataFrame, protocol: str) -> None:
    typer.echo(protocol)
    print_table(metrics[["metric", "value", "low", "high"]])
