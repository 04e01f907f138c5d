"""A GPU that is none: tensors that say they are on `cuda:0`, mix with no others, and compute on the CPU.

What it finds without a GPU: tensors of two devices in one operation, numpy or a generator of the CPU where a GPU's tensors are,
a path of the code that only runs there. What it does not: what CUDA has no kernel for, rounding, time.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo  # looks at the functions of torch.cuda, which are still its own here
from torch import Tensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

DEVICE = torch.device("cuda:0")
aten = torch.ops.aten

MIXING = {aten.copy_.default, aten._to_copy.default}
"""Operations from one device to another."""

INDEXING = {
    aten.index.Tensor,
    *(getattr(aten, name).default for name in ("index_put", "index_put_", "_index_put_impl_")),
}
"""Operations that take indices of the CPU too."""


class OnGPU(Tensor):
    """A tensor of the pretended GPU; `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> "OnGPU":
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, real.size(), strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype,
            layout=real.layout, device=DEVICE, requires_grad=False,
        )  # fmt: skip
        made.held = real
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnGPU({self.held!r})"

    def tolist(self) -> Any:
        """As a tensor of a real GPU gives it."""
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return computed(func, args, kwargs or {})


class PretendedGPU(TorchDispatchMode):
    """While it is on, tensors can be made on the pretended GPU."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return computed(func, args, kwargs or {})


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, values)
    return found


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The result of an operation; RuntimeError if its tensors are not on one device."""
    given = _tensors((args, kwargs))
    there = [t for t in given if isinstance(t, OnGPU)]
    asked = kwargs.get("device")
    wrapped = bool(there) if asked is None else torch.device(asked).type == "cuda"
    if func is aten._fused_sdp_choice.default and there:
        return 0  # by plain arithmetic: a CPU's kernels are not a GPU's
    if not there and not wrapped:
        return func(*args, **kwargs)
    if func is aten._thnn_fused_gru_cell.default:
        return _gru_cell(*args)
    if there and func not in MIXING:
        _check(func, args, given)
    generator = kwargs.get("generator")
    if generator is not None and wrapped and generator.device.type != "cuda":
        raise RuntimeError(f"{func}: expected a 'cuda' device type for generator but found 'cpu'")
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if "pin_memory" in kwargs:
        kwargs = {**kwargs, "pin_memory": False}
    if torch.Tag.inplace_view in func.tags:
        with no_dispatch():
            func(*args, **kwargs)  # of the shape that the outside shows
    args, kwargs = tree_map_only(OnGPU, lambda t: t.held, (args, kwargs))
    result = func(*args, **kwargs)
    if asked is not None and not wrapped:
        # A copy to the CPU, of a tensor that may be on neither.
        return result.clone() if any(result is t.held for t in there) else result
    known = {id(t.held): t for t in there}
    return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else OnGPU(t), result)


def _gru_cell(of_input: Tensor, of_hidden: Tensor, hidden: Tensor, *biases: Tensor) -> tuple[Tensor, Tensor]:
    """What CUDA has a kernel for, and the CPU has not."""
    of_input, of_hidden = (gates + bias for gates, bias in zip((of_input, of_hidden), biases, strict=True))
    (reset, update, new), (r, u, n) = of_input.chunk(3, 1), of_hidden.chunk(3, 1)
    candidate = (new + (reset + r).sigmoid() * n).tanh()
    return candidate + (update + u).sigmoid() * (hidden - candidate), of_input


def _check(func: Any, args: Any, given: list[Tensor]) -> None:
    strangers = [t for t in given if not isinstance(t, OnGPU) and t.dim() > 0]
    if func in INDEXING and isinstance(args[0], OnGPU):
        indices = {id(t) for t in _tensors(args[1])}
        strangers = [t for t in strangers if id(t) not in indices]
    if strangers:
        raise RuntimeError(
            f"{func}: expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu"
        )


@cache
def _guard() -> None:
    """Let torch work on the pretended device. A CPU build knows no guard for CUDA: one is compiled against its headers."""
    torch._C._ensureCUDADeviceGuardSet()  # type: ignore[attr-defined]
    if torch.version.cuda is not None:
        return
    home = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "cuda_guard.so"
        compiler = shutil.which(os.environ.get("CXX", "c++"))
        if compiler is None:
            pytest.skip("a CPU build of torch needs a C++ compiler to pretend a GPU")
        command = [
            *(compiler, "-std=c++20", "-O0", "-shared", "-fPIC", f"-I{home / 'include'}", "-o", str(library)),
            *(str(Path(__file__).with_name("cuda_guard.cpp")), f"-L{home / 'lib'}", "-lc10"),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)
        ctypes.CDLL(str(library))


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """The device, while torch takes it for real."""
    _guard()
    nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
    replaced: dict[str, Callable[..., Any]] = {
        "_lazy_init": nothing,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": nothing,
        "synchronize": nothing,
        "is_bf16_supported": lambda *_: True,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda state, *_: torch.set_rng_state(state),
        "manual_seed_all": nothing,
        "reset_peak_memory_stats": nothing,
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "empty_cache": nothing,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, function in replaced.items():
            patch.setattr(torch.cuda, name, function)
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        lifted = torch._C._only_lift_cpu_tensors()  # type: ignore[attr-defined]
        torch._C._set_only_lift_cpu_tensors(True)  # type: ignore[attr-defined]
        try:
            with torch.backends.cudnn.flags(enabled=False), PretendedGPU():
                yield DEVICE
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
            torch._C._set_only_lift_cpu_tensors(lifted)  # type: ignore[attr-defined]
