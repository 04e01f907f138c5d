"""The dashboard of universal approximation: a dot product and a mixture of logits trained side by side. May import theory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go
import torch

from workbench.explore.approximation import side_by_side, widths
from workbench.explore.live_widget import LiveDashboard, Pace, Progress
from workbench.explore.widgets import Dashboard
from workbench.theory.fitting import Fit, FitConfig
from workbench.theory.floor import best_factors, floor, floor_curve, relative_error, spectrum
from workbench.theory.targets import TARGETS, Target, parse_matrix

OWN = "my matrix (CSV)"
DEFAULT = FitConfig(width=4, gate_hidden=32, steps=300)
CONTROL_WIDTH = "264px"
"""Three groups side by side on a laptop's screen."""

PAGE_WIDTHS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96)
"""Widths of the dot product on a page."""

STARTS = {"random": "random", "best dot product": "spectral", "the target's latents": "latents"}
GATES = {
    "none (uniform)": (),
    "query": ("query",),
    "item": ("item",),
    "pair": ("pair",),
    "query, item": ("query", "item"),
    "query, pair": ("query", "pair"),
    "item, pair": ("item", "pair"),
    "query, item, pair": ("query", "item", "pair"),
}


@dataclass(frozen=True)
class _Trained:
    """Two fits, and the settings they belong to."""

    settings: dict[str, Any]
    dot: Fit
    mol: Fit


class Approximation(LiveDashboard):
    """Train a dot product and a mixture of logits on the same scores, and watch one of them fall below the floor.

    Before training, the best dot product of the width is shown in place of the trained one. `config` holds the initial
    settings, including those that have no control; `target` is the name of a target, `matrix` an own matrix to start with.
    """

    def __init__(
        self,
        config: FitConfig = DEFAULT,
        target: str = "similar, not identical",
        n: int = 96,
        matrix: Target | None = None,
    ) -> None:
        self._config, self._matrix = config, matrix
        self._trained: _Trained | None = None
        names = [*TARGETS, OWN]
        groups = {
            "Target: the scores A that queries should give items": {
                "target": widgets.Dropdown(
                    options=names,
                    value=OWN if matrix else target,
                    tooltip="a matrix of known rank, or your own",
                ),
                "n": _slider(n, 8, 128, 8, "queries and items (your own matrix has its own size)"),
                "file": widgets.FileUpload(
                    accept=".csv",
                    description="Upload CSV",
                    tooltip="numbers separated by commas, a line for each query, no header",
                ),
            },
            "Similarity: width and components": {
                "d": _slider(config.width, 1, 32, 1, "width: floats of each query, item and component"),
                "Pq": _slider(config.query_groups, 1, 8, 1, "components of a query"),
                "Px": _slider(config.item_groups, 1, 8, 1, "components of an item"),
                "gate": widgets.Dropdown(
                    options=GATES,
                    value=config.gate,
                    tooltip="inputs of the gate, which weights the components",
                ),
            },
            "Training: initialisation and length": {
                "start": widgets.Dropdown(
                    options=STARTS,
                    value=config.start,
                    tooltip="initial embeddings of MoL; those of the dot product are random",
                ),
                "steps": _slider(config.steps, 50, 2000, 50, "steps of Adam over all entries"),
                "seed": widgets.BoundedIntText(
                    value=config.seed,
                    min=0,
                    max=9999,
                    tooltip="of the target, the embeddings and the networks",
                ),
            },
        }
        super().__init__("Approximate these scores", groups, "train")
        for control in self.controls.values():
            control.layout.width = CONTROL_WIDTH

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """The fits for these settings; before training, the best dot product of this width."""
        if self._trained is not None and self._trained.settings == dict(values):
            return _figure(self._trained.dot, self._trained.mol)
        target, config = self._asked(values)
        return _preview(target, config)

    def work(self, values: Mapping[str, Any]) -> Iterator[Progress]:
        """Both fits, some steps of each at a time."""
        target, config = self._asked(values)
        dot = Fit(target, replace(config, similarity="dot", start="random"))
        mol = Fit(target, config)
        self._trained = _Trained(dict(values), dot, mol)
        pace = Pace()
        while not mol.done:
            pace.began()
            dot.advance(pace.steps)
            mol.advance(pace.steps)
            pace.ended()
            figure = _figure(dot, mol) if pace.due() or mol.done else None
            yield Progress(mol.step / config.steps, f"step {mol.step} of {config.steps}", figure)
            if figure is not None:
                pace.drawn()
        yield Progress(1.0, _verdict(dot, mol))

    def _asked(self, values: Mapping[str, Any]) -> tuple[Target, FitConfig]:
        """The chosen target and MoL's settings; a ValueError names what to change."""
        if values["target"] != OWN:
            target = TARGETS[values["target"]](values["n"], values["seed"])
        elif values["file"]:
            file = values["file"][-1]
            target = parse_matrix(bytes(file["content"]), file["name"])
        elif self._matrix is not None:
            target = self._matrix
        else:
            raise ValueError(
                "choose a CSV file with the button Upload: numbers separated by commas, a line for each query"
            )
        config = replace(
            self._config,
            width=values["d"],
            query_groups=values["Pq"],
            item_groups=values["Px"],
            gate=values["gate"],
            start=values["start"],
            steps=values["steps"],
            seed=values["seed"],
        )
        return target, config


