"""The pages of a report: one for each notebook and the index of all reports; they need no network and run no foreign script."""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import plotly
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters.ansi import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets.config import Config

from workbench import files
from workbench.reporting.lecture import FINDING, notebooks, notes
from workbench.reporting.outputs import DASHBOARD, PLOT
from workbench.reporting.provenance import text_digest
from workbench.reporting.records import Json, Record
from workbench.reporting.results import Entry, Report
from workbench.reporting.slides import in_slides
from workbench.visible import visible

_HERE = Path(__file__).resolve().parent
_PLOTLY_JS = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_SHOWN = (
    DASHBOARD,
    PLOT,
    "text/html",
    "text/markdown",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "text/latex",
    "text/plain",
)
"""Kinds of output that a page shows, the best first."""
LECTURE = "lecture.html"
"""The page with the speaker's notes of a report."""
INDEX = "index.html"
"""The page that lists all reports."""
UNSET = ("", -1)
"""What a parameter is as long as the notebook chooses: a view, a user. A page leaves it out."""
_MOST_HEADLINES = 8
_NOTEBOOK = re.compile(r"(\d\d_[a-z0-9_]+)\.ipynb(#.*)?")

# Scripts come from the assets folder alone: text from data in a page can neither run nor use the network. plotly builds
# functions for some kinds of plots, hence unsafe-eval; `file:` is for pages opened from disk.
_POLICY = (
    "default-src 'none'; script-src 'self' file: 'unsafe-eval'; style-src 'self' file: 'unsafe-inline'; "
    "img-src 'self' file: data: blob:; font-src 'self' file: data:; base-uri 'none'; form-action 'none'"
)


@cache
def digest() -> str:
    """Stands for all that makes pages look as they do: templates, styles, scripts, versions."""
    own = [path for folder in ("templates", "assets") for path in sorted((_HERE / folder).rglob("*"))]
    own += [_HERE / name for name in ("pages.py", "slides.py", "lecture.py")]
    return text_digest(plotly.__version__, *(path.read_bytes().hex() for path in own if path.is_file()))


def write_pages(report: Report, folder: Path) -> set[str]:
    """Write the page of every notebook of `report`, whose executed copies lie in `folder`, the slides of those whose
    metadata say `"workbench": {"slides": true}`, and the assets they share.

    Returns the names of what it wrote in `folder`.
    """
    written = {"assets"}
    assets = folder / "assets"
    files.remove(assets)
    for path in (path for path in sorted((_HERE / "assets").rglob("*")) if path.is_file()):
        copy = assets / path.relative_to(_HERE / "assets")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)  # not copytree, which collects all errors of a full disk into one
    shutil.copyfile(_PLOTLY_JS, assets / "plotly.min.js")
    documents = {name: nbformat.read(folder / f"{name}.ipynb", as_version=4) for name in report.entries}
    as_page, as_slides = (_exporter(frozenset(report.entries), kind) for kind in ("report", "slides"))
    for name, executed in documents.items():
        _explain_unshown(executed)
        slides = bool(executed.metadata.get("workbench", {}).get("slides"))
        about = {"page": _visible(_page(report, name, slides))}
        made = {f"{name}.html": as_page.from_notebook_node(executed, resources=about)[0]}
        if slides:
            cut = in_slides(executed)
            made[f"{name}.slides.html"] = as_slides.from_notebook_node(cut, resources=about)[0]
        for file, page in made.items():
            files.write_text(page, folder / file)
        written |= made.keys()
    if lecture := _lecture(report, documents):
        files.write_text(lecture, folder / LECTURE)
        written.add(LECTURE)
    return written


def write_index(reports: Path) -> Path:
    """Write `index.html` in the folder of all reports, and return its path."""
    found = [
        (path, report)
        for path in sorted(reports.iterdir())
        if path.is_dir() and not path.name.startswith(".") and (report := Report.load(path)) is not None
    ]
    page = _still(
        "index.html.j2",
        reports=[_visible(_index_section(path, report)) for path, report in found],
    )
    index = reports / INDEX
    files.write_text(page, index)
    return index


