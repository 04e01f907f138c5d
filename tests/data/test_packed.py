"""Packed files that unpack to far more than their size: refused in one line, unless the user allows it."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from workbench.data import packed
from workbench.data.archives import unpack
from workbench.data.own import read_own
from workbench.data.packed import ArchiveError
from workbench.data.readers import _expansion_part
from workbench.models.import_rails import import_rails

TABLE = b"user,item\n" + b"1,2\n" * 50_000


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", content)
    return file.getvalue()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: pa.compress(content, codec="zstd", asbytes=True),
    "zip": zipped,
}


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits for files of some kilobytes."""
    monkeypatch.setattr(packed, "SMALL", 100_000)
    monkeypatch.delenv(packed.VARIABLE, raising=False)


@pytest.mark.parametrize("kind", PACKERS)
def test_a_bomb_is_refused_in_one_line_and_read_by_who_trusts_it(
    tmp_path: Path, kind: str, small_limits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "orders.csv"
    path.write_bytes(PACKERS[kind](TABLE))
    assert packed.RATIO * path.stat().st_size < len(TABLE)
    with pytest.raises(ArchiveError) as error:
        read_own(path)
    message = str(error.value)
    assert message.startswith(
        f"{path} holds {path.stat().st_size:,} bytes and would unpack to more than the limit"
    )
    assert packed.VARIABLE in message
    assert message.isprintable()
    monkeypatch.setenv(packed.VARIABLE, str(len(TABLE)))
    assert len(read_own(path).table) == 50_000


@pytest.mark.parametrize("kind", PACKERS)
def test_what_packs_as_text_does_is_read(tmp_path: Path, kind: str, small_limits: None) -> None:
    numbers = np.random.default_rng(0).integers(10**6, size=(20_000, 2))
    path = tmp_path / "orders.csv"
    path.write_bytes(PACKERS[kind](b"user,item\n" + b"".join(b"%d,%d\n" % tuple(row) for row in numbers)))
    assert len(read_own(path).table) == 20_000


def test_the_limit_is_a_number_of_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "orders.csv"
    path.write_bytes(gzip.compress(TABLE))
    for wrong in ("0", "-1", "1e9", "8G", "²"):
        monkeypatch.setenv(packed.VARIABLE, wrong)
        with pytest.raises(ValueError, match=f"{packed.VARIABLE} must be a number of bytes"):
            read_own(path)


def test_size_limits() -> None:
    assert packed.size_limit(1) == packed.SMALL
    assert packed.size_limit(10**7) == packed.RATIO * 10**7
    assert packed.size_limit(10**12) == packed.MOST


def test_an_archive_is_held_to_the_smaller_of_both_limits(
    tmp_path: Path, small_limits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zipped(TABLE))
    with pytest.raises(ArchiveError, match="more than the limit of 100,000"):
        unpack(archive, tmp_path / "out", ("a.csv",), 1 << 30)
    monkeypatch.setenv(packed.VARIABLE, str(len(TABLE)))
    assert (unpack(archive, tmp_path / "out", ("a.csv",), 10) / "a.csv").read_bytes() == TABLE


def test_a_bomb_in_the_names_of_a_tar_is_stopped(tmp_path: Path, small_limits: None) -> None:
    archive = tmp_path / "a.tar.gz"
    header = tarfile.TarInfo("name")
    header.type, header.size = tarfile.XHDTYPE, 100_000_000
    with gzip.open(archive, "wb") as file:
        file.write(header.tobuf())
        file.write(bytes(100_000_000))
    with pytest.raises(ArchiveError, match="would unpack to more than the limit"):
        unpack(archive, tmp_path / "out", ("a.csv",), 1 << 30)


def test_bombs_among_arrays_and_weights(tmp_path: Path, small_limits: None) -> None:
    np.savez_compressed(tmp_path / "part.npz", np.zeros((100_000, 2), dtype=np.int64))
    with pytest.raises(ArchiveError, match="would unpack to more than the limit"):
        _expansion_part(tmp_path / "part.npz")
    (tmp_path / "model.pt").write_bytes(zipped(TABLE))
    with pytest.raises(ArchiveError, match="would unpack to more than the limit"):
        import_rails(tmp_path / "model.pt")
