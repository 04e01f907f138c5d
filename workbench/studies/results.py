"""The page of results: every table of `reports/tables` as Markdown, with the command, machine and commit it comes from."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from workbench.bench.certificates import totals
from workbench.bench.growth import books_line, readme_books, readme_crossing, readme_growth
from workbench.bench.published_search import aims, speed_ups
from workbench.bench.tables import average_claim, readme, readme_sizes, shown
from workbench.bench.training import summary
from workbench.evaluation.switchboard import AS_STRICT, one_switch, switches_of, under
from workbench.models.measurements import MEASURED_BY
from workbench.studies.baseline_studies import BaselineStudy, next_to_plain
from workbench.studies.choice_studies import Choices
from workbench.studies.deep_retrieval_studies import Growth, Indexes, Similarities
from workbench.studies.engines import EnginesStudy
from workbench.studies.fair_studies import Fair, format_fair, last_next_to_others, over_seeds
from workbench.studies.graph_metrics import GraphMetrics
from workbench.studies.limit import Limit
from workbench.studies.protocol_studies import Protocols
from workbench.studies.seed_studies import Seeds
from workbench.studies.seeds import format_seeds
from workbench.studies.sparcode_studies import Ladder, Sparsity, Towers, Users
from workbench.studies.study import PresetsOnDataset, Study
from workbench.studies.table_formats import escaped, latex, markdown
from workbench.studies.text import TextRetrieval
from workbench.studies.text_ablations import TextAblations
from workbench.studies.tie_studies import Ties, format_orders, published_gaps

ORIGIN = ["machine", "commit"]
"""The columns with the origin of a table."""


@dataclass(frozen=True)
class Section:
    """One table of the page: heading, CSV in `reports/tables`, the command that writes it, how it is shown, a note in front of
    it, and the sentences that are computed from it, behind it."""

    title: str
    file: str
    command: str
    shown: Callable[[pd.DataFrame], pd.DataFrame]
    note: str = ""
    findings: Callable[[pd.DataFrame], str] | None = None


def as_measured(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: fractions with four significant digits, columns of one long text left out.

    >>> as_measured(pd.DataFrame({"method": ["dot"], "HR@10": [0.26887], "scored": [3883.0]})).values.tolist()
    [['dot', '0.2689', '3,883']]
    """
    kept = table.drop(columns=[c for c in table if c in ("protocol", MEASURED_BY, *ORIGIN)])
    return pd.DataFrame({str(c).replace("_", " "): [_number(v) for v in kept[c]] for c in kept})


def by_metric(table: pd.DataFrame) -> pd.DataFrame:
    """A table of one row per method and metric with a row per method: `mean ± deviation`, or the value alone.

    >>> by_metric(pd.DataFrame({"method": ["a"], "metric": ["MRR"], "value": [0.5]})).values.tolist()
    [['a', '0.5000']]
    """
    cells = (
        table["value"].map("{:.4f}".format)
        if "value" in table
        else table["mean"].map("{:.4f}".format) + table["std"].map(" ± {:.4f}".format)
    )
    wide = table.assign(cell=cells).pivot(index="method", columns="metric", values="cell")
    order = list(dict.fromkeys(table["method"])), list(dict.fromkeys(table["metric"]))
    return wide.loc[order[0], order[1]].rename_axis(columns=None).reset_index()


def of_text(table: pd.DataFrame) -> pd.DataFrame:
    """All test queries: a row per way of searching, a column per metric, and the paired difference of Hit@10."""
    rows = table[table["subset"] == "all"]
    wide = rows.pivot(index="way", columns="metric", values="value").map("{:.3f}".format)
    ten = rows[rows["metric"] == "Hit@10"].set_index("way")
    wide["Hit@10, 95 %"] = ten["low"].map("{:.3f}".format) + "–" + ten["high"].map("{:.3f}".format)
    interval = (
        ten["difference_low"].map("{:+.3f}".format) + " to " + ten["difference_high"].map("{:+.3f}".format)
    )
    wide["difference"] = (ten["difference"].map("{:+.3f}".format) + " (" + interval + ")").where(
        ten["against"].notna(), ""
    )
    wide["against"] = ten["against"].fillna("")
    facts = [column for column in ("seeds", "parameters", "floats") if column in ten]
    for column in facts:
        wide[column] = ten[column].map("{:,.0f}".format, na_action="ignore").fillna("")
    order = list(dict.fromkeys(rows["way"]))
    metrics = ["Hit@1", "Hit@10", "Hit@10, 95 %", "Hit@100", "MRR@100", "NDCG@10"]
    return (
        wide.loc[order, [*metrics, "difference", "against", *facts]].rename_axis(columns=None).reset_index()
    )


