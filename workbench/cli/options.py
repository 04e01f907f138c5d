"""Options that several commands share, checked when the command line is read: before any work."""

from typing import Annotated

import typer


def _known_device(name: str | None) -> str | None:
    from workbench.runtime import device  # imported here: help needs no torch

    if name is not None:
        device(name)
    return name


def seed_from_zero(seed: int | None) -> int | None:
    """The callback of an option for a seed: `seed` itself, ValueError if it is negative."""
    if seed is not None and seed < 0:
        raise ValueError(f"--seed must be 0 or more, not {seed}")
    return seed


Device = Annotated[
    str | None,
    typer.Option("--device", callback=_known_device, help="cpu or cuda; by default a GPU if there is one."),
]
"""A device of this machine; ValueError otherwise, as in `runtime.device`."""
