"""The thing that is trained, saved and loaded: item table, encoder, similarity.

May import contracts, registry, runtime, paths, files, loading, encoders, similarities.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import safetensors
import safetensors.torch
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from workbench import encoders, files, paths, runtime, similarities
from workbench.contracts import ItemState, QueryState, SequenceBatch
from workbench.loading import one_line, read_json, read_tensors

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FORMAT = 1
OWN_KEYS = ("format", "num_items", "retriever")
"""What `Retriever.save` writes into `config.json` from the retriever itself; the rest is metadata."""

StoredDtype = Literal["float32", "float16", "bfloat16"]
"""How a file holds the fractions of a retriever, which computes with float32."""


@dataclass(frozen=True)
class RetrieverConfig:
    """`dim` D, the embedding width; `max_length`, the longest history it reads; its encoder and its similarity.

    Raises ValueError if `dim` or `max_length` is below 1.
    """

    encoder: encoders.EncoderConfig
    similarity: similarities.SimilarityConfig
    dim: int = 50
    max_length: int = 200

    def __post_init__(self) -> None:
        if self.dim < 1 or self.max_length < 1:
            raise ValueError(f"dim and max_length must be at least 1, not {self.dim} and {self.max_length}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` reads them back."""
        return {
            "encoder": encoders.ENCODERS.to_dict(self.encoder),
            "similarity": similarities.SIMILARITIES.to_dict(self.similarity),
            "dim": self.dim,
            "max_length": self.max_length,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The configuration that `to_dict` gave; ValueError if a kind or a field is unknown, missing or of another type."""
        try:
            encoder = encoders.ENCODERS.from_dict(values["encoder"])
            similarity = similarities.SIMILARITIES.from_dict(values["similarity"])
            sizes = {name: values[name] for name in ("dim", "max_length")}
        except KeyError as error:
            raise ValueError(f"a retriever's configuration needs {error}") from error
        for name, value in sizes.items():
            if type(value) is not int:
                raise ValueError(f"{name} must be a whole number, not {value!r:.50}")
        return cls(encoder, similarity, **sizes)


class Retriever(nn.Module):
    """An item table, an encoder of histories, and a similarity between the two.

    Built with its own `seed`: the same configuration and seed give the same weights, whatever ran before.
    Raises ValueError if `num_items` is below 1.
    """

    def __init__(self, config: RetrieverConfig, num_items: int, seed: int = 0) -> None:
        super().__init__()
        if num_items < 1:
            raise ValueError(f"a retriever needs at least one item, not {num_items}")
        self.config = config
        self.num_items = num_items
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: a GPU's is not touched
            self.item_table = nn.Embedding(num_items + 1, config.dim, padding_idx=0)
            nn.init.trunc_normal_(self.item_table.weight, std=0.02)
            with torch.no_grad():
                self.item_table.weight[0] = 0
            self.encoder = encoders.build(config.encoder, config.dim, config.max_length)
            self.similarity = similarities.build(config.similarity, config.dim, num_items)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.item_table.weight.device

    def embed(self, batch: SequenceBatch) -> Float[Tensor, "B L D"]:
        """Item embeddings of the histories; ValueError if an id is not in the table."""
        self._check_ids(batch.item_ids, lowest=0)
        embeddings: Tensor = self.item_table(batch.item_ids)
        return embeddings

    def _check_ids(self, ids: Int[Tensor, "*S"], lowest: int) -> None:
        if torch.compiler.is_exporting() or ids.numel() == 0:  # a program cannot raise for its input
            return
        smallest, largest = torch.stack(torch.aminmax(ids)).tolist()  # waits for the device once
        if smallest < lowest or largest > self.num_items:
            wrong = smallest if smallest < lowest else largest
            raise ValueError(f"item id {wrong} is outside this retriever's items 1..{self.num_items}")

    def forward(self, batch: SequenceBatch) -> Float[Tensor, "B L D"]:
        """The encoder's output at every position."""
        return self.encoder(self.embed(batch), batch)

    def query_state(self, batch: SequenceBatch) -> QueryState:
        """What the similarity needs of each whole history."""
        return self.similarity.queries(self.encoder.encode(self.embed(batch), batch), batch.user_ids)

    def item_state(self, ids: Int[Tensor, "N"] | None = None) -> ItemState:
        """What the similarity needs of the items `ids` (default: all, 1..N); ValueError if an id is not in the table."""
        if ids is None:
            ids = torch.arange(1, self.num_items + 1, device=self.device)
        else:
            self._check_ids(ids, lowest=1)
        return self.similarity.items(self.item_table(ids), ids)

    def save(self, folder: Path, *, stored_dtype: StoredDtype = "float32", **metadata: Any) -> None:
        """Write `model.safetensors` and `config.json` into `folder`, with `metadata` (data, metrics, …) in the latter.

        `stored_dtype`: "float16" and "bfloat16" halve the file: fractions are rounded to that type. Whole numbers always take
        as few bytes as hold them. `load` returns the types of the model again.
        Raises ValueError if a weight is too large for that type, OSError that names the file if it cannot be written (a full
        disk); the previous files are then unchanged.
        """
        weights = {k: _stored(k, v.detach().cpu(), stored_dtype) for k, v in self.state_dict().items()}
        if stored_dtype != "float32":
            metadata = {"stored_dtype": stored_dtype, **metadata}
        described = {
            "format": FORMAT,
            "num_items": self.num_items,
            "retriever": self.config.to_dict(),
            **metadata,
        }
        text = json.dumps(described, indent=2) + "\n"
        with files.atomic_write(folder / WEIGHTS) as new_weights:
            safetensors.torch.save_file(weights, new_weights)
            files.write_text(text, folder / CONFIG)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> Self:
        """The retriever saved in `folder` (or under that name in `ckpts/`), in evaluation mode.

        Raises FileNotFoundError if a file is missing; ValueError if one is damaged, if the weights do not fit the
        configuration or are not finite, and for a device that this machine does not have.
        """
        on = runtime.device(str(device))
        folder = Path(folder)
        if not folder.exists() and (named := paths.checkpoints() / folder).is_dir():
            folder = named
        config, num_items = described(folder)
        path = folder / WEIGHTS
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no {WEIGHTS}: not a checkpoint of this workbench")
        weights, _ = read_tensors(path, "restore or retrain it")
        return cls.of_weights(config, num_items, weights, str(path)).to(on)

    @classmethod
    def of_weights(
        cls, config: RetrieverConfig, num_items: int, weights: dict[str, Tensor], source: str
    ) -> Self:
        """The retriever of a configuration with the `weights` of a file, `source`, in evaluation mode.

        Nothing is allocated before the sizes in the configuration agree with the weights. Raises ValueError if they do not, or
        if a weight is not finite.
        """
        try:
            with _at_most(len(weights)), torch.device("meta"):
                shapes = cls(config, num_items).state_dict()
        except Exception as error:
            raise ValueError(f"{source} does not fit its configuration: {one_line(error)}") from error
        check_fit(shapes, weights, source)
        if wrong := not_finite(weights):
            raise ValueError(
                f"{source}: {wrong} holds NaN or infinite numbers; the run that wrote it diverged"
            )
        retriever = cls(config, num_items)
        retriever.load_state_dict(weights)
        return retriever.eval()


def _stored(name: str, weight: Tensor, dtype: StoredDtype) -> Tensor:
    """A weight as a file holds it; ValueError if it does not fit."""
    if weight.is_floating_point():
        if dtype == "float32":
            return weight.contiguous()
        rounded = weight.to(getattr(torch, dtype))
        if not bool(rounded.isfinite().all()):
            raise ValueError(f"{name} holds {float(weight.abs().max()):.3g}, which {dtype} cannot hold")
        return rounded.contiguous()
    if weight.dtype == torch.bool or not weight.numel():
        return weight
    smallest, largest = (int(end) for end in torch.aminmax(weight))
    kinds = (torch.int8, torch.int16, torch.int32, torch.int64)
    return weight.to(
        next(k for k in kinds if torch.iinfo(k).min <= smallest and largest <= torch.iinfo(k).max)
    )


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """ValueError as soon as more parameters are made in the block than a file of that many tensors could hold."""
    made, this_thread = 0, threading.get_ident()

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal made
        made += threading.get_ident() == this_thread
        if made > 2 * tensors + 100:
            raise ValueError(f"there are {tensors} tensors, and the configuration describes a larger model")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds a NaN or an infinite number; None if all are finite."""
    return next((name for name, t in tensors.items() if not bool(t.isfinite().all())), None)


def read_metadata(folder: Path) -> dict[str, Any]:
    """What `config.json` in a checkpoint folder holds: format, items, configuration, and the metadata of its training.

    Raises FileNotFoundError if there is none, ValueError if it is damaged or of another format.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG}: not a checkpoint of this workbench")
    metadata = read_json(path, "restore it, or train again")
    if (found := metadata.get("format")) != FORMAT:
        raise ValueError(f"{path} has format {found!r}; this version reads format {FORMAT}")
    if metadata.get("stored_dtype", "float32") not in get_args(StoredDtype):
        raise ValueError(f"{path}: its stored_dtype is not one of {', '.join(get_args(StoredDtype))}")
    for name in ("dataset", "fingerprint"):
        if not isinstance(metadata.get(name, ""), str):
            raise ValueError(
                f"{path}: its {name} is no text but {metadata[name]!r:.50}; restore it, or train again"
            )
    return metadata


