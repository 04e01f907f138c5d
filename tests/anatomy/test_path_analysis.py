"""Learned paths in words and tables: small models, counted by hand."""

import pytest
from worlds import DIM, ENCODERS, LENGTH, SIMILARITIES, cyclic

from workbench.anatomy import path_analysis as path_analysis
from workbench.data.popularity import popularity
from workbench.evaluation.user_split import HeldOutUsers, split_users
from workbench.retriever import Retriever, RetrieverConfig
from workbench.similarities import DeepRetrievalConfig, DotConfig
from workbench.studies import deep_retrieval as deep_retrieval_study

CONFIG = SIMILARITIES["paths"]
assert isinstance(CONFIG, DeepRetrievalConfig)
RULES = HeldOutUsers(min_items=6, validation_users=8, test_users=9, history=5)


@pytest.fixture(scope="module")
def retriever() -> Retriever:
    return Retriever(RetrieverConfig(ENCODERS["gru4rec"], CONFIG, DIM, LENGTH), 25).eval()


def test_every_item_is_counted_on_each_of_its_paths(retriever):
    sequences = cyclic()
    table = path_analysis.path_table(retriever, sequences)
    sizes = path_analysis.path_sizes(retriever)
    assert table["items"].sum() == 2 * 25 == (sizes["items"] * sizes["paths"]).sum()
    assert table["interactions"].sum() == 2 * popularity(sequences).sum()
    assert table["interactions"].is_monotonic_decreasing and table["path"].is_unique
    assert len(table) == sizes["paths"].sum() == len(path_analysis.paths_of(retriever)[1].paths.unique())


def test_a_walk_shows_where_the_next_item_stands(retriever):
    sequences = cyclic()
    walked = path_analysis.walk(retriever, sequences, 3, beam=16)
    target = int(sequences.item_ids[sequences.offsets[4] - 1])
    assert walked["holds_next"].sum() == len(retriever.similarity.paths[target].unique())
    assert walked["probability"].is_monotonic_decreasing and 0 < walked["probability"].sum() <= 1 + 1e-5
    own = path_analysis.walk(retriever, sequences, 3)
    assert len(own) == min(retriever.similarity.config.beam, 16)  # as wide as when it recommends
    with pytest.raises(TypeError, match="DotProduct, not Deep Retrieval"):
        plain = Retriever(RetrieverConfig(ENCODERS["gru4rec"], DotConfig(), DIM, LENGTH), 25).eval()
        path_analysis.path_table(plain, sequences)


def test_a_beam_over_all_paths_finds_what_brute_force_finds(retriever):
    found = path_analysis.beam_recall(retriever, cyclic(), [1, 16], users=20, k=5).set_index("beam")
    assert found["recall"][16] == found["scored"][16] == found["of_brute_force"][16] == 1
    assert found["scored"][1] < 1
    assert found["popular_of_brute_force"][16] == 1  # all items are among the most popular ones
    together = path_analysis.togetherness(retriever, cyclic())
    assert (
        together["on_a_path"].iloc[1] > 0 and together["measure"].tolist()[1] == "cosine of their user sets"
    )


def test_the_paths_and_a_tree_that_see_everything_find_what_brute_force_finds(retriever, monkeypatch):
    monkeypatch.setattr(deep_retrieval_study, "KS", (2, 10))
    split = split_users(cyclic(), RULES)
    youtube = Retriever(RetrieverConfig(ENCODERS["two_tower"], DotConfig(), DIM, LENGTH), 25).eval()
    table = deep_retrieval_study.baselines(retriever, youtube, split, RULES, beams=(16,))
    scores = table.pivot(index="method", columns="metric", values="value")
    assert len(scores) == 5
    for whole in ("Deep Retrieval, beam 16", "TDM, the same reranker, beam 100"):
        assert (scores.loc[whole] == scores.loc[deep_retrieval_study.BRUTE_FORCE]).all()
