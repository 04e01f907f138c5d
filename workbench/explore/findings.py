"""Findings: sentences computed from a run, so that they stay true for other data or another seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from IPython.display import Markdown

from workbench.bench import tables
from workbench.bench.methods import REFERENCE
from workbench.bench.watching import Watched
from workbench.theory.fitting import Fit
from workbench.theory.floor import floor_curve

EXACT = 1e-6
"""Relative errors this near each other are the same."""

NEARLY_EQUAL = 0.1
"""Groups whose mean weights differ by less than this share of an even weight use the components equally."""


def finding(*sentences: str) -> Markdown:
    """The sentences as a paragraph for display, marked as computed from this run."""
    return Markdown(f"**In this run:** {' '.join(sentences)}")


@dataclass(frozen=True)
class Crossing:
    """Where a curve crosses a level: at the measured `x`, or between it and the measurement `before` it."""

    x: float
    before: float | None = None

    def __str__(self) -> str:
        return f"at {self.x:,.0f}" if self.before is None else f"between {self.before:,.0f} and {self.x:,.0f}"


def crossing(table: pd.DataFrame, x: str, y: str, level: float, falling: bool = False) -> Crossing | None:
    """The smallest `x` whose `y` is `level` or more (`falling`: less); None if no row has one.

    >>> rows = pd.DataFrame({"beam": [4, 1, 2], "recall": [0.9, 0.2, 0.5]})
    >>> [str(crossing(rows, "beam", "recall", level)) for level in (0.8, 0.5, 0.1, 1.0)]
    ['between 2 and 4', 'at 2', 'at 1', 'None']
    """
    rows = table.sort_values(x)
    at, values = rows[x].to_numpy(), rows[y].to_numpy()
    beyond = values < level if falling else values >= level
    if not beyond.any():
        return None
    first = int(beyond.argmax())
    exact = first == 0 or values[first] == level or at[first] - at[first - 1] <= 1
    return Crossing(float(at[first]), None if exact else float(at[first - 1]))


def levels(curves: pd.DataFrame, unit: str, wanted: Sequence[tuple[str, float]]) -> Markdown:
    """Where curves first reach a level, a sentence for each (curve, level) of `wanted`; `curves` have `curve`, `x`, `y`."""
    sentences = []
    for curve, level in wanted:
        rows = curves[curves["curve"] == curve]
        where = crossing(rows, "x", "y", level)
        if where is None:
            most = rows.nlargest(1, "y").iloc[0]
            sentences.append(
                f"*{curve}* stays below {level:.0%}: its most is {most['y']:.0%}, at {most['x']:,.0f} {unit}."
            )
        else:
            sentences.append(f"*{curve}* reaches {level:.0%} {where} {unit}.")
    return finding(*sentences)


def values_at(curves: pd.DataFrame, x: float, unit: str) -> Markdown:
    """The value of each curve at `x`, as shares; `curves` have `curve`, `x`, `y`."""
    values = [f"{_at(rows, x):.0%} ({curve})" for curve, rows in curves.groupby("curve", sort=False)]
    return finding(f"With {x:,.0f} {unit}: {', '.join(values)}.")


def even_odds(curves: pd.DataFrame) -> Markdown:
    """With how many negatives each method fails as often as it succeeds; `curves` are from `against_negatives`."""
    sentences = []
    for method, rows in curves.groupby("curve", sort=False):
        where = crossing(rows, "x", "y", 0.5, falling=True)
        sentences.append(
            f"{method} succeeds more often with any number."
            if where is None
            else f"{method}: {where} negatives."
        )
    return finding("Failures begin to outnumber successes as follows.", *sentences)


def ahead(results: pd.DataFrame, pairs: Sequence[tuple[str, str]], family: str = "HR") -> Markdown:
    """At which cut-offs one method is above another; `results` has `method`, `metric` (`HR@10`) and `value`."""
    values = _by_cutoff(results, family)
    sentences = []
    for one, other in pairs:
        above = values.index[values[other] > values[one]]
        rest = values.index.difference(above)
        named, others, every = (", ".join(f"{k:,}" for k in ks) for ks in (above, rest, values.index))
        where = f"at k = {named}, of {every}"
        if not (len(above) and len(rest)):
            where = f"at {'every' if len(above) else 'no'} k"
        elif len(rest) < len(above):
            where = f"at every k but {others}"
        sentences.append(f"{other} is above {one} {where}.")
    return finding(*sentences)


def largest_leads(results: pd.DataFrame, pairs: Sequence[tuple[str, str]], family: str = "HR") -> Markdown:
    """At which cut-off one method's lead over another is largest, relative to the metric; `results` as for `ahead`."""
    values = _by_cutoff(results, family)
    sentences = []
    for one, other in pairs:
        lead = (values[other] / values[one] - 1).replace([math.inf, -math.inf], math.nan).dropna()
        if lead.empty:
            sentences.append(f"{one} finds nothing at any k, so no lead over it is defined.")
            continue
        most, k = float(lead.max()), int(lead.index[int(lead.argmax())])
        what = f"leads {one} most" if most > 0 else f"is nowhere above {one}, and nearest"
        sentences.append(f"{other} {what} at k = {k:,}: {most:+.0%} in {family}@{k:,}.")
    return finding(*sentences)