def _still(template: str, **content: Any) -> str:
    """A page without scripts."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_HERE / "templates"), autoescape=True)
    return environment.get_template(template).render(
        policy=_POLICY.replace("script-src 'self' file: 'unsafe-eval'; ", ""),
        css=jinja2.filters.Markup((_HERE / "assets" / "report.css").read_text(encoding="utf-8")),
        **content,
    )


def _lecture(report: Report, executed: Mapping[str, Any]) -> str:
    """The speaker's notes of the report; empty if it lacks a page that they show."""
    if any(report.entries[name].error if name in report.entries else True for name in notebooks()):
        return ""
    found = notes(executed, {name: entry.title for name, entry in report.entries.items()})
    shown = [
        {
            **_visible(vars(note)),
            "say": [_inline(text) for text in note.say],
            "finding": _inline(f"{FINDING} {note.finding}") if note.finding else "",
        }
        for note in found
    ]
    return _still("lecture.html.j2", run=f"{report.profile} · {report.dataset}", notes=shown)


def _inline(markdown: str) -> jinja2.filters.Markup:
    return jinja2.filters.Markup(_markdown_of_data(markdown))


class _MathRenderer(IPythonRenderer):  # type: ignore[misc]
    """Marks mathematics for KaTeX, so that a dollar sign of the prose (`\\$5`) is never taken for it."""

    def block_math(self, body: str) -> str:
        return f'<span class="math display">{self.escape_html(body)}</span>'

    def inline_math(self, body: str) -> str:
        if (
            body != body.strip()
        ):  # "$5 and $6": as in pandoc, mathematics neither opens nor closes with a space
            return f"${self.escape_html(body)}$"
        return f'<span class="math">{self.escape_html(body)}</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(f"\\begin{{{name}}}{body}\\end{{{name}}}")


class _TextRenderer(_MathRenderer):
    """Text cells, whose links to other notebooks lead to their pages; if a notebook has none, its name stays as text."""

    def __init__(self, pages: frozenset[str]) -> None:
        super().__init__(escape=False)
        self._pages = pages

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if notebook := _NOTEBOOK.fullmatch(url):
            name, place = notebook.groups("")
            return str(super().link(text, f"{name}.html{place}", title)) if name in self._pages else text
        return str(super().link(text, url, title))


def _markdown(source: str, pages: frozenset[str] = frozenset()) -> str:
    """Text cells: written by the notebook's author, who may use HTML and link to the notebooks that have `pages`."""
    return str(MarkdownWithMath(renderer=_TextRenderer(pages)).render(source))


def _markdown_of_data(source: str) -> str:
    """Markdown that code displayed: may hold text from data, so HTML in it is shown and not obeyed."""
    renderer = _MathRenderer(escape=True, allow_harmful_protocols=False, exclude_anchor_links=True)
    return str(MarkdownWithMath(renderer=renderer).render(visible(source)))


