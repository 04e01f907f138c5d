"""Searchers whose candidates come from an engine: the same as from a scan where it is exact, no proof where it is not."""

from collections.abc import Iterator

import pytest
import torch

from workbench.contracts import ItemState, QueryState
from workbench.search import BruteForce
from workbench.search.approximate import Approximate
from workbench.search.candidates import Scan, SourceBuilder
from workbench.search.engines.faiss import faiss_lists
from workbench.search.engines.lancedb import lance_lists
from workbench.search.engines.milvus import Milvus
from workbench.search.engines.usearch import usearch_lists
from workbench.search.indexes import HNSW, IVF, Flat
from workbench.search.sharded import Sharded, split
from workbench.similarities.mol import MixtureOfLogits, MoLConfig

ITEMS = 300


@pytest.fixture(scope="module")
def similarity() -> MixtureOfLogits:
    torch.manual_seed(0)
    config = MoLConfig(query_groups=2, item_groups=2, component_dim=8, query_hidden=16)
    return MixtureOfLogits(config, dim=12).eval()


def made(similarity: MixtureOfLogits, seed: int, ids: torch.Tensor) -> ItemState:
    vectors = torch.randn(len(ids), 12, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return similarity.items(vectors, ids)


@pytest.fixture(scope="module")
def items(similarity) -> ItemState:
    return made(similarity, 1, torch.arange(1, ITEMS + 1))


@pytest.fixture(scope="module")
def queries(similarity) -> QueryState:
    vectors = torch.randn(12, 12, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return similarity.queries(vectors, torch.arange(12))


@pytest.fixture(params=["faiss", "milvus"])
def exact_source(request, tmp_path) -> Iterator[SourceBuilder]:
    if request.param == "faiss":
        yield faiss_lists(Flat())
    else:
        with Milvus(tmp_path / "corpus.db") as milvus:
            yield milvus.lists


def shares(ids: torch.Tensor, others: torch.Tensor) -> float:
    return (ids[:, :, None] == others[:, None, :]).any(2).float().mean().item()


def test_proofs_are_those_of_a_scan_and_changes_reach_the_engine(similarity, items, queries, exact_source):
    searchers = [
        Approximate.of(similarity, items, n1=100, n2=30, lookahead=10, source=source)
        for source in (exact_source, Scan)
    ]
    whole = BruteForce(similarity, items)
    exclude = torch.randint(0, ITEMS, (12, 5), generator=torch.Generator().manual_seed(3))
    allowed = torch.rand(ITEMS, generator=torch.Generator().manual_seed(4)) < 0.5

    def compare(exclude: torch.Tensor | None, allowed: torch.Tensor | None) -> None:
        ours, scanned = (searcher.search(queries, 5, exclude, allowed) for searcher in searchers)
        truth = whole.search(queries, 5, exclude, allowed)
        assert torch.equal(ours.ids, scanned.ids) and torch.equal(ours.exact, scanned.exact)
        assert ours.exact.sum() > 0
        assert torch.equal(ours.ids[ours.exact], truth.ids[ours.exact])
        assert (truth.scores[:, -1] <= ours.scores[:, -1] + ours.gap).all()

    compare(None, None)
    compare(exclude, allowed)
    new, gone = made(similarity, 5, torch.tensor([7, 900, 800])), torch.tensor([1, 900])
    for searcher in (*searchers, whole):
        searcher.upsert(new)
        searcher.remove(gone)
    compare(exclude, allowed)


@pytest.mark.parametrize("source", [usearch_lists(), lance_lists()], ids=["usearch", "lancedb"])
def test_lists_without_proof_are_those_of_a_scan(similarity, items, queries, source):
    exclude = torch.randint(0, ITEMS, (7, 5), generator=torch.Generator().manual_seed(3))
    allowed = torch.rand(ITEMS, generator=torch.Generator().manual_seed(4)) < 0.2
    ours, scanned = (Approximate.of(similarity, items, n2=30, source=s) for s in (source, Scan))
    new, gone = made(similarity, 5, torch.tensor([7, 900, 800])), torch.tensor([1, 900])
    for change in (True, False):
        for masks in (
            {},
            {"exclude": exclude},
            {"exclude": exclude, "allowed": torch.ones(len(ours.items)).bool()},
        ):
            found, truth = (s.search(queries[:7], 5, **masks) for s in (ours, scanned))
            assert shares(found.ids, truth.ids) > 0.98 and not found.exact.any()
        mask = torch.cat([allowed, torch.ones(len(ours.items)).bool()])[: len(ours.items)]
        assert torch.equal(
            ours.search(queries[:1], 5, None, mask).ids, scanned.search(queries[:1], 5, None, mask).ids
        )
        for searcher in (ours, scanned) if change else ():
            searcher.upsert(new)
            searcher.remove(gone)
    with pytest.raises(ValueError, match="1 is not in this corpus"):
        ours.remove(gone)
    before = ours.search(queries, 5).ids
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "_derived", lambda items: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ours.remove(torch.tensor([3]))
    assert torch.equal(ours.search(queries, 5).ids, before)


def test_a_file_opened_again_serves_the_same_searcher(similarity, items, queries, tmp_path):
    found = []
    for _ in range(2):
        with Milvus(tmp_path / "corpus.db") as milvus:
            searcher = Approximate.of(similarity, items, n1=40, source=milvus.lists)
            found.append(searcher.search(queries, 5))
        built = Approximate.of(similarity, items, n1=40, source=faiss_lists(Flat(), tmp_path / "indexes"))
        found.append(built.search(queries, 5))
    assert sorted(path.name for path in (tmp_path / "indexes").iterdir()) == [
        "component-0.faiss",
        "component-1.faiss",
    ]
    assert all(torch.equal(one.ids, found[0].ids) for one in found)


@pytest.mark.parametrize("kind", [IVF(nlist=8, nprobe=6), HNSW()], ids=["ivf", "hnsw"])
@pytest.mark.parametrize("lists", [{"n1": 100}, {"n2": 100}], ids=["n1", "n2"])
def test_approximate_indexes_find_much_and_prove_nothing(similarity, items, queries, kind, lists):
    searcher = Approximate.of(similarity, items, **lists, source=faiss_lists(kind))
    found = searcher.search(queries, 5)
    assert not found.exact.any() and (found.gap == float("inf")).all()
    assert shares(found.ids, BruteForce(similarity, items).search(queries, 5).ids) > 0.5
    fresh = made(similarity, 6, torch.tensor([5]))
    if isinstance(kind, HNSW):
        with pytest.raises(NotImplementedError, match="rebuild it"):
            searcher.upsert(fresh)
        assert torch.equal(searcher.search(queries, 5).scores, found.scores)
    else:
        searcher.upsert(fresh)
        assert len(searcher.items) == ITEMS


def test_shards_of_engines_prove_what_each_proves(similarity, items, queries):
    def build(part: ItemState) -> Approximate:
        return Approximate.of(similarity, part, n1=20, until_certified=True, source=faiss_lists(Flat()))

    found = Sharded(build, split(items, 3)).search(queries, 5)
    truth = BruteForce(similarity, items).search(queries, 5)
    assert found.exact.all() and torch.equal(found.ids, truth.ids)
    assert (found.num_scored <= ITEMS).all()
