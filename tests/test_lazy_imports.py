"""jsonschema is imported without its grammar of web addresses, and checks addresses all the same."""

import subprocess
import sys

import pytest

CHECKED = """
import sys
from workbench.lazy_imports import import_jsonschema
import_jsonschema()
assert "jsonschema" in sys.modules and "rfc3987_syntax" not in sys.modules
from jsonschema import Draft7Validator, FormatChecker
validator = Draft7Validator({"format": "iri"}, format_checker=FormatChecker())
assert validator.is_valid("https://example.org/ä")
assert not validator.is_valid("https://[")
assert "rfc3987_syntax" in sys.modules
"""
WITHOUT = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name == "rfc3987_syntax" else find(name, *rest)
from workbench.lazy_imports import import_jsonschema
import_jsonschema()
from jsonschema import FormatChecker
assert "iri" not in FormatChecker.checkers
"""
FIGURES = "import sys, workbench.explore.figures; assert 'rfc3987_syntax' not in sys.modules"


@pytest.mark.parametrize("code", [CHECKED, WITHOUT, FIGURES], ids=["checked", "without", "figures"])
def test_the_grammar_is_built_only_when_an_address_is_checked(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
