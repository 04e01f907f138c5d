"""What the built wheel is outside a checkout: the library, the notebooks in a folder of the user's, a report, JupyterLab."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import tomllib
import venv
from pathlib import Path

import pytest

from workbench.reporting import shipped

ROOT = Path(__file__).resolve().parent.parent


def test_the_wheel_takes_along_what_is_copied() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    given = {(folder, pattern) for folder, patterns in tool["data-files"].items() for pattern in patterns}
    assert given == {
        (f"{shipped.SHARE}/{Path(pattern).parent.as_posix()}", pattern) for pattern in shipped.PARTS
    }
    assert all(list(ROOT.glob(pattern)) for pattern in shipped.PARTS)


def test_a_folder_gets_the_notebooks_once_and_nothing_of_the_users_is_touched(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert shipped.unpack(folder)
    (folder / "notebooks" / "00_tour.py").write_text("# changed")
    assert not shipped.unpack(folder)
    assert (folder / "notebooks" / "00_tour.py").read_text() == "# changed"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letters.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"letters\.txt, not written by this program"):
        shipped.unpack(tmp_path / "other")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the built wheel, over the packages that are installed here: its folder of programs."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for part in ("workbench", "pyproject.toml", "README.md", "LICENSE", *shipped.PARTS):
        for path in ROOT.glob(part):
            copy = source / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, copy, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(path, copy)
    pip = [sys.executable, "-m", "pip"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder / "built", source], check=True
    )
    (wheel,) = (folder / "built").iterdir()
    venv.create(folder / "env", with_pip=False)
    found = sorted((folder / "env").glob("lib/python*/site-packages"))[0]
    (found / "existing.pth").write_text(sysconfig.get_path("purelib") + "\n")
    programs = folder / "env" / "bin"
    subprocess.run(
        [*pip, "--python", programs / "python", "install", "-q", "--no-deps", "--no-index", wheel], check=True
    )
    return programs


@pytest.fixture
def outside(tmp_path: Path, installed: Path) -> dict[str, str]:
    """The environment of a user there; the data of Jupyter's packages are those that are installed here."""
    share = Path(sys.prefix) / "share" / "jupyter"
    left = {k: v for k, v in os.environ.items() if not k.startswith(("WORKBENCH_ROOT", "PYTHONPATH"))}
    return {
        **left,
        "PATH": f"{installed}{os.pathsep}{os.environ['PATH']}",
        "JUPYTER_PATH": str(share),
        "JUPYTERLAB_DIR": str(share / "lab"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }


def run(command: list[object], folder: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(word) for word in command], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_wheel_recommends_and_reports_outside_a_checkout(installed, outside, tmp_path) -> None:
    refused = run([installed / "workbench", "report"], tmp_path, outside)
    assert refused.returncode and "name a folder with --folder" in refused.stderr
    done = run([installed / "workbench", "report", "--folder", "mine", "--only", "01"], tmp_path, outside)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "mine" / "reports" / "index.html").is_file()
    assert (tmp_path / "mine" / "reports" / "quick-embedded-small" / "01_preprocess.html").is_file()
    code = (
        "import workbench as wb; assert '/env/' in wb.__file__;"
        " print(wb.load('embedded-small-quick-hstu-mol').recommend(user=1, k=3).to_string())"
    )
    listed = run([installed / "python", "-c", code], tmp_path / "mine", outside)
    assert listed.returncode == 0, listed.stderr
    assert len(listed.stdout.splitlines()) == 4


@pytest.mark.slow
def test_a_wheel_opens_jupyterlab_on_a_notebook(installed, outside, tmp_path) -> None:
    command = [installed / "workbench", "lab", "--folder", "mine", "--no-browser", "--port", "0"]
    server = subprocess.Popen(
        [str(word) for word in command], cwd=tmp_path, env=outside, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert server.stdout is not None
    giving_up = threading.Timer(120, os.killpg, (server.pid, signal.SIGKILL))  # which ends its output
    giving_up.start()
    try:
        lines = []
        for line in server.stdout:
            lines.append(line)
            if re.search(r"http://localhost:\d+/doc/tree/notebooks/00_tour\.ipynb", line):
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        giving_up.cancel()
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        server.stdout.close()
