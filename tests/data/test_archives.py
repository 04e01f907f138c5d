import gzip
import io
import stat
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.data.archives import MARK, ArchiveError, unpack

FILES = ("ratings.csv", "movies.csv")
GOOD = {"ml/ratings.csv": b"1,2,3\n" * 1000, "ml/movies.csv": b"2,Heat\n", "ml/README": b"read me"}


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, content)
    return path


def make_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as file:
        for name, content in members.items():
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def make_tar_gz(path, members):
    return make_tar(path, members, "w:gz")


MAKERS = pytest.mark.parametrize("make", [make_zip, make_tar, make_tar_gz])


def refused(archive, folder, message, files=FILES, limit=1 << 20):
    """The archive is refused, and neither the folder nor anything next to it is written."""
    before = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    with pytest.raises(ArchiveError, match=message) as error:
        unpack(archive, folder, files, limit)
    assert str(archive) in str(error.value)
    assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before
    assert not list(folder.parent.glob(".*partial*"))


@MAKERS
def test_expected_files_are_unpacked_and_others_stay(tmp_path, make):
    folder = unpack(make(tmp_path / "archive", GOOD), tmp_path / "out" / "ml", FILES, 1 << 20)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MARK} == {
        "ratings.csv": GOOD["ml/ratings.csv"],
        "movies.csv": GOOD["ml/movies.csv"],
    }
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ml"]


@MAKERS
def test_unpacking_again_replaces(tmp_path, make):
    folder = tmp_path / "ml"
    archive = make(tmp_path / "archive", GOOD)
    unpack(archive, folder, FILES, 1 << 20)
    (folder / "ratings.csv").write_bytes(b"damaged")
    unpack(archive, folder, FILES, 1 << 20)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, MARK])
    assert (folder / "ratings.csv").read_bytes() == GOOD["ml/ratings.csv"]


@MAKERS
def test_unpacking_never_deletes_what_is_not_a_copy(tmp_path, make):
    folder = tmp_path / "ml"
    folder.mkdir()
    archive = make(folder / "mine.zip", GOOD)
    with pytest.raises(ValueError, match=r"would be replaced while .*mine.zip in it is read; move that file"):
        unpack(archive, folder, FILES, 1 << 20)
    assert archive.exists()
    elsewhere = archive.rename(tmp_path / "mine.zip")
    (folder / "ratings.csv").write_text("my own")
    with pytest.raises(ValueError, match=r"ml holds ratings.csv, not written by this program"):
        unpack(elsewhere, folder, FILES, 1 << 20)
    assert (folder / "ratings.csv").read_text() == "my own"


def test_one_file_may_come_packed_by_gzip_or_plain(tmp_path):
    for archive, content in (
        (tmp_path / "a.csv.gz", gzip.compress(b"a,b\n")),
        (tmp_path / "a.csv", b"a,b\n"),
    ):
        archive.write_bytes(content)
        folder = unpack(archive, tmp_path / "out", ("a.csv",), 1000)
        assert (folder / "a.csv").read_bytes() == b"a,b\n"


@MAKERS
@pytest.mark.parametrize(
    "name",
    [
        "../ratings.csv",
        "ml/../../ratings.csv",
        "/ratings.csv",
        "..\\ratings.csv",
        "C:\\ratings.csv",
        "C:/ratings.csv",
        "..",
    ],
)
def test_names_that_lead_out_are_refused(tmp_path, make, name):
    archive = make(tmp_path / "archive", GOOD | {name: b"evil"})
    refused(archive, tmp_path / "out" / "ml", "leads out of the archive's folder; refused")
    folder = tmp_path / "kept"
    unpack(make(tmp_path / "good", GOOD), folder, FILES, 1 << 20)
    refused(archive, folder, "leads out of the archive's folder")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, kind):
    info = zipfile.ZipInfo("ml/ratings.csv")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    archive = make_zip(tmp_path / "a.zip", {info: b"/etc/passwd", "ml/movies.csv": b""})
    refused(archive, tmp_path / "ml", "ratings.csv is a link or a device; refused")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    info = tarfile.TarInfo("ml/ratings.csv")
    info.type = kind
    info.linkname = "/etc/passwd"
    archive = make_tar(tmp_path / "a.tar", {"ml/movies.csv": b"", info: b""})
    refused(archive, tmp_path / "ml", "ratings.csv is a link or a device; refused")


