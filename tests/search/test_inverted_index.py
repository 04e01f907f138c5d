"""SparCode's inverted index, held to brute force over the same sparse score."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workbench.contracts import TopK
from workbench.search import BruteForce
from workbench.search.inverted_index import InvertedIndex, fingerprint
from workbench.search.postings import ends, ragged
from workbench.similarities.dot import DotConfig, DotProduct
from workbench.similarities.sparcode.quantizer import QuantizerConfig
from workbench.similarities.sparcode.similarity import (
    SparCode,
    SparCodeConfig,
    SparCodeItems,
    SparCodeQueries,
)

DIM = 6
SMALL = SparCodeConfig(
    query_tokens=3, item_tokens=2, token_dim=4, hidden=(8,), threshold=0.3, quantizer=QuantizerConfig(2, 5)
)
WAYS = {"added up": 0.0, "merged": float("inf")}


def model(config: SparCodeConfig = SMALL, seed: int = 0) -> SparCode:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        similarity = SparCode(config, DIM).train()
        similarity.queries(torch.randn(64, DIM), torch.arange(64))  # sets the codebooks
    return similarity.eval()


def states(
    similarity: SparCode, queries: int, items: int, seed: int = 1, ids: Tensor | None = None
) -> tuple[SparCodeQueries, SparCodeItems]:
    draws = torch.Generator().manual_seed(seed)
    ids = torch.randperm(items, generator=draws) + 1 if ids is None else ids
    with torch.no_grad():
        q = similarity.queries(torch.randn(queries, DIM, generator=draws), torch.arange(queries))
        x = similarity.items(torch.randn(len(ids), DIM, generator=draws), ids)
    return q, x


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to bring lists together, whatever their length."""
    monkeypatch.setattr("workbench.search.inverted_index.SPARSE_BELOW", request.param)


def by_brute_force(
    similarity: SparCode, q: SparCodeQueries, x: SparCodeItems, k: int, *, exclude=None, allowed=None
) -> TopK:
    """Brute force over the sparse score; what scores 0 was not found."""
    found = BruteForce(similarity, x).search(q, k, exclude, allowed)
    empty = found.scores <= 0
    return replace(
        found,
        scores=found.scores.masked_fill(empty, -torch.inf),
        ids=found.ids.masked_fill(empty, -1),
    )


def assert_same(found: TopK, expected: TopK) -> None:
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("interaction", ["dot", "maxsim", "crossnet", "dnn", "inner pdnn"])
def test_the_index_finds_what_brute_force_finds(interaction):
    similarity = model(replace(SMALL, interaction=interaction))
    q, x = states(similarity, 9, 60)
    draws = torch.Generator().manual_seed(2)
    exclude = torch.randint(0, 70, (9, 5), generator=draws)
    allowed = torch.rand(60, generator=draws) < 0.7
    for index in (InvertedIndex.build(similarity, x), InvertedIndex.build(similarity, x, q.codes)):
        for k in (1, 10, 60):
            assert_same(index.search(q, k), by_brute_force(similarity, q, x, k))
            assert_same(
                index.search(q, k, exclude, allowed),
                by_brute_force(similarity, q, x, k, exclude=exclude, allowed=allowed),
            )
        found = index.search(q, 10)
        assert found.exact.all() and (found.gap == 0).all()
        assert torch.equal(found.num_scored, (similarity.score(q, x) > 0).sum(1))


@pytest.mark.usefixtures("way")
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 9),
    items=st.integers(1, 40),
    k=st.integers(1, 40),
    threshold=st.floats(-2, 2),
    budget=st.sampled_from([1, 5000, 2**20]),
)
def test_any_threshold_and_budget_gives_the_sparse_score(seed, items, k, threshold, budget):
    similarity = model(seed=seed % 3)
    q, x = states(similarity, 5, items, seed)
    k = min(k, items)
    index = InvertedIndex.build(similarity, x, loosest=torch.inf, memory_budget=budget).at(threshold)
    found = index.search(q, k)
    with torch.no_grad():
        similarity.threshold.fill_(threshold)
    assert_same(found, by_brute_force(similarity, q, x, k))
    similarity_size = index.size()
    assert similarity_size.postings == InvertedIndex.build(similarity, x).size().postings
    for b in range(len(q)):
        assert_same(index.search(q[b : b + 1], k), found[b : b + 1])
    assert torch.equal(index.search(q, items).ids[:, :k], found.ids)


@pytest.mark.usefixtures("way")
def test_ties_stay_in_the_order_of_the_corpus():
    similarity = model()
    q, x = states(similarity, 4, 12)
    same = replace(x, parts=x.parts[:1].expand(12, -1).contiguous())
    found = InvertedIndex.build(similarity, same, threshold=50.0).search(q, 12)
    assert found.ids.tolist() == [x.ids.tolist()] * 4