def widths(fits: Mapping[str, Fit]) -> Markdown:
    """How wide a dot product must be to match each fitted mixture, and whether that of equal parameters does."""
    sentences = []
    for name, fit in fits.items():
        error, curve = fit.error(), floor_curve(fit.target.scores)
        enough = (curve <= error + EXACT).nonzero()
        width = int(enough[0]) if len(enough) else len(curve)
        equal = float(curve[min(fit.equal_width, len(curve) - 1)])
        side = "is still below it" if equal < error else "is not below it"
        sentences.append(
            f"On *{name}* a dot product of width {width} matches the error of the mixture of width {fit.config.width},"
            f" {error:.2f}; the one with as many parameters {side} ({equal:.2f})."
        )
    return finding(*sentences)


def against_floors(fits: pd.DataFrame) -> Markdown:
    """Which mixtures are below the floors of dot products; `fits` has `fit` ("dot, …" is no mixture), `error`, `floor`,
    `equal_floor`."""
    rows = fits[~fits["fit"].str.startswith("dot")]
    sentences = []
    for column, what in (("floor", "of the same width"), ("equal_floor", "of equal parameters")):
        below = rows.loc[rows["error"] < rows[column], "fit"]
        names = f" ({'; '.join(map(str, below))})" if 0 < len(below) < len(rows) else ""
        ratio = (rows["error"] / rows[column].where(rows[column] > 0)).dropna()
        spread = (
            f"; their errors are {ratio.min():.2f} to {ratio.max():.2f} times this floor"
            if len(ratio)
            else ""
        )
        sentences.append(f"{len(below)} of {len(rows)} mixtures{names} are below the floor {what}{spread}.")
    return finding(*sentences)


def starts(fits: pd.DataFrame) -> Markdown:
    """How the same mixture ends from several starts; `fits` has `fit`, `error`, `equal_floor`."""
    best = fits.iloc[int(fits["error"].to_numpy().argmin())]
    sentences = [
        f"The smallest error is {best['error']:.2f}, from *{best['fit']}*: the mixture can represent at least that much."
    ]
    for name, error in zip(fits["fit"], fits["error"], strict=True):
        if name != best["fit"]:
            reach = "comes as near" if error <= 1.05 * best["error"] else f"ends at {error:.2f}"
            sentences.append(f"From *{name}* training {reach}.")
    equal = float(best["equal_floor"])
    above = " and ".join(f"*{name}*" for name in fits.loc[fits["error"] > equal, "fit"])
    end = f"From {above} training ends above" if above else "From every start training ends below"
    return finding(*sentences, f"{end} the floor of equal parameters ({equal:.2f}).")


