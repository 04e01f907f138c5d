"""How fast the pages of a report follow their controls, in a headless Chromium."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from workbench import chromium

_READY = "dashboards.length && dashboards.every(one => one.plot.querySelector('.main-svg'))"
_CONTROLS = """dashboards.flatMap((one, number) =>
    one.movable().map(control => ({number, dashboard: one.title, control: control.name})))"""
_MOVES = """async ([number, name, moves]) => {
    const one = dashboards[number], control = one.controls.get(name), count = control.labels.length
    one.place.scrollIntoView()
    const milliseconds = []
    for (let move = 0; move < moves; move++) {
        const next = control.kind === "many"
            ? (control.place.length > 1 ? control.place.slice(1) : control.labels.map((_, place) => place))
            : (control.place + 1) % count
        const began = performance.now()
        await one.set(control, next)
        await new Promise(requestAnimationFrame)
        milliseconds.push(performance.now() - began)
    }
    return milliseconds
}"""


def measure(report: Path, moves: int) -> Iterator[pd.DataFrame]:
    """For each page of the report in the folder `report`, one row per move of a control.

    Columns: `page`, `dashboard`, `control`, `ms`, the milliseconds from the change of the control to the frame after the new
    figure. Each control takes `moves` steps through its values. Raises ValueError if there is no page with a control, and what
    `chromium.page` does.
    """
    found = False
    with chromium.page(1366, 768) as page:
        for path in sorted(report.glob("[0-9][0-9]_*.html")):
            if path.stem.endswith(".slides"):
                continue
            page.goto(path.resolve().as_uri())
            if not page.locator(".dashboard").count():
                continue
            page.wait_for_function(_READY)
            for one in page.evaluate(_CONTROLS):
                found = True
                times = page.evaluate(_MOVES, [one["number"], one["control"], moves])
                names = {"page": path.stem, "dashboard": one["dashboard"], "control": one["control"]}
                yield pd.DataFrame({"ms": times}).assign(**names)
    if not found:
        raise ValueError(f"no page with a control in {report}; make one with: workbench report")


def summary(raw: pd.DataFrame) -> pd.DataFrame:
    """p50 and p95 of each control, and of all moves in the last row."""
    names = ["page", "dashboard", "control"]
    groups = raw.groupby(names, sort=False)["ms"]
    table = groups.agg(
        moves="size", p50=lambda ms: ms.quantile(0.5), p95=lambda ms: ms.quantile(0.95)
    ).reset_index()
    total = {"page": "all", "dashboard": "", "control": "", "moves": len(raw)}
    total |= {"p50": raw["ms"].quantile(0.5), "p95": raw["ms"].quantile(0.95)}
    both = pd.concat([table, pd.DataFrame([total])], ignore_index=True).round({"p50": 1, "p95": 1})
    return both.rename(columns={"p50": "p50 ms", "p95": "p95 ms"})
