"""Options that several commands share: checked when the command line is read, before any work; completed by the shell."""

from pathlib import Path
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


def presets(incomplete: str) -> list[str]:
    """Names of presets that begin with `incomplete`."""
    from workbench.training.presets import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


def models(incomplete: str) -> list[str]:
    """Names of trained models in `ckpts/` that begin with `incomplete`."""
    from workbench import paths

    found = paths.checkpoints().glob(f"[!.]*/{'config.json'}")
    return sorted(path.parent.name for path in found if path.parent.name.startswith(incomplete))


def datasets(incomplete: str) -> list[str]:
    """Names of datasets that begin with `incomplete`, prepared ones first."""
    from workbench.data import CATALOG, EMBEDDED, prepared_names

    known = dict.fromkeys([*prepared_names(), *EMBEDDED, *CATALOG])
    return [name for name in known if name.startswith(incomplete)]


def engines(incomplete: str) -> list[str]:
    """Engines of indexes whose name begins like this."""
    from workbench.search.engines.catalog import ENGINES

    return [name for name in ENGINES if name.startswith(incomplete)]


def searchers(incomplete: str) -> list[str]:
    """Names of searchers that begin with `incomplete`."""
    from workbench.search.registry import SEARCHERS

    return [name for name in SEARCHERS if name.startswith(incomplete)]


def studies(incomplete: str) -> list[str]:
    """Names of studies that begin with `incomplete`."""
    from workbench.studies.study import studies as known

    return [name for name in known() if name.startswith(incomplete)]


def notebooks(incomplete: str) -> list[str]:
    """Names of notebooks that begin with `incomplete`."""
    from workbench import paths

    return sorted(
        path.stem for path in paths.notebooks().glob("[0-9]*.ipynb") if path.stem.startswith(incomplete)
    )


def search_presets(incomplete: str) -> list[str]:
    """Presets of the search bench that begin with `incomplete`."""
    from workbench.bench.plans import PRESETS

    return [name for name in PRESETS if name.startswith(incomplete)]


Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", autocompletion=models, help="A trained model: its folder, or its name in ckpts/."
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset", autocompletion=datasets, help="Name of a dataset; by default that of the training."
    ),
]
