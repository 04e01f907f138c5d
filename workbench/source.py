"""Which code computed a result: a digest of the source of rooms, and its commit. Imports nothing of ours."""

import ast
import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
_SUFFIXES = (".py", ".cpp", ".h")


@cache
def digest(*rooms: str) -> str:
    """A digest of the source of rooms of this package, their C++ included, in eight hexadecimal digits.

    Docstrings and blank lines do not count: they compute nothing.
    """
    whole = hashlib.sha256()
    for room in sorted(rooms):
        place = PACKAGE / room
        files = sorted(place.rglob("*")) if place.is_dir() else [place.with_suffix(".py")]
        for path in (path for path in files if path.suffix in _SUFFIXES):
            text = path.read_text(encoding="utf-8")
            code = without_docstrings(text) if path.suffix == ".py" else text
            whole.update(f"{path.relative_to(PACKAGE).as_posix()}:{len(code)}:{code}".encode())
    return whole.hexdigest()[:8]


def without_docstrings(text: str) -> str:
    """The lines of a Python source that are neither blank nor a string which stands alone.

    >>> without_docstrings('"One."\\n\\nx = "two"\\n')
    'x = "two"'
    """
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
                lines[first - 1 : last] = [""] * (last - first + 1)
    return "\n".join(line for line in lines if line.strip())


@cache
def words(*rooms: str) -> str:
    """The code of some rooms, in words: the commit of this checkout, if it is one, and the digest."""
    number, changed = commit(PACKAGE.parent, PACKAGE)
    known = f"{number[:12]}{' with local changes' if changed else ''}, " if number else ""
    return f"{known}code {digest(*rooms)}"


def is_this(stamp: str, *rooms: str) -> bool:
    """Whether `stamp`, some `words` of these rooms, are those of the code that runs now."""
    return stamp.endswith(f"code {digest(*rooms)}")


def commit(folder: Path, part: Path | None = None) -> tuple[str | None, bool | None]:
    """The commit of the git checkout that `folder` is the root of, and whether files (in `part`) differ from it.

    What is made and not read does not count: files in `reports/`, and new ones in `ckpts/`, whose cards have a commit of their
    own. None and None if it is not the root of a checkout, or git is not installed.
    """

    def git(*arguments: str) -> str | None:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    if shutil.which("git") is None or git("rev-parse", "--show-prefix") != "":
        return None, None
    number = git("rev-parse", "HEAD")
    within = ("--", str(part or folder), ":(exclude)reports")
    changes = git("status", "--porcelain", "--untracked-files=no", *within)
    new = git("ls-files", "--others", "--exclude-standard", *within, ":(exclude)ckpts")
    unknown = number is None or changes is None or new is None
    return number, None if unknown else bool(changes or new)
