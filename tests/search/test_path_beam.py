"""The path beam beyond what all searchers share: what it reaches, its shortfall, its memory of models and corpora."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from walkers import PATHS, Everywhere

from workbench.kernels import path_walk
from workbench.search import BruteForce
from workbench.search.path_beam import PathBeam, PathLists, fingerprint
from workbench.similarities import DeepRetrieval, DeepRetrievalConfig
from workbench.similarities.deep_retrieval.similarity import DeepRetrievalItems, DeepRetrievalQueries
from workbench.similarities.dot import DotConfig, DotProduct

INF = float("inf")
ITEMS, DIM = 60, 5
CONFIG = DeepRetrievalConfig(
    depth=2,
    width=4,
    paths=2,
    node_dim=3,
    hidden=8,
    candidates=4,
    candidate_beam=8,
    beam=3,
    normalize=False,
    temperature=1.0,
)


def model(seed: int = 0) -> DeepRetrieval:
    torch.manual_seed(seed)
    made = DeepRetrieval(CONFIG, DIM, ITEMS).eval()
    with torch.no_grad():
        for layer in made.structure.user_parts:
            layer.weight.mul_(5)  # users that differ in their paths
    return made


def states(m: DeepRetrieval, queries: int = 7) -> tuple[DeepRetrievalQueries, DeepRetrievalItems]:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        q = m.queries(torch.randn(queries, DIM, generator=generator), torch.zeros(queries, dtype=torch.long))
        x = m.items(torch.randn(ITEMS, DIM, generator=generator), torch.arange(1, ITEMS + 1))
    return q, x


def literally(
    m: DeepRetrieval,
    q: DeepRetrievalQueries,
    x: DeepRetrievalItems,
    beam: int,
    k: int,
    left_out: set[int],
    occupied: bool,
) -> list[tuple[list[int], int]]:
    """One query after the other: walk, collect, drop, sort."""
    answers = []
    probabilities = m.structure.log_probs(q.users, torch.arange(16).expand(len(q), -1)).detach()
    scores = m.score(q, x).detach()
    stood_on = set(x.paths.flatten().tolist())
    for b in range(len(q)):
        ends = m.structure.beam(q.users[b : b + 1], 16).paths[0].tolist()
        kept = {p // 4 for p in ends if not occupied or p in stood_on}
        begun = sorted(kept, key=lambda first: -float(probabilities[b].view(4, 4).exp()[first].sum()))[:beam]
        ends = [p for p in ends if p // 4 in begun and (not occupied or p in stood_on)][:beam]
        reached = [row for row in range(len(x)) if set(x.paths[row].tolist()) & set(ends)]
        found = [row for row in reached if int(x.ids[row]) not in left_out]
        found.sort(key=lambda row: (-float(scores[b, row]), row))
        ids = [int(x.ids[row]) for row in found[:k]]
        answers.append((ids + [-1] * (k - len(ids)), len(reached)))
    return answers


@pytest.mark.parametrize("occupied", [True, False])
@pytest.mark.parametrize("beam", [1, 2, 3, 5])
@pytest.mark.parametrize("budget", [1, 2**28])
def test_what_is_found_is_what_a_loop_over_the_beam_finds(beam, budget, occupied):
    m = model()
    q, x = states(m)
    x = x[torch.randperm(ITEMS, generator=torch.Generator().manual_seed(3))[:23]]
    searcher = PathBeam(m, x, m, beam, occupied, memory_budget=budget)
    found = searcher.search(q, 9, torch.tensor([[5, 8, 0, 99]] * 7))
    expected = literally(m, q, x, beam, 9, {5, 8}, occupied)
    assert found.ids.tolist() == [ids for ids, _ in expected]
    assert found.num_scored.tolist() == [work for _, work in expected]
    assert torch.equal(found.shortfall, (found.ids == -1).sum(1))


def test_a_beam_over_all_paths_is_brute_force_and_exact():
    m = model()
    q, x = states(m)
    exclude = torch.randint(0, ITEMS + 1, (7, 6), generator=torch.Generator().manual_seed(2))
    allowed = torch.arange(ITEMS) % 3 != 0
    whole, found = BruteForce(m, x), PathBeam.of(m, x, beam=16)
    for arguments in ((), (exclude,), (exclude, allowed)):
        a, b = whole.search(q, 8, *arguments), found.search(q, 8, *arguments)
        assert torch.equal(a.ids, b.ids) and torch.equal(b.exact, torch.ones(7, dtype=torch.bool))
        torch.testing.assert_close(a.scores, b.scores)
        assert bool((b.num_scored == ITEMS).all()) and bool((b.gap == 0).all())


def test_it_is_exact_where_what_it_did_not_reach_may_not_be_found_anyway():
    m = model()
    q, x = states(m, 1)
    searcher = PathBeam.of(m, x, beam=2)
    rows = searcher.reached(q)[0][0]
    assert 0 < len(rows) < ITEMS
    part = searcher.search(q, 3)
    assert not part.exact.any() and float(part.gap[0]) == INF and int(part.num_scored[0]) == len(rows)
    allowed = torch.zeros(ITEMS, dtype=torch.bool).index_fill(0, rows, True)
    assert bool(searcher.search(q, 3, allowed=allowed).exact.all())
    others = x.ids[~allowed][None]
    assert bool(searcher.search(q, 3, others).exact.all())
    assert not searcher.search(q, 3, others[:, 1:]).exact.any()
    assert bool(searcher.search(q, 3, others[:, 1:], ~torch.isin(x.ids, others[:, 0])).exact.all())


def test_paths_that_hold_fewer_than_k_end_the_list_and_say_so():
    m = model()
    q, x = states(m)
    found = PathBeam.of(m, x, beam=1).search(q, ITEMS)
    assert torch.equal(found.shortfall, ITEMS - found.num_scored) and bool((found.shortfall > 0).all())
    for b in range(7):
        n = int(found.num_scored[b])
        assert bool((found.ids[b, :n] > 0).all()) and bool((found.ids[b, n:] == -1).all())
        assert bool((found.scores[b, n:] == -INF).all())
    wider = PathBeam.of(m, x, beam=6).search(q, ITEMS)
    assert bool((wider.shortfall < found.shortfall).all())


def test_an_item_on_several_paths_of_the_beam_is_scored_once():
    m = model()
    q, x = states(m)
    searcher = PathBeam.of(m, x, beam=16)
    rows, counts = searcher.reached(q)
    assert torch.equal(rows, torch.arange(ITEMS).expand(7, -1)) and (counts == ITEMS).all()


@pytest.mark.parametrize("beam", [1, 3, 16])
def test_native_and_torch_reach_the_same_items(monkeypatch, beam):
    if not path_walk.serves():
        pytest.skip("no compiler")
    m = model()
    q, x = states(m)
    searcher = PathBeam.of(m, x, beam)
    native = searcher.reached(q)
    found = searcher.search(q, 5)
    monkeypatch.setattr(path_walk, "serves", lambda *_: False)
    rows, counts = searcher.reached(q)
    assert torch.equal(native[0], rows) and torch.equal(native[1], counts)
    plain = searcher.search(q, 5)
    assert torch.equal(found.ids, plain.ids) and torch.equal(found.scores, plain.scores)


@settings(max_examples=40, deadline=None)
@given(paths=st.lists(st.lists(st.integers(-1, 8), min_size=2, max_size=2), min_size=1, max_size=20))
def test_lists_hold_every_item_of_a_path_in_the_order_of_the_corpus(paths):
    lists = PathLists.of(torch.tensor(paths))
    assert lists.codes.tolist() == sorted({p for row in paths for p in row} - {-1})
    for i, code in enumerate(lists.codes.tolist()):
        held = lists.rows[lists.offsets[i] : lists.offsets[i + 1]].tolist()
        assert held == [row for row, on in enumerate(paths) for p in on if p == code]


def test_items_come_go_and_move_with_their_paths():
    m = model()
    q, x = states(m)
    searcher = PathBeam.of(m, x)
    far = DeepRetrievalItems(torch.tensor([500]), 100 * q.vectors[:1], m.structure.beam(q.users[:1], 2).paths)
    searcher.upsert(far)
    assert int(searcher.search(q, 1).ids[0, 0]) == 500
    searcher.remove(torch.tensor([500]))
    assert torch.equal(searcher.search(q, 4).ids, PathBeam.of(m, x).search(q, 4).ids)
    lost = DeepRetrievalItems(torch.tensor([501]), q.vectors[:1], torch.full((1, 2), -1))
    with pytest.raises(ValueError, match="item 501 has no path"):
        searcher.upsert(lost)
    assert torch.equal(searcher.search(q, 4).ids, PathBeam.of(m, x).search(q, 4).ids)


@pytest.mark.parametrize("path", [-5, 16])
def test_paths_of_another_structure_are_refused(path):
    m = model()
    _, x = states(m)
    wrong = DeepRetrievalItems(
        x.ids, x.vectors, x.paths.index_put((torch.tensor([3]), torch.tensor([1])), torch.tensor(path))
    )
    with pytest.raises(
        ValueError, match=r"2 layers of 4 nodes number them 0\.\.15: these are another model's items"
    ):
        PathBeam.of(m, wrong)


def test_beams_and_budgets_must_be_positive():
    m = model()
    _, x = states(m)
    with pytest.raises(ValueError, match="at least 1 path, not 0"):
        PathBeam.of(m, x, beam=0)
    with pytest.raises(ValueError, match="memory_budget must be a positive number"):
        PathBeam(m, x, m, memory_budget=0)


def saved(tmp_path: object) -> Tensor:
    m = model()
    q, x = states(m)
    searcher = PathBeam.of(m, x, beam=5)
    searcher.save(tmp_path / "index")  # type: ignore[operator]
    return searcher.search(q, 7).ids


def test_an_index_is_found_again_by_its_model(tmp_path):
    ids = saved(tmp_path)
    m = model()
    q, x = states(m)
    again = PathBeam.load(tmp_path / "index", m, x.ids)
    assert again.beam == 5 and torch.equal(again.search(q, 7).ids, ids)
    assert again.nbytes() == PathBeam.of(m, x).nbytes() > x.nbytes()
    assert PathBeam.load(tmp_path / "index", m, beam=2).beam == 2
    saved(tmp_path)  # over what is there
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index"]


def test_an_index_of_another_model_or_corpus_is_refused(tmp_path):
    saved(tmp_path)
    m = model()
    _, x = states(m)
    other = model(seed=1)
    assert fingerprint(other) != fingerprint(m)
    with pytest.raises(ValueError, match="the index of another model"):
        PathBeam.load(tmp_path / "index", other)
    with pytest.raises(ValueError, match="the index of another corpus of 60 items"):
        PathBeam.load(tmp_path / "index", m, x.ids.flip(0))
    with pytest.raises(FileNotFoundError, match="no path index"):
        PathBeam.load(tmp_path / "nothing", m)


@pytest.mark.parametrize("damage", ["cut", "json", "format", "items", "swap"])
def test_a_damaged_index_is_refused(tmp_path, damage):
    saved(tmp_path)
    m = model()
    _, x = states(m)
    described, items = tmp_path / "index" / "index.json", tmp_path / "index" / "items.safetensors"
    match damage:
        case "cut":
            described.write_text(described.read_text()[:30])
        case "json":
            described.write_text("[]")
        case "format":
            described.write_text(json.dumps(json.loads(described.read_text()) | {"format": 9}))
        case "items":
            items.write_bytes(items.read_bytes()[:200])
        case "swap":
            x[:7].save(items)
    with pytest.raises(ValueError, match=r"damaged|format|cut short|does not hold"):
        PathBeam.load(tmp_path / "index", m)


@pytest.mark.parametrize("change", [{"beam": 1}, {"beam": 9}, {"occupied_only": "swapped"}, {"items": 3}])
def test_a_changed_description_is_refused_and_one_without_a_digest_is_read(tmp_path, change):
    saved(tmp_path)
    described = tmp_path / "index" / "index.json"
    written = json.loads(described.read_text())
    if "occupied_only" in change:
        change = {"occupied_only": not written["occupied_only"]}
    described.write_text(json.dumps(written | change))
    with pytest.raises(ValueError, match=r"index\.json is damaged \(its content is not what was written\)"):
        PathBeam.load(tmp_path / "index", model())
    described.write_text(json.dumps({name: value for name, value in written.items() if name != "digest"}))
    PathBeam.load(tmp_path / "index", model())


def test_nothing_is_left_of_an_index_that_cannot_be_written(tmp_path):
    m = model()
    _, x = states(m)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        PathBeam.of(m, x).save(tmp_path / "file" / "index")
    dot = DotProduct(DotConfig()).eval()
    plain = dot.items(torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.arange(1, 4))
    with pytest.raises(ValueError, match="only the index of a DeepRetrieval model is saved"):
        PathBeam(dot, plain, Everywhere(), beam=PATHS).save(tmp_path / "index")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
