"""`results.json`: what each notebook of a report gave, and what it came from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from workbench import files
from workbench.loading import from_json, read_json
from workbench.reporting.records import Record

FORMAT = 1
FILE = "results.json"


@dataclass(frozen=True)
class Entry:
    """One executed notebook.

    `seconds` it took; `started` in ISO 8601, UTC; `error` in one line, empty if it succeeded; `key` identifies its source,
    parameters, code and versions; `inputs` for the folders that it could read, as they were when it ended.
    """

    name: str
    title: str
    status: Literal["ok", "failed"]
    seconds: float
    started: str
    error: str
    parameters: Mapping[str, Any]
    key: str
    inputs: Mapping[str, str]
    records: tuple[Record, ...]
    provenance: Mapping[str, Any]

    @property
    def headlines(self) -> list[Record]:
        """The recorded numbers, strings and booleans."""
        return [record for record in self.records if isinstance(record.value, bool | int | float | str)]


@dataclass
class Report:
    """The notebooks of one profile and dataset.

    `made` are the folders that its notebooks wrote; `pages` identifies the code that made its pages; `running_from` are the
    folders there were when the last notebook started, None in a report that is whole.
    """

    profile: str
    dataset: str
    entries: dict[str, Entry] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    pages: str = ""
    running_from: list[str] | None = None

    def save(self, folder: Path) -> None:
        """Write `results.json` into `folder`: whole or not at all."""
        content = {
            "format": FORMAT,
            "profile": self.profile,
            "dataset": self.dataset,
            "notebooks": {name: asdict(self.entries[name]) for name in sorted(self.entries)},
            "made": sorted(self.made),
            "pages": self.pages,
            "running_from": self.running_from,
        }
        files.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The report in `folder`; None if there is none, or one of another format."""
        try:
            content = read_json(folder / FILE, "")
            if content.pop("format", None) != FORMAT:
                return None
            return from_json(cls, content | {"entries": content.pop("notebooks", None)})
        except (OSError, ValueError):
            return None

    def up_to_date(self, name: str, key: str, inputs: Mapping[str, str]) -> bool:
        """Whether running the notebook again would give the same: it succeeded, and nothing that it depends on changed.

        Every folder that it could read must be as it was when it ended. A folder that is new since then counts as a change,
        unless a notebook of this report made it: notebooks hand on files in their order, so what a later one writes is no
        input of an earlier one.
        """
        entry = self.entries.get(name)
        return (
            entry is not None
            and entry.status == "ok"
            and entry.key == key
            and all(inputs.get(folder) == digest for folder, digest in entry.inputs.items())
            and all(folder in entry.inputs or folder in self.made for folder in inputs)
        )
