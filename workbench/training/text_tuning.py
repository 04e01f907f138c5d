"""Fine-tuning of a text encoder: its top layers, or all of it, learn to bring a query near the documents that answer it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from workbench.files import atomic_write
from workbench.text_encoders import BertEncoder
from workbench.training.text_training import (
    HARDEST,
    Examples,
    answer_keys,
    are_answers,
    contrastive_loss,
    draw_documents,
)


@dataclass(frozen=True)
class EncoderTuning:
    """`layers`: how many of the encoder's top layers learn; 0 stands for all of them and the embeddings. `temperature` divides
    cosines; `negatives`: hard ones per query, besides the documents of the batch. The learning rate falls linearly to 0. Every
    `save_every` steps the state is stored, from which a killed run resumes.
    """

    layers: int = 1
    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 5e-5
    temperature: float = 0.05
    negatives: int = 1
    save_every: int = 100

    def __post_init__(self) -> None:
        if (
            min(self.layers, self.negatives) < 0
            or min(self.epochs, self.save_every) < 1
            or self.batch_size < 2
        ):
            raise ValueError(
                f"layers and negatives must be 0 or more, epochs and save_every 1 or more, batch_size 2 or more: {self}"
            )
        if not (self.learning_rate > 0 and self.temperature > 0):
            raise ValueError(f"learning_rate and temperature must be positive: {self}")


def tune_encoder(
    encoder: BertEncoder,
    queries: Sequence[str],
    documents: Sequence[str],
    examples: Examples,
    tuning: EncoderTuning,
    state: Path,
    seed: int = 0,
    on_step: Callable[[int, int, float], None] | None = None,
    frozen: torch.dtype = torch.float32,
) -> None:
    """Train `encoder` in place on the texts of `examples` and of the documents, by the loss of `train_head` with cosines.

    `state` is the file of the state of an interrupted run, which continues from it to the same weights; it stays when the run
    is done. Every step draws from a generator of its own. `on_step` takes the number of finished steps, of all, and the loss.
    Layers that do not learn compute in `frozen`, without dropout, and keep their weights.
    Raises ValueError for an encoder that does not compute in float32, for more layers than it has, and for a damaged state.
    """
    if encoder.config.precision != "float32":
        raise ValueError(f"{encoder.name} computes in {encoder.config.precision}: tune it in float32")
    learns = _learning(encoder.model, tuning.layers)
    thaw = _freeze(encoder.model, tuning.layers, frozen)
    optimizer = torch.optim.AdamW(learns.values(), lr=tuning.learning_rate, weight_decay=0.01)
    an_epoch = -(-len(queries) // tuning.batch_size)
    steps = tuning.epochs * an_epoch
    keys, hard = answer_keys(examples, len(documents)), examples.hard[:, :HARDEST]
    try:
        for step in range(_resume(state, learns, optimizer), steps):
            epoch, place = divmod(step, an_epoch)
            order = np.random.default_rng((seed, epoch)).permutation(len(queries))
            batch = order[place * tuning.batch_size : (place + 1) * tuning.batch_size]
            random = np.random.default_rng((seed, epoch, place + 1))
            rows, positives = draw_documents(examples, hard, batch, 1, tuning.negatives, random)
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(int(random.integers(1 << 62)))  # of dropout
                asked = encoder.tuned_vectors([queries[row] for row in batch])
                found = encoder.tuned_vectors([documents[row] for row in rows])
            answers = torch.from_numpy(are_answers(keys, batch, rows, len(documents)))
            loss = contrastive_loss(asked @ found.T / tuning.temperature, positives, answers)
            for group in optimizer.param_groups:
                group["lr"] = tuning.learning_rate * (1 - step / steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if (step + 1) % tuning.save_every == 0:
                _save(state, learns, optimizer, step + 1)
            if on_step is not None:
                on_step(step + 1, steps, float(loss.detach()))
    finally:
        encoder.model.eval().requires_grad_(False)
        thaw()


def _learning(model: nn.Module, layers: int) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name, made to take gradients. A pooler is never read."""
    stack = model.encoder.layer  # type: ignore[union-attr]
    if layers > len(stack):  # type: ignore[arg-type]
        raise ValueError(f"the encoder has {len(stack)} layers, not {layers}")  # type: ignore[arg-type]
    top = stack[len(stack) - layers :] if layers else model  # type: ignore[arg-type, index]
    chosen = {id(parameter) for parameter in top.parameters()}  # type: ignore[union-attr]
    found = {n: p for n, p in model.named_parameters() if id(p) in chosen and not n.startswith("pooler.")}
    for parameter in found.values():
        parameter.requires_grad_(True)
    return found


def _freeze(model: Any, layers: int, dtype: torch.dtype) -> Callable[[], None]:
    """Put what learns into training mode, and the layers below it, if there are any, into this dtype; returns the undoing."""
    if not layers:
        model.train()
        return lambda: None
    model.eval()
    stack = model.encoder.layer
    below = nn.ModuleList([model.embeddings, *stack[: len(stack) - layers]])
    top = stack[len(stack) - layers :]
    top.train()
    kept = {name: value.clone() for name, value in below.state_dict().items()}
    below.to(dtype)

    def widened(_: nn.Module, given: tuple[object, ...], named: dict[str, object]) -> tuple[object, object]:
        return tuple(map(_wide, given)), {name: _wide(value) for name, value in named.items()}

    hook = top[0].register_forward_pre_hook(widened, with_kwargs=True)

    def thaw() -> None:
        hook.remove()
        below.to(torch.float32).load_state_dict(kept)

    return thaw


def _wide(value: object) -> object:
    """A tensor of floats in float32, and anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _save(state: Path, learns: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors: dict[str, Tensor] = {}
    for name, parameter in learns.items():
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        for slot, value in optimizer.state[parameter].items():
            tensors[f"{slot}/{name}"] = value
    with atomic_write(state) as temporary:
        safetensors.torch.save_file(tensors, temporary, metadata={"step": str(step)})


def _resume(state: Path, learns: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """The number of steps that the state holds, which is loaded; 0 if there is none."""
    if not state.is_file():
        return 0
    try:
        with safetensors.safe_open(state, framework="pt") as file:
            step = int(file.metadata()["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.no_grad():
            for name, parameter in learns.items():
                parameter.copy_(tensors[f"weight/{name}"])
                slots = {key: tensors[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                optimizer.state[parameter] = slots
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{state} is damaged; delete it to tune the encoder from the start") from error
    return step
