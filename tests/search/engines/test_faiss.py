"""Lists from faiss: what each kind of index promises, filters, changes, files, and what cannot be had."""

import subprocess
import sys
from pathlib import Path

import faiss
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.search.candidates import CandidateSource, Lists, Scan
from workbench.search.engines.faiss import FaissLists, faiss_lists
from workbench.search.indexes import HNSW, IVF, IVFPQ, Flat, IndexKind, digests, fingerprint

INF = float("inf")
APPROXIMATE: dict[str, IndexKind] = {
    "ivf": IVF(nlist=8, nprobe=4),
    "hnsw": HNSW(m=8, ef_construction=40, ef_search=60),
    "ivfpq": IVFPQ(nlist=8, nprobe=4, m=8, bits=5),
}
KINDS: dict[str, IndexKind] = {"flat": Flat(), **APPROXIMATE}


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def corpus() -> tuple[Tensor, Tensor, Tensor]:
    """Ids that are no rows, unit vectors of 400 items, and 6 queries."""
    vectors = torch.nn.functional.normalize(torch.randn(400, 16, generator=chance()), dim=1)
    ids = torch.randperm(1000, generator=chance(1))[:400] + 1
    return ids, vectors, torch.randn(6, 16, generator=chance(2))


def recall(lists: Lists, exact: Tensor) -> float:
    rows = exact.topk(lists.rows.shape[1], dim=1).indices
    return (lists.rows[:, :, None] == rows[:, None, :]).any(2).float().mean().item()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_lists_are_descending_distinct_and_scored_as_the_vectors_are(corpus, kind):
    ids, vectors, queries = corpus
    found = FaissLists(kind, "average", ids, vectors).lists(queries, 20)
    products = queries @ vectors.T
    assert found.rows.shape == (6, 20)
    assert (found.scores[:, 1:] <= found.scores[:, :-1]).all()
    assert all(len(set(row)) == 20 for row in found.rows.tolist())
    tolerance = 0.3 if isinstance(kind, IVFPQ) else 1e-5
    assert (found.scores - products.gather(1, found.rows)).abs().mean() < tolerance
    assert recall(found, products) >= (0.3 if isinstance(kind, IVFPQ) else 0.8 if kind != Flat() else 1.0)


@pytest.mark.parametrize("kind", APPROXIMATE.values(), ids=APPROXIMATE.keys())
def test_an_approximate_index_proves_nothing(corpus, kind):
    ids, vectors, queries = corpus
    found = FaissLists(kind, "average", ids, vectors).lists(queries, 400)
    assert (found.outside_bound == INF).all()
    # Cells that were not looked at leave the end of the lists empty.
    assert torch.equal(found.rows == -1, found.scores == -INF)
    assert found.rows.shape == (6, 400)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_filters_and_history(corpus, kind):
    ids, vectors, queries = corpus
    source = FaissLists(kind, "average", ids, vectors)
    allowed = torch.rand(400, generator=chance(3)) < 0.2
    exclude = (queries @ vectors.T).topk(3, dim=1).indices
    exclude[:, 2] = -1
    found = source.lists(queries, 30, exclude, allowed)
    present = found.rows >= 0
    assert present.any()
    assert allowed[found.rows[present]].all()
    assert not (found.rows[:, :, None] == exclude[:, None, :2]).any()
    assert torch.equal(present, found.scores > -INF)
    nothing = source.lists(queries, 5, None, torch.zeros(400, dtype=torch.bool))
    assert (nothing.rows == -1).all()
    everything = source.lists(queries, 5, None, torch.ones(400, dtype=torch.bool))
    assert torch.equal(everything.rows, source.lists(queries, 5).rows)


