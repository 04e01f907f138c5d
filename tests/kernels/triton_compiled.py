"""Compiles the Triton kernels for a GPU that is not here: `python triton_compiled.py`. Prints bytes of code by case, as JSON.

The interpreter runs what no compiler would take; triton's compiler and NVIDIA's assembler, which come with triton, need no GPU.
"""

import json
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from workbench.kernels import mixture_loss_triton, mixture_triton
from workbench.kernels.mixture_loss import GateDropout

TARGET = GPUTarget("cuda", 90, 32)  # H100, H200
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
}
STATES = (
    *("f_ptr", "query_gate_ptr", "g_ptr", "item_gate_ptr"),
    *("w1_ptr", "b1_ptr", "w2_ptr", "b2_ptr"),
)
ROWS, ALLOWED, SCORES = torch.ones(1, dtype=torch.int64), torch.ones(1, dtype=torch.int8), torch.ones(1)
TWO_LAYERS = ((torch.ones(20, 6), torch.ones(20)), (torch.ones(6, 20), None))
ONE_LAYER = ((torch.ones(6, 6), torch.ones(6)),)


MOST_SHARED = 99 * 1024
"""Bytes of shared memory that a program may take on every GPU since Ampere."""


def code_bytes(kernel: Any, tensors: dict[str, Tensor | None], constants: dict[str, Any]) -> int:
    """Of a kernel for these tensors, None for those that are not there; all other arguments are 32-bit integers."""
    signature, fixed = {}, {}
    for place, name in enumerate(kernel.arg_names):
        tensor = tensors.get(name)
        if name in constants or (name in tensors and tensor is None):
            signature[name], fixed[(place,)] = "constexpr", constants.get(name)
        else:
            signature[name] = "i32" if tensor is None else POINTERS[tensor.dtype]
    made = triton.compile(ASTSource(kernel, signature, fixed), target=TARGET, options={"num_warps": 8})
    assert made.metadata.shared <= MOST_SHARED, made.metadata.shared  # to take more fails when it is loaded
    return len(made.asm["cubin"])


def started(
    layers: mixture_triton.Layers, combination: str, dtype: torch.dtype, gated: bool, together: bool = True
) -> tuple[dict[str, Tensor | None], dict[str, Any]]:
    """Tensors and constants as on a GPU."""
    parts = (torch.ones(3, 6), torch.ones(40, 6, dtype=dtype)) if gated else (None, None)
    f, g = torch.ones(3, 3, 20), torch.ones(40, 2, 20, dtype=dtype)
    start = mixture_triton.launch(f, parts[0], g, parts[1], layers, combination, together)
    return dict(zip(STATES, start.tensors, strict=True)), {
        **start.constants,
        "kind": mixture_triton.kind_of(dtype, "cuda"),
    }


def scores(candidates: bool, dtype: torch.dtype, kind: int | None = None) -> int:
    tensors, constants = started(TWO_LAYERS, "glu_silu", dtype, True, together=not candidates)
    constants |= {} if kind is None else {"kind": kind}
    tensors |= {"rows_ptr": ROWS if candidates else None, "scores_ptr": SCORES}
    return code_bytes(mixture_triton._scores_kernel, tensors, {**constants, "gathered": candidates})


def best(
    layers: mixture_triton.Layers, combination: str, gated: bool, masked: bool, dtype: torch.dtype
) -> int:
    tensors, constants = started(layers, combination, dtype, gated)
    tensors |= {"keys_ptr": ROWS, "floors_ptr": ROWS, "excluded_ptr": ROWS if masked else None}
    tensors |= {"allowed_ptr": ALLOWED if masked else None}
    return code_bytes(
        mixture_triton._top_k_kernel,
        tensors,
        {**constants, "K": 128, "excluding": masked, "filtered": masked},
    )


def loss(
    layers: int,
    combination: str,
    gated: bool,
    rounded: bool,
    backward: bool,
    groups: tuple[int, int, int] = (8, 4, 64),
) -> int:
    """At the published sizes of MovieLens 1M, if no others are given."""
    p, hidden = groups[0] * groups[1], 128
    weights: list[Tensor | None] = [None] * 4
    if layers == 2:
        weights = [torch.ones(hidden, p), torch.ones(hidden), torch.ones(p, hidden), torch.ones(p)]
    elif layers == 1:
        weights[2:] = torch.ones(p, p), torch.ones(p)
    parts = (torch.ones(3, p), torch.ones(9, p)) if gated else (None, None)
    given = (torch.ones(3, groups[0], groups[2]), parts[0], torch.ones(9, *groups[1:]), parts[1], *weights)
    read, constants, _ = mixture_loss_triton.launch(given, combination, GateDropout(0.2, 0.1), rounded)
    names = mixture_loss_triton._kernel.arg_names
    tensors = dict(zip(names[:8], read, strict=True)) | dict(zip(names[11:19], read, strict=True))
    keys = torch.ones(1, dtype=torch.int32)
    tensors |= {"rows_ptr": ROWS, "keys_ptr": keys, "scores_ptr": SCORES}
    kind = mixture_triton.HALF if rounded else mixture_triton.EXACT
    return code_bytes(mixture_loss_triton._kernel, tensors, {**constants, "kind": kind, "backward": backward})


CASES = {
    "scores": lambda: scores(False, torch.float32),
    "scores in half": lambda: scores(False, torch.bfloat16),
    "scores by three products": lambda: scores(False, torch.float32, mixture_triton.THREE_TF32),
    "candidates": lambda: scores(True, torch.float32),
    "candidates in half": lambda: scores(True, torch.bfloat16),
    "best": lambda: best(TWO_LAYERS, "glu_silu", True, False, torch.float32),
    "best in half": lambda: best(TWO_LAYERS, "glu_silu", True, False, torch.bfloat16),
    "best, masked": lambda: best(TWO_LAYERS, "glu_silu", True, True, torch.float32),
    "best, masked, one layer": lambda: best(ONE_LAYER, "glu_silu_ln", True, True, torch.float32),
    "best, no gate": lambda: best((), "sum", False, False, torch.float32),
    "scores of the loss": lambda: loss(2, "glu_silu", True, False, False),
    "gradient of the loss": lambda: loss(2, "glu_silu", True, False, True),
    "gradient of the loss in half": lambda: loss(2, "glu_silu", True, True, True),
    "gradient of the loss, one layer": lambda: loss(1, "glu_silu_ln", True, False, True),
    "gradient of the loss, no gate": lambda: loss(0, "sum", False, False, True),
    "gradient of the loss, Amazon Books in half": lambda: loss(2, "glu_silu", True, True, True, (8, 8, 32)),
    "gradient of the loss, the most components": lambda: loss(1, "sum", True, False, True, (16, 8, 16)),
    "gradient of the loss, the most components in half": lambda: loss(
        1, "sum", True, True, True, (32, 4, 16)
    ),
    "gradient of the loss, one component": lambda: loss(2, "sum", True, True, True, (1, 1, 16)),
}


if __name__ == "__main__":
    print(json.dumps({name: case() for name, case in CASES.items()}))
