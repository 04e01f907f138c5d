"""An index by name, saved, loaded, searched by the user's own ids; embeddings from anywhere."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

import workbench as wb
from workbench.bench.memory import measured
from workbench.contracts import ItemState, Searcher, Similarity
from workbench.encoders import TwoTowerConfig
from workbench.front_door import Catalogue, Index, Recommender
from workbench.front_door.index import build
from workbench.front_door.saved_index import described_index, footprint
from workbench.models.query_table import QueryTable
from workbench.registry import Settings
from workbench.retriever import Retriever, RetrieverConfig
from workbench.search import BruteForce, registry
from workbench.search.registry import AverageSettings, BruteForceSettings
from workbench.similarities import MoLConfig

N, D = 40, 6
SMALL: dict[str, dict[str, int]] = {
    "brute-force": {},
    "brute-force-int16": {},
    "exact": {},
    "per-component": {"n1": 40},
    "average": {"n2": 40},
    "combined": {"n1": 20, "n2": 40},
    "h-indexer": {"width": 6, "keep": 40},
    "faiss-ivf": {"n2": 40, "nlist": 4, "nprobe": 4},
    "faiss-hnsw": {"n2": 40},
    "graph": {"ef": 40},
    "faiss-flat": {"n2": 40},
    "usearch": {"n2": 40},
    "milvus": {"n2": 40},
    "lancedb": {"n2": 40},
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


@pytest.mark.parametrize("searcher", [name for name in SMALL if name not in ("h-indexer", "milvus")])
def test_items_come_and_go_in_memory_and_on_disk(model, searcher, tmp_path):
    chance = np.random.default_rng(2)
    index = model.index(searcher, **SMALL[searcher] | ({"n2": 39} if "n2" in SMALL[searcher] else {}))
    queries = chance.normal(size=(5, D)).astype(np.float32)
    before = index.search_embeddings(queries, k=3).to_source()
    table = model.retriever.item_table.weight[1:].detach().numpy().copy()
    new = chance.normal(size=(3, D)).astype(np.float32) * 2
    changed = index.add(["new-1", "005", "new-2"], new, ["New", "Five", "New too"]).remove(["000", "new-2"])
    table[5] = new[1]
    names = [f"{i:03d}" for i in range(1, N)] + ["new-1"]
    expected = [
        names[i] for row in np.argsort(-queries @ np.vstack([table[1:], new[:1]]).T, axis=1) for i in row[:3]
    ]
    opened = Index.load(changed.save(tmp_path / "index"))
    again = Index.load(opened.add(["new-3"], new[2:]).remove(["new-3"]).save(tmp_path / "again"))
    for one in (changed, opened, again):
        assert one.search_embeddings(queries, k=3).to_source()["item_id"].tolist() == expected
    assert index.search_embeddings(queries, k=3).to_source().equals(before)
    assert again.search([["000", "new-2", "new-1"]], k=2).to_source().shape == (2, 6)
    with pytest.raises(ValueError, match="'000' was removed"):
        again.remove(["000"])
    assert len(again.add(["000"], table[:1]).corpus) == len(again.corpus) + 1


def test_an_index_of_a_cluster_finds_it_again_and_stores_no_token(model, tmp_path, monkeypatch):
    """The cluster is a client of milvus-lite that is called as one of a server would be."""
    pymilvus, lite = pytest.importorskip("pymilvus"), pytest.importorskip("milvus_lite.server_manager")
    address, token, seen = "http://milvus.example.org:19530", "root:secret", set()
    embedded, server = pymilvus.MilvusClient, str(tmp_path / "server.db")

    def client(address: str, token: str, timeout: float) -> object:
        seen.add((address, token))
        return embedded(server, timeout=timeout)

    monkeypatch.setattr(pymilvus, "MilvusClient", client)
    monkeypatch.setenv("WORKBENCH_MILVUS_TOKEN", token)
    index = model.index("milvus", n2=40, uri=address)
    folder = index.save(tmp_path / "index")
    for changed in (
        index,
        Index.load(folder).add(["new"], np.ones((1, D))),
        Index.load(folder).remove(["000"]),
    ):
        changed.save(folder, replace=True)
        opened = Index.load(folder)
        expected = BruteForce(model.retriever.similarity, opened.corpus)
        queries = model.embedded(torch.eye(D))
        assert torch.equal(opened.search_embeddings(np.eye(D), 5).topk.ids, expected.search(queries, 5).ids)
    assert seen == {(address, token)}
    collections = embedded(server).list_collections()
    assert len(collections) == 3 and all(name.endswith("_average") for name in collections)
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert any(address.encode() in content for content in files)
    assert not any(token.encode() in content for content in files)
    lite.server_manager_instance.release_server(server)


def test_what_cannot_be_added_is_said(model, tmp_path):
    index = model.index("brute-force")
    for ids, vectors, message in (
        (["a", "a"], np.zeros((2, D)), "repeat an id"),
        (["a"], np.zeros((1, D + 1)), "the model's have 6"),
        (["a"], np.full((1, D), np.nan), "holds NaN"),
        (["a", "b"], np.zeros((1, D)), "1 embeddings and 2 ids"),
    ):
        with pytest.raises(ValueError, match=message):
            index.add(ids, vectors)
    with pytest.raises(ValueError, match="leave at least one"):
        index.remove([f"{i:03d}" for i in range(N)])
    numbers = wb.from_embeddings(np.eye(3), ids=[1, 2, 3]).index()
    assert numbers.add(["4"], [[1.0, 1.0, 1.0]]).model.catalogue.items["item_id"].tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="int64; 'four' is none"):
        numbers.add(["four"], np.ones((1, 3)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"engine_version": "0.1.0"}, ValueError, r"engine version 0\.1\.0, here is \d"),
        ({"engine": "annoy"}, ValueError, "made with engine annoy, here is usearch"),
        ({"byte_order": "middle"}, ValueError, "byte order middle, this one has"),
        ({"processor": "z80"}, ValueError, "processor z80, this one has"),
    ],
)
def test_an_index_of_another_engine_or_machine_is_refused(model, tmp_path, change, error, message):
    folder = model.index("usearch", n2=9).save(tmp_path / "index")
    described = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(described | {"made_by": described["made_by"] | change}))
    with pytest.raises(error, match=message):
        Index.load(folder)


def mixture(seed: int, temperature: float = 0.05) -> Recommender:
    """A Mixture-of-Logits over the same 40 items, whatever the seed of its weights."""
    settings = MoLConfig(
        2, 2, 4, query_hidden=8, gate_query=4, gate_item=4, gate_pair=4, temperature=temperature
    )
    config = RetrieverConfig(TwoTowerConfig(), settings, D)
    items = pd.DataFrame({"item_id": range(N), "title": [f"item {i}" for i in range(N)]})
    return Recommender("mixture", Retriever(config, N, seed), Catalogue("items", items))


@pytest.mark.parametrize("searcher", ["exact", "average"])
@pytest.mark.parametrize("name", ["items.safetensors", "config.json", "model.safetensors"])
def test_a_file_of_another_model_is_refused(searcher, name, tmp_path):
    folder = mixture(0).index(searcher).save(tmp_path / "index")
    other = mixture(0, 0.1) if name == "config.json" else mixture(1)
    (folder / name).write_bytes((other.index(searcher).save(tmp_path / "other") / name).read_bytes())
    with pytest.raises(ValueError, match=rf"{name} is not the file that was saved .* build the index again"):
        Index.load(folder)


def test_another_catalogue_or_table_of_queries_is_refused(model, tmp_path):
    folder = model.index().save(tmp_path / "index")
    whole = (folder / "items.parquet").read_bytes()
    pd.read_parquet(folder / "items.parquet").iloc[::-1].to_parquet(folder / "items.parquet", index=False)
    with pytest.raises(ValueError, match=r"items\.parquet is not the file that was saved"):
        Index.load(folder)
    (folder / "items.parquet").unlink()
    with pytest.raises(ValueError, match=r"items\.parquet is missing"):
        Index.load(folder)
    (folder / "items.parquet").write_bytes(whole)
    assert len(Index.load(folder).corpus) == N
    QueryTable.of("queries", np.eye(D)).save(folder)
    with pytest.raises(ValueError, match=r"queries\.parquet is not the file that was saved"):
        Index.load(folder)


def test_an_item_state_changed_behind_its_digest_is_refused(model, tmp_path):
    folder = model.index().save(tmp_path / "index")
    content = bytearray((folder / "items.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "items.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"items\.safetensors is damaged"):
        Index.load(folder)


def test_a_model_of_another_temperature_is_another_index(tmp_path):
    mixture(0).index("exact").save(tmp_path / "index")
    with pytest.raises(ValueError, match="searchable index of other settings: weights"):
        mixture(0, 0.1).index("exact").save(tmp_path / "index")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"made_by": None}, "made_by: Input should be an object"),
        ({"made_by": {"engine": 7}}, r"made_by\.engine: Input should be a valid string"),
        ({"model": ...}, "model: Field required"),
        ({"held_bytes": "abc"}, "held_bytes: Input should be a valid integer"),
        ({"held_bytes": -1}, "held_bytes must be at least 0"),
        ({"searcher": {"kind": "exakt"}}, "unknown searcher 'exakt'"),
        ({"searcher": {"kind": "average", "n2": "many"}}, "n2: Input should be a valid integer"),
        ({"files": ...}, "written by an earlier version"),
        ({"extra": 1}, "extra: Unexpected"),
    ],
)
def test_a_manifest_that_is_wrong_is_named(model, tmp_path, change, message):
    path = model.index().save(tmp_path / "index") / "index.json"
    described = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in described.items() if value is not ...}))
    for read in (Index.load, described_index, footprint):
        with pytest.raises(ValueError, match=message) as refused:
            read(path.parent)
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_that_needs_the_user_is_not_indexed(tmp_path):
    config = RetrieverConfig(
        TwoTowerConfig(),
        MoLConfig(2, 2, 4, query_hidden=8, gate_query=4, gate_item=4, gate_pair=4, user_tables=(5,)),
        D,
    )
    model = replace(mixture(0), retriever=Retriever(config, N))
    for make in (model.index, lambda: build(model, model.searcher_settings(), tmp_path / "index")):
        with pytest.raises(ValueError, match=r"mixture cannot be searched .* --user"):
            make()
    assert not list(tmp_path.iterdir())


def test_an_index_of_other_vectors_or_too_large_is_refused(model, tmp_path, monkeypatch):
    folder = model.index("usearch", n2=9).save(tmp_path / "index")
    needs = footprint(folder)
    assert needs.held > 4 * N * D and needs.mapped > 2 * 4 * N * D
    free = SimpleNamespace(available=needs.held + needs.loading - 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(MemoryError, match="take an engine that reads from disk"):
        Index.load(folder)
    monkeypatch.undo()
    other = wb.from_embeddings(np.random.default_rng(3).normal(size=(N, D))).index("usearch", n2=9)
    average = other.save(tmp_path / "other") / "average.usearch"
    (folder / "average.usearch").write_bytes(average.read_bytes())
    with pytest.raises(ValueError, match="of another model or corpus"):
        Index.load(folder)
    (folder / "average.usearch").write_bytes(average.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"average\.usearch is"):
        Index.load(folder)


@pytest.mark.parametrize("searcher", ["usearch", "lancedb", "graph", "faiss-flat"])
def test_no_query_and_many_queries_are_answered(model, searcher):
    index = model.index(searcher, **SMALL[searcher])
    none = model.embedded(torch.zeros(1, D))[:0]
    assert index.searcher.search(none, 3).ids.shape == (0, 3)
    many = torch.randn(1_000, D, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        index.searcher.search(model.embedded(many), 3).ids,
        model.index("brute-force").searcher.search(model.embedded(many), 3).ids,
    )


@pytest.mark.parametrize("searcher", ["brute-force", "average"])
def test_a_million_queries_are_searched_in_parts(model, searcher):
    """All scores at once would be 160 MB, and the candidates several times that."""
    vectors = torch.randn(1_000, D, generator=torch.Generator().manual_seed(0)).repeat(1_000, 1)
    search = model.index(searcher, **SMALL[searcher]).searcher.search
    found, used = measured(lambda: search(model.embedded(vectors), 3), torch.device("cpu"))
    once = search(model.embedded(vectors[:1_000]), 3)
    assert torch.equal(found.ids.view(1_000, 1_000, 3), once.ids.expand(1_000, -1, -1))
    assert not used.peak > 2**30


def test_an_interrupted_save_leaves_the_old_index(model, tmp_path, monkeypatch):
    folder = model.index("lancedb", n2=40).save(tmp_path / "index")
    expected = Index.load(folder).search([["003"]], k=4).to_source()

    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("workbench.front_door.index.changes.write", killed)
    with pytest.raises(KeyboardInterrupt):
        model.index("lancedb", n2=39).save(folder, replace=True)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["index"]
    assert Index.load(folder).search([["003"]], k=4).to_source().equals(expected)


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
    with pytest.raises(ValueError, match="give at least one history"):
        model.index().search([])
    with pytest.raises(ValueError, match=r"at least one row, not of shape \(0, 6\)"):
        model.index().search_embeddings(np.zeros((0, 6)))
    with pytest.raises(ValueError, match="have 5 numbers each, the items' have 6"):
        model.index().search_embeddings(np.zeros((1, 5)))
    with pytest.raises(FileNotFoundError, match=r"holds no index\.json"):
        Index.load(tmp_path)
    index = model.index("average", n2=5).save(tmp_path / "index")
    (index / "index.json").write_text("{")
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        Index.load(index)
    (index / "index.json").write_text("{}")
    with pytest.raises(ValueError, match="describes no index"):
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