def described(folder: Path) -> tuple[RetrieverConfig, int]:
    """The configuration and the number of items in a checkpoint's `config.json`; raises as `read_metadata` does."""
    metadata = read_metadata(folder)
    if not isinstance(metadata.get("retriever"), dict):
        raise ValueError(f"{folder / CONFIG} describes no retriever")
    try:
        config = RetrieverConfig.from_dict(metadata["retriever"])
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} describes no retriever: {one_line(error)}") from error
    num_items = metadata.get("num_items")
    if type(num_items) is not int or num_items < 1:
        raise ValueError(
            f"{folder / CONFIG} does not say how many items there are (num_items: {num_items!r})"
        )
    return config, num_items


def check_fit(wanted: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    """ValueError that names the tensors which are missing, unknown, or of another shape or kind of number."""
    expected = {k: (tuple(v.shape), v.is_floating_point()) for k, v in wanted.items()}
    given = {k: (tuple(v.shape), v.is_floating_point()) for k, v in weights.items()}
    problems = [f"{k} is missing" for k in expected.keys() - given.keys()]
    problems += [f"{k} is not part of this model" for k in given.keys() - expected.keys()]
    problems += [
        f"{k} is {given[k][0]}, the model's is {expected[k][0]}"
        if given[k][0] != expected[k][0]
        else f"{k} is {weights[k].dtype}, the model's is {wanted[k].dtype}"
        for k in expected.keys() & given.keys()
        if given[k] != expected[k]
    ]
    if problems:
        shown = one_line("; ".join(sorted(problems)[:5]))
        raise ValueError(f"{source} does not fit the model ({len(problems)} tensors): {shown}")
