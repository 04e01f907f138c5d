"""Figures of what similarities can express: targets, floors, fits. May import nothing of ours but the template.

Each is a function of tables; matrices are DataFrames, a row for each query, a column for each item.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.explore.figures import finished, need
from workbench.explore.template import BLUE, DIVERGING, GREEN, GREY, PALETTE, SEQUENTIAL, VERMILLION, plain

FLOOR = {"color": GREY, "width": 1.6, "dash": "dash"}
EQUAL = {"color": GREEN, "width": 1.6, "dash": "dot"}
ERROR = "relative error ‖A − φ‖ / ‖A‖"
ROOM = 1.25
"""Scales of scores reach this much further than the target's largest entry: because fits overshoot."""

_SCORES = {"colorscale": DIVERGING, "cmid": 0}
_BAR = {"thickness": 10, "outlinewidth": 0, "tickfont": {"size": 11}, "xpad": 4, "nticks": 5}


def gallery(targets: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Score matrices in a row, each on a scale of its own around 0: blue below, red above."""
    if not targets:
        raise ValueError("there is no target to show")
    figure = make_subplots(
        1, len(targets), subplot_titles=[plain(name) for name in targets], horizontal_spacing=0.025
    )
    for column, matrix in enumerate(targets.values(), start=1):
        need(matrix)
        values = matrix.to_numpy(dtype=float)
        limit = ROOM * float(np.abs(values).max())
        figure.add_trace(
            go.Heatmap(
                z=values,
                colorscale=DIVERGING,
                zmin=-limit,
                zmax=limit,
                showscale=False,
                hovertemplate="query %{y}, item %{x}: %{z:.3g}<extra></extra>",
            ),
            row=1,
            col=column,
        )
    _as_matrices(figure)
    figure.update_annotations(font_size=13)
    finished(figure, "")
    return figure.update_layout(height=240, margin={"l": 28, "r": 16, "t": 36, "b": 28})


def floor_lines(floors: pd.DataFrame, floats: bool = False) -> go.Figure:
    """The floor of a dot product by its width, a line for each target; columns `target`, `width`, `floor`."""
    need(floors, "target", "width", "floor")
    figure = go.Figure()
    dashes = ("solid", "dash", "dot", "dashdot", "longdash")
    for place, (target, rows) in enumerate(floors.groupby("target", sort=False)):
        figure.add_scatter(
            x=rows["width"],
            y=rows["floor"],
            name=plain(target),
            mode="lines",
            line={"color": PALETTE[place % len(PALETTE)], "dash": dashes[place % len(dashes)]},
            hovertemplate=f"width %{{x}}: %{{y:.3f}}<extra>{plain(target)}</extra>",
        )
    ticks = _quarters(int(floors["width"].max()))
    figure.update_xaxes(title_text="width d of the dot product", rangemode="tozero", tickvals=ticks)
    figure.update_yaxes(title_text=ERROR, range=[0, 1.03])
    return finished(figure, "No dot product of width d is below these lines")


def width_lines(fits: pd.DataFrame) -> go.Figure:
    """Trained dot products and mixtures by width, between the floors of the same width and of equal parameters.

    Columns: `width`, `components` (1 for a dot product), `error`, `floor`, `equal_floor`, `equal_width`, optionally `low` and
    `high`, the ends of the spread over seeds.
    """
    need(fits, "width", "components", "error", "floor", "equal_floor", "equal_width")
    fits = fits.sort_values("width")
    dots, mixtures = fits[fits["components"] == 1], fits[fits["components"] > 1]
    figure = go.Figure()
    figure.add_scatter(
        x=mixtures["width"], y=mixtures["floor"], name="floor, same width", mode="lines", line=FLOOR,
        hovertemplate="floor of width %{x}: %{y:.3f}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=mixtures["width"], y=mixtures["equal_floor"], name="floor, equal parameters", mode="lines",
        line=EQUAL, customdata=mixtures["equal_width"],
        hovertemplate="floor of width %{customdata}: %{y:.3f}<extra></extra>",
    )  # fmt: skip
    for name, rows, color, symbol in (("dot", dots, BLUE, "circle"), ("MoL", mixtures, VERMILLION, "square")):
        figure.add_scatter(
            x=rows["width"],
            y=rows["error"],
            name=f"{name}, trained",
            mode="markers" if name == "dot" else "lines+markers",
            line={"color": color},
            marker={"color": color, "symbol": symbol, "size": 9},
            error_y=_spread(rows),
            hovertemplate=f"width %{{x}}: %{{y:.3f}}<extra>{name}</extra>",
        )
    widths = sorted(set(fits["width"]))
    figure.update_xaxes(
        title_text="width d: floats of each query and item", tickvals=widths, range=_around(widths)
    )
    figure.update_yaxes(title_text=ERROR, range=[0, 1.03])
    return finished(figure, "Same width, and equal parameters")


def fit_dots(fits: pd.DataFrame, title: str) -> go.Figure:
    """A dot for each fit, its spread over seeds and its rank; the floors of the same width and of equal parameters are marks.

    Columns: `fit`, `error`, `rank`, `floor`, `equal_floor`, `equal_width`, optionally `low` and `high`.
    """
    need(fits, "fit", "error", "rank", "floor", "equal_floor", "equal_width")
    names = [f"{plain(name)}<br>rank {rank}" for name, rank in zip(fits["fit"], fits["rank"], strict=True)]
    figure = go.Figure()
    marks = (
        ("floor, same width", fits["floor"], GREY, [""] * len(fits)),
        (
            "floor, equal parameters",
            fits["equal_floor"],
            GREEN,
            [f", width {w}" for w in fits["equal_width"]],
        ),
    )
    for name, values, color, hover in marks:
        figure.add_scatter(
            x=values, y=names, name=name, mode="markers", customdata=hover,
            marker={"symbol": "line-ns", "size": 22, "line": {"color": color, "width": 2.5}},
            hovertemplate=f"{name}%{{customdata}}: %{{x:.3f}}<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=fits["error"],
        y=names,
        name="MoL, trained",
        mode="markers",
        marker={"color": VERMILLION, "symbol": "square", "size": 11},
        error_x=_spread(fits),
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    figure.update_xaxes(title_text=ERROR, range=[0, 1.05])
    figure.update_yaxes(autorange="reversed", showgrid=False, title_text="")
    finished(figure, plain(title))
    return figure.update_layout(
        height=180 + 50 * len(fits),
        margin_t=92,
        legend={"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom"},
    )


def spectra(values: pd.DataFrame) -> go.Figure:
    """Singular values of score matrices by their place, on a logarithmic axis; columns `matrix`, `place`, `value`.

    Values below 10⁻⁹ of the largest are rounding errors and left out: a line ends at the matrix's rank.
    """
    need(values, "matrix", "place", "value")
    figure = go.Figure()
    for place, (name, rows) in enumerate(values.groupby("matrix", sort=False)):
        shown = rows[rows["value"] > 1e-9 * rows["value"].max()]
        figure.add_scatter(
            x=shown["place"],
            y=shown["value"],
            name=plain(name),
            mode="lines+markers",
            marker={"size": 5},
            line={"color": _color(str(name), place)},
            hovertemplate=f"σ of place %{{x}}: %{{y:.3g}}<extra>{plain(name)}</extra>",
        )
    figure.update_xaxes(title_text="place i of the singular value", rangemode="tozero")
    figure.update_yaxes(title_text="σ<sub>i</sub> / ‖A‖", type="log", exponentformat="power", dtick=1)
    return finished(figure, "Spectrum of the scores")


def side_by_side(
    curves: pd.DataFrame,
    floors: pd.DataFrame,
    matrices: Mapping[str, pd.DataFrame],
    values: pd.DataFrame,
    steps: int,
) -> go.Figure:
    """Two fits and their target: the falling error, the floors, scores, errors of each entry, singular values.

    `curves` has the columns `fit`, `step`, `error`; `floors` the rows `name`, `error` of at most two lines to draw.
    `matrices` are the target and the scores of two fits, in this order, by name; an empty one leaves its place blank.
    `values` as for `spectra`. `steps` is the end of the axis of steps. Positions and scales stay constant while the fits
    continue.
    """
    (target_name, target), *fits = matrices.items()
    need(target)
    if len(fits) != 2:
        raise ValueError(f"the figure compares two fits with the target, not {len(fits)}")
    titles = ["error, step by step", f"A: {target_name}", *(name for name, _ in fits)]
    titles += ["singular values σᵢ / ‖A‖", *(f"|φ − A|, {name.partition(':')[0]}" for name, _ in fits)]
    figure = make_subplots(
        2,
        4,
        specs=[[{"rowspan": 2}, {}, {}, {}], [None, {}, {}, {}]],
        column_widths=[0.37, 0.21, 0.21, 0.21],
        horizontal_spacing=0.055,
        vertical_spacing=0.13,
        subplot_titles=[plain(title) for title in titles],
    )
    _add_curves(figure, curves, floors, steps)
    wanted = target.to_numpy(dtype=np.float32)
    limit = ROOM * float(np.abs(wanted).max())
    figure.add_trace(_heatmap(wanted, "coloraxis"), row=1, col=2)
    for column, (_, scores) in enumerate(fits, start=3):
        found = scores.to_numpy(dtype=np.float32)
        figure.add_trace(_heatmap(found, "coloraxis"), row=1, col=column)
        figure.add_trace(
            _heatmap(np.abs(found - wanted) if found.size else found, "coloraxis2"), row=2, col=column
        )
    _as_matrices(figure, rows=len(target), columns=target.shape[1])
    _add_spectra(figure, values)
    figure.update_annotations(font_size=13)
    finished(figure, "")
    return figure.update_layout(
        height=400,
        margin={"l": 56, "r": 60, "t": 30, "b": 76},
        coloraxis=_SCORES | {"cmin": -limit, "cmax": limit, "colorbar": _BAR | {"len": 0.46, "y": 0.78}},
        coloraxis2={
            "colorscale": SEQUENTIAL,
            "cmin": 0,
            "cmax": limit,
            "colorbar": _BAR | {"len": 0.46, "y": 0.22},
        },
        legend={"orientation": "h", "x": -0.03, "y": -0.16, "yanchor": "top", "font": {"size": 12}},
    )


def widths(
    matrices: Mapping[str, pd.DataFrame],
    floors: pd.DataFrame,
    width: int,
    mol_width: int,
    mol_error: float,
    equal_width: int,
) -> go.Figure:
    """A target, the best dot product of a width, a mixture, and the floor of each width with both errors.

    `matrices` are the target and the scores of dot and MoL, in this order; `floors` has `width`, from 0 on, and `floor`.
    `mol_error` is what the mixture of width `mol_width` came to, `equal_width` that of a dot product with as many
    floats in all. ValueError if `width` is not in the table.
    """
    need(floors, "width", "floor")
    if width not in set(floors["width"]):
        raise ValueError(f"the floor of width {width} is not in the table")
    error = float(floors.loc[floors["width"] == width, "floor"].iloc[0])
    titles = ["A, the scores to reach", f"dot, d = {width}: error {error:.2f}"]
    titles += [f"MoL, width {mol_width}: error {mol_error:.2f}", "least error of a dot product"]
    figure = make_subplots(
        1, 4, column_widths=[0.23, 0.23, 0.23, 0.31], horizontal_spacing=0.04, subplot_titles=titles
    )
    wanted, *_ = matrices.values()
    limit = ROOM * float(np.abs(wanted.to_numpy()).max())
    for column, matrix in enumerate(matrices.values(), start=1):
        figure.add_trace(_heatmap(matrix.to_numpy(dtype=np.float32), "coloraxis"), row=1, col=column)
    _as_matrices(figure, *wanted.shape)
    last = int(floors["width"].max())
    figure.add_scatter(
        x=floors["width"], y=floors["floor"], mode="lines", line={"color": BLUE}, row=1, col=4,
        hovertemplate="width %{x}: %{y:.3f}<extra>dot at best</extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=[0, last], y=[mol_error, mol_error], mode="lines+text", line={"color": VERMILLION, "dash": "dash"},
        text=["", f"MoL, width {mol_width}"], textposition="top left", textfont={"color": VERMILLION},
        hoverinfo="skip", row=1, col=4,
    )  # fmt: skip
    if equal_width <= last:
        figure.add_vline(
            x=equal_width, line=EQUAL, row=1, col=4,
            annotation={"text": "as many parameters<br>as MoL", "font": {"color": GREEN}, "align": "left"},
        )  # fmt: skip
    figure.add_scatter(
        x=[width], y=[error], mode="markers", hoverinfo="skip", row=1, col=4,
        marker={"color": BLUE, "size": 12, "line": {"color": "white", "width": 1.5}},
    )  # fmt: skip
    small = {"font": {"size": 13}, "standoff": 4}
    figure.update_xaxes(
        title={"text": "width d", **small},
        range=[-0.02 * last, 1.02 * last],
        tickvals=_quarters(last),
        row=1,
        col=4,
    )
    figure.update_yaxes(range=[-0.02, 1.05], row=1, col=4)
    figure.update_annotations(font_size=13)
    finished(figure, "")
    return figure.update_layout(
        height=300,
        margin={"l": 28, "r": 20, "t": 34, "b": 52},
        showlegend=False,
        coloraxis=_SCORES | {"cmin": -limit, "cmax": limit, "showscale": False},
    )


def _add_curves(figure: go.Figure, curves: pd.DataFrame, floors: pd.DataFrame, steps: int) -> None:
    lines = dict(zip(floors["name"], floors["error"], strict=True))
    for (name, error), line in zip(lines.items(), (FLOOR, EQUAL), strict=False):
        figure.add_scatter(
            x=[0, steps], y=[error, error], name=plain(name), mode="lines", line=line, row=1, col=1,
            hovertemplate=f"{plain(name)}: %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    for name, color in (("dot", BLUE), ("MoL", VERMILLION)):
        rows = curves[curves["fit"] == name]
        figure.add_scatter(
            x=rows["step"], y=rows["error"], name=name, mode="lines", line={"color": color}, row=1, col=1,
            hovertemplate=f"step %{{x}}: %{{y:.3f}}<extra>{name}</extra>",
        )  # fmt: skip
    small = {"font": {"size": 13}, "standoff": 4}
    figure.update_xaxes(title={"text": "step", **small}, range=[0, steps], row=1, col=1)
    figure.update_yaxes(title={"text": "relative error", **small}, range=[0, 1.25], row=1, col=1)


def _add_spectra(figure: go.Figure, values: pd.DataFrame) -> None:
    for name in ("target", "MoL", "dot"):
        rows = values[(values["matrix"] == name) & (values["value"] > 1e-4)]
        figure.add_scatter(
            x=rows["place"], y=rows["value"], name="A" if name == "target" else None, showlegend=name == "target",
            mode="lines+markers" if name == "dot" else "lines", marker={"size": 5},
            line={"color": _color(name, 0), "width": 1.8}, row=2, col=2,
            hovertemplate=f"σ<sub>%{{x}}</sub> / ‖A‖ = %{{y:.3g}}<extra>{name}</extra>",
        )  # fmt: skip
    figure.update_yaxes(
        type="log", range=[-4, 0.1], dtick=2, exponentformat="power", tickfont={"size": 11}, row=2, col=2
    )
    longest, small = values["place"].max() + 1, {"font": {"size": 12}, "standoff": 2}
    figure.update_xaxes(
        title={"text": "place i", **small}, range=[0, longest], tickfont={"size": 11}, nticks=5, row=2, col=2
    )


def _heatmap(values: np.ndarray, coloraxis: str) -> go.Heatmap:
    return go.Heatmap(
        z=values,
        coloraxis=coloraxis,
        hovertemplate="query %{y}, item %{x}: %{z:.3f}<extra></extra>",
    )


def _as_matrices(figure: go.Figure, rows: int | None = None, columns: int | None = None) -> None:
    """Axes of heatmaps: the first query on top, names and no ticks; the size given, so that an empty place keeps it."""
    axes = {trace.xaxis or "x" for trace in figure.data if trace.type == "heatmap"}
    bare = {"showgrid": False, "zeroline": False, "showticklabels": False, "ticks": "", "showline": False}
    for axis in axes:
        number = axis.removeprefix("x")
        across = {} if columns is None else {"range": [-0.5, columns - 0.5]}
        down = {"autorange": "reversed"} if rows is None else {"range": [rows - 0.5, -0.5]}
        for letter, name, side in (("x", "items", across), ("y", "queries", down)):
            title = {"text": name, "font": {"size": 12}, "standoff": 4}
            figure.layout[f"{letter}axis{number}"].update(bare | side | {"title": title})


def _color(name: str, place: int) -> str:
    known = {"target": GREY, "A": GREY, "dot": BLUE, "MoL": VERMILLION}
    return known.get(name, PALETTE[place % len(PALETTE)])


def _spread(rows: pd.DataFrame) -> dict[str, object] | None:
    if not {"low", "high"} <= set(rows.columns):
        return None
    up, down = rows["high"] - rows["error"], rows["error"] - rows["low"]
    return {
        "type": "data",
        "symmetric": False,
        "array": up,
        "arrayminus": down,
    }


def _quarters(last: int) -> list[int]:
    """Ticks of an axis of widths, from 0 to the last."""
    return [last * part // 4 for part in range(5)]


def _around(values: list[int]) -> list[float]:
    margin = max(1.0, 0.08 * (values[-1] - values[0]))
    return [values[0] - margin, values[-1] + margin]
