"""`workbench study` on a checkout without trained models."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from workbench import paths
from workbench.cli.study import app
from workbench.data.prepare import prepare
from workbench.data.readers import read_movielens_10m
from workbench.studies import cold_start, sparcode_studies, study
from workbench.training import presets
from workbench.training.losses import LossConfig


@pytest.fixture
def empty(tmp_path, monkeypatch, cycles):
    monkeypatch.setattr(paths, "checkpoints", lambda: tmp_path / "ckpts")
    monkeypatch.setattr(paths, "reports", lambda: tmp_path / "reports")
    for module in (sparcode_studies, study):
        monkeypatch.setattr(module, "load", lambda name: cycles())
    return tmp_path


def test_towers_leave_out_what_is_not_trained(empty):
    result = CliRunner().invoke(app, ["run", "sparcode-towers", "--trained-only"])
    assert result.exit_code == 0, result.output
    assert "sparcode-cpu/gru-all-to-all, seed 0, is not trained: left out" in result.output
    table = pd.read_csv(empty / "reports" / "tables" / "sparcode-towers.csv")
    assert table["method"].tolist() == ["popularity"]
    assert {"machine", "commit", "HR@10"} <= set(table.columns)


@pytest.mark.parametrize(
    ("form", "start", "line"),
    [("markdown", "| tower | method | HR@10 |", "| none | popularity | 0."),
     ("latex", r"\begin{tabular}{llr", "none & popularity & 0.")],
)  # fmt: skip
def test_a_table_is_printed_for_pages_and_papers(empty, form, start, line):
    result = CliRunner().invoke(app, ["run", "sparcode-towers", "--trained-only", "--format", form])
    assert result.exit_code == 0, result.output
    assert (
        result.stdout.startswith(start) and line in result.stdout
    )  # and nothing else: it can be piped into a file


def test_results_are_written_as_latex_floats(empty):
    (empty / "reports" / "tables").mkdir(parents=True)
    rows = pd.DataFrame(
        {"method": ["popularity"], "HR@10": [0.25], "machine": ["one_cpu"], "commit": ["abc"]}
    )
    rows.to_csv(empty / "reports" / "tables" / "sparcode-towers.csv", index=False)
    result = CliRunner().invoke(app, ["results", "--format", "latex"])
    assert result.exit_code == 0, result.output
    page = (empty / "reports" / "results.tex").read_text()
    assert page.count(r"\begin{table}") == page.count(r"\end{table}") == 1
    assert r"one\_cpu" in page and "popularity & 0.25" in page


def test_deezer_from_files_in_the_published_format(empty, monkeypatch):
    random = np.random.default_rng(0)
    songs = random.normal(size=(60, 8))
    pd.DataFrame({"song_index": np.arange(60), "features_mf": songs.tolist()}).to_parquet(
        empty / "song_embeddings.parquet"
    )
    users = {"user_index": np.arange(30), "mf_embeddings": random.normal(size=(30, 8)).tolist()}
    pd.DataFrame(users).to_parquet(empty / "user_embeddings.parquet")
    for part, ids in {"train": range(20), "validation": range(20, 25), "test": range(25, 30)}.items():
        table = pd.DataFrame({"user_index": list(ids), "age": random.normal(size=len(ids))})
        table["d1d30_songs"] = [random.choice(60, 6, replace=False).tolist() for _ in ids]
        table.to_parquet(empty / f"user_features_{part}_mf.parquet")
    for name, config in cold_start.COLD.items():
        monkeypatch.setitem(cold_start.COLD, name, replace(config, epochs=1, hidden=(4,)))
    result = CliRunner().invoke(app, ["run", "sparcode-deezer", f"folder={empty}", "source=mf", "seeds=2"])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(empty / "reports" / "tables" / "sparcode-deezer-mf.csv")
    assert set(table["method"]) == {*cold_start.COLD, "popularity"}
    assert table["mean"].between(0, 1).all() and (table["mean"] > 0).any()
    assert {"machine", "commit", "std"} <= set(table.columns)
    refused = CliRunner().invoke(app, ["run", "sparcode-deezer", f"folder={empty / 'nowhere'}"])
    assert isinstance(refused.exception, FileNotFoundError)
    assert "unpack the published archive" in str(refused.exception)


def test_movielens_10m_by_tenths_of_users_from_files_in_the_published_format(empty, monkeypatch):
    random = np.random.default_rng(0)
    (empty / "movies.dat").write_text(
        "".join(f"{i}::Film {i} (1990)::Drama\n" for i in range(1, 61)), "utf-8"
    )
    lines = [
        f"{user}::{item}::{random.integers(1, 11) / 2}::{1000 * user + place}\n"
        for user in range(1, 41)
        for place, item in enumerate(random.choice(np.arange(1, 61), 15, replace=False))
    ]
    (empty / "ratings.dat").write_text("".join(lines))
    sequences = prepare(read_movielens_10m(empty), "ml-10m").sequences
    monkeypatch.setattr(sparcode_studies, "load", {"ml-10m": sequences}.__getitem__)
    asked = ["sparcode/sa-two-tower-plain", "sparcode/sa-sparcode"]
    for name in asked:  # the published settings, but for their size
        published = presets.preset(name)
        assert published.dataset == "ml-10m" and published.retriever.max_length == 20
        training = replace(published.training, epochs=1, batch_size=16, loss=LossConfig(count=4))
        monkeypatch.setitem(presets.PRESETS, name, replace(published, training=training))
    result = CliRunner().invoke(app, ["run", "sparcode-users", f"models={','.join(asked)}", "seeds=2"])
    assert result.exit_code == 0, result.output
    table = pd.read_csv(empty / "reports" / "tables" / "sparcode-users-ml-10m.csv")
    assert set(table["method"]) == {*asked, "popularity"}
    assert set(table["metric"]) == {f"{m}@{k}" for m in ("P", "R", "NDCG") for k in (20, 50)}
    assert table["mean"].between(0, 1).all() and (table["std"].notna()).all()
    assert (table.loc[table["metric"] == "R@50", "mean"] > 0.5).all()  # 50 of 60 films, less the 12 known


def test_an_unknown_family_lists_presets(empty):
    result = CliRunner().invoke(app, ["run", "sparcode-towers", "family=nothing"])
    assert isinstance(result.exception, ValueError) and "no preset 'nothing/dnn-" in str(result.exception)


def test_the_list_shows_what_is_trained_and_what_the_rest_takes(empty):
    result = CliRunner().invoke(app, ["list"], terminal_width=200)
    assert result.exit_code == 0, result.output
    row = next(line for line in result.output.splitlines() if "sparcode-towers" in line)
    assert "0 of 15" in row and row.rstrip().endswith("40")


def test_a_study_shows_its_options_and_what_is_missing(empty):
    result = CliRunner().invoke(app, ["show", "sparcode-sparsity"])
    assert result.exit_code == 0, result.output
    assert "not trained: sparcode-ladder/two-tower, sparcode-ladder/sparcode-warm" in result.output
    assert "all models of this study take about 20 minutes" in result.output
    shown = CliRunner().invoke(app, ["show", "sparcode-towers"])
    assert "family=sparcode-cpu" in shown.output


def test_a_model_that_a_study_cannot_do_without_is_named(empty):
    result = CliRunner().invoke(app, ["run", "sparcode-sparsity", "--trained-only"])
    assert isinstance(result.exception, ValueError)
    assert "sparcode-ladder/two-tower, seed 0, is not trained and this study needs it" in str(
        result.exception
    )
    assert not [path for path in (empty / "reports").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["nothing"],
            "no study 'nothing'; there are baselines, choices, deep-retrieval, deep-retrieval-baselines",
        ),
        (["seeds", "bla"], "'bla' is no option; write NAME=VALUE"),
        (["seeds", "speed=3"], "study seeds has no option 'speed'; it has models, dataset, seeds, first"),
        (["seeds", "seeds=x"], "option seeds of study seeds: must be a whole number, not 'x'"),
        (["seeds", "seeds=0"], "seeds must be 1 or more"),
        (["sparcode-deezer", "source=zz"], "must be one of svd, mf, not 'zz'"),
    ],
)
def test_wrong_words_are_one_line(empty, words, message):
    result = CliRunner().invoke(app, ["run", *words])
    assert isinstance(result.exception, ValueError) and message in str(result.exception)
