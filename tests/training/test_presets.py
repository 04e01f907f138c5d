"""The twelve published configurations, number by number."""

import json
from dataclasses import replace

import pytest
import torch

from workbench.encoders import HSTUConfig, SASRecConfig
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import DeepRetrievalConfig, DotConfig, MoLConfig, build
from workbench.training.config import TrainingConfig
from workbench.training.losses import LossConfig
from workbench.training.presets import PRESETS, preset

DATASETS = {
    # dataset: width, history, epochs, negatives
    "ml-1m": (50, 200, 101, 128),
    "ml-20m": (256, 200, 151, 128),
    "amazon-books": (64, 50, 201, 512),
}
ENCODERS = {
    # blocks, heads, feed-forward width, dropout; blocks, heads, query and value width, dropout
    ("ml-1m", "sasrec"): SASRecConfig(blocks=2, heads=1, ffn_dim=50, dropout=0.2),
    ("ml-20m", "sasrec"): SASRecConfig(blocks=4, heads=4, ffn_dim=256, dropout=0.2),
    ("amazon-books", "sasrec"): SASRecConfig(blocks=4, heads=4, ffn_dim=64, dropout=0.5),
    ("ml-1m", "hstu"): HSTUConfig(blocks=8, heads=2, qk_dim=25, v_dim=25, dropout=0.2),
    ("ml-20m", "hstu"): HSTUConfig(blocks=16, heads=8, qk_dim=32, v_dim=32, dropout=0.2),
    ("amazon-books", "hstu"): HSTUConfig(blocks=16, heads=8, qk_dim=8, v_dim=8, dropout=0.5),
}
MOL = {
    # query groups, item groups, width, user tables, their dropout
    "ml-1m": (8, 4, 64, (6040,), 0.5),
    "ml-20m": (8, 4, 128, (16384,), 0.8),
    "amazon-books": (8, 8, 32, (), None),
}
DECAYED = {"ml-1m/hstu-dot", "ml-1m/hstu-mol", "ml-20m/hstu-mol", "amazon-books/hstu-mol"}
TWELVE = [f"{d}/{e}-{s}" for d in DATASETS for e in ("sasrec", "hstu") for s in ("dot", "mol")]


@pytest.mark.parametrize("name", TWELVE)
def test_a_published_configuration(name):
    chosen = preset(name)
    dataset, _, method = name.partition("/")
    encoder, similarity = method.split("-")
    dim, max_length, epochs, negatives = DATASETS[dataset]
    assert (chosen.name, chosen.dataset) == (name, dataset)
    assert (chosen.retriever.dim, chosen.retriever.max_length) == (dim, max_length)
    assert chosen.retriever.encoder == ENCODERS[dataset, encoder]
    training = chosen.training
    assert training == TrainingConfig(
        epochs=epochs,
        batch_size=128,
        learning_rate=1e-3,
        weight_decay=1e-3 if name in DECAYED else 0.0,
        betas=(0.9, 0.98),
        warmup_steps=0,
        clip_norm=None,
        loss=LossConfig("sampled softmax", "uniform", negatives, log_q=False),
        positions_per_step=None,
        precision="bf16" if name.startswith("amazon-books/hstu") else "fp32",
        choose_on="test",
    )
    if similarity == "dot":
        assert chosen.retriever.similarity == DotConfig(normalize=True, temperature=0.05)
        return
    pq, px, width, tables, user_dropout = MOL[dataset]
    mol = chosen.retriever.similarity
    assert isinstance(mol, MoLConfig)
    assert (mol.query_groups, mol.item_groups, mol.component_dim, mol.user_tables) == (pq, px, width, tables)
    assert user_dropout is None or mol.user_dropout == user_dropout
    assert mol == replace(
        mol,
        temperature=0.05,
        normalize=True,
        query_projection="swiglu",
        query_hidden=512,
        query_dropout=0.0,
        query_layer_norm=True,
        item_projection="linear",
        item_dropout=0.1,
        user_dropout_whole=False,
        user_norm_weight=0.1,
        gate_query=128,
        gate_item=128,
        gate_pair=128,
        gate_combination="glu_silu",
        gate_dropout=0.2,
        balance_weight=0.001,
    )


def test_the_twelve_are_the_published_ones():
    assert len(TWELVE) == 12
    published = {name for name, chosen in PRESETS.items() if chosen.source == preset(TWELVE[0]).source}
    assert published == set(TWELVE)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    chosen = preset(name)
    retriever = json.loads(json.dumps(chosen.retriever.to_dict()))
    assert RetrieverConfig.from_dict(retriever) == chosen.retriever
    training = json.loads(json.dumps(chosen.training.to_dict()))
    assert TrainingConfig.from_dict(training) == chosen.training


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_built(name):
    config = preset(name).retriever
    retriever = Retriever(config, 30)
    assert retriever.item_table.weight.shape == (31, config.dim)
    assert retriever.item_state().ids.tolist() == list(range(1, 31))


@pytest.mark.parametrize(
    ("family", "weight"),
    [("ml-1m", 0.001), ("ml-20m", 0.001), ("amazon-books", 0.001), ("cpu", 0.001), ("quick", 0.15)],
)
def test_a_sister_leaves_out_the_balancing_loss_alone(family, weight):
    balanced, sister = preset(f"{family}/hstu-mol"), preset(f"{family}/hstu-mol-unbalanced")
    assert (balanced.retriever.similarity.balance_weight, sister.retriever.similarity.balance_weight) == (
        weight,
        0,
    )
    assert replace(sister.retriever.similarity, balance_weight=weight) == balanced.retriever.similarity
    assert (sister.training, sister.retriever.encoder) == (balanced.training, balanced.retriever.encoder)


