"""The files that the workbench reads, made once by the workbench itself, and what reads each kind."""

import gzip
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mutations import Target

from workbench import paths
from workbench.bench.run import Raw
from workbench.data import Sequences, build, readers, storage
from workbench.data.archives import unpack
from workbench.encoders import SASRecConfig
from workbench.encoders.inputs import OUTPUT_SLOTS
from workbench.front_door import Catalogue, Index, Recommender
from workbench.models.import_rails import import_rails
from workbench.models.model_store import TrainedModel, store_model, with_published
from workbench.reporting import notebooks
from workbench.reporting.records import Record
from workbench.reporting.results import Entry, Report
from workbench.retriever import Retriever, RetrieverConfig
from workbench.search.brute_force import BruteForce
from workbench.search.engines.faiss import FaissLists
from workbench.search.indexes import Flat
from workbench.search.inverted_index import InvertedIndex
from workbench.search.path_beam import PathBeam
from workbench.similarities import DeepRetrievalConfig, MoLConfig, SparCodeConfig
from workbench.similarities.sparcode.quantizer import QuantizerConfig
from workbench.training import checkpoints, loop
from workbench.training.config import TrainingConfig

USERS, ITEMS, LENGTH, K = 24, 20, 8, 5
SIMILARITIES = {
    "mol": MoLConfig(2, 2, 4, query_hidden=8, gate_query=4, gate_item=4, gate_pair=4),
    "sparcode": SparCodeConfig(2, 2, 4, hidden=(6,), quantizer=QuantizerConfig(2, 6)),
    "paths": DeepRetrievalConfig(
        depth=2, width=4, paths=2, node_dim=4, hidden=8, candidates=8, candidate_beam=16
    ),
}
TRAINING = TrainingConfig(epochs=2, batch_size=8)


def sequences() -> Sequences:
    """Users who walk through the items in order."""
    ids = (np.arange(USERS)[:, None] + np.arange(LENGTH)) % ITEMS + 1
    return Sequences(
        name="walks",
        offsets=np.arange(USERS + 1, dtype=np.int64) * LENGTH,
        item_ids=ids.ravel().astype(np.int64),
        timestamps=np.tile(np.arange(LENGTH, dtype=np.int64) * 60, USERS),
        ratings=np.full(USERS * LENGTH, np.nan, dtype=np.float32),
        items=pd.DataFrame({"item_id": np.arange(ITEMS), "title": [f"item {i}" for i in range(ITEMS)]}),
        users=pd.DataFrame({"user_id": np.arange(USERS)}),
    )


def retriever(name: str) -> Retriever:
    """A small retriever with one of `SIMILARITIES`."""
    return Retriever(RetrieverConfig(SASRecConfig(1, 1, 8, 0.0), SIMILARITIES[name], 8, 10), ITEMS).eval()


def queries(one: Retriever) -> Any:
    """The query states of four users."""
    from workbench.data.sequences import batch_of

    with torch.no_grad():
        return one.query_state(batch_of(sequences(), np.arange(4), "test", 10))


def write_all(root: Path) -> None:
    """Write every original below `root`."""
    for name in SIMILARITIES:
        _checkpoint(root / f"checkpoint-{name}", name)
    loop.train(sequences(), retriever("mol").config, TRAINING, root / "run", device="cpu", progress=False)
    storage.save(sequences(), root / "prepared", {})
    _tables(root / "tables")
    _archives(root / "archives")
    _indexes(root / "indexes")
    _bench(root / "bench")
    _published(root / "published")
    report = Report("quick", "walks", {"00_a": _entry()}, {"data/walks"}, "abc")
    (root / "report").mkdir()
    report.save(root / "report")


def _checkpoint(folder: Path, name: str) -> None:
    data = sequences()
    metadata = {
        "dataset": data.name,
        "fingerprint": data.fingerprint(),
        "training": TRAINING.to_dict(),
        "best_epoch": 1,
    }
    history = pd.DataFrame(
        {"epoch": [1, 2], "seconds": [0.5, 0.25], "loss": [3.0, 2.5], "HR@10": [np.nan, 0.5]}
    )
    store_model(retriever(name), metadata, history, folder, data)


def _tables(folder: Path) -> None:
    folder.mkdir()
    data = sequences()
    table = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(USERS), LENGTH),
            "item_id": data.item_ids,
            "timestamp": data.timestamps,
            "rating": 4.0,
        }
    )
    table.to_csv(folder / "own.csv", index=False)
    table.to_parquet(folder / "own.parquet", index=False)
    data.items.assign(genres="Drama|War").to_csv(folder / "items.csv", index=False)
    pairs = np.stack([np.arange(30) % 7, np.arange(30) % 11], axis=1)
    np.savez(folder / "part.npz", pairs)


def _archives(folder: Path) -> None:
    folder.mkdir()
    texts = {"ratings.dat": "1::1::5::10\n" * 50, "movies.dat": "1::A (2000)::Drama\n"}
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in texts.items():
            file.writestr(f"ml/{name}", text)
    with tarfile.open(folder / "a.tar.gz", "w:gz") as file:
        for name, text in texts.items():
            info = tarfile.TarInfo(f"ml/{name}")
            info.size = len(text)
            file.addfile(info, io.BytesIO(text.encode()))
    (folder / "a.gz").write_bytes(gzip.compress(texts["ratings.dat"].encode()))


