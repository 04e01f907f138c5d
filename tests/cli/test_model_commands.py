"""`workbench train`, `evaluate`, `model import`, run as a user runs them, on a tiny dataset of cycles."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from holder import held

from workbench import runtime
from workbench.cli import main, models
from workbench.data import storage
from workbench.models.model_store import CARD, METRICS, RANKS, TrainedModel, folder_of, run_folder
from workbench.retriever import Retriever, read_metadata

FIXTURES = Path(__file__).parent.parent / "parity" / "fixtures"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, cycles) -> Path:
    folder = tmp_path_factory.mktemp("root")
    retimed = replace(cycles(), timestamps=cycles().timestamps * 7)
    for name, sequences in (("cycles", cycles()), ("other", cycles(7)), ("retimed", retimed)):
        (folder / "data").mkdir(exist_ok=True)
        storage.save(sequences, folder / "data" / name, {})
    return folder


@pytest.fixture
def workbench(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORKBENCH_ROOT", str(root))

    def call(*arguments: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        return int(end.value.code or 0)

    return call


TRAIN = ("train", "quick/sasrec-dot", "--dataset", "cycles", "--device", "cpu")


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_ROOT", str(root))
        with pytest.raises(SystemExit) as end:
            main([*TRAIN, "--epochs", "2", "--batch-size", "8"])
        assert not end.value.code
    return root / "ckpts" / "cycles-quick-sasrec-dot"


def test_of_several_processes_the_first_stores_and_all_end(root: Path) -> None:
    several = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "workbench.cli")
    done = subprocess.run(
        [sys.executable, *several, *TRAIN, "--epochs", "1", "--batch-size", "8", "--out", str(root / "two")],
        env=os.environ | {"WORKBENCH_ROOT": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.count("best epoch 1, ")) == (0, 1), done.stdout
    assert list(TrainedModel.load(root / "two").history["epoch"]) == [1]


def test_train_writes_a_measured_checkpoint_with_a_card(trained: Path, cycles) -> None:
    stored = TrainedModel.load(trained)
    assert stored.metadata["dataset"] == "cycles"
    assert stored.metadata["fingerprint"] == cycles().fingerprint()
    assert list(stored.history["epoch"]) == [1, 2]
    ranks = stored.ranks(cycles())
    assert len(ranks) == 40
    (trained / RANKS).unlink()
    pd.testing.assert_frame_equal(stored.ranks(cycles()), ranks)
    by_metric = stored.metrics.set_index("metric")["value"]
    assert by_metric["HR@10"] == pytest.approx((ranks["rank"] <= 10).mean())
    card = (trained / CARD).read_text()
    assert "cycles" in card and f"{by_metric['NDCG@10']:.4f}" in card and "seed 0" in card
    assert stored.retriever().num_items == 30


def test_a_name_from_before_the_presets_were_in_it_reports_the_new_one(
    trained: Path, workbench, capsys
) -> None:
    assert workbench("model", "compare", "cycles-sasrec-dot") == 1
    assert "cycles-sasrec-dot was renamed to cycles-quick-sasrec-dot" in capsys.readouterr().err
    assert folder_of("cycles-quick-sasrec-dot") == folder_of(trained) == trained
    with pytest.raises(FileNotFoundError, match="neither the folder of a checkpoint"):
        folder_of("nowhere")


def test_train_again_changes_nothing_and_trains_nothing(trained: Path, workbench, capsys) -> None:
    before = {p.name: p.read_bytes() for p in trained.iterdir() if p.name != CARD}
    assert workbench(*TRAIN, "--epochs", "2", "--batch-size", "8") == 0
    assert "epoch 1/2" not in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in trained.iterdir() if p.name != CARD} == before


def test_train_refuses_a_folder_of_another_run(trained: Path, workbench, capsys) -> None:
    assert workbench(*TRAIN, "--epochs", "2", "--batch-size", "16") == 1
    message = capsys.readouterr().err
    assert "batch_size" in message and "another folder" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "quick/nothing"), "no preset"),
        (("train", "quick/sasrec-dot", "--dataset", "nowhere"), "nowhere"),
        ((*TRAIN, "--epochs", "0"), "epochs must be at least 1"),
        (("evaluate", "nowhere"), "config.json"),
        (("model", "import", "nowhere.pt", "--out", "x"), "nowhere.pt"),
        (("bench", "train", "--preset", "quick/nothing"), "no preset"),
    ],
)
def test_a_mistake_is_one_clear_line(workbench, capsys, arguments: tuple[str, ...], said: str) -> None:
    assert workbench(*arguments) == 1
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


COMMANDS_ON_A_DEVICE = [
    TRAIN[:-2],
    ("evaluate", "cycles-sasrec-dot"),
    ("study", "run", "seeds", "models=quick/sasrec-dot", "dataset=cycles"),
    ("bench", "search", "--size", "ml-1m", "--method", "brute force"),
]


@pytest.mark.parametrize("arguments", COMMANDS_ON_A_DEVICE)
@pytest.mark.parametrize("device", ["cuda", "gpu", "meta", "cuda:x"])
def test_a_device_that_is_not_there_is_one_line_before_the_work(
    workbench, root: Path, capsys, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], device: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = sorted(root.rglob("*"))
    assert workbench(*arguments, "--device", device) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: no device '{device}'") and len(captured.err.splitlines()) == 1
    assert (captured.out, sorted(root.rglob("*"))) == ("", before)


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert runtime.device("cuda:1").index == 1
    with pytest.raises(ValueError, match="no device 'cuda:2': this machine has 2 GPUs"):
        runtime.device("cuda:2")


@pytest.mark.parametrize(
    "arguments",
    [TRAIN, ("bench", "search", "--size", "ml-1m"), ("data", "prepare", "embedded-tiny")],
)
def test_a_negative_seed_is_one_line_before_the_work(
    workbench, root: Path, capsys, arguments: tuple[str, ...]
) -> None:
    before = sorted(root.rglob("*"))
    assert workbench(*arguments, "--seed", "-1") == 1
    assert capsys.readouterr().err == "error: --seed must be 0 or more, not -1\n"
    assert sorted(root.rglob("*")) == before


def test_compare_names_a_run_that_is_no_finished_checkpoint(trained: Path, workbench, capsys) -> None:
    assert workbench("model", "compare", str(trained.parent / "runs" / trained.name)) == 1
    error = capsys.readouterr().err
    assert "holds no metrics.csv: not a finished checkpoint" in error and len(error.splitlines()) == 1


def test_list_shows_every_preset(workbench, capsys) -> None:
    assert workbench("train", "--list") == 0
    shown = capsys.readouterr().out
    assert "ml-20m/hstu-mol" in shown and "quick/sasrec-dot" in shown


def test_evaluate_repeats_the_cards_numbers(trained: Path, workbench, tmp_path: Path, cycles, capsys) -> None:
    ranks, metrics = tmp_path / "ranks.parquet", tmp_path / "metrics.csv"
    assert (
        workbench("evaluate", "cycles-quick-sasrec-dot", "--ranks", str(ranks), "--metrics", str(metrics))
        == 0
    )
    stored = TrainedModel.load(trained)
    pd.testing.assert_frame_equal(pd.read_parquet(ranks), stored.ranks(cycles()))
    pd.testing.assert_frame_equal(pd.read_csv(metrics), stored.metrics)
    assert "note: " not in capsys.readouterr().out


def test_targets_that_repeat_an_item_are_counted_under_the_metrics(capsys) -> None:
    names = ["HR@10", "excluded targets"]
    table = pd.DataFrame({"metric": names, "value": [0.3, 0.25], "low": [0.2, 0.2], "high": [0.4, 0.3]})
    models._print(table, "strict")
    assert "note: 25.0% of the targets repeat" in (out := capsys.readouterr().out)
    assert "no HR@k can exceed 0.750" in out


def test_evaluate_on_other_data_needs_to_be_asked_for(trained: Path, workbench, capsys) -> None:
    assert workbench("evaluate", str(trained), "--dataset", "other") == 1
    assert "--other-data" in capsys.readouterr().err
    assert (
        workbench("evaluate", str(trained), "--dataset", "other", "--other-data", "--protocol", "rails") == 0
    )


def test_a_copy_with_other_times_is_measured_and_named(trained: Path, workbench, capsys) -> None:
    assert workbench("evaluate", str(trained), "--dataset", "retimed") == 0
    assert "was trained on a copy of retimed whose times or ratings differ" in capsys.readouterr().err
    assert workbench("evaluate", str(trained), "--dataset", "retimed", "--store") == 1
    assert "on the data of the training" in capsys.readouterr().err


def test_import_rails_writes_a_checkpoint_that_loads(workbench, tmp_path: Path) -> None:
    out = tmp_path / "imported"
    assert workbench("model", "import", str(FIXTURES / "hstu_mol.pt"), "--out", str(out)) == 0
    assert read_metadata(out)["num_items"] == 300
    kinds = json.loads((out / "config.json").read_text())["retriever"]
    assert (kinds["encoder"]["kind"], kinds["similarity"]["kind"]) == ("hstu", "mol")
    assert Retriever.load(out).num_items == 300


def test_the_study_of_seeds_trains_what_is_missing_and_averages(root, workbench):
    out = root / "reports" / "tables" / "seeds-cycles-quick-sasrec-dot.csv"
    presets = ("quick/sasrec-dot", "quick/sasrec-mol")
    options = (f"models={','.join(presets)}", "dataset=cycles", "seeds=2")
    command = ("study", "run", "seeds", *options, "--device", "cpu")
    assert workbench(*command) == 0
    table = pd.read_csv(out).set_index(["method", "metric"])
    assert set(table.index.get_level_values("method")) == set(presets)
    folders = sorted((root / "ckpts").glob("cycles-quick-sasrec-mol-seed*"))
    values = [TrainedModel.load(f).metrics.set_index("metric")["value"]["NDCG@10"] for f in folders]
    assert len(values) == 2
    assert table.loc[("quick/sasrec-mol", "NDCG@10"), "mean"] == pytest.approx(sum(values) / 2, abs=1e-5)
    stamps = [(f / "model.safetensors").stat().st_mtime_ns for f in folders]
    assert workbench(*command) == 0
    assert stamps == [(f / "model.safetensors").stat().st_mtime_ns for f in folders]


@pytest.fixture
def copied(trained: Path, root: Path) -> Iterator[Path]:
    """A copy of the trained checkpoint, with its run, to lose."""
    folder = root / "ckpts" / "copied"
    shutil.copytree(trained, folder)
    shutil.copytree(run_folder_in(root, trained.name), run_folder_in(root, "copied"))
    yield folder
    shutil.rmtree(folder)
    shutil.rmtree(run_folder_in(root, "copied"))


def run_folder_in(root: Path, name: str) -> Path:
    return root / "ckpts" / "runs" / name


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_train_never_touches_a_folder_of_the_users(workbench, tmp_path: Path, capsys) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("years")
    (thesis / "config.json").write_text("{}")
    for more in ((), ("--replace",)):
        assert workbench(*TRAIN, "--epochs", "1", "--out", str(thesis), *more) == 1
        error = capsys.readouterr()
        assert "thesis" in error.err and "choose another folder" in error.err
        assert "epoch 1/1" not in error.out  # before the training, not after it
    assert sorted(content(thesis)) == ["chapter.tex", "config.json"]


def test_train_replaces_a_checkpoint_of_other_settings_only_on_request(
    copied: Path, workbench, capsys
) -> None:
    before = content(copied)
    other = (*TRAIN, "--epochs", "1", "--batch-size", "16", "--out", str(copied))
    assert workbench(*other) == 1
    error = capsys.readouterr().err
    assert "training.batch_size 8 there, 16 here" in error and "training.epochs 2 there, 1 here" in error
    assert "--replace" in error
    assert content(copied) == before
    (copied / "notes.txt").write_text("mine")
    assert workbench(*other, "--replace") == 1
    assert "notes.txt" in capsys.readouterr().err
    (copied / "notes.txt").unlink()
    assert content(copied) == before
    assert workbench(*other, "--replace") == 0
    assert "replaced the checkpoint in" in capsys.readouterr().out
    assert TrainedModel.load(copied).metadata["training"]["batch_size"] == 16


def test_places_with_the_same_last_name_do_not_share_a_run(root: Path, workbench, tmp_path: Path) -> None:
    places = [tmp_path / "a" / "model", tmp_path / "b" / "model", root / "ckpts" / "model"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_ROOT", str(root))
        runs = {run_folder(place) for place in places}
        assert run_folder(root / "ckpts" / "x" / ".." / "model") == root / "ckpts" / "runs" / "model"
    assert len(runs) == 3
    assert workbench(*TRAIN, "--epochs", "1", "--seed", "1", "--out", str(places[0])) == 0
    assert workbench(*TRAIN, "--epochs", "1", "--seed", "2", "--out", str(places[1])) == 0
    assert [TrainedModel.load(place).metadata["training"]["seed"] for place in places[:2]] == [1, 2]


def test_two_trainings_do_not_share_a_folder(root: Path, trained: Path, workbench, capsys) -> None:
    with held(run_folder_in(root, trained.name)):
        assert workbench(*TRAIN, "--epochs", "2", "--batch-size", "8") == 1
    assert f"is in use by process {os.getpid()}" in capsys.readouterr().err


def test_metrics_of_other_weights_are_never_printed(copied: Path, workbench, capsys, cycles) -> None:
    old = TrainedModel.load(copied)
    retriever = old.retriever()
    with torch.no_grad():
        retriever.item_table.weight.normal_(generator=torch.Generator().manual_seed(0))
    retriever.save(
        copied, **{k: v for k, v in old.metadata.items() if k not in ("format", "num_items", "retriever")}
    )
    assert workbench("model", "compare", str(copied)) == 1
    error = capsys.readouterr().err
    assert "measured on other weights" in error and f"workbench evaluate {copied} --store" in error
    assert workbench("evaluate", str(copied), "--store") == 0
    new = TrainedModel.load(copied)
    hits = (new.ranks(cycles())["rank"] <= 10).mean()
    assert new.metrics.set_index("metric")["value"]["HR@10"] == pytest.approx(hits)
    assert not new.metrics["value"].equals(old.metrics["value"])
    assert workbench("evaluate", str(copied), "--store", "--protocol", "rails") == 1
    assert "strict protocol" in capsys.readouterr().err


def test_ranks_of_other_weights_are_measured_again(copied: Path, cycles, caplog) -> None:
    model = TrainedModel.load(copied)
    ranks = model.ranks(cycles())
    stale = pd.read_parquet(copied / RANKS).assign(rank=1.0, measured_on="0123456789abcdef")
    stale.to_parquet(copied / RANKS, index=False)
    pd.testing.assert_frame_equal(model.ranks(cycles()), ranks)
    assert "measuring again" in caplog.text
    stale.drop(columns="measured_on").to_parquet(copied / RANKS, index=False)  # from before the digest
    pd.testing.assert_frame_equal(model.ranks(cycles()), ranks)


def test_an_import_keeps_no_measurements_of_what_was_there(copied: Path, workbench, capsys) -> None:
    command = ("model", "import", str(FIXTURES / "hstu_mol.pt"), "--out", str(copied))
    assert workbench(*command) == 1
    assert "--replace" in capsys.readouterr().err
    assert workbench(*command, "--replace") == 0
    assert "replaced the checkpoint" in capsys.readouterr().out
    assert sorted(content(copied)) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("option", ["--ranks", "--metrics"])
def test_places_of_tables_are_checked_before_the_work(
    trained: Path, workbench, tmp_path, capsys, option
) -> None:
    assert workbench("evaluate", str(trained), option, str(tmp_path)) == 1
    shown = capsys.readouterr()
    assert "give the path of a file" in shown.err and "strict" not in shown.out


def test_a_damaged_checkpoint_does_not_stop_the_list(copied: Path, root: Path, workbench, capsys) -> None:
    damaged = root / "ckpts" / "ml-20m-ml-20m-hstu-mol"
    shutil.copytree(copied, damaged)
    (damaged / "config.json").write_text("{")
    try:
        assert workbench("train", "--list") == 0
        assert "ml-20m/hstu-mol" in capsys.readouterr().out
        for text in ("{", '{"format": 1}', '{"format": 1, "num_items": 3, "retriever": 5}'):
            (damaged / "config.json").write_text(text)
            assert workbench("model", "list", "--trained") == 0
            shown = capsys.readouterr()
            assert f"note: {damaged.name} is left out: " in shown.err and shown.err.count("\n") == 1
            assert copied.name in shown.out or "cycles-quick-sasrec-dot" in shown.out
    finally:
        shutil.rmtree(damaged)


def test_compare_reports_which_code_measured(copied: Path, workbench, tmp_path, capsys) -> None:
    out, command = (
        tmp_path / "table.csv",
        ("model", "compare", str(copied), "--csv", str(tmp_path / "table.csv")),
    )
    assert workbench(*command) == 0
    assert "note:" not in capsys.readouterr().err
    (mine,) = pd.read_csv(copied / METRICS)["measured_by"].unique()
    assert pd.read_csv(out)["measured_by"].dropna().tolist() == [mine]
    other = "0123456789ab, code 00000000"
    pd.read_csv(copied / METRICS).assign(measured_by=other).to_csv(copied / METRICS, index=False)
    assert workbench(*command) == 0
    note = f"note: {copied.name} was measured by {other}; measure it again with: workbench evaluate {copied} --store\n"
    assert capsys.readouterr().err == note
    assert pd.read_csv(out)["measured_by"].dropna().tolist() == [other]
    assert workbench("evaluate", str(copied), "--store") == 0
    assert workbench(*command) == 0
    assert pd.read_csv(out)["measured_by"].dropna().tolist() == [mine]
