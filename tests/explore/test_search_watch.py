"""Watching a search, from Python: every searcher, every step, the proof in words, and the states of a page."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.bench.watching import WATCHABLE
from workbench.bench.workloads import Trained, build
from workbench.explore import findings
from workbench.explore.stored_states import unpack
from workbench.explore.watch_figures import STATES, proof, states
from workbench.explore.watch_widget import SearchWatch

pytestmark = pytest.mark.usefixtures("workbench_root")
HOSTILE = "<script>window.hacked = 1</script>"


@pytest.fixture
def watching(checkpoint: str) -> SearchWatch:
    workload = build(Trained(checkpoint), 6, 0, torch.device("cpu"))
    titles = pd.Series([HOSTILE, *(f"film {i}" for i in range(2, 31))], index=range(1, 31))
    own = {
        name: str(Path(checkpoint).with_name(f"cycles-sasrec-{end}"))
        for name, end in (("SparCode", "sparcode"), ("Deep Retrieval", "paths"))
    }
    return SearchWatch(workload, titles, own, query=1, k=5)


def test_every_searcher_step_by_step(watching: SearchWatch) -> None:
    assert watching.searchers == [*WATCHABLE, "SparCode", "Deep Retrieval"]
    for name in watching.searchers:
        watching.controls["searcher"].value = name
        seen = watching.watched(watching.values)
        assert watching.controls["step"].max == len(seen.moments) - 1
        for number, moment in enumerate(seen.moments):
            watching.controls["step"].value = number
            assert "Error" not in watching.status.value, watching.status.value
            figure = watching.figure
            assert f"{name}: {moment.num_scored:,} scored" in figure.layout.title.text
            assert f"Step {number} of {len(seen.moments) - 1}<" in figure.layout.annotations[-2].text
            named = {trace.name.partition(" (")[0]: trace.name for trace in figure.data if trace.name}
            state = states(seen, moment)
            for code, state_name in enumerate(STATES):
                assert named[state_name] == f"{state_name} ({int((state == code).sum()):,})"
            assert "<script>" not in figure.to_json()


def test_the_first_view_is_in_the_middle_and_names_its_marks(watching: SearchWatch) -> None:
    seen = watching.watched(watching.values)
    assert watching.values["step"] == (len(seen.moments) - 1) // 2 > 0
    shown = [trace.name for trace in watching.figure.data if trace.showlegend is not False]
    assert ("largest bound left" in shown) == (seen.moments[watching.values["step"]].next >= 0)


def test_the_proof_in_words(watching: SearchWatch) -> None:
    seen = watching.watched({**watching.values, "searcher": "brute force"})
    first = f"{int((~seen.hidden).sum())} items can still enter."
    assert proof(seen, seen.moments[0]) == (first, "Fewer than k are scored.")
    assert proof(seen, seen.moments[-1])[0] == "Nothing can still enter."
    for name in watching.searchers:
        for_one = watching.watched({**watching.values, "searcher": name})
        for moment in for_one.moments:
            first, second = proof(for_one, moment)
            open_items = int(moment.could_enter.sum())
            assert first.startswith("Nothing") == (open_items == 0)
            assert open_items == 0 or first.startswith(f"{open_items} item")
            if "is above it" in second:
                assert for_one.bounds[moment.next] < moment.s_k
            if "is not above it" in second:
                assert for_one.bounds[moment.next] >= moment.s_k


def test_a_page_stores_every_step_of_every_searcher(watching: SearchWatch) -> None:
    page = watching.page()
    stored = unpack(page["states"])
    controls = {c["name"]: c for group in page["groups"] for c in group["controls"]}
    searchers, steps = controls["searcher"]["labels"], controls["step"]["labels"]
    assert controls["step"]["plays"] and not controls["searcher"].get("plays")
    assert page["order"] == ["searcher", "step"] and len(stored) == len(searchers) * len(steps)
    for at, name in enumerate(searchers):
        seen = watching.watched({**watching.values, "searcher": name})
        for number in range(len(steps)):
            state = stored[at * len(steps) + number]
            moment = seen.moments[min(number, len(seen.moments) - 1)]
            assert f"{name}: {moment.num_scored:,} scored" in state["layout"]["title"]["text"]
    assert len(page["states"]) < SearchWatch.page_largest


def test_the_finding_names_who_proved_and_who_missed(watching: SearchWatch) -> None:
    watching.controls["length"].value = 10
    found = {n: watching.watched({**watching.values, "searcher": n}) for n in watching.searchers}
    text = findings.watched(found).data
    best = set(found["brute force"].found.ids[0].tolist())
    for name, one in found.items():
        right = len(best & set(one.found.ids[0].tolist()))
        if name in ("SparCode", "Deep Retrieval"):
            assert f"*{name}*" not in text
        elif right < 5:
            assert f"*{name}* ({5 - right} of 5)" in text
    assert np.array_equal(found["average"].scores, found["brute force"].scores)
    assert "missed" not in findings.watched({"brute force": found["brute force"]}).data
