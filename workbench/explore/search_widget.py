"""The explorer of recall and latency: choose searchers, move their parameters, measure them here and now. May import bench."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import pandas as pd
import plotly.graph_objects as go

from workbench.bench.live import LiveBench
from workbench.bench.methods import METHODS, REFERENCE, Method, SearcherSpec, own_method
from workbench.bench.plans import Plan, chosen_points, command
from workbench.bench.workloads import Inflated, Trained, WorkloadSpec
from workbench.explore.live_widget import LiveDashboard, Progress
from workbench.explore.saving import check_view, save_figure, save_table, unused
from workbench.explore.search_figures import brushed, failing, failing_in, frontier, nothing_yet, proofs
from workbench.explore.template import CONFIG
from workbench.search.parameters import Parameter
from workbench.visible import html_text

HEIGHT = 350
"""Pixels of the figure, whatever it shows: nothing jumps."""

MOST_BARS = 14
AT = ("trace_indexes", "point_indexes")
"""Where a browser's event of a figure names the marks that it is about."""

MOST_QUERIES = 12
"""Rows of the list below a figure whose marks were framed."""

FIRST_CHOICE = ("exact with a bound", "average", "h-indexer")
VIEWS = ("frontier", "proofs", "failing queries", "all models")
RECALLS = {
    "overlap": "recall",
    "relative HR": "relative_hr",
    "label HR": "hit_rate",
    "certified": "certified",
}
COST = {
    "p50 per call": "p50_ms", "p95 per call": "p95_ms", "p50 per query": "p50_query_ms", "p95 per query": "p95_query_ms",
    "memory": "memory_mb", "build time": "build_s", "items scored": "num_scored",
}  # fmt: skip
PAGE_COSTS = ("p50 per call", "p95 per call", "p50 per query", "memory", "build time", "items scored")
"""Those that a page offers, all on a logarithmic axis: each is a figure for every quality."""

AS_IT_IS = "as it is"
KS, BATCHES = (1, 5, 10, 20, 50, 100, 200), (1, 8, 32, 64, 128)
GROUP_WIDTH, CONTROL_WIDTH, LABEL_WIDTH, GAP = "225px", "220px", "58px", "6px 10px"