def _indexes(folder: Path) -> None:
    folder.mkdir()
    with torch.no_grad():
        sparse, deep = retriever("sparcode"), retriever("paths")
        InvertedIndex.build(sparse.similarity, sparse.item_state()).save(folder / "codes.index")
        PathBeam.of(deep.similarity, deep.item_state()).save(folder / "paths")
        sparse.item_state().save(folder / "items.safetensors")
        FaissLists(Flat(), "average", *_vectors()).save(folder / "flat.faiss")
    _recommender().index("exact").save(folder / "saved")


def _recommender() -> Recommender:
    return Recommender("mol", retriever("mol"), Catalogue("walks", sequences().items))


def _vectors() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(1, ITEMS + 1), torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(1))


def _bench(folder: Path) -> None:
    part = folder / "workload-0" / "b1-k5"
    part.mkdir(parents=True)
    (folder / "run.json").write_text(
        json.dumps(
            {"finished": True, "ceilings": {"operations": 1e9, "bytes": 1e9}, "commits": [], "plan": {}}
        )
    )
    common = {"workload": "w", "label": "brute force", "batch_size": 1, "k": 5}
    pd.DataFrame([common | {"round": 0, "call": 0, "turn": 0, "seconds": 0.1, "fraction": 1.0}]).to_parquet(
        part / "round-000.calls.parquet"
    )
    pd.DataFrame([common | {"round": 0, "ids": [1, 2], "scores": [0.5, 0.25]}]).to_parquet(
        part / "round-000.answers.parquet"
    )
    pd.DataFrame([common | {"peak_bytes": 1}]).to_parquet(part / "memory.parquet")
    for name in ("builds", "entries", "shape"):
        pd.DataFrame([{"workload": "w", "label": "brute force"}]).to_parquet(
            folder / "workload-0" / f"{name}.parquet"
        )


