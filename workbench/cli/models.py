"""`workbench model`: list, train, evaluate, compare, recommend, import, export, halve; some are commands of their own too."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch.distributed as dist
import typer

from workbench import files, paths, runtime, source
from workbench.cli import options
from workbench.cli.options import Dataset, Device, Model, seed_from_zero
from workbench.cli.printing import new_table, origin, print_table, warnings_as_notes, write_csv
from workbench.data import load
from workbench.encoders import ENCODERS
from workbench.evaluation.protocol import EXCLUDED_TARGETS, RAILS, STRICT, summarize
from workbench.evaluation.ranks import COLUMNS
from workbench.evaluation.retrievers import check_same_items, rank_users
from workbench.front_door import load as open_model
from workbench.front_door.user_base import On
from workbench.loading import reading
from workbench.models import training_data
from workbench.models.import_rails import import_rails
from workbench.models.measurements import MEASURED_BY, ROOMS
from workbench.models.model_store import (
    METRIC_COLUMNS,
    METRICS,
    RETRAIN,
    TrainedModel,
    check_place,
    folder_of,
    halve,
    is_trained,
    measure_again,
    name_of,
    run_folder,
    starting_model,
    store_run,
    store_weights,
    with_published,
)
from workbench.registry import load_entry_points
from workbench.retriever import CONFIG, WEIGHTS, Retriever, read_metadata
from workbench.similarities import SIMILARITIES
from workbench.studies.table_formats import latex, markdown
from workbench.training.presets import PRESETS, preset

Replace = Annotated[
    bool, typer.Option("--replace", help="Replace a checkpoint of other settings, data or seed.")
]

app = typer.Typer(
    add_completion=False,
    help="Models: list, train, evaluate, compare, recommend, import, export, halve.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command("list")
def list_models(
    dataset: Annotated[
        str | None, typer.Option(autocompletion=options.datasets, help="Only those of this dataset.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Only those with this encoder (hstu).")] = None,
    similarity: Annotated[str | None, typer.Option(help="Only those with this similarity (mol).")] = None,
    trained: Annotated[
        bool, typer.Option("--trained", help="The models in ckpts/ instead of the presets.")
    ] = False,
) -> None:
    """List the presets, or the trained models: dataset, encoder, similarity, and NDCG@10 if it was measured.

    Examples:

      workbench model list --dataset ml-1m --similarity mol

      workbench model list --trained
    """
    for kind, known in ((encoder, ENCODERS), (similarity, SIMILARITIES)):
        if kind is not None:
            known[kind]
    wanted = {"dataset": dataset, "encoder": encoder, "similarity": similarity}
    table = _trained_models() if trained else _presets()
    for column, value in wanted.items():
        if value is not None:
            table = table[table[column] == value]
    if table.empty:
        chosen = ", ".join(f"{name} {value}" for name, value in wanted.items() if value)
        raise ValueError(f"there is no {'trained model' if trained else 'preset'} of {chosen or 'any kind'}")
    print_table(table)


def _presets() -> pd.DataFrame:
    load_entry_points()
    rows = [
        {
            "preset": name,
            "dataset": p.dataset,
            "encoder": p.retriever.encoder.kind,
            "similarity": p.retriever.similarity.kind,
            "D": p.retriever.dim,
            "epochs": p.training.epochs,
            "trained": "yes" if is_trained(p, p.dataset) else "",
        }
        for name, p in PRESETS.items()
    ]
    return pd.DataFrame(rows)


def _trained_models() -> pd.DataFrame:
    rows = []
    for config in sorted(paths.checkpoints().glob(f"[!.]*/{CONFIG}")):
        folder = config.parent
        value = by = ""
        try:
            metadata = read_metadata(folder)
            with reading(config, RETRAIN):
                parts = [metadata["retriever"][part]["kind"] for part in ("encoder", "similarity")]
            if (folder / METRICS).is_file():
                trained = TrainedModel.load(folder)
                value = f"{trained.metrics.set_index('metric')['value']['NDCG@10']:.4f}"
                by = trained.measured_by or "this code"
        except (ValueError, OSError) as error:
            typer.echo(f"note: {folder.name} is left out: {error}", err=True)
            continue
        rows.append((folder.name, metadata.get("dataset", ""), *parts, value, by))
    columns = ["model", "dataset", "encoder", "similarity", "NDCG@10", "measured by"]
    return pd.DataFrame(rows, columns=columns)


@app.command("train")
def train_model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="PRESET",
            autocompletion=options.presets,
            help="Complete settings by name; `workbench model list` shows them.",
        ),
    ] = "",
    show: Annotated[bool, typer.Option("--list", help="List the presets and exit.")] = False,
    dataset: Annotated[
        str | None,
        typer.Option(autocompletion=options.datasets, help="Another dataset than the preset's."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the users.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Users per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="AdamW's learning rate.")] = None,
    positions: Annotated[int | None, typer.Option(help="Train on at most N positions per step.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after N evaluations without improvement.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16"] | None,
        typer.Option(
            help="bf16: autocast on a GPU, products of rounded factors on a CPU that has AVX-512 BF16 or AMX."
        ),
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET",
            autocompletion=options.presets,
            help="Start from the trained model of this preset: of the same encoder and similarity, but for SparCode's codes.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(callback=seed_from_zero, help="Seed of weights, order, negatives and dropout.")
    ] = 0,
    device: Device = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; by default ckpts/DATASET-PRESET.")] = None,
    replace_other: Replace = False,
    tracker: Annotated[
        list[str] | None,
        typer.Option(
            help="mlflow or wandb: send each epoch's numbers there too, besides TensorBoard's files; repeat for both. They"
            " go to MLFLOW_TRACKING_URI (sqlite:///mlflow.db, or a server), or WANDB_MODE (online, offline). Needs pip"
            " install 'retrieval-workbench\\[trackers]'."
        ),
    ] = None,
) -> None:
    """Train an encoder with a similarity, evaluate it, and write a checkpoint with its model card.

    States are stored in ckpts/runs; running the same command again resumes a stopped run. A checkpoint of other settings,
    data or seed in the output folder is replaced only with --replace; a folder of anything else is never replaced. Several
    processes on CPUs: `torchrun --nproc_per_node 2 -m workbench.cli train PRESET`; several GPUs: `accelerate launch` instead
    of torchrun.

    Examples:

      workbench train --list

      workbench train cpu/hstu-mol

      workbench train ml-1m/sasrec-dot --epochs 20 --patience 3

      workbench train cpu/hstu-mol --tracker mlflow

      workbench train sparcode-cpu/sa-sparcode --warm-start sparcode-cpu/sa-all-to-all --out ckpts/mine

      workbench train cpu/sasrec-mol --dataset ml-latest-small --out ckpts/mine
    """
    if show or not name:
        list_models(dataset=dataset)
        return
    from workbench.training.loop import train

    chosen = preset(name)
    given = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "precision": precision,
        "positions_per_step": positions, "patience": patience, "warm_start": warm_start,
    }  # fmt: skip
    training = replace(chosen.training, seed=seed, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
    sequences = load(dataset or chosen.dataset)
    folder = out or paths.checkpoints() / name_of(chosen, sequences)
    replaced = check_place(folder, sequences, chosen.retriever, training, replace=replace_other)
    run = run_folder(folder)
    metadata: dict[str, Any] = {"preset": name, "source": chosen.source, **origin()}
    start = starting_model(chosen.retriever, training, sequences, metadata=origin(), device=device)
    result = train(
        sequences,
        chosen.retriever,
        training,
        run,
        device=device,
        metadata=metadata,
        replace_run=replace_other,
        trackers=tracker or (),
        start=start,
    )
    if not _first_of_its_group():
        return
    typer.echo(
        f"best epoch {result.best_epoch}, {training.metric} {result.best_metric:.4f} on {training.choose_on}"
    )
    trained = store_run(run, folder, sequences, progress=True, replace=replace_other)
    if replaced:
        typer.echo(f"replaced {replaced}")
    _print(trained.metrics, str(STRICT.chosen_on(training.choose_on)))
    typer.echo(str(folder))


def _first_of_its_group() -> bool:
    """Whether this process trained alone or is the first of its process group, which is destroyed here.

    A process group that is still alive may abort its process at exit: its threads outlive the interpreter that they call.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return True
    first = dist.get_rank() == 0
    dist.destroy_process_group()
    return first


