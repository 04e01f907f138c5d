"""Studies by name: registration and options."""

import shlex
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import pytest

from workbench import paths
from workbench.studies.study import Models, PresetsOnDataset, Study, register, studies, study


def test_every_study_has_a_question_and_a_docstring_and_no_two_write_the_same_table():
    known = studies()
    assert len(known) >= 15
    for name, kind in known.items():
        assert kind.name == name and kind.question.endswith("?") and kind.__doc__
    files = [kind().file for name, kind in known.items() if name != "seeds"]  # that one reads a dataset
    assert len(set(files)) == len(files)


def test_other_presets_than_the_usual_have_a_table_of_their_own():
    kinds = [kind for kind in studies().values() if issubclass(kind, PresetsOnDataset)]
    assert len(kinds) >= 4
    other = ("quick/hstu-dot", "fair/hstu-mol")
    for kind in kinds:
        usual = kind()
        chosen = [usual, kind(models=other), kind(models=other[:1]), kind(models=other, dataset="ml-10m")]
        assert len({study.file for study in chosen}) == len(chosen)
        assert kind(models=usual.models).file == f"{kind.name}-ml-1m"
    own = studies()["baselines"](dataset="books", models=("books/dot", "quick/hstu-mol"))  # type: ignore[call-arg]
    assert own.file == "baselines-books-dot-quick-hstu-mol"


def test_options_are_read_by_their_types():
    users = study("sparcode-users", {"models": "a/b,c/d", "dataset": "ml-10m", "seeds": "3"})
    assert (users.models, users.dataset, users.seeds) == (("a/b", "c/d"), "ml-10m", 3)  # type: ignore[attr-defined]
    assert users.file == "sparcode-users-ml-10m"
    assert study("sparcode-users", {"dataset": "none"}).dataset is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sparcode-users", {"models": "a/b,c/d", "dataset": "ml-10m", "seeds": "3"}),
        ("text", {"rates": "0.001,1e-05", "validation_queries": "none", "train_queries": "30"}),
        ("sparcode-deezer", {"folder": "two words/$HOME"}),
        ("baselines", {"methods": "item-CF,EASE^R", "models": ""}),
        ("seeds", {}),
    ],
)
def test_the_command_of_a_study_runs_it_with_its_options(name, options):
    chosen = study(name, options)
    program, group, run, named, *words = shlex.split(chosen.command)
    assert (program, group, run, named, len(words)) == ("workbench", "study", "run", name, len(options))
    assert study(named, dict(word.split("=", 1) for word in words)) == chosen


def test_a_study_without_a_question_or_with_an_option_without_default_is_refused():
    @dataclass(frozen=True)
    class Silent(Study):
        name: ClassVar[str] = "silent"

        def table(self, models: Models) -> pd.DataFrame:
            return pd.DataFrame()

    with pytest.raises(TypeError, match="Silent needs the class attribute 'question'"):
        register(Silent)

    @dataclass(frozen=True)
    class Open(Silent):
        question: ClassVar[str] = "?"
        width: int

    with pytest.raises(TypeError, match="option 'width' of Open needs a default"):
        register(Open)


def test_a_name_is_given_once():
    @dataclass(frozen=True)
    class Again(Study):
        name: ClassVar[str] = "sparcode-sparsity"
        question: ClassVar[str] = "?"

        def table(self, models: Models) -> pd.DataFrame:
            return pd.DataFrame()

    with pytest.raises(ValueError, match="there is a study 'sparcode-sparsity' already: Sparsity"):
        register(Again)


def test_the_stored_table_is_the_one_of_these_options(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "reports", lambda: tmp_path)
    (tmp_path / "tables").mkdir()
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "tables" / "sparcode-given-ml-1m-known-5.csv", index=False)
    assert study("sparcode-given").stored() is None
    assert study("sparcode-given", {"known": "5"}).stored() is not None
