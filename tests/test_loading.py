"""Whatever is wrong with a file, the error is one line that names it."""

import errno
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.loading import from_json, one_line, read_csv, read_json, read_tensors, reading

ADVICE = "get it again"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("epoch"), "'epoch' is missing"),
        (TypeError("an int\nis no list"), "an int is no list"),
        (RecursionError("maximum"), "nested too deeply"),
        (OSError(errno.EINVAL, "Invalid argument"), "Invalid argument"),  # of a seek: it names no file
        (OSError("Couldn't deserialize thrift"), "thrift"),  # Arrow's: it has no number
        (OverflowError("x" * 5000), "x…"),
        (EOFError(), "EOFError"),
        (MemoryError(), "more memory than there is"),
    ],
)
def test_any_failure_is_one_line_that_names_the_file(tmp_path, error, words):
    with pytest.raises(ValueError, match=ADVICE) as caught, reading(tmp_path / "a.bin", ADVICE):
        raise error
    text = str(caught.value)
    assert str(tmp_path / "a.bin") in text and words in text
    assert "\n" not in text and len(text) < 600


def test_errors_of_the_system_pass(tmp_path):
    with pytest.raises(PermissionError, match="no entry"), reading(tmp_path / "a", ADVICE):
        raise PermissionError(errno.EACCES, "no entry", "a")
    with pytest.raises(FileNotFoundError), reading(tmp_path / "a", ADVICE):
        (tmp_path / "a").read_bytes()
    with (
        pytest.raises(ValueError, match="is damaged"),
        reading(tmp_path, ADVICE),
    ):  # a folder that lacks a file
        (tmp_path / "a").read_bytes()


@pytest.mark.parametrize(
    "content",
    [b"{", b"", b"\xff\xfe\x00", b"[1]", b"3", b"[" * 100_000, b'{"a": ' * 100_000, b'{"a": ' + b"9" * 9999],
)
def test_damaged_json_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is damaged .*get it again"):
        read_json(path, ADVICE)


@dataclass(frozen=True)
class Inner:
    width: int = 1

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, not {self.width}")


@dataclass(frozen=True)
class Outer:
    rate: float = 0.0
    widths: tuple[int, ...] = ()
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)


def test_values_of_json_become_a_dataclass():
    values = json.loads('{"rate": 1, "widths": [3, 4], "limit": null, "inner": {"width": 2}}')
    assert from_json(Outer, values) == Outer(1.0, (3, 4), None, Inner(2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"limit": 8.0}, "limit.*integer"),
        ({"limit": True}, "limit.*integer"),
        ({"rate": "fast"}, "rate.*number"),
        ({"widths": [1, "a"]}, r"widths\.1.*integer"),
        ({"inner": {"width": 0}}, "inner: width must be at least 1, not 0"),
        ({"inner": {"depth": 0}}, r"inner\.depth"),
        ({"unknown": 0}, "unknown"),
        ([], "object"),
        (None, "object"),
    ],
)
def test_values_of_other_types_are_named(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_json(Outer, values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "a\n1\n", "a,b\n1,x\n", "a,b\n1\x00,2\n", 'a,b\n"1,2\n', "a,b\n1.5,2\n", "a,b\n1e300,2\n"]
)
def test_a_damaged_csv_table_is_named(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_text("a,b,c\n1,2,x\n")
    assert read_csv(path, {"a": "int64", "b": "float64"}, ADVICE).columns.tolist() == ["a", "b", "c"]
    path.write_text(content)
    with pytest.raises(ValueError, match=r"a\.csv is damaged .*get it again"):
        read_csv(path, {"a": "int64", "b": "float64"}, ADVICE)


def test_damaged_tensors_are_named(tmp_path):
    import safetensors.torch

    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.ones(3)}, path, metadata={"b": "c"})
    tensors, metadata = read_tensors(path, ADVICE)
    assert tensors["a"].tolist() == [1, 1, 1] and metadata == {"b": "c"}
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for size in generator.integers(0, len(whole), 20):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a\.safetensors is damaged"):
            read_tensors(path, ADVICE)
    with pytest.raises(FileNotFoundError):
        read_tensors(Path(tmp_path / "none"), ADVICE)


def test_long_words_of_a_parser_are_cut():
    assert len(one_line(ValueError("y" * 10_000))) == 300
