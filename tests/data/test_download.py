import errno
import hashlib
import json
import shutil

import pytest

from workbench.data.download import Checksum, DownloadError, download, fetch_text

CONTENT = bytes(range(256)) * 5_000  # 1.28 MB: more than one chunk
SHA = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())
MD5 = Checksum("md5", hashlib.md5(CONTENT).hexdigest())
OTHER = CONTENT[::-1]


@pytest.fixture
def target(tmp_path):
    return tmp_path / "raw" / "data.zip"


def fetch(addresses, target, **options):
    return download(tuple(addresses), target, progress=False, **options)


def left(target):
    """What lies in the target's folder, except for the note on where a partial file came from."""
    return sorted(path.name for path in target.parent.iterdir() if not path.name.endswith(".origin"))


@pytest.mark.parametrize(
    "checks", [{}, {"size": len(CONTENT)}, {"checksum": SHA}, {"checksum": MD5, "size": len(CONTENT)}]
)
def test_a_good_file_arrives_once(site, target, checks):
    address = site.serve("/data.zip", CONTENT)
    assert fetch([address], target, **checks) == target
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    fetch([address], target, **checks)
    assert len(site.requests) == 1


def test_a_file_that_is_there_but_damaged_is_fetched_again(site, target):
    target.parent.mkdir()
    target.write_bytes(OTHER)
    fetch([site.serve("/data.zip", CONTENT)], target, checksum=SHA)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ({"checksum": SHA}, "its sha256 is not the published one"),
        ({"checksum": MD5}, "its md5 is not the published one"),
        ({"size": 7}, "offers 1,280,000 bytes where 7 are published"),
        ({"limit": 1_000}, "offers 1,280,000 bytes, more than the limit of 1,000"),
    ],
)
def test_a_corrupt_file_never_takes_the_name(site, target, checks, message):
    with pytest.raises(DownloadError, match=message):
        fetch([site.serve("/data.zip", OTHER)], target, **checks)
    assert left(target) == []
    assert len(site.requests) == 1


def test_too_much_without_a_stated_length_is_refused(site, target):
    address = site.serve("/data.zip", CONTENT, length=False)
    with pytest.raises(DownloadError, match="sends more than 1,000 bytes"):
        fetch([address], target, limit=1_000)
    assert not target.exists()
    with pytest.raises(DownloadError, match="sends more than 9 bytes"):
        fetch([address], target, size=9)


def test_a_truncated_file_never_takes_the_name_and_is_continued_later(site, target):
    address = site.serve("/data.zip", CONTENT, cuts=[600_000, 0, 0])
    with pytest.raises(
        DownloadError, match=r"broke off after 600,000 of 1,280,000 bytes.*--from PATH|--from PATH"
    ):
        fetch([address], target, checksum=SHA)
    assert left(target) == ["data.zip.partial"]
    site.pages["/data.zip"].cuts.clear()
    fetch([address], target, checksum=SHA)
    assert target.read_bytes() == CONTENT
    assert site.asked("Range")[-1] == "bytes=600000-"
    assert site.asked("If-Range")[-1] == '"v1"'
    assert list(target.parent.iterdir()) == [target]


def test_an_answer_that_breaks_off_is_continued_at_once(site, target):
    address = site.serve("/data.zip", CONTENT, cuts=[500_000, 300_000])
    fetch([address], target)
    assert target.read_bytes() == CONTENT
    assert site.asked("Range") == [None, "bytes=500000-", "bytes=800000-"]


def test_a_truncated_answer_without_a_length_is_found_by_size_or_checksum(site, target):
    address = site.serve("/data.zip", CONTENT, length=False, cuts=[1_000] * 9)
    with pytest.raises(DownloadError, match="1,000 bytes where 1,280,000 are published"):
        fetch([address], target, size=len(CONTENT))
    with pytest.raises(DownloadError, match="its sha256 is not"):
        fetch([address], target, checksum=SHA)
    assert left(target) == []


def test_a_server_that_ignores_ranges_sends_all_again(site, target):
    address = site.serve("/data.zip", CONTENT, ranges=False, cuts=[600_000])
    fetch([address], target, checksum=SHA)
    assert target.read_bytes() == CONTENT
    assert site.asked("Range") == [None, "bytes=600000-"]


def test_a_server_that_ignores_ranges_and_breaks_off_ends_in_an_error(site, target):
    address = site.serve("/data.zip", CONTENT, ranges=False, cuts=[600_000] * 20)
    with pytest.raises(DownloadError, match="broke off after 600,000"):
        fetch([address], target)
    assert not target.exists()


def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_one(site, target):
    address = site.serve("/data.zip", OTHER, cuts=[600_000, 0])
    with pytest.raises(DownloadError):
        fetch([address], target)
    site.serve("/data.zip", CONTENT, etag='"v2"')
    fetch([address], target)
    assert target.read_bytes() == CONTENT
    assert site.asked("If-Range")[-1] == '"v1"'


def test_without_checksum_and_validator_a_download_starts_again(site, target):
    address = site.serve("/data.zip", CONTENT, etag=None, cuts=[600_000, 0])
    with pytest.raises(DownloadError):
        fetch([address], target)
    assert left(target) == ["data.zip.partial"]
    fetch([address], target)
    assert target.read_bytes() == CONTENT
    assert set(site.asked("Range")) == {None}


