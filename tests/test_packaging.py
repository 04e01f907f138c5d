"""pyproject.toml, constraints.txt and environment.yml agree; the Makefile and the hooks do what they say."""

import fnmatch
import importlib.metadata
import io
import os
import re
import subprocess
import tarfile
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import workbench

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CUDA = ("nvidia-", "cuda-")
"""What torch's CUDA build brings along in the versions that it was built for: those are for torch to pin."""

ON_PYTHON_312 = {"aiohappyeyeballs", "aiosignal", "frozenlist", "multidict", "propcache", "yarl"}
"""Of aiohttp, which papermill requires on that Python alone."""

HOST = re.compile(
    r"[a-z]+://|@|--(extra-)?index-url|--find-links|\.(com|org|net|io|dev|local)\b", re.IGNORECASE
)


def pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = {
        canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines)
    }
    assert len(found) == len(lines), "a package is pinned twice"
    return found


def environment() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def wanted(name: str, extras: tuple[str, ...] = ()) -> list[Requirement]:
    """The requirements of an installed package here, with some of its extras."""
    asked = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
    return [
        r for r in asked if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in (*extras, ""))
    ]


def test_every_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    for text in [*PROJECT["dependencies"], *EXTRAS["cpu"], *EXTRAS["test"]]:
        requirement = Requirement(text)
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, text


def test_everything_that_comes_along_is_pinned_to_what_is_installed() -> None:
    pinned, seen = pins(), set()
    queue = [(PROJECT["name"], ("cpu", "test"))]
    while queue:
        package, extras = queue.pop()
        for requirement in wanted(package, extras):
            name = canonicalize_name(requirement.name)
            if name.startswith(CUDA):
                continue
            try:
                installed = Version(importlib.metadata.version(name))
            except importlib.metadata.PackageNotFoundError:
                assert name in {canonicalize_name(Requirement(text).name) for text in EXTRAS["cpu"]}, name
                continue
            assert pinned.get(name) == Version(installed.public), name
            step = (name, tuple(sorted(requirement.extras)))
            if step not in seen:
                seen.add(step)
                queue.append(step)
    assert len(seen) > 100


def test_nothing_is_pinned_that_nobody_asks_for_on_a_supported_python() -> None:
    reachable = ON_PYTHON_312 | {
        canonicalize_name(Requirement(text).name)
        for text in [*PROJECT["dependencies"], *chain.from_iterable(EXTRAS.values())]
    }
    for distribution in importlib.metadata.distributions():
        reachable |= {canonicalize_name(Requirement(text).name) for text in distribution.requires or ()}
    assert set(pins()) <= reachable


def test_cpu_and_gpu_variants_are_of_one_version() -> None:
    versions = {name: [Requirement(text) for text in EXTRAS[name]] for name in ("cpu", "gpu")}
    assert {r.name for r in versions["cpu"]} == {"faiss-cpu", "fbgemm-gpu-cpu"}
    assert {r.name for r in versions["gpu"]} == {"faiss-gpu", "fbgemm-gpu"}
    specifiers = {r.name: r.specifier for rs in versions.values() for r in rs}
    assert specifiers["fbgemm-gpu"] == specifiers["fbgemm-gpu-cpu"]
    assert "torch==2.13.0" in PROJECT["dependencies"]


def test_conda_gets_the_same_environment() -> None:
    dependencies = environment()["dependencies"]
    (python,) = [text for text in dependencies if isinstance(text, str) and text.startswith("python")]
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    assert pip == ["-c constraints.txt", "-e .[cpu]"]
    assert "fbgemm-gpu and faiss-gpu" in (ROOT / "environment.yml").read_text()


@pytest.mark.parametrize(
    "name", ["constraints.txt", "environment.yml", "pyproject.toml", "Makefile", ".ci/run"]
)
def test_no_file_names_a_host_to_install_from(name: str) -> None:
    lines = [
        line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith(("#", "@"))
    ]
    assert [line for line in lines if HOST.search(line.replace("$@", ""))] == []


