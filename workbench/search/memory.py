"""What a searcher holds in memory of its own."""

from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor


def held_bytes(searcher: object, *shared: object) -> int:
    """Bytes of the tensors and arrays that a searcher holds and `shared` do not; what engines allocate is not seen.

    >>> vectors = torch.zeros(10, 4)
    >>> held_bytes([vectors, vectors[2:], torch.zeros(3)]), held_bytes([vectors, torch.zeros(3)], vectors)
    (172, 12)
    """
    others = _storages(shared)
    return sum(size for place, size in _storages(searcher).items() if place not in others)


def _storages(thing: object) -> dict[int, int]:
    """The size in bytes of all memory that is reached from an object through attributes and containers, by address."""
    found: dict[int, int] = {}
    seen: dict[int, object] = {}
    waiting: list[Any] = [thing]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen[id(one)] = one
        if isinstance(one, Tensor):
            if one.layout == torch.strided:
                found[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        elif isinstance(one, np.ndarray):
            whole = one.base if isinstance(one.base, np.ndarray) else one
            found.setdefault(whole.ctypes.data, whole.nbytes)
        elif isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
        else:
            waiting += getattr(one, "__dict__", {}).values()
    return found
