"""From an address, an archive or a folder to a prepared dataset under `data/`."""

import hashlib
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from dataclasses import replace as changed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from workbench import files, paths
from workbench.data import EMBEDDED, storage
from workbench.data.archives import mark, raw_kind, unpack
from workbench.data.catalog import CATALOG, Dataset
from workbench.data.columns import ColumnNames
from workbench.data.download import Checksum, DownloadError, download, fetch_text
from workbench.data.interactions import Interactions
from workbench.data.own import read_own
from workbench.data.prepare import Preparation, Prepared, Stage, prepare
from workbench.data.readers import stored


@dataclass(frozen=True)
class Fetched:
    """A folder with a dataset's files, and remarks on it that the reader of the command line should see."""

    folder: Path
    remarks: tuple[str, ...] = ()


def raw_folder(dataset: Dataset) -> Path:
    """The folder of a dataset's unpacked files: `data/raw/<name>`."""
    return paths.data() / "raw" / dataset.name


def fetch(dataset: Dataset, source: Path | None = None, *, progress: bool = True) -> Fetched:
    """The dataset's files in `data/raw/<name>`: downloaded, or taken from a local archive or folder.

    Existing files are kept if no `source` is given. A download must agree with the published checksum; a local archive that
    does not is taken with a remark, since `prepare` compares the counts anyway. The archive of a download is removed once it
    is unpacked. Raises FileNotFoundError, DownloadError, ArchiveError, BlockingIOError if another process fetches it, and
    OSError if the disk is full.
    """
    folder = raw_folder(dataset)
    if source is None:
        if not _missing(folder, dataset):
            return Fetched(folder, (f"{folder} holds {dataset.name} already",))
        files.check_folder(folder, raw_kind(dataset.files), {})
        archive = paths.data() / "raw" / dataset.archive
        with files.lock(archive):
            checksum = dataset.checksum or _published_checksum(dataset)
            download(dataset.addresses, archive, size=dataset.size, checksum=checksum, progress=progress)
            unpack(archive, folder, dataset.files, dataset.unpacked)
            archive.unlink()
        unchecked = f"no checksum is published for {dataset.archive}: it could not be verified"
        return Fetched(folder, () if checksum else (unchecked,))
    if source.is_file():
        unpack(source, folder, dataset.files, dataset.unpacked)
        return Fetched(folder, _remarks_on_archive(source, dataset))
    found = find_files(source, dataset)
    if found.resolve() == folder.resolve():
        return Fetched(folder, (f"{folder} holds {dataset.name} already",))
    with files.new_folder(folder, raw_kind(dataset.files), {}, sources=[found]) as new:
        for name in dataset.files:
            file = stored(found, name)
            shutil.copyfile(file, new / file.name)
        mark(new, found)
    return Fetched(folder)


def locate(dataset: Dataset, source: Path | None = None) -> Fetched:
    """A folder with the dataset's files, for reading: `source` if it is a folder, else `data/raw/<name>`.

    A `source` that is an archive is unpacked there first; nothing is downloaded.
    Raises FileNotFoundError that names the command which fetches the dataset, and ArchiveError.
    """
    if source is None:
        folder = raw_folder(dataset)
        if missing := _missing(folder, dataset):
            raise FileNotFoundError(
                f"{folder} lacks {', '.join(missing)}: run `workbench data fetch {dataset.name}` first,"
                " or give a local copy with --from PATH"
            )
        return Fetched(folder)
    return fetch(dataset, source) if source.is_file() else Fetched(find_files(source, dataset))


