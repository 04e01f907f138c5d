"""The explorer of recall and latency, from Python: every control, a measurement, its end and its errors, what is saved."""

import asyncio
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from workbench.bench import searcher_pool as field_module
from workbench.bench.live import LiveBench
from workbench.bench.methods import METHODS, SearcherSpec
from workbench.bench.plans import Plan, chosen_points
from workbench.bench.workloads import Inflated
from workbench.explore import live_widget
from workbench.explore.search_figures import AWAY, FRONT, frontier, searcher_style
from workbench.explore.search_widget import HEIGHT, MOST_QUERIES, PAGE_COSTS, SearchExplorer
from workbench.explore.stored_states import MIME, unpack
from workbench.explore.widgets import HEADLESS

pytestmark = pytest.mark.usefixtures("workbench_root")
HOSTILE = "<img src=x onerror='window.hacked = 1'>"


def plan_of(checkpoint: str, title: str = "cycles", items: int = 60, seed: int = 3) -> Plan:
    return chosen_points(
        Inflated(checkpoint, items, title=title), (SearcherSpec.of("average", n2=10), SearcherSpec.of("per component", n1=5)),
        batch_size=4, k=5, rounds=2, queries=12, seed=seed,
    )  # fmt: skip


@pytest.fixture(scope="module")
def swept(checkpoint: str) -> tuple[Plan, pd.DataFrame]:
    """A plan and the table of its measurement."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_ROOT", str(Path(checkpoint).parents[1]))
        bench, plan = LiveBench("cpu"), plan_of(checkpoint)
        for _ in bench.measure(plan):
            pass
    return plan, bench.table.drop(columns="run")


@pytest.fixture
def explorer(checkpoint: str, swept: tuple[Plan, pd.DataFrame], tmp_path: Path) -> SearchExplorer:
    names = {"SASRec + MoL": checkpoint} | {
        n: str(Path(checkpoint).with_name(f"cycles-sasrec-{n}")) for n in ("sparcode", "paths")
    }
    made = SearchExplorer(names, *swept, bench=LiveBench("cpu"), folder=tmp_path / "views", corpora=(90,))
    made.controls["rounds"].value = 1
    for name in ("average n2", "h-indexer keep"):
        made.controls[name].value = 10
    return made


def marks(explorer: SearchExplorer) -> dict[str, int]:
    """Points of the figure by the name of their trace."""
    found: dict[str, int] = {}
    for trace in explorer.figure.data:
        if trace.name == FRONT:
            continue
        found[trace.name] = found.get(trace.name, 0) + len(trace.x)
    return found


def status(explorer: SearchExplorer) -> str:
    assert "Error" not in explorer.status.value, explorer.status.value
    return str(explorer.status.value)


def test_the_first_view_is_the_stored_sweep(explorer: SearchExplorer) -> None:
    assert marks(explorer) == {"brute force": 1, "average": 1, "per component": 1}
    assert explorer.figure.layout.title.text == "cycles, 60 items, 4 queries per call, k = 5"
    assert explorer.values["corpus"] == "60 items" and explorer.values["batch"] == 4
    assert explorer.controls["corpus"].options == ("as it is", "60 items", "90 items")
    assert list(explorer.controls["model"].options) == ["SASRec + MoL"]


def test_measuring_puts_ringed_points_over_the_sweep(explorer: SearchExplorer) -> None:
    explorer.controls["methods"].value = ("average", "h-indexer")
    explorer.start_button.click()
    assert status(explorer).startswith("measured")
    found = marks(explorer)
    assert found["measured now"] == 3 and found["average"] == 2 and found["h-indexer"] == 1
    ring = next(t for t in explorer.figure.data if t.name == "measured now")
    assert ring.marker.symbol == "circle-open"
    average = [t for t in explorer.figure.data if t.name == "average"]
    assert {t.marker.line.color for t in average} == {searcher_style("average").color}
    assert [t.showlegend for t in average] == [True, False]
    texts = [a.text for a in explorer.figure.layout.annotations]
    assert sorted(texts) == ["brute force", "n2=10", "width=64, keep=10"]
    hover = average[1].customdata[0][0]
    for part in (
        "average (n2=10)",
        "p50",
        "p95",
        "recall",
        "hit rate",
        "certified",
        "matches brute force",
        "scored",
        "MB",
    ):
        assert part in hover
    assert len(explorer.bench.table) == 3


def test_every_control_to_its_ends(explorer: SearchExplorer) -> None:
    for name, control in explorer.controls.items():
        if name in ("rounds", "methods", "log", "searcher"):
            ends: list[Any] = {
                "rounds": [1, 20, 1],
                "methods": [(), tuple(explorer.controls["methods"].options), ("average",)],
                "log": [False, True],
                "searcher": [("average",), tuple(explorer.controls["searcher"].options)],
            }[name]
        else:
            options = [o[1] if isinstance(o, tuple) else o for o in control.options]
            ends = [options[0], options[-1], control.value]
        for value in ends:
            control.value = value
            status(explorer)


def test_settings_that_were_not_measured_are_said_to_be_none(explorer: SearchExplorer) -> None:
    explorer.controls["k"].value = 10
    assert "press measure" in explorer.figure.layout.annotations[0].text
    explorer.controls["view"].value = "proofs"
    assert "press measure" in explorer.figure.layout.annotations[0].text
    explorer.controls["k"].value = 5
    assert explorer.figure.data[0].type == "bar"


def test_other_views_of_the_same_rows(explorer: SearchExplorer) -> None:
    explorer.run()
    explorer.controls["log"].value = False
    assert explorer.figure.layout.yaxis.type == "linear"
    explorer.controls["recall"].value = "relative HR"
    assert "hit rate@5" in explorer.figure.layout.xaxis.title.text
    explorer.controls["view"].value = "proofs"
    bars = [trace for trace in explorer.figure.data if trace.legendgroup == "average"]
    assert [b.name for b in bars] == ["matches brute force", "certified"]
    assert "now: average (n2=10)" in bars[0].y and "average (n2=10)" in bars[0].y
    explorer.controls["searcher"].value = ("brute force",)
    assert {trace.legendgroup for trace in explorer.figure.data} == {"brute force", None}
    assert explorer.figure.layout.height == HEIGHT


def test_failing_queries_are_those_of_the_table(explorer: SearchExplorer) -> None:
    explorer.controls["view"].value = "failing queries"
    assert "press measure" in explorer.figure.layout.annotations[0].text
    explorer.controls["methods"].value = ("average",)
    explorer.run()
    status(explorer)
    marks = explorer.figure.data[0]
    queries, table = explorer.bench.queries, explorer.bench.table
    assert set(queries["label"]) == set(table["label"])
    for label, rows in queries.groupby("label"):
        wanted = table.set_index("label")["matches_brute_force"][label]
        assert (rows["recall"] == 1).mean() == pytest.approx(wanted)
    assert int((np.array(marks.z, dtype=float) > 0).sum()) == int((queries["recall"] < 1).sum())


def test_framed_marks_choose_the_queries_that_are_listed(explorer: SearchExplorer) -> None:
    explorer.controls["methods"].value = ("average",)
    explorer.run()
    at = [
        (number, place, label)
        for number, trace in enumerate(explorer.figure.data)
        if trace.customdata is not None
        for place, (_, label) in enumerate(trace.customdata)
    ]
    assert {label for _, _, label in at} >= {"average (n2=10)", "brute force"}

    def frame(labels: set[str]) -> None:
        """What a browser sends."""
        chosen = [(number, place) for number, place, label in at if label in labels]
        numbers, places = [n for n, _ in chosen], [p for _, p in chosen]
        points = {"trace_indexes": numbers, "point_indexes": places, "xs": places, "ys": places}
        explorer.figure._js2py_pointsCallback = {"event_type": "plotly_selected", "points": points}

    queries = explorer.bench.queries
    lost = queries[(queries["label"] == "average (n2=10)") & (queries["recall"] < 1)]
    frame({"average (n2=10)", "brute force"})
    total = queries["query"].nunique()
    assert f"2 settings chosen: {len(lost)} of {total} queries lose a true item." in explorer.brushed.value
    assert len(lost) and explorer.brushed.value.count("<tr>") == 1 + min(len(lost), MOST_QUERIES)
    assert set(explorer.settings.value) == {"average (n2=10)", "brute force"}
    framed = explorer.brushed.value
    frame({"brute force"})
    assert "<table>" not in explorer.brushed.value and "0 of" in explorer.brushed.value
    explorer.settings.value = ("brute force", "average (n2=10)")  # by keyboard
    assert explorer.brushed.value == framed and 'role="alert"' in framed
    explorer.controls["cost"].value = "memory"
    assert explorer.brushed.value == "" and explorer.settings.layout.display == ""
    explorer.controls["view"].value = "proofs"
    assert explorer.settings.layout.display == "none"  # there is nothing to choose


def test_every_model_is_measured_on_the_catalogue(explorer: SearchExplorer) -> None:
    explorer.controls["k"].value = 5
    explorer.measure_models()
    explorer.controls["view"].value = "all models"
    explorer.controls["recall"].value = "label HR"
    status(explorer)
    assert "every model on the catalogue" in explorer.figure.layout.title.text
    assert {"SASRec + MoL", "SparCode", "Deep Retrieval"} <= set(marks(explorer))
    assert explorer.values["corpus"] == "60 items"  # the controls stay


def test_without_a_label_found_there_is_nothing_to_be_relative_to(checkpoint: str) -> None:
    explorer = SearchExplorer({"a": checkpoint}, plan_of(checkpoint, seed=0), bench=LiveBench("cpu"))
    explorer.controls["methods"].value = ()
    explorer.run()
    explorer.controls["recall"].value = "relative HR"
    assert "the relative hit rate is undefined" in explorer.figure.layout.annotations[0].text
    status(explorer)


def test_only_the_chosen_searchers_show_their_parameters(explorer: SearchExplorer) -> None:
    def shown() -> set[str]:
        return {n for n, c in explorer.controls.items() if " " in n and c.layout.display != "none"}

    explorer.controls["methods"].value = ("average", "h-indexer")
    assert shown() == {"average n2", "h-indexer width", "h-indexer keep"}
    settings, _ = explorer.static()
    assert "h-indexer keep" in set(settings["setting"]) and "combined n1" not in set(settings["setting"])
    explorer.controls["methods"].value = ()
    assert shown() == set()


def test_nothing_chosen_measures_brute_force(explorer: SearchExplorer) -> None:
    explorer.controls["methods"].value = ()
    explorer.run()
    assert explorer.bench.table["label"].tolist() == ["brute force"]
    assert explorer.command_line.endswith("--searcher 'brute force'")


def test_what_does_not_fit_is_said_before_and_when_it_is_measured(explorer: SearchExplorer) -> None:
    explorer.controls["methods"].value = ("per component",)
    explorer.controls["per component n1"].value = 64_000
    assert (
        "n1 is 64,000, but the corpus has 60 items" in explorer._command.value and not explorer.command_line
    )
    assert marks(explorer)["average"] == 1  # the sweep is still there
    explorer.start_button.click()
    assert "ValueError: per component: n1 is 64,000" in explorer.status.value
    assert not explorer.running and explorer.bench.table.empty
    explorer.controls["per component n1"].value = 5
    explorer.controls["k"].value = 200
    explorer.start_button.click()
    assert "k = 200 exceeds the 60 items" in explorer.status.value


def test_learned_indexes_search_the_catalogue_under_their_own_score(explorer: SearchExplorer) -> None:
    explorer.controls["methods"].value = ("SparCode", "Deep Retrieval")
    explorer.run()
    assert "the catalogue alone" in explorer.status.value
    explorer.controls["corpus"].value = "as it is"
    explorer.run()
    status(explorer)
    assert {"brute force, SparCode", "SparCode", "brute force, Deep Retrieval", "Deep Retrieval"} < set(
        marks(explorer)
    )
    hover = {t.name: t.customdata[0][0] for t in explorer.figure.data if t.customdata is not None}
    assert "own score" in hover["SparCode"] and "own score" not in hover["brute force"]
    assert "Retrieval" not in status(explorer) and "SparCode" not in status(
        explorer
    )  # it compares the same score only
    assert explorer.command_line.count("--scorer") == 2 and "--items" not in explorer.command_line


def test_a_second_click_a_stop_and_a_change_of_view_while_it_runs(
    explorer: SearchExplorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_widget, "PAUSE", 0)

    async def until(ready: Any) -> None:
        for _ in range(2000):
            if ready():
                return
            await asyncio.sleep(0)
        raise AssertionError("it never came to that")

    async def session() -> None:
        explorer.controls["rounds"].value = 3
        explorer.start_button.click()
        await until(lambda: "round 1 of 3 done" in explorer.status.value)
        explorer.start_button.click()
        explorer.controls["recall"].value = "relative HR"
        explorer.controls["view"].value = "proofs"
        assert explorer.running and explorer.bench.runs == 1
        await until(lambda: "round 2 of 3 done" in explorer.status.value)
        explorer.stop_button.click()
        assert not explorer.running and "stopped" in explorer.status.value
        assert explorer.figure.data[0].type == "bar"  # the view that was chosen meanwhile
        assert (explorer.bench.table["calls"] == 4).all()
        explorer.start_button.click()
        await until(lambda: explorer.bench.runs == 2)
        explorer.controls["k"].value = 1  # other work
        assert not explorer.running

    asyncio.run(session())


def test_an_error_inside_a_searcher_shows_in_the_status_line(
    explorer: SearchExplorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("<b>broken</b>")

    monkeypatch.setattr(field_module, "_answers", fails)
    explorer.run()
    assert "RuntimeError: &lt;b&gt;broken&lt;/b&gt;" in explorer.status.value
    assert not explorer.running and not explorer.start_button.disabled


def test_saved_views_are_read_back(explorer: SearchExplorer) -> None:
    explorer.run()
    csv, parquet, html = (explorer.save_view(suffix) for suffix in (".csv", ".parquet", ".html"))
    assert (
        csv.name == "cycles-60-items-b4-k5.csv"
        and explorer.save_view(".csv").name == "cycles-60-items-b4-k5-2.csv"
    )
    table = pd.read_parquet(parquet)
    assert table["when"].tolist() == ["stored"] * 3 + ["now"] * 4
    assert set(table["command"]) == {explorer.command_line} and table["machine"].str.contains("threads").all()
    assert pd.read_csv(csv)["label"].tolist() == table["label"].tolist()
    assert "measured now" in html.read_text()
    explorer.controls["k"].value = 10
    with pytest.raises(ValueError, match="no table to save"):
        explorer.save_view(".csv")
    buttons = {b.description: b for b in explorer.widget.children[-2].children if hasattr(b, "click")}
    buttons["table, CSV"].click()
    assert "no table to save" in explorer._saved.value
    explorer.controls["k"].value = 5
    buttons["figure, HTML"].click()
    assert "cycles-60-items-b4-k5-2.html" in explorer._saved.value


def test_the_command_reads_back_to_the_same_settings(
    explorer: SearchExplorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.bench import run as run_module
    from workbench.cli import main

    seen: list[Plan] = []

    def catches(plan: Plan, *_: object, **__: object) -> None:
        seen.append(plan)
        raise OSError("enough")

    monkeypatch.setattr(run_module, "run", catches)
    for corpus, methods in (("60 items", ("average", "h-indexer")), ("as it is", ("SparCode", "combined"))):
        explorer.controls["corpus"].value = corpus
        explorer.controls["methods"].value = methods
        for name in ("combined n1", "combined n2"):
            explorer.controls[name].value = 20
        with pytest.raises(SystemExit):
            main(shlex.split(explorer.command_line)[1:])
        asked, read = explorer.asked(explorer.values), seen[-1]
        assert (read.points, read.batch_sizes, read.ks) == (asked.points, asked.batch_sizes, asked.ks)
        assert (read.rounds, read.calls, read.warmup, read.queries, read.seed) == (
            asked.rounds, asked.calls, asked.warmup, asked.queries, asked.seed,
        )  # fmt: skip
        assert [w.num_items() for w in read.workloads] == [w.num_items() for w in asked.workloads]
        assert [Path(c).name for c in read.own] == [Path(c).name for c in asked.own]


def test_hostile_names_stay_text(checkpoint: str, tmp_path: Path) -> None:
    plan = plan_of(checkpoint, title=HOSTILE)
    explorer = SearchExplorer({HOSTILE: checkpoint}, plan, bench=LiveBench("cpu"), folder=tmp_path)
    explorer.controls["methods"].value = ()
    explorer.run()
    page = go.Figure(explorer.figure).to_json() + explorer.status.value + explorer._command.value
    assert "<img" not in page and "&lt;img" in page
    path = explorer.save_view(".csv")
    assert path.parent == tmp_path and "<" not in path.name
    explorer._saver(".csv")(None)
    assert "<img" not in explorer._saved.value


def test_what_it_is_given_must_make_sense(checkpoint: str, swept: tuple[Plan, pd.DataFrame]) -> None:
    sparcode = str(Path(checkpoint).with_name("cycles-sasrec-sparcode"))
    with pytest.raises(ValueError, match="component scores"):
        SearchExplorer({"SparCode": sparcode}, *swept)
    with pytest.raises(ValueError, match="one at most"):
        SearchExplorer({"a": checkpoint, "b": sparcode, "c": sparcode}, *swept)
    other = SearchExplorer({"a": checkpoint}, swept[0])  # without a stored sweep
    assert "press measure" in other.figure.layout.annotations[0].text


def test_headless_it_shows_its_twin(explorer: SearchExplorer, monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.explore import widgets

    shown: list[Any] = []
    monkeypatch.setenv(HEADLESS, "1")
    monkeypatch.setattr(widgets, "display", lambda bundle, raw: shown.append(bundle))
    command = explorer.command_line
    explorer._ipython_display_()
    assert explorer.command_line == command  # storing the states moves nothing
    assert len(shown[0]["application/vnd.plotly.v1+json"]["data"]) == 4
    page = shown[0][MIME]
    kinds = {c["name"]: (c["kind"], c.get("labels")) for group in page["groups"] for c in group["controls"]}
    assert page["action"] == "measure"
    assert kinds["rounds"][0] == kinds["methods"][0] == "fixed"
    assert kinds["searcher"][0] == "many"
    assert kinds["recall"] == ("choice", ["overlap", "relative HR", "label HR", "certified"])
    assert kinds["cost"] == ("choice", list(PAGE_COSTS))
    assert kinds["k"][0] == kinds["batch"][0] == kinds["corpus"][0] == "fixed"  # the sweep has one of each
    explorer.controls["recall"].value = "relative HR"
    stored = unpack(page["states"])
    assert len(stored) == 3 * 4 * 6  # the sweep came without its queries: none of them is known to fail
    titles = {state["layout"]["xaxis"].get("title", {}).get("text") for state in stored}
    assert explorer.figure.layout.xaxis.title.text in titles and len(titles) == 6  # nothing has none


def test_the_camera_saves_a_large_png(explorer: SearchExplorer) -> None:
    assert explorer.figure._config["toImageButtonOptions"] == {
        "format": "png",
        "filename": "recall-latency",
        "scale": 2,
    }


def test_labels_of_marks_that_lie_together_are_kept_apart() -> None:
    rows = pd.DataFrame(
        {
            "label": list("abc"),
            "method": "average",
            "setting": list("abc"),
            "k": 5,
            "recall": 1.0,
            "p50_ms": [1.0, 1.001, 9.0],
        }
    )
    figure = frontier(rows.iloc[:0], now=rows)
    heights = {a.text: a.ay for a in figure.layout.annotations}
    assert heights["a"] == 0 == heights["c"] and heights["b"] < -10
    measured = rows.assign(
        recall=[0.95, 0.68, 0.99]
    )  # the second stands where the label of the first would be
    alone = frontier(measured.iloc[1:], now=measured.iloc[:1]).layout.annotations[0]
    assert (alone.ax, alone.ay) != (-AWAY, 0)


def test_labels_are_kept_apart_also_where_marks_are_everywhere() -> None:
    recalls, times = np.meshgrid(1 - np.logspace(0, -4, 60), np.geomspace(1, 30, 60))
    grid = pd.DataFrame({"recall": recalls.ravel(), "p50_ms": times.ravel()})
    grid = grid.assign(label="old", method="average", setting="old", k=5)
    both = pd.DataFrame({"recall": [0.99, 1.0], "p50_ms": 5.0, "k": 5, "method": "average"})
    both = both.assign(setting=["width=64, keep=4000", "exact with a bound"], label=["a", "b"])
    first, second = frontier(grid, now=both).layout.annotations
    towards_each_other = (first.xanchor, second.xanchor) == ("left", "right")
    assert not towards_each_other or abs(first.ay - second.ay) > 10


@pytest.mark.parametrize("name", METHODS)
def test_every_method_shows_what_it_is(name: str) -> None:
    assert METHODS[name].meaning and all(p.meaning for p in METHODS[name].parameters)
