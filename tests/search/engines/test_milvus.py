"""Lists from Milvus, on its embedded engine: built, searched, changed, opened again, and refused where they are not ours."""

import fcntl
import logging
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from workbench.search.candidates import CandidateSource, Scan
from workbench.search.engines import milvus as room
from workbench.search.engines.milvus import FINGERPRINT, VECTOR, Milvus, MilvusLists
from workbench.search.indexes import HNSW, IVF, IVFPQ, Flat

INF = float("inf")


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


VECTORS = torch.randn(200, 8, generator=chance())
IDS = torch.randperm(10**6, generator=chance(1))[:200] + 10**12
QUERIES = torch.randn(5, 8, generator=chance(2))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("milvus") / "corpus.db"
    return path


@pytest.fixture(scope="module")
def milvus(file) -> Iterator[Milvus]:
    with Milvus(file, prefix="module") as opened:
        yield opened


@pytest.fixture(scope="module")
def flat(milvus) -> CandidateSource:
    """Not to be changed."""
    return milvus.lists("component-0", IDS, VECTORS)


def assert_same(first: CandidateSource, second: CandidateSource) -> None:
    one, other = first.lists(QUERIES, 9), second.lists(QUERIES, 9)
    assert torch.equal(one.rows, other.rows)
    torch.testing.assert_close(one.scores, other.scores)


def test_a_flat_index_lists_what_a_scan_lists(flat):
    scan = Scan("component-0", IDS, VECTORS)
    exclude = (QUERIES @ VECTORS.T).topk(3, dim=1).indices
    exclude[:, 2] = -1
    few, many = (torch.rand(200, generator=chance(3)) < share for share in (0.1, 0.9))
    for allowed in (None, few, many, torch.ones(200, dtype=torch.bool), torch.zeros(200, dtype=torch.bool)):
        for count in (1, 12, 200, 300):
            found, expected = (source.lists(QUERIES, count, exclude, allowed) for source in (flat, scan))
            assert torch.equal(found.rows, expected.rows)
            torch.testing.assert_close(found.scores, expected.scores)
            assert_a_bound(found.outside_bound, found.rows, exclude, allowed)
            torch.testing.assert_close(found.outside_bound, expected.outside_bound, rtol=0, atol=1e-3)


def assert_a_bound(outside_bound: Tensor, rows: Tensor, exclude: Tensor, allowed: Tensor | None) -> None:
    products = QUERIES.double() @ VECTORS.double().T
    if allowed is not None:
        products[:, ~allowed] = -INF
    for query, (row, left_out) in enumerate(zip(rows, exclude, strict=True)):
        known = torch.cat([row, left_out])
        products[query, known[known >= 0]] = -INF
    assert (products.amax(1) <= outside_bound.double()).all()


def test_a_call_that_the_embedded_engine_does_not_have_leaves_no_log(milvus, caplog):
    """pymilvus requires a time stamp before it waits for an index, and does without."""
    milvus.lists("silent", IDS, VECTORS)
    assert milvus.client._get_connection().alloc_timestamp() == 0
    assert "not implemented" not in caplog.text
    try:
        raise NotImplementedError("a call of somebody else's server")
    except NotImplementedError:
        logging.getLogger("grpc._server").exception("somebody else's")
    assert "somebody else's server" in caplog.text


def test_no_queries_and_queries_of_another_width(flat):
    assert flat.lists(QUERIES[:0], 3).rows.shape == (0, 3)
    with pytest.raises(ValueError, match="width 8, not 4"):
        flat.lists(torch.ones(1, 4), 3)


