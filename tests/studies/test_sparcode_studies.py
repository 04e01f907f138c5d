"""Tables on learned codes, on a dataset whose next item is certain."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from workbench import paths
from workbench.baselines.popularity import Popularity
from workbench.data import batch_of
from workbench.encoders import TwoTowerConfig
from workbench.evaluation.user_split import split_users
from workbench.explore.sparsity_figures import interaction_bars, sparsity_tradeoff
from workbench.models.model_store import load_or_train
from workbench.retriever import RetrieverConfig
from workbench.similarities import DotConfig, SparCodeConfig
from workbench.similarities.sparcode.quantizer import QuantizerConfig
from workbench.studies.ladder import AFTER_THE_FACT, LADDER, ladder
from workbench.studies.sparcode import measured, popularity, tree_beams
from workbench.studies.sparsity import SCAN, code_table, served, sparsity_sweep, training_codes, usage_table
from workbench.studies.user_split import (
    METRICS,
    by_brute_force,
    over_seeds,
    user_split_protocol,
)
from workbench.training.config import TrainingConfig
from workbench.training.losses import LossConfig
from workbench.training.preset import Preset
from workbench.training.presets import preset


def tiny(similarity) -> Preset:
    retriever = RetrieverConfig(TwoTowerConfig((8,), 0.0), similarity, 8, 12)
    training = TrainingConfig(epochs=2, batch_size=8, learning_rate=0.02, loss=LossConfig(count=8))
    return Preset("tiny/sparcode", "cycles", retriever, training, "for this test")


@pytest.fixture(scope="module")
def world(tmp_path_factory, cycles):
    """The dataset and a SparCode trained on it for a moment."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("ckpts")
        patch.setattr(paths, "checkpoints", lambda: folder)
        config = SparCodeConfig(
            2, 2, 4, hidden=(8,), dropout=0.0, quantizer=QuantizerConfig(2, 4, gradient="straight-through")
        )
        sequences = cycles()
        yield sequences, load_or_train(tiny(config), sequences, progress=False), patch


def test_a_sparser_index_is_smaller_and_never_better_than_the_whole(world):
    sequences, trained, _ = world
    two_tower = load_or_train(tiny(DotConfig()), sequences, seed=5, progress=False)
    sweep = sparsity_sweep(trained, sequences, (0.0, 0.5, 0.9), repeats=2, compare_with=two_tower).set_index(
        "index"
    )
    scan = two_tower.metrics.set_index("metric")["value"]
    assert sweep.loc[SCAN, "NDCG@10"] == pytest.approx(scan["NDCG@10"])
    assert (sweep["p50_ms"] > 0).all() and sweep.loc["brute force", "relative"] == 1
    assert sweep["mebibytes"].iloc[:3].is_monotonic_decreasing
    assert sweep.loc["learned threshold", "HR@10"] <= sweep.loc["brute force", "HR@10"]
    assert sweep.loc["0.0% sparse", "average_items"] == 30
    assert sweep.loc["90.0% sparse", "short"] == 1  # their lists hold fewer items than there are
    figure = sparsity_tradeoff(sweep.reset_index(), "HR@10")
    assert [len(trace.x) for trace in figure.data] == [3, 1] * 3
    with pytest.raises(ValueError, match="nothing to draw"):
        sparsity_tradeoff(sweep.reset_index().tail(1))


def test_codes_are_described_by_their_users_and_items(world):
    sequences, trained, _ = world
    retriever = trained.retriever()
    table = code_table(retriever, sequences, count=3, shown=2)
    asked = served(retriever, sequences)
    assert len(table) == 3 and table["users"].between(1, 40).all()
    counts = {int(c): int((asked.queries.codes == c).any(1).sum()) for c in asked.queries.codes.unique()}
    assert table["users"].max() <= max(counts.values())
    assert table["best_items"].str.count(";").eq(1).all()
    usage = usage_table(retriever, sequences)
    assert usage["possible"].tolist() == [4, 4, 16]
    assert (usage["perplexity"] <= usage["used"] + 1e-9).all() and (usage["used"] <= usage["possible"]).all()


def test_a_tree_with_a_beam_for_all_finds_what_brute_force_finds(world):
    sequences, trained, _ = world
    table = tree_beams(trained, sequences, (2, 32)).set_index("beam")
    brute = sparsity_sweep(trained, sequences, (0.5,), repeats=1).set_index("index").loc["brute force"]
    assert table.loc[32, "NDCG@10"] == pytest.approx(brute["NDCG@10"])
    assert table.loc[2, "HR@50"] <= table.loc[32, "HR@50"] and table.loc[32, "num_scored"] == 30


def test_popularity_masks_histories(cycles):
    found = popularity(cycles())
    assert 0 < found["HR@10"] < 1 and found["HR@50"] == 1.0


def test_measured_rows_are_those_of_the_checkpoints(world):
    _, trained, _ = world
    table = measured([({"variant": "a"}, trained), ({"variant": "b"}, trained)])
    assert table["NDCG@10"].iloc[0] == trained.metrics.set_index("metric").loc["NDCG@10", "value"]
    assert len(interaction_bars(table).data[0].x) == 2
    bars = interaction_bars(table.assign(low=0.0, high=1.0))
    assert "95 % interval" in bars.layout.xaxis.title.text
    with pytest.raises(ValueError, match="variant"):
        interaction_bars(table.drop(columns="variant"))


