"""A study: one question, the models it needs, one table. Every study runs by name and keeps its table as CSV."""

import dataclasses
import shlex
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Union, final, get_args, get_origin

import pandas as pd

from workbench import paths
from workbench.data import Sequences, load
from workbench.models.model_store import TrainedModel, find_folder, load_or_train
from workbench.training.preset import Preset
from workbench.training.presets import preset


@dataclass(frozen=True)
class Models:
    """The trained models of a study: taken from `ckpts/`, or trained now if they are missing.

    `trained_only`: leave missing models out instead of training them. `metadata` goes into the cards of models that are
    trained. `note` receives a line for each model that is left out.
    """

    trained_only: bool = False
    device: str | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    note: Callable[[str], None] = print

    def find(self, chosen: Preset, sequences: Sequences, seed: int = 0) -> TrainedModel | None:
        """The model of a preset on a dataset; None if it is missing and missing models are left out."""
        if self.trained_only and find_folder(chosen, sequences, seed=seed) is None:
            self.note(f"{chosen.name}, seed {seed}, is not trained: left out")
            return None
        return load_or_train(chosen, sequences, seed=seed, metadata=dict(self.metadata), device=self.device)

    def require(self, chosen: Preset, sequences: Sequences, seed: int = 0) -> TrainedModel:
        """The model of a preset on a dataset.

        Raises ValueError if it is missing and missing models are left out.
        """
        found = self.find(chosen, sequences, seed)
        if found is None:
            raise ValueError(
                f"{chosen.name}, seed {seed}, is not trained and this study needs it;"
                f" run `workbench train {chosen.name}` first, or leave out --trained-only"
            )
        return found

    def labelled(
        self, names: Sequence[tuple[dict[str, str], str]]
    ) -> Iterator[tuple[dict[str, str], TrainedModel]]:
        """The models of presets by name, each on its own dataset and with its labels, missing ones left out."""
        for labels, name in names:
            chosen = preset(name)
            if (found := self.find(chosen, load(chosen.dataset))) is not None:
                yield labels, found


def none_trained(names: Sequence[str]) -> ValueError:
    """The error of a study if none of its models is trained."""
    return ValueError(f"none of {', '.join(names)} is trained: run `workbench train {names[0]}` first")


@dataclass(frozen=True)
class Study(ABC):
    """One question and the table that answers it. The fields of a subclass are its options, plain values with defaults.

    `name` is what `workbench study run` takes, `question` a sentence for readers, `minutes` how long training all of its
    models takes on two cores (0 if it trains none); the first line of the docstring describes the table.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    minutes: ClassVar[float] = 0

    @property
    def file(self) -> str:
        """The name of its CSV in `reports/tables`, without suffix: `name`, and the options that distinguish results."""
        return self.name

    @final
    @property
    def command(self) -> str:
        """What one types in a shell to run it with these options: those that are not the defaults."""
        values = {option.name: getattr(self, option.name) for option in dataclasses.fields(self)}
        defaults = {option.name: option.default for option in dataclasses.fields(self)}
        words = [f"{name}={written(value)}" for name, value in values.items() if value != defaults[name]]
        return shlex.join(["workbench", "study", "run", self.name, *words])

    def presets(self) -> tuple[str, ...]:
        """The presets of the models that it needs; those of other datasets, seeds or parts of users are not listed."""
        return ()

    @abstractmethod
    def table(self, models: Models) -> pd.DataFrame:
        """Compute the table."""

    @final
    def stored(self) -> pd.DataFrame | None:
        """The table that was last computed with these options, with its machine and commit; None if there is none."""
        path = paths.reports() / "tables" / f"{self.file}.csv"
        return pd.read_csv(path) if path.is_file() else None

    @final
    def missing(self) -> tuple[str, ...]:
        """Those of `presets` that are not trained (seed 0, each on its own dataset)."""
        return tuple(name for name in self.presets() if not _is_trained(preset(name)))


@dataclass(frozen=True)
class PresetsOnDataset(Study):
    """A study of trained `models`, presets, on one `dataset`."""

    dataset: str = "ml-1m"
    models: tuple[str, ...] = ("cpu/sasrec-dot", "cpu/sasrec-mol", "cpu/hstu-dot", "cpu/hstu-mol")

    @property
    def file(self) -> str:
        """One table per dataset, and one of its own for other presets than the usual."""
        chosen = () if self.models == type(self).models else self.models
        families = f"{self.name}/", f"{self.dataset}/"  # in the file's name already
        names = (
            name.removeprefix(families[0]).removeprefix(families[1]).replace("/", "-") for name in chosen
        )
        return "-".join([self.name, self.dataset, *names])

    def presets(self) -> tuple[str, ...]:
        """The models."""
        return self.models


def _is_trained(chosen: Preset) -> bool:
    try:
        return find_folder(chosen, load(chosen.dataset)) is not None
    except FileNotFoundError:  # its dataset is not prepared
        return False


_STUDIES: dict[str, type[Study]] = {}


def register(kind: type[Study]) -> type[Study]:
    """Add a study to those that run by name: a decorator.

    Raises TypeError if it lacks a name or a question, or an option has no default, and ValueError if its name is taken.
    """
    for attribute in ("name", "question"):
        if not getattr(kind, attribute, ""):
            raise TypeError(f"{kind.__name__} needs the class attribute {attribute!r}")
    for option in dataclasses.fields(kind):
        if option.default is dataclasses.MISSING:
            raise TypeError(f"option {option.name!r} of {kind.__name__} needs a default")
    if _STUDIES.get(kind.name, kind) is not kind:
        raise ValueError(f"there is a study {kind.name!r} already: {_STUDIES[kind.name].__name__}")
    _STUDIES[kind.name] = kind
    return kind


def studies() -> dict[str, type[Study]]:
    """All studies by name."""
    from workbench.studies import catalog  # imports the modules that register studies

    assert catalog
    return dict(sorted(_STUDIES.items()))


def study(name: str, options: Mapping[str, str] | None = None) -> Study:
    """The study of that name, its options read from text.

    Raises ValueError if there is no such study or option, or a value does not fit: it lists what there is.
    """
    known = studies()
    if name not in known:
        raise ValueError(f"no study {name!r}; there are {', '.join(known)}")
    kind = known[name]
    hints = typing.get_type_hints(kind)
    names = [option.name for option in dataclasses.fields(kind)]
    values: dict[str, Any] = {}
    for option, text in (options or {}).items():
        if option not in names:
            have = f"it has {', '.join(names)}" if names else "it has none"
            raise ValueError(f"study {name} has no option {option!r}; {have}")
        try:
            values[option] = _read(text, hints[option])
        except ValueError as error:
            raise ValueError(f"option {option} of study {name}: {error}") from None
    return kind(**values)


def written(value: object) -> str:
    """The value of an option as text, from which `study` reads it.

    >>> written(("a", "b")), written(None), written(0.5)
    ('a,b', 'none', '0.5')
    """
    if isinstance(value, tuple):
        return ",".join(map(written, value))
    return "none" if value is None else str(value)


def _read(text: str, kind: Any) -> Any:
    """A value of type `kind` from its text; items of a tuple are separated by commas."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return (
            None if text in ("", "none") else _read(text, next(a for a in inner if a is not types.NoneType))
        )
    if origin is Literal:
        if text not in inner:
            raise ValueError(f"must be one of {', '.join(map(str, inner))}, not {text!r}")
        return text
    if origin is tuple:
        return tuple(_read(part, inner[0]) for part in filter(None, text.split(",")))
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"must be {'a whole' if kind is int else 'a'} number, not {text!r}") from None
    return text
