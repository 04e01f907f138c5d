"""`workbench bench train` and `workbench bench search`: speed and memory against a plain implementation, in the same run."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from workbench import paths
from workbench.cli.options import Device, models, search_presets, seed_from_zero
from workbench.cli.printing import new_table, origin, print_table, write_csv

app = typer.Typer(
    add_completion=False,
    help="Speed and memory against a plain implementation, in the same run.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command("train")
def bench_train(
    presets: Annotated[
        list[str] | None, typer.Option("--preset", help="Settings to measure; repeat for more.")
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Measured steps of each implementation, after one warm-up step.")
    ] = 5,
    threads: Annotated[int | None, typer.Option(help="Threads; by default all cores.")] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="A checkout of the published RAILS code, which is then run and timed as well."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="CSV of every step; by default reports/tables/bench-train.csv.")
    ] = None,
) -> None:
    """Seconds per step and peak memory of training, compared with a reference implementation, in turns.

    The reference implementation is the published code's arithmetic: the negatives of each valid position gathered, the
    item side recomputed for each of them, attention over the whole padded length. "workbench, bf16" is a step of `workbench
    train --precision bf16`. --reference runs and times a checkout of the published code as well.

    Examples:

      workbench bench train --preset ml-1m/sasrec-dot --preset ml-1m/hstu-mol --steps 5

      workbench bench train --preset ml-1m/hstu-dot --reference ../rails
    """
    from workbench.bench.training import compare, summary
    from workbench.training.presets import preset

    chosen = presets or ["ml-1m/sasrec-dot", "ml-1m/hstu-dot", "ml-1m/hstu-mol"]
    for name in chosen:
        preset(name)
    path = out or paths.reports() / "tables" / "bench-train.csv"
    with new_table(path):
        raw = compare(chosen, steps, threads, reference)
        write_csv(raw.assign(**origin()), path)
    print_table(summary(raw))
    typer.echo(str(path))


@app.command("certificates")
def bench_certificates(
    searches: Annotated[int, typer.Option(min=1, help="Searches to try.")] = 100_000,
    seed: Annotated[int, typer.Option(callback=seed_from_zero, help="Of the first problem.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="CSV of the table; by default reports/tables/certificates.csv.")
    ] = None,
) -> None:
    """Try to make a search certify a wrong list: every searcher and similarity, at any magnitude, changed and interrupted.

    The table has a row for each searcher and similarity, the printed one a row for each searcher: how many searches were
    certified, not certified, or refused since a score is not finite. There must be no defects: searches that failed though the
    answer is defined, wrong lists without a certificate, false certificates.

    Example: workbench bench certificates --searches 500 --out certificates.csv
    """
    from tqdm.auto import tqdm

    from workbench.bench.certificates import DEFECTS, campaign, tally, totals

    path = out or paths.reports() / "tables" / "certificates.csv"
    with new_table(path):
        where = origin()
        attempts = list(tqdm(campaign(searches, seed), total=searches, unit="searches", disable=None))
        table = tally(attempts)
        write_csv(table.assign(**where), path)
    print_table(totals(table))
    typer.echo(
        f"tried {len(attempts):,}: " + ", ".join(f"{outcome} {table[outcome].sum():,}" for outcome in DEFECTS)
    )
    defects = [one for one in attempts if one.outcome in DEFECTS]
    for one in defects[:10]:
        typer.echo(f"{one.outcome}: {one.searcher}, {one.similarity}, --seed {one.seed}")
    typer.echo(str(path))
    if defects:
        raise typer.Exit(1)


@app.command("pages")
def bench_pages(
    report: Annotated[
        str, typer.Option(help="The folder of a report in reports/, as `workbench report` names it.")
    ] = "quick-embedded-small",
    moves: Annotated[int, typer.Option(min=1, help="Moves of each control.")] = 20,
) -> None:
    """Milliseconds from a control to the new figure on the pages of a report: p50 and p95 of each control, in Chromium.

    Needs playwright and Chromium.

    Example: workbench bench pages --moves 10
    """
    from workbench.bench.pages import measure, summary

    folder = paths.reports() / report
    if not folder.is_dir():
        raise ValueError(
            f"there is no report {report!r} in {paths.reports()}; make one with: workbench report"
        )
    print_table(summary(pd.concat(measure(folder, moves), ignore_index=True)))


@app.command("gpu")
def bench_gpu(
    minutes: Annotated[float, typer.Option(min=0.1, help="What has not begun after this is left out.")] = 10,
    out: Annotated[
        Path | None, typer.Option(help="CSV of the table; by default reports/tables/bench-gpu.csv.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="A checkout of the published RAILS code, whose search is then run and timed as well."
        ),
    ] = None,
) -> None:
    """Everything that is worth measuring on a GPU, in one run of under 12 minutes; the table is written after each step.

    The kernels of scores and of the training loss against float64; brute force and the fused top k against the roofline, in two
    precisions and by the size of a tile; training steps at published settings, of mixtures with the loss fused and in torch;
    the h-indexer up to a hundred million items; FAISS. A step that fails is a row. "published arithmetic" is our version of it;
    --reference runs and times a checkout of the published code, too.

    What has to travel to a machine with a GPU is `git archive --format=tar.gz --output=workbench.tar.gz HEAD`, less than 40 MB.

    Examples:

      workbench bench gpu --minutes 5

      workbench bench gpu --reference ../rails
    """
    import torch

    from workbench import runtime
    from workbench.bench.gpu import GPUPlan, run
    from workbench.bench.published_search import check_checkout

    if reference is not None:
        check_checkout(reference)
    path = out or paths.reports() / "tables" / "bench-gpu.csv"
    with new_table(path):
        where = origin()
        device = runtime.device()
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        table = run(
            GPUPlan(reference=None if reference is None else reference.resolve()),
            device,
            minutes,
            lambda found: write_csv(found.assign(gpu=name, **where), path, digits=6),
        )
    print_table(table.fillna({"note": "", "items": "", "queries": "", "ms": ""}))
    typer.echo(str(path))


def _bench_published(
    reference: Path,
    sizes: list[str] | None,
    batch_sizes: list[int] | None,
    k: int,
    rounds: int,
    seed: int,
    threads: int | None,
    out: Path | None,
) -> None:
    """Time a checkout of the published code's brute force next to ours."""
    import pandas as pd
    import torch
    from tqdm.auto import tqdm

    from workbench.bench.published_search import check_checkout, compare, summary
    from workbench.bench.workloads import SIZES

    chosen = tuple(sizes or SIZES)
    if wrong := [name for name in chosen if name not in SIZES]:
        raise ValueError(f"no published size {wrong[0]!r}; there are {', '.join(SIZES)}")
    check_checkout(reference)
    if threads is not None:
        torch.set_num_threads(threads)
    path = out or paths.reports() / "tables" / "search-published.csv"
    with new_table(path):
        found = compare(reference.resolve(), chosen, tuple(batch_sizes or (1, 8, 32)), rounds, k, seed)
        table = summary(pd.DataFrame(tqdm(found, unit="calls", disable=None)))
        write_csv(table.assign(**origin()), path, digits=4)
    print_table(table)
    typer.echo(str(path))