def test_ids_far_apart_are_filtered_too(corpus):
    _, vectors, queries = corpus
    ids = torch.arange(400) * 10**12 + 7
    allowed = torch.arange(400) % 2 == 1
    found = FaissLists(Flat(), "average", ids, vectors).lists(queries, 200, None, allowed)
    assert torch.equal(found.rows.sort(dim=1).values, torch.arange(1, 400, 2).expand(6, -1))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_flat_index_lists_what_a_scan_lists(data):
    n, q = data.draw(st.integers(1, 30)), data.draw(st.integers(0, 4))

    def matrix(rows: int) -> Tensor:
        small = st.integers(-2, 2).map(float)
        return torch.tensor(data.draw(st.lists(small, min_size=2 * rows, max_size=2 * rows))).reshape(rows, 2)

    ids = torch.tensor(data.draw(st.lists(st.integers(1, 99), min_size=n, max_size=n, unique=True)))
    vectors, queries = matrix(n), matrix(q)
    count, h = data.draw(st.integers(1, n + 3)), data.draw(st.integers(0, 4))
    exclude = torch.tensor(
        data.draw(st.lists(st.integers(-1, n - 1), min_size=q * h, max_size=q * h)), dtype=torch.int64
    ).reshape(q, h)
    allowed = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    expected, found = (
        source.lists(queries, count, exclude, allowed)
        for source in (Scan("average", ids, vectors), FaissLists(Flat(), "average", ids, vectors))
    )
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.outside_bound == -INF, expected.outside_bound == -INF)
    assert_a_bound(found, queries, vectors, exclude, allowed)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("listed", [0, 5, 60, 200])
def test_more_is_fetched_for_those_alone_whose_lists_are_excluded(corpus, kind, listed, monkeypatch):
    ids, vectors, queries = corpus
    source = FaissLists(kind, "average", ids, vectors)
    order = source.lists(queries, 400).rows
    exclude = order[:, 399 - 150 :].clone()  # long, and far down all lists
    exclude[2, :listed] = order[2, :listed][: exclude.shape[1]] if listed <= 151 else -1
    if listed > 151:
        exclude = torch.cat([exclude, torch.where(torch.arange(6)[:, None] == 2, order[2, :listed], -1)], 1)
    fetches, search = [], source._search
    monkeypatch.setattr(source, "_search", lambda v, n, a: fetches.append((len(v), n)) or search(v, n, a))
    found = source.lists(queries, 20, exclude)
    if listed <= 5:
        assert fetches == [(6, 58)]
    else:
        assert fetches[0] == (6, 58) and len(fetches) > 1
        assert all(size == 1 for size, _ in fetches[1:])
        assert [n for _, n in fetches] == sorted({n for _, n in fetches})
    assert not (found.rows[:, :, None] == exclude[:, None, :]).logical_and(found.rows[:, :, None] >= 0).any()
    if kind == Flat():
        products = queries @ vectors.T
        for query, out in enumerate(exclude):
            products[query, out[out >= 0]] = -INF
        expected = products.topk(21, dim=1)
        assert torch.equal(found.rows, expected.indices[:, :20])
        assert (found.outside_bound >= expected.values[:, 20] - 1e-6).all()
        assert (found.outside_bound <= expected.values[:, 19] + 1e-4).all()


def assert_a_bound(
    found: Lists, queries: Tensor, vectors: Tensor, exclude: Tensor, allowed: Tensor | None
) -> None:
    """No row outside a list has an inner product above `outside_bound`."""
    products = queries.double() @ vectors.double().T
    if allowed is not None:
        products[:, ~allowed] = -INF
    for query in range(len(queries)):
        rows = torch.cat([found.rows[query], exclude[query]])
        products[query, rows[rows >= 0]] = -INF
    assert (products.amax(1) <= found.outside_bound.double()).all()
    assert found.error is not None and found.error.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_rounding_is_in_the_bound(dtype):
    """Vectors that differ by less than float32 can tell: the bound still holds for those handed in."""
    base = torch.randn(1, 32, generator=chance(4), dtype=torch.float64)
    vectors = (base + 1e-8 * torch.randn(200, 32, generator=chance(5), dtype=torch.float64)).to(dtype)
    queries = base.to(dtype)
    found = FaissLists(Flat(), "average", torch.arange(1, 201), vectors).lists(queries, 10)
    assert found.outside_bound.isfinite().all()
    assert_a_bound(found, queries, vectors, torch.empty(1, 0, dtype=torch.int64), None)
    assert (
        found.outside_bound.item() - found.scores[0, -1].item() < 1e-4 * queries.double().norm().item() ** 2
    )