@app.command("evaluate")
def evaluate_model(
    model: Model,
    dataset: Dataset = None,
    protocol: Annotated[
        Literal["strict", "rails"], typer.Option(help="Rules for targets and candidates.")
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
        bool, typer.Option("--other-data", help="Allow a dataset that it was not trained on.")
    ] = False,
    store: Annotated[
        bool, typer.Option("--store", help="Store metrics, ranks and card with the checkpoint.")
    ] = False,
) -> None:
    """Evaluate a trained retriever: HR@k, NDCG@k and MRR over the whole corpus, with the protocol's card.

    Examples:

      workbench evaluate ml-1m-cpu-hstu-mol

      workbench evaluate ckpts/mine --protocol rails --ranks ranks.parquet
    """
    folder = folder_of(model)
    metadata = read_metadata(folder)
    name = dataset or metadata.get("dataset")
    if name is None:
        raise ValueError(f"{folder} does not say which dataset it was trained on; give --dataset")
    sequences = load(name)
    if not (other_data or training_data.have_same_order(metadata, sequences)):
        raise ValueError(
            f"{folder} was trained on {metadata['dataset']} with fingerprint {metadata['fingerprint']}, and {name} here has"
            f" {sequences.fingerprint()}: its numbers would not be comparable. Pass --other-data to measure it all the same"
        )
    if ranks_to is not None and ranks_to == metrics_to:
        raise ValueError(f"--ranks and --metrics both name {ranks_to}; give two files")
    rules = replace(STRICT if protocol == "strict" else RAILS, part=part).on(sequences)
    if store and (rules != STRICT.on(sequences) or metadata.get("fingerprint") != sequences.fingerprint()):
        raise ValueError(
            "--store keeps the strict protocol's test metrics on the data of the training, and no others"
        )
    if not (other_data or training_data.are_same(metadata, sequences)):
        typer.echo(f"note: {folder} was trained on a copy of {name} whose times or ratings differ", err=True)
    with new_table(ranks_to, COLUMNS), new_table(metrics_to, METRIC_COLUMNS):
        if store:
            measured = measure_again(folder, sequences, progress=True)
            ranks, table = measured.ranks(sequences), measured.metrics
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
    if (training := metadata.get("training")) is not None:
        rules = rules.chosen_on(training.get("choose_on", "validation"))
    _print(table, str(rules))


