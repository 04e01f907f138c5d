"""Searchers by name: how they are written and read, what is refused, what is built once for several settings."""

import doctest
from pathlib import Path

import pytest
import torch

from workbench.bench import methods as module
from workbench.bench import workloads
from workbench.bench.entries import of_points
from workbench.bench.methods import METHODS, SearcherSpec, own_method
from workbench.bench.searcher_pool import SearcherPool
from workbench.bench.workloads import Inflated, RandomWeights, Trained, build, under

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_written_and_read_again_at_its_ends(name: str) -> None:
    defaults = SearcherSpec(name)
    assert SearcherSpec.read(defaults.text) == SearcherSpec.read(f"  {name} ") == defaults
    for parameter in METHODS[name].parameters:
        for value in (parameter.low, *parameter.steps):
            given = {parameter.name: value} | ({"nlist": 10**9} if parameter.name == "nprobe" else {})
            if parameter.name == "nlist":
                given["nprobe"] = 1
            point = SearcherSpec.of(name, **given)
            assert SearcherSpec.read(point.text) == point and point.values[parameter.name] == value


def test_parameters_may_be_spaced_and_left_out() -> None:
    point = SearcherSpec.read("average, FAISS IVF  nlist = 64 , nprobe=8")
    assert point == SearcherSpec.of("average, FAISS IVF", n2=1000, nlist=64, nprobe=8)
    assert point.text == "average, FAISS IVF n2=1000,nlist=64,nprobe=8"
    assert SearcherSpec.read("SparCode sparsity=1").values == {"sparsity": 1.0}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no searcher ''"),
        ("magic", "no searcher 'magic'; there are reference implementation, brute force"),
        ("n2=5", "no searcher 'n2=5'"),
        ("average n3=5", "average has no parameter 'n3'; it has n2"),
        ("brute force n2=5", "has no parameter 'n2'; it has none"),
        ("average n2=5,n2=6", "gives n2 twice"),
        ("average n2=", "written name=value"),
        ("average n2=5,", "written name=value"),
        ("average n2=5,6", "written name=value"),
        ("average n2=many", "n2 must be a number, not 'many'"),
        ("average n2=nan", "n2 must be a number, not 'nan'"),
        ("average n2=5.5", "n2 must be a whole number, not 5.5"),
        ("average n2=1e3", "n2 must be a whole number"),
        ("average n2=0", "n2 must lie in 1 to"),
        ("average n2=__import__('os')", "n2 must be a number"),
        ("SparCode sparsity=1.5", "sparsity must lie in 0.0 to 1.0"),
        ("average, FAISS IVF nlist=4,nprobe=5", "nprobe is 5, but there are only nlist = 4"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SearcherSpec.read(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("per component n1=31", "n1 is 31, but the corpus has 30 items"),
        ("h-indexer keep=31", "keep is 31"),
        ("average, FAISS IVF n2=5,nlist=31,nprobe=1", "nlist is 31"),
        ("SparCode", "SparCode needs a checkpoint of its own"),
    ],
)
def test_what_does_not_fit_is_said(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        of_points((SearcherSpec.read(text),), (), 30)


def test_brute_force_is_always_there_once_and_no_point_is_there_twice() -> None:
    points = (SearcherSpec.of("average", n2=5), SearcherSpec("brute force"))
    assert [c.label for c in of_points(points, (), 30)] == ["brute force", "average (n2=5)"]
    with pytest.raises(ValueError, match="average \\(n2=5\\) is given twice"):
        of_points((points[0], points[0]), (), 30)


def test_without_faiss_its_methods_say_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setattr(module.runtime, "optional", lambda name: None)
    assert not METHODS["average, FAISS HNSW"].installed and METHODS["average"].installed
    with pytest.raises(ImportError, match="faiss is not installed"):
        SearcherSpec("average, FAISS HNSW").entry()


def test_own_scores_need_their_own_checkpoints(checkpoint: str, root: Path) -> None:
    sparcode, paths = (str(root / "ckpts" / f"cycles-sasrec-{name}") for name in ("sparcode", "paths"))
    assert [own_method(c) for c in (checkpoint, sparcode, paths)] == [None, "SparCode", "Deep Retrieval"]
    points = (
        SearcherSpec("SparCode"),
        SearcherSpec.of("SparCode", sparsity=0.5),
        SearcherSpec("Deep Retrieval"),
    )
    labels = {c.label: c.reference for c in of_points(points, (paths, sparcode), 30)}
    assert labels == {
        "brute force": "brute force",
        "brute force, SparCode": "brute force, SparCode",
        "SparCode (sparsity=0.98)": "brute force, SparCode",
        "SparCode (sparsity=0.5)": "brute force, SparCode",
        "brute force, Deep Retrieval": "brute force, Deep Retrieval",
        "Deep Retrieval (beam=25)": "brute force, Deep Retrieval",
    }
    with pytest.raises(ValueError, match="two checkpoints for SparCode"):
        of_points(points, (sparcode, sparcode), 30)
    with pytest.raises(ValueError, match="has no score of its own"):
        of_points(points, (checkpoint,), 30)


def test_another_checkpoint_is_asked_by_the_same_users(checkpoint: str, root: Path) -> None:
    workload = build(Trained(checkpoint), 8, 3, CPU)
    asked = under(workload, "cycles-sasrec-paths")
    again = under(workload, checkpoint)
    assert torch.equal(asked.exclude, workload.exclude) and torch.equal(asked.targets, workload.targets)
    scores = [a.similarity.score(a.queries, a.items) for a in (workload, again)]
    torch.testing.assert_close(*scores)
    with pytest.raises(ValueError, match="choose the corpus as it is"):
        under(build(Inflated(checkpoint, 60), 8, 3, CPU), "cycles-sasrec-paths")


def test_queries_that_are_nobodys_have_no_other_score(checkpoint: str, monkeypatch) -> None:
    tiny = workloads.Size(30, 8, workloads.SIZES["ml-1m"].similarity, 5)
    monkeypatch.setitem(workloads.SIZES, "tiny", tiny)
    workload = build(RandomWeights("tiny"), 4, 0, CPU)
    with pytest.raises(ValueError, match="not those of users"):
        under(workload, checkpoint)


@pytest.mark.parametrize(
    "texts",
    [
        ("h-indexer width=4,keep=5", "h-indexer width=4,keep=20"),
        ("average, FAISS IVF n2=5,nlist=4,nprobe=1", "average, FAISS IVF n2=20,nlist=4,nprobe=4"),
        ("average, FAISS HNSW n2=5,ef_search=8", "average, FAISS HNSW n2=20,ef_search=64"),
    ],
)
def test_settings_that_share_an_index_find_what_each_alone_would(
    checkpoint: str, texts: tuple[str, ...]
) -> None:
    pytest.importorskip("faiss")
    workload = build(Trained(checkpoint), 8, 0, CPU)
    together = SearcherPool(workload)
    entries = [SearcherSpec.read(text).entry() for text in texts]
    assert [together.ready(c) for c in entries] == [False, False]
    first = together.get(entries[0], 8)
    assert together.ready(entries[1])
    second = together.get(entries[1], 8)
    alone = [SearcherPool(workload).get(c, 8) for c in entries]
    for shared, own in zip((first, second), alone, strict=True):
        mine, theirs = (b.search(workload.queries, 3, workload.exclude) for b in (shared, own))
        assert torch.equal(mine.ids, theirs.ids) and torch.equal(mine.num_scored, theirs.num_scored)
    work = [b.search(workload.queries, 3, workload.exclude).num_scored.sum() for b in (first, second)]
    assert work[0] < work[1]
    seconds = [row["seconds"] for row in together.builds]
    assert len(seconds) == 2 and min(seconds) > 0  # the shared index counts for each of them


def test_examples_hold() -> None:
    assert doctest.testmod(module).failed == 0