def test_codes_that_are_not_in_the_index_are_empty_lists_and_said():
    similarity = model()
    q, x = states(similarity, 30, 40)
    index = InvertedIndex.build(similarity, x, q.codes[:1])
    found = index.search(q, 5)
    known = torch.isin(q.codes, q.codes[0])
    assert not known.all(1).all() and found.exact[0]
    assert torch.equal(found.exact, known.all(1))
    assert torch.equal(found.gap == torch.inf, ~known.all(1))
    empty = InvertedIndex.build(similarity, x, q.codes[:0])
    assert (empty.search(q, 3).ids == -1).all() and not empty.search(q, 3).exact.any()


def test_what_the_lists_do_not_hold_is_said():
    similarity = model()
    q, x = states(similarity, 8, 40)
    index = InvertedIndex.build(similarity, x, loosest=torch.inf)
    sparse = index.at(index.threshold_for(0.97))
    found = sparse.search(q, 30)
    short = found.shortfall
    assert (short > 0).all() and not found.exact.any() and (found.gap == torch.inf).all()
    assert torch.equal(short, (found.scores == -torch.inf).sum(1))
    assert torch.equal(30 - short, found.num_scored.clamp(max=30))
    nothing = index.at(-1e9)
    assert nothing.search(q, 4).shortfall.tolist() == [4] * 8
    full = index.search(q, 4)
    assert full.exact.all() and (full.gap == 0).all() and not full.shortfall.any()
    assert (nothing.size().postings, nothing.size().sparsity) == (0, 1.0)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.99, 1.0])
def test_sparsity_is_reached_without_scoring_again(sparsity):
    similarity = model()
    _, x = states(similarity, 1, 40)
    index = InvertedIndex.build(similarity, x, loosest=torch.inf)
    size = index.at(index.threshold_for(sparsity)).size()
    assert size.sparsity == pytest.approx(sparsity, abs=1 / (25 * 40))
    assert size.average_items == pytest.approx(40 * (1 - sparsity), abs=1)
    assert size.nbytes == 8 * size.postings + 8 * (2 * 25 + 1)
    tight = InvertedIndex.build(similarity, x, threshold=-1.0)
    with pytest.raises(ValueError, match=r"what a threshold of -1 or less keeps.*larger `loosest`"):
        tight.at(0.5)
    with pytest.raises(ValueError, match="leaves out"):
        tight.threshold_for(0.0)
    with pytest.raises(ValueError, match="sparsity must lie"):
        index.threshold_for(1.5)


@pytest.mark.usefixtures("way")
def test_items_are_added_replaced_and_removed():
    similarity = model()
    q, x = states(similarity, 6, 30)
    _, new = states(similarity, 1, 0, seed=5, ids=torch.tensor([7, 90, 12, 91]))
    index = InvertedIndex.build(similarity, x, loosest=torch.inf).at(0.1)
    index.upsert(new)
    index.remove(torch.tensor([3, 91]))
    corpus = x.upsert(new).without(torch.tensor([3, 91]))
    rebuilt = InvertedIndex.build(similarity, corpus, threshold=0.1, loosest=torch.inf)
    assert torch.equal(index.postings.offsets, rebuilt.postings.offsets)
    assert torch.equal(index.postings.rows, rebuilt.postings.rows)
    torch.testing.assert_close(index.postings.values, rebuilt.postings.values)
    assert_same(index.search(q, 30), rebuilt.search(q, 30))
    with pytest.raises(ValueError, match="item 3 is not in this corpus"):
        index.remove(torch.tensor([3]))
    with pytest.raises(ValueError, match="corpus"):
        index.remove(corpus.ids)
    with pytest.raises(ValueError, match="corpus is made of"):
        index.upsert(DotProduct(DotConfig()).items(torch.randn(1, DIM), torch.tensor([5])))
    assert_same(index.search(q, 30), rebuilt.search(q, 30))


