"""Optional packages: there, missing, or there and of no use."""

import logging
from pathlib import Path

import pytest

from workbench import runtime


def test_a_package_that_is_missing_is_none() -> None:
    assert runtime.optional("no_such_package") is None
    assert runtime.optional("json") is not None


def test_a_package_whose_library_cannot_be_loaded_is_left_out_and_logged_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "built_for_another.py").write_text("raise OSError('libother.so: undefined symbol')\n")
    monkeypatch.syspath_prepend(tmp_path)
    runtime._warn_unusable.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert runtime.optional("built_for_another") is None
        assert runtime.optional("built_for_another") is None
    assert caplog.messages == [
        "built_for_another is installed but cannot be loaded, and is left out: libother.so: undefined symbol"
    ]


def test_a_required_package_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "optional", lambda name: None)
    with pytest.raises(ImportError, match=r"faiss is not installed; install it with: pip install"):
        runtime.require("faiss")
