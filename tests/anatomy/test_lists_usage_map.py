"""Tables of one pair, of two lists, of use, and of a map, against what they say they hold."""

import doctest
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from workbench import anatomy
from workbench.anatomy import Change, ModelView
from workbench.anatomy import model_view as subject
from workbench.anatomy.map import principal_plane
from workbench.data.popularity import popularity
from workbench.models.recommend import recommendations
from workbench.similarities import MoLConfig


def test_examples_hold() -> None:
    assert doctest.testmod(subject).failed == 0


def test_a_subject_knows_its_items(mol: ModelView) -> None:
    fewer = replace(mol.sequences, items=pd.concat([mol.sequences.items] * 2, ignore_index=True))
    with pytest.raises(ValueError, match="has 30 items and cycles has 60"):
        ModelView.of("x", mol.retriever, fewer)
    for user in (-1, 40):
        with pytest.raises(ValueError, match=r"users are numbered 0\.\.39"):
            mol.queries(np.array([user]))


def test_the_parts_of_a_pair(mol: ModelView) -> None:
    item = mol.target(3)
    parts = anatomy.components(mol, 3, item)
    assert parts["product"].sum() == pytest.approx(mol.scores(np.array([3]))[0, item - 1], rel=1e-4)
    assert parts["weight"].sum() == pytest.approx(1, rel=1e-5)
    assert list(parts[["query_group", "item_group"]].itertuples(index=False, name=None))[2] == (2, 1)
    for place in (0, 4):
        off = Change(off=(place,))
        without = mol.dissect(3, off).scores.numpy()
        assert parts["score_without"][place] == pytest.approx(without[item - 1], rel=1e-4)
        assert parts["rank_without"][place] == anatomy.rank(without, item, mol.unseen(3))
        assert list(anatomy.components(mol, 3, item, off)["off"]) == [p == place for p in range(6)]
    with pytest.raises(ValueError, match=r"item 31 is not one of 1\.\.30"):
        anatomy.components(mol, 3, 31)


def test_the_curve_goes_through_the_trained_temperature(mol: ModelView) -> None:
    curve = anatomy.by_temperature(mol, 3, 5)
    middle = curve.iloc[6]
    scores = mol.scores(np.array([3]))[0]
    assert (len(curve), middle["temperature"]) == (13, pytest.approx(0.05))
    assert (middle["score"], middle["mean"]) == pytest.approx((scores[4], scores.mean()), rel=1e-4)
    assert middle["rank"] == anatomy.rank(scores, 5, mol.unseen(3))
    assert len(anatomy.by_temperature(mol, 3, 5, temperatures=[0.1])) == 1


def test_lists_are_what_the_retrievers_recommend(mol: ModelView, dot: ModelView) -> None:
    lists = anatomy.side_by_side([dot, mol], 2, k=4)
    for one in (dot, mol):
        mine = lists[lists["method"] == one.method]
        entries = mine.drop_duplicates("place")
        expected = recommendations(one.retriever, one.sequences, 2, k=4)
        assert list(entries["title"])[:4] == list(expected["title"])
        assert entries["held_out"].sum() == 1
        held_out = entries[entries["held_out"]].iloc[0]
        scores = one.scores(np.array([2]))[0]
        assert held_out["place"] == anatomy.rank(scores, one.target(2), one.unseen(2))
        np.testing.assert_allclose(
            mine.groupby("place")["product"].sum(), entries["score"], rtol=1e-3, atol=1e-4
        )
    ours = lists[lists["method"] == mol.method].set_index("item")
    theirs = lists[lists["method"] == dot.method].set_index("item")
    shared = ours.index.intersection(theirs.index)
    assert len(shared) and set(ours["elsewhere"][shared]) == set(theirs["place"][shared])
    assert anatomy.side_by_side([mol], 2, k=100)["elsewhere"].isna().all()
    with pytest.raises(ValueError, match="k must be at least 1"):
        anatomy.side_by_side([mol], 2, k=0)


def test_an_example_is_one_that_the_richer_ranks_better(mol: ModelView, dot: ModelView) -> None:
    user = anatomy.illustrative_user(dot, mol)
    ranks = {
        s.method: [anatomy.rank(s.scores(np.array([u]))[0], s.target(u), s.unseen(u)) for u in range(40)]
        for s in (dot, mol)
    }
    ratios = np.array(ranks[dot.method]) / np.array(ranks[mol.method])
    assert ratios[user] == ratios.max()


def test_use_is_a_mean_over_the_pairs_of_a_group(mol: ModelView) -> None:
    pairs = anatomy.held_out_pairs(mol, batch_size=7)
    assert list(pairs.items[:3]) == [mol.target(u) for u in range(3)]
    np.testing.assert_allclose(
        pairs.measure("product").sum(1)[4], mol.scores(np.array([4]))[0][mol.target(4) - 1], rtol=1e-3
    )
    even = anatomy.usage(mol, pairs, "genre").filter(like="even", axis=0)
    members = [place for place, item in enumerate(pairs.items) if (item - 1) % 2 == 0]
    assert list(even.index) == [f"even · {len(members)}"]
    np.testing.assert_allclose(even.iloc[0], pairs.measure("weight")[members].mean(0))
    dominant = anatomy.usage(mol, pairs, "popularity", "dominant")
    np.testing.assert_allclose(dominant.sum(axis=1), 1)
    assert anatomy.usage(mol, pairs, "popularity", least=10**6).empty