def searchers(table: pd.DataFrame) -> Markdown:
    """What the settings of searchers cost and prove; `table` is a summary of the bench, of one workload, batch size and k."""
    same = table[~table["own_score"]] if "own_score" in table else table
    rows = same.dropna(subset=["recall"])
    sentences = []
    good = rows[rows["recall"] >= 0.99].nsmallest(1, "p50_ms")
    for label, latency, ratio in zip(*(good[c] for c in ("label", "p50_ms", "vs_brute_force")), strict=True):
        sentences.append(
            f"No searcher whose recall is at least .99 is faster than brute force, {latency:.3g} ms."
            if label == REFERENCE
            else f"The fastest whose recall is at least .99: *{label}*, {latency:.3g} ms, {ratio:.2f} times as fast as brute"
            " force."
        )
    labelled = rows.dropna(subset=["relative_hr"])
    lenient = int((labelled["relative_hr"] > labelled["recall"]).sum())
    if len(labelled):
        sentences.append(
            f"The relative hit rate is above the overlap recall in {lenient} of {len(labelled)} settings."
        )
    if len(rows):
        gap = (rows["matches_brute_force"] - rows["certified"]).to_numpy()
        one, size = rows.iloc[int(gap.argmax())], gap.max()
        sentences.append(
            f"Furthest from proving what is correct: *{one['label']}*, {one['matches_brute_force']:.0%} of its lists"
            f" match brute force, and {one['certified']:.0%} are certified."
            if size > 0
            else "Every list that matches brute force is certified."
        )
    return finding(*sentences)


def recall_by_size(table: pd.DataFrame) -> Markdown:
    """How recall at one setting changes from the smallest corpus to the largest; `table` is a summary of the bench."""
    rows = table.dropna(subset=["recall"]).sort_values("items")
    ends = rows.groupby("label", sort=False)["recall"].agg(["first", "last"]).round(3)
    change = ends["last"] - ends["first"]
    sentences = [
        f"Recall@{rows['k'].iloc[0]} {verb} from the smallest corpus to the largest in {len(found)} of {len(ends)} methods: "
        + "; ".join(f"*{name}*, {first:.3f} to {last:.3f}" for name, first, last in found.itertuples())
        + "."
        for verb, found in (("falls", ends[change < 0]), ("rises", ends[change > 0]))
        if len(found)
    ]
    return finding(*sentences or [f"Recall@{rows['k'].iloc[0]} is the same over all corpora."])


def average_or_components(tables: Mapping[str, pd.DataFrame]) -> Markdown:
    """How far lists by the average and lists per component go, by run: the best relative hit rate of each and its time.

    `tables` are summaries or published tables, by name, with `method`, `relative_hr` and `p50_ms`; those without a hit rate are
    left out.
    """
    sentences = []
    for name, table in tables.items():
        parts = []
        for method, lists in (("average", "lists by the average"), ("per component", "lists per component")):
            rows = table[table["method"] == method].dropna(subset=["relative_hr", "p50_ms"])
            if len(rows):
                best = rows.sort_values(["relative_hr", "p50_ms"], ascending=[False, True]).iloc[0]
                parts.append(f"{lists} reach {best['relative_hr']:.2f} ({best['p50_ms']:.3g} ms)")
        if parts:
            sentences.append(f"{name}, the best relative hit rates are: {' and '.join(parts)}.")
    return finding(*sentences)


def without_roofline(table: pd.DataFrame) -> Markdown:
    """Which methods have no shortest time, because the work of their first pass is not known; `table` has `roofline_ms`."""
    left_out = list(dict.fromkeys(table.loc[table["roofline_ms"].isna(), "method"]))
    if not left_out:
        return finding("Every method has a shortest time.")
    return finding(
        f"The work of these depends on the query or was not counted, so they have no shortest time and are not drawn:"
        f" {', '.join(f'*{name}*' for name in left_out)}."
    )


def average_claim(table: pd.DataFrame) -> Markdown:
    """`bench.tables.average_claim` of a run on text."""
    return finding(tables.average_claim(table))


def ablations(table: pd.DataFrame) -> Markdown:
    """Which changes take a mixture past a dot product on text; `table` is that of the study `text-ablations`."""
    ahead = table[table["difference_low"] > 0]
    behind = table[table["difference_high"] < 0]
    best, base = table.iloc[int(table["mixture"].argmax())], table.iloc[0]
    return Markdown(
        f"**In the stored table:** Of {len(table)} settings the mixture is ahead of the dot product in {len(ahead)}"
        f"{_named(ahead['change'])}, behind in {len(behind)}{_named(behind['change'])}; the others are not apart."
        f" The mixture is best with *{best['change']}*: its Hit@10 on validation is then {best['mixture']:.3f}, the dot"
        f" product's {best['dot']:.3f}. With *{base['change']}*, on training queries, the mixture's Hit@10 is"
        f" {base['mixture_train']:.3f} and the dot product's {base['dot_train']:.3f}; the mixture uses"
        f" {base['components']:.1f} of {base['of_components']:.0f} components, and {base['shared']:.0%} of the ten best"
        " documents are the same for both."
    )


