"""What a run of the bench measures, complete and by name."""

import shlex
from dataclasses import asdict, dataclass, replace
from typing import Any

from workbench import paths
from workbench.bench.entries import chosen, of_points
from workbench.bench.methods import METHODS, PUBLISHED, REFERENCE, BenchmarkEntry, SearcherSpec
from workbench.bench.workloads import SIZES, Inflated, RandomWeights, TextCorpus, Trained, WorkloadSpec
from workbench.models.model_store import folder_of
from workbench.registry import did_you_mean

CHECKPOINT = "ml-1m-cpu-hstu-mol"
PRESETS = ("trained", "quick", "standard", "sizes", "growth", "crossing", "text", "books")
"""What `named` returns a plan for."""

CHECKPOINTS = {"text": "text-reverse-dictionary-mol-2", "books": "ml-1m-fair-hstu-mol"}
"""What a plan measures by default, by its name, if it is not `CHECKPOINT`. For books a mixture of published size: what an item
keeps and what a pair costs are of the order of those on Amazon Books."""


@dataclass(frozen=True)
class Plan:
    """Everything that a run measures.

    A *group* is a workload with one batch size and one k. It is measured in `rounds`: in each every entry has its turn,
    of `calls` calls with new queries (one call, if a call takes longer than `slow_seconds`), in an order that moves on
    each round, so that what disturbs the machine for a while disturbs all. Before the first round each entry makes
    `warmup` calls. `queries` of a workload at most; `seed` draws them. `methods`: all if none is named; `typical`: a few
    settings of each, not the whole grid. `points`: these searchers instead of a grid, with brute force; `own`: checkpoints
    for those of them that search under a score of their own. `threads`: torch's own choice if None.
    Raises ValueError if it has nothing to measure, a count is below 1, a workload, batch size or k is named twice,
    searchers are chosen in two ways, or a k exceeds a corpus.
    """

    name: str
    workloads: tuple[WorkloadSpec, ...]
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    ks: tuple[int, ...] = (100,)
    rounds: int = 10
    calls: int = 3
    warmup: int = 2
    slow_seconds: float = 1.0
    queries: int = 1024
    seed: int = 0
    methods: tuple[str, ...] = ()
    typical: bool = False
    threads: int | None = None
    points: tuple[SearcherSpec, ...] = ()
    own: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.workloads or not self.batch_sizes or not self.ks:
            raise ValueError(f"plan {self.name!r} needs at least one workload, one batch size and one k")
        if len({w.name for w in self.workloads}) < len(self.workloads):
            raise ValueError(f"plan {self.name!r} names a workload twice")
        for name in ("batch_sizes", "ks"):
            values = getattr(self, name)
            if min(values) < 1 or len(set(values)) < len(values):
                raise ValueError(f"{name} must be distinct and at least 1, not {values}")
        if min(self.rounds, self.calls, self.queries) < 1 or self.warmup < 0:
            raise ValueError(f"rounds, calls and queries must be at least 1, warmup at least 0: {self}")
        if self.points and self.methods:
            raise ValueError("choose searchers by method or one by one, not both")
        learned = [p.method for p in self.points if METHODS[p.method].own_score]
        if learned and not all(isinstance(w, Trained) for w in self.workloads):
            raise ValueError(
                f"the index of {learned[0]} holds the catalogue alone: choose the corpus as it is"
            )
        for workload in self.workloads:
            self.entries(workload.num_items())
            if max(self.ks) > workload.num_items():
                raise ValueError(
                    f"k = {max(self.ks)} exceeds the {workload.num_items()} items of {workload.name}"
                )

    def entries(self, items: int) -> list[BenchmarkEntry]:
        """The entries to measure on a corpus of this many items; raises as `entries.chosen` and `entries.of_points` do."""
        if self.points:
            return of_points(self.points, self.own, items)
        return chosen(items, self.methods, self.typical)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the kind of each workload and the label of each entry."""
        values = asdict(self)
        if not self.points:
            del values["points"], values["own"]
        values["workloads"] = [
            {
                "kind": type(w).__name__,
                **asdict(w),
                "entries": [c.label for c in self.entries(w.num_items())],
            }
            for w in self.workloads
        ]
        return values


def quick(
    checkpoint: str = CHECKPOINT, items: int = 20_000, title: str = "", threads: int | None = None
) -> Plan:
    """Seconds: a small checkpoint's corpus inflated to `items`, one batch size, few rounds."""
    return Plan(
        "quick",
        (Inflated(checkpoint, items, title=title),),
        batch_sizes=(32,),
        ks=(10, 100),
        rounds=3,
        calls=2,
        warmup=1,
        queries=192,
        threads=threads,
    )