def test_a_query_that_is_not_finite_is_certain_of_nothing(corpus):
    ids, vectors, _ = corpus
    queries = torch.full((3, 16), 1.0)
    queries[0, 3], queries[1, 3] = float("nan"), INF
    found = FaissLists(Flat(), "average", ids, vectors).lists(queries, 400)
    assert found.outside_bound.tolist() == [INF, INF, -INF]
    huge = FaissLists(Flat(), "average", ids, vectors * 3e38).lists(queries[2:] * 3e38, 400)
    assert huge.outside_bound.tolist() == [INF]


def test_a_vector_that_is_not_finite_leaves_all_open(corpus):
    ids, vectors, queries = corpus
    vectors = vectors.clone()
    vectors[3, 2], vectors[5, 0] = INF, float("nan")
    source = FaissLists(Flat(), "average", ids, vectors)
    found = source.lists(queries, 400)
    assert (found.outside_bound == INF).all()
    assert not torch.isin(found.rows, torch.tensor([3, 5])).any()
    source.upsert(ids[[3]], vectors[[4]])
    source.remove(ids[[5]])
    assert (source.lists(queries, 400).outside_bound == -INF).all()


def same_lists(first: CandidateSource, second: CandidateSource, queries: Tensor) -> bool:
    one, other = first.lists(queries, 9), second.lists(queries, 9)
    return torch.equal(one.rows, other.rows) and torch.allclose(one.scores, other.scores, atol=1e-5)


def test_items_are_replaced_added_and_removed(corpus):
    ids, vectors, queries = corpus
    new = torch.randn(5, 16, generator=chance(6))
    put = torch.cat([ids[[7, 3]], torch.tensor([2001, 2000, 2002])])
    scan, flat = Scan("average", ids, vectors), FaissLists(Flat(), "average", ids, vectors)
    ivf = FaissLists(IVF(nlist=4, nprobe=4), "average", ids, vectors)
    for source in (scan, flat, ivf):
        source.upsert(put, new)
        source.remove(torch.cat([ids[[0, 3]], torch.tensor([2002])]))
    assert same_lists(scan, flat, queries) and same_lists(scan, ivf, queries)
    whole = torch.cat([vectors, new[2:4]])
    whole[7] = new[0]
    kept = torch.tensor([row for row in range(402) if row not in (0, 3)])
    assert flat.fingerprint == fingerprint(torch.cat([ids, put[2:4]])[kept], digests(whole[kept]), width=16)
    for source in (flat, ivf):
        with pytest.raises(ValueError, match="width 16, not 3"):
            source.upsert(put[:1], torch.ones(1, 3))


def test_a_graph_takes_new_items_and_shows_what_it_cannot_do(corpus):
    ids, vectors, queries = corpus
    source = FaissLists(HNSW(), "average", ids, vectors)
    source.upsert(torch.tensor([5000]), 10 * queries[:1])
    assert source.lists(queries[:1], 1).rows.tolist() == [[400]]
    with pytest.raises(NotImplementedError, match="rebuild it"):
        source.upsert(ids[:1], vectors[:1])
    with pytest.raises(NotImplementedError, match="rebuild it"):
        source.remove(ids[:1])
    assert source.lists(queries[:1], 1).rows.tolist() == [[400]]


def test_a_graph_walks_as_far_as_a_long_list_needs():
    vectors = torch.nn.functional.normalize(torch.randn(4000, 24, generator=chance()), dim=1)
    queries = torch.randn(8, 24, generator=chance(1))
    source = FaissLists(HNSW(ef_search=16), "average", torch.arange(4000) + 1, vectors)
    assert recall(source.lists(queries, 1000), queries @ vectors.T) > 0.95


