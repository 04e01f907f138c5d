"""Tensors in a file that vouches for its content: safetensors with a digest of every byte. May import files, loading."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from workbench import files, loading

DIGEST = "digest"
"""The key of the digest among a file's metadata."""


def save(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata, whole or not at all; OSError that names the file if it cannot be written."""
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    described = {**metadata, DIGEST: digest(plain, metadata)}
    with files.atomic_write(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask says; safetensors keeps its files from all others
        safetensors.torch.save_file(plain, temporary, metadata=described)
        temporary.chmod(mode)


def load(path: Path, advice: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata that `save` wrote.

    Raises FileNotFoundError, and ValueError that names the file and gives the `advice` if it is cut short or damaged. A file
    without a digest, as earlier versions wrote, is read as it is.
    """
    tensors, metadata = loading.read_tensors(path, advice)
    expected = metadata.pop(DIGEST, None)
    if expected is not None and expected != digest(tensors, metadata):
        raise ValueError(f"{path} is damaged (its content is not what was written); {advice}")
    return tensors, metadata


def stored_digest(path: Path, advice: str) -> str:
    """The digest that a file carries, without reading its tensors: `load` compares them with it.

    Raises FileNotFoundError, and ValueError that names the file if its header is damaged or holds no digest.
    """
    with loading.reading(path, advice), safetensors.safe_open(path, framework="pt") as file:
        return str((file.metadata() or {})[DIGEST])


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of the names, shapes, dtypes and bytes of tensors on a CPU, and of the metadata."""
    content = hashlib.sha256(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.numel():
            content.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return content.hexdigest()