def _published(folder: Path) -> None:
    folder.mkdir()
    d = 8
    state = {"_embedding_module._item_emb.weight": torch.randn(ITEMS + 1, d)}
    state["_input_features_preproc._pos_emb.weight"] = torch.randn(10 + OUTPUT_SLOTS, d)
    for name, shape in {
        "attention_layers.0.in_proj_weight": (3 * d, d), "attention_layers.0.in_proj_bias": (3 * d,),
        "attention_layers.0.out_proj.weight": (d, d), "attention_layers.0.out_proj.bias": (d,),
        "forward_layers.0._conv1d.0.weight": (12, d, 1), "forward_layers.0._conv1d.0.bias": (12,),
        "forward_layers.0._conv1d.3.weight": (d, 12, 1), "forward_layers.0._conv1d.3.bias": (d,),
    }.items():  # fmt: skip
        state[name] = torch.randn(shape)
    torch.save({"model_state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "model.pt")
    (folder / "model.json").write_text(
        json.dumps(
            {
                "sasrec": {"num_heads": 2, "ffn_dropout_rate": 0.1},
                "temperature": 0.05,
                "max_sequence_length": 10,
            }
        )
    )


def _entry() -> Entry:
    record = Record("HR@10", 0.5, "", False)
    return Entry(
        "00_a",
        "A",
        "ok",
        1.5,
        "2026-01-01T00:00:00+00:00",
        "",
        {"seed": 0},
        "k",
        {"data/walks": "d"},
        (record,),
        {},
    )


def _search(folder: Path, name: str) -> Any:
    one = Retriever.load(folder)
    with torch.no_grad():
        return BruteForce(one.similarity, one.item_state()).search(queries(one), K)


def _model(folder: Path) -> Any:
    return with_published([TrainedModel.load(folder)])


def _run(folder: Path) -> Any:
    described = {
        "dataset": "walks", "fingerprint": sequences().fingerprint(), "retriever": retriever("mol").config.to_dict(),
        "training": TRAINING.to_dict(),
    }  # fmt: skip
    loop._claim(folder, described, replace_run=False)
    one = retriever("mol")
    return checkpoints.resume(folder, one, torch.optim.AdamW(one.parameters())), loop.load_history(folder)


def _codes(folder: Path) -> Any:
    one = retriever("sparcode")
    with torch.no_grad():
        items, q = one.item_state(), queries(one)
        found = InvertedIndex.load(folder / "codes.index", one.similarity, items).search(q, K)
        return found, BruteForce(one.similarity, items).search(q, K)


def _paths(folder: Path) -> Any:
    one = retriever("paths")
    with torch.no_grad():
        found = PathBeam.load(folder / "paths", one.similarity).search(queries(one), K)
        return found, BruteForce(one.similarity, one.item_state()).search(queries(one), K)


def _saved(folder: Path) -> Any:
    index = Index.load(folder / "saved")
    histories = [[1, 2, 3], [4, 5], [6]]
    return index.search(histories, K).topk, _recommender().index("brute-force").search(histories, K).topk


def _flat(folder: Path) -> Any:
    ids, vectors = _vectors()
    asked = vectors[:4] + 0.1
    found = FaissLists.load(folder / "flat.faiss", Flat(), "average", ids, vectors).lists(asked, K)
    true = (asked @ vectors.T).topk(K + 1)
    return [
        f"a list is wrong and closed at {found.outside_bound[i]}, where an item scores {true.values[i, K - 1]}"
        for i in range(4)
        if found.rows[i].tolist() != true.indices[i, :K].tolist()
        and found.outside_bound[i] < true.values[i, K - 1] - 1e-4
    ]


def _certified(answers: Any) -> str:
    """Why a certified answer is wrong; "" where none is."""
    found, true = answers
    wrong = (found.ids != true.ids).any(1) & found.exact & ((found.scores - true.scores).abs() > 1e-4).any(1)
    return "a wrong answer is certified" if bool(wrong.any()) else ""


def _tree(folder: Path) -> Any:
    both = ("ratings.dat", "movies.dat")
    for name, expected in {"a.zip": both, "a.tar.gz": both, "a.gz": both[:1]}.items():
        unpack(folder / name, folder / "out" / name, expected, 1 << 20)


def _own(folder: Path, name: str = "own.csv") -> Any:
    os.environ["WORKBENCH_ROOT"] = str(folder / "root")
    return build.build_own("mine", folder / name, folder / "items.csv", replace=True)


def targets(root: Path) -> list[tuple[Target, Path]]:
    """Every kind with its folder below `root`."""
    folders = [f"checkpoint-{name}" for name in SIMILARITIES]
    weights = [
        (
            Target(f"weights ({n.partition('-')[2]})", ("model.safetensors",), lambda f, n=n: _search(f, n)),
            root / n,
        )
        for n in folders
    ]
    configs = [
        (
            Target(f"configurations ({n.partition('-')[2]})", ("config.json",), lambda f, n=n: _search(f, n)),
            root / n,
        )
        for n in folders
    ]
    return [
        *configs,
        *weights,
        (
            Target("metrics and histories", ("metrics.csv", "history.csv", "config.json"), _model),
            root / "checkpoint-mol",
        ),
        (
            Target(
                "states of runs",
                ("run.json", "epoch-0002/state.json", "epoch-0002/optimizer.safetensors"),
                _run,
            ),
            root / "run",
        ),
        (
            Target(
                "published checkpoints", ("model.pt", "model.json"), lambda f: import_rails(f / "model.pt")
            ),
            root / "published",
        ),
        (
            Target(
                "prepared data",
                ("meta.json", "interactions.parquet", "items.parquet", "users.parquet"),
                storage.load_folder,
            ),
            root / "prepared",
        ),
        (Target("CSV tables", ("own.csv", "items.csv"), _own), root / "tables"),
        (
            Target("Parquet tables", ("own.parquet",), lambda f: _own(f, "own.parquet")),
            root / "tables",
        ),
        (
            Target("npz parts", ("part.npz",), lambda f: readers._expansion_part(f / "part.npz")),
            root / "tables",
        ),
        (Target("archives", ("a.zip", "a.tar.gz", "a.gz"), _tree), root / "archives"),
        (Target("inverted indexes", ("codes.index",), _codes, _certified), root / "indexes"),
        (
            Target("FAISS indexes", ("flat.faiss",), _flat, lambda wrong: wrong[0] if wrong else ""),
            root / "indexes",
        ),
        (Target("path indexes", _files_of(root, "paths"), _paths, _certified), root / "indexes"),
        (Target("saved indexes", _files_of(root, "saved"), _saved, _certified), root / "indexes"),
        (
            Target(
                "bench results",
                ("run.json", "workload-0/b1-k5/round-000.calls.parquet", "workload-0/b1-k5/memory.parquet"),
                Raw.load,
            ),
            root / "bench",
        ),
        (Target("results of reports", ("results.json",), Report.load), root / "report"),
        (
            Target("parameters of notebooks", ("values.json",), _bound, names_file=False),
            _values(root / "parameters"),
        ),
    ]


def _files_of(root: Path, name: str) -> tuple[str, ...]:
    folder = root / "indexes"
    return tuple(str(p.relative_to(folder)) for p in sorted((folder / name).iterdir()))


def _values(folder: Path) -> Path:
    """A folder with the parameters to be damaged, as typed on the command line."""
    folder.mkdir(exist_ok=True)
    every = notebooks.catalog(paths.notebooks())
    values = {
        name: json.dumps(v)
        for n in every
        for name, v in n.parameters.items()
        if name not in notebooks.REQUIRED
    }
    (folder / "values.json").write_text(json.dumps(values))
    return folder


def _bound(folder: Path) -> Any:
    text = (folder / "values.json").read_text(errors="replace")
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = {"epochs": text}
    given = {str(k): str(v) for k, v in given.items()} if isinstance(given, dict) else {"epochs": str(given)}
    return notebooks.bind(notebooks.catalog(paths.notebooks()), given)
