"""Tables on Deep Retrieval's index: residual k-means as a structure model, indexes next to null models, growth."""

import pytest
import torch
from worlds import cyclic, retriever_config, training_config

from workbench.retriever import Retriever
from workbench.runtime import generator
from workbench.search import BruteForce
from workbench.search.path_beam import PathBeam
from workbench.similarities import DeepRetrievalConfig
from workbench.similarities.deep_retrieval.structure import StructureModel
from workbench.studies import deep_retrieval
from workbench.studies.deep_retrieval import BRUTE, FAISS, indexes
from workbench.studies.frozen_paths import PathFit
from workbench.studies.path_growth import Corpus, growth, path_index
from workbench.studies.residual_paths import fit_residual
from workbench.training.rows import training_rows

SMALL = DeepRetrievalConfig(
    depth=2, width=4, paths=2, node_dim=4, hidden=8, candidates=8, candidate_beam=16, beam=4
)


def test_residual_k_means_is_a_structure_model():
    x = torch.randn(300, 5, generator=generator(0))
    structure = StructureModel(5, 2, 4, node_dim=5, hidden=10)
    fit_residual(structure, x, generator(1))
    distances = torch.cdist(x, structure.nodes[0].detach()).square()
    codes = torch.arange(16).expand(len(x), -1)
    with torch.no_grad():
        total = structure.log_probs(x, codes).exp().view(-1, 4, 4).sum(2)  # p(c_1 | x)
        scale = float(structure.outputs[0].weight[0, 0] / structure.nodes[0][0, 0])
        torch.testing.assert_close(total, (-scale / 2 * distances).softmax(1), atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="needs hidden = 10 and node_dim = 5"):
        fit_residual(StructureModel(5, 2, 4, node_dim=3, hidden=10), x, generator(1))


def test_near_vectors_share_paths():
    corpus = Corpus.drawn(4000, 40)
    torch.testing.assert_close(corpus.vectors.norm(dim=1), torch.ones(4000))
    model, items = path_index(corpus.vectors)
    states = model.queries(corpus.queries, torch.zeros(40, dtype=torch.long))
    found = PathBeam.of(model, items, 16).search(states, 10)
    whole = BruteForce(model, items).search(states, 10)
    recall = (found.ids[:, :, None] == whole.ids[:, None]).any(2).double().mean()
    assert recall > 0.8 and found.num_scored.double().mean() < 800


def test_growth_finds_what_brute_force_finds_if_everything_is_scored():
    pytest.importorskip("faiss")
    table = growth([500], beams=(1, 256), probes=(1, 32, 64), queries=5, repeats=1).set_index(
        ["searcher", "setting"]
    )
    assert ("FAISS IVF", "nprobe 64") not in table.index  # of 32 cells
    assert table.loc[("FAISS IVF", "nprobe 32"), "share_scored"] == 1 == table["share_scored"].max()
    assert table.loc[("FAISS flat", ""), "recall@10"] == 1
    assert (
        table.loc[("path beam", "beam 256"), "recall@10"]
        == 1
        == table.loc[("path beam", "beam 256"), "share_scored"]
    )
    assert table.loc[("FAISS IVF", "nprobe 32"), "recall@10"] == 1
    assert table.loc[("path beam", "beam 1"), "share_scored"] < 0.5
    assert (table["p50_ms"] > 0).all() and (table["mebibytes"] > 0).all()


def test_every_index_is_held_against_brute_force_with_the_same_scores(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(deep_retrieval, "CELLS", 4)
    monkeypatch.setattr(deep_retrieval, "TIMED", 2)
    sequences = cyclic()
    base = Retriever(retriever_config("sasrec-dot"), sequences.num_items).eval()
    joint = Retriever(retriever_config("sasrec-paths"), sequences.num_items, seed=1).eval()
    rows = training_rows(base, sequences, training_config(), 200, 0)
    fit = PathFit(1, 200, batch_size=64)
    table = indexes(
        base, sequences, rows, {"paths": SMALL}, fit, joint, beams=(1, 16), probes=(1, 4), users=30
    )
    found = table.set_index(["index", "effort"])
    assert found.loc[(BRUTE, ""), "recall@10"] == 1 == found.loc[(BRUTE, ""), "of_brute_force"]
    for name in ("paths", "paths of residual k-means", "paths learned jointly, its own reranker"):
        wide, narrow = found.loc[(name, "beam 16")], found.loc[(name, "beam 1")]
        assert wide["share_scored"] == 1 == wide["recall@10"] == wide["popular_of_brute_force"]
        assert narrow["share_scored"] < 1 and narrow["recall@10"] <= 1
    assert found.loc[(FAISS, "nprobe 4"), "recall@10"] == 1 == found.loc[(FAISS, "nprobe 4"), "share_scored"]