def test_a_mirror_continues_what_another_began_where_a_checksum_guards_it(site, target):
    first = site.serve("/first.zip", CONTENT, cuts=[600_000, 0])
    second = site.serve("/second.zip", CONTENT)
    fetch([first, second], target, checksum=SHA)
    assert target.read_bytes() == CONTENT
    assert site.requests[-1][0] == "/second.zip"
    assert site.asked("Range")[-1] == "bytes=600000-"


def test_without_a_checksum_a_mirror_starts_again(site, target):
    first = site.serve("/first.zip", OTHER, cuts=[600_000, 0])
    fetch([first, site.serve("/second.zip", CONTENT)], target)
    assert target.read_bytes() == CONTENT
    assert site.asked("Range")[-1] is None


def test_a_corrupt_beginning_is_thrown_away(site, target):
    target.parent.mkdir()
    target.with_name("data.zip.partial").write_bytes(OTHER[:600_000])
    fetch([site.serve("/data.zip", CONTENT)], target, checksum=SHA)
    assert target.read_bytes() == CONTENT
    assert site.asked("Range") == ["bytes=600000-", None]


@pytest.mark.parametrize(
    "note", ["{", "[]", '{"address": 5}', json.dumps({"address": "x", "validator": None})]
)
def test_a_damaged_note_on_the_origin_starts_again(site, target, note):
    target.parent.mkdir()
    target.with_name("data.zip.partial").write_bytes(OTHER[:600_000])
    target.with_name("data.zip.partial.origin").write_text(note)
    fetch([site.serve("/data.zip", CONTENT)], target)
    assert target.read_bytes() == CONTENT


def test_a_partial_file_that_is_whole_already_is_taken(site, target):
    address = site.serve("/data.zip", CONTENT)
    partial = target.with_name("data.zip.partial")
    target.parent.mkdir()
    partial.write_bytes(CONTENT)
    fetch([address], target, checksum=SHA, size=len(CONTENT))
    assert site.requests == []
    target.rename(partial)
    fetch([address], target, checksum=SHA)
    assert target.read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_a_partial_file_that_is_too_long_is_thrown_away(site, target):
    target.parent.mkdir()
    target.with_name("data.zip.partial").write_bytes(CONTENT + b"more")
    fetch([site.serve("/data.zip", CONTENT)], target, checksum=SHA)
    assert target.read_bytes() == CONTENT


def test_an_answer_with_another_range_is_not_appended(site, target):
    address = site.serve("/data.zip", CONTENT, content_range="bytes 5-9/1280000", cuts=[600_000])
    fetch([address], target, checksum=SHA)
    assert target.read_bytes() == CONTENT


def test_mirrors_are_tried_in_turn(site, target):
    bad = [
        site.serve("/gone.zip", status=404),
        site.serve("/broken.zip", status=503),
        site.serve("/bad.zip", OTHER),
    ]
    fetch([*bad, site.serve("/good.zip", CONTENT)], target, checksum=SHA)
    assert target.read_bytes() == CONTENT
    assert [path for path, _ in site.requests] == ["/gone.zip", "/broken.zip", "/bad.zip", "/good.zip"]


def test_every_failure_is_reported(site, target):
    closed = "http://127.0.0.1:9/data.zip"
    addresses = [site.serve("/gone.zip", status=404), closed, site.serve("/bad.zip", OTHER)]
    with pytest.raises(DownloadError) as error:
        fetch(addresses, target, checksum=SHA)
    text = str(error.value)
    assert "data.zip could not be downloaded" in text
    assert "/gone.zip: HTTP 404" in text
    assert f"{closed}: URLError" in text
    assert "/bad.zip: its sha256 is not the published one" in text


def test_redirects_are_followed_to_the_web_alone(site, target):
    good = site.serve("/good.zip", CONTENT)
    fetch([site.serve("/moved.zip", status=302, location=good)], target, checksum=SHA)
    assert target.read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="HTTP 302"):
        fetch([site.serve("/evil.zip", status=302, location="file:///etc/passwd")], target.with_name("evil"))
    assert not target.with_name("evil").exists()


def test_only_web_addresses_are_taken(target):
    with pytest.raises(ValueError, match="not an http"):
        fetch(["file:///etc/passwd"], target)


def test_a_disk_that_is_too_small_is_reported_before_anything_is_written(site, target, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    address = site.serve("/data.zip", CONTENT)
    for checks in ({"size": len(CONTENT)}, {}):
        with pytest.raises(OSError, match=r"needs 1,280,000 more bytes in .*, where 1,000 are free") as error:
            fetch([address], target, **checks)
        assert error.value.errno == errno.ENOSPC
        assert left(target) == []


def test_a_disk_that_fills_up_leaves_nothing(site, target):
    target.parent.mkdir()
    target.with_name("data.zip.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"the disk is full: .* could not be downloaded") as error:
        fetch([site.serve("/data.zip", CONTENT)], target)
    assert error.value.errno == errno.ENOSPC
    assert list(target.parent.iterdir()) == []


def test_progress_is_shown(site, target, capsys):
    download((site.serve("/data.zip", CONTENT),), target)
    assert "data.zip: 100%" in capsys.readouterr().err


def test_small_texts(site):
    assert fetch_text(site.serve("/sum", b"abc  data.zip\n")) == "abc  data.zip\n"
    with pytest.raises(DownloadError, match="HTTP 404"):
        fetch_text(site.address + "/none")


@pytest.mark.parametrize("digest", ["", "xyz", SHA.digest, MD5.digest.upper()])
def test_a_checksum_is_validated(digest):
    with pytest.raises(ValueError, match="is no md5 digest"):
        Checksum("md5", digest)