def test_more_probes_find_more(corpus):
    ids, vectors, queries = corpus
    source = FaissLists(IVF(nlist=16, nprobe=1), "average", ids, vectors)
    products = queries @ vectors.T
    few = recall(source.lists(queries, 20), products)
    source.tune(IVF(nlist=16, nprobe=16))
    assert few < recall(source.lists(queries, 20), products) == 1.0
    with pytest.raises(ValueError, match="needs another"):
        source.tune(IVF(nlist=8, nprobe=8))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_an_index_is_saved_and_loaded(corpus, kind, tmp_path):
    ids, vectors, queries = corpus
    build = faiss_lists(kind, tmp_path / "indexes")
    built, loaded = build("component-0", ids, vectors), build("component-0", ids, vectors)
    assert [path.name for path in (tmp_path / "indexes").iterdir()] == ["component-0.faiss"]
    assert same_lists(built, loaded, queries)
    with pytest.raises(ValueError, match=r"component-0\.faiss was built of other vectors"):
        build("component-0", ids, vectors + 1e-3)
    with pytest.raises(ValueError, match="other vectors"):
        build("component-0", ids.flip(0), vectors)


def test_search_parameters_may_differ_from_those_of_the_file(corpus, tmp_path):
    ids, vectors, queries = corpus
    path = tmp_path / "average.faiss"
    FaissLists(IVF(nlist=16, nprobe=1), "average", ids, vectors).save(path)
    loaded = FaissLists.load(path, IVF(nlist=16, nprobe=16), "average", ids, vectors)
    assert same_lists(loaded, Scan("average", ids, vectors), queries)
    with pytest.raises(ValueError, match=r"average\.faiss was built with"):
        FaissLists.load(path, IVF(nlist=8, nprobe=8), "average", ids, vectors)


@pytest.fixture(scope="module")
def whole_file(corpus, tmp_path_factory) -> Path:
    ids, vectors, _ = corpus
    path: Path = tmp_path_factory.mktemp("faiss") / "average.faiss"
    FaissLists(Flat(), "average", ids, vectors).save(path)
    return path


@pytest.mark.parametrize("length", [0, 5, 200, -1])
def test_a_file_that_is_cut_short_is_named(corpus, whole_file, tmp_path, length):
    ids, vectors, _ = corpus
    path = tmp_path / "average.faiss"
    path.write_bytes(whole_file.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"average\.faiss is damaged"):
        FaissLists.load(path, Flat(), "average", ids, vectors)


def test_foreign_and_damaged_files_are_named(corpus, whole_file, tmp_path):
    ids, vectors, _ = corpus
    path = tmp_path / "average.faiss"
    with pytest.raises(FileNotFoundError, match=r"no index at .*average\.faiss"):
        FaissLists.load(path, Flat(), "average", ids, vectors)
    path.write_bytes(b"words, not vectors\n" * 99)
    with pytest.raises(ValueError, match=r"average\.faiss is damaged"):
        FaissLists.load(path, Flat(), "average", ids, vectors)
    safetensors.torch.save_file({"ids": ids}, path, metadata={"record": "DotItems"})
    with pytest.raises(ValueError, match=r"average\.faiss holds a DotItems"):
        FaissLists.load(path, Flat(), "average", ids, vectors)
    with safetensors.safe_open(whole_file, framework="pt") as file:
        described, index = file.metadata(), file.get_tensor("index")
    safetensors.torch.save_file({"index": index[:99].clone()}, path, metadata=described)
    with pytest.raises(ValueError, match=r"average\.faiss is damaged"):
        FaissLists.load(path, Flat(), "average", ids, vectors)
    other = faiss.serialize_index(faiss.IndexFlatIP(3))
    del described["digest"]
    safetensors.torch.save_file({"index": torch.from_numpy(other)}, path, metadata=described)
    with pytest.raises(ValueError, match=r"average\.faiss holds 0 vectors of width 3"):
        FaissLists.load(path, Flat(), "average", ids, vectors)