def test_parts_of_requests_come_together(milvus, monkeypatch, capsys):
    monkeypatch.setattr(room, "BATCH_BYTES", 4 * 8 * 30)
    monkeypatch.setattr(room, "IDS_TOGETHER", 7)
    monkeypatch.setattr(room, "HITS_TOGETHER", 20)
    monkeypatch.setattr(milvus, "progress", True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    source = milvus.lists("parts", IDS, VECTORS)
    assert "module_parts: 100%" in capsys.readouterr().err
    assert_same(source, Scan("parts", IDS, VECTORS))
    source.remove(IDS[:50])
    assert_same(source, Scan("parts", IDS[50:], VECTORS[50:]))


def test_limits_are_kept_or_named(flat, monkeypatch):
    monkeypatch.setattr(room, "LONGEST_LIST", 50)
    with pytest.raises(ValueError, match="at most 50 items per query, not 51"):
        flat.lists(QUERIES, 51)
    # History and count together: the list is shorter, and the bound still true.
    exclude = (QUERIES @ VECTORS.T).topk(20, dim=1).indices
    found = flat.lists(QUERIES, 50, exclude)
    assert ((found.rows >= 0).sum(1) == 30).all()
    assert_a_bound(found.outside_bound, found.rows, exclude, None)
    # A filter too long to send is applied to the results.
    monkeypatch.setattr(room, "FILTERED_IDS", 10)
    allowed = torch.arange(200) % 2 == 0
    found = flat.lists(QUERIES, 20, None, allowed)
    assert allowed[found.rows[found.rows >= 0]].all()
    expected = Scan("component-0", IDS, VECTORS).lists(QUERIES, 20, None, allowed)
    assert torch.equal(found.rows[:, :10], expected.rows[:, :10])
    assert (found.outside_bound >= (QUERIES @ VECTORS.T).sort(dim=1, descending=True).values[:, 50]).all()


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (IVF(nlist=4, nprobe=4), {"nlist": 4}),
        (HNSW(m=8, ef_construction=50, ef_search=60), {"M": 8, "efConstruction": 50}),
    ],
    ids=["ivf", "hnsw"],
)
def test_an_approximate_index_proves_nothing(file, kind, parameters):
    with Milvus(file, kind, prefix=kind.name) as other:
        source = other.lists("average", IDS, VECTORS)
        described = other.client.describe_index(other.collection("average"), VECTOR)
        assert described["params"] == parameters
        found = source.lists(QUERIES, 20)
        assert (found.outside_bound == INF).all()
        expected = Scan("average", IDS, VECTORS).lists(QUERIES, 20)
        assert (found.rows[:, :, None] == expected.rows[:, None, :]).any(2).float().mean() > 0.9
    with (
        Milvus(file, Flat(), prefix=kind.name) as again,
        pytest.raises(ValueError, match=r"was built with .* not as Flat"),
    ):
        again.lists("average", IDS, VECTORS)


def test_a_collection_is_changed_and_opened_again(tmp_path):
    path = tmp_path / "nested" / "corpus.db"
    new = torch.randn(4, 8, generator=chance(4))
    put = torch.cat([IDS[[7, 3]], torch.tensor([5, 4])])
    scan = Scan("average", IDS, VECTORS)
    scan.upsert(put, new)
    scan.remove(IDS[[0, 3]])
    with Milvus(path) as milvus:
        source = milvus.lists("average", IDS, VECTORS)
        source.upsert(put, new)
        source.remove(IDS[[0, 3]])
        assert_same(source, scan)
    whole = torch.cat([VECTORS, new[2:]])
    whole[7] = new[0]
    kept = torch.tensor([row for row in range(202) if row not in (0, 3)])
    ids = torch.cat([IDS, put[2:]])[kept]
    with Milvus(path) as milvus:
        assert_same(milvus.lists("average", ids, whole[kept]), scan)
        with pytest.raises(
            ValueError, match=r"workbench_average is of other vectors.*Milvus.drop\('average'\)"
        ):
            milvus.lists("average", IDS, VECTORS)
        milvus.drop("average")
        assert_same(milvus.lists("average", IDS, VECTORS), Scan("average", IDS, VECTORS))


def test_a_vector_that_is_not_finite_stays_out(milvus):
    vectors = VECTORS.clone()
    vectors[3, 2] = float("nan")
    source = milvus.lists("undefined", IDS, vectors)
    found = source.lists(QUERIES, 200)
    assert (found.outside_bound == INF).all() and not (found.rows == 3).any()
    source.upsert(IDS[[3, 4]], torch.stack([VECTORS[3], torch.full((8,), INF)]))
    found = source.lists(QUERIES, 200)
    assert (found.outside_bound == INF).all() and (found.rows == 3).any() and not (found.rows == 4).any()
    source.upsert(IDS[[4]], VECTORS[[4]])
    assert (source.lists(QUERIES, 200).outside_bound == -INF).all()


def test_collections_that_are_not_of_this_corpus_are_refused(milvus, flat):
    with pytest.raises(
        ValueError, match="module_component_0 holds vectors of width 8, not 4: another model's"
    ):
        milvus.lists("component-0", IDS, VECTORS[:, :4])
    with pytest.raises(ValueError, match="of other vectors"):
        milvus.lists("component-0", IDS.flip(0), VECTORS)
    milvus.client.create_collection("module_foreign", dimension=8)
    with pytest.raises(ValueError, match="module_foreign was not made here"):
        milvus.lists("foreign", IDS, VECTORS)
    assert_same(milvus.lists("component-0", IDS, VECTORS), flat)


