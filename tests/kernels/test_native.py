"""Compiling on demand: once, atomically, by several processes at a time, and never an error if that is impossible."""

import ctypes
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from workbench.kernels import mixture, mixture_native, native

COMPILER = next(filter(None, map(shutil.which, ["c++", "g++", "clang++"])), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler here")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" int answer() { return 42; }\n')
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache"
    monkeypatch.setenv("WORKBENCH_CACHE", str(path))
    monkeypatch.delenv("WORKBENCH_NATIVE", raising=False)
    return path


@needs_compiler
def test_a_source_is_compiled_once_and_again_where_it_changes(source, folder):
    first = native.built(source, folder)
    stamp = first.stat().st_mtime_ns
    assert ctypes.CDLL(str(first)).answer() == 42
    assert native.built(source, folder) == first and first.stat().st_mtime_ns == stamp
    source.write_text(source.read_text().replace("42", "43"))
    second = native.built(source, folder)
    assert second != first and ctypes.CDLL(str(second)).answer() == 43
    source.write_text('#include "number.h"\nextern "C" int answer() { return NUMBER; }\n')
    for number in (44, 45):
        source.with_name("number.h").write_text(f"#define NUMBER {number}\n")
        assert ctypes.CDLL(str(native.built(source, folder))).answer() == number
    assert {p.suffix for p in folder.iterdir()} == {".so", ".sha256"}  # nothing half done stays
    assert folder.stat().st_mode & 0o077 == 0


@needs_compiler
@pytest.mark.parametrize("damage", ["cut", "flipped", "no digest"])
def test_a_library_that_is_not_as_it_was_written_is_compiled_again(source, folder, damage):
    library = native.built(source, folder)
    whole = library.read_bytes()
    if damage == "cut":  # to load it would end the process
        library.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        library.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    else:
        library.with_suffix(".sha256").unlink()
    assert native.built(source, folder) == library
    assert library.read_bytes() == whole


@needs_compiler
def test_several_processes_at_once_compile_one_library(source, folder, tmp_path):
    calls = tmp_path / "calls"
    compiler = tmp_path / "counting"
    compiler.write_text(f'#!/bin/sh\necho call >> {calls}\nexec {COMPILER} "$@"\n')
    compiler.chmod(0o755)
    program = (
        "import ctypes, sys; from pathlib import Path; from workbench.kernels import native;"
        "print(native.library(Path(sys.argv[1])).answer())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(source)],
            stdout=subprocess.PIPE,
            env={**os.environ, "CXX": str(compiler)},
            text=True,
        )
        for _ in range(3)
    ]
    assert [process.communicate(timeout=100)[0].strip() for process in started] == ["42"] * 3
    assert calls.read_text().splitlines() == ["call"]


@pytest.mark.parametrize(
    ("compiler", "message"),
    [("no-such-compiler", "there is no C\\+\\+ compiler here"), ("false", "failed: exit status 1")],
)
def test_without_a_working_compiler_the_log_reports_it(
    source, folder, monkeypatch, caplog, compiler, message
):
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(native.Unavailable, match=message):
        native.built(source, folder)
    with caplog.at_level(logging.WARNING):
        assert native.library(source) is None
        assert native.library(source) is None
    assert [
        r.getMessage().startswith("answer.cpp is not used, and the slower torch") for r in caplog.records
    ] == [True]


@needs_compiler
def test_an_error_of_the_compiler_is_quoted(source, folder):
    source.write_text("this is no program\n")
    with pytest.raises(native.Unavailable, match="error:"):
        native.built(source, folder)
    assert not list(folder.iterdir())


def test_a_folder_that_others_may_write_to_is_not_used(source, folder):
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(native.Unavailable, match="can be written by others; set WORKBENCH_CACHE"):
        native.built(source, folder)


def test_a_folder_that_cannot_be_made_is_no_error(source, folder, caplog):
    folder.write_text("a file")
    assert native.library(source) is None
    assert "the slower torch version is" in caplog.text


def test_it_can_be_turned_off(source, folder, monkeypatch):
    monkeypatch.setenv("WORKBENCH_NATIVE", "0")
    assert native.library(source) is None
    assert not folder.exists()


def test_where_libraries_are_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("WORKBENCH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.cache_folder() == tmp_path / "retrieval-workbench"
    monkeypatch.setenv("WORKBENCH_CACHE", "~/elsewhere")
    assert native.cache_folder() == Path.home() / "elsewhere"


def test_without_the_library_torch_serves(folder, monkeypatch):
    f, g = torch.randn(2, 2, 4), torch.randn(5, 3, 4)
    gate = mixture.MixtureGate((), "sum")
    with_it = mixture.mixture_scores(f, None, g, None, gate)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("WORKBENCH_CACHE", str(folder / "empty"))  # where the first call put nothing
    monkeypatch.setattr(mixture_native, "_library", lambda: native.library.__wrapped__(mixture_native.SOURCE))
    assert not mixture_native.available()
    torch.testing.assert_close(mixture.mixture_scores(f, None, g, None, gate), with_it, atol=1e-5, rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize("flags", ["-mno-avx512f -mno-avx512vl", "-march=x86-64 -mno-avx"])
def test_processors_with_narrower_vectors_get_the_same_scores(tmp_path, monkeypatch, flags):
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        pytest.skip("the instruction sets of x86")
    usual = native._flags()
    monkeypatch.setattr(native, "_flags", lambda: [*usual, *flags.split()])
    narrow = ctypes.CDLL(str(native.built(mixture_native.SOURCE, tmp_path / "cache")))
    randn = torch.Generator().manual_seed(0)
    f, g = torch.randn(3, 5, 19, generator=randn), torch.randn(70, 3, 19, generator=randn)
    p, h = 15, 21
    layers = [
        (torch.randn(h, p, generator=randn), torch.randn(h, generator=randn)),
        (torch.randn(p, h, generator=randn), torch.randn(p, generator=randn)),
    ]
    of_query, of_item = torch.randn(3, p, generator=randn), torch.randn(70, p, generator=randn)
    for combination in mixture_native.COMBINATIONS:
        expected = mixture.plain_scores(
            f, of_query, g, of_item, mixture.MixtureGate(tuple(layers), combination)
        )
        with monkeypatch.context() as patch:
            patch.setattr(mixture_native, "_library", lambda: narrow)
            found = mixture_native.mixture_scores(f, of_query, g, of_item, layers, combination)
            owners, rows = torch.arange(3).repeat_interleave(25), torch.arange(75) % 70
            pairs = mixture_native.mixture_scores(
                f, of_query, g, of_item, layers, combination, rows, owners=owners
            )
            assert torch.equal(pairs, found[owners, rows])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
