"""Parts of a user's own: one registration, and everything takes them."""

import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch
from hadamard import HadamardConfig, HadamardMLP, RecentConfig
from worlds import cyclic

import workbench as wb
from workbench.bench.live import LiveBench
from workbench.bench.methods import METHODS
from workbench.bench.plans import chosen_points
from workbench.bench.workloads import Trained
from workbench.cli import main
from workbench.contracts import Similarity
from workbench.data import Batches, storage
from workbench.explore.search_figures import searcher_style
from workbench.explore.search_widget import SearchExplorer
from workbench.explore.template import method_style
from workbench.models.model_store import load_or_train
from workbench.registry import Registry, import_parts
from workbench.retriever import Retriever, RetrieverConfig
from workbench.search import BruteForce
from workbench.search.registry import SEARCHERS
from workbench.similarities import SIMILARITIES, DotConfig
from workbench.training.presets import add_preset, preset


def test_an_own_encoder_and_similarity_are_trained_measured_stored_loaded_and_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    sequences = cyclic()
    trained = load_or_train(preset("mine/recent-hadamard"), sequences, device="cpu", progress=False)
    card = (trained.folder / "README.md").read_text()
    assert "Recent mean with a Hadamard-MLP" in card
    assert trained.metrics.set_index("metric")["value"]["HR@10"] > 0.4  # 10 of 25 items by chance
    retriever = Retriever.load(trained.folder)
    assert retriever.config == RetrieverConfig(RecentConfig(), HadamardConfig(), dim=8, max_length=8)
    assert isinstance(retriever.similarity, HadamardMLP)
    batch = next(iter(Batches(sequences, "test", 16, 8)))
    with torch.no_grad():
        queries, items = retriever.query_state(batch), retriever.item_state()
        found = BruteForce(retriever.similarity, items, memory_budget=4096).search(queries, 5)
        expected = retriever.similarity.score(queries, items).topk(5)
    torch.testing.assert_close(found.scores, expected.values)
    assert found.exact.all()


@pytest.fixture
def own_searcher(monkeypatch) -> Path:
    """The file of a searcher of a user's own, imported for one test."""
    monkeypatch.setattr(SEARCHERS, "_parts", dict(SEARCHERS._parts))
    monkeypatch.delitem(sys.modules, "every_nth", raising=False)
    path = Path(__file__).with_name("every_nth.py")
    import_parts(str(path))
    yield path
    del sys.modules["every_nth"]


