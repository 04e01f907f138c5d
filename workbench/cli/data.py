"""`workbench data`: list, fetch and prepare datasets."""

import difflib
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from workbench import paths
from workbench.cli.options import datasets, seed_from_zero
from workbench.cli.printing import print_whole
from workbench.data import CATALOG, EMBEDDED, load, prepared_names, storage
from workbench.data.build import build, build_own, comparison, fetch, locate
from workbench.data.catalog import Dataset
from workbench.data.columns import ColumnNames
from workbench.data.prepare import Preparation, Stage
from workbench.data.sequences import Sequences, Split, Ties
from workbench.data.text import build as text
from workbench.data.text.collection import TextCollection
from workbench.data.times import TimeUnit
from workbench.visible import visible

app = typer.Typer(
    add_completion=False,
    help="Datasets: list, download and prepare them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

From = Annotated[
    Path | None,
    typer.Option("--from", metavar="PATH", help="A local archive or unpacked folder, instead of a download."),
]


@app.command("list")
def list_datasets() -> None:
    """List the datasets, their published counts, licences, and which are prepared.

    Example: workbench data list
    """
    prepared = prepared_names()
    table = Table(box=None)
    table.add_column("name", no_wrap=True)
    for heading in ("users", "items", "interactions"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("prepared", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    for name in EMBEDDED:
        seeds = [folder.rpartition("-seed")[2] for folder in prepared if folder.startswith(f"{name}-seed")]
        ready = f"seed {', '.join(seeds)}" if seeds else ""
        table.add_row(name, "", "", "", ready, "none needed")
    for dataset in CATALOG.values():
        ready = _prepared(dataset.name)[1] if dataset.name in prepared else ""
        table.add_row(dataset.name, *_counts(dataset), ready, dataset.licence)
    embedded = tuple(f"{name}-seed" for name in EMBEDDED)
    for name in prepared:
        if name not in CATALOG and not name.startswith(embedded):
            counts, ready = _prepared(name)
            table.add_row(name, *counts, ready, "your own")
    print_whole(table)
    names = dict.fromkeys([text.EMBEDDED, *text.DICTIONARIES, *text.prepared_names()])
    texts = Table("text collection", "prepared", "made from", box=None)
    for name in names:
        made_from = {
            text.EMBEDDED: "generated",
            text.REVERSE: "WordNet 3.0, GCIDE",
            text.EXAMPLES: "WordNet 3.0",
        }
        ready = "yes" if name in text.prepared_names() else ""
        texts.add_row(name, ready, made_from.get(name, "your own"))
    print_whole(texts)


@app.command("fetch")
def fetch_dataset(
    name: Annotated[str, typer.Argument(autocompletion=datasets, help="A dataset of `workbench data list`.")],
    source: From = None,
    yes: Annotated[bool, typer.Option("--yes", help="Accept the licence without a prompt.")] = False,
) -> None:
    """Download, verify and unpack a dataset's files into data/raw/NAME.

    The licence is shown first. An interrupted download resumes.

    Examples:

      workbench data fetch ml-1m

      workbench data fetch ml-20m --yes

      workbench data fetch ml-1m --from ~/Downloads/ml-1m.zip
    """
    dataset = _known(name)
    console = _console()
    if source is None:
        console.print(f"[bold]{dataset.title}[/bold]  {dataset.homepage}\n")
        console.print(f"{dataset.terms}\n\nPlease cite: {dataset.citation}\n", markup=False)
        if not yes:
            typer.confirm("Do you accept these terms?", abort=True)
    fetched = fetch(dataset, source)
    _remark(fetched.remarks)
    console.print(f"{fetched.folder} is ready; next: workbench data prepare {name}", soft_wrap=True)


@app.command("prepare")
def prepare_dataset(
    name: Annotated[
        str,
        typer.Argument(
            autocompletion=datasets, help="A dataset of `workbench data list`, or a name for your own."
        ),
    ],
    source: From = None,
    items: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Your own item table (item_id, title, …).")
    ] = None,
    k_core: Annotated[
        int | None, typer.Option(min=0, help="Keep users and items with at least N interactions.")
    ] = None,
    passes: Annotated[
        int | None, typer.Option(min=0, help="How often --k-core is applied; 0: until nothing changes.")
    ] = None,
    min_length: Annotated[
        int | None, typer.Option(min=0, help="Then keep users with at least N interactions left.")
    ] = None,
    corpus: Annotated[
        Literal["catalogue", "rated"] | None,
        typer.Option(help="Items to recommend: the whole item table, or those with an interaction."),
    ] = None,
    ties: Annotated[
        Ties | None,
        typer.Option(
            help="Order of one user's interactions at the same time: the source's, that of pandas' sort, or a random one."
        ),
    ] = None,
    split: Annotated[
        Split | None,
        typer.Option(
            help="What is held out: each user's last two, or by time, so that nobody's future is trained on."
        ),
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Share of all interactions in each period of a temporal split [default: 0.1]."
        ),
    ] = None,
    user_col: Annotated[
        str | None, typer.Option(metavar="NAME", help="Your own data: the column of users.")
    ] = None,
    item_col: Annotated[
        str | None, typer.Option(metavar="NAME", help="Your own data: the column of items.")
    ] = None,
    rating_col: Annotated[
        str | None, typer.Option(metavar="NAME", help="Your own data: the column of ratings.")
    ] = None,
    time_col: Annotated[
        str | None, typer.Option(metavar="NAME", help="Your own data: the column of times.")
    ] = None,
    title_col: Annotated[
        str | None, typer.Option(metavar="NAME", help="Your own data: the column of items' titles.")
    ] = None,
    time_unit: Annotated[
        TimeUnit | None, typer.Option(help="Your own data: the unit of times that are numbers.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="Your own data: its encoding, if it is not UTF-8.")
    ] = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Drop rows that repeat user, item and second.")
    ] = False,
    seed: Annotated[int, typer.Option(callback=seed_from_zero, help="Seed of a generated dataset.")] = 0,
    replace_other: Annotated[
        bool, typer.Option("--replace", help="Replace a dataset of another preparation or other files.")
    ] = False,
) -> None:
    """Turn a dataset's files into sequences under data/NAME, and print its counts next to the published ones.

    Options that are not given follow the published runs. Your own data is a text with separated columns (CSV, TSV, …), also
    packed, a Parquet file, or a folder of them. Columns are recognised by their usual names, times by their size, and what was
    recognised is printed. A packed file may unpack to 200 times its size or 256 MiB, whichever is more, and to 16 GiB at most;
    the environment variable WORKBENCH_UNPACKED_LIMIT (bytes) replaces these limits.

    Examples:

      workbench data prepare ml-1m

      workbench data prepare ml-1m --from ../ml-1m --k-core 5 --corpus rated

      workbench data prepare ml-1m --ties pandas --replace

      workbench data prepare my-shop --from orders.csv --split temporal

      workbench data prepare my-shop --from orders.csv --items products.csv

      workbench data prepare my-shop --from orders.csv.gz --user-col buyer --item-col code --time-unit ms

      workbench data prepare reverse-dictionary --from /usr/share

      workbench data prepare scifact --from ~/Downloads/scifact
    """
    if share is not None and split != "temporal":
        raise ValueError("--share is that of the periods of a temporal split: add --split temporal")
    given = {
        **{"k_core": k_core, "passes": passes, "min_length": min_length, "corpus": corpus, "ties": ties},
        **{"split": split, "share": share},
    }
    options: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    if passes is not None:
        options["passes"] = passes or None
    if drop_duplicates:
        options["duplicates"] = "drop"
    columns = ColumnNames(user_col, item_col, rating_col, time_col, time_unit, title_col)
    own = items is not None or encoding is not None or columns != ColumnNames()
    start = time.perf_counter()
    if text.is_text(name, source):
        if own or options:
            raise ValueError(f"{name} is a text collection: it takes --from and no option for interactions")
        _print_collection(text.prepare(name, source, seed))
        return
    if name in EMBEDDED:
        if source is not None or own or options:
            raise ValueError(f"{name} is generated: it takes --seed and no other option")
        sequences = load(name, seed=seed)
        stages: tuple[Stage, ...] = ()
    elif name not in CATALOG and source is not None:
        preparation = replace(Preparation(), **options)  # type: ignore[arg-type]
        prepared = build_own(
            name, source, items, preparation, columns, encoding=encoding or "utf-8", replace=replace_other
        )
        _remark(prepared.remarks)
        sequences, stages = prepared.sequences, prepared.stages
    else:
        dataset = _known(name)
        if own:
            raise ValueError(
                f"{name} has its own item table and columns;"
                " --items, --encoding, --time-unit and --*-col go with data of your own"
            )
        located = locate(dataset, source)
        _remark(located.remarks)
        preparation = replace(dataset.preparation, **options)  # type: ignore[arg-type]
        prepared = build(name, located.folder, preparation, replace=replace_other)
        _remark(prepared.remarks)
        sequences, stages = prepared.sequences, prepared.stages
    seconds = time.perf_counter() - start
    console = _console()
    if stages:
        print_whole(_stage_table(stages))
    if name in CATALOG and CATALOG[name].published:
        console.print(_comparison_table(CATALOG[name], stages))
    if sequences.cuts is not None:
        console.print(_periods(sequences), soft_wrap=True, highlight=False)
    counts = f"{sequences.num_users:,} users, {sequences.num_items:,} items, {len(sequences.item_ids):,} interactions"
    console.print(
        f"{name}: {counts}, in {seconds:.1f} s; train on it with --dataset {name}, load it with wb.load_data({name!r})",
        soft_wrap=True,
        highlight=False,
    )


def _periods(sequences: Sequences) -> str:
    assert sequences.cuts is not None
    days = [
        f"{pd.Timestamp(time, unit='s'):%Y-%m-%d}"
        for time in (sequences.cuts.validation, sequences.cuts.test)
    ]
    counts = [f"{len(sequences.users_with(part)):,}" for part in ("train", "validation", "test")]
    return (
        f"temporal split: {counts[0]} users to train on before {days[0]}, validation targets of {counts[1]} users before"
        f" {days[1]}, test targets of {counts[2]} users since"
    )


def _print_collection(collection: TextCollection) -> None:
    table = Table("step", box=None)
    for heading in ("queries", "words"):
        table.add_column(heading, justify="right", no_wrap=True)
    for step in collection.steps:
        table.add_row(step.name, f"{step.queries:,}", f"{step.groups:,}")
    print_whole(table)
    splits = collection.queries["split"].value_counts()
    sizes = ", ".join(f"{count:,} {split}" for split, count in splits.items())
    single = int((collection.queries["answers"] == 1).sum())
    typer.echo(
        f"{collection.name}: {len(collection.documents):,} documents, {len(collection.queries):,} queries ({sizes}),"
        f" {single:,} with one answer; load it with workbench.data.text.build.load_text({collection.name!r})"
    )
    if collection.name == text.REVERSE:
        first = text.FIRST_TRIAL
        pairs = collection.queries.groupby(["group", "part_of_speech"]).ngroups
        typer.echo(
            f"to compare: {first.name} kept {first.queries:,} queries of {first.groups:,} pairs of word and part of speech;"
            f" here {len(collection.queries):,} of {pairs:,}"
        )


def _console() -> Console:
    return Console()


def _known(name: str) -> Dataset:
    if name in CATALOG:
        return CATALOG[name]
    if name in EMBEDDED:
        raise ValueError(f"{name} is generated on first use; there is nothing to fetch")
    near = difflib.get_close_matches(name, CATALOG, n=1)
    hint = f"; did you mean {near[0]}?" if near else f" (known: {', '.join(CATALOG)})"
    raise ValueError(f"no dataset is called {name!r}{hint}; your own data needs --from FILE")


def _prepared(name: str) -> tuple[list[str], str]:
    """Users, items and interactions of a prepared dataset, and "yes"; a damaged one is shown as "damaged", and a note gives
    the reason."""
    try:
        meta = storage.read_meta(paths.data() / name)
        return [f"{int(meta[count]):,}" for count in ("users", "items", "interactions")], "yes"
    except (ValueError, TypeError, OSError) as error:
        _remark((f"{name}: {error}",))
        return ["", "", ""], "damaged"


def _counts(dataset: Dataset) -> list[str]:
    """Users, items and interactions before filters, from the first source that publishes each."""
    read = [published for published in dataset.published if published.stage == "as read"]
    users = [published.users for published in read]
    items = [published.catalogue or published.items for published in read]
    interactions = [published.interactions for published in read]
    published = (next(filter(None, counts), None) for counts in (users, items, interactions))
    return ["" if count is None else f"{count:,}" for count in published]


def _stage_table(stages: tuple[Stage, ...]) -> Table:
    table = Table("stage", box=None)
    for heading in ("users", "rated items", "catalogue", "interactions"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in stages:
        counts = (stage.users, stage.items, stage.catalogue, stage.interactions)
        table.add_row(stage.name, *(f"{count:,}" for count in counts))
    return table


def _comparison_table(dataset: Dataset, stages: tuple[Stage, ...]) -> Table:
    table = Table("stage", "count", box=None)
    for heading in ("here", "published", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("source")
    for row in comparison(dataset, stages).to_dict("records"):
        difference = row["here"] - row["published"]
        change = "none" if difference == 0 else f"{difference:+,}"
        numbers = (f"{row['here']:,}", f"{row['published']:,}", change)
        table.add_row(row["stage"], row["count"], *numbers, row["source"])
    return table


def _remark(remarks: tuple[str, ...]) -> None:
    for remark in remarks:
        typer.echo(f"note: {visible(remark)}", err=True)