@app.command("compare")
def compare_models(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...", autocompletion=options.models, help="Folders, or names in ckpts/."
        ),
    ],
    csv: Annotated[Path | None, typer.Option(help="Write the table to this CSV file too.")] = None,
    format: Annotated[
        Literal["markdown", "latex"], typer.Option(help="How to print the table.")
    ] = "markdown",
) -> None:
    """Print the measured metrics of finished checkpoints as a table, followed by results published for the dataset.

    The metrics are those stored with each checkpoint: on the test part, with the strict protocol. A note names those
    other code measured than the one that runs now; the CSV file has the code of each.

    Example: workbench model compare ml-1m-cpu-sasrec-dot ml-1m-cpu-sasrec-mol ml-1m-cpu-hstu-dot ml-1m-cpu-hstu-mol
    """
    with new_table(csv, ("model", "whose")):
        trained = [TrainedModel.load(folder_of(folder)) for folder in models]
        table = with_published(trained)
        if csv is not None:
            code = {model.folder.name: model.measured_by or source.words(*ROOMS) for model in trained}
            write_csv(table.assign(**{MEASURED_BY: table["model"].map(code)}), csv)
    typer.echo(latex(table) if format == "latex" else markdown(table))
    for model in trained:
        if model.measured_by:
            typer.echo(
                f"note: {model.folder.name} was measured by {model.measured_by}; measure it again with:"
                f" workbench evaluate {model.folder} --store",
                err=True,
            )


@app.command("recommend")
def recommend(
    model: Model,
    user: Annotated[
        str | None,
        typer.Option(help="Id of a user in the data; recommends what comes after the user's history."),
    ] = None,
    history: Annotated[str | None, typer.Option(help="Item ids separated by commas, oldest first.")] = None,
    everyone: Annotated[bool, typer.Option("--all", help="All users of the data; needs --out.")] = False,
    partitions: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --all: search the corpus in N parts and merge what is found; default 1, on Ray one per core.",
        ),
    ] = None,
    on: Annotated[
        On, typer.Option(help="With --all: search in this process, or by the workers of a Ray cluster.")
    ] = "here",
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Items in each list.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write a file instead of a table: CSV, or with --all Parquet unless it ends in .csv."
        ),
    ] = None,
    repeats: Annotated[
        bool, typer.Option("--repeats", help="Allow items of the history in the results.")
    ] = False,
    dataset: Dataset = None,
    device: Device = None,
) -> None:
    """Recommend items that come next, after the whole history. All ids are those of your data.

    Examples:

      workbench recommend ml-1m-cpu-hstu-mol --user 42 -k 5

      workbench recommend ml-1m-cpu-hstu-mol --history 1,260,1196

      workbench recommend ml-1m-cpu-hstu-mol --all --out recommendations.parquet

      workbench recommend ml-1m-cpu-hstu-mol --all --partitions 4 --on ray --out recommendations.parquet
    """
    if sum((user is not None, history is not None, everyone)) != 1:
        raise ValueError("give one of --user, --history and --all")
    if everyone and out is None:
        raise ValueError("--all needs a file: give --out recommendations.parquet")
    if not everyone and (partitions is not None or on != "here"):
        raise ValueError("--partitions and --on go with --all")
    if on == "ray":
        runtime.require("ray")  # raises if it is not installed
    with new_table(out, ("rank", "item_id")):
        place = str(runtime.device(device or ("cpu" if on == "ray" else None)))
        chosen = open_model(model, dataset, device=place)
        if everyone:
            assert out is not None
            found = chosen.recommend_all(
                k=k, path=out, exclude_history=not repeats, partitions=partitions, on=on
            )
            typer.echo(str(found))
            return
        ids = None if history is None else [item.strip() for item in history.split(",")]
        with warnings_as_notes():
            table = chosen.recommend(ids, user, k, exclude_history=not repeats)
        if out is not None:
            write_csv(table, out)
            typer.echo(str(out))
            return
    print_table(table.assign(exact=np.where(table["exact"], "yes", "no")))


