"""The examples in docstrings are true."""

import doctest
import importlib
import pkgutil

import pytest

import workbench

MODULES = sorted(info.name for info in pkgutil.walk_packages(workbench.__path__, "workbench."))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_examples_give_what_they_say(name, capsys):
    if name.endswith("_triton"):
        pytest.importorskip("triton")
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed, capsys.readouterr().out


def test_some_docstrings_hold_examples():
    found = doctest.DocTestFinder().find(importlib.import_module("workbench.evaluation.metrics"))
    assert sum(len(test.examples) for test in found) > 3