def test_a_collection_that_was_changed_elsewhere_is_refused(milvus):
    milvus.lists("touched", IDS, VECTORS)
    name = milvus.collection("touched")
    milvus.client.upsert(name, [{"item_id": int(IDS[0]), "vector": (VECTORS[0] * 2).numpy()}])
    with pytest.raises(ValueError, match="answers with other inner products"):
        milvus.lists("touched", IDS, VECTORS)
    milvus.client.delete(name, ids=[int(IDS[1])])
    with pytest.raises(ValueError, match="holds 199 vectors, not 200"):
        milvus.lists("touched", IDS, VECTORS)
    milvus.client.alter_collection_properties(name, {FINGERPRINT: ""})
    with pytest.raises(ValueError, match="half built or half changed"):
        milvus.lists("touched", IDS, VECTORS)


def test_an_interrupted_change_is_seen(milvus, monkeypatch):
    source = milvus.lists("interrupted", IDS, VECTORS)

    def interrupted(self: MilvusLists, ids: Tensor) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MilvusLists, "_delete", interrupted)
    with pytest.raises(KeyboardInterrupt):
        source.remove(IDS[:3])
    with pytest.raises(ValueError, match="half built or half changed"):
        milvus.lists("interrupted", IDS, VECTORS)


def test_users_of_one_file_share_it(file, flat):
    with Milvus(file, IVF(), prefix="module") as other:
        with pytest.raises(ValueError, match="at least 256 vectors, there are 200"):
            other.lists("small", IDS, VECTORS)
        assert not other.client.has_collection("module_small")
    other.close()
    assert flat.lists(QUERIES, 1).rows.shape == (5, 1)


@pytest.mark.parametrize(
    ("address", "options", "message"),
    [
        ("corpus.sqlite", {}, "neither a file that ends in .db nor an address"),
        ("corpus.db", {"prefix": "1 corpus"}, "begin with no digit, not '1 corpus'"),
        ("corpus.db", {"kind": IVFPQ()}, "milvus-lite has no IVF-PQ"),
    ],
)
def test_addresses_names_and_kinds_are_checked(address, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Milvus(tmp_path / address, **options)
    assert not list(tmp_path.iterdir())


def sqlite(place: Path) -> None:
    with sqlite3.connect(place) as database:
        database.execute("create table a (b)")
    database.close()


def below_a_file(place: Path) -> None:
    place.parent.write_text("hello\n")


@pytest.mark.parametrize(
    ("make", "name", "error", "message"),
    [
        (sqlite, "corpus.db", ValueError, "is a database of an earlier milvus-lite"),
        (
            lambda place: place.write_text("hello\n"),
            "corpus.db",
            ValueError,
            "is not a database of milvus-lite",
        ),
        (below_a_file, "text/corpus.db", OSError, "cannot be written (File exists)"),
        (lambda place: None, "/proc/corpus.db", OSError, "cannot be written (No such file or directory)"),
    ],
)
def test_what_cannot_be_opened_is_distinguished(make, name, error, message, tmp_path, caplog):
    make(tmp_path / name)
    with pytest.raises(error) as raised:
        Milvus(tmp_path / name)
    assert str(raised.value).startswith(str(tmp_path / name))
    assert message in str(raised.value)
    assert str(raised.value).isprintable()
    assert caplog.text == ""


def test_a_file_that_another_process_uses_is_distinguished(tmp_path):
    (tmp_path / "corpus.db").mkdir()
    with (tmp_path / "corpus.db" / "LOCK").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConnectionError, match=r"corpus\.db is in use by another process; close it there"):
            Milvus(tmp_path / "corpus.db")
    with Milvus(tmp_path / "corpus.db") as milvus:
        milvus.lists("component-0", IDS, VECTORS)


@pytest.mark.parametrize(
    ("pattern", "flipped"),
    [
        ("schema.json", None),
        ("schema.json", 400),
        ("data_*.parquet", None),
        ("*.flat.idx", None),
        ("*.flat.idx", 131),  # the sign of a number of the first vector
    ],
)
def test_a_damaged_database_is_one_line(pattern, flipped, tmp_path):
    place = tmp_path / "corpus.db"
    with Milvus(place) as milvus:
        milvus.lists("component-0", IDS, VECTORS)
    (file,) = place.rglob(pattern)
    content = bytearray(file.read_bytes())
    if flipped is None:
        del content[len(content) // 2 :]
    else:
        content[flipped] ^= 0x80
    file.write_bytes(content)
    with Milvus(place) as milvus, pytest.raises(ValueError, match="component_0") as raised:
        milvus.lists("component-0", IDS, VECTORS)
    assert str(raised.value).isprintable()


def test_a_missing_server_is_named():
    with pytest.raises(ConnectionError, match=r"no Milvus answers at http://127\.0\.0\.1:9.*ends in \.db"):
        Milvus("http://127.0.0.1:9", timeout=0.5)


@pytest.mark.parametrize("package", ["pymilvus", "milvus_lite"])
def test_without_the_packages_the_install_command_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package} is not installed.*retrieval-workbench\[milvus\]"):
        Milvus(tmp_path / "corpus.db")
