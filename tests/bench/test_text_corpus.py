"""A trained text head under the bench: the same answers as its own search, exact with a proof, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.bench import plans, workloads
from workbench.bench.methods import SearcherSpec
from workbench.bench.plans import chosen_points
from workbench.bench.run import run
from workbench.bench.tables import summary
from workbench.bench.workloads import TextCorpus
from workbench.data.text.build import load_text
from workbench.models.text_heads import EncodedCollection, find_or_train, open_head
from workbench.search import Approximate, BruteForce, Exact
from workbench.training.text_heads import HeadConfig
from workbench.training.text_training import HeadTraining

pytest.importorskip("wordllama")

from workbench.text_encoders import WordLlamaEncoder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("text-corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_ROOT", str(folder))
        yield folder


@pytest.fixture(scope="module")
def heads(root: Path) -> dict[str, Path]:
    encoded = EncodedCollection(load_text("embedded-text", seed=0), WordLlamaEncoder(), progress=False)
    training = HeadTraining(epochs=2, learning_rate=1e-3)
    found = {}
    for config in (
        HeadConfig(),
        HeadConfig(kind="dot"),
        HeadConfig(tokens="query"),
        HeadConfig(tokens="both"),
    ):
        trained = find_or_train(encoded, config, training)
        assert trained is not None and trained.folder is not None
        found[config.name] = trained.folder
    return found


@pytest.mark.parametrize("name", ["mol-2", "dot-2", "mol-2-tokens"])
def test_every_searcher_serves_a_head(heads: dict[str, Path], name: str) -> None:
    spec = TextCorpus(str(heads[name]))
    workload = workloads.build(spec, 40, 0, torch.device("cpu"))
    assert spec.num_items() == len(workload.items) == 400
    head, encoded = open_head(heads[name])
    torch.testing.assert_close(workload.items.ids, head.corpus_state(encoded.documents()).ids)
    with torch.inference_mode():
        truth = BruteForce(workload.similarity, workload.items).search(workload.queries, 10)
        for searcher in (
            Exact(workload.similarity, workload.items),
            Approximate.of(workload.similarity, workload.items, n1=400),
            Approximate.of(workload.similarity, workload.items, n2=400),
        ):
            found = searcher.search(workload.queries, 10)
            torch.testing.assert_close(found.scores, truth.scores, rtol=1e-4, atol=1e-4)
        assert Exact(workload.similarity, workload.items).search(workload.queries, 10).exact.all()
    relevant = encoded.relevant("test")
    assert set(workload.targets.tolist()) <= set((relevant.ids + 1).tolist())


def test_the_bench_measures_a_head(heads: dict[str, Path], root: Path) -> None:
    points = (SearcherSpec.read("average n2=50"), SearcherSpec.read("exact with a bound"))
    plan = chosen_points(
        TextCorpus(str(heads["mol-2"]), "text"), points, batch_size=8, k=10, rounds=1, queries=32
    )
    table = summary(run(plan, progress=False)).set_index("method")
    assert table.loc["exact with a bound", ["recall", "certified"]].tolist() == [1, 1]
    assert 0 < table.loc["average", "recall"] <= 1


def test_a_head_of_other_texts_or_without_its_settings_is_refused(
    heads: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="documents as one vector each"):
        workloads.build(TextCorpus(str(heads["mol-2-tokens-both"])), 4, 0, torch.device("cpu"))
    with pytest.raises(FileNotFoundError, match="neither the folder of a text head"):
        TextCorpus("nowhere").num_items()
    stored = json.loads((heads["mol-2"] / "head.json").read_text())
    for change, message in (
        ({"data": "0" * 16}, "was trained on other texts"),
        ({"documents": "many"}, "does not say how many documents"),
        ({"head": {"kind": "mol", "rings": 3}}, "describes no head"),
    ):
        folder = tmp_path / str(len(message))
        folder.mkdir()
        (folder / "head.json").write_text(json.dumps(stored | change))
        with pytest.raises(ValueError, match=message):
            open_head(folder) if "documents" not in change else TextCorpus(str(folder)).num_items()
    assert np.isfinite(stored["seconds"])


def test_the_plan_for_text_is_of_the_shipped_mixture_and_has_the_published_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WORKBENCH_ROOT", raising=False)
    plan = plans.named("text")
    (workload,) = plan.workloads
    assert workload.num_items() == 117_659 and plan.ks == (10, 100)
    assert "average n2=100" in {point.text for point in plan.points}


def test_the_plan_for_text_has_lists_that_fit(heads: dict[str, Path]) -> None:
    found = {point.text for point in plans.text(str(heads["mol-2"])).points}
    assert "average n2=400" in found and not {"average n2=1600", "cascade n2=4000,keep=200"} & found