def trained(checkpoint: str = CHECKPOINT, threads: int | None = None) -> Plan:
    """Seconds: a trained corpus as it is, one batch size, the best 10."""
    small = quick(checkpoint, threads=threads)
    return replace(small, name="trained", workloads=(Trained(checkpoint),), ks=(10,))


def standard(checkpoint: str = CHECKPOINT, title: str = "", threads: int | None = None) -> Plan:
    """Minutes: a trained corpus as it is and inflated to 100,000 items, all batch sizes."""
    return Plan(
        "standard",
        (Trained(checkpoint, title), Inflated(checkpoint, 100_000, title=title)),
        ks=(10, 100),
        rounds=6,
        threads=threads,
    )


def sizes(threads: int | None = None) -> Plan:
    """The three published sizes with random weights: what brute force costs. Random weights have no structure that an
    approximate search could find: see `books`."""
    return Plan(
        "sizes",
        tuple(map(RandomWeights, SIZES)),
        batch_sizes=(1, 32),
        rounds=3,
        calls=2,
        warmup=1,
        queries=256,
        methods=(PUBLISHED, REFERENCE, "brute force, int16", "exact with a bound"),
        threads=threads,
    )


def growth(
    checkpoint: str = CHECKPOINT,
    corpora: tuple[int, ...] = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000),
    title: str = "",
    threads: int | None = None,
) -> Plan:
    """Cost against N: the same trained similarity over corpora from 10³ to 10⁶ items (add 10⁸ on a GPU)."""
    return Plan(
        "growth",
        tuple(Inflated(checkpoint, items, title=title) for items in corpora),
        batch_sizes=(8,),
        rounds=4,
        calls=2,
        warmup=1,
        queries=256,
        typical=True,
        threads=threads,
    )


def crossing(
    checkpoint: str = CHECKPOINT,
    corpora: tuple[int, ...] = (10_000, 30_000, 100_000),
    threads: int | None = None,
) -> Plan:
    """Where lists, cascades and walks over a graph cross: in the size of the corpus and the queries of a call. Minutes."""
    points = (
        "average n2=1000",
        "average n2=4000",
        "cascade n2=4000,keep=200",
        "graph ef=200",
        "graph ef=400",
    )
    return Plan(
        "crossing",
        tuple(Inflated(checkpoint, items) for items in corpora),
        batch_sizes=(1, 8, 32),
        rounds=3,
        calls=2,
        warmup=1,
        queries=192,
        points=tuple(map(SearcherSpec.read, points)),
        threads=threads,
    )


def text(head: str = CHECKPOINTS["text"], title: str = "", threads: int | None = None) -> Plan:
    """Every searcher over all documents of a trained text head, with the lists that fit among them: minutes for 117,659.

    The published claim on text is that of the average's 100 best.
    """
    corpus = TextCorpus(head, title)
    documents = corpus.num_items()
    points = (
        "exact with a bound",
        *(f"per component n1={n}" for n in (25, 100, 400) if n <= documents),
        *(f"average n2={n}" for n in (25, 100, 400, 1600) if n <= documents),
        *(f"combined n1={n},n2={4 * n}" for n in (25, 100) if 4 * n <= documents),
        *(["cascade n2=4000,keep=200"] if documents >= 4000 else []),
        *(f"graph ef={n}" for n in (100, 400) if n <= documents),
    )
    return Plan(
        "text",
        (corpus,),
        batch_sizes=(1, 32),
        ks=(10, 100),
        rounds=3,
        calls=2,
        warmup=1,
        queries=192,
        threads=threads,
        points=tuple(map(SearcherSpec.read, points)),
    )


def books(
    checkpoint: str = CHECKPOINTS["books"],
    corpora: tuple[int, ...] = (75_000, 150_000, 300_000, SIZES["amazon-books"].items),
    threads: int | None = None,
) -> Plan:
    """As many items as the published Amazon Books corpus has, and three smaller corpora: lists, given and learned, cascades and
    walks next to the reference implementation. Some ten minutes on two cores, most of them for the graphs."""
    points = (
        PUBLISHED,
        "average n2=12000",
        "surrogate width=128,n2=12000",
        "cascade n2=16000,keep=1600",
        "cascade n2=64000,keep=6400",
        "graph ef=800",
        "graph ef=1600",
        "graph ef=2500",
        "graph ef=3200",
    )
    return Plan(
        "books",
        tuple(Inflated(checkpoint, items) for items in corpora),
        batch_sizes=(1, 32),
        rounds=2,
        calls=2,
        warmup=1,
        queries=128,
        points=tuple(map(SearcherSpec.read, points)),
        threads=threads,
    )


