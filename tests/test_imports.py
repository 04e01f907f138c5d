"""Every room imports only what its row of the table allows, and only the room of widgets imports ipywidgets."""

import ast
from pathlib import Path

import pytest

import workbench

PACKAGE = Path(workbench.__file__).parent

BASE = frozenset(
    {"contracts", "registry", "runtime", "paths", "files", "loading", "source", "tensor_files", "visible"}
)
ROOMS: dict[str, frozenset[str]] = {
    "loading": frozenset(),
    "visible": frozenset(),
    "contracts": frozenset({"tensor_files"}),
    "tensor_files": frozenset({"files", "loading"}),
    "registry": frozenset({"loading"}),
    "runtime": frozenset(),
    "paths": frozenset(),
    "files": frozenset(),
    "chromium": frozenset(),
    "source": frozenset(),
    "lazy_imports": frozenset(),
    "data": BASE,
    "encoders": frozenset({"contracts", "registry", "runtime", "kernels"}),
    "text_encoders": frozenset({"contracts", "runtime", "paths", "files"}),
    "kernels": frozenset({"contracts", "runtime", "files"}),
    "similarities": frozenset({"contracts", "registry", "runtime", "kernels"}),
    "search": BASE | {"kernels", "similarities"},
    "retriever": BASE | {"encoders", "similarities"},
    "evaluation": frozenset({"contracts", "runtime", "data", "similarities", "search", "retriever"}),
    "training": BASE
    | {"data", "encoders", "text_encoders", "kernels", "similarities", "search", "retriever", "evaluation"},
    "models": BASE
    | {"data", "encoders", "text_encoders", "similarities", "search", "retriever", "evaluation", "training"},
    "front_door": BASE
    | {
        "data",
        "encoders",
        "similarities",
        "search",
        "retriever",
        "evaluation",
        "training",
        "models",
        "anatomy",
    },
    "baselines": frozenset({"contracts", "runtime", "data", "evaluation", "search"}),
    "bench": BASE
    | {
        "data",
        "encoders",
        "kernels",
        "similarities",
        "search",
        "retriever",
        "evaluation",
        "training",
        "models",
    }
    | {"reporting", "chromium"},
    "studies": BASE
    | {
        "data",
        "text_encoders",
        "similarities",
        "search",
        "retriever",
        "evaluation",
        "training",
        "models",
        "baselines",
        "bench",
    }
    | {"anatomy", "theory"},
    "theory": frozenset({"contracts", "runtime", "similarities"}),
    "anatomy": BASE | {"data", "similarities", "search", "retriever", "evaluation", "models"},
    "explore": frozenset(
        {
            "registry",
            "files",
            "chromium",
            "anatomy",
            "bench",
            "encoders",
            "evaluation",
            "lazy_imports",
            "search",
            "similarities",
            "studies",
            "theory",
            "visible",
        }
    ),
    "course": frozenset(),
    "reporting": frozenset({"paths", "files", "lazy_imports", "loading", "source", "visible", "chromium"}),
}
"""The table of the house: what of the package each room may import, besides itself. The command line (`cli`) may import
everything; `retriever.py` puts an item table, an encoder and a similarity together; encoders share the kernels' dropout;
training measures what it trains with the evaluation's protocols; the bench stores the reporting's record of machine and commit
with what it measured; the anatomy takes trained models apart, and the bench measures searchers, live, for the widgets of
explore, which draws parts in their registered colours; a study puts models, a protocol and a table together."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """`workbench/search/topk.py` and `workbench/runtime.py` belong to the rooms `search` and `runtime`."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(source: str, package: str) -> set[str]:
    """Full names of all that `source`, a module of `package`, imports: at its top, in functions, relatively."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                module = ".".join([*above, *filter(None, [node.module])])
                names |= {f"{module}.{alias.name}" for alias in node.names}
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(name)), *_]):
                names.add(name)
    return names


def rooms_imported(names: set[str]) -> set[str]:
    """Rooms of the package among imported names; `from workbench import __version__` is no room."""
    inside = {name.split(".")[1] for name in names if name.startswith("workbench.")}
    return {name for name in inside if not name.startswith("__")}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_what_the_table_allows(path):
    room = room_of(path)
    if room in ("__init__", "__main__", "cli"):
        return
    assert room in ROOMS, f"{room} is no room of the table; add its row here and in the architecture's table"
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    forbidden = rooms_imported(imported(path.read_text(encoding="utf-8"), package)) - ROOMS[room] - {room}
    assert not forbidden, f"{room} must not import {sorted(forbidden)}; it may import {sorted(ROOMS[room])}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_widgets_import_ipywidgets_and_nothing_imports_pickle(path):
    package = ".".join(path.relative_to(PACKAGE.parent).parent.parts)
    tops = {name.split(".")[0] for name in imported(path.read_text(encoding="utf-8"), package)}
    assert not tops & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "store_run"}
    of_widgets = path.parent.name == "explore" and path.stem.endswith(("widget", "widgets"))
    if not of_widgets:
        assert not tops & {"ipywidgets", "anywidget"}


def test_every_room_shows_what_it_may_import():
    for path in modules():
        relative = path.relative_to(PACKAGE)
        if relative.name == "__init__.py" and len(relative.parts) == 2:
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            assert docstring is not None and "ay import" in docstring, (
                f"{relative} must say what it may import"
            )


def test_the_table_has_no_circle():
    left = dict(ROOMS)
    while left:
        free = {room for room, needs in left.items() if not needs & left.keys()}
        assert free, f"these rooms import each other in a circle: {sorted(left)}"
        left = {room: needs for room, needs in left.items() if room not in free}


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import workbench.data.sequences", {"data"}),
        ("from workbench.search.topk import best", {"search"}),
        ("from workbench import encoders", {"encoders"}),
        ("from workbench import __version__", set()),
        ("def f():\n    from ..training import loop", {"training"}),
        ("from . import metrics\nfrom .ranks import rank_table", {"evaluation"}),
        ("import importlib\nimportlib.import_module('workbench.cli')", {"cli"}),
        ("import torch\nfrom dataclasses import replace", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(source, rooms):
    assert rooms_imported(imported(source, "workbench.evaluation")) == rooms


def test_only_files_py_renames_replaces_and_locks():
    """Each such place elsewhere would need its own care for a kill, a full disk and a second process."""
    found = []
    for path in modules():
        if path == PACKAGE / "files.py":
            continue
        for line in moves(path.read_text(encoding="utf-8")):
            found.append(f"{path.relative_to(PACKAGE)}:{line}")
    assert not found, f"use workbench.files: {', '.join(found)}"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import fcntl", [1]),
        ("from os import replace", [1]),
        ("import os\nos.replace(a, b)\nos.rename(a, b)", [2, 3]),
        ("import shutil\nshutil.move(a, b)\nshutil.rmtree(a)", [2, 3]),
        ("made.replace(path)\nmade.rename(path)\nmade.rename(target=path)", [1, 2, 3]),
        ("'a'.replace('a', 'b')\nreplace(config, seed=1)\ndataclasses.replace(config, seed=1)", []),
        ("table.rename(columns=names)\nwhen.replace(tzinfo=None)\ntable.replace({1: 2}, None)", []),
    ],
)
def test_moves_are_found(source, lines):
    assert moves(source) == lines


def moves(source: str) -> list[int]:
    """Lines that rename or replace a file, delete a folder, or lock: a call with one path, or of os, shutil, fcntl."""
    calls = {"os": {"rename", "renames", "replace"}, "shutil": {"move", "rmtree"}}
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=("os" | "shutil") as module), attr=name)):
                taken = name in calls[module]
            case ast.Call(func=ast.Attribute(attr="replace" | "rename"), args=given, keywords=named):
                taken = [k.arg for k in named] == ["target"] if not given else len(given) == 1 and not named
            case ast.Import(names=names):
                taken = any(alias.name == "fcntl" for alias in names)
            case ast.ImportFrom(module=("os" | "shutil" | "fcntl") as module, names=names):
                taken = module == "fcntl" or any(alias.name in calls[module] for alias in names)
            case _:
                taken = False
        if taken:
            lines.append(node.lineno)
    return sorted(lines)
