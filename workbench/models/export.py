"""A retriever for other runtimes: its query side and scorer as torch programs and as ONNX, checked against the retriever."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from workbench import files, tensor_files
from workbench.contracts import ItemState, QueryState, SequenceBatch
from workbench.loading import one_line, read_json
from workbench.retriever import Retriever
from workbench.runtime import require

TOLERANCE = 1e-4
"""How far what an export computes may be from what the retriever does, relative to the largest number."""

QUERY, SCORER, ITEMS, ABOUT = "query", "scorer", "items.safetensors", "export.json"
CHECKED = (1, 5)
"""Queries of the checks: other numbers than are traced."""

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class _Parts:
    """The tensors of a state by name, but for the ids, and how to put them together again."""

    kind: type[Any]
    names: tuple[str, ...]

    @classmethod
    def of(cls, state: QueryState | ItemState) -> "_Parts":
        there = [f.name for f in fields(state) if getattr(state, f.name) is not None]
        return cls(type(state), tuple(name for name in there if name != "ids"))

    def tensors(self, state: QueryState | ItemState) -> tuple[Tensor, ...]:
        return tuple(getattr(state, name) for name in self.names)

    def state(self, tensors: Sequence[Tensor]) -> Any:
        values: dict[str, Tensor | None] = {f.name: None for f in fields(self.kind)}
        values.update(zip(self.names, tensors, strict=True))
        if "ids" in values:  # which item a row is has no part in its score
            values["ids"] = torch.arange(tensors[0].shape[0])
        return self.kind(**values)


class QuerySide(nn.Module):
    """From histories to the tensors of the query state: what a server computes for each request.

    Takes `item_ids`, `timestamps` int64 (B, L), `lengths`, `target_timestamps` (the time of the request, seconds) and
    `user_ids` int64 (B,), L being the retriever's `max_length`.
    """

    inputs = ("item_ids", "timestamps", "lengths", "target_timestamps", "user_ids")

    def __init__(self, retriever: Retriever) -> None:
        super().__init__()
        self.retriever = retriever
        with torch.no_grad():
            self.parts = _Parts.of(retriever.query_state(example(retriever, 2)))

    def forward(
        self,
        item_ids: Int[Tensor, "B L"],
        timestamps: Int[Tensor, "B L"],
        lengths: Int[Tensor, "B"],
        target_timestamps: Int[Tensor, "B"],
        user_ids: Int[Tensor, "B"],
    ) -> tuple[Tensor, ...]:
        """The tensors of the query state, those in `parts.names`."""
        batch = SequenceBatch(
            item_ids, timestamps, torch.full(item_ids.shape, torch.nan), lengths, user_ids,
            target_timestamps=target_timestamps,
        )  # fmt: skip
        return self.parts.tensors(self.retriever.query_state(batch))


class Scorer(nn.Module):
    """From the tensors of a query state and of an item state to the scores (B, N)."""

    def __init__(self, retriever: Retriever) -> None:
        super().__init__()
        self.similarity = retriever.similarity
        with torch.no_grad():
            self.queries = _Parts.of(retriever.query_state(example(retriever, 2)))
            self.items = _Parts.of(retriever.item_state(torch.ones(1, dtype=torch.int64)))

    def forward(self, queries: tuple[Tensor, ...], items: tuple[Tensor, ...]) -> Float[Tensor, "B N"]:
        """Every query against every item."""
        return self.similarity.score(self.queries.state(queries), self.items.state(items))


def example(retriever: Retriever, size: int, seed: int = 0) -> SequenceBatch:
    """Random histories (size, max_length) of a retriever's items, of lengths from 1 up."""
    chance = torch.Generator().manual_seed(seed)
    length = retriever.config.max_length
    lengths = torch.randint(1, length + 1, (size,), generator=chance)
    ids = torch.randint(1, retriever.num_items + 1, (size, length), generator=chance)
    times = torch.randint(1, 10**6, (size, length), generator=chance).cumsum(1)
    valid = torch.arange(length) < lengths[:, None]
    return SequenceBatch(
        ids * valid, times * valid, torch.full((size, length), torch.nan), lengths, torch.zeros(size, dtype=torch.int64),
        target_timestamps=times[:, -1] + 1,
    )  # fmt: skip


def query_program(retriever: Retriever) -> ExportedProgram:
    """`QuerySide` as a program for any number of queries; ValueError if a part of the retriever cannot be traced."""
    side = QuerySide(retriever).eval()
    batch = example(retriever, 2)
    return _traced(side, tuple(_inputs(batch).values()), [{0: Dim.DYNAMIC} for _ in side.inputs])


def scorer_program(retriever: Retriever) -> ExportedProgram:
    """`Scorer` as a program for any numbers of queries and items; ValueError if the similarity cannot be traced."""
    scorer = Scorer(retriever).eval()
    arguments = _states(retriever, scorer, 2)
    return _traced(scorer, arguments, [tuple({0: Dim.DYNAMIC} for _ in part) for part in arguments])