def of_profile(profile: str, checkpoint: str, title: str = "") -> Plan:
    """What the notebook on recall and latency measures: `quick`, or `standard` for every other profile.

    A small catalogue is inflated to twenty times its items in the quick profile.
    """
    if profile != "quick":
        return standard(checkpoint, title)
    return quick(checkpoint, min(20_000, max(1_000, 20 * Trained(checkpoint).num_items())), title)


def growth_of_profile(profile: str, checkpoint: str, title: str = "") -> Plan:
    """What the notebook on scaling measures: to 100,000 items in the quick profile, to 300,000 in the standard one.

    In the quick profile no corpus has more than a hundred times the items of the catalogue, or 30,000 if that is more.
    """
    match profile:
        case "quick":
            largest = max(30_000, 100 * Trained(checkpoint).num_items())
            corpora = tuple(items for items in (1_000, 10_000, 30_000, 100_000) if items <= largest)
            return replace(growth(checkpoint, corpora, title), rounds=2, queries=64)
        case "standard":
            return growth(checkpoint, (1_000, 3_000, 10_000, 30_000, 100_000, 300_000), title)
    return growth(checkpoint, title=title)


def chosen_points(
    workload: WorkloadSpec,
    points: tuple[SearcherSpec, ...],
    *,
    batch_size: int = 32,
    k: int = 100,
    rounds: int = 3,
    queries: int = 192,
    seed: int = 0,
    own: tuple[str, ...] = (),
    threads: int | None = None,
) -> Plan:
    """Chosen searchers on one workload, few rounds: what the explorer measures, and what `command` writes as a command."""
    return Plan(
        "chosen",
        (workload,),
        (batch_size,),
        (k,),
        rounds=rounds,
        calls=2,
        warmup=1,
        queries=queries,
        seed=seed,
        threads=threads,
        points=points,
        own=own,
    )


def command(plan: Plan) -> str:
    """The shell command that measures a plan of `chosen_points`; ValueError if it is another, or over random weights."""
    workload = plan.workloads[0]
    if isinstance(workload, RandomWeights | TextCorpus):
        raise ValueError("the command measures chosen searchers on a recommender's checkpoint alone")
    words = ["workbench", "bench", "search", "--checkpoint", _short(workload.checkpoint)]
    if isinstance(workload, Inflated):
        words += ["--items", str(workload.items)]
    words += ["--batch", str(plan.batch_sizes[0]), "--k", str(plan.ks[0])]
    words += ["--rounds", str(plan.rounds), "--queries", str(plan.queries), "--seed", str(plan.seed)]
    for point in plan.points:
        words += ["--searcher", point.text]
    for checkpoint in plan.own:
        words += ["--scorer", _short(checkpoint)]
    same = chosen_points(
        workload, plan.points, batch_size=plan.batch_sizes[0], k=plan.ks[0], rounds=plan.rounds, queries=plan.queries,
        seed=plan.seed, own=plan.own, threads=plan.threads,
    )  # fmt: skip
    if same != plan or not plan.points or plan.threads is not None:
        raise ValueError(f"plan {plan.name!r} is not one of chosen searchers: it has no such command")
    return shlex.join(words)


def _short(checkpoint: str) -> str:
    """The name of a checkpoint in `ckpts/`, the folder of one elsewhere."""
    folder = folder_of(checkpoint)
    return folder.name if folder.resolve().parent == paths.checkpoints().resolve() else checkpoint


def named(name: str, checkpoint: str | None = None, threads: int | None = None) -> Plan:
    """The plan of that name, of its own checkpoint unless one is given; ValueError that lists the names if there is none."""
    checkpoint = checkpoint or CHECKPOINTS.get(name, CHECKPOINT)
    match name:
        case "trained":
            return trained(checkpoint, threads)
        case "quick":
            return quick(checkpoint, threads=threads)
        case "standard":
            return standard(checkpoint, threads=threads)
        case "sizes":
            return sizes(threads)
        case "growth":
            return growth(checkpoint, threads=threads)
        case "crossing":
            return crossing(checkpoint, threads=threads)
        case "text":
            return text(checkpoint, threads=threads)
        case "books":
            return books(checkpoint, threads=threads)
    raise ValueError(
        f"no preset {name!r} of the search bench{did_you_mean(name, PRESETS)}; there are {', '.join(PRESETS)}"
    )