def find_files(folder: Path, dataset: Dataset) -> Path:
    """`folder`, or the one folder in it, that holds the dataset's files. Raises FileNotFoundError."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; --from takes an archive or a folder")
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    whole = [candidate for candidate in (folder, *inside) if not _missing(candidate, dataset)]
    if not whole:
        missing = ", ".join(_missing(folder, dataset))
        raise FileNotFoundError(f"{folder} lacks {missing}: it is not an unpacked copy of {dataset.title}")
    return whole[0]


def build(
    name: str, folder: Path, preparation: Preparation | None = None, *, replace: bool = False
) -> Prepared:
    """A public dataset read from `folder`, prepared, and written to `data/<name>`.

    Without a `preparation` the one of the published runs is taken. `meta.json` keeps it, the counts of every
    stage, size and SHA-256 of each source file, and this package's version. A dataset of another preparation or other
    source files is replaced only with `replace`.
    Raises DataError for what cannot be read, ValueError, before it reads, if `data/<name>` must not be replaced, and
    BlockingIOError if another process prepares it.
    """
    dataset = CATALOG[name]
    sources = [stored(folder, file) for file in dataset.files]
    return _build(
        name, lambda: dataset.read(folder), preparation or dataset.preparation, sources, {}, replace
    )


def build_own(
    name: str,
    table: Path,
    items: Path | None = None,
    preparation: Preparation | None = None,
    columns: ColumnNames | None = None,
    *,
    encoding: str = "utf-8",
    replace: bool = False,
) -> Prepared:
    """One's own interactions (see `own.read_own`), prepared, and written to `data/<name>`.

    A dataset of another preparation or other files is replaced only with `replace`.
    Raises ValueError for a name that is taken or unfit for a folder, or if `data/<name>` must not be replaced; DataError for
    what cannot be read; BlockingIOError if another process prepares it.
    """
    if (
        name in CATALOG
        or name in EMBEDDED
        or name == "raw"
        or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name)
    ):
        raise ValueError(
            f"{name!r} cannot name a dataset of your own: choose lower-case letters, digits, '.', '_' and '-',"
            " and no name of the catalogue (`workbench data list`)"
        )
    sources = [table] if items is None else [table, items]

    def read() -> Interactions:
        return read_own(table, items, columns, encoding=encoding)

    reading = {
        "columns": {k: v for k, v in asdict(columns or ColumnNames()).items() if v is not None},
        "encoding": "" if encoding == "utf-8" else encoding,
    }
    given = {name: value for name, value in reading.items() if value}
    return _build(name, read, preparation or Preparation(), sources, given, replace)


def comparison(dataset: Dataset, stages: tuple[Stage, ...]) -> pd.DataFrame:
    """The dataset's counts next to the published ones: one row per published number.

    Columns: `stage`, `count` (users, items, catalogue, interactions), `here`, `published`, `source`.
    """
    at = {"as read": stages[0], "prepared": stages[-1]}
    rows = [
        (published.stage, count, getattr(at[published.stage], count), stated, published.source)
        for published in dataset.published
        for count in ("users", "items", "catalogue", "interactions")
        if (stated := getattr(published, count)) is not None
    ]
    return pd.DataFrame(rows, columns=["stage", "count", "here", "published", "source"])


def _build(
    name: str,
    read: Callable[[], Interactions],
    preparation: Preparation,
    sources: list[Path],
    reading: dict[str, Any],
    replace: bool,
) -> Prepared:
    folder = paths.data() / name
    made_from: dict[str, Any] = reading | {
        "preparation": asdict(preparation),
        "sources": {
            str(file.relative_to(path.parent)): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
            for path in sources
            for file in sorted([path, *path.rglob("*")])
            if file.is_file()
        },
    }
    settings = storage.settings_in(made_from)
    replaced = files.check_folder(folder, storage.DATASET, settings, sources=sources, replace=replace)
    with files.lock(folder):
        prepared = prepare(read(), name, preparation)
        meta = made_from | {
            "stages": [asdict(stage) for stage in prepared.stages],
            "remarks": list(prepared.remarks),
            "package": f"retrieval-workbench {version('retrieval-workbench')}",
        }
        storage.save(prepared.sequences, folder, meta, sources=sources, replace=replace)
    if replaced:
        return changed(prepared, remarks=(*prepared.remarks, f"replaced {replaced}"))
    return prepared


def _missing(folder: Path, dataset: Dataset) -> list[str]:
    return [name for name in dataset.files if not stored(folder, name).is_file()]


def _published_checksum(dataset: Dataset) -> Checksum | None:
    """The MD5 published next to the archive; None if there is none."""
    if dataset.checksum_address is None:
        return None
    try:
        found = re.search(r"\b[0-9a-f]{32}\b", fetch_text(dataset.checksum_address).lower())
    except DownloadError:
        return None
    return Checksum("md5", found[0]) if found else None


def _remarks_on_archive(archive: Path, dataset: Dataset) -> tuple[str, ...]:
    if dataset.checksum is None or dataset.checksum.matches(archive):
        return ()
    return (f"{archive} is not the published archive byte for byte ({dataset.checksum.algorithm} differs)",)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