def write(
    retriever: Retriever, folder: Path, *, onnx: bool = False, described: Mapping[str, Any] | None = None
) -> Path:
    """Write the exported retriever into `folder`, which must be new or an export with the same settings.

    `query.pt2` and `scorer.pt2` are torch programs (`torch.export.load`), `query.onnx` and `scorer.onnx` the same for ONNX
    Runtime if `onnx`; `items.safetensors` holds the item side of all items, `export.json` the names of inputs and outputs.
    All are checked first, on random histories of other batch sizes. `described` goes into `export.json`.
    Raises ValueError if a part cannot be exported, RuntimeError if an export computes something else than the retriever,
    ImportError without the packages that `onnx` needs.
    """
    retriever = retriever.cpu().eval()
    if onnx:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            require(package)
    side, scorer = QuerySide(retriever), Scorer(retriever)
    names = {
        QUERY: ([*side.inputs], [*side.parts.names]),
        SCORER: ([f"query_{n}" for n in scorer.queries.names] + [f"item_{n}" for n in scorer.items.names], ["scores"]),
    }  # fmt: skip
    programs = {QUERY: query_program(retriever), SCORER: scorer_program(retriever)}
    with torch.no_grad():
        items = scorer.items.tensors(retriever.item_state())
    about = {
        **(described or {}),
        "onnx": onnx,
        "num_items": retriever.num_items,
        "max_length": retriever.config.max_length,
    }
    about |= {name: {"inputs": i, "outputs": o} for name, (i, o) in names.items()}
    with files.new_folder(folder, KIND, about, replace=True) as temporary:
        for name, program in programs.items():
            path = temporary / f"{name}.pt2"
            torch.export.save(program, path)
            module = torch.export.load(path).module()
            _check(retriever, name, "torch program", lambda *given, module=module: module(*given))
            if onnx:
                write_onnx(program, *names[name], temporary / f"{name}.onnx")
                _check(retriever, name, "ONNX", onnx_function(temporary / f"{name}.onnx"))
        tensor_files.save(
            dict(zip(scorer.items.names, items, strict=True)), temporary / ITEMS, {"record": "exported items"}
        )
        (temporary / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return folder


def _made_with(folder: Path) -> Mapping[str, Any] | None:
    path = folder / ABOUT
    return read_json(path, "export the model again") if path.is_file() else None


KIND = files.Kind("exported model", (ITEMS, ABOUT, "*.pt2", "*.onnx", "*.onnx.data"), _made_with)


def _inputs(batch: SequenceBatch) -> Inputs:
    return {name: getattr(batch, name) for name in QuerySide.inputs}


def _states(
    retriever: Retriever, scorer: Scorer, queries: int, seed: int = 0
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The tensors of some queries, and of all items."""
    with torch.no_grad():
        asked = retriever.query_state(example(retriever, queries, seed))
        return scorer.queries.tensors(asked), scorer.items.tensors(retriever.item_state())


def _traced(module: nn.Module, arguments: tuple[Any, ...], shapes: list[Any]) -> ExportedProgram:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what torch itself does while it traces
            return torch.export.export(module, arguments, dynamic_shapes=tuple(shapes))
    except Exception as error:  # torch raises many kinds here
        raise ValueError(
            f"the {type(module).__name__} of this retriever cannot be exported: {one_line(error)}"
        ) from error


def write_onnx(program: ExportedProgram, inputs: list[str], outputs: list[str], path: Path) -> None:
    """Write a program as ONNX, with names for its inputs and outputs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = torch.onnx.export(
            program, input_names=inputs, output_names=outputs, dynamo=True, verbose=False
        )
    assert made is not None
    made.save(path)


def onnx_function(path: Path) -> Callable[..., tuple[Tensor, ...]]:
    """An ONNX file as a function of tensors."""
    session = require("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*given: Any) -> tuple[Tensor, ...]:
        flat = [t for part in given for t in (part if isinstance(part, tuple) else (part,))]
        found = session.run(None, {name: t.numpy() for name, t in zip(names, flat, strict=True)})
        return tuple(map(torch.from_numpy, found))

    return run


def _check(retriever: Retriever, name: str, kind: str, run: Callable[..., Any]) -> None:
    """Raise RuntimeError if what was exported computes something else than the retriever."""
    side, scorer = QuerySide(retriever), Scorer(retriever)
    for size in CHECKED:
        given: tuple[Any, ...] = tuple(_inputs(example(retriever, size, seed=size)).values())
        if name == SCORER:
            given = _states(retriever, scorer, size, seed=size)
        with torch.no_grad():
            expected, found = (side if name == QUERY else scorer)(*given), run(*given)
        expected, found = ((t,) if isinstance(t, Tensor) else t for t in (expected, found))
        for ours, theirs in zip(expected, found, strict=True):
            off = float((ours - theirs).abs().max()) / max(1.0, float(ours.abs().max()))
            if not off <= TOLERANCE:
                raise RuntimeError(
                    f"the {name} as {kind} is off by {off:.2g} for {size} queries: nothing was written"
                )
