"""What a packed file holds: by gzip, bzip2, zstd, xz or in a zip archive, and of a size that its own size makes plausible."""

import io
import lzma
import os
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from workbench.data.errors import DataError
from workbench.loading import reading

VARIABLE = "WORKBENCH_UNPACKED_LIMIT"
"""Environment variable: bytes that a file may unpack to, in place of the limits below."""
RATIO, SMALL, MOST = 200, 256 << 20, 16 << 30
"""A file may unpack to 200 times its size (tables of text: 3 to 20 times) or 256 MiB, whichever is more, and never to more
than 16 GiB."""
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
_XZ, _ZIP, _SHEETS = b"\xfd7zXZ\x00", b"PK\x03\x04", b"\xd0\xcf\x11\xe0"
_CHUNK = 1 << 24


class ArchiveError(DataError):
    """An archive that is damaged, incomplete, or made to do harm."""


def size_limit(packed: int) -> int:
    """Bytes that a file of `packed` bytes may unpack to. Raises ValueError if the environment variable is no such number."""
    given = os.environ.get(VARIABLE, "")
    if not given:
        return min(MOST, max(SMALL, RATIO * packed))
    if not given.isascii() or not given.isdigit() or int(given) < 1:
        raise ValueError(f"{VARIABLE} must be a number of bytes, such as {1 << 36}, not {given!r}")
    return int(given)


def too_large(path: Path, limit: int) -> ArchiveError:
    """The error for a file that unpacks to more than `limit` bytes."""
    return ArchiveError(
        f"{path} holds {path.stat().st_size:,} bytes and would unpack to more than the limit of {limit:,};"
        f" if you trust it, set {VARIABLE} to the bytes that it may take"
    )


class Bounded:
    """`source`, which unpacks the file `path`, as a stream that raises ArchiveError once more than `limit` bytes have come."""

    def __init__(self, source: Any, path: Path, limit: int) -> None:
        self._source, self._path, self._limit, self._left = source, path, limit, limit

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""
        content: bytes = self._source.read(min(size, self._left + 1))
        self._left -= len(content)
        if self._left < 0:
            raise too_large(self._path, self._limit)
        return content


@contextmanager
def unpacked(path: Path) -> Iterator[Any]:
    """A file open for reading in binary, unpacked if its first bytes say that it is packed by gzip, bzip2, zstd or xz."""
    with path.open("rb") as file:
        start = file.read(8)
    packed = next((kind for magic, kind in _PACKED.items() if start.startswith(magic)), None)
    if start.startswith(_XZ):
        with lzma.open(path) as stream:
            yield stream
    elif packed is None:
        with path.open("rb") as file:
            yield file
    else:
        with pa.input_stream(str(path), compression=packed) as stream:
            yield stream


def content_of(path: Path) -> bytes:
    """The whole content of a file, or of the one file in a zip archive, unpacked.

    Raises DataError if it is damaged, a spreadsheet, or an archive of several files, ArchiveError if it unpacks to more than
    `size_limit`.
    """
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_SHEETS):
        raise DataError(f"{path} is a spreadsheet; save it as CSV")
    if start.startswith(_ZIP):
        return _only_member(path)
    if not start.startswith((_XZ, *_PACKED)):
        return path.read_bytes()
    return _whole(unpacked(path), path)


def check_zip(path: Path) -> None:
    """Raise ArchiveError if the files in a zip archive unpack to more than `size_limit`; nothing if it is none."""
    if not zipfile.is_zipfile(path):
        return
    with reading(path, "get it again", DataError), zipfile.ZipFile(path) as archive:
        size = sum(info.file_size for info in archive.infolist())
    if size > (limit := size_limit(path.stat().st_size)):
        raise too_large(path, limit)


def _only_member(path: Path) -> bytes:
    with reading(path, "get it again", DataError), zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
    if "[Content_Types].xml" in names:
        raise DataError(f"{path} is a spreadsheet or document; save it as CSV")
    data = [name for name in names if not name.startswith("__MACOSX/") and not name.endswith(".DS_Store")]
    if len(data) != 1:
        listed = ", ".join(map(repr, data[:5])) or "none"
        raise DataError(f"{path} holds {len(data)} files ({listed}); unpack it and name one of them")
    return _whole(_member(path, data[0]), path)


@contextmanager
def _member(path: Path, name: str) -> Iterator[Any]:
    with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
        yield stream


def _whole(opened: AbstractContextManager[Any], path: Path) -> bytes:
    limit, content = size_limit(path.stat().st_size), io.BytesIO()
    with reading(path, "get it again", DataError), opened as stream:
        while content.tell() <= limit and (chunk := stream.read(_CHUNK)):
            content.write(chunk)
    if content.tell() > limit:
        raise too_large(path, limit)
    return content.getvalue()