def of_text_subsets(table: pd.DataFrame) -> pd.DataFrame:
    """Hit@10 by way of searching and kind of query, with the number of queries of each kind."""
    rows = table[table["metric"] == "Hit@10"]
    counts = rows.drop_duplicates("subset").set_index("subset")["queries"]
    wide = rows.pivot(index="way", columns="subset", values="value").map("{:.3f}".format)
    wide = wide.loc[list(dict.fromkeys(rows["way"])), list(counts.index)]
    named = {subset: f"{subset} ({count:,})" for subset, count in counts.items()}
    return wide.rename(columns=named).rename_axis(columns=None).reset_index()


def of_search(workload: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The rows of one workload of `workbench bench search`, 32 queries per call, k = 100."""
    return lambda table: readme(table, workload)


def of_text_search(table: pd.DataFrame) -> pd.DataFrame:
    """The searchers of a text head, with their speed over brute force: 32 queries per call, k = 10."""
    rows = table[(table["batch_size"] == 32) & (table["k"] == 10)].reset_index(drop=True)
    columns = ["method", "p50 ms", "recall", "relative HR", "certified", "scored", "MB"]
    return shown(rows)[columns].assign(**{"× brute force": rows["vs_brute_force"].map("{:.2f}".format)})


def text_search_findings(table: pd.DataFrame) -> str:
    """What became of the published claim on text, for the best 10 and the best 100 of 32 queries per call."""
    rows = table[table["batch_size"] == 32]
    return " ".join(average_claim(rows[rows["k"] == k]) for k in (10, 100))


def of_protocols(table: pd.DataFrame) -> pd.DataFrame:
    """What each choice of protocol adds to NDCG@10 or takes from it."""
    found = one_switch(table, "NDCG@10")
    for method in found.columns[2:]:
        found[method] = [f"{v:.4f}" if row == 0 else f"{v:+.4f}" for row, v in enumerate(found[method])]
    return found


def of_choices(table: pd.DataFrame) -> pd.DataFrame:
    """The same of choices that needed training again, with the users that are evaluated."""
    found = of_protocols(table)
    counts = {
        name: under(table, {"training": name})["users"].iloc[0] for name in switches_of(table)["training"]
    }
    found = found[found["switch"].isin(["strict", "training"])].drop(columns="switch").reset_index(drop=True)
    found["value"] = found["value"].replace("", AS_STRICT)
    return found.assign(users=[f"{counts[name]:,}" for name in found["value"]]).rename(
        columns={"value": "training"}
    )


def of_certificates(table: pd.DataFrame) -> pd.DataFrame:
    """What came of the searches of each searcher, of all similarities together."""
    return as_measured(totals(table))


def of_training(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds per training step by preset and implementation, and how many times faster than the published code."""
    found = summary(table)
    theirs = found[found["implementation"] == "published code"].set_index("preset")["median"]
    if len(theirs):
        found["over published"] = (found["preset"].map(theirs) / found["median"]).map("{:.2f}".format)
    for column in ("median", "min", "max", "speed-up"):
        found[column] = found[column].map("{:.2f}".format)
    return found.assign(memory_gib=found["memory_gib"].map("{:.1f}".format))


def _number(value: object) -> str:
    if isinstance(value, float):
        if pd.isna(value):
            return ""
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _study(
    title: str,
    study: Study,
    shown: Callable[[pd.DataFrame], pd.DataFrame],
    note: str = "",
    *,
    file: str = "",
    trained_only: bool = False,
    findings: Callable[[pd.DataFrame], str] | None = None,
) -> Section:
    """The section of a study's table; `file`: that of a study which would read its dataset to find it."""
    command = f"{study.command} --trained-only" if trained_only else study.command
    return Section(title, file or study.file, command, shown, note, findings)


TEXT = TextRetrieval(
    heads=(
        *("zero-shot", "dot-1", "dot-2", "mol-2", "dot-2-tokens", "mol-2-tokens"),
        *("zero-shot-all-tokens", "maxsim-1-all-tokens"),
    ),
    rates=(0.001,),
    temperatures=(0.05, 0.1),
    validation_queries=None,
    seeds=3,
)
"""The study `text` on the reverse dictionary."""
FAIR = Fair()
"""The study of equal terms on MovieLens 1M."""
FAIR_TEMPERATURE = Fair(
    models=(
        *("fair/hstu-dot", "fair/hstu-mol"),
        *("fair/hstu-dot-temperature-0.1", "fair/hstu-mol-temperature-0.1"),
    ),
    seeds=2,
)
"""The same with both at twice the published temperature, too."""
FAIR_BF16 = Fair(models=("cpu/hstu-mol", "cpu/hstu-mol-bf16"), seeds=1)
"""What rounding the factors of products to bfloat16 while training costs."""
ORDER_FREE = BaselineStudy(
    "book-crossing",
    tuple(f"book-crossing/two-tower-{similarity}" for similarity in ("dot", "maxsim", "sparcode", "mol")),
    ("popularity", "item-CF", "EASE^R"),
)
"""The study of plain recommenders on data without order."""

SECTIONS: dict[str, tuple[Section, ...]] = {
    "Quality on MovieLens 1M": (
        _study(
            "The published HSTU, dot product and Mixture-of-Logits on equal terms",
            FAIR,
            format_fair,
            "Presets `fair/*`: the published size, and the same loss, negatives, weight decay and patience for all. Strict"
            " protocol: the time of the target is hidden, the epoch is chosen on validation targets, the whole history is left"
            " out of the lists. After ± the standard deviation over seeds, in brackets the 95 % interval over the 6,040 users,"
            " paired for differences.",
            trained_only=True,
        ),
        _study(
            "Two temperatures",
            FAIR_TEMPERATURE,
            format_fair,
            "The dot product and the mixture of the table above at the published temperature of .05, and both at .1: what suits"
            " one similarity need not suit the other. Differences are those to the mixture at .1.",
            trained_only=True,
        ),
        _study(
            "Training in bf16, one seed",
            FAIR_BF16,
            format_fair,
            "The smaller mixture of `cpu/*`, trained in float32 and with the factors of products rounded to bfloat16, all"
            " else the same. The speed is in the table of training steps.",
        ),
        Section(
            "Shipped models, one seed each",
            "ml-1m",
            "workbench model compare ml-1m-cpu-sasrec-dot ml-1m-cpu-sasrec-mol ml-1m-cpu-hstu-dot ml-1m-cpu-hstu-mol",
            as_measured,
            "Leave-one-out, 6,040 users, all 3,883 films ranked, half-widths of 95 % bootstrap intervals over users. Presets"
            " `cpu/*`: 24 epochs on two cores, models a quarter of the published size. The published rows come from another"
            " protocol: their epoch was chosen on test targets, HSTU saw the time of the target, and they trained for 101"
            " epochs.",
        ),
        _study(
            "Three seeds",
            Seeds(models=("cpu/hstu-dot", "cpu/hstu-mol"), seeds=3),
            format_seeds,
            "Mean ± standard deviation over seeds: a difference in the table above that is smaller is that of one seed.",
            file="seeds-ml-1m-cpu-hstu-dot",
        ),
    ),
    "Plain recommenders on MovieLens 1M": (
        _study(
            "Counts, closed forms and graphs without order compared with trained models",
            BaselineStudy(models=(*PresetsOnDataset.models, "fair/hstu-dot", "fair/hstu-mol")),
            as_measured,
            "The strict protocol; each baseline is fitted on training interactions. The neighbours of item-CF, λ of EASE^R and"
            " the epochs of LightGCN and UltraGCN are chosen on validation targets; the latter two have one setting each, and"
            " UltraGCN's does not suit these data: it is behind popularity. *low* and *high* are the ends of the 95 % interval"
            " of NDCG@10.",
            trained_only=True,
        ),
    ),
    "Book-Crossing, without order": (
        _study(
            "Plain recommenders next to trained models",
            ORDER_FREE,
            as_measured,
            "16,085 users, 34,075 books, 607,976 ratings without times: a user's held-out books are any, the protocol is the"
            " strict one. Presets `book-crossing/*`: a linear tower on the mean of a user's books, one budget for all"
            " similarities and one seed; learning rate and dropout were chosen for the dot product. Validation chose epoch 18"
            " of 24 for the dot product and SparCode, the last one for the others, which may gain from more. *ahead*: NDCG@10"
            " minus that of the best plain recommender, with the ends of its 95 % interval, paired by user. The λ of EASE^R"
            " and the neighbours of item-CF are the smallest of their grids, so that smaller ones may do better. LightGCN is"
            " left out because it would take up to 25 minutes of a core, UltraGCN because its one setting, behind popularity on"
            " MovieLens 1M, was not tuned.",
            findings=next_to_plain,
        ),
        _study(
            "The trained models compared with each other",
            Fair(dataset="book-crossing", models=ORDER_FREE.models[::-1], seeds=1),
            format_fair,
            "The same users and targets; in brackets the 95 % interval over users, paired for differences.",
            findings=last_next_to_others,
        ),
    ),
    "Choices of protocol": (
        _study(
            "One choice changed at a time, NDCG@10 on MovieLens 1M",
            Protocols(),
            of_protocols,
            "The first row is the strict protocol: test targets, time of the target hidden, whole history left out, whole"
            " catalogue ranked. Each other row changes one choice and shows the difference for the same weights.",
        ),
        _study(
            "Choices that need training again, NDCG@10 on the embedded data",
            Choices("embedded-small", ("quick/sasrec-dot", "quick/sasrec-mol", "quick/hstu-dot", "quick/hstu-mol")),
            of_choices,
            "Each row but the first is the difference of models trained and evaluated under one other choice: the first"
            " interaction after a point in time that all training precedes (*temporal split*: other users, other targets), a"
            " random order of equal timestamps (*ties shuffled*), or the epoch with the best test metric, after training on the"
            " validation targets, too (*epoch chosen on test*). One seed each: what is smaller than seeds differ by shows"
            " nothing.",
        ),
    ),
    "Ties in time": (
        _study(
            "MovieLens latest-small, random orders of equal timestamps",
            Ties(),
            format_orders,
            "Every method is fitted and measured again for each order; *source* is the order that a stable sort keeps. What"
            " differs between the rows of one method is the order of ties alone.",
        ),
        _study("MovieLens 1M, random orders of equal timestamps", Ties("ml-1m", models=()), format_orders),
        _study(
            "MovieLens 1M, published differences next to those of ties",
            Ties("ml-1m", models=()),
            published_gaps,
            "Published differences in HR@10, and the standard deviation that the order of ties alone gives such a difference:"
            " between methods that were measured on the same order, and between results with orders of their own (two papers,"
            " two programs). Deviations are those of the baselines above, scaled to the published values; a difference that"
            " survives is larger than two of them. Seeds and the choice of the epoch come on top.",
        ),
    ),
    "Quality on the embedded dataset": (
        _study(
            "HSTU",
            Seeds(models=("quick/hstu-dot", "quick/hstu-mol", "quick/hstu-dot-wide"), seeds=3),
            format_seeds,
            "The dataset is generated so that one query vector of the trained width cannot express what comes next: it shows"
            " what a similarity of higher rank can do, not what to expect on your data. The wide dot product stores as many"
            " floats per item as the mixture (12), and has about as many weights.",
            file="seeds-embedded-small-quick-hstu-dot",
        ),
        _study(
            "SASRec",
            Seeds(models=("quick/sasrec-dot", "quick/sasrec-mol", "quick/sasrec-dot-wide"), seeds=3),
            format_seeds,
            file="seeds-embedded-small-quick-sasrec-dot",
        ),
    ),
    "Text retrieval": (
        _study(
            "Reverse dictionary, MiniLM frozen",
            TEXT,
            of_text,
            "From a definition in the 1913 Webster to a sense of WordNet: 117,659 documents, all 8,536 test queries, heads"
            " trained on all 68,637 training queries, each at the temperature that is better on all validation queries; means"
            " over seeds. With *tokens*, each group of the"
            " query attends over its tokens; with *all-tokens* every token of both sides is a component (MaxSim: zero-shot, or"
            " trained for one epoch), which ranks the 1,000 best by the cosine again. *floats*: stored per document. Intervals"
            " are bootstrapped over words; *difference* is that of Hit@10, paired by query, to the row that *against* names."
            " More floats per document make no stronger dot product: over one vector of 384 per text, every dot product of"
            " projections is a bilinear form of 384 × 384.",
        ),
        _study("Hit@10 by kind of query", TEXT, of_text_subsets),
        _study(
            "LITE and a Hypencoder, three seeds, trained on 30,000 queries",
            TextRetrieval(
                heads=("zero-shot", "dot-2", "mol-2", "hypencoder-2", "lite-2"),
                rates=(0.001, 0.003),
                seeds=3,
                train_queries=30_000,
                test_queries=4_000,
            ),
            of_text,
            "4,000 test queries; means over three seeds, at the one of two learning rates that is better on validation: 0.001"
            " for every head.",
        ),
        _study(
            "One change at a time, mixture and dot product",
            TextAblations(),
            as_measured,
            "Hit@10 on 4,000 validation queries, heads of one seed trained on 30,000 queries; *difference* is mixture minus dot"
            " product, paired by query, with its interval over words. *train*: Hit@10 on 1,000 training queries; *components*"
            " in use on average, of all; *shared*: of the ten best of both. Measured in two runs on two machines: each change"
            " with the dot product of its own run.",
        ),
        Section(
            "Searchers over all documents of the mixture, 32 queries per call, k = 10",
            "search-text",
            "workbench bench search --preset text --threads 1",
            of_text_search,
            "On one thread of a machine with other work, so that times vary. The published claim for text is that the 100 best"
            " by the average, rescored, lose nothing and are found 66 times as fast (NQ320K, on a GPU). *relative HR*: answers"
            " found, over those of brute force.",
            text_search_findings,
        ),
        _study(
            "Documents that free embeddings tell apart",
            Limit(largest=24, steps=600, seeds=1),
            as_measured,
            "What gradient descent finds. There is a dot product of four floats that separates any number of documents in"
            " pairs.",
        ),
    ),
    "Training speed": (
        Section(
            "Seconds per step at the published MovieLens 1M settings",
            "bench-train",
            "workbench bench train --steps 3 --reference PATH",
            of_training,
            "Batch 128, length 200, 128 negatives per position; float32. *speed-up* is over the reference implementation, which"
            " follows the published arithmetic; *over published* over a checkout of the published code, in the same run.",
        ),
    ),
    "Search": (
        _study(
            "One checkpoint behind several engines, MovieLens 1M",
            EnginesStudy(),
            as_measured,
            "On a machine with other work: times of a call vary by more than a factor of two, lists do not.",
        ),
        _study(
            "Neighbours of the graph that is walked by the learned score, by three metrics",
            GraphMetrics(),
            as_measured,
            "At the same length of the list a metric is better if recall is higher and fewer items are scored. None has higher"
            " recall than all components, which searchers take; by the scores of queries fewer items are scored and more are"
            " missed. *build s* was timed on a machine with other work.",
        ),
        Section(
            "All 3,883 films",
            "search-standard",
            "workbench bench search --threads 1",
            of_search("ml-1m-cpu-hstu-mol"),
            "MoL of 4 × 4 components of width 32, 32 queries per call, k = 100, all methods in turn in one run. *Recall* is the"
            " overlap with the true top 100, *relative HR* the hits on users' next items over those of brute force, *certified*"
            " the share of queries with a proof, *scored* the items whose full score was computed, *MB* the memory beyond the"
            " item state, *of roofline* the least time by the machine's measured rates over the median.",
        ),
        Section(
            "The same films with noisy copies, 100,000 items",
            "search-standard",
            "workbench bench search --threads 1",
            of_search("ml-1m-cpu-hstu-mol, 100,000 items"),
        ),
        Section(
            "695,762 items, as many as the published Amazon Books corpus",
            "search-books",
            "workbench bench search --preset books --threads 1",
            readme_books,
            "The mixture of published size (8 × 4 components of width 64) over noisy copies of the films, k = 100."
            " *Speed-up*: over the reference implementation. *Items scored*: the share whose full score was computed. *Index*:"
            " beyond the item state. The exponents are those of the growth from the smallest corpus on. *surrogate*: one"
            " list by vectors that are fitted to the scores of a sample of queries.",
            books_line,
        ),
        Section(
            "Next to the published code, which runs in the same process",
            "search-published",
            "workbench bench search --reference PATH --threads 1",
            speed_ups,
            "How many times faster, with the quartiles over rounds in brackets, by the queries of a call, k = 100; calls of one"
            " implementation in a row, the first not counted, then of the next. *its parts alone*: the query's side, the lists"
            " and the scores, by the same kernels, and nothing else. *at most*:"
            " if our call took the least time for its operations (those in 8 bits count a quarter, in 16 bits half) or for what"
            " it reads, by the machine's measured ceilings: torch's best float32 matrix product and copy, which our own kernels"
            " can exceed. The same random weights at the published sizes; of Amazon Books *all items* are those that the"
            " published code's temporaries allow. *overlap*:"
            " how many of its ids ours finds too (its lists are in bfloat16). Aims: 8 times, with all items of Amazon Books"
            " 16, with all of MovieLens and one query 6. How near brute force is to what the machine can do at most stands in"
            " the next table. Lists are scanned in int8, whose error is bounded; what that does not rule out is scored in"
            " float32, so that they are exact and can carry a proof. The published lists are of bfloat16.",
            aims,
        ),
        Section(
            "The published sizes with random weights",
            "search-sizes",
            "workbench bench search --preset sizes --threads 1",
            readme_sizes,
        ),
        Section(
            "Cost by corpus size, 1,000 to 1,000,000 items, 8 queries per call",
            "search-growth",
            "workbench bench search --preset growth --threads 1",
            readme_growth,
        ),
        Section(
            "Lists, cascades and walks over a graph, by corpus size and queries per call",
            "search-crossing",
            "workbench bench search --preset crossing --threads 1",
            readme_crossing,
            "Milliseconds of a call on one thread of a machine with other work, so that they vary; in brackets"
            " the recall of the true top 100 and the items whose full score was computed (of a cascade those that its linear"
            " gate leaves). Last, the fastest method with a recall of at least .99.",
        ),
        Section(
            "Searches that try to certify a wrong list",
            "certificates",
            "workbench bench certificates",
            of_certificates,
            "Each search is of a small corpus with near ties, at any magnitude that floats have, changed a few times, called"
            " under autocast, reduced precision or from several threads, and held against brute force: dot products, MaxSim,"
            " mixtures, SparCode. *Refused*: a score is not finite. Defects would be *failed* (refused although the answer is"
            " defined), *wrong* (a list without a certificate has other scores than its items, or is too short) and *false*"
            " certificates. What approximate engines certify was searched by brute force, since a product or a gate might"
            " overflow, or by a flat index where IVF has no cells. Engines that take long to build are tried on few problems.",
        ),
    ),
    "Learned indexes": (
        _study(
            "Each similarity with the index that it is made for",
            Similarities(),
            as_measured,
            "MovieLens 1M, strict protocol, one seed. Two groups: HSTU with histories of 200 films, and the ladder to SparCode"
            " with histories of 20. One query at a time on one thread; *share scored*: items whose score was computed.",
            trained_only=True,
        ),
    ),
    "SparCode": (
        _study("Behind each encoder", Towers(), as_measured),
        _study(
            "From a two-tower model to SparCode, each trained to its plateau",
            Ladder(),
            as_measured,
            "MovieLens 1M behind self-attention, strict protocol, one seed. *difference* in NDCG@10 is that to the two-tower,"
            " paired by user. *epochs* up to the chosen one, with those of the model that a row starts from; *floats* of an"
            " item; *p50 ms* of brute force, one query at a time; *codes* that training positions have, and the share of test"
            " tokens whose code is among them (*seen*): only these can be in an index.",
        ),
        _study(
            "What its index can leave out",
            Sparsity(),
            as_measured,
            "MovieLens 1M, one seed, SparCode as it starts from All-to-All, with the threshold as it is learned or with a price"
            " on positive scores. *average_items* of a list; *seen*: test tokens whose code is in it; *short*: queries with"
            " fewer than 50 items; one query at a time; *relative* to brute force with the same scores.",
            trained_only=True,
        ),
        _study("A tenth of the users held out", Users(), by_metric),
    ),
    "Deep Retrieval": (
        _study(
            "Paths next to brute force, FAISS and null models",
            Indexes(),
            as_measured,
            "MovieLens 1M, the queries and item vectors of `ml-1m-cpu-hstu-dot` for all rows but the last group, whose reranker"
            " is its own. *of brute force*: NDCG@10 over that of brute force with the same scores; *popular of brute force*:"
            " the same for as many of the most popular items, scored in full; *recall@10* of brute force's list. One query at a"
            " time.",
        ),
        _study(
            "As the corpus grows",
            Growth(),
            as_measured,
            "Synthetic vectors in clusters; paths by residual k-means, nothing is trained. One query at a time;"
            " *of_brute_force*: the time over that of brute force.",
        ),
    ),
}  # fmt: skip


MARKDOWN_HEAD = "Written by `workbench study results` from `reports/tables`. Each table has the command that measures it again."
LATEX_HEAD = (
    "% Written by `workbench study results --format latex` from `reports/tables`. Needs the package booktabs."
)

GLANCE = (
    ("MovieLens 1M, HSTU, 24 epochs", "seeds-ml-1m-cpu-hstu-dot"),
    ("embedded data, HSTU", "seeds-embedded-small-quick-hstu-dot"),
    ("embedded data, SASRec", "seeds-embedded-small-quick-sasrec-dot"),
)
"""The comparisons of a dot product with a mixture in the README, and the tables they come from."""


PUBLISHED_SIZE = {
    "MovieLens 1M, HSTU of the published size": (FAIR, "dot", "mol"),
    "… a dot product of as many floats per item": (FAIR, "dot-wide", "mol"),
    "… both at twice the temperature": (FAIR_TEMPERATURE, "dot-temperature-0.1", "mol-temperature-0.1"),
}
"""The study of equal terms, and the dot product and the mixture in it, that each of the README's first rows holds."""


def _ends(row: Any) -> str:
    return f"{row['ahead_low']:+.4f} to {row['ahead_high']:+.4f}"


def at_a_glance(tables: Path) -> pd.DataFrame:
    """NDCG@10 of a dot product and of MoL over seeds, their paired difference, and the number of seeds; as text."""
    text = _of_text_heads(tables, "NDCG@10")
    dot, mixture = text.loc["dot-2"], text.loc["mol-2"]
    low, high = mixture["difference_low"], mixture["difference_high"]
    row = {"setting": "reverse dictionary, MiniLM", "seeds": f"{mixture['seeds']:.0f}"}
    row |= {"dot product": f"{dot['value']:.4f}", "MoL": f"{mixture['value']:.4f}"}
    rows = [row | {"difference": f"{mixture['difference']:+.4f} ({low:+.4f} to {high:+.4f} over words)"}]
    for title, (study, *kinds) in PUBLISHED_SIZE.items():
        fair = _fair_ranking(tables, study)
        dot, mol = (fair.loc[f"fair/hstu-{kind}"] for kind in kinds)
        row = {"setting": title, "seeds": f"{dot['shared']:.0f}"}
        shared = _of_seeds(mol) if dot["shared"] == mol["seeds"] else f"{dot['value'] + dot['ahead']:.4f}"
        row |= {"dot product": _of_seeds(dot), "MoL": shared}
        gap = f"{dot['ahead']:+.4f}{over_seeds(dot['ahead_std'])}"
        rows.append(row | {"difference": f"{gap} ({_ends(dot)} over users)"})
    for title, file in GLANCE:
        table = format_seeds(pd.read_csv(tables / f"{file}.csv"))
        dot, mixture = table["model"][:2]
        dot, mixture, difference = table.set_index("model")["NDCG@10"][[dot, mixture, f"{mixture} − {dot}"]]
        row = {"setting": title, "seeds": table["seeds"].iloc[0], "dot product": dot, "MoL": mixture}
        rows.append(row | {"difference": difference})
    return pd.DataFrame(rows).rename(columns={"dot product": "NDCG@10, dot product", "MoL": "NDCG@10, MoL"})


def _fair_ranking(tables: Path, study: Fair) -> pd.DataFrame:
    """The NDCG@10 of a table of the study `fair`, by model."""
    table = pd.read_csv(tables / f"{study.file}.csv")
    return table[table["metric"] == "NDCG@10"].set_index("model")


def fair_line(tables: Path) -> str:
    """What the study of equal terms shows of MoL at the published temperature and at twice that, as the sentences of README."""
    published = _fair_ranking(tables, FAIR).loc["fair/hstu-dot"]
    higher = _fair_ranking(tables, FAIR_TEMPERATURE).loc["fair/hstu-dot-temperature-0.1"]
    first, second = (
        bool(row["ahead_low"] > 0 and row["ahead"] > row["ahead_std"]) for row in (published, higher)
    )
    head = {
        (True, True): "the mixture is ahead of the dot product",
        (False, True): "the mixture is a little ahead, at twice the published temperature",
        (True, False): "the mixture is ahead at the published temperature alone",
        (False, False): "no lead of the mixture is shown that is larger than what seeds differ by",
    }
    return (
        f"**MovieLens 1M: {head[first, second]}.** At the published size the mixture minus the dot product is"
        f" {_difference(published)}; if both are trained at twice the temperature, {_difference(higher)}."
    )


def _difference(row: Any) -> str:
    seeds = "one seed" if row["shared"] == 1 else f"{row['shared']:.0f} seeds"
    more = "more" if row["ahead"] > row["ahead_std"] else "less"
    verdict = "" if row["shared"] == 1 else f": {more} than seeds differ"
    return f"{row['ahead']:+.4f}{over_seeds(row['ahead_std'])} over {seeds} (95 % interval {_ends(row)} over users){verdict}"


def _of_seeds(row: Any) -> str:
    return f"{row['value']:.4f}{over_seeds(row['std'])}"


def order_free_line(tables: Path) -> str:
    """What data without order show, as the sentences of README."""
    table = pd.read_csv(tables / f"{ORDER_FREE.file}.csv").set_index("method")
    is_trained = table.index.isin(ORDER_FREE.models)
    trained, plain = table[is_trained], table[~is_trained].sort_values("NDCG@10", ascending=False)
    names = [name.partition(",")[0] for name in plain.index]
    verdict = (
        "ahead of every trained model" if (trained["ahead_high"] < 0).all() else "not ahead of every one"
    )
    values = ", ".join(f"{value:.3f} by {name}" for name, value in zip(names, plain["NDCG@10"], strict=True))
    return (
        f"**Book-Crossing, without order: {names[0]} is {verdict}.** NDCG@10 is {values}, and {trained['NDCG@10'].max():.3f} by"
        f" the best model trained for minutes, `{trained['NDCG@10'].idxmax()}`."
    )


def text_line(tables: Path) -> str:
    """The sentences of the README on text retrieval, from the stored table."""
    rows = _of_text_heads(tables, "Hit@10")
    value = rows["value"].map("{:.3f}".format)
    mixture, late, pooled = (rows.loc[way] for way in ("mol-2", "maxsim-1-all-tokens", "dot-1"))
    ahead = {
        "the mixture": bool(mixture["difference_low"] > 0),
        "late interaction": bool(late["difference_low"] > 0),
    }
    return (
        f"**Text: {_leads(ahead)}.** From a definition to its sense among 117,659 (MiniLM, frozen), Hit@10 is {value['BM25']}"
        f" by BM25, {value['zero-shot']} by the cosine, {value['dot-2']} by a trained dot product, {value['mol-2']} by a"
        f" mixture of its size ({_paired(mixture)}) and {value['maxsim-1-all-tokens']} by MaxSim over all tokens"
        f" ({_paired(late)}, at {late['floats'] / pooled['floats']:.0f} times the floats per document)."
    )


def _of_text_heads(tables: Path, metric: str) -> pd.DataFrame:
    """The rows of all test queries, by way of searching."""
    table = pd.read_csv(tables / f"{TEXT.file}.csv")
    return table[(table["subset"] == "all") & (table["metric"] == metric)].set_index("way")


def _leads(ahead: dict[str, bool]) -> str:
    """Who is ahead of a dot product, and who is not.

    >>> _leads({"a": True, "b": True}), _leads({"a": False, "b": True}), _leads({"a": False, "b": False})
    ('a and b are ahead of a dot product', 'b is ahead of a dot product, a is not', 'nothing is ahead of a dot product')
    """
    first, rest = (
        [name for name, is_ahead in ahead.items() if is_ahead == wanted] for wanted in (True, False)
    )
    if not first:
        return "nothing is ahead of a dot product"
    verb = "are" if len(first) > 1 else "is"
    return f"{' and '.join(first)} {verb} ahead of a dot product" + "".join(
        f", {name} is not" for name in rest
    )


def _paired(row: Any) -> str:
    low, high = row["difference_low"], row["difference_high"]
    return f"{row['difference']:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"


def results_page(tables: Path, format: Literal["markdown", "latex"] = "markdown") -> str:
    """All stored tables, from the CSV files in `tables`, as one page of Markdown or as LaTeX floats to copy from.

    Sections whose file is missing are left out.
    """
    parts = [LATEX_HEAD] if format == "latex" else ["# Results", MARKDOWN_HEAD]
    for heading, sections in SECTIONS.items():
        present = [section for section in sections if (tables / f"{section.file}.csv").is_file()]
        if present:
            parts.append(f"% {heading}" if format == "latex" else f"## {heading}")
        for section in present:
            table = pd.read_csv(tables / f"{section.file}.csv")
            as_shown = section.shown(table)
            if format == "latex":
                parts.append(
                    latex(
                        as_shown,
                        f"{escaped(section.title)} ({escaped(section.command)}){escaped(_origin(table))}",
                    )
                )
                continue
            parts += [f"### {section.title}", *([section.note] if section.note else [])]
            parts += [markdown(as_shown), *([section.findings(table)] if section.findings else [])]
            parts += [f"`{section.command}`{_origin(table)}"]
    return "\n\n".join(parts) + "\n"


def _origin(table: pd.DataFrame) -> str:
    if MEASURED_BY in table:
        return f" · measured by {_several(table[MEASURED_BY].dropna().unique())}"
    if not set(ORIGIN) <= set(table.columns):
        return ""
    machines, commits = (_several(table[column].dropna().unique()) for column in ORIGIN)
    return f" · {machines} · commit {commits}"


def _several(values: Iterable[object]) -> str:
    return "; ".join(map(str, values))
