"""An index by name, saved, loaded, searched by the user's own ids; embeddings from anywhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import workbench as wb
from workbench.contracts import ItemState, Searcher, Similarity
from workbench.front_door import Index, Recommender
from workbench.registry import Settings
from workbench.search import BruteForce, registry
from workbench.search.registry import AverageSettings, BruteForceSettings

N, D = 40, 6
SMALL: dict[str, dict[str, int]] = {
    "brute-force": {},
    "exact": {},
    "per-component": {"n1": 40},
    "average": {"n2": 40},
    "combined": {"n1": 20, "n2": 40},
    "h-indexer": {"width": 6, "keep": 40},
    "faiss-ivf": {"n2": 40, "nlist": 4, "nprobe": 4},
    "faiss-hnsw": {"n2": 40},
}
"""Parameters under which every searcher of a dot product finds the true best of 40 items."""


@pytest.fixture(scope="module")
def model() -> Recommender:
    vectors = np.random.default_rng(0).normal(size=(N, D))
    return wb.from_embeddings(vectors, ids=[f"{i:03d}" for i in range(N)])


@pytest.mark.parametrize("searcher", SMALL)
def test_a_saved_index_finds_what_the_built_one_does(model, searcher, tmp_path):
    index = model.index(searcher, **SMALL[searcher])
    expected = model.index("brute-force").search([["003"], ["010", "011"]], k=4)
    found = index.search([["003"], ["010", "011"]], k=4)
    np.testing.assert_array_equal(found.topk.ids, expected.topk.ids)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    loaded = Index.load(index.save(tmp_path / "index"))
    assert loaded.settings == index.settings
    table = loaded.search([["003"], ["010", "011"]], k=4).to_source()
    assert table.equals(found.to_source())
    assert table["query"].tolist() == [0] * 4 + [1] * 4
    index.save(tmp_path / "index")  # the same index again


def test_own_embeddings_rank_by_their_inner_product(model):
    queries = np.random.default_rng(1).normal(size=(3, D)).astype(np.float32)
    found = model.index().search_embeddings(queries, k=5)
    items = model.retriever.item_table.weight[1:].detach().numpy()
    best = np.argsort(-(queries @ items.T), axis=1)[:, :5]
    assert found.to_source()["item_id"].tolist() == [f"{i:03d}" for i in best.ravel()]
    assert found.exact.all()


def test_another_index_is_never_replaced_unless_it_is_asked_for(model, tmp_path):
    first = model.index("brute-force").save(tmp_path / "index")
    with pytest.raises(ValueError, match="index"):
        model.index("exact").save(first)
    assert Index.load(first).settings == BruteForceSettings()
    model.index("exact").save(first, replace=True)
    assert Index.load(first).settings.kind == "exact"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters.txt").write_text("dear")
    with pytest.raises(ValueError, match="letters"):
        model.index("exact").save(tmp_path / "mine", replace=True)
    assert (tmp_path / "mine" / "letters.txt").read_text() == "dear"


def test_errors_say_what_to_do(model, tmp_path):
    with pytest.raises(ValueError, match=r"unknown searcher 'exakt'; this version has .*exact"):
        model.index("exakt")
    with pytest.raises(ValueError, match="has no setting n1; it has n2"):
        model.index("average", n1=3)
    with pytest.raises(ValueError, match="parameters go with a searcher's name"):
        model.index(AverageSettings(3), n2=4)
    with pytest.raises(ValueError, match="Deep Retrieval's own"):
        model.index("paths")
    with pytest.raises(ValueError, match="have 5 numbers each, the items' have 6"):
        model.index().search_embeddings(np.zeros((1, 5)))
    with pytest.raises(FileNotFoundError, match=r"holds no index\.json"):
        Index.load(tmp_path)
    index = model.index("average", n2=5).save(tmp_path / "index")
    (index / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        Index.load(index)
    (index / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="describes no searcher"):
        Index.load(index)
    for wrong, message in (
        ([[1.0, np.nan]], "row 0 holds NaN"),
        ([1.0, 2.0], "must be a matrix"),
        ([[1.0], [1.0, 2.0]], "of one length"),
    ):
        with pytest.raises(ValueError, match=message):
            wb.from_embeddings(wrong)
    with pytest.raises(ValueError, match="'a' appears twice"):
        wb.from_embeddings([[1.0], [2.0]], ids=["a", "a"])
    with pytest.raises(ValueError, match="2 embeddings, 1 ids"):
        wb.from_embeddings([[1.0], [2.0]], ids=["a"])


@dataclass(frozen=True)
class BackwardsSettings:
    kind: ClassVar[str] = "backwards"
    budget: int = 4096


def backwards(settings: BackwardsSettings, similarity: Similarity, items: ItemState) -> Searcher:
    return BruteForce(similarity, items, settings.budget)


def test_a_searcher_of_ones_own_is_saved_and_loaded(
    model: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.SEARCHERS, "_parts", dict(registry.SEARCHERS._parts))
    registry.register(BackwardsSettings, title="brute force of a small budget")(backwards)
    settings: Settings = BackwardsSettings(2048)
    for index in (model.index(settings), model.index("backwards", budget=2048)):
        loaded = Index.load(index.save(tmp_path / "index"))
        assert loaded.settings == settings
        assert len(loaded.search([["001"]], k=3).to_source()) == 3