class Widths(Dashboard):
    """A target, the best dot product of a width that a slider sets, and a trained mixture.

    `fits` maps the name of a target to a trained mixture; ValueError if it is empty.
    """

    page_largest = 900_000

    def __init__(self, fits: Mapping[str, Fit], start: int = 1) -> None:
        if not fits:
            raise ValueError("there is no fitted mixture to compare with")
        self.fits = dict(fits)
        self._found = {name: (fit.scores(), fit.error()) for name, fit in self.fits.items()}
        self._floors = {name: floor_curve(fit.target.scores) for name, fit in self.fits.items()}
        widest = min(len(curve) for curve in self._floors.values()) - 1
        super().__init__(
            "How wide must a dot product be?",
            {
                "d, the width of each query and item": {
                    "d": widgets.IntSlider(value=start, min=0, max=widest, layout={"width": "420px"}),
                },
                "Target scores": {"target": widgets.Dropdown(options=list(self.fits))},
            },
        )

    def page_values(self) -> Mapping[str, Sequence[Any]]:
        """Every small width, and wider ones in steps that grow."""
        slider = self.controls["d"]
        steps = sorted({width for width in PAGE_WIDTHS if width <= slider.max} | {slider.value})
        return {"target": list(self.fits), "d": steps}

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """Heatmaps of target, best dot product and mixture, and the floor with both errors."""
        name, width = values["target"], values["d"]
        fit, (mixture, error) = self.fits[name], self._found[name]
        target, floors = fit.target.scores, self._floors[name]
        queries, items = best_factors(target, width)
        return widths(
            {"target": _matrix(target), "dot": _matrix(queries @ items.T), "MoL": _matrix(mixture)},
            pd.DataFrame({"width": range(len(floors)), "floor": floors.numpy()}),
            width,
            fit.config.width,
            error,
            fit.equal_width,
        )


def _slider(value: int, low: int, high: int, step: int, tooltip: str) -> widgets.IntSlider:
    return widgets.IntSlider(
        value=value, min=low, max=high, step=step, continuous_update=False, tooltip=tooltip
    )


def _figure(dot: Fit, mol: Fit) -> go.Figure:
    target, width = dot.target, dot.config.width
    scores = {"dot": dot.scores(), "MoL": mol.scores()}
    curves = pd.concat([fit.curve.assign(fit=name) for name, fit in (("dot", dot), ("MoL", mol))])
    errors = {name: relative_error(found, target.scores) for name, found in scores.items()}
    matrices = {target.name: _matrix(target.scores)} | {
        f"{name}: error {errors[name]:.3f}": _matrix(found) for name, found in scores.items()
    }
    floors = _floors(target, width, mol.equal_width)
    return side_by_side(curves, floors, matrices, _values(target, scores), mol.config.steps)


def _preview(target: Target, config: FitConfig) -> go.Figure:
    queries, items = best_factors(target.scores, config.width)
    best = queries @ items.T
    matrices = {
        target.name: _matrix(target.scores),
        f"dot: error {floor(target.scores, config.width):.3f} at best": _matrix(best),
        "MoL: press train": pd.DataFrame(),
    }
    curves = pd.DataFrame({"fit": [], "step": [], "error": []})
    floors = _floors(target, config.width, Fit(target, config).equal_width)
    return side_by_side(curves, floors, matrices, _values(target, {"dot": best}), config.steps)


def _floors(target: Target, width: int, equal_width: int) -> pd.DataFrame:
    lines = [
        (f"floor, width {width}", floor(target.scores, width)),
        (f"floor, equal parameters (width {equal_width})", floor(target.scores, equal_width)),
    ]
    return pd.DataFrame(lines, columns=["name", "error"])


def _values(target: Target, scores: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Singular values in units of the target's norm."""
    size = float(target.scores.norm())
    tables = []
    for name, matrix in {"target": target.scores, **scores}.items():
        found = (spectrum(matrix) / size).numpy()
        tables.append(pd.DataFrame({"matrix": name, "place": range(1, len(found) + 1), "value": found}))
    return pd.concat(tables, ignore_index=True)


def _matrix(scores: torch.Tensor) -> pd.DataFrame:
    return pd.DataFrame(scores.numpy())


def _verdict(dot: Fit, mol: Fit) -> str:
    target, width = dot.target, dot.config.width
    mixture = mol.error()
    least, equal = floor(target.scores, width), floor(target.scores, mol.equal_width)
    text = f"dot {dot.error():.3f} (floor {least:.3f}), MoL {mixture:.3f}: "
    if mixture >= least:
        return text + "not below the floor of its width"
    if mixture >= equal:
        return text + f"below that floor, not below that of equal parameters ({equal:.3f})"
    return text + f"below that floor, and below that of equal parameters ({equal:.3f})"
