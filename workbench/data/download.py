"""Downloads that resume, fall back to mirrors, and are verified before they take their name."""

import errno
import hashlib
import http.client
import json
import re
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from workbench import files

_CHUNK = 1 << 20
_ATTEMPTS = 3
_AGENT = "retrieval-workbench"
_MARGIN = 64 << 20
_NETWORK = (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException)


class DownloadError(OSError):
    """A file that no address delivered completely; the message gives the reason for each address."""


@dataclass(frozen=True)
class Checksum:
    """A digest that the publisher, or a well-known loader of the dataset, states for a file.

    Raises ValueError if `digest` is not a lower-case hex digest of the algorithm's length.
    """

    algorithm: Literal["md5", "sha256"]
    digest: str

    def __post_init__(self) -> None:
        length = {"md5": 32, "sha256": 64}[self.algorithm]
        if not re.fullmatch(rf"[0-9a-f]{{{length}}}", self.digest):
            raise ValueError(f"{self.digest!r} is no {self.algorithm} digest (lower-case hex)")

    def matches(self, path: Path) -> bool:
        """Whether the file has this digest."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, self.algorithm).hexdigest() == self.digest


class _NoSpace(OSError):
    """The disk is too small for what is to come; nothing was written for it."""


class _Failed(Exception):
    """The reason that one address failed; `fresh` requests one more try without the bytes downloaded so far."""

    def __init__(self, reason: str, fresh: bool = False):
        super().__init__(reason)
        self.fresh = fresh


def download(
    addresses: tuple[str, ...],
    target: Path,
    *,
    size: int | None = None,
    checksum: Checksum | None = None,
    limit: int = 64 << 30,
    timeout: float = 30.0,
    progress: bool = True,
) -> Path:
    """`target`, downloaded from the first of `addresses` (http or https) that delivers it whole and unharmed.

    Bytes collect in `<target>.partial`, which an interrupted download leaves behind and the next one continues: with a Range
    request, or from the start if the server does not support it or the file there has changed. The file takes its name only
    after `size` (bytes) and `checksum` agree; one that is there already and agrees is not fetched again. No more than `limit`
    bytes are ever accepted. The caller holds the lock of `target`. Raises DownloadError if every address fails, OSError if
    the disk is full (the partial file is removed), and ValueError for an address of another kind.
    """
    if wrong := [address for address in addresses if not address.startswith(("http://", "https://"))]:
        raise ValueError(f"not an http(s) address: {wrong[0]}")
    if target.is_file() and _complaint(target, size, checksum) is None:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(target.with_name(target.name + ".partial"), checksum is not None)
    if size is not None:
        _require_space(target, size - partial.size())
    reasons: list[str] = []
    for address in addresses:
        try:
            _deliver(address, partial, size, checksum, limit, timeout, progress)
            files.swap(partial.path, target)
            partial.forget()
            return target
        except _Failed as failure:
            reasons.append(f"{address}: {failure}")
        except OSError as error:
            if error.errno == errno.ENOSPC and not isinstance(error, _NoSpace):
                partial.remove()
                raise OSError(
                    errno.ENOSPC, f"the disk is full: {target} could not be downloaded; free some space"
                ) from error
            raise
    raise DownloadError(
        f"{target.name} could not be downloaded; a copy from elsewhere is taken with --from PATH:\n  "
        + "\n  ".join(reasons)
    )


def fetch_text(address: str, timeout: float = 30.0, limit: int = 1 << 16) -> str:
    """A small text file from an http(s) address, such as a published checksum. Raises DownloadError."""
    try:
        with _open(address, {}, timeout) as response:
            text: bytes = response.read(limit)
    except (_Failed, *_NETWORK) as error:
        raise DownloadError(f"{address}: {error}") from None
    return text.decode("utf-8", errors="replace")


@dataclass(frozen=True)
class _Partial:
    """The partial file, with its origin stored next to it: bytes of two versions must not be joined.

    A checksum, if there is one, would detect a mix, so bytes may then come from any address.
    """

    path: Path
    checked: bool

    @property
    def origin(self) -> Path:
        return self.path.with_name(self.path.name + ".origin")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def headers(self, address: str) -> dict[str, str]:
        """The request headers that continue this file from `address`; none if it must start again."""
        if self.size() == 0:
            return {}
        wanted = {"Range": f"bytes={self.size()}-"}
        try:
            origin = json.loads(self.origin.read_text(encoding="utf-8"))
            validator = origin["validator"] if origin["address"] == address else None
        except (OSError, ValueError, KeyError, TypeError):
            validator = None
        if isinstance(validator, str) and validator:
            return wanted | {"If-Range": validator}
        return wanted if self.checked else {}

    def remember(self, address: str, validator: str | None) -> None:
        files.write_text(json.dumps({"address": address, "validator": validator}), self.origin)

    def forget(self) -> None:
        self.origin.unlink(missing_ok=True)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.forget()


def _deliver(
    address: str,
    partial: _Partial,
    size: int | None,
    checksum: Checksum | None,
    limit: int,
    timeout: float,
    progress: bool,
) -> None:
    """Bring the partial file to its end and verify it, trying an address again while that gets it further."""
    for attempt in range(1, _ATTEMPTS + 1):
        before = partial.size()
        try:
            if before == 0 or before != size:
                _transfer(address, partial, size, limit, timeout, progress)
            complaint = _complaint(partial.path, size, checksum)
            if complaint is None:
                return
            raise _Failed(complaint, fresh=True)
        except _Failed as failure:
            again = before > 0 if failure.fresh else partial.size() > before
            if failure.fresh:
                partial.remove()
            if attempt == _ATTEMPTS or not again:
                raise


def _transfer(
    address: str, partial: _Partial, size: int | None, limit: int, timeout: float, progress: bool
) -> None:
    """Append what `address` sends to the partial file, or overwrite it if it sends the whole file."""
    headers = partial.headers(address)
    try:
        with _open(address, headers, timeout) as response:
            start = _start(response, partial.size() if headers else 0)
            total = _total(response, start)
            if size is not None and total is not None and total != size:
                raise _Failed(f"offers {total:,} bytes where {size:,} are published")
            if (total or 0) > limit:
                raise _Failed(f"offers {total:,} bytes, more than the limit of {limit:,}")
            if size is None and total is not None:
                _require_space(partial.path, total - start)
            if start == 0:
                partial.remember(address, _validator(response))
            received = _copy(
                response, partial.path, start, min(size or total or limit, limit), total, progress
            )
    except _Finished:
        return
    except _NETWORK as error:
        raise _Failed(f"{type(error).__name__}: {error}") from None
    if total is not None and received < total:
        raise _Failed(f"broke off after {received:,} of {total:,} bytes")


class _Finished(Exception):
    """The server has nothing beyond the bytes at hand."""


def _open(address: str, headers: dict[str, str], timeout: float) -> Any:
    request = urllib.request.Request(
        address, headers={"User-Agent": _AGENT, "Accept-Encoding": "identity", **headers}
    )
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            end = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
            if error.code == 416 and end and headers.get("Range") == f"bytes={end[1]}-":
                raise _Finished from None
            raise _Failed(f"HTTP {error.code} {error.reason}", fresh=error.code == 416) from None
    if not response.geturl().startswith(("http://", "https://")):
        response.close()
        raise _Failed(f"redirects to {response.geturl()}")
    return response


def _start(response: Any, requested: int) -> int:
    """The offset at which the response begins: 0 if the server sends the whole file."""
    if response.status != 206:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != requested:
        raise _Failed("responds with a different range than requested", fresh=True)
    return requested


def _total(response: Any, start: int) -> int | None:
    length = response.headers.get("Content-Length")
    return start + int(length) if length is not None and length.isdigit() else None


def _validator(response: Any) -> str | None:
    """A strong ETag or the modification date, for If-Range, which checks that the file is unchanged."""
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _copy(response: Any, path: Path, start: int, most: int, total: int | None, progress: bool) -> int:
    """Write the answer from offset `start` on; the size of the file then. More than `most` bytes are refused."""
    written = start
    with (
        path.open("r+b" if start else "wb") as file,
        tqdm(
            total=total,
            initial=start,
            desc=path.name.removesuffix(".partial"),
            unit="B",
            unit_scale=True,
            disable=not progress,
        ) as bar,
    ):
        if start:
            file.seek(start)
            file.truncate()
        read: Callable[[int], bytes] = response.read
        while chunk := read(_CHUNK):
            written += len(chunk)
            if written > most:
                raise _Failed(f"sends more than {most:,} bytes")
            file.write(chunk)
            bar.update(len(chunk))
    return written


def _complaint(path: Path, size: int | None, checksum: Checksum | None) -> str | None:
    """What is wrong with a finished file, or None."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"{found:,} bytes where {size:,} are published"
    if checksum is not None and not checksum.matches(path):
        return f"its {checksum.algorithm} is not the published one ({checksum.digest}): damaged or another version"
    return None


def _require_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed + _MARGIN > free:
        raise _NoSpace(
            errno.ENOSPC,
            f"{path.name} needs {needed:,} more bytes in {path.parent}, where {free:,} are free; free some space",
        )
