"""One query: what was found, missed and extra, and what the bounds say."""

import math

import pytest
import torch

from workbench.bench.lens import Seen, candidates, seen
from workbench.bench.methods import METHODS, SearcherSpec
from workbench.bench.searcher_pool import SearcherPool
from workbench.bench.workloads import Trained, Workload, build

CPU = torch.device("cpu")


@pytest.fixture
def workload(checkpoint: str) -> Workload:
    return build(Trained(checkpoint), 8, 0, CPU)


def look(workload: Workload, text: str, query: int = 3, k: int = 5) -> Seen:
    point = SearcherSpec.read(text)
    return seen(workload, SearcherPool(workload).get(point.entry(), 1), point, query, k)


def test_a_short_list_misses_items_and_has_others_instead(workload: Workload) -> None:
    one = look(workload, "average n2=6", k=5)
    by = one.items.set_index("item")
    missed, extra = one.places["missed"].sum(), (one.places["true_place"] == 0).sum()
    assert missed == extra > 0 and not one.matches_brute_force and not one.certified
    assert (by.loc[one.places["true"][one.places["missed"]], "outcome"] == "missed").all()
    assert (by.loc[one.places["found"][one.places["true_place"] == 0], "outcome"] == "extra").all()
    assert one.scored == 6 and one.s_k < one.true_s_k
    for place, item in zip(one.places["true_place"], one.places["found"], strict=True):
        assert place == 0 or one.places["true"][place - 1] == item
    history = set(workload.exclude[3].tolist())
    assert not history & set(one.items["item"])


def test_outcomes_follow_the_bound(workload: Workload) -> None:
    one = look(workload, "per component n1=3")
    ruled_out, survives = (one.items[one.items["outcome"] == o] for o in ("ruled out", "survives"))
    assert (ruled_out["bound"] < one.s_k).all() and (survives["bound"] >= one.s_k).all()
    assert one.survivors == (one.items["bound"] >= one.s_k).sum()
    assert one.items["outcome"].isin({"found", "extra", "missed", "survives", "ruled out"}).all()


@pytest.mark.parametrize("text", ["per component n1=3", "average n2=7", "combined n1=2,n2=5"])
def test_candidates_are_those_that_the_searcher_scores(workload: Workload, text: str) -> None:
    one = look(workload, text)
    may = ~torch.isin(workload.items.ids, workload.exclude[3])
    items = workload.items[may]
    logits = workload.similarity.component_logits(workload.queries[3:4], items)[0]
    listed = candidates(SearcherSpec.read(text), logits)
    assert listed is not None and int(listed.sum()) == one.scored
    assert one.outside == pytest.approx(float(logits.amax(1)[~listed].max()))
    # The searcher has the ends of its lists, and never less than the figure shows.
    if math.isfinite(one.gap):
        assert one.s_k + one.gap >= one.outside - 1e-3


def test_brute_force_leaves_nothing_and_an_index_does_not_tell(workload: Workload) -> None:
    one = look(workload, "brute force")
    assert one.outside == -math.inf and one.certified and one.matches_brute_force and one.s_k == one.true_s_k
    assert math.isnan(look(workload, "h-indexer width=4,keep=6").outside)
    assert math.isnan(look(workload, "exact with a bound").outside)


def test_a_list_that_ends_early_has_no_threshold(workload: Workload) -> None:
    one = look(workload, "average n2=2", k=5)
    assert one.s_k == -math.inf and one.places["found"].tolist()[2:] == [-1, -1, -1]
    assert one.survivors == len(one.items) and not (one.items["outcome"] == "ruled out").any()


@pytest.mark.parametrize("name", [m.name for m in METHODS.values() if not m.own_score and not m.needs_faiss])
def test_every_method_can_be_looked_at(workload: Workload, name: str) -> None:
    small = {"n1": 4, "n2": 6, "keep": 6, "width": 4, "ef": 6, "degree": 4}
    point = SearcherSpec.of(name, **{p.name: small[p.name] for p in METHODS[name].parameters})
    one = seen(workload, SearcherPool(workload).get(point.entry(), 1), point, 0, 5)
    assert len(one.places) == 5 and (one.matches_brute_force or not one.certified)


@pytest.mark.parametrize(
    ("query", "k", "said"), [(8, 5, "query 8 is not one of the 8"), (0, 30, "k must lie in 1 to 19")]
)
def test_what_cannot_be_looked_at_is_said(workload: Workload, query: int, k: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        look(workload, "brute force", query, k)