def test_an_index_holds_the_codes_of_training_positions(world):
    sequences, trained, _ = world
    known = training_codes(trained.retriever(), sequences, trained_settings(trained))
    assert 0 < len(known) <= 16 and (known.diff() > 0).all()
    asked = served(trained.retriever(), sequences).queries.codes
    sweep = sparsity_sweep(trained, sequences, (0.0,), repeats=1)
    assert sweep["seen"].iloc[0] == pytest.approx(float(torch.isin(asked, known).double().mean()))
    few = training_codes(trained.retriever(), sequences, trained_settings(trained), most=1)
    assert len(few) <= 2 and torch.isin(few, known).all()


def trained_settings(trained) -> TrainingConfig:
    return TrainingConfig.from_dict(trained.metadata["training"])


def test_the_ladder_measures_each_model_and_the_k_means_of_all_to_all(cycles, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "checkpoints", lambda: tmp_path)
    monkeypatch.setattr("workbench.studies.ladder.AFTER_THE_FACT", ((1, 4),))
    sequences = cycles()
    codes = SparCodeConfig(
        2, 2, 4, hidden=(8,), dropout=0.0, quantizer=QuantizerConfig(2, 4, gradient="straight-through")
    )
    similarities = {"two-tower": DotConfig(), "all-to-all": replace(codes, quantizer=None), "sparcode": codes}
    found = {name: load_or_train(tiny(s), sequences, progress=False) for name, s in similarities.items()}
    table = ladder(found, sequences).set_index("row")
    assert list(table.index) == [
        LADDER["two-tower"], LADDER["all-to-all"], "k-means of All-to-All's tokens, M = 1, N = 4", LADDER["sparcode"]
    ]  # fmt: skip
    for name, trained in found.items():
        expected = trained.metrics.set_index("metric")["value"]["NDCG@10"]
        assert table.loc[LADDER[name], "NDCG@10"] == pytest.approx(expected)
    row = table.loc[LADDER["sparcode"]]
    assert row["difference"] == pytest.approx(row["NDCG@10"] - table["NDCG@10"].iloc[0])
    assert row["low"] <= row["NDCG@10"] <= row["high"] and row["difference_low"] <= row["difference"]
    assert table["floats"].iloc[0] == 8 and table["codes"].notna().tolist() == [False, False, True, True]
    assert len(AFTER_THE_FACT) == 4


def test_the_rungs_of_the_ladder_change_one_thing():
    found = {kind: preset(f"sparcode-ladder/{kind}") for kind in LADDER}
    assert len({p.retriever.encoder for p in found.values()}) == 1
    chosen = {kind: p.retriever.similarity for kind, p in found.items()}
    assert replace(chosen["tokens"], interaction="inner pdnn", leak=0.01) == chosen["all-to-all"]
    assert replace(chosen["all-to-all"], quantizer=chosen["sparcode"].quantizer) == chosen["sparcode"]
    assert chosen["sparcode-warm"] == chosen["sparcode"] == replace(chosen["sparcode-sparse"], sparsity=None)
    for kind, p in found.items():
        warm = kind in ("sparcode-warm", "sparcode-warm-4", "sparcode-sparse")
        assert p.training.warm_start == ("sparcode-ladder/all-to-all" if warm else None)
        assert p.training.patience == 2 and p.training.epochs == (24 if warm else 60)


def test_users_in_tenths_over_seeds(world, cycles):
    sequences = cycles(users=40, items=80, length=12)
    assert user_split_protocol(sequences).test_users == user_split_protocol(sequences).validation_users == 4
    splits = []

    def dot(split, seed):
        splits.append(split)
        return by_brute_force(load_or_train(tiny(DotConfig()), split.training, seed=seed, progress=False))

    ways = {
        "dot": dot,
        "the same": dot,
        "popularity": lambda split, seed: Popularity(split.training, part=None).find,
    }
    table = over_seeds(sequences, ways, seeds=2)
    assert table["metric"].tolist() == list(METRICS) * 3
    assert table["mean"].between(0, 1).all() and (table["std"] >= 0).all()
    by_method = table.set_index(["method", "metric"])
    assert (by_method.loc["the same", "over_first"] == 0).all()
    expected = by_method.loc["popularity", "mean"] - by_method.loc["dot", "mean"]
    np.testing.assert_allclose(by_method.loc["popularity", "over_first"], expected, atol=1e-12)
    assert splits[0].training.num_users == 32 and splits[0].held_out.num_users == 4
    assert np.array_equal(splits[0].held_out.item_ids, splits[1].held_out.item_ids)  # one split per seed
    assert not np.array_equal(splits[0].held_out.item_ids, splits[2].held_out.item_ids)
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        over_seeds(sequences, ways, seeds=0)
    with pytest.raises(ValueError, match="a way of finding"):
        over_seeds(sequences, {}, seeds=1)


def test_popular_items_of_training_users_are_given_to_all_but_what_they_know(cycles):
    split = split_users(
        cycles(users=40, items=80, length=12), user_split_protocol(cycles(users=40, items=80, length=12))
    )
    counts = np.bincount(split.training.item_ids, minlength=81)
    known = torch.from_numpy(split.held_out.history(np.arange(2)))
    asked = batch_of(split.held_out, np.arange(2), "test", 20)
    lists = Popularity(split.training, part=None).find(asked, known, 70).numpy()
    for row, left_out in zip(lists, known.numpy(), strict=True):
        shown = row[row > 0]
        assert not np.isin(shown, left_out).any() and len(np.unique(shown)) == len(shown)
        assert (np.diff(counts[shown]) <= 0).all()
        assert (row > 0).sum() == min(70, 80 - len(np.unique(left_out[left_out > 0])))


def test_only_codes_are_asked_for_codes(world, cycles):
    sequences, _, _ = world
    dot = load_or_train(tiny(DotConfig()), sequences, seed=5, progress=False).retriever()
    with pytest.raises(ValueError, match="only a SparCode with a quantizer"):
        served(dot, sequences)