@pytest.mark.parametrize("name", ["ml-1m/sasrec-mol", "ml-1m/hstu-mol"])
def test_fewer_epochs_are_all_that_differs(name):
    whole, shorter = preset(name), preset(f"{name}-50-epochs")
    assert shorter.training == replace(whole.training, epochs=50)
    assert (shorter.retriever, shorter.dataset) == (whole.retriever, whole.dataset)
    assert shorter.source.endswith("50 epochs of 101")


@pytest.mark.parametrize("encoder", ["sasrec", "esasrec", "hstu"])
@pytest.mark.parametrize(("suffix", "kind"), [("gbce", "gbce"), ("full-softmax", "full softmax")])
def test_another_loss_is_all_that_differs(encoder, suffix, kind):
    usual, other = preset(f"fair/{encoder}-dot"), preset(f"fair/{encoder}-dot-{suffix}")
    assert other.training.loss.kind == kind and usual.training.loss.kind == "sampled softmax"
    assert replace(other.training, loss=usual.training.loss) == usual.training
    assert other.retriever == usual.retriever


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(ValueError, match=r"no preset 'ml-1m/gru'.*ml-1m/hstu-mol"):
        preset("ml-1m/gru")


@pytest.mark.parametrize(
    ("dataset", "width", "beam", "alpha"), [("ml-20m", 50, 25, 3e-5), ("amazon-books", 100, 50, 3e-7)]
)
def test_deep_retrieval_has_the_published_sizes(dataset, width, beam, alpha):
    chosen = preset(f"halves-{dataset}/gru4rec-deep-retrieval")
    grid = chosen.retriever.similarity
    assert isinstance(grid, DeepRetrievalConfig)
    assert (grid.depth, grid.width, grid.paths, grid.beam, grid.alpha) == (3, width, 3, beam, alpha)
    assert (chosen.dataset, chosen.retriever.max_length, chosen.training.epochs) == (dataset, 69, 4)
    assert grid.joint_epochs == 2 and grid.output_table


@pytest.mark.parametrize("encoder", ["sasrec", "hstu"])
def test_the_fair_dot_product_with_users_differs_from_the_plain_one_in_nothing_else(encoder):
    with_users, plain, mol = (preset(f"fair/{encoder}-{s}") for s in ("dot-user", "dot", "mol"))
    dot, mixture = with_users.retriever.similarity, mol.retriever.similarity
    assert isinstance(dot, DotConfig) and isinstance(mixture, MoLConfig)
    assert replace(with_users, name=plain.name, retriever=plain.retriever) == plain
    assert replace(with_users.retriever, similarity=DotConfig()) == plain.retriever
    assert (dot.user_rows,) == mixture.user_tables and dot.user_dim == mixture.component_dim
    assert (dot.user_dropout, dot.user_norm_weight) == (mixture.user_dropout, mixture.user_norm_weight)


@pytest.mark.parametrize("encoder", ["sasrec", "hstu"])
def test_the_fair_wide_dot_product_stores_as_many_floats_of_an_item_as_the_mixture(encoder):
    wide, plain, mol = (preset(f"fair/{encoder}-{s}") for s in ("dot-wide", "dot", "mol"))
    assert replace(wide, name=plain.name, retriever=plain.retriever) == plain
    assert replace(wide.retriever, dim=plain.retriever.dim) == plain.retriever
    floats = []
    for p in (wide, mol):
        state = build(p.retriever.similarity, p.retriever.dim).items(
            torch.randn(1, p.retriever.dim), torch.tensor([1])
        )
        stored = [t for t in state.tensors().values() if t is not None and t.is_floating_point()]
        floats.append(sum(t.numel() for t in stored))
    assert floats[0] == floats[1]


def test_a_full_softmax_and_a_visible_time_change_nothing_else_of_a_fair_preset():
    plain, dense = preset("fair/hstu-dot"), preset("fair/hstu-dot-full-softmax")
    assert dense.training.loss.kind == "full softmax"
    same = replace(dense.training, loss=plain.training.loss)
    assert replace(dense, name=plain.name, source=plain.source, training=same) == plain
    for name in ("hstu-dot", "hstu-dot-full-softmax", "hstu-mol"):
        hidden, visible = preset(f"fair/{name}"), preset(f"visible/{name}")
        assert (hidden.retriever.encoder.request_time, visible.retriever.encoder.request_time) == (
            False,
            True,
        )
        encoder = replace(visible.retriever.encoder, request_time=False)
        assert replace(visible.retriever, encoder=encoder) == hidden.retriever
        assert visible.training == hidden.training


@pytest.mark.parametrize("name", ["cpu/hstu-mol", "fair/hstu-mol", "ml-1m/hstu-mol", "ml-1m/sasrec-mol"])
def test_a_preset_in_bf16_changes_the_precision_alone(name):
    exact, rounded = preset(name), preset(f"{name}-bf16")
    assert (exact.training.precision, rounded.training.precision) == ("fp32", "bf16")
    assert replace(rounded.training, precision="fp32") == exact.training
    assert rounded.retriever == exact.retriever


def test_presets_of_book_crossing_need_no_order_and_differ_in_the_similarity_alone():
    books = [chosen for name, chosen in PRESETS.items() if name.startswith("book-crossing/")]
    assert len({chosen.retriever.similarity.kind for chosen in books}) == len(books) == 4
    assert (
        len({replace(c, name="", retriever=replace(c.retriever, similarity=DotConfig())) for c in books}) == 1
    )
    assert not Retriever(books[0].retriever, 30).encoder.uses_order