def _named(changes: pd.Series) -> str:
    return f" (*{'*, *'.join(changes)}*)" if len(changes) else ""


def popular_list(popular: pd.DataFrame, items: int) -> Markdown:
    """How long one list for everybody must be to contain half of the next items; `popular` is from `popular_first`."""
    curve = popular[popular["curve"] == "of the users' next items"]
    first = f"The first {min(10, items)} items contain {_at(curve, min(10, items)):.1%} of the next items."
    half = crossing(curve, "x", "y", 0.5)
    if half is None:
        return finding(
            first, "Even the whole catalogue contains less than half: the others are already in the history."
        )
    return finding(
        first,
        f"Half of them are in the list {half} items: it then holds up to {half.x / items:.0%} of the catalogue.",
    )


def codewords(rounded: pd.DataFrame, items: int, share: float = 0.9) -> Markdown:
    """How many codewords keep a `share` of NDCG@10, and how many scores are then stored; `rounded`: from `rounded_queries`."""
    whole = float(rounded.loc[rounded["curve"] == "query as it is", "y"].iloc[0])
    rows = rounded[rounded["curve"] == "query rounded to a codeword"].assign(
        kept=lambda part: part["y"] / whole
    )
    enough = crossing(rows, "x", "kept", share)
    if enough is None:
        return finding(f"No number of codewords keeps {share:.0%} of NDCG@10, {whole:.3f}.")
    return finding(
        f"{share:.0%} of NDCG@10, {whole:.3f}, is kept {enough} codewords;",
        f"with {enough.x:,.0f} of them, {enough.x * items:,.0f} scores are stored for {items:,} items.",
    )


def groups_searched(walked: pd.DataFrame, found: str, scored: str) -> Markdown:
    """How many groups, and what share of the catalogue, nine tenths and all of the best items take.

    `walked` is from `walked_groups`; `found` and `scored` are its two curves.
    """
    sentences = []
    for level, what in ((0.9, "Nine tenths"), (1.0, "All")):
        rows = walked[walked["curve"] == found]
        where = crossing(rows, "x", "y", level)
        if where is None:
            sentences.append(f"{what} of the best items are found with no number of groups.")
            continue
        share = _at(walked[walked["curve"] == scored], where.x)
        sentences.append(
            f"{what} of the best items are found {where} groups, with up to {share:.0%} of the catalogue scored."
        )
    return finding(*sentences)


def order_in_time(repeats: pd.DataFrame) -> Markdown:
    """What equal timestamps and repeated items mean for this dataset; `repeats` is from `statistics.repeats`."""
    share = repeats.set_index("measure")["share"]
    tied = share["interactions in the same second as the previous one"]
    again = share["users with a repeated item"]
    if tied == 0:
        order = "No two interactions of a user fall in the same second: the order is known."
    else:
        order = f"{tied:.1%} of all interactions fall in the same second as the previous one: their order means little."
    if again == 0:
        return finding(order, "No user has an item twice, so excluding the history loses no test item.")
    return finding(
        order,
        f"{again:.1%} of the users have an item twice. If it is the test item, a search without the history misses it.",
    )


def learning(history: pd.DataFrame, pairs: Sequence[tuple[str, str]], metric: str = "NDCG@10") -> Markdown:
    """Which of two methods leads at the first measured epoch and at the last; `history` has `run`, `epoch` and the metric."""
    measured = history.dropna(subset=[metric]).pivot(index="epoch", columns="run", values=metric)
    sentences = []
    for one, other in pairs:
        both = measured[[one, other]].dropna()
        first, last = _leader(both.iloc[0], metric), _leader(both.iloc[-1], metric)
        begin, end = both.index[0], both.index[-1]
        if first == last or begin == end:
            sentences.append(
                f"Of {one} and {other}, {last} at the last measurement (epoch {end}), as at the first."
            )
        else:
            sentences.append(f"Of {one} and {other}, {first} at epoch {begin}, and {last} at epoch {end}.")
    return finding(*sentences)


