"""The digest of code: another for other code, the same for other words."""

import shutil
import subprocess

import pytest

from workbench import source


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two rooms in a git checkout."""
    package = tmp_path / "package"
    (package / "room").mkdir(parents=True)
    (package / "room" / "a.py").write_text('"""One."""\n\nx = 1\n')
    (package / "room" / "a.cpp").write_text("int x;\n")
    (package / "other.py").write_text("y = 1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True)
    monkeypatch.setattr(source, "PACKAGE", package)
    for cached in (source.digest, source.words):
        cached.cache_clear()
    yield package
    for cached in (source.digest, source.words):
        cached.cache_clear()


def again(*rooms):
    source.digest.cache_clear()
    source.words.cache_clear()
    return source.digest(*rooms)


def test_other_code_has_another_digest_and_other_words_have_the_same(package):
    first = source.digest("room")
    (package / "room" / "a.py").write_text('"""Two\n\nlines."""\n\n\nx = 1\n')
    (package / "other.py").write_text("y = 2\n")
    assert again("room") == first and again("room", "other") != first
    for name, text in (("a.py", "x = 2\n"), ("a.cpp", "long x;\n"), ("b.py", "")):
        (package / "room" / name).write_text(text)
        assert again("room") != first
        first = again("room")


def test_words_name_the_commit_and_whether_the_package_differs_from_it(package):
    stamp = source.words("room")
    commit = source.commit(package.parent)[0]
    assert commit is not None and stamp == f"{commit[:12]}, code {source.digest('room')}"
    assert source.is_this(stamp, "room") and not source.is_this("code of an earlier version", "room")
    (package.parent / "notes.txt").write_text("of the user's")
    source.words.cache_clear()
    assert source.words("room") == stamp
    (package / "other.py").write_text("y = 2\n")
    source.words.cache_clear()
    assert source.words("room") == stamp.replace(",", " with local changes,") and source.is_this(
        stamp, "room"
    )


def test_a_folder_in_somebody_elses_checkout_has_no_commit(package, monkeypatch):
    inner = package.parent / "site-packages" / "package"
    shutil.copytree(package, inner)
    assert source.commit(inner.parent) == (None, None)
    monkeypatch.setattr(source, "PACKAGE", inner)
    source.words.cache_clear()
    assert source.words("room") == f"code {source.digest('room')}"


def test_every_room_of_this_package_has_a_digest():
    from workbench.bench.run import ROOMS as BENCH
    from workbench.models.measurements import ROOMS as MODELS

    for room in (*MODELS, *BENCH):
        assert source.digest(room) != source.digest()
