"""One query in detail, from Python: every searcher, an index that is built by the button, hostile titles."""

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from workbench.bench.live import LiveBench
from workbench.bench.methods import SearcherSpec
from workbench.bench.plans import Plan, chosen_points
from workbench.bench.workloads import Inflated, Trained
from workbench.explore.lens_figure import under_the_lens
from workbench.explore.lens_widget import QueryLens

pytestmark = pytest.mark.usefixtures("workbench_root")
HOSTILE = "<script>window.hacked = 1</script>"
SMALL = {"n1": 5, "n2": 10, "keep": 10, "width": 16, "nlist": 16, "nprobe": 1, "ef_search": 8}


@pytest.fixture
def plan(checkpoint: str) -> Plan:
    return chosen_points(
        Trained(checkpoint), (SearcherSpec.of("average", n2=10),), batch_size=4, k=5, queries=12
    )


@pytest.fixture
def lens(plan: Plan) -> QueryLens:
    titles = pd.Series([HOSTILE, *(f"film {i}" for i in range(2, 31))], index=range(1, 31))
    return QueryLens(plan, titles, bench=LiveBench("cpu"), k=5)


def status(lens: QueryLens) -> str:
    assert "Error" not in lens.status.value, lens.status.value
    return str(lens.figure.layout.title.text)


def lists(lens: QueryLens) -> list[list[str]]:
    (table,) = (t for t in lens.figure.data if t.type == "table")
    return [[text.replace("\N{NO-BREAK SPACE}", " ") for text in column] for column in table.cells["values"]]


def test_the_list_stands_next_to_the_true_one(lens: QueryLens) -> None:
    assert status(lens).startswith("Query 0, per component n1=20: ")
    lens.controls["searcher"].value = "average"
    lens.controls["average n2"].value = 5
    seen = lens.seen()
    missed = int(seen.places["missed"].sum())
    assert missed and f"{missed} of 5 missed" in status(lens)
    places, found, true = lists(lens)
    assert places == ["1", "2", "3", "4", "5"]
    assert sum(t.endswith("missed") for t in true) == sum(t.endswith("extra") for t in found) == missed
    named = {t.name.partition(" ")[0].rstrip(":"): t for t in lens.figure.data if t.name}
    assert len(named["missed"].x) == missed == len(named["extra"].x)
    assert "= " in next(t.name for t in lens.figure.data if t.name and t.name.startswith("S<sub>K"))


def test_every_searcher_and_every_control_to_its_ends(lens: QueryLens) -> None:
    pytest.importorskip("faiss")
    for name, control in lens.controls.items():
        if name.rpartition(" ")[2] in SMALL:
            control.value = SMALL[name.rpartition(" ")[2]]
    for name in lens.controls["searcher"].options:
        lens.controls["searcher"].value = name
        if "is not built yet" in lens.status.value:
            lens.run()
        assert f"Query 0, {name}" in status(lens)
    for name, ends in {"query": (11, 0), "k": (1, 10)}.items():
        for value in ends:
            lens.controls[name].value = value
            status(lens)
    lens.controls["k"].value = 100
    assert "k must lie in 1 to 19" in lens.status.value
    lens.controls["k"].value = 5
    lens.controls["searcher"].value = "per component"
    lens.controls["per component n1"].value = 64_000
    assert "n1 is 64,000, but the corpus has 30 items" in lens.status.value


def test_an_index_is_built_by_the_button_and_answers_from_then_on(lens: QueryLens) -> None:
    before = status(lens)
    lens.controls["h-indexer keep"].value = 10
    lens.controls["searcher"].value = "h-indexer"
    assert "press the button" in lens.status.value and lens.figure.layout.title.text == before
    lens.start_button.click()
    assert lens.status.value == "built and searched" and "h-indexer width=64,keep=10" in status(lens)
    lens.controls["h-indexer keep"].value = 20
    assert "keep=20" in status(lens)
    lens.controls["h-indexer width"].value = 8
    assert "press the button" in lens.status.value


def test_a_hostile_title_stays_text(lens: QueryLens) -> None:
    lens.controls["searcher"].value = "brute force"
    for query in range(12):
        lens.controls["query"].value = query
    lens.controls["k"].value = 10
    page = go.Figure(lens.figure).to_json() + lens.status.value
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_copies_of_an_inflated_corpus_have_numbers(checkpoint: str, plan: Plan) -> None:
    lens = QueryLens(
        plan, pd.Series(["a"], index=[1]), workload=Inflated(checkpoint, 60), bench=LiveBench("cpu")
    )
    assert any(name.startswith("item ") for name in lists(lens)[1])
    settings, figure = lens.static()
    assert (
        settings["setting"].tolist() == ["query", "k", "searcher", "per component n1"]
        and len(figure.data) == 8
    )


def test_levels_that_have_no_line_say_why() -> None:
    items = pd.DataFrame({"item": [1], "score": [1.0], "bound": [2.0], "outcome": ["found"]})
    places = pd.DataFrame({"place": [1], "found": [-1], "true_place": [0], "true": [1], "missed": [True]})
    figure = under_the_lens(items, places, float("-inf"), float("nan"), "a <b>")
    names = [trace.name for trace in figure.data]
    assert "S<sub>K</sub>: no such item" in names or any("S<sub>K</sub>: " in str(n) for n in names)
    assert "largest bound outside: unknown" in names and figure.layout.title.text == "a &lt;b&gt;"
    assert list(figure.data[-1].cells["values"][1]) == [""]
    with pytest.raises(ValueError, match="lacks the column"):
        under_the_lens(items.drop(columns="bound"), places, 0.0, 0.0, "")


def test_the_lens_shares_what_an_explorer_built(plan: Plan, workbench_root: Path) -> None:
    bench = LiveBench("cpu")
    for _ in bench.measure(
        chosen_points(plan.workloads[0], (SearcherSpec.of("h-indexer", keep=10),), k=5, queries=12)
    ):
        pass
    lens = QueryLens(plan, bench=bench, k=5)
    lens.controls["h-indexer keep"].value = 10
    lens.controls["searcher"].value = "h-indexer"
    assert "h-indexer" in status(lens)
