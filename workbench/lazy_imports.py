"""Packages that are slow to import, imported when they are first used. Imports nothing of ours."""

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType

_GRAMMAR = "rfc3987_syntax"


def import_jsonschema() -> None:
    """Import jsonschema, without its grammar of web addresses until one is checked.

    nbformat, Jupyter and plotly's renderers import jsonschema, which builds the grammar as it is imported: this takes longer
    than all the rest of them, and nothing here checks such an address.
    """
    if {"jsonschema", _GRAMMAR} & sys.modules.keys() or find_spec(_GRAMMAR) is None:
        return

    def is_valid_syntax(term: str, value: str) -> bool:
        valid: bool = importlib.import_module(_GRAMMAR).is_valid_syntax(term, value)
        return valid

    stand_in = ModuleType(_GRAMMAR)
    vars(stand_in)["is_valid_syntax"] = is_valid_syntax
    sys.modules[_GRAMMAR] = stand_in
    try:
        importlib.import_module("jsonschema")
    finally:
        del sys.modules[_GRAMMAR]
