"""Unpacking archives from elsewhere: the expected files and nothing else, of bounded size, never outside a folder."""

import errno
import json
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from workbench.data.packed import VARIABLE, ArchiveError, Bounded, size_limit, too_large, unpacked
from workbench.files import Kind, new_folder

_CHUNK = 1 << 20
_RECORDS = 1 << 20
"""Bytes that the names, padding and end of a tar archive may take."""
MARK = ".workbench.json"


class _Readable(Protocol):
    """A binary file open for reading."""

    def read(self, size: int, /) -> bytes: ...


def unpack(archive: Path, folder: Path, files: tuple[str, ...], limit: int) -> Path:
    """`folder`, holding `files` of a zip, tar or gzip archive (or the one plain file that `archive` is).

    A member is taken for its last name, whatever folder it lies in; members that are not expected stay
    packed. `folder` is replaced whole or not at all, and only if this function made it (see `raw_kind`).
    Raises ValueError if `folder` must not be replaced. Raises ArchiveError if the archive is damaged or encrypted, holds an
    absolute name, a name that leaves its folder, a link or a device, lacks one of `files` or holds it twice, or unpacks to
    more than `limit` bytes or than its size makes plausible (see `packed`), by what it declares or by what comes out.
    """
    plausible = size_limit(archive.stat().st_size)
    limit = plausible if VARIABLE in os.environ else min(limit, plausible)
    with new_folder(folder, raw_kind(files), {}, sources=[archive]) as new:
        with _explained(archive):
            if zipfile.is_zipfile(archive):
                members = _zip_members(archive)
            elif _is_tar(archive, limit):
                members = _tar_members(archive, limit)
            else:
                members = _single_file(archive, files)
            _extract(archive, members, new, frozenset(files), limit)
        mark(new, archive)
    return folder


def raw_kind(files: tuple[str, ...]) -> Kind:
    """A folder of copies of a dataset's `files`, recognised by the marker that `mark` puts there."""
    return Kind(
        "copy of a dataset's files",
        (*files, *(f"{file}.gz" for file in files), MARK),
        lambda folder: {} if (folder / MARK).is_file() else None,
    )


def mark(folder: Path, source: Path) -> None:
    """Mark a folder of copies as replaceable; `source` is their origin."""
    (folder / MARK).write_text(json.dumps({"copied from": source.name}) + "\n", encoding="utf-8")


def _extract(
    archive: Path,
    members: Iterator[tuple[str, int, _Readable]],
    folder: Path,
    files: frozenset[str],
    limit: int,
) -> None:
    left = promised = limit
    taken: set[str] = set()
    for name, declared, content in members:
        promised -= declared
        if promised < 0:
            raise too_large(archive, limit)
        base = PurePosixPath(name).name
        if base not in files:
            continue
        if base in taken:
            raise ArchiveError(f"{archive}: holds {base} twice ({name})")
        taken.add(base)
        with (folder / base).open("xb") as target:
            while chunk := content.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise too_large(archive, limit)
                target.write(chunk)
    if missing := files - taken:
        raise ArchiveError(f"{archive}: lacks {', '.join(sorted(missing))}")


def _zip_members(archive: Path) -> Iterator[tuple[str, int, _Readable]]:
    """Every file of a zip archive, after all its names and kinds were found harmless."""
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            _require_harmless(archive, info.orig_filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ArchiveError(f"{archive}: {info.filename} is a link or a device; refused")
            if info.flag_bits & 1:
                raise ArchiveError(f"{archive}: {info.filename} is encrypted")
        for info in file.infolist():
            if not info.is_dir():
                with file.open(info) as content:
                    yield info.filename, info.file_size, content


@contextmanager
def _tar(archive: Path, limit: int) -> Iterator[tarfile.TarFile]:
    """A tar archive, packed or not, as a stream of at most `limit` bytes and what its own records take."""
    with unpacked(archive) as stream:
        bounded: Any = Bounded(stream, archive, limit + _RECORDS)
        with tarfile.open(fileobj=bounded, mode="r|") as file:
            yield file


def _is_tar(archive: Path, limit: int) -> bool:
    try:
        with _tar(archive, limit):
            return True
    except (tarfile.ReadError, EOFError, OSError, lzma.LZMAError):
        return False


def _tar_members(archive: Path, limit: int) -> Iterator[tuple[str, int, _Readable]]:
    """Every file of a tar archive, each checked as it comes: nothing is written outside the temporary folder."""
    with _tar(archive, limit) as file:
        for info in file:
            _require_harmless(archive, info.name)
            if not (info.isreg() or info.isdir()):
                raise ArchiveError(f"{archive}: {info.name} is a link or a device; refused")
            content = file.extractfile(info) if info.isreg() else None
            if content is not None:
                with content:
                    yield info.name, info.size, content


def _single_file(archive: Path, files: tuple[str, ...]) -> Iterator[tuple[str, int, _Readable]]:
    """A file, packed or not, that is used as the one expected file."""
    if len(files) != 1:
        raise ArchiveError(f"{archive} is neither a zip nor a tar archive, or is damaged at its start or end")
    with archive.open("rb") as file:
        start = file.read(4)
    if start == b"PK\x03\x04":
        raise ArchiveError(f"{archive} is a zip archive without its end; get it again")
    with unpacked(archive) as content:
        yield files[0], 0, content


def _require_harmless(archive: Path, name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts or "\0" in name:
        raise ArchiveError(f"{archive}: the name {name!r} leads out of the archive's folder; refused")


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        raise ArchiveError(
            f"{archive} is damaged or incomplete ({error}); get it again"
        ) from error  # a seek into nowhere
    except NotImplementedError as error:
        raise ArchiveError(f"{archive} is packed in a way that is not supported: {error}") from error
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,
    ) as error:
        raise ArchiveError(f"{archive} is damaged or incomplete ({error}); get it again") from error
