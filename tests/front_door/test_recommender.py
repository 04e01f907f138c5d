"""From a user's own table to recommendations in their own ids."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from worlds import ENCODERS, SIMILARITIES, cyclic

import workbench as wb
from workbench.data import DataError, Sequences
from workbench.front_door import Index, Recommender
from workbench.models.catalogue import ITEMS, Catalogue
from workbench.retriever import Retriever, RetrieverConfig
from workbench.training.config import TrainingConfig

WALK = 12


def orders() -> pd.DataFrame:
    """Each of 40 customers buys 6 of 12 articles in a row; ids are text, some with leading zeros."""
    rows = [
        (f"c{user:02d}@shop.example", f"{(user + step) % WALK:03d}", 1_600_000_000 + 60 * step)
        for user in range(40)
        for step in range(6)
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    root = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_ROOT", str(root))
        config = RetrieverConfig(ENCODERS["sasrec"], SIMILARITIES["mol"], 8, 8)
        config = replace(config, similarity=replace(config.similarity, user_tables=(), query_groups=2))
        data = wb.load_data(orders(), name="my-shop")
        settings = TrainingConfig(epochs=4, batch_size=16, learning_rate=1e-2)
        return wb.train(config, data, training=settings, device="cpu", progress=False)


def test_a_history_in_source_ids_becomes_a_table_in_source_ids(trained):
    table = trained.recommend(["003", "004"], k=5)
    assert list(table.columns) == ["rank", "item_id", "title", "score", "exact"]
    assert table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert table["score"].is_monotonic_decreasing and table["exact"].all()
    assert not {"003", "004"} & set(table["item_id"]) and all(len(i) == 3 for i in table["item_id"])
    again = trained.recommend(["003", "004"], k=12, exclude_history=False)
    assert {"003", "004"} <= set(again["item_id"])
    state = trained.retriever.query_state(trained.batch([np.array([4, 5])]))
    with torch.no_grad():
        best = trained.retriever.similarity.score(state, trained.item_state)[0].max()
    assert again["score"][0] == pytest.approx(float(best), abs=1e-5)


def test_a_user_is_recommended_what_comes_after_the_whole_history(trained):
    own = orders().groupby("user_id")["item_id"].agg(list)["c03@shop.example"]
    by_user = trained.recommend(user="c03@shop.example", k=3)
    pd.testing.assert_frame_equal(
        by_user, trained.recommend(own, k=3, timestamps=[1_600_000_000 + 60 * i for i in range(6)])
    )
    assert not set(own) & set(by_user["item_id"])


def test_unknown_items_are_counted_and_unknown_users_need_a_history(trained):
    with pytest.warns(UserWarning, match="2 of 3 items .* are left out"):
        with_unknown = trained.recommend(["003", "nope", "777"], k=3)
    pd.testing.assert_frame_equal(with_unknown, trained.recommend(["003"], k=3))
    pd.testing.assert_frame_equal(with_unknown, trained.recommend(["003"], user="a stranger", k=3))
    with pytest.raises(DataError, match=r"no item.*'nope'"):
        trained.recommend(["nope"])
    with pytest.raises(ValueError, match=r"give a history .* or a user"):
        trained.recommend()
    with pytest.raises(ValueError, match=r"c03@shop.exampel.*did you mean.*give a history for a user"):
        trained.recommend(user="c03@shop.exampel")
    with pytest.raises(ValueError, match="not the text '003'"):
        trained.recommend("003")
    with pytest.raises(ValueError, match="is empty"):
        trained.recommend([])
    with pytest.raises(ValueError, match="2 items and 1 timestamps"):
        trained.recommend(["003", "004"], timestamps=[5])


def test_all_users_are_written_in_batches_and_nothing_is_replaced(trained, tmp_path):
    path = trained.recommend_all(k=3, path=tmp_path / "recs.parquet", batch_size=7, progress=False)
    table = pd.read_parquet(path)
    assert len(table) == 40 * 3 and table["user_id"].nunique() == 40
    one = table[table["user_id"] == "c17@shop.example"].drop(columns="user_id").reset_index(drop=True)
    pd.testing.assert_frame_equal(one, trained.recommend(user="c17@shop.example", k=3), rtol=1e-4)
    with pytest.raises(ValueError, match="exists: name another file"):
        trained.recommend_all(k=3, path=path, progress=False)
    some = trained.recommend_all(["c01@shop.example"], 2, tmp_path / "one.parquet", progress=False)
    assert len(pd.read_parquet(some)) == 2
    text = trained.recommend_all(k=3, path=tmp_path / "recs.csv", batch_size=7, progress=False)
    read = pd.read_csv(text, dtype={"item_id": "str", "title": "str"})
    pd.testing.assert_frame_equal(read, table, check_dtype=False, rtol=1e-5)
    with pytest.raises(DataError, match="no user"):
        trained.recommend_all(["x"], path=tmp_path / "none.parquet", progress=False)
    assert not (tmp_path / "none.parquet").exists()


def test_an_explanation_adds_up(trained):
    why = trained.explain("007", history=["004", "005", "006"])
    assert why.item_id == "007" and why.components is not None
    assert why.components["product"].sum() == pytest.approx(why.score, abs=1e-5)
    assert why.components["weight"].sum() == pytest.approx(1, abs=1e-5)
    assert why.history["item_id"].tolist() == ["004", "005", "006"]
    listed = trained.recommend(["004", "005", "006"], k=9).set_index("item_id")
    assert listed["rank"]["007"] == why.rank and listed["score"]["007"] == pytest.approx(why.score, abs=1e-5)
    shorter = trained.explain("007", history=["004", "005"])
    assert why.history["effect"].iloc[-1] == pytest.approx(why.score - shorter.score, abs=1e-5)
    assert trained.explain("007", history=["004"]).history.empty


def test_a_stored_model_carries_its_ids_and_is_loaded_by_name(trained, tmp_path, monkeypatch):
    trained.save(tmp_path / "ckpts" / "mine")
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    expected = trained.recommend(["003", "004"], k=5)
    for given in ("mine", tmp_path / "ckpts" / "mine", str(tmp_path / "ckpts" / "mine")):
        loaded = wb.load(given)
        assert loaded.data is None
        pd.testing.assert_frame_equal(loaded.recommend(["003", "004"], k=5), expected)
    assert wb.Retriever.load("mine").num_items == WALK
    with pytest.raises(ValueError, match="needs the histories of my-shop"):
        loaded.recommend(user="c03@shop.example")
    with pytest.raises(ValueError, match=r"was trained on my-shop"):
        wb.load("mine", data=cyclic())
    (tmp_path / "ckpts" / "mine" / ITEMS).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no item ids.*workbench data prepare my-shop"):
        wb.load("mine")
    with pytest.raises(FileNotFoundError, match="mime"):
        wb.load("mime")


def test_public_item_tables_stay_where_they_are(tmp_path):
    with pytest.raises(ValueError, match="licence of ml-1m"):
        Catalogue("ml-1m", cyclic().items).save(tmp_path)


def test_evaluation_is_that_of_the_strict_protocol(trained):
    table = trained.evaluate().set_index("metric")["value"]
    assert table["HR@10"] > 0.8  # among 12 items less 5 of the history
    assert trained.evaluate(part="validation").set_index("metric")["value"]["HR@10"] != table["MRR"]


def model_of(encoder: str, similarity: str, data: Sequences) -> Recommender:
    config = RetrieverConfig(ENCODERS[encoder], SIMILARITIES[similarity], 8, 8)
    return Recommender("m", Retriever(config, data.num_items), Catalogue.of(data), data)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_every_model_recommends_similar_and_explains(encoder, similarity):
    data = cyclic()
    model = model_of(encoder, similarity, data)
    known = model.recommend(user=data.users["user_id"][5], k=4)
    assert len(known) == 4 and set(known["item_id"]) <= set(data.items["item_id"])
    assert len(model.similar_items(103, k=3)) == 3
    why = model.explain(known["item_id"][0], user=5)
    assert (why.components is None) == (similarity in ("paths", "sparcode"))
    found = model.index().search_embeddings(np.zeros((2, 8)), k=3) if similarity != "mol" else None
    assert found is None or found.scores.shape == (2, 3)


def test_a_model_that_uses_users_or_request_times_reports_it():
    data = cyclic()
    with pytest.raises(ValueError, match="component of the user's id: give the user"):
        model_of("sasrec", "mol", data).recommend([101, 102])
    assert len(model_of("sasrec", "mol", data).recommend([101, 102], user=3))
    asked = model_of("hstu", "dot", data)  # trained with the time of the request
    with pytest.raises(ValueError, match="time of the request"):
        asked.recommend([101, 102])
    assert len(asked.recommend([101, "102"], timestamps=[5, 9])) == 10


def test_the_package_offers_the_front_door_and_nothing_more():
    assert set(wb.__all__) <= set(dir(wb))
    with pytest.raises(AttributeError, match="no attribute 'recommend'"):
        _ = wb.recommend


def test_what_cannot_be_loaded_names_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="no dataset is called"):
        wb.load_data(tmp_path / "missing.csv")
    with pytest.raises(ValueError, match="give the data"):
        wb.train(RetrieverConfig(ENCODERS["sasrec"], SIMILARITIES["dot"], 8, 8))


def test_files_and_tables_as_people_have_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path / "root"))
    table = orders().rename(columns={"user_id": "Buyer", "item_id": "SKU"})
    table.to_csv(tmp_path / "orders.csv.gz", sep=";", index=False)
    (tmp_path / "parts").mkdir()
    table.to_parquet(tmp_path / "parts" / "0.parquet")
    columns = wb.ColumnNames(user="Buyer")
    expected = wb.load_data(orders())
    for source in (table, tmp_path / "orders.csv.gz", str(tmp_path / "parts")):
        found = wb.load_data(source, columns=columns)
        assert found.fingerprint() == expected.fingerprint()
        assert "note: columns recognised: users in 'Buyer', items in 'SKU'" in capsys.readouterr().err


def test_the_readme_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = wb.load_data(orders())
        model = wb.train("quick/sasrec-mol", data, epochs=1, device="cpu", progress=False)
        best = model.recommend(history=["003", "004"], k=3)
        index = model.index("exact")
        index.save("my-index")
    assert len(best) == 3 and best["exact"].all()
    assert index.search([["003", "004"]], k=3).to_source()["item_id"].tolist() == best["item_id"].tolist()


ITEM_ROWS, QUERY_ROWS = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], [[0.2, 0.9], [1.0, 0.0]]


@pytest.mark.parametrize(
    "given",
    [
        {"queries": QUERY_ROWS, "query_ids": ["ann", "007"]},
        {"queries": pd.DataFrame(QUERY_ROWS, index=["ann", "007"])},
        {"queries": pd.DataFrame(QUERY_ROWS).assign(query_id=["ann", "007"])},
    ],
    ids=["ids", "index", "column"],
)
def test_query_embeddings_are_recommended_to_by_their_own_ids(given, tmp_path):
    model = wb.from_embeddings(ITEM_ROWS, ids=["a", "b", "c"], **given)
    assert model.recommend(user="ann", k=2)["item_id"].tolist() == ["c", "b"]
    table = model.recommend(user="007", k=3)
    assert table["item_id"].tolist() == ["a", "b", "c"] and table["exact"].all()
    assert table["score"].tolist() == pytest.approx([1.0, 0.8, 0.0])
    written = pd.read_parquet(model.recommend_all(k=1, path=tmp_path / "all.parquet", progress=False))
    assert written[["user_id", "item_id"]].to_numpy().tolist() == [["ann", "c"], ["007", "a"]]
    assert model.recommend(["a"], k=1)["item_id"].tolist() == ["b"]  # histories still work
    again = Index.load(model.index().save(tmp_path / "index")).model
    assert again.recommend(user="ann", k=3).equals(model.recommend(user="ann", k=3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"queries": [[1.0]]}, "query embeddings have 1 numbers each, the items' have 2"),
        ({"queries": QUERY_ROWS, "query_ids": ["one"]}, "2 query embeddings and 1 query ids"),
        ({"queries": QUERY_ROWS, "query_ids": ["x", "x"]}, "query ids: 'x' appears twice"),
        ({"query_ids": ["x"]}, "query_ids without queries"),
        ({"queries": pd.DataFrame(QUERY_ROWS), "query_ids": ["x", "y"]}, "leave query_ids out"),
        ({"queries": [[1.0, np.nan]]}, "row 0 holds NaN"),
    ],
)
def test_a_query_table_that_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        wb.from_embeddings(ITEM_ROWS, ids=["a", "b", "c"], **given)


def test_an_unknown_query_and_a_missing_history_are_reported():
    model = wb.from_embeddings(ITEM_ROWS, queries=QUERY_ROWS, query_ids=["ann", "bob"])
    with pytest.raises(ValueError, match=r"has no query 'an' \(did you mean 'ann'\?\)"):
        model.recommend(user="an")
    with pytest.raises(ValueError, match="needs a history: this model has the embeddings"):
        model.explain(0, user="ann")