@MAKERS
def test_bombs_are_refused(tmp_path, make):
    archive = make(tmp_path / "archive", {"ml/movies.csv": b"", "ml/ratings.csv": bytes(10_000_000)})
    refused(archive, tmp_path / "ml", "would unpack to more than the limit of 1,048,576;")
    hidden = make(tmp_path / "hidden", {"ml/huge": bytes(10_000_000)} | GOOD)
    refused(hidden, tmp_path / "ml", "would unpack to more than the limit")


def test_a_bomb_of_gzip_is_stopped_while_it_unpacks(tmp_path):
    archive = tmp_path / "ratings.csv.gz"
    archive.write_bytes(gzip.compress(b"1" * 10_000_000))
    refused(
        archive, tmp_path / "ml", "would unpack to more than the limit of 1,048,576", files=("ratings.csv",)
    )


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    content = bytes(10_000_000)
    archive = make_zip(tmp_path / "a.zip", {"ml/ratings.csv": content, "ml/movies.csv": b""})
    size = len(content).to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(size, (100).to_bytes(4, "little")))
    refused(archive, tmp_path / "ml", "is damaged or incomplete")


@MAKERS
def test_truncated_archives_are_refused(tmp_path, make):
    archive = make(tmp_path / "archive", GOOD)
    whole = archive.read_bytes()
    for kept in (len(whole) // 2, 30, 0):
        archive.write_bytes(whole[:kept])
        refused(archive, tmp_path / "ml", "is damaged|neither a zip nor a tar|lacks")


def test_a_zip_with_a_flipped_byte_is_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", GOOD)
    content = bytearray(archive.read_bytes())
    content[len("PK") + 28 + len("ml/ratings.csv") + 12] ^= 255
    archive.write_bytes(content)
    refused(archive, tmp_path / "ml", "is damaged or incomplete")


def test_a_truncated_gzip_or_zip_of_one_file_is_refused(tmp_path):
    archive = tmp_path / "ratings.csv.gz"
    archive.write_bytes(gzip.compress(bytes(range(256)) * 50)[:-20])
    refused(archive, tmp_path / "ml", "is damaged or incomplete", files=("ratings.csv",))
    whole = make_zip(tmp_path / "a.zip", {"ratings.csv": b"1,2\n" * 100}).read_bytes()
    archive.write_bytes(whole[:-30])
    refused(archive, tmp_path / "ml", "is a zip archive without its end", files=("ratings.csv",))


def test_an_encrypted_zip_is_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", GOOD)
    content = bytearray(archive.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 8] |= 1
    archive.write_bytes(content)
    refused(archive, tmp_path / "ml", r"README is encrypted|ratings\.csv is encrypted")


@MAKERS
def test_missing_and_repeated_members_are_named(tmp_path, make):
    archive = make(tmp_path / "a", {"ml/ratings.csv": b""})
    refused(archive, tmp_path / "ml", r"lacks movies\.csv")
    archive = make(tmp_path / "b", GOOD | {"other/ratings.csv": b"evil"})
    refused(archive, tmp_path / "ml", r"holds ratings\.csv twice \(other/ratings\.csv\)")


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "page.html").write_text("<html>not found</html>")
    refused(tmp_path / "page.html", tmp_path / "ml", "neither a zip nor a tar archive")
    with pytest.raises(FileNotFoundError):
        unpack(tmp_path / "none.zip", tmp_path / "ml", FILES, 100)


segments = st.sampled_from(["..", ".", "", "a", "ratings.csv", "C:", "\\", "~", "a\\..", "/"])


@given(st.lists(segments, min_size=1, max_size=5), st.booleans())
def test_no_name_ever_writes_outside(tmp_path_factory, parts, absolute):
    base = tmp_path_factory.mktemp("walk")
    name = ("/" if absolute else "") + "/".join(parts)
    archive = make_tar(base / "a.tar", {name: b"content"})
    folder = base / "deep" / "out"
    try:
        unpack(archive, folder, ("ratings.csv",), 100)
    except ArchiveError:
        assert not folder.exists()
    outside = [path for path in base.rglob("*") if path.is_file() and folder not in path.parents]
    assert outside == [archive]
