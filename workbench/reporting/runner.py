"""The report: notebooks executed in order, what is up to date kept, the whole put in place at once.

A report of one profile and dataset lives in `reports/<profile>-<dataset>/`. It is written into a folder next to it and
swapped in at the end, so a run that is killed leaves the report that was there; what such a run finished is used by the next
one.

Order: a notebook waits for every notebook before it, unless its metadata say `"workbench": {"after": [names]}`: then it waits
for those alone, and with `jobs` above 1 the others may run in parallel. If a notebook fails, the others still run.
"""

import asyncio
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from workbench import files, paths
from workbench.reporting import notebooks, pages, pairs
from workbench.reporting.execute import Job, Outcome
from workbench.reporting.notebooks import Notebook
from workbench.reporting.provenance import Provenance, inputs, provenance, text_digest
from workbench.reporting.records import read_records
from workbench.reporting.results import Entry, Report

CELL_TIMEOUT: Mapping[str, float] = {"quick": 600, "standard": 2 * 3600, "full": 48 * 3600}
"""The profiles, and the default time limit of a cell in each, in seconds."""


@dataclass(frozen=True)
class ReportSpec:
    """What to report.

    `only`: numbers or names of notebooks, all if empty. `parameters`: names and values as typed on a command line, for the
    notebooks that take them. `jobs`: notebooks at once. `timeout`: seconds that a cell may take, by default as `CELL_TIMEOUT`
    says for the profile. `force`: also run notebooks that are up to date.

    Raises ValueError for a value out of its range.
    """

    profile: str = "quick"
    dataset: str = "embedded-small"
    seed: int = 0
    only: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    jobs: int = 1
    timeout: float | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.profile not in CELL_TIMEOUT:
            raise ValueError(f"no profile {self.profile!r}; there are: {', '.join(CELL_TIMEOUT)}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.dataset):
            raise ValueError(f"{self.dataset!r} is not the name of a dataset; see: workbench data list")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if self.jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {self.jobs}")
        if self.timeout is not None and not self.timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, got {self.timeout}")

    @property
    def run(self) -> str:
        """The name of the report's folder."""
        return f"{self.profile}-{self.dataset}"

    @property
    def cell_timeout(self) -> float:
        """Seconds that a cell may take."""
        return CELL_TIMEOUT[self.profile] if self.timeout is None else self.timeout


@dataclass(frozen=True)
class Row:
    """A line of the closing table; `seconds` are those of the run that made what the report shows."""

    name: str
    state: Literal["ok", "failed", "up to date"]
    seconds: float
    error: str


@dataclass(frozen=True)
class Finished:
    """The result of a run: the page to open, and a row for each requested notebook."""

    index: Path
    rows: tuple[Row, ...]

    @property
    def failed(self) -> list[str]:
        """The names of the notebooks that failed."""
        return [row.name for row in self.rows if row.state == "failed"]


def run_report(spec: ReportSpec, say: Callable[[str], None] = print) -> Finished:
    """Execute the notebooks of `spec`, write the report, and say a line as each notebook starts and ends.

    Raises ValueError before anything runs, for notebooks, parameters or pairs that are not in order; BlockingIOError
    if another run is writing the same report; OSError if a file cannot be written. The previous report then stays.
    """
    every = notebooks.catalog(paths.notebooks())
    chosen = notebooks.select(every, spec.only)
    bound = notebooks.bind(chosen, spec.parameters)
    for notebook in chosen:
        if not pairs.same_cells(notebook.path.with_suffix(".py"), notebook.path):
            raise ValueError(
                f"{notebook.path} differs from its source {notebook.name}.py; take the source with: workbench pairs --write"
            )
    with files.lock(paths.reports() / spec.run):
        run = _Run(spec, every, chosen, bound, say)
        try:
            asyncio.run(run.execute())
        except ExceptionGroup as group:  # of notebooks in parallel: the first has the reason
            raise group.exceptions[0] from None
        run.publish()
    with files.lock(paths.reports() / pages.INDEX, wait=True):  # reports that end at once each list all
        index = pages.write_index(paths.reports())
    return Finished(index, tuple(run.rows[notebook.name] for notebook in chosen))


class _Run:
    """One run: the staging folder, what is known of earlier runs, and the rows so far."""

    def __init__(
        self,
        spec: ReportSpec,
        every: list[Notebook],
        chosen: list[Notebook],
        bound: Mapping[str, Mapping[str, Any]],
        say: Callable[[str], None],
    ) -> None:
        self.spec, self.chosen, self.bound, self.say = spec, chosen, bound, say
        self.order = [notebook.name for notebook in every]
        self.root = paths.root()
        self.folder = files.recover(paths.reports() / spec.run)
        self.staging = paths.reports() / f".{spec.run}.partial"
        self.provenance: Provenance = provenance(self.root)
        self.rows: dict[str, Row] = {}
        self.previous = Report.load(self.folder) or Report(spec.profile, spec.dataset)
        self.interrupted = Report.load(self.staging) or Report(spec.profile, spec.dataset)
        # What a killed notebook left in new folders is its own doing, not a change of an input.
        made = self.previous.made | self.interrupted.made
        if self.interrupted.running_from is not None:
            made |= set(inputs(self.root, spec.dataset)) - set(self.interrupted.running_from)
        self.previous.made = self.interrupted.made = made
        self.report = Report(spec.profile, spec.dataset, made=made)
        self.staging.mkdir(exist_ok=True)
        self._carry_over()

    def _carry_over(self) -> None:
        """Keep the previous report's entries of notebooks that this run does not include."""
        requested = {notebook.name for notebook in self.chosen}
        for name, entry in self.previous.entries.items():
            if name in self.order and name not in requested:
                shutil.copyfile(self.folder / f"{name}.ipynb", self.staging / f"{name}.ipynb")
                self.report.entries[name] = entry

    async def execute(self) -> None:
        """Bring every notebook up to date, as many at once as jobs allow."""
        slots = asyncio.Semaphore(self.spec.jobs)
        tasks: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            for position, notebook in enumerate(self.chosen, start=1):
                awaited = [
                    task for name, task in tasks.items() if notebook.after is None or name in notebook.after
                ]
                tasks[notebook.name] = group.create_task(self._one(notebook, position, awaited, slots))

    async def _one(
        self, notebook: Notebook, position: int, awaited: list[asyncio.Task[None]], slots: asyncio.Semaphore
    ) -> None:
        if awaited:
            await asyncio.wait(awaited)
        async with slots:
            label = (
                f"[{position}/{len(self.chosen)}] {notebook.name:<{max(len(n.name) for n in self.chosen)}}"
            )
            key = self._key(notebook)
            kept = None if self.spec.force else self._kept(notebook.name, key)
            if kept is not None:
                self.report.entries[notebook.name] = kept
                self.rows[notebook.name] = Row(notebook.name, "up to date", kept.seconds, "")
                self.say(f"{label}  up to date")
                return
            self.say(f"{label}  running")
            entry = await self._execute(notebook, key)
            self.report.entries[notebook.name] = entry
            self.report.save(self.staging)
            self.rows[notebook.name] = Row(notebook.name, entry.status, entry.seconds, entry.error)
            self.say(
                f"{label}  {entry.status}  {entry.seconds:.1f} s"
                + (f"  {entry.error}" if entry.error else "")
            )

    def _kept(self, name: str, key: str) -> Entry | None:
        """The entry of an earlier run, with its file in the staging folder, if it is up to date."""
        now = inputs(self.root, self.spec.dataset)
        for report, folder in ((self.interrupted, self.staging), (self.previous, self.folder)):
            executed = folder / f"{name}.ipynb"
            if report.up_to_date(name, key, now) and executed.is_file():
                if folder != self.staging:
                    shutil.copyfile(executed, self.staging / executed.name)
                return report.entries[name]
        return None

    def _parameters(self, notebook: Notebook) -> dict[str, Any]:
        common = {"dataset": self.spec.dataset, "profile": self.spec.profile, "seed": self.spec.seed}
        return {**common, **self.bound[notebook.name]}

    def _key(self, notebook: Notebook) -> str:
        parts = (notebook.cells, self._parameters(notebook), self.provenance.versions)
        return text_digest(self.provenance.code, *(json.dumps(part, sort_keys=True) for part in parts))

    async def _execute(self, notebook: Notebook, key: str) -> Entry:
        before = inputs(self.root, self.spec.dataset)
        self.report.running_from = sorted(before)
        self.report.save(self.staging)
        work = self.staging / f".{notebook.name}"
        files.remove(work)
        work.mkdir()
        parameters = self._parameters(notebook)
        job = Job(
            source=str(notebook.path),
            output=str(self.staging / f"{notebook.name}.ipynb"),
            records=str(work / "records.jsonl"),
            outcome=str(work / "outcome.json"),
            folder=str(paths.notebooks()),
            root=str(self.root),
            parameters=parameters,
            timeout=self.spec.cell_timeout,
            threads=self._threads(),
        )
        started, clock = datetime.now(UTC), time.monotonic()
        outcome = await _in_own_process(job, work)
        if not Path(job.output).is_file():
            shutil.copyfile(notebook.path, job.output)
        after = inputs(self.root, self.spec.dataset)
        self.report.made |= set(after) - set(before)
        entry = Entry(
            name=notebook.name,
            title=notebook.title,
            status="failed" if outcome.error else "ok",
            seconds=round(time.monotonic() - clock, 2),
            started=started.isoformat(timespec="seconds"),
            error=outcome.error,
            parameters={**notebook.parameters, **parameters},
            key=key,
            inputs=after,
            records=tuple(read_records(Path(job.records))),
            provenance=self.provenance.as_json(),
        )
        files.remove(work)
        return entry

    def _threads(self) -> int | None:
        """Threads of arithmetic for each kernel, unless the user sets them; None leaves it to the libraries.

        One for the quick profile: on its small arrays threads wait for each other longer than they work, and on a busy
        machine much longer. Otherwise kernels that run at once share the cores.
        """
        if "OMP_NUM_THREADS" in os.environ:
            return None
        if self.spec.profile == "quick":
            return 1
        return None if self.spec.jobs == 1 else max(1, self.provenance.machine.cores // self.spec.jobs)

    def publish(self) -> None:
        """Write the pages and replace the previous report with the new one, if anything is new."""
        self.report.running_from = None
        self.report.pages = pages.digest()
        if self.report == self.previous:
            files.remove(self.staging)
            return
        wanted = pages.write_pages(self.report, self.staging)
        self.report.save(self.staging)
        wanted |= {"results.json", *(f"{name}.ipynb" for name in self.report.entries)}
        for path in self.staging.iterdir():
            if path.name not in wanted:
                files.remove(path)
        files.swap(self.staging, self.folder)


async def _in_own_process(job: Job, work: Path) -> Outcome:
    """Execute a notebook in a process that ends with this one."""
    job.save(work / "job.json")
    with (work / "log.txt").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "workbench.reporting.execute",
            str(work / "job.json"),
            str(os.getpid()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
            raise
    if status == 0:
        return Outcome(**json.loads(Path(job.outcome).read_text(encoding="utf-8")))
    return Outcome(f"the process that ran it ended with status {status}")
