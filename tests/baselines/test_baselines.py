"""Popularity, item-CF and EASE^R against their formulas, ranked as trained models are."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from workbench.baselines.ease import EASE, interaction_matrix
from workbench.baselines.factors import LightGCN, UltraGCN
from workbench.baselines.item_cf import ItemCF
from workbench.baselines.popularity import Popularity
from workbench.baselines.ranking import rank_users
from workbench.data import Batches
from workbench.data.popularity import popularity, training_part
from workbench.evaluation.protocol import RAILS, STRICT
from workbench.studies.baseline_studies import next_to_plain
from workbench.studies.study import Models, study


def short_light(sequences):
    return LightGCN(sequences, dim=4, epochs=5)


def short_ultra(sequences):
    return UltraGCN(sequences, dim=4, epochs=5)


def rows(model):
    return model.scores(torch.arange(1, model.num_items + 1)[:, None])


def dense(sequences):
    matrix = np.zeros((sequences.num_users, sequences.num_items))
    kept = training_part(sequences)
    users = np.repeat(np.arange(sequences.num_users), sequences.lengths)
    matrix[users[kept], sequences.item_ids[kept] - 1] = 1
    return matrix


def test_popularity_counts_all_but_what_is_held_out(cycles):
    sequences = cycles(users=12, items=20, length=5)
    for held_out, part in enumerate((None, "train and validation", "train")):
        counts = popularity(sequences, part)
        assert counts.sum() == len(sequences.item_ids) - 12 * held_out and len(counts) == 20
    assert training_part(sequences).reshape(12, 5).tolist() == 12 * [[True, True, True, False, False]]


def test_the_matrix_of_interactions_holds_each_pair_once(cycles):
    sequences = cycles(users=9, items=15, length=6)
    np.testing.assert_array_equal(interaction_matrix(sequences, "train").to_dense().numpy(), dense(sequences))


@pytest.mark.parametrize("users", [40, 8])  # more users than items, and fewer
def test_ease_is_the_best_linear_model_with_a_zero_diagonal(cycles, users):
    sequences = cycles(users=users, items=12, length=7)
    x, ridge = dense(sequences), 3.0
    weights = rows(EASE(sequences, ridge)).double().numpy()
    assert np.abs(np.diag(weights)).max() < 1e-6
    # Column j solves the ridge regression of item j on the other items.
    for j in range(12):
        others = np.delete(np.arange(12), j)
        a = x[:, others]
        expected = np.linalg.solve(a.T @ a + ridge * np.eye(11), a.T @ x[:, j])
        np.testing.assert_allclose(weights[others, j], expected, atol=1e-5)


def test_scores_add_up_the_history_once_per_item(cycles):
    model = EASE(cycles(users=40, items=12, length=7), 3.0)
    once, twice = torch.tensor([[3, 5, 0, 0]]), torch.tensor([[3, 5, 5, 3]])
    assert torch.equal(model.scores(once), model.scores(twice))
    assert torch.allclose(model.scores(once)[0], rows(model)[[2, 4]].sum(0))


@pytest.mark.parametrize("make", [Popularity, ItemCF, EASE, short_light, short_ultra])
def test_ranks_are_places_in_the_list_of_what_is_found(cycles, make):
    sequences = cycles(users=25, items=30, length=8)
    baseline = make(sequences)
    ranks = rank_users(baseline, sequences, STRICT).set_index("user_id")
    users = sequences.users_with("test")
    assert ranks.index.tolist() == users.tolist()
    histories = torch.from_numpy(sequences.history(users))
    found = baseline.find(next(iter(Batches(sequences, "test", 25, max_length=1))), histories, 30)
    for row, user in enumerate(users):
        listed = [item for item in found[row].tolist() if item > 0]
        assert not set(listed) & set(histories[row].tolist())
        target = int(ranks.loc[user, "target_id"])
        if target in listed:  # item-CF ranks all items, and finds those that are close to the history
            assert listed.index(target) + 1 == ranks.loc[user, "rank"]
        assert ranks.loc[user, "target_excluded"] == (target in histories[row].tolist())


def test_light_gcn_passes_on_what_its_formula_says(cycles):
    sequences = cycles(users=9, items=15, length=6)
    model = LightGCN(sequences, dim=4, epochs=1)
    between = dense(sequences)
    graph = np.block([[np.zeros((9, 9)), between], [between.T, np.zeros((15, 15))]])
    scale = 1 / np.sqrt(np.maximum(graph.sum(0), 1))
    graph = scale[:, None] * graph * scale
    start = torch.cat([model.users, model.items]).detach().double().numpy()
    expected = sum(np.linalg.matrix_power(graph, layer) @ start for layer in range(4)) / 4
    users, items = model.vectors()
    np.testing.assert_allclose(torch.cat([users, items]).detach().numpy(), expected, atol=1e-5)
    (gradient,) = torch.autograd.grad(users[2].sum(), model.items)
    operator = sum(np.linalg.matrix_power(graph, layer) for layer in range(4)) / 4
    np.testing.assert_allclose(gradient.numpy(), np.repeat(operator[2, 9:, None], 4, axis=1), atol=1e-5)


def test_ultra_gcn_weighs_pairs_and_neighbours_as_its_formula_says(cycles):
    sequences = cycles(users=9, items=15, length=6)
    model = UltraGCN(sequences, dim=4, epochs=1)
    between = dense(sequences)
    user, item = (int(part) for part in model.pairs[:, 7])
    degrees = between.sum(1)[user], between.sum(0)[item]
    beta = np.sqrt((degrees[0] + 1) / (degrees[1] + 1)) / degrees[0]
    assert float(model.by_user[user] * model.by_item[item]) == pytest.approx(beta)
    together = between.T @ between
    sums = together.sum(1)
    others = np.maximum(sums - together.diagonal(), 1)
    omega = together / others[:, None] * np.sqrt(sums[:, None] / np.maximum(sums, 1))
    np.fill_diagonal(omega, 0)
    np.testing.assert_allclose(model.omega.numpy(), -np.sort(-omega, axis=1)[:, :10], atol=1e-6)


@pytest.mark.parametrize("only", ["met", "not met", "near"])
def test_each_term_of_ultra_gcn_is_its_formula(cycles, only):
    model = UltraGCN(cycles(users=90, items=1000, length=12), dim=4, epochs=5)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.users.normal_(generator=draw)
        model.items.normal_(generator=draw)
    model.by_user = torch.rand(90, generator=draw)  # all have as many items here
    some = torch.randperm(model.pairs.shape[1], generator=draw)[:333]  # no whole number of groups
    users, items = model.pairs[:, some]
    p, q = model.users.detach(), model.items.detach()
    scores = p[users] @ q.T
    beta = model.by_user[users, None] * model.by_item
    pair = torch.arange(len(users))
    near = scores.gather(1, model.neighbours[items])
    terms = {
        "met": (beta[pair, items] * F.softplus(-scores[pair, items])).mean(),
        "not met": model.negative_weight * (beta * F.softplus(scores)).mean(),
        "near": model.near_weight * (model.omega[items] * F.softplus(-near)).sum(1).mean(),
    }
    size = model.regularization / 2 * (p.square().sum() + q.square().sum())
    if only == "near":
        model.by_item = torch.zeros(1000)
    if only != "not met":
        model.negative_weight = 0.0
    if only != "near":
        model.near_weight = 0.0
    expected = terms[only] + (terms["met"] if only == "not met" else 0)
    drawn = torch.stack([model.loss(users, items).detach() for _ in range(40)])
    assert (drawn.mean() - size).item() == pytest.approx(
        float(expected), rel=0.01 if only == "not met" else 1e-4
    )


def test_a_step_of_ultra_gcn_moves_most_items(cycles):
    model = UltraGCN(cycles(users=90, items=1000, length=12), dim=4, epochs=5)
    model.regularization = 0.0
    (gradient,) = torch.autograd.grad(model.loss(*model.pairs[:, :333]), model.items)
    assert (gradient != 0).any(1).float().mean() > 0.6  # 21 groups of 64 draws from 1,000


@pytest.mark.parametrize("make", [LightGCN, UltraGCN])
def test_learned_factors_find_what_similar_users_met(cycles, make, monkeypatch):
    monkeypatch.setattr(make, "learning_rate", 0.05)
    monkeypatch.setattr(UltraGCN, "negative_weight", 12.0)  # of twelve items
    sequences = cycles(users=40, items=12, length=7)
    model = make(sequences, dim=8, epochs=60, patience=12)
    assert torch.equal(model.final[0], make(sequences, dim=8, epochs=60, patience=12).final[0])
    known = torch.arange(40)
    scores = model.scores(torch.zeros(40, 1, dtype=torch.long), known)
    met = torch.from_numpy(dense(sequences)) > 0
    assert scores[met].mean() > scores[~met].mean() + scores.std() / 2
    pairs = known.repeat_interleave(12), torch.arange(12).repeat(40)
    assert bool(model.knows(*pairs).eq(met.flatten()).all())
    with pytest.raises(ValueError, match="identifies users by their ids alone"):
        model.scores(torch.zeros(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="epochs and patience must be at least 1"):
        make(sequences, epochs=0)


def test_protocols_that_a_baseline_has_no_answer_to_are_refused(cycles):
    with pytest.raises(ValueError, match="baselines are ranked over the whole catalogue"):
        rank_users(Popularity(cycles()), cycles(), RAILS)


def test_a_matrix_too_large_to_invert_is_named(cycles, monkeypatch):
    monkeypatch.setattr("workbench.baselines.ease.MOST", 10)
    EASE(cycles(users=5, items=12, length=4))
    with pytest.raises(ValueError, match="has 12 items and 15 users, more than 10 of both"):
        EASE(cycles(users=15, items=12, length=4))
    with pytest.raises(ValueError, match="regularization must be positive"):
        EASE(cycles(users=5, items=12, length=4), 0.0)


def test_the_study_chooses_on_validation_and_lists_each_method(cycles, monkeypatch):
    from workbench.studies import baseline_studies

    monkeypatch.setattr(baseline_studies, "load", lambda name: cycles(users=30, items=40, length=8))
    few = study("baselines", {"models": "", "methods": "EASE^R,popularity"}).table(Models(trained_only=True))
    assert few["method"].str.partition(",")[0].tolist() == ["popularity", "EASE^R"]
    with pytest.raises(ValueError, match="no baseline 'ease'; there are popularity, item-CF, EASE"):
        study("baselines", {"methods": "ease"})
    table = study("baselines", {"models": ""}).table(Models(trained_only=True)).set_index("method")
    assert len(table) == 5 and table.index[0] == "popularity"
    assert table.index[1].startswith("item-CF, ") and table.index[2].startswith("EASE^R, λ = ")
    assert table["HR@10"].between(0, 1).all()
    assert (table["low"] <= table["NDCG@10"]).all() and (table["NDCG@10"] <= table["high"]).all()
    best = table["NDCG@10"].idxmax()
    assert table.index[table["ahead"].isna()].tolist() == [best]
    rest = table.drop(index=best)
    np.testing.assert_allclose(rest["ahead"], rest["NDCG@10"] - table.loc[best, "NDCG@10"], atol=1e-9)
    assert rest["ahead"].between(rest["ahead_low"], rest["ahead_high"]).all()


def test_the_sentence_sorts_methods_by_their_intervals():
    table = pd.DataFrame(
        {
            "method": ["plain", "worse", "as good", "better"],
            "NDCG@10": [0.05, 0.03, 0.05, 0.07],
            "ahead_low": [np.nan, -0.03, -0.01, 0.01],
            "ahead": [np.nan, -0.02, 0.0, 0.02],
            "ahead_high": [np.nan, -0.01, 0.01, 0.03],
        }
    )
    assert next_to_plain(table) == (
        "The best plain recommender is plain. In NDCG@10, by the 95 % interval of the difference over users, plain is"
        " ahead of worse and behind better and not told apart from as good."
    )