def significance(differences: pd.DataFrame, metric: str = "NDCG@10") -> Markdown:
    """Which differences are larger than chance among users.

    `differences` has `comparison`, `metric`, `difference`, `low`, `high`.
    """
    rows = differences[differences["metric"] == metric]
    sentences = []
    for name, *values in zip(*(rows[c] for c in ("comparison", "difference", "low", "high")), strict=True):
        by, low, high = map(float, values)
        sure = "excludes 0" if low > 0 or high < 0 else "includes 0: no conclusion"
        sentences.append(
            f"{name}: {by:+.4f} {metric}, with an interval of {low:+.4f} to {high:+.4f}, which {sure}."
        )
    return finding(*sentences)


def gains(split: pd.DataFrame, pairs: Sequence[tuple[str, str]], metric: str = "NDCG@10") -> Markdown:
    """In which popularity groups one method is better than another; `split` has `method`, `group` (rarest first) and the
    metric."""
    sentences = []
    for one, other in pairs:
        first, second = (split[split["method"] == m][metric].to_numpy() for m in (one, other))
        ahead = ", ".join(str(i + 1) for i in range(len(first)) if second[i] > first[i])
        where = f"in groups {ahead} of {len(first)} (1 is the rarest)" if ahead else "in no group"
        sentences.append(f"{other} is ahead of {one} {where}.")
    return finding(*sentences)


def component_use(distances: Mapping[str, float], components: int) -> Markdown:
    """Which grouping of items the components follow; `distances` of mean weights (`anatomy.spread`), by grouping."""
    words = " and ".join(f"{value:.2g} for {name}" for name, value in distances.items())
    sentences = [
        f"The distance of a group's mean weights from the overall mean (root mean square over the pairs) is {words};"
        f" an even weight is {1 / components:.2g}."
    ]
    name, largest = max(distances.items(), key=lambda entry: entry[1])
    if largest < NEARLY_EQUAL / components:
        sentences.append("All groups use the components almost equally.")
    elif len(distances) > 1:
        sentences.append(f"The components separate {name} {'more' if len(distances) == 2 else 'most'}.")
    return finding(*sentences)


def balance(models: pd.DataFrame) -> Markdown:
    """How mixtures spread their weights, on average and for each pair; `models` is the second table of `anatomy.balance`."""
    sentences = [
        f"The mixture *{row.model}* uses {row.in_use_on_average:.2f} of {row.components} components on average, and"
        f" {row.in_use_per_pair:.2f} for each pair."
        for row in models.itertuples()
    ]
    if len(models) > 1:
        sharp = models.nsmallest(1, "in_use_per_pair")["model"].iloc[0]
        even = models.nlargest(1, "in_use_on_average")["model"].iloc[0]
        sentences.append(
            f"The weights of a pair are most concentrated in *{sharp}*, the mean weights most even in *{even}*."
        )
    return finding(*sentences)


def proofs(shares: pd.DataFrame) -> Markdown:
    """What the longest lists find and prove, for the trained gate; `shares` is from `proof_shares`."""
    trained = shares[shares["factor"] == 1.0]
    last = trained.iloc[-1]
    found = (
        f"Lists of {last['n1']:,.0f} contain the true answer for {last['matches_brute_force']:.0%} of the queries,"
        f" and prove it for {last['certified']:.0%}."
    )
    right, proved = (crossing(trained, "n1", column, 0.9) for column in ("matches_brute_force", "certified"))
    if right is None:
        return finding(found, "No list is long enough for nine of ten queries.")
    if proved is None:
        return finding(
            found,
            f"Nine of ten are correct with lists of {right.x:,.0f}, but none of these lengths proves nine of ten.",
        )
    return finding(
        found,
        f"Nine of ten are correct with lists of {right.x:,.0f}, and proved with lists of {proved.x:,.0f}.",
    )