@app.command("import")
def import_published(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of the published RAILS code (.pt).")],
    out: Annotated[Path, typer.Option(help="Output folder.")],
    settings: Annotated[
        Path | None,
        typer.Option(help="JSON with the published parameter names; by default next to the checkpoint."),
    ] = None,
    dataset: Dataset = None,
    replace_other: Replace = False,
) -> None:
    """Convert a published RAILS checkpoint to safetensors, without executing anything in it.

    The published code numbers items and users as the source does; with --dataset, the dataset it was trained on, the model
    takes the dense ids of that dataset, and can be evaluated on it.

    Examples:

      workbench model import hstu-mol.pt --settings hstu-mol.json --out ckpts/published-hstu-mol

      workbench model import hstu-mol.pt --dataset ml-1m --out ckpts/published-hstu-mol
    """
    sequences = None if dataset is None else load(dataset)
    retriever = import_rails(checkpoint, settings, sequences)
    replaced = store_weights(retriever, checkpoint, out, sequences, replace=replace_other)
    if replaced:
        typer.echo(f"replaced {replaced}")
    _list_settings(retriever.config.to_dict())
    typer.echo(str(out))


@app.command("export")
def export_model(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder of the result: new, or of an export.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Also as ONNX; needs pip install 'retrieval-workbench\\[onnx]'.")
    ] = False,
    vespa: Annotated[
        bool,
        typer.Option(
            "--vespa",
            help="Instead: an application package of Vespa for a Mixture-of-Logits: schema, gate as ONNX, feed.",
        ),
    ] = False,
) -> None:
    """Write a model's query side and scorer as torch programs, and as ONNX, checked against the model.

    Examples:

      workbench model export ml-1m-cpu-hstu-mol --onnx --out /tmp/hstu-mol

      workbench model export ml-1m-cpu-hstu-mol --vespa --out /tmp/vespa-app
    """
    if vespa:
        from workbench.front_door import load as open_model
        from workbench.models.vespa import write as write_vespa

        served = open_model(model)
        ids = served.catalogue.items["item_id"].tolist()
        typer.echo(str(write_vespa(served.retriever, ids, out, described={"model": served.name})))
        return
    from workbench.models.export import write

    source = folder_of(model)
    typer.echo(str(write(Retriever.load(source), out, onnx=onnx, described={"model": source.name})))


@app.command("halve")
def halve_model(
    model: Model,
    dtype: Annotated[
        Literal["float16", "bfloat16"], typer.Option(help="Type of the stored fractions.")
    ] = "float16",
) -> None:
    """Store a model in half precision, if that leaves HR@k, NDCG@10 and MRR the same to four digits; else refuse.

    Its card keeps the commit and machine of the training. What is computed with it stays float32.

    Example: workbench model halve ml-1m-cpu-hstu-mol
    """
    folder = folder_of(model)
    sequences = load(str(read_metadata(folder).get("dataset")))
    before = (folder / WEIGHTS).stat().st_size
    halve(folder, sequences, dtype, progress=True)
    after = (folder / WEIGHTS).stat().st_size
    typer.echo(f"{folder / WEIGHTS}: {after:,} bytes in {dtype}, {before:,} before")


def _list_settings(values: dict[str, Any]) -> None:
    typer.echo(json.dumps(values, indent=2))


def _print(metrics: pd.DataFrame, protocol: str) -> None:
    typer.echo(protocol)
    print_table(metrics[["metric", "value", "low", "high"]])
    excluded = metrics.set_index("metric")["value"].get(EXCLUDED_TARGETS, 0.0)
    if excluded > 0:
        typer.echo(
            f"note: {excluded:.1%} of the targets repeat an item of the user's history, which the protocol leaves out of the"
            f" lists: no HR@k can exceed {1 - excluded:.3f}. `recommend` takes --repeats for such items"
        )
