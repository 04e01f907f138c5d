"""Markup, formulas, control sequences and text that runs the other way, where a page shows a title, a name or a value."""

import asyncio
import json
import os
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
from tally import Tally, in_child

from workbench.explore.tables import table
from workbench.reporting import pairs, runner

PAYLOADS = (
    "<script>window.hacked = 1</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "</title><script>1</script>",
    "<a href='javascript:alert(1)'>x</a>", "[x](javascript:alert(1))", "![x](x\" onerror=\"alert(1))", "<iframe srcdoc='<b>'>",
    "<style>*{display:none}</style>", "<!-- ", "]]>", "&lt;script&gt;", "'\"><script>1</script>", "<math><mtext></form>",
    "$\\href{javascript:alert(1)}{x}$", "$\\includegraphics{http://x/y}$", "$\\htmlClass{a}{x}$", "$$\\def\\a{\\a\\a}\\a$$",
    "\x1b[31mred\x1b[0m", "\x1b]8;;http://x\x07link\x1b]8;;\x07", "\u202eevil\u202c", "\u2066a\u2069", "a\x00b", "{{ 7 * 7 }}",
    "{% raw %}", "`<b>`", "<details open ontoggle=alert(1)>", "<base href=//x>", "<meta http-equiv=refresh content=0>",
)  # fmt: skip
FORBIDDEN = {"iframe", "object", "embed", "base", "form"}


class Elements(HTMLParser):
    """The elements of a page, what can run in it, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.alive: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name.startswith("on") or (value or "").strip().lower().startswith(
                ("javascript:", "vbscript:")
            ):
                self.alive.append(f"<{tag} {name}={value!r:.60}>")


def parsed(text: str) -> Elements:
    """The elements of a page."""
    found = Elements()
    found.feed(text)
    found.close()
    return found


def page_texts(folder: Path, payload: str) -> dict[str, str]:
    """Each page with the payload as title, name of a value, value and error; and a table of a dashboard."""
    os.environ["WORKBENCH_ROOT"] = str(folder)
    place = folder / "notebooks"
    place.mkdir(parents=True)
    source = place / "00_a.py"
    heading = " ".join(payload.replace("\x00", "").split())
    source.write_text(
        '# %% [markdown]\n# # A\n\n# %% tags=["parameters"]\n'
        f'dataset = "walks"\nprofile = "quick"\nseed = 0\n\n# %%\n{heading!r}\n'
    )
    pairs.write(source)

    async def failed(job: runner.Job, work: Path) -> Any:
        del work
        await asyncio.sleep(0)
        shutil.copyfile(job.source, job.output)
        shown = {"columns": [payload], "rows": [[payload]]}
        lines = [
            {"name": payload, "value": payload, "unit": payload, "is_table": False},
            {"name": "t " + payload, "value": shown, "unit": "", "is_table": True},
        ]
        Path(job.records).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return runner.Outcome(f"ValueError: {payload}")

    runner._in_own_process = failed
    runner.run_report(runner.ReportSpec(dataset="walks"), say=lambda _: None)
    pages = {str(p.relative_to(folder)): p.read_text() for p in (folder / "reports").rglob("*.html")}
    return pages | {"table": table(pd.DataFrame({"title": [payload]})).to_html()}


def titles(scratch: Path, few: bool) -> Tally:
    """Each payload on each page: the same elements as with harmless text, nothing that runs."""
    tally = Tally("hostile text on pages", "shown as text: no element, handler or link of its own")
    _, said = in_child(
        lambda: json.dumps({n: parsed(t).tags for n, t in page_texts(scratch / "plain", "harmless").items()})
    )
    plain = json.loads(said)
    for number, payload in enumerate(PAYLOADS[:4] if few else PAYLOADS):

        def check(payload: str = payload, number: int = number) -> str:
            problems = []
            for name, text in page_texts(scratch / f"payload-{number}", payload).items():
                found = parsed(text)
                if found.alive or "\x1b" in text:
                    problems.append(f"{name}: {found.alive[:2] or 'an escape sequence'}")
                if found.tags["script"] != plain[name].get("script", 0):
                    problems.append(f"{name}: a script more or less")
                problems += [
                    f"{name}: <{tag}>" for tag in FORBIDDEN if found.tags[tag] != plain[name].get(tag, 0)
                ]
            return "; ".join(problems)

        status, said = in_child(check)
        tally.count("shown as text", status != 0 or bool(said), f"{payload!r}: {status} {said}")
    return tally
