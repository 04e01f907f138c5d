"""Fits compared: by width, number of components, parts of the gate and initialisation; over several seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from workbench.theory.fitting import GATES, FitConfig, Start, fitted, outcome
from workbench.theory.floor import floor, spectrum
from workbench.theory.targets import Target

COMPONENTS = {2: (2, 1), 4: (2, 2), 8: (4, 2), 16: (4, 4)}
"""Query and item groups (Pq, Px) by P."""


def by_width(config: FitConfig, widths: Sequence[int]) -> dict[str, FitConfig]:
    """Dot product and MoL of every width: `"dot, d = 4"`, `"MoL, d = 4"`, …"""
    configs = {}
    for width in widths:
        configs[f"dot, d = {width}"] = replace(config, similarity="dot", width=width)
        configs[f"MoL, d = {width}"] = replace(config, similarity="mol", width=width)
    return configs


def by_gate(config: FitConfig) -> dict[str, FitConfig]:
    """The same MoL with no gate, with the query's part alone, with the pair's alone, and with all three parts."""
    return {name: replace(config, similarity="mol", gate=parts) for name, parts in GATES.items()}


def by_components(config: FitConfig) -> dict[str, FitConfig]:
    """The same MoL with P = 2, 4, 8 and 16 components."""
    return {
        f"P = {p}": replace(config, similarity="mol", query_groups=groups[0], item_groups=groups[1])
        for p, groups in COMPONENTS.items()
    }


def by_start(config: FitConfig, target: Target) -> dict[str, FitConfig]:
    """The same MoL from random embeddings, from the best dot product's, and from the target's latents if it has any.

    With latents the width is theirs, so that all starts have the same.
    """
    if target.query_latents is not None:
        config = replace(config, width=target.query_latents.shape[1])
    starts: tuple[Start, ...] = ("random", "spectral")
    if target.query_latents is not None:
        starts = (*starts, "latents")
    return {start: replace(config, similarity="mol", start=start) for start in starts}


def compare(target: Target, configs: Mapping[str, FitConfig], seeds: Sequence[int] = (0,)) -> pd.DataFrame:
    """Every configuration fitted with every seed: a row for each fit.

    Columns: `fit` (its name), `seed`, `width`, `components` (P; 1 for a dot product), `error`, `signs`, `rank`, `floats`,
    `equal_width`, `floor` (of a dot product of this width) and `equal_floor` (of one with the same number of parameters). The
    seed draws embeddings and networks; the target stays.
    """
    rows = []
    for seed in seeds:
        for name, config in configs.items():
            found = outcome(fitted(target, replace(config, seed=seed)))
            components = 1 if config.similarity == "dot" else config.query_groups * config.item_groups
            floors = {
                "floor": floor(target.scores, config.width),
                "equal_floor": floor(target.scores, int(found["equal_width"])),
            }
            metadata: dict[str, object] = {
                "fit": name,
                "seed": seed,
                "width": config.width,
                "components": components,
            }
            rows.append(metadata | found | floors)
    return pd.DataFrame(rows)


def over_seeds(fits: pd.DataFrame) -> pd.DataFrame:
    """Each fit's mean error with the minimum and maximum over seeds, in order of appearance; other columns from its first
    seed.

    Columns as those of `compare` less `seed`, and `low`, `high`, `seeds`.
    """
    groups = fits.groupby("fit", sort=False)
    first = groups[["width", "components", "rank", "floats", "equal_width", "floor", "equal_floor"]].first()
    errors = groups["error"].agg(error="mean", low="min", high="max", seeds="size")
    return errors.join(groups["signs"].mean()).join(first).reset_index()


def spectra(target: Target, configs: Mapping[str, FitConfig]) -> pd.DataFrame:
    """Singular values of the target ("A") and of what each configuration learns, in units of the target's norm.

    Columns: `matrix`, `place` (from 1), `value`.
    """
    scores = {"A": target.scores} | {
        name: fitted(target, config).scores() for name, config in configs.items()
    }
    size = float(target.scores.norm())
    tables = []
    for name, matrix in scores.items():
        values = (spectrum(matrix) / size).numpy()
        tables.append(pd.DataFrame({"matrix": name, "place": range(1, len(values) + 1), "value": values}))
    return pd.concat(tables, ignore_index=True)
