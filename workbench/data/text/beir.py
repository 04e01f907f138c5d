"""The layout of BEIR: `corpus.jsonl`, `queries.jsonl` and `qrels/{train,dev,test}.tsv`.

Source: Thakur et al., "BEIR" (2021, arXiv 2104.08663), https://github.com/beir-cellar/beir.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from workbench.data.errors import DataError
from workbench.data.text.collection import Step, TextCollection

CORPUS, QUERIES = "corpus.jsonl", "queries.jsonl"
_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def is_beir(folder: Path) -> bool:
    """Whether `folder` has BEIR's layout."""
    return (folder / CORPUS).is_file()


def read_beir(folder: Path, name: str) -> TextCollection:
    """The collection in `folder`: the text of a document is its title and its text; relevant is what has a score above 0.

    A query belongs to the split whose file judges it; queries that no file judges are left out.
    Raises FileNotFoundError for a missing file, and DataError that names file and line for what is not of the layout, an id
    that repeats, an empty text, a judgement of an unknown query or document, and a query judged in two splits.
    """
    if missing := [file for file in (CORPUS, QUERIES) if not (folder / file).is_file()]:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)} of BEIR's layout")
    documents = _texts(folder / CORPUS, "document_id")
    queries = _texts(folder / QUERIES, "query_id")
    files = [path for split in _SPLITS if (path := folder / "qrels" / f"{split}.tsv").is_file()]
    if not files:
        raise FileNotFoundError(f"{folder / 'qrels'} lacks train.tsv, dev.tsv and test.tsv: one is needed")
    known = (set(queries["query_id"]), set(documents["document_id"]))
    split_of: dict[str, str] = {}
    pairs: dict[tuple[str, str], None] = {}
    for path in files:
        split = _SPLITS[path.stem]
        for where, query, document in _judgements(path):
            for given, among, kind in zip((query, document), known, ("query", "document"), strict=True):
                if given not in among:
                    raise DataError(f"{where}: {kind} {given!r} does not exist")
            if split_of.setdefault(query, split) != split:
                raise DataError(f"{where}: query {query!r} is judged in {split_of[query]} too")
            pairs[query, document] = None
    judged = queries[queries["query_id"].isin(split_of)].reset_index(drop=True)
    steps = (
        Step("queries", len(queries), len(queries)),
        Step("with a relevant document", len(judged), len(judged)),
    )
    judged = judged.assign(split=judged["query_id"].map(split_of), group=judged["query_id"])
    relevance = pd.DataFrame(list(pairs), columns=["query_id", "document_id"])
    answers = relevance.groupby("query_id").size()
    judged = judged.assign(answers=judged["query_id"].map(answers))
    return TextCollection(name, documents, judged, relevance, steps)


def _texts(path: Path, key: str) -> pd.DataFrame:
    rows: dict[str, str] = {}
    for where, record in _records(path):
        try:
            identity = record["_id"]
            text = " ".join(part for part in (record.get("title") or "", record["text"]) if part).strip()
        except (KeyError, TypeError, AttributeError):
            raise DataError(f'{where}: expected an object with "_id" and "text"') from None
        if not isinstance(identity, str):
            raise DataError(f'{where}: "_id" must be a string, not {identity!r}')
        if identity in rows:
            raise DataError(f"{where}: {identity!r} is given twice")
        if not text:
            raise DataError(f"{where}: the text of {identity!r} is empty")
        rows[identity] = text
    return pd.DataFrame({key: list(rows), "text": list(rows.values())}, dtype="str")


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(path):
        try:
            yield f"{path}, line {number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from None


def _judgements(path: Path) -> Iterator[tuple[str, str, str]]:
    for number, line in _lines(path):
        where, fields = f"{path}, line {number}", line.split("\t")
        if number == 1 and fields[0] == "query-id":
            continue
        try:
            query, document, score = fields
            relevant = float(score) > 0
        except ValueError:
            raise DataError(f"{where}: expected query, document and score between tabs") from None
        if relevant:
            yield where, query, document


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8").strip("\r\n")
            except UnicodeDecodeError:
                raise DataError(f"{path}, line {number}: not UTF-8 text") from None
            if line.strip():
                yield number, line