def test_groups_that_use_components_equally_are_not_spread(
    subject_of: Callable[..., ModelView], mol: ModelView
) -> None:
    uniform = subject_of(MoLConfig(3, 2, 4, query_hidden=8, gate_query=None, gate_item=None, gate_pair=None))
    assert anatomy.spread(uniform, anatomy.held_out_pairs(uniform), "genre") == pytest.approx(0, abs=1e-6)
    pairs = anatomy.held_out_pairs(mol)
    dominant = pairs.measure("dominant")
    parity = np.array([(item - 1) % 2 for item in pairs.items])
    bare = replace(mol.sequences, items=mol.sequences.items.assign(genres=["ab"[i % 2] for i in range(30)]))
    expected = [dominant[parity == side].mean(0) - dominant.mean(0) for side in (0, 1)]
    squares = [(parity == side).sum() * (d**2).sum() for side, d in enumerate(expected)]
    found = anatomy.spread(replace(mol, sequences=bare), pairs, "genre", "dominant")
    assert found == pytest.approx(np.sqrt(sum(squares) / len(parity)))


def test_items_without_genres_are_grouped_by_popularity_only(mol: ModelView) -> None:
    bare = replace(mol.sequences, items=mol.sequences.items[["item_id", "title"]])
    with pytest.raises(ValueError, match="have no genres"):
        anatomy.usage(replace(mol, sequences=bare), anatomy.held_out_pairs(mol), "genre")


def test_deciles_are_ten_equal_parts_and_do_not_look_at_test_items(mol: ModelView) -> None:
    deciles = anatomy.usage(mol, anatomy.held_out_pairs(mol), "popularity")
    assert len(deciles) == 10
    assert popularity(mol.sequences).sum() == len(mol.sequences.item_ids) - 80


def test_balance_lies_between_one_component_and_all(
    subject_of: Callable[..., ModelView], mol: ModelView
) -> None:
    uniform = subject_of(MoLConfig(3, 2, 4, query_hidden=8, gate_query=None, gate_item=None, gate_pair=None))
    named = {name: (s, anatomy.held_out_pairs(s)) for name, s in (("gated", mol), ("uniform", uniform))}
    parts, models = anatomy.balance(named)
    rows = models.set_index("model")
    assert rows.loc["uniform", "in_use_on_average"] == pytest.approx(6, rel=1e-4)
    assert rows.loc["uniform", "mutual_information"] == pytest.approx(0, abs=1e-6)
    assert 1 <= rows.loc["gated", "in_use_per_pair"] <= rows.loc["gated", "in_use_on_average"] <= 6
    np.testing.assert_allclose(parts.groupby("model")["weight"].sum(), 1, rtol=1e-5)


def test_switching_off_is_measured_user_by_user(mol: ModelView) -> None:
    users = np.arange(20)
    table = anatomy.ablate_components(mol, users, k=5).set_index("component")
    ranks = [anatomy.rank(mol.scores(np.array([u]))[0], mol.target(u), mol.unseen(u)) for u in range(20)]
    assert table.loc["none", "HR@5"] == np.mean([r <= 5 for r in ranks])
    without = [anatomy.components(mol, u, mol.target(u))["rank_without"][2] for u in range(20)]
    assert table.loc["f2·g1", "HR@5"] == np.mean([r <= 5 for r in without])
    assert table.loc["f2·g1", "change"] == pytest.approx(table["NDCG@5"]["f2·g1"] - table["NDCG@5"]["none"])
    assert table.loc["none", "error"] == 0
    with pytest.raises(ValueError, match="at least one user"):
        anatomy.ablate_components(mol, [])


def test_a_map_has_every_item_once(mol: ModelView) -> None:
    both, first = anatomy.item_map(mol), anatomy.item_map(mol, 0)
    assert list(both.points["item"]) == list(range(1, 31))
    assert both.points["genre"][0] == "even" and both.points["genres"][0] == "even, g0"
    assert 0 < both.explained[1] <= both.explained[0] <= 1
    assert not np.allclose(both.points["x"], first.points["x"])
    whole = anatomy.dissect(mol.retriever.similarity, mol.queries(np.arange(40)), mol.items)
    best = whole.scores[:, 7].topk(10).indices
    names = anatomy.component_names(mol.retriever.similarity)
    assert both.points["dominant"][7] == names[int(whole.weights[best, 7].mean(0).argmax())]
    with pytest.raises(ValueError, match=r"item groups 0\.\.1, and no 2"):
        anatomy.item_map(mol, 2)


def test_the_plane_is_that_of_the_largest_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(50, 2, generator=generator) * torch.tensor([5.0, 2.0])
    turned, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    places, explained = principal_plane(flat @ turned[:2] + 3)
    assert sum(explained) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(torch.cdist(places, places), torch.cdist(flat, flat), rtol=1e-3, atol=1e-2)
    line, shares = principal_plane(torch.arange(4.0)[:, None])
    assert shares == pytest.approx((1, 0)) and bool((line[:, 1] == 0).all())
    same, nothing = principal_plane(torch.ones(3, 2))
    assert nothing == (0, 0) and bool((same == 0).all())
