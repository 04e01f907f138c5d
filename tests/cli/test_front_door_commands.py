"""`workbench recommend`, `model list`, `index build`, and the completion of names, as a user runs them."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from workbench import paths
from workbench.cli import main, options
from workbench.front_door import load

Run = Callable[..., str]


@pytest.fixture
def run(workbench_root: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; its output, errors too."""

    def call(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            main(list(arguments))
        out, err = capsys.readouterr()
        return out + err

    return call


def test_one_user_or_one_history_is_printed(run: Run) -> None:
    table = run("recommend", "cycles-sasrec-mol", "--user", "3", "-k", "4")
    assert "item_id" in table and len(table.splitlines()) == 5
    assert table == run("model", "recommend", "cycles-sasrec-mol", "--user", "3", "-k", "4")
    partly = run("recommend", "cycles-sasrec-mol", "--history", "1, 2,nothing", "-k", "2")
    assert "note: 1 of 3 items in the histories are not in cycles, and are left out" in partly


def test_all_users_go_to_a_file_which_is_never_replaced(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "all.parquet"
    assert str(out) in run("recommend", "cycles-sasrec-mol", "--all", "-k", "2", "--out", str(out))
    assert (pd.read_parquet(out).groupby("user_id").size() == 2).all()
    assert "exists: name another file" in run("recommend", "cycles-sasrec-mol", "--all", "--out", str(out))
    one = tmp_path / "one.csv"
    run("recommend", "cycles-sasrec-mol", "--user", "1", "-k", "3", "--out", str(one))
    assert len(pd.read_csv(one)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cycles-sasrec-mol",), "give one of --user, --history and --all"),
        (("cycles-sasrec-mol", "--user", "1", "--all"), "give one of"),
        (("cycles-sasrec-mol", "--all"), "give --out"),
        (("cycles-sasrec-mol", "--user", "nobody"), "give a history for a user"),
        (("cycles-sasrec-mil", "--user", "1"), "did you mean cycles-sasrec-mol"),
        (("zzz", "--user", "1"), "; there are cycles-sasrec-mol"),
    ],
)
def test_what_cannot_be_recommended_gives_the_reason(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    answer = run("recommend", *arguments)
    assert answer.startswith("error: ") and message in answer and answer.count("\n") == 1


def test_models_are_listed_by_what_they_are_made_of(run: Run) -> None:
    presets = run("model", "list", "--dataset", "ml-1m", "--similarity", "mol")
    assert "cpu/hstu-mol" in presets and "cpu/hstu-dot" not in presets and "quick/hstu-mol" not in presets
    trained = run("model", "list", "--trained", "--similarity", "sparcode")
    assert "cycles-sasrec-sparcode" in trained and "cycles-sasrec-mol" not in trained
    assert "unknown similarity 'moll'" in run("model", "list", "--similarity", "moll")
    assert "there is no preset of dataset nowhere" in run("model", "list", "--dataset", "nowhere")


def test_an_index_is_built_searched_and_described(run: Run, tmp_path: Path) -> None:
    folder = str(tmp_path / "index")
    built = run(
        "index", "build", "cycles-sasrec-mol", "--out", folder, "--searcher", "average", "--set", "n2=9"
    )
    assert built.splitlines()[0] == folder and "KiB in memory" in built
    found = run("index", "search", folder, "--history", "1,2", "--history", "5", "-k", "3")
    assert len(found.splitlines()) == 2 + 2 * 3
    partly = run("index", "search", folder, "--history", "1,zzz", "-k", "3")
    assert "note: 1 of 2 items in the histories are not in cycles, and are left out" in partly
    assert "UserWarning" not in partly
    described = run("index", "info", folder)
    assert "one list by the average component" in described and "n2" in described
    assert "cycles-sasrec-mol" in described
    for given, message in (("n2=many", "n2: Input should be a valid integer"), ("n2", "takes NAME=VALUE")):
        assert message in run(
            "index", "build", "cycles-sasrec-mol", "--searcher", "average", "--out", folder, "--set", given
        )
    other = run("index", "build", "cycles-sasrec-mol", "--out", folder)
    assert other.startswith("error: ") and "average" in run("index", "info", folder)


def test_an_index_of_an_engine_is_changed_and_described(run: Run, tmp_path: Path) -> None:
    folder = str(tmp_path / "index")
    run("index", "build", "cycles-sasrec-mol", "--engine", "usearch", "--set", "n2=9", "--out", folder)
    described = run("index", "info", folder)
    for text in ("usearch, a graph in one file", "engine version", "KiB in memory", "byte order", "corpus"):
        assert text in described
    width = load("cycles-sasrec-mol").retriever.config.dim
    pd.DataFrame(
        [[9_001, "New", *range(width)]], columns=["item_id", "title", *map(str, range(width))]
    ).to_csv(tmp_path / "new.csv", index=False)
    before, after = re.findall(
        r"(\d+) items before, (\d+) now",
        run("index", "add", folder, "--embeddings", str(tmp_path / "new.csv")),
    )[0]
    assert int(after) == int(before) + 1
    assert f"{after} items before, {before} now" in run("index", "remove", folder, "--item", "9001")
    assert "'9001' was removed from this index before" in run("index", "remove", folder, "--item", "9001")
    assert "is no index of this workbench" in run("index", "info", str(tmp_path))
    (tmp_path / "other.csv").write_text("id,x\n1,2\n")
    assert "has no column item_id" in run("index", "add", folder, "--embeddings", str(tmp_path / "other.csv"))
    assert "9,001" not in run("index", "search", folder, "--history", "1,2", "-k", "3")


def test_a_cluster_of_milvus_that_does_not_answer_is_one_line(run: Run, tmp_path: Path, monkeypatch) -> None:
    pymilvus = pytest.importorskip("pymilvus")

    def unreachable(address: str, **others: object) -> None:
        raise pymilvus.MilvusException(message=f"no connection to {address}\nafter 10 s")

    monkeypatch.setattr(pymilvus, "MilvusClient", unreachable)
    build = ("index", "build", "cycles-sasrec-mol", "--engine", "milvus", "--out", str(tmp_path / "index"))
    answer = run(*build, "--set", "uri=http://milvus.example.org:19530")
    assert answer.startswith("error: no Milvus answers at http://milvus.example.org:19530: no connection to")
    assert answer.count("\n") == 1 and not (tmp_path / "index").exists()
    refused = run(*build, "--set", "uri=http://root:secret@milvus.example.org:19530")
    assert "a token goes into WORKBENCH_MILVUS_TOKEN" in refused and "secret" not in refused


def test_an_engine_that_is_not_there_names_what_to_do(run: Run, tmp_path: Path, monkeypatch) -> None:
    build = ("index", "build", "cycles-sasrec-mol", "--out", str(tmp_path / "index"), "--engine")
    assert "there is no engine 'usearh': did you mean usearch?" in run(*build, "usearh")
    assert "--searcher or --engine, not both" in run(*build, "flat", "--searcher", "exact")
    assert "tantivy holds SparCode's codes" in run(*build, "tantivy")
    monkeypatch.setattr("workbench.runtime.optional", lambda name: None)
    for name, extra in (
        ("usearch", "usearch"),
        ("lancedb", "lancedb"),
        ("milvus", "milvus"),
        ("faiss", "cpu"),
    ):
        assert f"pip install 'retrieval-workbench[{extra}]'" in run(*build, name)
    assert not (tmp_path / "index").exists()


def test_sparcodes_lists_are_served_by_tantivy(run: Run, tmp_path: Path) -> None:
    folder = str(tmp_path / "index")
    run(
        "index",
        "build",
        "cycles-sasrec-sparcode",
        "--engine",
        "tantivy",
        "--out",
        folder,
        "--set",
        "sparsity=0.0",
    )
    found = run("index", "search", folder, "--history", "1,2", "-k", "3").splitlines()[1:4]
    exact = load("cycles-sasrec-sparcode").index("brute-force").search([["1", "2"]], 3).to_source()
    assert [line.split()[2] for line in found] == exact["item_id"].astype(str).tolist()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("train cpu/hstu-d", "cpu/hstu-dot"),
        ("train --pre", "--precision"),
        ("model train cpu/hstu-d", "cpu/hstu-dot"),
        ("evaluate cycles", "cycles-sasrec-mol"),
        ("recommend cycles-sasrec-mol --dataset cy", "cycles"),
        ("index build cycles-sasrec-mol --searcher ave", "average"),
        ("index build cycles-sasrec-mol --engine lan", "lancedb"),
        ("rec", "recommend"),
        ("study run dee", "deep-retrieval"),
        ("data prepare ml-1", "ml-1m"),
        ("bench search --preset tra", "trained"),
        ("bench search --checkpoint cyc", "cycles-sasrec-mol"),
        ("index bu", "build"),
    ],
)
def test_the_shell_completes_commands_options_and_names(
    run: Run, monkeypatch: pytest.MonkeyPatch, typed: str, expected: str
) -> None:
    monkeypatch.setenv("_WORKBENCH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"workbench {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    assert expected in run().splitlines()


def test_the_shell_completes_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "notebooks", lambda: Path(__file__).resolve().parents[2] / "notebooks")
    assert options.notebooks("03") == ["03_compare_similarities"]


def test_a_mistyped_command_is_met_with_a_near_one(run: Run) -> None:
    assert "Did you mean 'model'" in run("modle")
    assert "Did you mean 'train'" in run("model", "trian")