def test_an_own_searcher_is_an_index_a_way_to_measure_and_a_choice_of_the_explorer(
    own_searcher, checkpoint, workbench_root, tmp_path
):
    model = wb.from_embeddings([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], ids=["a", "b", "c"])
    index = model.index("every-nth", step=2)
    assert index.search_embeddings([[1.0, 0.1]], k=2).to_source()["item_id"].tolist() == ["a", "c"]
    method = METHODS["every nth"]
    assert [(p.name, p.default) for p in method.parameters] == [("step", 2)]
    assert searcher_style("every nth").color == "#123456"
    bench, plan = (
        LiveBench("cpu"),
        chosen_points(Trained(checkpoint), (), k=5, batch_size=4, rounds=1, queries=8),
    )
    explorer = SearchExplorer(
        {"model": checkpoint}, replace(plan, methods=("every nth",)), bench=bench, folder=tmp_path
    )
    explorer.controls["methods"].value = ("every nth",)
    explorer.controls["every nth step"].value = 4
    explorer.run()
    row = bench.table.set_index("method").loc["every nth"]
    assert row["num_scored"] == -(-Trained(checkpoint).num_items() // 4) and row["setting"] == "step=4"
    assert "'every nth step=4'" in explorer.command_line


def test_the_command_line_measures_an_own_searcher(
    own_searcher, checkpoint, workbench_root, tmp_path, capsys
):
    arguments = [
        "--import",
        str(own_searcher),
        "bench",
        "search",
        "--checkpoint",
        checkpoint,
        "-k",
        "5",
        "--rounds",
        "1",
    ]
    given = [
        "--searcher",
        "every nth step=2",
        "--queries",
        "8",
        "--runs",
        str(tmp_path),
        "--out",
        str(tmp_path / "t.csv"),
    ]
    with suppress(SystemExit):
        main([*arguments, *given])
    assert "every nth" in capsys.readouterr().out
    assert "every nth" in pd.read_csv(tmp_path / "t.csv")["method"].tolist()


def test_figures_draw_an_own_part_as_it_is_registered():
    assert method_style("Recent mean + MoL").symbol == "star"
    assert method_style("Recent mean + Hadamard-MLP").color.startswith("#")


def test_the_command_line_imports_a_file_of_parts(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    storage.save(cyclic(), tmp_path / "data" / "cyclic", {})
    theirs = tmp_path / "my_parts.py"
    source = Path(__file__).with_name("hadamard.py").read_text()
    theirs.write_text(source.replace("hadamard_mlp", "hadamard_mine").replace("mine/recent", "file/recent"))

    def workbench(*arguments: str) -> str:
        with suppress(SystemExit):
            main(list(arguments))
        out, err = capsys.readouterr()
        return out + err

    theirs.write_text(theirs.read_text().replace('"recent"', '"recent_mine"'))
    trained = workbench(
        "train", "file/recent-hadamard", "--import", str(theirs), "--epochs", "1", "--device", "cpu"
    )
    assert "HR@10" in trained, trained
    folder = next(p for p in (tmp_path / "ckpts").iterdir() if (p / "config.json").is_file())
    assert "HR@10" in workbench(f"--import={theirs}", "evaluate", folder.name)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("hadamard_mine", "hadamard_yours"))
    refused = workbench("evaluate", folder.name)
    assert "unknown similarity 'hadamard_yours'" in refused and "--import MODULE" in refused
    assert "there is no file" in workbench("--import", "nowhere.py", "evaluate", folder.name)
    monkeypatch.delitem(sys.modules, "my_parts")


def test_registering_checks_everything_at_once():
    registry = Registry("similarity", Similarity, ("dim",))

    @dataclass(frozen=True)
    class Fine:
        kind: ClassVar[str] = "fine"

    @dataclass
    class Thawed:
        kind: ClassVar[str] = "thawed"

    @dataclass(frozen=True)
    class Nameless:
        pass

    class NeedsMore(HadamardMLP):
        def __init__(self, config: Fine, colour: str) -> None: ...

    with pytest.raises(ValueError, match="'fine' needs a title"):
        registry.register(Fine, title="")
    with pytest.raises(TypeError, match="title"):
        registry.register(Fine)
    with pytest.raises(ValueError, match="Thawed must be a frozen dataclass"):
        registry.register(Thawed, title="x")
    with pytest.raises(ValueError, match="Nameless needs the name of its kind"):
        registry.register(Nameless, title="x")
    with pytest.raises(ValueError, match="must derive from Similarity"):
        registry.register(Fine, title="x")(torch.nn.Linear)
    with pytest.raises(ValueError, match="any of dim; colour is none of them"):
        registry.register(Fine, title="x")(NeedsMore)
    assert not registry
    registry.register(Fine, title="x")(HadamardMLP)
    registry.register(Fine, title="y")(HadamardMLP)  # a cell that runs twice
    assert registry["fine"].title == "y"
    with pytest.raises(ValueError, match=r"'fine' is already hadamard\.HadamardMLP"):
        registry.register(Fine, title="x")(type("Other", (HadamardMLP,), {}))


def test_every_registered_part_has_a_title_and_an_unknown_kind_lists_the_known():
    assert all(part.title and part.label for part in SIMILARITIES.values())
    with pytest.raises(
        ValueError, match=r"unknown similarity 'dott'; this version has .*dot.*--import MODULE"
    ):
        SIMILARITIES["dott"]


def test_a_preset_replaces_ones_own_and_none_of_the_workbench():
    mine = preset("mine/recent-hadamard")
    assert add_preset(mine) is mine
    changed = replace(mine, retriever=RetrieverConfig(RecentConfig(), DotConfig(), dim=8, max_length=8))
    assert add_preset(changed) is changed is preset(mine.name)
    assert add_preset(mine) is preset(mine.name)
    with pytest.raises(ValueError, match="'cpu/hstu-mol' of other settings already"):
        add_preset(replace(mine, name="cpu/hstu-mol"))
    with pytest.raises(ValueError, match="did you mean mine/recent-hadamard"):
        preset("mine/recent-hadamart")


def test_a_module_that_fails_is_not_left_half_loaded(tmp_path):
    broken = tmp_path / "broken_parts.py"
    broken.write_text("raise ValueError('no')")
    with pytest.raises(ValueError, match="no"):
        import_parts(str(broken))
    assert "broken_parts" not in sys.modules
