"""Collections of text: what they refuse, on disk and back, BEIR's layout, and the generated one."""

import json
from pathlib import Path

import pandas as pd
import pytest
from dictionaries import write_gcide, write_wordnet

from workbench.data import DataError
from workbench.data.text import build, generator, storage
from workbench.data.text.beir import read_beir
from workbench.data.text.collection import TextCollection


def collection(**changes: pd.DataFrame) -> TextCollection:
    tables = {
        "documents": pd.DataFrame({"document_id": ["a", "b"], "text": ["one", "two"]}),
        "queries": pd.DataFrame(
            {"query_id": ["q"], "text": ["uno"], "split": ["test"], "group": ["q"], "answers": [2]}
        ),
        "relevance": pd.DataFrame({"query_id": ["q", "q"], "document_id": ["b", "a"]}),
    }
    return TextCollection("mine", **(tables | changes))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"documents": pd.DataFrame({"document_id": ["a", "a", "b"], "text": ["1", "2", "3"]})},
            "'a' is given twice",
        ),
        ({"documents": pd.DataFrame({"document_id": ["a", "b"], "text": ["1", " "]})}, "'b' is empty"),
        ({"relevance": pd.DataFrame({"query_id": ["q"], "document_id": ["c"]})}, "'c', which does not exist"),
        ({"relevance": pd.DataFrame({"query_id": ["p"], "document_id": ["a"]})}, "'p', which does not exist"),
        ({"relevance": pd.DataFrame({"query_id": [], "document_id": []})}, "no document answers query 'q'"),
    ],
)
def test_a_collection_that_contradicts_itself_is_refused(
    changes: dict[str, pd.DataFrame], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        collection(**changes)


def test_a_collection_comes_back_from_disk_and_nothing_foreign_is_replaced(tmp_path: Path) -> None:
    made = collection()
    for _ in range(2):
        storage.save(made, tmp_path / "mine")
    read = storage.load_folder(tmp_path / "mine")
    for name in storage.TABLES:
        pd.testing.assert_frame_equal(getattr(read, name), getattr(made, name), check_dtype=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not written by this program"):
        storage.save(made, tmp_path / "other")
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"
    (tmp_path / "mine" / "queries.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is damaged"):
        storage.load_folder(tmp_path / "mine")


def test_relevant_rows_of_some_queries() -> None:
    made = generator.generate(seed=3, words=5)
    test = made.of_split("test")
    offsets, rows = made.relevant_rows(test)
    assert len(test) == 10 and list(offsets) == list(range(0, 21, 2))
    expected = made.relevance[made.relevance["query_id"] == test["query_id"][4]]["document_id"]
    assert set(made.documents["document_id"][rows[8:10]]) == set(expected)


def test_a_sample_keeps_the_documents_and_the_other_splits() -> None:
    made = generator.generate(seed=3, words=5)
    few, again = (made.sampled({"train": 7, "test": 100}, seed=1) for _ in range(2))
    assert few.queries["split"].value_counts().to_dict() == {"train": 7, "validation": 10, "test": 10}
    assert len(few.documents) == 400 and set(few.relevance["query_id"]) == set(few.queries["query_id"])
    pd.testing.assert_frame_equal(few.queries, again.queries)


def test_meanings_of_a_generated_word_have_nothing_in_common_and_a_seed_repeats() -> None:
    first, again, other = (generator.generate(seed, words=40) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first.queries, again.queries)
    assert not first.queries["text"].equals(other.queries["text"])
    for _, answers in first.relevance.groupby("query_id")["document_id"]:
        one, two = (answer[1:].split("-") for answer in answers)
        assert one[0] != two[0] and one[1] != two[1]


def write_beir(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {"_id": "d1", "title": "Noise", "text": "a sound"},
        {"_id": "d2", "title": "", "text": "a ship"},
    ]
    queries = [{"_id": f"q{i}", "text": f"query {i}"} for i in range(3)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td1\t1\nq0\td2\t0\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td2\t2\n")
    return folder


def test_the_layout_of_beir_is_read(tmp_path: Path) -> None:
    made = read_beir(write_beir(tmp_path / "beir"), "mine")
    assert list(made.documents["text"]) == ["Noise a sound", "a ship"]
    assert list(made.queries["query_id"] + made.queries["split"]) == ["q0train", "q1test"]
    assert list(made.relevance["document_id"]) == ["d1", "d2"]
    assert [step.queries for step in made.steps] == [3, 2]


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        ("corpus.jsonl", b'\n{"_id": "d1", "text": "again"}', r"corpus\.jsonl, line 3: 'd1' is given twice"),
        ("corpus.jsonl", b'\n{"_id": "d3", "text": ""}', r"line 3: the text of 'd3' is empty"),
        ("corpus.jsonl", b'\n{"_id": "d3"', r"line 3: not JSON"),
        ("corpus.jsonl", b'\n{"_id": 3, "text": "x"}', r'line 3: "_id" must be a string'),
        ("queries.jsonl", b"\n\xff", r"queries\.jsonl, line 4: not UTF-8"),
        ("qrels/test.tsv", b"q2\td9\t1\n", r"test\.tsv, line 3: document 'd9' does not exist"),
        ("qrels/test.tsv", b"q0\td1\t1\n", r"test\.tsv, line 3: query 'q0' is judged in train too"),
        ("qrels/test.tsv", b"q2 d1 1\n", r"line 3: expected query, document and score"),
    ],
)
def test_a_broken_line_of_beir_is_named(tmp_path: Path, file: str, line: bytes, complaint: str) -> None:
    folder = write_beir(tmp_path / "beir")
    with (folder / file).open("ab") as target:
        target.write(line)
    with pytest.raises(DataError, match=complaint):
        read_beir(folder, "mine")


def test_dictionaries_are_found_where_debian_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path / "root"))
    write_wordnet(tmp_path / "share" / "wordnet")
    with pytest.raises(FileNotFoundError, match=r"holds no gcide\.dict\.dz"):
        build.prepare("reverse-dictionary", tmp_path / "share")
    write_gcide(tmp_path / "share" / "dictd")
    build.prepare("reverse-dictionary", tmp_path / "share")
    assert len(build.load_text("reverse-dictionary").documents) == 7
    with pytest.raises(FileNotFoundError, match="data prepare wordnet-examples --from PATH"):
        build.load_text("wordnet-examples")