class SearchExplorer(LiveDashboard):
    """Measure searchers live and see them on the frontier of latency and recall, over a stored sweep.

    `checkpoints` by name, folders or names in `ckpts/`: those of component similarities can be searched; a SparCode and a
    Deep Retrieval of the same data are measured along with them, each with a score of its own. `plan` is the plan of the
    sweep whose summary is `stored` (or None); it gives the initial settings, the queries and the seed. `queries` are what each
    query of the sweep lost (`bench.tables.per_query`). `bench` caches what is
    built and measured, and may be shared; views are saved in `folder`.

    Raises ValueError if no checkpoint has component scores, or if two with a score of their own have the same method.
    """

    shows = "searcher"

    def __init__(
        self,
        checkpoints: Mapping[str, str],
        plan: Plan,
        stored: pd.DataFrame | None = None,
        *,
        queries: pd.DataFrame | None = None,
        bench: LiveBench | None = None,
        folder: Path = Path("views"),
        corpora: Sequence[int] = (20_000, 100_000),
    ) -> None:
        kinds = {name: own_method(checkpoint) for name, checkpoint in checkpoints.items()}
        self.own = {kind: checkpoints[name] for name, kind in kinds.items() if kind}
        self.checkpoints = {name: checkpoints[name] for name, kind in kinds.items() if not kind}
        if not self.checkpoints or len(self.own) + len(self.checkpoints) < len(checkpoints):
            raise ValueError(
                "the explorer needs a checkpoint with component scores, and one at most of SparCode and of"
                " Deep Retrieval"
            )
        self.plan, self.bench, self.folder = plan, bench or LiveBench(), folder
        self.stored = pd.DataFrame() if stored is None else stored
        self.queries = pd.DataFrame() if queries is None else queries
        self.command_line = ""
        first = plan.workloads[-1]
        items = first.num_items()
        inflated = {w.items for w in plan.workloads if isinstance(w, Inflated)} | set(corpora)
        self._sizes = {AS_IT_IS: 0} | {f"{n:,} items": n for n in sorted(inflated)}
        start = f"{items:,} items" if isinstance(first, Inflated) else AS_IT_IS
        methods = [m for m in METHODS.values() if m.name != REFERENCE and self._possible(m)]
        shown = list(dict.fromkeys([REFERENCE, *self.stored.get("method", ()), *(m.name for m in methods)]))
        most_at_once = max(plan.batch_sizes)
        groups = {
            "Model and corpus": {
                "model": widgets.Dropdown(
                    options=list(self.checkpoints), tooltip="the trained similarity φ, with its queries"
                ),
                "corpus": widgets.Dropdown(
                    options=list(self._sizes), value=start, tooltip="the catalogue, or with noisy copies of its items"
                ),
            },
            "Queries": {
                "k": ladder((*KS, *plan.ks), plan.ks[-1], "results per query"),
                "batch": ladder((*BATCHES, *plan.batch_sizes), most_at_once, "queries per call"),
                "rounds": widgets.IntSlider(
                    value=plan.rounds, min=1, max=20, tooltip="repetitions: more are less noisy"
                ),
            },
            "Searchers, with brute force (Ctrl adds)": {
                "methods": widgets.SelectMultiple(
                    options=[m.name for m in methods],
                    value=[name for name in FIRST_CHOICE if name in [m.name for m in methods]],
                    rows=6,
                    tooltip="the searchers that are measured",
                ),
            },
            "Figure": {
                "view": widgets.Dropdown(
                    options=VIEWS, tooltip="cost against quality, certified queries, failing ones, or all models at once"
                ),
                "recall": widgets.Dropdown(
                    options=list(RECALLS), tooltip="across: share of the true top k, hits on labels, or proofs"
                ),
                "cost": widgets.Dropdown(options=list(COST), tooltip="upwards: latency, memory, time to build, or pairs"),
                "log": widgets.Checkbox(value=True, indent=True, tooltip="costs on a logarithmic axis"),
                "searcher": widgets.SelectMultiple(
                    options=shown, value=shown, rows=4, tooltip="whose marks are shown"
                ),
            },
        }  # fmt: skip
        for group in groups.values():
            for control in group.values():
                control.continuous_update = False
        parameters = {
            heading(m): {f"{m.name} {p.name}": parameter_slider(p, items) for p in m.parameters}
            for m in methods
            if m.parameters
        }
        self._command, self.brushed = widgets.HTML(), widgets.HTML()
        self.settings = widgets.SelectMultiple(
            description="list failing queries of",
            rows=4,
            tooltip="settings, as a frame around their marks chooses them",
            layout={"width": "auto", "max_width": "560px", "display": "none"},
            style={"description_width": "initial"},
        )
        self.settings.observe(self._list_failing, names="value")
        self._saved = widgets.HTML()
        super().__init__("Recall and latency, measured live", groups | parameters, "measure")
        self._boxes = lay_out(self.widget, groups, parameters)
        self.controls["methods"].description = ""
        self.controls["methods"].observe(self._show_parameters, names="value")
        self._show_parameters()
        for name in (
            "view",
            "recall",
            "cost",
            "log",
            "searcher",
        ):  # another view of the same work does not end it
            self.controls[name].unobserve(self._abandon, names="value")
        self.figure._config = camera("recall-latency")
        self.widget.children = [
            *self.widget.children, self.settings, self.brushed, self._save_row(), self._command,
        ]  # fmt: skip

    def _possible(self, method: Method) -> bool:
        return method.name in self.own if method.own_score else method.installed

    def _show_parameters(self, _change: object = None) -> None:
        show_parameters(self._boxes, self.controls["methods"].value)

    def page_values(self) -> Mapping[str, Sequence[Any]]:
        """Views of what is measured by now; a page measures nothing."""
        tables = [table for table in (self.stored, self.bench.table) if len(table)]
        measured = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"workload": []})
        workloads, now = set(measured["workload"]), self.values
        corpora = [
            corpus for corpus in self._sizes if self._workload({**now, "corpus": corpus}).name in workloads
        ]
        views = [view for view in VIEWS if view != "failing queries" or len(self._queries(now))]
        found = {
            name: sorted(set(measured.get(column, ())))
            for name, column in (("k", "k"), ("batch", "batch_size"))
        }
        return {
            "view": views, "recall": list(RECALLS), **found, "corpus": corpora, "cost": PAGE_COSTS
        }  # fmt: skip

    def page_state(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Shares of queries have no recall, no cost and no logarithm; all models are seen at every corpus."""
        if values["view"] in ("proofs", "failing queries"):
            return {**values, "recall": "overlap", "cost": "p50 per call", "log": True}
        return {**values, "corpus": self.values["corpus"]} if values["view"] == "all models" else values

    def opened(self) -> None:
        """Marks that are framed in the figure choose the settings whose failing queries are listed below it."""
        self.figure.observe(self._brush, names="_js2py_pointsCallback")

    def _brush(self, change: Mapping[str, Any]) -> None:
        event = change["new"] or {}
        meta = self.figure.layout.meta or {}
        if event.get("event_type") not in ("plotly_selected", "plotly_deselect") or "failing" not in meta:
            return
        points = event.get("points") or {}
        with self.lock:
            marks = (
                [(self.figure.data[t].customdata, p) for t, p in zip(*map(points.get, AT), strict=True)]
                if points
                else []
            )
            framed = {str(data[place][1]) for data, place in marks if data is not None}
            self.settings.value = tuple(label for _, label in self.settings.options if label in framed)

    def _offer_settings(self, figure: go.Figure) -> None:
        """The settings of the marks in a figure, to be chosen without a mouse."""
        failing = (figure.layout.meta or {}).get("failing", {})
        traces = (trace.customdata for trace in figure.data if failing and trace.customdata is not None)
        marked = dict.fromkeys(str(label) for data in traces for _, label in data)
        self.settings.value = ()
        self.settings.options = [(unescape(label), label) for label in marked if label in failing]
        self.settings.layout.display = "" if self.settings.options else "none"

    def _list_failing(self, change: Mapping[str, Any]) -> None:
        labels = change["new"]
        self.brushed.value = _failing_html(*failing_in(self.figure.layout.meta, labels)) if labels else ""

    def figure_of(self, values: Mapping[str, Any]) -> go.Figure:
        """The figure for these values of the controls; the command that repeats them is shown below it."""
        self._show_command(values)
        self._saved.value = ""
        figure = super().figure_of(values)
        self._offer_settings(figure)
        return figure

    def draw(self, values: Mapping[str, Any]) -> go.Figure:
        """The stored sweep with these settings, and over it what was measured here."""
        stored, now = self._rows(values)
        workload, k = self._workload(values), values["k"]
        title = f"{workload.name}, {values['batch']} queries per call, k = {k}"
        measure, cost = RECALLS[values["recall"]], COST[values["cost"]]
        if values["view"] == "all models":
            stored, now = self._of_all_models(values), now.iloc[:0]
            title = f"every model on the catalogue, {values['batch']} queries per call, k = {k}"
        rows, height = [table for table in (stored, now) if len(table)], HEIGHT
        if not rows:
            figure = nothing_yet("Nothing has been measured with these settings: press measure.", title)
        elif values["view"] == "proofs":
            figure = proofs(_bars(stored, now, values["methods"]))
        elif values["view"] == "failing queries":
            queries = self._queries(values)
            note = "These settings were measured without their queries: press measure."
            figure = failing(queries, title) if len(queries) else nothing_yet(note, title)
            height = max(HEIGHT, figure.layout.height) if len(queries) else HEIGHT  # a row for each entry
        elif all(table[measure].isna().all() for table in rows):
            figure = nothing_yet(
                "Brute force found no label here, so the relative hit rate is undefined.", title
            )
        else:
            figure = frontier(
                stored, measure, title, now=now, logarithmic=values["log"], height=HEIGHT, cost=cost,
                joined=values["view"] != "all models",
            )  # fmt: skip
            if values["view"] == "frontier":
                figure = brushed(figure, self._queries(values))
        return figure.update_layout(height=height)

    def work(self, values: Mapping[str, Any]) -> Iterator[Progress]:
        """The chosen searchers and brute force, in turns; the figure grows after each round."""
        for step in self.bench.measure(self.asked(values)):
            if step.fresh:
                self._refresh()
            yield Progress(step.share, step.text)
        self._refresh()
        yield Progress(1.0, self._verdict())

    def measure_models(self) -> None:
        """Measure every model on the catalogue as it is, with the first choice of searchers, and the learned indexes once."""
        offered = self.controls["methods"].options
        for number, model in enumerate(self.checkpoints):
            own = [name for name in self.own if number == 0]
            methods = tuple(name for name in (*FIRST_CHOICE, *own) if name in offered)
            fitting = self._fitting({**self.values, "model": model, "corpus": AS_IT_IS, "methods": methods})
            for _ in self.bench.measure(self.asked(fitting)):
                pass
        self._refresh()

    def _fitting(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values with parameters that a corpus of this size allows: a list is at most half of it, and k all of it."""
        items = self._workload(values).num_items()
        most = items // 2
        fitted = {**values, "k": min(values["k"], items)}
        for method in METHODS.values():
            for parameter in method.parameters:
                name = f"{method.name} {parameter.name}"
                if parameter.counts_items and name in fitted:
                    fitted[name] = min(fitted[name], most)
        return fitted

    def _refresh(self) -> None:
        """Show what has been measured so far, in the current view, which may have changed since the work began."""
        with self.lock:
            self._show(self.figure_of(self.values))

    def asked(self, values: Mapping[str, Any]) -> Plan:
        """The plan for these values of the controls; a ValueError names the one that does not fit."""
        points = [
            SearcherSpec.of(name, **{p.name: values[f"{name} {p.name}"] for p in METHODS[name].parameters})
            for name in values["methods"]
        ]
        own = tuple(self.own[p.method] for p in points if p.method in self.own)
        return chosen_points(
            self._workload(values), tuple(points) or (SearcherSpec(REFERENCE),), batch_size=values["batch"], k=values["k"],
            rounds=values["rounds"], queries=self.plan.queries, seed=self.plan.seed, own=own,
        )  # fmt: skip

    def view(self) -> pd.DataFrame:
        """The rows that the figure shows: stored ones and those measured here (`when`), with machine and command."""
        stored, now = self._rows(self.values)
        parts = [rows.assign(when=when) for rows, when in ((stored, "stored"), (now, "now")) if len(rows)]
        if not parts:
            raise ValueError("nothing has been measured with these settings: there is no table to save")
        whole = pd.concat(parts, ignore_index=True).drop(columns="run", errors="ignore")
        return whole.assign(machine=self.bench.machine, command=self.command_line)

    def save_view(self, suffix: str) -> Path:
        """Save the view: its table as ".csv" or ".parquet", its figure as ".html", ".pdf", ".svg" or ".png"."""
        name = f"{self._workload(self.values).name}-b{self.values['batch']}-k{self.values['k']}"
        path = unused(self.folder, name, suffix)
        check_view(path)
        if suffix in (".csv", ".parquet"):
            return save_table(self.view(), path)
        return save_figure(go.Figure(self.figure), path)

    def _workload(self, values: Mapping[str, Any]) -> WorkloadSpec:
        """The chosen corpus, with the sweep's title if it is the same corpus."""
        checkpoint, items = self.checkpoints[values["model"]], self._sizes[values["corpus"]]
        for known in self.plan.workloads:
            if isinstance(known, Trained | Inflated) and known.checkpoint == checkpoint:
                title = known.title
                break
        else:
            title = values["model"]
        return Inflated(checkpoint, items, title=title) if items else Trained(checkpoint, title)

    def _rows(self, values: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows of the sweep and of this session for these settings."""
        name = self._workload(values).name
        of_sweep = name in {w.name for w in self.plan.workloads}
        found = []
        for table in (self.stored if of_sweep else self.stored.iloc[:0], self.bench.table):
            if len(table):
                table = table[
                    (table["workload"] == name)
                    & (table["batch_size"] == values["batch"])
                    & (table["k"] == values["k"])
                ]
            found.append(table)
        return found[0], found[1]

    def _queries(self, values: Mapping[str, Any]) -> pd.DataFrame:
        """What each query lost with these settings, of the sweep and of this session."""
        known = [part for part in (self.queries, self.bench.queries) if len(part)]
        if not known:
            return pd.DataFrame()
        rows = pd.concat(known, ignore_index=True)
        at = (rows["workload"] == self._workload(values).name) & (rows["k"] == values["k"])
        rows = rows[at].drop_duplicates(["label", "query"], keep="last")
        return rows.assign(method=rows["label"].str.split(" (", regex=False).str[0])

    def _of_all_models(self, values: Mapping[str, Any]) -> pd.DataFrame:
        """What was measured on the catalogue itself, under every model: its name is the method, the searcher the setting."""
        parts = []
        for model in self.checkpoints:
            name = self._workload({**values, "model": model, "corpus": AS_IT_IS}).name
            for table in (self.stored, self.bench.table):
                if not len(table):
                    continue
                rows = table[
                    (table["workload"] == name)
                    & (table["batch_size"] == values["batch"])
                    & (table["k"] == values["k"])
                ]
                own = rows.get("own_score", pd.Series(False, rows.index)).fillna(False).astype(bool)
                method = rows["method"].where(own, model)
                parts.append(
                    rows.assign(method=method, label=method + ", " + rows["label"], setting=rows["label"])
                )
        found = [part for part in parts if len(part)]
        return pd.concat(found, ignore_index=True) if found else self.stored.iloc[:0]

    def _show_command(self, values: Mapping[str, Any]) -> None:
        try:
            self.command_line = command(self.asked(values))
        except (ValueError, OSError) as error:
            self.command_line = ""
            shown = f'<span style="color:#c0392b">These settings do not fit: {html_text(error)}</span>'
        else:
            shown = f"<small>The same from a shell:</small><br><code>{html_text(self.command_line)}</code>"
        self._command.value = f'<div style="line-height:1.35;max-width:920px">{shown}</div>'

    def _verdict(self) -> str:
        latest = self.bench.table[self.bench.table["run"] == self.bench.runs]
        good = latest[
            (latest["recall"] >= 0.99) & ~latest["own_score"]
        ]  # searchers with the same score and nearly the same lists
        best = good.nsmallest(1, "p50_ms").iloc[0]
        if best["label"] == REFERENCE:
            return f"measured; no searcher has a recall of .99 and is faster than brute force, {best['p50_ms']:.3g} ms"
        speed = f"{best['p50_ms']:.3g} ms, {best['vs_brute_force']:.2f} × as fast as brute force"
        return f"measured; fastest at recall .99 or more: {best['label']}, {speed}"

    def _save_row(self) -> widgets.HBox:
        buttons = [
            _button(label, tip, self._saver(suffix))
            for suffix, label, tip in (
                (".csv", "table, CSV", "the rows of the figure, with machine and command"),
                (".parquet", "table, Parquet", "the same, with column types"),
                (".html", "figure, HTML", "one self-contained file"),
                (".pdf", "figure, PDF", "vectors for a paper; needs playwright and Chromium"),
                (".svg", "figure, SVG", "vectors for a page; needs playwright and Chromium"),
                (".png", "figure, PNG", "the browser saves the picture of its figure"),
            )
        ]
        label = widgets.HTML("<small>Save the view</small>")
        return widgets.HBox(
            [label, *buttons, self._saved], layout={"align_items": "center", "flex_flow": "row wrap", "grid_gap": "6px"}
        )  # fmt: skip

    def _saver(self, suffix: str) -> Callable[[object], None]:
        def save(_button: object) -> None:
            if suffix == ".png":
                self.figure.save_in_browser()
                name = f"{self.figure._config['toImageButtonOptions']['filename']}.png"
                self._saved.value = f"the browser saves <code>{name}</code> among its downloads"
                return
            try:
                with self.lock:
                    path = self.save_view(suffix)
                self._saved.value = f"<code>{html_text(path)}</code>"
            except Exception as error:  # nobody would see a traceback
                self._saved.value = (
                    f'<span style="color:#c0392b">{html_text(f"{type(error).__name__}: {error}")}</span>'
                )

        return save


def _failing_html(summary: str, rows: Sequence[tuple[int, int, float]]) -> str:
    """The sentence and the table of `failing_in`, its first `MOST_QUERIES` rows."""
    head = "<tr><th>query</th><th>settings that lose</th><th>missing</th></tr>"
    cells = "".join(
        f"<tr><td>{q}</td><td>{n}</td><td>{share:.0%}</td></tr>" for q, n, share in rows[:MOST_QUERIES]
    )
    rest = f"<p>and {len(rows) - MOST_QUERIES} more</p>" if len(rows) > MOST_QUERIES else ""
    listed = f"<p>{summary}</p>" + (f"<table>{head}{cells}</table>{rest}" if rows else "")
    return f'<div role="alert">{listed}</div>'  # which a screen reader reads as it appears


def _bars(stored: pd.DataFrame, now: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The rows of the view of proofs: first those measured here, then the chosen methods of the sweep."""
    fresh = now[::-1].assign(label="now: " + now["label"].astype(str)) if len(now) else now
    kept = stored[stored["method"].isin([*methods, REFERENCE])] if len(stored) else stored
    rows = pd.concat([part for part in (fresh, kept) if len(part)] or [stored], ignore_index=True)
    return rows.dropna(subset=["certified", "matches_brute_force"]).head(MOST_BARS)


def parameter_slider(parameter: Parameter, items: int) -> widgets.SelectionSlider:
    """A slider over the steps of a parameter; it starts at the default, or below if that exceeds a corpus of `items`."""
    steps = tuple(sorted({*parameter.steps, parameter.default}))
    bounded = parameter.counts_items or parameter.name == "nlist"
    fitting = [s for s in steps if s <= (min(items, parameter.default) if bounded else parameter.default)]
    slider = ladder(steps, fitting[-1] if fitting else steps[0], parameter.meaning)
    slider.description = parameter.name
    return slider


def ladder(values: Sequence[int | float], value: int | float, tooltip: str) -> widgets.SelectionSlider:
    """A slider over the given numbers."""
    steps = sorted({*values, value})
    return widgets.SelectionSlider(
        options=[(f"{step:,}", step) for step in steps], value=value, continuous_update=False, tooltip=tooltip
    )


def lay_out(dashboard: widgets.VBox, *parts: Mapping[str, object]) -> dict[str, widgets.VBox]:
    """Each part's groups in a row of their own, four side by side on a laptop's screen; returns the boxes by heading."""
    first, row, *rest = dashboard.children
    names = [name for part in parts for name in part]
    boxes = dict(zip(names, row.children, strict=True))
    for box in boxes.values():
        box.layout.width = GROUP_WIDTH
        head, *controls = box.children
        head.layout.width = CONTROL_WIDTH
        head.value = f'<div style="line-height:1.2;white-space:normal">{head.value}</div>'
        for control in controls:
            control.layout.width = CONTROL_WIDTH
            control.style.description_width = LABEL_WIDTH
    wrapping = {"flex_flow": "row wrap", "grid_gap": GAP}
    rows = [widgets.HBox([boxes[name] for name in part], layout=wrapping) for part in parts]
    dashboard.children = (first, *rows, *rest)
    return boxes


def show_parameters(boxes: Mapping[str, widgets.VBox], chosen: Sequence[str]) -> None:
    """Show the groups of the chosen methods' parameters, and no others'."""
    for name, method in METHODS.items():
        box = boxes.get(heading(method))
        if box is not None:
            for widget in (box, *box.children[1:]):
                widget.layout.display = "" if name in chosen else "none"


def heading(method: Method) -> str:
    """Above the parameters of a method."""
    return f"{method.name}: {method.meaning}"


def camera(name: str) -> dict[str, Any]:
    """The settings of a live figure whose camera button saves a PNG of twice its size under this name."""
    return {**CONFIG, "toImageButtonOptions": {"format": "png", "filename": name, "scale": 2}}


def _button(label: str, tooltip: str, click: Callable[[object], None]) -> widgets.Button:
    button = widgets.Button(description=label, tooltip=tooltip, layout={"width": "auto"})
    button.on_click(click)
    return button
