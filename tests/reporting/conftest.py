"""Small notebooks to make reports of, in a folder of their own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from workbench.reporting import pairs

PARAMETERS = 'dataset = "embedded-small"\nprofile = "quick"\nseed = 0\n'
HOSTILE = "<script>window.hacked = 1</script><img src='data:,' onerror='window.hacked = 2'>"


@dataclass(frozen=True)
class Workshop:
    """A workbench folder with fixture notebooks."""

    root: Path

    @property
    def notebooks(self) -> Path:
        return self.root / "notebooks"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    def add(
        self, name: str, *cells: str, parameters: str = PARAMETERS, after: list[str] | None = None
    ) -> Path:
        """Write a pair: a heading, the parameters, then the cells; text cells start with #."""
        header = (
            []
            if after is None
            else ["# ---", "# jupyter:", "#   workbench:", f"#     after: {after}", "# ---", ""]
        )
        parts = [
            *header,
            "# %% [markdown]",
            f"# # Notebook {name}",
            "",
            '# %% tags=["parameters"]',
            parameters,
        ]
        for cell in cells:
            parts += ["# %% [markdown]" if cell.startswith("# ") else "# %%", cell, ""]
        self.notebooks.mkdir(parents=True, exist_ok=True)
        source = self.notebooks / f"{name}.py"
        source.write_text("\n".join(parts), encoding="utf-8")
        return pairs.write(source)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.setenv("WORKBENCH_ROOT", str(tmp_path))
    return Workshop(tmp_path)


@pytest.fixture(scope="module")
def shared_workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """A workshop that the tests of a module share, for what takes long."""
    root = tmp_path_factory.mktemp("workshop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_ROOT", str(root))
        yield Workshop(root)
