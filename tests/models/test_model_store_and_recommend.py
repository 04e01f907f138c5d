"""Retrievers that are trained when missing, and what they recommend in words."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from workbench import files
from workbench.models import measurements, model_store
from workbench.models.model_store import (
    TrainedModel,
    find_trained,
    load_or_train,
    measure_again,
    name_of,
    store_model,
)
from workbench.models.recommend import by_popularity, history, recommendations, score_matrix
from workbench.similarities import MaxSimConfig
from workbench.training.presets import LINEUPS, PRESETS, Preset, late_interaction, lineup, preset

ITEMS, USERS, LENGTH = 30, 40, 12


def small(name: str = "quick/sasrec-mol") -> Preset:
    chosen = preset(name)
    return replace(chosen, training=replace(chosen.training, epochs=4, batch_size=8, learning_rate=0.01))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cycles) -> TrainedModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_ROOT", str(tmp_path_factory.mktemp("root")))
        return load_or_train(small(), cycles(), device="cpu", progress=False)


def test_a_matching_model_is_loaded_and_another_is_trained(
    trained: TrainedModel, monkeypatch, cycles
) -> None:
    monkeypatch.setenv("WORKBENCH_ROOT", str(trained.folder.parent.parent))
    stamp = (trained.folder / "model.safetensors").stat().st_mtime_ns
    again = load_or_train(small(), cycles(), device="cpu", progress=False)
    assert again.folder == trained.folder
    found = find_trained(small(), cycles())
    assert found is not None and found.folder == trained.folder
    assert find_trained(small(), cycles(), seed=5) is None
    assert (again.folder / "model.safetensors").stat().st_mtime_ns == stamp
    for other in (
        load_or_train(small(), cycles(), seed=1, device="cpu", progress=False),
        load_or_train(small(), cycles(7), device="cpu", progress=False),
    ):
        assert other.folder != trained.folder
        assert (
            other.metadata["fingerprint"]
            == (cycles(7) if other.metadata["training"]["seed"] == 0 else cycles()).fingerprint()
        )


def test_half_precision_keeps_origin_and_metrics_or_changes_nothing(
    trained: TrainedModel, tmp_path: Path, cycles, monkeypatch
) -> None:
    folder = tmp_path / trained.folder.name
    shutil.copytree(trained.folder, folder)
    before = (folder / "model.safetensors").read_bytes()
    actual = model_store.summarize
    monkeypatch.setattr(  # as if rounding had moved every metric
        model_store, "summarize", lambda *given: actual(*given).assign(value=lambda t: t["value"] + 1e-4)
    )
    with pytest.raises(ValueError, match=r"stays as it is: in float16 its HR@1 from .* would change"):
        model_store.halve(folder, cycles())
    assert (folder / "model.safetensors").read_bytes() == before
    monkeypatch.setattr(model_store, "summarize", actual)
    half = model_store.halve(folder, cycles())
    assert (folder / "model.safetensors").stat().st_size < 0.7 * len(before)
    assert half.metadata == trained.metadata | {"stored_dtype": "float16"}
    pd.testing.assert_frame_equal(half.history, trained.history)
    assert "- stored as float16" in (folder / "README.md").read_text(encoding="utf-8")
    again = measure_again(folder, cycles())  # stays what it is
    assert again.metadata == half.metadata and len((folder / "model.safetensors").read_bytes()) < 0.7 * len(
        before
    )


def test_every_profile_has_a_lineup_of_the_same_methods() -> None:
    methods = {profile: list(lineup(profile, "ml-1m")) for profile in LINEUPS}
    assert all(m == methods["quick"] for m in methods.values())
    assert lineup("full", "ml-20m")["HSTU + MoL"] is PRESETS["ml-20m/hstu-mol"]
    for profile in LINEUPS:
        ((name, maxsim),) = late_interaction(profile).items()
        assert name == "HSTU + MaxSim" and isinstance(maxsim.retriever.similarity, MaxSimConfig)
        assert maxsim.retriever.similarity.item_groups > 1  # with one it would be a dot product
    assert lineup("full", "something")["HSTU + MoL"] is PRESETS["ml-1m/hstu-mol"]


def test_recommendations_are_new_to_the_user_and_mark_the_held_out_item(
    trained: TrainedModel, cycles
) -> None:
    sequences = cycles()
    seen = set(sequences.items["title"].iloc[sequences.item_ids[: LENGTH - 1] - 1])
    table = recommendations(trained.retriever(), sequences, 0, k=ITEMS - LENGTH + 1)
    assert not seen & set(table["title"])
    assert list(table["place"]) == list(range(1, ITEMS - LENGTH + 2))
    assert table["score"].is_monotonic_decreasing
    assert table["held_out"].sum() == 1
    rank = trained.ranks(cycles()).set_index("user_id")["rank"][0]
    assert table.loc[table["held_out"], "place"].item() == rank


def test_history_ends_with_the_held_out_item(cycles) -> None:
    sequences = cycles()
    table = history(sequences, 2, count=3)
    assert list(table["held_out"]) == [False, False, False, True]
    assert list(table["title"]) == [f"item {i}" for i in range(2 + LENGTH - 4, 2 + LENGTH)]


@pytest.mark.parametrize("user", [-1, USERS])
def test_an_unknown_user_is_said_to_be_unknown(trained: TrainedModel, user: int, cycles) -> None:
    with pytest.raises(IndexError, match=r"not one of 0\.\.39"):
        history(cycles(), user)
    with pytest.raises(IndexError, match=r"not one of 0\.\.39"):
        recommendations(trained.retriever(), cycles(), user)


def test_score_matrix_is_centred_and_labelled(trained: TrainedModel, cycles) -> None:
    matrix = score_matrix(trained.retriever(), cycles(), users=3, items=5)
    assert matrix.shape == (3, 5)
    np.testing.assert_allclose(matrix.mean(axis=1), 0, atol=1e-5)
    assert len(set(matrix.columns)) == 5


def test_popularity_groups_share_the_users_and_rise(trained: TrainedModel, cycles) -> None:
    sequences = cycles()
    table = by_popularity(trained.ranks(sequences), sequences, groups=4)
    assert table["users"].sum() == USERS
    lows = [int(g.split(" to ")[0]) for g in table["group"]]
    assert lows == sorted(lows)
    hits = (1 / np.log2(trained.ranks(cycles())["rank"] + 1)).where(trained.ranks(cycles())["rank"] <= 10, 0)
    assert np.average(table["NDCG@10"], weights=table["users"]) == pytest.approx(hits.mean())
    assert isinstance(table, pd.DataFrame)


def test_nothing_is_left_where_shelving_failed(tmp_path: Path, monkeypatch, cycles) -> None:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pd.DataFrame, "to_parquet", full)
        with pytest.raises(OSError, match="disk is full"):
            load_or_train(small(), cycles(), device="cpu", progress=False)
    assert [path.name for path in (tmp_path / "ckpts").iterdir()] == ["runs"]
    assert load_or_train(small(), cycles(), device="cpu", progress=False).metrics["value"].notna().any()


def test_the_name_carries_the_whole_preset(cycles) -> None:
    names = {name_of(preset(name), cycles()) for name in PRESETS}
    assert len(names) == len(PRESETS)
    assert name_of(preset("cpu/hstu-mol"), cycles()) == "cycles-cpu-hstu-mol"


def test_a_dataset_whose_name_is_a_path_trains_nothing_and_deletes_nothing(
    tmp_path: Path, monkeypatch, cycles
) -> None:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    victim = tmp_path / "victim" / "x-quick-sasrec-mol"
    victim.mkdir(parents=True)
    (victim / "thesis.txt").touch()
    with pytest.raises(ValueError, match="cannot name a checkpoint"):
        load_or_train(small(), replace(cycles(), name="../victim/x"), device="cpu", progress=False)
    assert [path.name for path in victim.iterdir()] == ["thesis.txt"]


def test_an_incomplete_checkpoint_counts_as_absent_and_is_made_whole(
    tmp_path: Path, trained: TrainedModel, monkeypatch, cycles
) -> None:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    folder = tmp_path / "ckpts" / trained.folder.name
    for missing in ("model.safetensors", "history.csv", "metrics.csv"):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(trained.folder, folder)
        (folder / missing).unlink()
        assert find_trained(small(), cycles()) is None
    made = load_or_train(small(), cycles(), device="cpu", progress=False)
    assert made.folder == folder
    assert made.metrics["value"].equals(trained.metrics["value"])


def test_stale_metrics_of_a_found_checkpoint_are_measured_again(
    tmp_path: Path, trained: TrainedModel, monkeypatch, cycles, caplog
) -> None:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    folder = tmp_path / "ckpts" / "any-name"
    shutil.copytree(trained.folder, folder)
    stale = pd.read_csv(folder / "metrics.csv").assign(value=1.0, measured_on="0123456789abcdef")
    stale.to_csv(folder / "metrics.csv", index=False)
    found = find_trained(small(), cycles())
    assert found is not None and found.metrics["value"].equals(trained.metrics["value"])
    assert "measuring again" in caplog.text


OTHER = "0123456789ab, code 00000000"


@pytest.fixture
def by_other_code(tmp_path: Path, trained: TrainedModel, monkeypatch) -> Path:
    """A copy of the checkpoint whose metrics and ranks were measured by other code, which gave other numbers."""
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    folder = tmp_path / "ckpts" / "any-name"
    shutil.copytree(trained.folder, folder)
    metrics, ranks = pd.read_csv(folder / "metrics.csv"), pd.read_parquet(folder / "ranks.parquet")
    metrics.assign(value=0.5, measured_by=OTHER).to_csv(folder / "metrics.csv", index=False)
    ranks.assign(rank=1, measured_by=OTHER).to_parquet(folder / "ranks.parquet", index=False)
    return folder


def test_metrics_of_other_code_are_said_to_be_so_where_they_are_shown(by_other_code: Path) -> None:
    model = TrainedModel.load(by_other_code)
    assert model.measured_by == OTHER and set(model.metrics["value"]) == {0.5}
    metrics = pd.read_csv(by_other_code / "metrics.csv")
    metrics.drop(columns="measured_by").to_csv(by_other_code / "metrics.csv", index=False)
    assert TrainedModel.load(by_other_code).measured_by == "code of an earlier version"


def test_metrics_of_other_code_are_measured_again_and_the_stored_ones_stay(
    by_other_code: Path, trained: TrainedModel, cycles, caplog
) -> None:
    stored = (by_other_code / "metrics.csv").read_bytes()
    caplog.set_level("INFO", model_store.__name__)
    for _ in range(2):  # the second time from ranks of this code
        found = find_trained(small(), cycles())
        assert found is not None and found.folder == by_other_code and not found.measured_by
        assert found.metrics["value"].equals(trained.metrics["value"])
        assert found.metrics.columns.tolist() == trained.metrics.columns.tolist()
    assert caplog.text.count(f"any-name were measured by {OTHER}; measuring again") == 2
    assert pd.read_parquet(by_other_code / "ranks.parquet")["measured_by"].ne(OTHER).all()
    assert (by_other_code / "metrics.csv").read_bytes() == stored
    made = measure_again(by_other_code, cycles())
    assert not made.measured_by and made.metrics["value"].equals(trained.metrics["value"])
    code = pd.read_csv(by_other_code / "metrics.csv")["measured_by"].unique().tolist()
    assert code[0] in (by_other_code / "README.md").read_text() and len(code) == 1 and code != [OTHER]


def test_ranks_that_cannot_be_kept_are_measured_all_the_same(
    by_other_code: Path, trained: TrainedModel, cycles, monkeypatch, caplog
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "read-only", str(path))

    monkeypatch.setattr(files, "atomic_write", refuse)
    found = find_trained(small(), cycles())
    assert found is not None and found.metrics["value"].equals(trained.metrics["value"])
    assert "ranks are not kept: " in caplog.text


def test_a_model_of_another_program_is_never_replaced(tmp_path: Path, trained: TrainedModel, cycles) -> None:
    folder = tmp_path / "bert"
    shutil.copytree(trained.folder, folder)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="not written by this program"):
        store_model(trained.retriever(), trained.metadata, trained.history, folder, cycles(), replace=True)
    assert (folder / "model.safetensors").is_file()


@pytest.mark.parametrize("digest", ["2416345799025756", "0012345678901234", "123456e789012345"])
def test_a_digest_that_reads_as_a_number_stays_text(
    digest: str, tmp_path: Path, trained: TrainedModel, monkeypatch
) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "copy"))
    metrics = pd.read_csv(folder / "metrics.csv")
    metrics.assign(measured_on=digest).to_csv(folder / "metrics.csv", index=False)
    monkeypatch.setattr(measurements, "digest", lambda *_: digest)
    assert len(TrainedModel.load(folder).metrics) == len(metrics)