@app.command("search")
def bench_search(
    preset: Annotated[
        str | None,
        typer.Option(
            autocompletion=search_presets,
            help="trained (seconds; the checkpoint's corpus as it is), quick (seconds; it has 20,000 items), standard (minutes;"
            " the default), sizes (the published ones), growth, crossing, text (all documents of a text head),"
            " books (as many items as Amazon Books has).",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            autocompletion=models,
            help="A trained component similarity, for all presets but sizes; by default ml-1m-cpu-hstu-mol, for text the"
            " mixture of the reverse dictionary, for books ml-1m-fair-hstu-mol.",
        ),
    ] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="Instead: random weights at a published size; repeat for more.")
    ] = None,
    inflate: Annotated[
        list[int] | None,
        typer.Option(
            "--inflate",
            "--items",
            help="Instead: the checkpoint's corpus, resized to N items; repeat for more.",
        ),
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only these methods; repeat for more.")] = None,
    searcher: Annotated[
        list[str] | None,
        typer.Option(
            help="Instead of a preset's grid: a searcher with its parameters, as 'h-indexer width=32,keep=4000'; repeat for"
            " more. Measured in a few rounds on the checkpoint's corpus, or on that resized to --items."
        ),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="A checkpoint of the same data for the searchers SparCode and Deep Retrieval, which have a score of their own."
        ),
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option("--batch-size", "--batch", help="Queries per call; repeat for more.")
    ] = None,
    k: Annotated[
        list[int] | None, typer.Option("-k", "--k", help="Results per query; repeat for more.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of each entry.")] = None,
    queries: Annotated[int | None, typer.Option(help="Maximum number of queries of a workload.")] = None,
    seed: Annotated[
        int | None, typer.Option(callback=seed_from_zero, help="Seed of queries, noise and random weights.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; by default torch's choice.")] = None,
    device: Device = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Instead: a checkout of the published RAILS code, whose brute force is run and timed next to ours at published"
            " sizes; goes with --size, --batch-size, -k, --rounds, --seed and --threads."
        ),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of raw runs; by default reports/bench.")] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Discard earlier measurements and measure again.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="CSV of the table; by default reports/tables/search-PRESET.csv, custom if changed, chosen with --searcher."
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Draw latency against recall: .html, .pdf, .svg or .png; the name of each further workload, batch size and k"
            " is added."
        ),
    ] = None,
) -> None:
    """Latency, recall, certificates and memory of every searcher, compared with a reference implementation of top-k.

    All entries take turns, with the same queries. Every time, id and score is stored in Parquet; running the same command
    again resumes a stopped run. If the reference implementation does not fit into memory, it runs on a part of the items and
    its time is scaled; the table shows that.

    Examples:

      workbench bench search

      workbench bench search --preset trained --checkpoint my-shop-quick-hstu-mol --figure recall-latency.html

      workbench bench search --size amazon-books --batch-size 32 --rounds 2

      workbench bench search --inflate 1000000 --method "brute force" -k 10

      workbench bench search --reference ../rails --size ml-1m --batch-size 1 --batch-size 32

      workbench bench search --items 20000 --searcher "average n2=1000" --searcher "h-indexer width=32,keep=4000"
    """
    if reference is not None:
        others = (preset, inflate, method, searcher, scorer, queries, device, runs)
        if any(others) or fresh or (k and len(k) > 1):
            raise ValueError(
                "--reference goes with --size, --batch-size, one -k, --rounds, --seed, --threads and --out alone"
            )
        _bench_published(
            reference, size, batch_size, k[0] if k else 100, rounds or 7, seed or 0, threads, out
        )
        return
    from workbench.bench import plans
    from workbench.bench.growth import exponents
    from workbench.bench.methods import SearcherSpec
    from workbench.bench.run import run
    from workbench.bench.tables import shown, summary
    from workbench.bench.workloads import Inflated, RandomWeights, Trained, WorkloadSpec
    from workbench.explore.saving import check_figure

    workloads: list[WorkloadSpec] = [RandomWeights(s) for s in size or []]
    workloads += [Inflated(checkpoint or plans.CHECKPOINT, items) for items in inflate or []]
    given: dict[str, Any] = {
        "workloads": tuple(workloads), "methods": tuple(method or ()), "batch_sizes": tuple(batch_size or ()),
        "ks": tuple(k or ()), "rounds": rounds, "queries": queries, "seed": seed,
    }  # fmt: skip
    changes = {name: value for name, value in given.items() if value not in ((), None)}
    if searcher:
        if preset is not None:
            raise ValueError("give --preset or --searcher, not both: a preset has its own grid of searchers")
        plan = plans.chosen_points(
            workloads[0] if workloads else Trained(checkpoint or plans.CHECKPOINT), tuple(map(SearcherSpec.read, searcher)),
            own=tuple(scorer or ()), threads=threads, k=k[0] if k else 100,
        )  # fmt: skip
        plan = replace(plan, **changes)
    elif scorer:
        raise ValueError("--scorer is for searchers that are named with --searcher")
    else:
        plan = plans.named(preset or "standard", checkpoint, threads)
        if changes:
            plan = replace(plan, name="custom", **changes)
    path = out or paths.reports() / "tables" / f"search-{plan.name}.csv"
    if figure is not None:
        check_figure(figure)
    with new_table(path):
        raw = run(plan, runs, device=device, fresh=fresh)
        table = summary(raw)
        write_csv(
            table.assign(machine=raw.metadata["machine"], commit=", ".join(raw.metadata["commits"])),
            path,
            digits=6,
        )
    for (workload, queries_at_once, results), rows in shown(table).groupby(
        ["workload", "B", "k"], sort=False
    ):
        typer.echo(f"\n{workload}, {queries_at_once} queries per call, k = {results}")
        typer.echo(rows.drop(columns=["workload", "B", "k"]).to_string(index=False))
    limits = raw.ceilings
    typer.echo(
        f"\n{raw.metadata['machine']}, {raw.metadata['threads']} threads, {raw.metadata['device']};"
        f" measured ceilings of the roofline:"
        f" {limits.operations / 1e9:,.0f} GFLOP/s (fp32 matrix product), {limits.bytes / 1e9:,.1f} GB/s (copy)"
    )
    if table["items"].nunique() > 2:
        print_table(exponents(table))
    typer.echo(str(path))
    if figure is not None:
        _draw(table, figure)


def _draw(table: pd.DataFrame, path: Path) -> None:
    """Write latency against recall, a figure for each workload, batch size and k."""
    from workbench.explore.saving import save_figure, unused
    from workbench.explore.search_figures import frontier

    groups = table.groupby(["workload", "batch_size", "k"], sort=False)
    for (workload, batch_size, k), rows in groups:
        title = f"{workload}, {batch_size} queries per call, k = {k}"
        own_name = f"{path.stem} {workload} B {batch_size} k {k}"
        target = unused(path.parent, own_name, path.suffix) if len(groups) > 1 else path
        drawn = frontier(rows.reset_index(drop=True), title=title)
        drawn.update_traces(cliponaxis=False)  # half a mark at recall 1 lies outside the axes
        drawn.update_layout(legend_title={"text": "size of a mark: memory", "font": {"size": 12}})
        typer.echo(str(save_figure(drawn, target)))