def test_versions_agree() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert workbench.__version__ == PROJECT["version"] == citation["version"]
    assert PROJECT["license"] == citation["license"] == "Apache-2.0"
    assert re.search(
        rf"^## (Unreleased|\[?{re.escape(workbench.__version__)})",
        (ROOT / "CHANGELOG.md").read_text(),
        re.MULTILINE,
    )


def test_every_file_that_the_package_needs_is_packaged() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "workbench"
    ]
    package = ROOT / "workbench"
    files = [
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"}
    ]
    assert all(any(name.endswith(f"{part}/LICENSE") for name in files) for part in ("katex", "reveal"))
    names = [pattern.replace("**/", "*") for pattern in patterns]
    assert [name for name in files if not any(fnmatch.fnmatch(name, pattern) for pattern in names)] == []


def make(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("report", "workbench report"),
        ("lab", "workbench lab"),
        ("test", "python -m pytest"),
        ("lint", "mypy"),
    ],
)
def test_each_target_ends_with_its_command(target: str, command: str, tmp_path: Path) -> None:
    done = make("-n", target, f"VENV={tmp_path}/.venv")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith(str(tmp_path)) and command in line for line in lines[-4:])
    install = next(line for line in lines if "pip install" in line)
    assert "-c constraints.txt -e '.[cpu" in install


def test_a_second_call_installs_nothing(tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    for name in ("bin/python", ".installed-cpu", ".installed-cpu-test"):
        (venv / name).touch()
    for target in ("report", "test"):
        assert "pip install" not in make("-n", target, f"VENV={venv}").stdout


def test_a_python_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    done = make("report", f"VENV={tmp_path}/.venv", "PYTHON=false missing-python")
    assert done.returncode != 0
    assert "error: needs Python 3.11 or 3.12, which is none of: false missing-python" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_clean_leaves_data_and_checkpoints() -> None:
    commands = make("-n", "clean").stdout
    assert "rm -rf" in commands
    assert "data" not in commands
    assert "ckpts" not in commands
    assert "-not -name README.md -not -name tables" in commands


@pytest.mark.parametrize("script", [".ci/run", ".ci/refuse-large-files"])
def test_scripts_can_be_run(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text()
    subprocess.run(["bash", "-n", path], check=True)


def test_an_archive_can_travel() -> None:
    """To a machine with a GPU, for one: less than 40 MB, with the models that notebooks open."""
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("not a git checkout, or not ours")
    command = ["git", "archive", "--worktree-attributes", "--format=tar.gz", "HEAD"]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    assert len(archive) < 40e6
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        held = set(tar.getnames())
    models = [
        "cpu-sasrec-dot",
        "cpu-sasrec-mol",
        "cpu-hstu-dot",
        "cpu-hstu-mol",
        "fair-hstu-mol-temperature-0.1",
    ]
    assert {f"ckpts/ml-1m-{name}/model.safetensors" for name in models} <= held
    assert not [name for name in held if "-seed" in name]


def test_hooks_are_local_and_run_what_ci_runs() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    entries = " ".join(hook["entry"] for hook in repository["hooks"])
    for command in ("ruff check", "ruff format", "mypy", "workbench pairs", ".ci/refuse-large-files"):
        assert command in entries


@pytest.mark.parametrize(
    ("name", "size", "status"),
    [
        ("a.bin", 1 << 20, 0),
        ("a.bin", (1 << 20) + 1, 1),
        ("ckpts/a", 1 << 24, 0),
        ("ckpts/a", (1 << 24) + 1, 1),
    ],
)
def test_large_files_are_refused(tmp_path: Path, name: str, size: int, status: int) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    with (tmp_path / name).open("wb") as file:
        file.truncate(size)
    done = subprocess.run(
        [ROOT / ".ci/refuse-large-files", name, "missing"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status
    assert (name in done.stderr) == bool(status)
