"""What an installed package brings along for a workbench of one's own: notebooks, quick checkpoints, measured tables."""

import shutil
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from workbench import paths
from workbench.files import Kind, new_folder

DISTRIBUTION = "retrieval-workbench"
SHARE = "share/retrieval-workbench"
"""Where a wheel puts them, under the prefix of the environment."""

PARTS = (
    "notebooks/*.py",
    "notebooks/*.ipynb",
    "notebooks/jupytext.toml",
    "ckpts/embedded-small-quick-hstu-dot/*",
    "ckpts/embedded-small-quick-hstu-maxsim/*",
    "ckpts/embedded-small-quick-hstu-mol/*",
    "ckpts/embedded-small-quick-sasrec-dot/*",
    "ckpts/embedded-small-quick-sasrec-mol/*",
    "reports/tables/*.csv",
)
"""What is copied: also the `data-files` of pyproject.toml."""

FOLDER = Kind(
    "folder of the workbench",
    ("notebooks", "ckpts", "reports", "data"),
    lambda folder: {} if (folder / "notebooks").is_dir() else None,
)


def source() -> Path:
    """The folder that holds the parts: the checkout, or where the wheel was unpacked.

    Raises FileNotFoundError if this is neither.
    """
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "notebooks").is_dir():
        return checkout
    try:
        installed = files(DISTRIBUTION) or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.as_posix().endswith(f"{SHARE}/notebooks/jupytext.toml"):
            return Path(str(file.locate())).resolve().parents[1]
    raise FileNotFoundError(
        "the notebooks are not part of this installation: install the wheel again, or work in a checkout"
    )


def unpack(folder: Path) -> bool:
    """Copy the parts into `folder` unless it has notebooks already; returns whether it did.

    Raises ValueError if the folder holds anything else, OSError if it cannot be written.
    """
    if (folder / "notebooks").is_dir():
        return False
    origin = source()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with new_folder(folder, FOLDER, {}) as temporary:
        for pattern in PARTS:
            for path in origin.glob(pattern):
                copy = temporary / path.relative_to(origin)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
    return True


def check_notebooks() -> None:
    """Raise ValueError, with what to do, if there are no notebooks where they are expected."""
    if not paths.notebooks().is_dir():
        raise ValueError(
            f"there are no notebooks in {paths.root()}: name a folder with --folder, and they are copied there;"
            " afterwards work in that folder, or name it again"
        )