def watched(searches: Mapping[str, Watched]) -> Markdown:
    """What watched searches for one query scored, found and proved, under the score that all but learned indexes share.

    Searches that brute force, the first of them, cannot be compared with (another score) are left out.
    """
    truth = next(iter(searches.values()))
    same = {name: one for name, one in searches.items() if np.array_equal(one.scores, truth.scores)}
    total, k = len(truth.ids), truth.found.ids.shape[1]
    best = set(truth.found.ids[0].tolist())
    complete: dict[str, tuple[int, int, bool]] = {}
    partial: dict[str, tuple[int, int, bool]] = {}
    for name, one in same.items():
        right = len(best & set(one.found.ids[0].tolist()))
        (complete if right == k else partial)[name] = (
            int(one.found.num_scored),
            right,
            bool(one.found.exact),
        )
    proved = {name: scored for name, (scored, _, sure) in complete.items() if sure}
    least = min(proved, key=lambda name: proved[name])
    others = [f"*{name}* ({scored:,})" for name, scored in proved.items() if name != least]
    sentences = [
        f"Of {total:,} items, *{least}* scores {proved[least]:,} and proves the list"
        f"{', as do ' + ', '.join(others) if others else ''}."
    ]
    lucky = [name for name, (_, _, sure) in complete.items() if not sure]
    if lucky:
        sentences.append(f"Correct without a proof: {', '.join(f'*{name}*' for name in lucky)}.")
    if partial:
        missed = ", ".join(f"*{name}* ({k - right} of {k})" for name, (_, right, _) in partial.items())
        sentences.append(f"Items of the true list missed: {missed}.")
    return finding(*sentences)


def bounds(table: pd.DataFrame) -> Markdown:
    """How much tighter bounds help; `table` has `bound`, `share left`, `oracle`, the plain bound first and the best k
    last."""
    plain, least = table.iloc[0], table.iloc[-1]
    best, known = (
        table.iloc[:-1][table.iloc[:-1]["oracle"] == oracle].nsmallest(1, "share left")
        for oracle in (False, True)
    )
    sentences = [f"The plain bound leaves {plain['share left']:.1%} of the corpus."]
    for row, kind in ((best, "bound without an oracle"), (known, "oracle")):
        if len(row) and row.iloc[0]["bound"] == plain["bound"]:
            sentences.append(f"No {kind} is tighter.")
        elif len(row):
            name, share = row.iloc[0][["bound", "share left"]]
            sentences.append(f"The tightest {kind} (*{name}*) leaves {share:.1%}.")
    return finding(*sentences, f"The best k are {least['share left']:.1%}.")


def protocol(effect: pd.DataFrame) -> Markdown:
    """The choice of protocol that moves a metric most, next to the spread between methods; `effect` is from `one_switch`."""
    methods = list(effect.columns[2:])
    strict, changed = effect[methods].astype(float).iloc[0], effect.iloc[1:].reset_index(drop=True)
    mean = changed[methods].astype(float).mean(axis=1)
    most = int(mean.abs().argmax())
    spread = strict.max() - strict.min()
    return finding(
        f"The choice that moves the mean most is *{changed['switch'].iloc[most]}: {changed['value'].iloc[most]}*"
        f" ({mean.iloc[most]:+.4f} on average).",
        f"The best and the worst of these {len(methods)} methods are {spread:.4f} apart under the strict protocol.",
    )


def _by_cutoff(results: pd.DataFrame, family: str) -> pd.DataFrame:
    """A row for each k in ascending order, a column for each method."""
    rows = results[results["metric"].str.startswith(f"{family}@")]
    values = rows.assign(k=rows["metric"].str.partition("@")[2].astype(int))
    return values.pivot(index="k", columns="method", values="value").sort_index()


def _leader(values: "pd.Series[float]", metric: str) -> str:
    if values.iloc[0] == values.iloc[1]:
        return f"both have the same {metric}"
    return f"{values.idxmax()} is ahead"


def _at(curve: pd.DataFrame, x: float) -> float:
    """`y` at the largest x of the curve that is at most `x`."""
    return float(curve[curve["x"] <= x].nlargest(1, "x")["y"].iloc[0])