def test_a_saved_index_is_the_same_and_mapped(tmp_path):
    similarity = model()
    q, x = states(similarity, 6, 30)
    index = InvertedIndex.build(similarity, x, loosest=torch.inf)
    sparse = index.at(index.threshold_for(0.8))
    sparse.save(tmp_path / "index.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["index.safetensors"]
    loaded = InvertedIndex.load(tmp_path / "index.safetensors", similarity, x)
    assert loaded.size() == sparse.size()
    assert_same(loaded.search(q, 10), sparse.search(q, 10))
    assert loaded.postings.values.is_cpu and not loaded.postings.values.requires_grad
    with pytest.raises(ValueError, match="or less keeps"):
        loaded.at(sparse.threshold + 1)


def test_what_is_no_index_of_this_model_and_corpus_is_refused(tmp_path):
    similarity = model()
    _, x = states(similarity, 6, 30)
    path = tmp_path / "index.safetensors"
    InvertedIndex.build(similarity, x).save(path)
    with pytest.raises(ValueError, match="another model or corpus"):
        InvertedIndex.load(path, model(seed=1), x)
    with pytest.raises(ValueError, match="another model or corpus"):
        InvertedIndex.load(path, similarity, x[:29])
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            InvertedIndex.load(path, similarity, x)
    x.save(path)
    with pytest.raises(ValueError, match="holds no index"):
        InvertedIndex.load(path, similarity, x)
    with pytest.raises(FileNotFoundError, match="there is no index"):
        InvertedIndex.load(tmp_path / "none", similarity, x)


def test_no_flipped_bit_of_an_index_goes_unnoticed(tmp_path):
    similarity = model()
    q, x = states(similarity, 6, 30)
    path = tmp_path / "index.safetensors"
    index = InvertedIndex.build(similarity, x, q.codes)
    index.save(path)
    whole, expected = path.read_bytes(), index.search(q, 5)
    for place in range(5, 8 * len(whole), 8 * len(whole) // 250):
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            found = InvertedIndex.load(path, similarity, x).search(q, 5)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert_same(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: replace(p, rows=p.rows - 1), "a negative row"),
        (lambda p: replace(p, rows=p.rows + 1), "rows beyond the 30 items"),
        (lambda p: replace(p, values=p.values.flip(0)), "not in descending order"),
        (lambda p: replace(p, values=p.values * torch.inf), "not finite"),
        (lambda p: replace(p, codes=p.codes.flip(0)), "codes are not in ascending order"),
        (lambda p: replace(p, rows=p.rows.long()), "rows and values are .*torch.int64, torch.float32"),
    ],
)
def test_lists_that_no_index_has_are_refused(tmp_path, change, message):
    similarity = model()
    q, x = states(similarity, 6, 30)
    index = InvertedIndex.build(similarity, x, q.codes, threshold=0.5)
    path = tmp_path / "index.safetensors"
    metadata = {"record": "sparcode index 1", "fingerprint": fingerprint(similarity, x), "threshold": "0.5"}
    change(index.postings).save(path, {}, metadata)
    with pytest.raises(ValueError, match=message):
        InvertedIndex.load(path, similarity, x)


def test_a_write_that_fails_leaves_the_old_index_whole(tmp_path, monkeypatch):
    similarity = model()
    _, x = states(similarity, 6, 30)
    path = tmp_path / "index.safetensors"
    InvertedIndex.build(similarity, x).save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        InvertedIndex.build(similarity, x, threshold=0.0).save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_input_is_named():
    similarity = model()
    q, x = states(similarity, 6, 30)
    index = InvertedIndex.build(similarity, x)
    with pytest.raises(ValueError, match="k is 31, but the corpus holds 30 items"):
        index.search(q, 31)
    with pytest.raises(ValueError, match="k must be at least 1"):
        index.search(q, 0)
    with pytest.raises(ValueError, match="exclude has 2 rows for 6 queries"):
        index.search(q, 1, torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="have no codes"):
        index.search(replace(q, codes=None), 1)
    dot = DotProduct(DotConfig())
    with pytest.raises(ValueError, match="takes SparCodeQueries, not DotQueries"):
        index.search(dot.queries(torch.randn(2, DIM), torch.arange(2)), 1)
    with pytest.raises(ValueError, match="no codes to index"):
        InvertedIndex.build(model(replace(SMALL, quantizer=None)), x)
    with pytest.raises(ValueError, match=r"call \.eval\(\) first"):
        InvertedIndex.build(model().train(), x)
    with pytest.raises(ValueError, match=r"codes take .*more than the .*allowed: index only the codes"):
        InvertedIndex.build(similarity, x, threshold=9.0, byte_limit=500)
    many = replace(SMALL, token_dim=8, quantizer=QuantizerConfig(4, 4096))
    with pytest.raises(ValueError, match=r"make 281,474,976,710,656 codes.*only the codes that occur"):
        InvertedIndex.build(model(many), x)
    with pytest.raises(ValueError, match="finite number"):
        InvertedIndex.build(similarity, x, threshold=torch.inf)
    with pytest.raises(ValueError, match="score of the index is NaN"):
        InvertedIndex.build(similarity, replace(x, parts=x.parts * torch.nan))
    with pytest.raises(ValueError, match="memory_budget"):
        InvertedIndex.build(similarity, x, memory_budget=0)
    assert index.search(q[:0], 3).ids.shape == (0, 3)


@given(lengths=st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_ragged_ranges(lengths):
    starts = torch.arange(len(lengths)) * 10
    expected = [s + i for s, n in zip(starts.tolist(), lengths, strict=True) for i in range(n)]
    assert ragged(starts, torch.tensor(lengths)).tolist() == expected
    assert ends(torch.tensor(lengths))[-1] == len(expected)
