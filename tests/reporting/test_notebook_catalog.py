"""Which notebooks a report is made of, and what they may be given."""

from typing import Any

import pytest

from workbench.reporting.notebooks import bind, catalog, select

REQUIRED = 'dataset = "embedded-small"\nprofile = "quick"\nseed = 0\n'


@pytest.fixture
def three(workshop: Any) -> Any:
    workshop.add(
        "00_tour",
        parameters=REQUIRED + "epochs = 3\nrate: float = 0.5\nks = [1, 10]\nname = 'x'\nfast = True\n",
    )
    workshop.add("01_preprocess", parameters=REQUIRED + "epochs = 5\n")
    workshop.add("10_scaling", after=["00_tour"])
    return workshop


def test_a_notebook_shows_what_it_takes(three: Any) -> None:
    first, second, last = catalog(three.notebooks)
    assert [first.name, second.name, last.name] == ["00_tour", "01_preprocess", "10_scaling"]
    assert first.title == "Notebook 00_tour"
    assert dict(first.parameters) == {
        "dataset": "embedded-small",
        "profile": "quick",
        "seed": 0,
        "epochs": 3,
        "rate": 0.5,
        "ks": [1, 10],
        "name": "x",
        "fast": True,
    }
    assert (first.after, last.after) == (None, ("00_tour",))


def test_other_files_are_no_part_of_it(three: Any) -> None:
    (three.notebooks / "scratch.ipynb").write_text("not even JSON", encoding="utf-8")
    assert len(catalog(three.notebooks)) == 3


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("dataset = 'a'\nprofile = 'b'\n", "does not set seed"),
        (REQUIRED + "import os\n", "line 4 of the parameters cell"),
        (REQUIRED + "rate = compute()\n", "default of parameter 'rate' is not a literal"),
    ],
)
def test_a_parameters_cell_is_literal_and_whole(workshop: Any, parameters: str, message: str) -> None:
    workshop.add("00_tour", parameters=parameters)
    with pytest.raises(ValueError, match=message):
        catalog(workshop.notebooks)


def test_a_second_parameters_cell_is_refused(workshop: Any) -> None:
    path = workshop.add("00_tour")
    source = path.with_suffix(".py")
    source.write_text(source.read_text() + '\n# %% tags=["parameters"]\nk = 1\n')
    from workbench.reporting import pairs

    pairs.write(source)
    with pytest.raises(ValueError, match="2 code cells tagged 'parameters'"):
        catalog(workshop.notebooks)


def test_what_is_not_in_order_is_named(workshop: Any) -> None:
    with pytest.raises(ValueError, match="no notebooks in"):
        catalog(workshop.notebooks)
    path = workshop.add("00_tour", after=["05_later"])
    with pytest.raises(ValueError, match="comes after 05_later"):
        catalog(workshop.notebooks)
    path.with_suffix(".py").unlink()
    with pytest.raises(ValueError, match="has no pair"):
        catalog(workshop.notebooks)
    path.with_suffix(".py").touch()
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="not a notebook"):
        catalog(workshop.notebooks)


def test_notebooks_are_chosen_by_number_or_name(three: Any) -> None:
    every = catalog(three.notebooks)
    assert select(every, []) == every
    assert [notebook.name for notebook in select(every, ["10_scaling", "00", "00"])] == [
        "00_tour",
        "10_scaling",
    ]


def test_an_unknown_notebook_names_the_known(three: Any) -> None:
    with pytest.raises(
        ValueError, match=r"no notebook '01_preproces' \(did you mean '01_preprocess'\?\)"
    ) as error:
        select(catalog(three.notebooks), ["01_preproces"])
    assert "there are: 00_tour, 01_preprocess, 10_scaling" in str(error.value)


def test_parameters_go_to_the_notebooks_that_take_them(three: Any) -> None:
    given = {"epochs": "7", "rate": "1", "ks": "[5]", "name": "7", "fast": "False"}
    assert bind(catalog(three.notebooks), given) == {
        "00_tour": {"epochs": 7, "rate": 1.0, "ks": [5], "name": "7", "fast": False},
        "01_preprocess": {"epochs": 7},
        "10_scaling": {},
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"epoch": "7"},
            r"no parameter 'epoch' \(did you mean 'epochs'\?\); there are: epochs, fast, ks, name, rate",
        ),
        ({"epochs": "many"}, r"parameter epochs of 00_tour is a whole number \(default 3\), got 'many'"),
        ({"epochs": "2.5"}, "is a whole number"),
        ({"epochs": "true"}, "is a whole number"),
        ({"rate": "fast"}, "is a number"),
        ({"fast": "1"}, "is true or false"),
        ({"seed": "1"}, "give --seed instead"),
        ({"dataset": "x"}, "give --dataset instead"),
    ],
)
def test_unknown_and_unfit_parameters_are_refused(three: Any, given: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bind(catalog(three.notebooks), given)


def test_notebooks_without_parameters_of_their_own_say_so(three: Any) -> None:
    with pytest.raises(ValueError, match="these notebooks take none"):
        bind(select(catalog(three.notebooks), ["10"]), {"epochs": "1"})
