"""The parts of a retriever by name: one registration gives class, settings, title and colour. May import loading."""

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from workbench.loading import from_json

ENTRY_POINTS = "workbench.parts"
"""The group of entry points under which an installed package names its modules that register parts."""


@runtime_checkable
class Settings(Protocol):
    """The settings of a part: a frozen dataclass with the name of its kind, which checkpoints store."""

    kind: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """A registered part: `settings`, and the class or function `made` that builds it from them.

    `title` names it in a sentence ("Mixture-of-Logits"), `label` in tables and legends ("MoL"). Figures draw it in `color`
    (CSS; "": one by the spelling of its label) and with `marks` (plotly's dash of a line, symbol of a point, pattern of a bar).
    """

    settings: type[Any]
    made: Callable[..., Any]
    title: str
    label: str
    color: str = ""
    marks: tuple[str, str, str] | None = None

    @property
    def kind(self) -> str:
        """The name in checkpoints."""
        return self.settings.kind


Made = TypeVar("Made", bound=Callable[..., Any])


class Registry(Mapping[str, Part]):
    """Parts of one sort (`what`: "encoder", "similarity", "searcher") by kind; each is built as a `base`.

    A registered class or function is called as `made(settings, …)`, with those arguments of `offered` that it names.
    On loading a retriever its parts are first built on torch's meta device, to compare their sizes with the weights before
    anything is allocated: an `__init__` must not look into its tensors.
    """

    def __init__(self, what: str, base: type, offered: tuple[str, ...]) -> None:
        self.what, self._base, self._offered = what, base, offered
        self._parts: dict[str, Part] = {}

    def __getitem__(self, kind: str) -> Part:
        """The part of this kind; ValueError that lists the kinds if there is none."""
        if kind not in self._parts:
            load_entry_points()
        if kind not in self._parts:
            raise ValueError(
                f"unknown {self.what} {kind!r}; this version has {', '.join(sorted(self))}. Import the module"
                " that registers it (on the command line: --import MODULE)"
            )
        return self._parts[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def register(
        self,
        settings: type[Any],
        *,
        title: str,
        label: str = "",
        color: str = "",
        marks: tuple[str, str, str] | None = None,
    ) -> Callable[[Made], Made]:
        """A decorator that registers a class, or a function that builds one, under `settings.kind`; see `Part`.

        `label` is the title if it is not given. Registering the same class again replaces it, so that a cell of a notebook
        can run twice. Raises ValueError if the title is empty, the settings are no frozen dataclass with a `kind`, the class
        does not derive from the sort's base class or needs an argument that is never passed, or another class has the kind.
        """
        kind = getattr(settings, "kind", None)
        name = settings.__name__
        if not dataclasses.is_dataclass(settings) or not settings.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise ValueError(f"{name} must be a frozen dataclass: decorate it with @dataclass(frozen=True)")
        if not isinstance(kind, str) or not kind:
            raise ValueError(f'{name} needs the name of its kind: kind: ClassVar[str] = "…"')
        if not title:
            raise ValueError(f"{self.what} {kind!r} needs a title")

        def decorate(made: Made) -> Made:
            self._check_class(kind, made)
            known = self._parts.get(kind)
            if known and (known.made.__module__, known.made.__qualname__) != (
                made.__module__,
                made.__qualname__,
            ):
                raise ValueError(
                    f"{self.what} {kind!r} is already {known.made.__module__}.{known.made.__qualname__}: choose another kind"
                )
            self._parts[kind] = Part(settings, made, title, label or title, color, marks)
            return made

        return decorate

    def _check_class(self, kind: str, made: Callable[..., Any]) -> None:
        if isinstance(made, type) and not issubclass(made, self._base):
            raise ValueError(f"{self.what} {kind!r}: {made.__name__} must derive from {self._base.__name__}")
        for parameter in list(inspect.signature(made).parameters.values())[1:]:
            if parameter.default is parameter.empty and parameter.name not in self._offered:
                raise ValueError(
                    f"{self.what} {kind!r}: {made.__name__} may take its settings, then any of"
                    f" {', '.join(self._offered)}; {parameter.name} is none of them"
                )

    def build(self, settings: Settings, **given: Any) -> Any:
        """The object that `settings` describe; ValueError if the kind is unknown or an argument of its class is None."""
        made = self[settings.kind].made
        named = dict(list(inspect.signature(made).parameters.items())[1:])
        chosen = {name: value for name, value in given.items() if name in named}
        if missing := [
            n for n, v in chosen.items() if v is None and named[n].default is inspect.Parameter.empty
        ]:
            raise ValueError(f"{made.__name__} needs {', '.join(missing)}")
        return made(settings, **chosen)

    def to_dict(self, settings: Settings) -> dict[str, Any]:
        """Plain values for JSON, the kind among them; `from_dict` reads them."""
        return dataclasses.asdict(settings) | {"kind": settings.kind}

    def from_dict(self, values: Any) -> Any:
        """The settings that `to_dict` gave; ValueError if a kind or a field is unknown, or of another type."""
        kind = values.get("kind") if isinstance(values, dict) else None
        if not isinstance(kind, str):
            raise ValueError(f"unknown {self.what} {kind!r}; this version has {', '.join(sorted(self))}")
        settings = self[kind].settings
        fields = {f.name for f in dataclasses.fields(settings)}
        if unknown := sorted(set(values) - fields - {"kind"}):
            raise ValueError(
                f"{self.what} {kind!r} has no setting {', '.join(unknown)}; it has {', '.join(sorted(fields))}"
            )
        try:
            return from_json(settings, {k: v for k, v in values.items() if k != "kind"})
        except ValueError as error:
            raise ValueError(f"{self.what} {kind!r}: {error}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown name: the names that are close to it, or "".

    >>> did_you_mean("cpu/hstu-mil", ["cpu/hstu-mol", "cpu/sasrec-dot"])
    ': did you mean cpu/hstu-mol?'
    """
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f": did you mean {' or '.join(close)}?" if close else ""


@cache
def load_entry_points() -> None:
    """Import, once, the modules that installed packages name in the group `workbench.parts`."""
    for entry in entry_points(group=ENTRY_POINTS):
        entry.load()


def import_parts(module: str) -> None:
    """Import a module that registers parts: a dotted name, looked up in the current folder too, or the path of a `.py` file.

    Raises FileNotFoundError if there is no such file, ImportError if there is no such module.
    Raises ValueError if another module of the file's name is loaded already.
    """
    path = Path(module)
    if path.suffix != ".py":
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.insert(0, here)
        importlib.import_module(module)
        return
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} to import")
    if path.stem in sys.modules and getattr(sys.modules[path.stem], "__file__", None) == str(path.resolve()):
        return
    if path.stem in sys.modules:
        raise ValueError(f"{path}: a module called {path.stem} is loaded already; rename the file")
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = loaded
    try:
        spec.loader.exec_module(loaded)
    except BaseException:
        del sys.modules[path.stem]
        raise