def test_no_flipped_bit_goes_unnoticed(corpus, whole_file, tmp_path):
    ids, vectors, queries = corpus
    expected = FaissLists.load(whole_file, Flat(), "average", ids, vectors).lists(queries, 5)
    whole, path = whole_file.read_bytes(), tmp_path / "average.faiss"
    places = torch.randint(0, 8 * len(whole), (150,), generator=torch.Generator().manual_seed(0)).tolist()
    for place in [*places, *range(64, 8 * 600, 97)]:
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = FaissLists.load(path, Flat(), "average", ids, vectors).lists(queries, 5)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:  # a name that nothing looks at, of the digest itself perhaps
            assert torch.equal(found.rows, expected.rows) and torch.equal(found.scores, expected.scores)


def test_a_failed_save_leaves_what_was_there(corpus, whole_file, tmp_path, monkeypatch):
    ids, vectors, _ = corpus
    source = FaissLists(Flat(), "average", ids, vectors)
    path = tmp_path / "average.faiss"
    path.write_bytes(b"before")

    def interrupted(content: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        source.save(path)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("average.faiss", b"before")]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IVF(nlist=0), "nlist of IVF must be at least 1"),
        (lambda: IVF(nlist=4, nprobe=5), "nprobe is 5"),
        (lambda: IVFPQ(nlist=4, nprobe=5), "nprobe is 5"),
        (lambda: IVFPQ(bits=13), "at most 12"),
        (lambda: HNSW(m=1), "m of HNSW"),
        (lambda: HNSW(ef_search=0), "ef_search of HNSW"),
    ],
)
def test_parameters_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (IVF(nlist=401), "at least 401 vectors, there are 400; lower nlist"),
        (IVFPQ(nlist=8, nprobe=8, bits=9), "at least 512 vectors, there are 400; lower bits"),
        (IVFPQ(nlist=8, nprobe=8, m=3, bits=4), "m = 3 parts, which does not divide 16"),
    ],
)
def test_an_index_that_cannot_be_trained(corpus, kind, message):
    ids, vectors, _ = corpus
    with pytest.raises(ValueError, match=message):
        FaissLists(kind, "average", ids, vectors)


def test_queries_and_vectors_of_other_sizes(corpus):
    ids, vectors, _ = corpus
    with pytest.raises(ValueError, match="width 16, not 4"):
        FaissLists(Flat(), "average", ids, vectors).lists(torch.ones(1, 4), 3)


def test_without_faiss_the_way_out_is_named(corpus, monkeypatch):
    ids, vectors, queries = corpus
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'retrieval-workbench\[cpu\]'.*Scan lists candidates"):
        faiss_lists(Flat())("average", ids, vectors)
    assert Scan("average", ids, vectors).lists(queries, 3).rows.shape == (6, 3)


THREADS = """
import threading, torch
from workbench.search.engines.faiss import FaissLists
from workbench.search.indexes import IVF
torch.set_num_threads(2)
vectors = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
source = FaissLists(IVF(nlist=16, nprobe=16), "average", torch.arange(1, 2001), vectors)
expected = (vectors[:50] @ vectors.T).topk(5).indices.sort().values
wrong = []
def work():
    for _ in range(20):
        products = vectors[:50] @ vectors.T
        if not torch.equal(source.lists(vectors[:50], 5).rows.sort().values, products.topk(5).indices.sort().values):
            wrong.append(1)
workers = [threading.Thread(target=work) for _ in range(4)]
for worker in workers: worker.start()
for worker in workers: worker.join()
assert not wrong
print("done")
"""


def test_torch_and_faiss_share_a_process_and_its_threads():
    """Both bring an OpenMP of their own."""
    done = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


@pytest.mark.parametrize("kind", [IVF(nlist=2, nprobe=1), IVFPQ(nlist=2, nprobe=1, m=4, bits=1)])
def test_no_cells_are_found_by_products_that_overflow(kind):
    """faiss would end the process."""
    vectors = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(1, 21)
    with pytest.raises(ValueError, match=r"average has vectors of length .*e\+20: their products overflow"):
        FaissLists(kind, "average", ids, vectors * 1e20)
    assert FaissLists(kind, "average", ids, vectors * 1e15).lists(vectors, 3).rows.shape == (20, 3)