def _visible(value: Any) -> Any:
    """What a template shows: every text in it as `visible` makes it."""
    match value:
        case str():
            return visible(value)
        case dict():
            return {name: _visible(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_visible(inner) for inner in value]
        case _:
            return value


def _json_in_html(value: object) -> str:
    """JSON that no text in it can end the script element of."""
    return json.dumps(value).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


class _Exporter(HTMLExporter):  # type: ignore[misc]
    """nbconvert's exporter with our template and our Markdown; `pages` are the names of notebooks that have one."""

    pages: frozenset[str] = frozenset()

    def default_filters(self) -> Any:
        yield from super().default_filters()
        yield "markdown2html", lambda source: _markdown(source, self.pages)
        yield "markdown2html_of_data", _markdown_of_data
        yield "json_in_html", _json_in_html
        yield "ansi2html", lambda text: visible(ansi2html(text))
        yield "without_dollars", lambda source: source.strip().strip("$").removeprefix("\\displaystyle")


def _exporter(pages: frozenset[str], template: str) -> HTMLExporter:
    exporter = _Exporter(
        config=Config({"NbConvertBase": {"display_data_priority": [*_SHOWN]}}),
        template_name=template,
        extra_template_basedirs=[str(_HERE / "templates")],
        extra_template_paths=[str(_HERE / "templates")],
        exclude_output_prompt=True,
    )
    exporter.pages = pages
    return exporter


def _explain_unshown(executed: Any) -> None:
    """Put a line of text in the place of an output that a page shows in no form: a script, a control without its kernel; show
    the value of an expression that is a text without its quotes, and no empty one.
    """
    for cell in executed.cells:
        if "outputs" in cell:
            cell.outputs = [out for out in cell.outputs if out.get("data") != {"text/plain": "''"}]
        for output in cell.get("outputs", []):
            data = output.get("data")
            if data is not None and not set(data) & set(_SHOWN):
                kinds = ", ".join(sorted(data)) or "nothing"
                data["text/plain"] = f"(an output that only a live notebook shows: {kinds})"
            elif data is not None and output.output_type == "execute_result" and set(data) == {"text/plain"}:
                data["text/plain"] = _said(data["text/plain"])


def _said(text: str) -> str:
    """The value of an expression as a page shows it: a text without the quotes that Python writes around it.

    >>> _said("'nothing was published'"), _said("{'a': 1}")
    ('nothing was published', "{'a': 1}")
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, str) else text


def _page(report: Report, name: str, slides: bool) -> dict[str, Any]:
    """What the template shows of one notebook in addition to its cells."""
    entry = report.entries[name]
    order = sorted(report.entries)
    links = [
        {
            "name": other,
            "number": other.partition("_")[0],
            "title": report.entries[other].title,
            "file": f"{other}.html",
            "current": other == name,
        }
        for other in order
    ]
    position = order.index(name)
    return {
        "name": name,
        "title": entry.title,
        "slides": f"{name}.slides.html" if slides else "",
        "repeat": _repeat(report, entry),
        "run": f"{report.profile} · {report.dataset}",
        "policy": _POLICY,
        "links": links,
        "previous": links[position - 1] if position > 0 else None,
        "next": links[position + 1] if position + 1 < len(links) else None,
        "error": entry.error,
        "facts": _facts(entry),
        "headlines": [(record.name, _shown(record)) for record in entry.headlines],
        "provenance": _provenance(entry.provenance),
    }


def _repeat(report: Report, entry: Entry) -> str:
    """The command that executes the notebook again as it was; a view is added to it. Empty if the notebook takes no view."""
    if "view" not in entry.parameters:
        return ""
    words = [
        "workbench",
        "report",
        "--only",
        entry.name,
        "--profile",
        report.profile,
        "--dataset",
        report.dataset,
    ]
    for name, value in entry.parameters.items():
        if name == "seed":
            words += ["--seed", str(value)]
        elif name not in ("dataset", "profile", "view"):
            words += ["-p", f"{name}={value}"]
    return shlex.join(words)


def _facts(entry: Entry) -> list[tuple[str, str]]:
    commit = entry.provenance["commit"]
    facts = [(name, str(value)) for name, value in entry.parameters.items() if value not in UNSET]
    facts += [("run on", _date(entry.started)), ("took", _duration(entry.seconds))]
    if commit:
        facts.append(("commit", commit[:10] + (" with changes" if entry.provenance["dirty"] else "")))
    return facts


def _provenance(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested dictionaries as rows of a table, values as text."""
    rows = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            rows += _provenance(value, f"{prefix}{name} · ")
        else:
            rows.append(
                (prefix + name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
            )
    return rows


def _index_section(path: Path, report: Report) -> dict[str, Any]:
    entries = [report.entries[name] for name in sorted(report.entries)]
    failed = sum(entry.status == "failed" for entry in entries)
    parts = [f"{len(entries)} notebooks", f"{failed} failed" if failed else "all succeeded"]
    if entries:
        parts += [
            _duration(sum(entry.seconds for entry in entries)),
            _date(max(entry.started for entry in entries)),
        ]
    return {
        "profile": report.profile,
        "dataset": report.dataset,
        "folder": path.name,
        "lecture": f"{path.name}/{LECTURE}" if (path / LECTURE).is_file() else "",
        "summary": " · ".join(parts),
        "rows": [
            {
                "name": entry.name,
                "title": entry.title,
                "file": f"{path.name}/{entry.name}.html",
                "more": [
                    (kind, f"{path.name}/{entry.name}{ending}")
                    for kind, ending in (("slides", ".slides.html"), ("PDF", ".pdf"))
                    if (path / f"{entry.name}{ending}").is_file()
                ],
                "status": entry.status,
                "time": _duration(entry.seconds),
                "error": entry.error,
                "headlines": _headlines(entry.headlines),
            }
            for entry in entries
        ],
    }


def _headlines(records: Sequence[Record]) -> list[tuple[str, str]]:
    shown = [(record.name, _shown(record)) for record in records[:_MOST_HEADLINES]]
    left = len(records) - len(shown)
    return [*shown, ("", f"and {left} more")] if left else shown


def _shown(record: Record) -> str:
    text = _number(record.value)
    return f"{text} {record.unit}" if record.unit else text


def _number(value: Json) -> str:
    """A value for readers: four significant digits, thousands apart.

    >>> _number(0.123456), _number(1000209), _number(True)
    ('0.1235', '1,000,209', 'yes')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)


def _duration(seconds: float) -> str:
    """Seconds for readers.

    >>> _duration(3.21), _duration(125), _duration(7384)
    ('3.2 s', '2 min 5 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _date(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M} UTC"
