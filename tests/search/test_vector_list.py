"""One list of candidates by a vector for each item: given by the average component, or fitted to sampled scores."""

import pytest
import torch

from workbench.search import Approximate, BruteForce, FittedScores, VectorList
from workbench.search.first_stages import AverageComponent
from workbench.similarities import MoLConfig
from workbench.similarities.mol import MixtureOfLogits


@pytest.fixture(scope="module")
def world():
    """A mixture whose gate decides: queries of a sample, others, and 1,500 items."""
    torch.manual_seed(0)
    mol = MixtureOfLogits(MoLConfig(2, 2, 4, query_hidden=16, gate_pair=16), 12).eval()
    with torch.no_grad():
        items = mol.items(torch.randn(1500, 12), torch.arange(1, 1501))
        queries = mol.queries(torch.randn(330, 12), torch.arange(330))
    return mol, items, queries[:300], queries[300:]


def recall(world, lists: VectorList) -> float:
    mol, items, _, queries = world
    true = BruteForce(mol, items).search(queries, 10)
    found = Approximate(mol, items, [lists]).search(queries, 10)
    assert (found.num_scored == lists.n2).all() and not found.exact.any()
    return float((found.scores >= true.scores[:, -1:] - 1e-4).float().mean())


def test_fitted_vectors_list_more_of_the_best_than_the_average(world):
    mol, items, sample, _ = world
    fitted = VectorList(FittedScores(mol, items, sample, 9), items, 1, name="surrogate")
    average = VectorList(AverageComponent(mol), items, 60)
    assert recall(world, fitted.listing(60)) > recall(world, average) + 0.05
    assert fitted.n2 == 1


def test_the_average_is_the_list_that_approximate_search_takes(world):
    mol, items, _, queries = world
    mine = Approximate(mol, items, [VectorList(AverageComponent(mol), items, 50)]).search(queries, 10)
    own = Approximate.of(mol, items, n2=50).search(queries, 10)
    assert torch.equal(mine.ids, own.ids) and torch.equal(mine.scores, own.scores)


def test_a_list_of_everything_is_a_proof_and_follows_changes(world):
    mol, items, sample, queries = world
    stage = FittedScores(mol, items[:1000], sample, 9)
    search = Approximate(mol, items[:1000], [VectorList(stage, items[:1000], 1500)])
    search.upsert(items[1000:])
    search.remove(items.ids[:5])
    found, true = search.search(queries, 10), BruteForce(mol, items[5:]).search(queries, 10)
    assert found.exact.all() and torch.equal(found.ids, true.ids)
    with pytest.raises(ValueError, match="n2: a list of candidates needs at least 1 item"):
        VectorList(stage, items, 5).listing(0)
