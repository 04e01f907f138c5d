"""What the page of results holds: a section for every table of `reports/tables`, and the studies that README quotes."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from workbench.bench.growth import books_line, readme_books, readme_crossing, readme_growth
from workbench.bench.published_search import aims, speed_ups
from workbench.bench.tables import readme_sizes
from workbench.studies.baseline_studies import BaselineStudy, next_to_plain
from workbench.studies.choice_studies import Choices
from workbench.studies.deep_retrieval_studies import Growth, Indexes, Similarities
from workbench.studies.engines import EnginesStudy
from workbench.studies.fair_studies import Fair, format_fair, last_next_to_others
from workbench.studies.graph_metrics import GraphMetrics
from workbench.studies.limit import Limit
from workbench.studies.protocol_studies import Protocols
from workbench.studies.published_studies import Published, as_published, format_published, lead
from workbench.studies.result_formats import (
    as_measured,
    by_metric,
    of_certificates,
    of_choices,
    of_protocols,
    of_search,
    of_text,
    of_text_search,
    of_text_subsets,
    of_training,
    text_search_findings,
)
from workbench.studies.seed_studies import Seeds
from workbench.studies.seeds import format_seeds
from workbench.studies.sparcode_studies import Ladder, Sparsity, Towers, Users
from workbench.studies.study import PresetsOnDataset, Study
from workbench.studies.text import TextRetrieval
from workbench.studies.text_ablations import TextAblations
from workbench.studies.tie_studies import Ties, format_orders, published_gaps


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
)
"""The same with both at twice the published temperature, too."""
PUBLISHED = Published(models=("ml-1m/sasrec-dot", "ml-1m/hstu-dot", "visible/hstu-dot"))
"""The study of published runs on MovieLens 1M."""
PUBLISHED_MIXTURE = Published(models=("ml-1m/hstu-mol-50-epochs",))
"""The same for the mixture, of fewer epochs."""
FAIR_LATER = Fair(models=("fair/esasrec-dot", "fair/sasrec-dot-gbce", "fair/sasrec-dot"), seeds=1)
"""SASRec next to the blocks and the loss that the literature since offers it."""
FAIR_BF16 = Fair(models=("cpu/hstu-mol", "cpu/hstu-mol-bf16"), seeds=1)
"""What rounding the factors of products to bfloat16 while training costs."""
ORDER_FREE = BaselineStudy(
    "book-crossing",
    tuple(f"book-crossing/two-tower-{similarity}" for similarity in ("dot", "maxsim", "sparcode", "mol")),
    ("popularity", "item-CF", "EASE^R"),
)
"""The study of plain recommenders on data without order."""


def _mixture_as_published(table: pd.DataFrame) -> str:
    dots = PUBLISHED.stored()
    if dots is None:
        return as_published(table)
    return f"{as_published(table)} {lead(table, dots[dots['model'] == 'ml-1m/hstu-dot'])}"


SECTIONS: dict[str, tuple[Section, ...]] = {
    "Quality on MovieLens 1M": (
        _study(
            "The published HSTU, dot product and Mixture-of-Logits on equal terms",
            FAIR,
            format_fair,
            "Presets `fair/*`: the published size, and the same loss, negatives, weight decay and patience for all. Strict"
            " protocol: the time of the target is hidden, the epoch is chosen on validation targets, the whole history is left"
            " out of the lists. After ± the standard deviation over seeds, in brackets the 95 % interval over the 6,040 users,"
            " paired for differences. All of MovieLens 1M was measured on a copy whose times are interpolated in part (README,"
            " Limits).",
            trained_only=True,
        ),
        _study(
            "Two temperatures",
            FAIR_TEMPERATURE,
            format_fair,
            "The dot product and the mixture of the table above at the published temperature of .05, and both at .1: what suits"
            " one similarity need not suit the other. Differences are those to the mixture at .1. Dot products learn for longer"
            " (*epochs chosen*, of 101): where training ended half-way, after 12 epochs without a better one, more patience may"
            " have found one. Of the dot product at .05 this table has one seed, the worse of the two above.",
            trained_only=True,
        ),
        _study(
            "SASRec, the blocks of eSASRec and the loss of gSASRec behind a dot product, one seed",
            FAIR_LATER,
            format_fair,
            "SASRec of the published size by the protocol of the first table, a softmax over 128 sampled items as there; the"
            " LiGR blocks of eSASRec, whose epochs take longer; and gBCE, the loss of gSASRec, over as many sampled items. An"
            " epoch chosen near the last, 101, says that more may be gained.",
            trained_only=True,
            findings=last_next_to_others,
        ),
        _study(
            "The published settings, trained here",
            PUBLISHED,
            format_published,
            "`ml-1m/*` as published by RAILS: the best of 101 epochs on test targets, the time of the target visible, the 200"
            " films that the model reads left out of the lists. `visible/*` as the highest open row: the epoch chosen on"
            " validation, the time visible, the whole history left out. *strict*: the same weights with the time hidden and the"
            " whole history left out: what the rest of the protocol is worth. One seed; how far those of HSTU differ stands in"
            " the tables above. In brackets the 95 % interval over users. Besides, the copy of the data differs from the"
            " published file (README, Limits): its order of ties, and a third of its times, which HSTU reads.",
            trained_only=True,
            findings=as_published,
        ),
        _study(
            "The published mixture, trained for 50 epochs of 101",
            PUBLISHED_MIXTURE,
            format_published,
            "HSTU with the published Mixture-of-Logits, by the protocol of the table above, trained for half as long: the best"
            " of fewer epochs is at most as good.",
            trained_only=True,
            findings=_mixture_as_published,
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
            "The strict protocol; each baseline is fitted on training interactions. The neighbours of item-CF (the fewest that"
            " were tried), λ of EASE^R and the epochs of LightGCN and UltraGCN are chosen on validation targets; the latter two"
            " have one setting each, UltraGCN that of its authors for these data, and know a user by training interactions"
            " alone, where item-CF, EASE^R and the trained models read the validation target, too. *low* and *high* are the"
            " ends of the 95 % interval of NDCG@10.",
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
            " and the neighbours of item-CF were the smallest that were tried then, so that smaller ones, which are tried"
            " now, may do better. LightGCN and UltraGCN are left out: they take up to half an hour of a core each.",
            findings=next_to_plain,
        ),
        _study(
            "The trained models compared with each other",
            Fair(dataset="book-crossing", models=ORDER_FREE.models[::-1], seeds=1),
            format_fair,
            "The same users and targets, and settings that were chosen for the dot product; in brackets the 95 % interval over"
            " users, paired for differences.",
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
            " differs between the rows of one method is the order of ties alone. `quick/*` are trained for seconds, too little"
            " for so large a catalogue: no evidence on the models themselves.",
        ),
        _study("MovieLens 1M, random orders of equal timestamps", Ties("ml-1m", models=()), format_orders),
        _study(
            "MovieLens 1M, published differences next to those of ties",
            Ties("ml-1m", models=()),
            published_gaps,
            "Published differences in HR@10, and the standard deviation that the order of ties alone gives such a difference:"
            " between methods that were measured on the same order, and between results with orders of their own (two papers,"
            " two programs). Deviations are those of the baselines above, scaled to the published values; a difference that"
            " survives is larger than two of them. The baselines read no order, so that ties may move models of sequences"
            " further (on latest-small they do). Seeds and the choice of the epoch come on top.",
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
                temperatures=(0.05,),
            ),
            of_text,
            "4,000 test queries; means over three seeds, all at the temperature that suits the dot product in the table above"
            " and not the mixture, at the one of two learning rates that is better on validation: 0.001, the smaller, for"
            " every head.",
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
            "Batch 128, length 200, 128 negatives per position; float32, or with the factors of products rounded to bfloat16"
            " (*bf16*). *speed-up* is over the reference implementation, which follows the published arithmetic; *over"
            " published* over a checkout of the published code, in the same run.",
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
            " item state, *of roofline* the least time by the machine's measured rates over the median: it counts in float32,"
            " so that scans in int8 can be above 1. FAISS HNSW was measured while its walk was shorter than its list.",
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
        _study(
            "Behind each encoder",
            Towers(),
            as_measured,
            "As many steps for all, and too few for a plateau, which the models of the next table reach: there the two-tower"
            " model is not behind any.",
        ),
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
            " *of_brute_force*: the time over that of brute force. Of 4,000 items there are 64 cells: the row with 256 probes"
            " looks at all of them, and its share is counted wrongly.",
        ),
    ),
}  # fmt: skip
